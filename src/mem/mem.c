/* SPDX-License-Identifier: MIT */
/* Guest memory. Where the host makes huge pages of files in memory, each region is one memfd,
 * mapped shared; its size is sealed, so a peer that holds the descriptor cannot shrink it under us.
 * Most hosts make them of anonymous memory only, and then it is that: a guest that faults in 2 MiB
 * at a time starts sooner and runs faster (host.c looks; reserved huge pages are there too). A
 * restored machine's regions are private mappings of the saved memory instead, so that many
 * machines share what none of them has written. A guard page after each mapping turns an overrun
 * into a fault instead of corruption.
 *
 * Invariants
 *  1. region[] is sorted by base, regions do not overlap and base + size does not wrap.
 *  2. A range is accepted by comparing its length with what is left, never by adding to an address.
 */
#include "mem/mem.h"
#include "mem/host.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_SIZE (2 * MiB)

void mem_init(struct mem *m)
{
    memset(m, 0, sizeof *m);
    m->backing = -1;
}

/* The region, then one guard page. Guest address, host address and file offset agree below 2 MiB,
 * so that huge pages fit in all three. */
static uint8_t *map_region(const struct mem_region *r, int flags, int fd, uint64_t file_offset)
{
    size_t span = r->fd_offset + r->size + HUGE_SIZE + PAGE_SIZE;
    uint8_t *area = mmap(NULL, span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uint8_t *host, *guard_end;

    if (area == MAP_FAILED)
        return NULL;
    host = (uint8_t *)align_up((uintptr_t)area, HUGE_SIZE) + r->fd_offset;
    guard_end = host + r->size + PAGE_SIZE;
    if (mmap(host, r->size, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE | MAP_FIXED, fd,
             (off_t)file_offset) == MAP_FAILED) {
        munmap(area, span);
        return NULL;
    }
    if (host > area)
        munmap(area, (size_t)(host - area));
    if (area + span > guard_end)
        munmap(guard_end, (size_t)(area + span - guard_end));
    return host;
}

static bool region_open_anonymous(struct mem_region *r, struct err *err)
{
    r->fd = -1;
    r->anonymous = true;
    r->host = map_region(r, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (r->host == NULL)
        return err_set(err, errno,
                       "cannot map %llu MiB of guest memory '%s': %s; use less --memory",
                       (unsigned long long)(r->size / MiB), r->name, strerror(errno));
    (void)madvise(r->host, r->size, MADV_HUGEPAGE);
    (void)madvise(r->host, r->size, MADV_DONTDUMP);
    return true;
}

/* Whole huge pages from the one that holds the base to the one that holds the end. */
static size_t huge_span(const struct mem_region *r)
{
    return align_up(r->fd_offset + r->size, HUGE_SIZE);
}

/* Mapped without MAP_NORESERVE: a page that is not there later would be a SIGBUS. */
static uint8_t *map_huge(const struct mem_region *r)
{
    size_t len = huge_span(r), span = len + HUGE_SIZE + PAGE_SIZE;
    uint8_t *area = mmap(NULL, span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uint8_t *start, *end;

    if (area == MAP_FAILED)
        return NULL;
    start = (uint8_t *)align_up((uintptr_t)area, HUGE_SIZE);
    end = start + len + PAGE_SIZE;
    if (mmap(start, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, r->fd, 0) == MAP_FAILED) {
        munmap(area, span);
        return NULL;
    }
    if (start > area)
        munmap(area, (size_t)(start - area));
    if (area + span > end)
        munmap(end, (size_t)(area + span - end));
    return start + r->fd_offset;
}

static bool region_open_huge(struct mem_region *r, struct err *err)
{
    r->huge = true;
    r->fd = memfd_create(r->name, MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);
    if (r->fd < 0)
        return err_set(err, errno, "cannot create guest memory of huge pages: %s", strerror(errno));
    if (ftruncate(r->fd, (off_t)huge_span(r)) == 0)
        r->host = map_huge(r);
    if (r->host != NULL) {
        (void)madvise(r->host - r->fd_offset, huge_span(r), MADV_DONTDUMP);
        return true;
    }
    err_set(err, errno, "cannot map %llu MiB of huge pages for '%s': %s",
            (unsigned long long)(r->size / MiB), r->name, strerror(errno));
    close(r->fd);
    return false;
}

static bool region_open_file(struct mem_region *r, struct err *err)
{
    r->fd = memfd_create(r->name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (r->fd < 0)
        return err_set(err, errno, "cannot create guest memory '%s': %s", r->name, strerror(errno));
    if (ftruncate(r->fd, (off_t)(r->fd_offset + r->size)) != 0) {
        err_set(err, errno, "cannot make %llu MiB of guest memory '%s': %s; use less --memory",
                (unsigned long long)(r->size / MiB), r->name, strerror(errno));
        goto close_fd;
    }
    (void)fcntl(r->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    r->host = map_region(r, MAP_SHARED, r->fd, r->fd_offset);
    if (r->host == NULL) {
        err_set(err, errno, "cannot map %llu MiB of guest memory '%s': %s; use less --memory",
                (unsigned long long)(r->size / MiB), r->name, strerror(errno));
        goto close_fd;
    }
    (void)madvise(r->host, r->size, MADV_HUGEPAGE); /* a hint: not every kernel has it */
    (void)madvise(r->host, r->size, MADV_DONTDUMP);
    return true;
close_fd:
    close(r->fd);
    return false;
}

static bool region_open(const struct mem *m, struct mem_region *r, struct err *err)
{
    if (m->huge && r->size >= HUGE_SIZE)
        return region_open_huge(r, err);
    return host_huge_anonymous() && !m->files ? region_open_anonymous(r, err)
                                              : region_open_file(r, err);
}

static bool region_open_saved(struct mem_region *r, int fd, uint64_t file_offset, struct err *err)
{
    r->fd = -1;
    r->host = map_region(r, MAP_PRIVATE, fd, file_offset);
    if (r->host == NULL)
        return err_set(err, errno, "cannot map %llu MiB of saved memory '%s': %s",
                       (unsigned long long)(r->size / MiB), r->name, strerror(errno));
    r->dropped = calloc((r->size / PAGE_SIZE + 63) / 64, sizeof *r->dropped);
    if (r->dropped == NULL) {
        munmap(r->host, r->size + PAGE_SIZE);
        return err_set(err, ENOMEM, "no memory for the map of '%s'", r->name);
    }
    (void)madvise(r->host, r->size, MADV_DONTDUMP);
    return true;
}

bool mem_use_huge(struct mem *m, uint64_t bytes, struct err *err)
{
    uint64_t need = align_up(bytes, HUGE_SIZE) / HUGE_SIZE, have = host_huge_free();

    m->huge = true;
    return have >= need ||
           err_set(
               err, ENOMEM,
               "needs %llu huge pages of 2 MiB, this host has %llu free; reserve them, as root: "
               "sysctl vm.nr_hugepages=%llu",
               (unsigned long long)need, (unsigned long long)have,
               (unsigned long long)(host_huge_total() + need - have));
}

void mem_use_files(struct mem *m)
{
    m->files = true;
}

void mem_back(struct mem *m, int fd)
{
    m->backing = fd;
}

uint64_t mem_file_offset(const struct mem *m, unsigned i)
{
    uint64_t end = 0;

    for (unsigned k = 0; k < i; k++)
        end = align_up(end, HUGE_SIZE) + m->region[k].fd_offset + m->region[k].size;
    return i < m->count ? align_up(end, HUGE_SIZE) + m->region[i].fd_offset : end;
}

bool mem_overlay(struct mem_region *r, uint64_t offset, uint64_t len, int fd, uint64_t file_offset,
                 struct err *err)
{
    assert(r->fd < 0 && offset <= r->size && len <= r->size - offset);
    if (mmap(r->host + offset, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED,
             fd, (off_t)file_offset) == MAP_FAILED)
        return err_set(err, errno, "cannot map saved memory '%s': %s", r->name, strerror(errno));
    return true;
}

void mem_discard(struct mem_region *r, uint64_t offset, uint64_t len)
{
    assert(offset <= r->size && len <= r->size - offset);
    if (r->fd >= 0)
        (void)madvise(r->host + offset, len, MADV_REMOVE);
    else if (r->anonymous)
        (void)madvise(r->host + offset, len, MADV_DONTNEED);
    else { /* dropping a private page would bring the file's back */
        (void)mmap(r->host + offset, len, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        for (uint64_t p = offset / PAGE_SIZE; p < (offset + len + PAGE_SIZE - 1) / PAGE_SIZE; p++)
            __atomic_fetch_or(&r->dropped[p / 64], BIT(p % 64), __ATOMIC_RELAXED);
    }
}

bool mem_add(struct mem *m, const char *name, gpa base, uint64_t size, bool readonly,
             struct err *err)
{
    struct mem_region r = {.name = name,
                           .base = base,
                           .size = size,
                           .readonly = readonly,
                           .fd_offset = base % HUGE_SIZE};
    unsigned at = 0;

    if (m->count == MEM_REGIONS_MAX)
        return err_set(err, ENOSPC, "no room for memory region '%s': %d exist", name,
                       MEM_REGIONS_MAX);
    if (size == 0 || (size | base) & ~PAGE_MASK || base > UINT64_MAX - size ||
        size > INT64_MAX - 2 * HUGE_SIZE - PAGE_SIZE)
        return err_set(err, EINVAL,
                       "memory region '%s' of 0x%llx bytes at 0x%llx is not whole pages", name,
                       (unsigned long long)size, (unsigned long long)base);
    while (at < m->count && m->region[at].base < base)
        at++;
    if ((at > 0 && base - m->region[at - 1].base < m->region[at - 1].size) ||
        (at < m->count && m->region[at].base - base < size))
        return err_set(err, EEXIST, "memory region '%s' at 0x%llx overlaps another", name,
                       (unsigned long long)base);
    if (m->backing >= 0 && at != m->count)
        return err_set(err, EINVAL, "saved memory '%s' comes before what is there", name);
    if (m->backing < 0
            ? !region_open(m, &r, err)
            : !region_open_saved(&r, m->backing,
                                 align_up(mem_file_offset(m, at), HUGE_SIZE) + r.fd_offset, err))
        return false;
    memmove(&m->region[at + 1], &m->region[at], (m->count - at) * sizeof r);
    m->region[at] = r;
    m->count++;
    return true;
}

void mem_close(struct mem *m)
{
    mem_log_stop(m);
    for (unsigned i = 0; i < m->count; i++) {
        struct mem_region *r = &m->region[i];

        if (r->huge)
            munmap(r->host - r->fd_offset, huge_span(r) + PAGE_SIZE);
        else
            munmap(r->host, r->size + PAGE_SIZE);
        if (r->fd >= 0)
            close(r->fd);
        free(r->dropped);
    }
    mem_init(m);
}

struct mem_region *mem_find(struct mem *m, gpa addr, size_t len)
{
    for (unsigned i = 0; i < m->count; i++) {
        struct mem_region *r = &m->region[i];
        uint64_t offset = addr - r->base; /* wraps to something huge below the base */

        if (offset < r->size)
            return len <= r->size - offset ? r : NULL;
    }
    return NULL;
}

void *mem_at(struct mem *m, gpa addr, size_t len)
{
    struct mem_region *r = mem_find(m, addr, len);

    return r ? r->host + (addr - r->base) : NULL;
}

void *mem_at_writable(struct mem *m, gpa addr, size_t len)
{
    struct mem_region *r = mem_find(m, addr, len);

    return r && !r->readonly ? r->host + (addr - r->base) : NULL;
}

/* Sets the bits of the pages from `first` to `last`. Engines read the map from other threads. */
static void set_dirty(uint64_t *dirty, uint64_t first, uint64_t last)
{
    for (uint64_t page = first; page <= last;) {
        uint64_t in_word = page % 64, n = min_u64(64 - in_word, last - page + 1);
        uint64_t bits = (n == 64 ? ~0ULL : BIT(n) - 1) << in_word;

        if ((__atomic_load_n(&dirty[page / 64], __ATOMIC_RELAXED) & bits) != bits)
            __atomic_fetch_or(&dirty[page / 64], bits, __ATOMIC_RELEASE);
        page += n;
    }
}

static void region_written(struct mem *m, struct mem_region *r, uint64_t offset, size_t len)
{
    uint64_t *dirty = __atomic_load_n(&r->dirty, __ATOMIC_ACQUIRE);

    if (dirty != NULL)
        set_dirty(dirty, offset >> PAGE_SHIFT, (offset + len - 1) >> PAGE_SHIFT);
    if (m->watcher != NULL)
        m->watcher->written(m->watcher, r, offset, len);
}

void mem_dirty(struct mem *m, gpa addr, size_t len)
{
    struct mem_region *r;

    if (len == 0)
        return;
    r = mem_find(m, addr, len);
    assert(r != NULL); /* the caller has been through mem_at */
    region_written(m, r, addr - r->base, len);
}

/* The region of `addr` and how many of `len` bytes lie in it; NULL outside RAM. */
static struct mem_region *part_of(struct mem *m, gpa addr, size_t len, size_t *part)
{
    struct mem_region *r = mem_find(m, addr, 1);

    *part = r ? min_u64(len, r->size - (addr - r->base)) : 0;
    return r;
}

/* True if all of the range is RAM, and writable RAM if `write`. */
static bool covered(struct mem *m, gpa addr, size_t len, bool write)
{
    while (len > 0) {
        size_t part;
        struct mem_region *r = part_of(m, addr, len, &part);

        if (r == NULL || (write && r->readonly))
            return false;
        addr += part; /* a region never ends at 2^64, so a wrapped address is not in RAM twice */
        len -= part;
    }
    return true;
}

int mem_read(struct mem *m, gpa addr, void *dst, size_t len)
{
    uint8_t *to = dst;

    if (!covered(m, addr, len, false))
        return -EFAULT;
    while (len > 0) {
        size_t part;
        struct mem_region *r = part_of(m, addr, len, &part);

        memcpy(to, r->host + (addr - r->base), part);
        to += part;
        addr += part;
        len -= part;
    }
    return 0;
}

static int store(struct mem *m, gpa addr, const void *src, size_t len, bool into_rom)
{
    const uint8_t *from = src;

    if (!covered(m, addr, len, !into_rom))
        return -EFAULT;
    while (len > 0) {
        size_t part;
        struct mem_region *r = part_of(m, addr, len, &part);

        memcpy(r->host + (addr - r->base), from, part);
        region_written(m, r, addr - r->base, part);
        from += part;
        addr += part;
        len -= part;
    }
    return 0;
}

int mem_write(struct mem *m, gpa addr, const void *src, size_t len)
{
    return store(m, addr, src, len, false);
}

int mem_load(struct mem *m, gpa addr, const void *src, size_t len)
{
    return store(m, addr, src, len, true);
}

bool mem_log_start(struct mem *m, struct err *err)
{
    if (m->unlogged)
        return err_set(
            err, ENOTSUP,
            "%s: the kernel writes to guest memory and does not say where; only a stopped "
            "machine can be saved with it",
            m->unlogged);
    mem_log_stop(m);
    for (unsigned i = 0; i < m->count; i++) {
        struct mem_region *r = &m->region[i];
        uint64_t *dirty = calloc((r->size / PAGE_SIZE + 63) / 64, sizeof *dirty);

        if (dirty == NULL) {
            mem_log_stop(m);
            return err_set(err, ENOMEM, "no memory for the dirty log of '%s'", r->name);
        }
        __atomic_store_n(&r->dirty, dirty, __ATOMIC_RELEASE);
    }
    return true;
}

void mem_log_stop(struct mem *m)
{
    for (unsigned i = 0; i < m->count; i++)
        free(__atomic_exchange_n(&m->region[i].dirty, NULL, __ATOMIC_ACQ_REL));
}
