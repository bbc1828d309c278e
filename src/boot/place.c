/* SPDX-License-Identifier: MIT */
/* Who lies where in guest memory while a kernel is loaded.
 *
 * Invariants
 *  1. Spans never overlap, and each lies inside one E820 RAM entry.
 *  2. Only load_claim adds one; sizes are compared with what is left, so no sum can wrap. */
#include "boot/loader.h"
#include <errno.h>
#include <sys/mman.h>

#define SMALL_MIN 0x1000 /* below: interrupt vectors and BIOS data */

static const struct span *overlap(const struct load *ld, gpa base, uint64_t size)
{
    for (unsigned i = 0; i < ld->spans; i++) {
        const struct span *s = &ld->span[i];

        if (base < s->end && s->base - base < size && s->base >= base)
            return s;
        if (base >= s->base && base < s->end)
            return s;
    }
    return NULL;
}

static const struct e820_entry *ram_at(const struct load *ld, gpa base)
{
    for (unsigned i = 0; i < ld->map_count; i++) {
        const struct e820_entry *e = &ld->map[i];

        if (e->type == E820_RAM && base >= e->base && base - e->base < e->size)
            return e;
    }
    return NULL;
}

static bool inside_ram(const struct load *ld, gpa base, uint64_t size)
{
    const struct e820_entry *e = ram_at(ld, base);

    return e != NULL && size <= e->size - (base - e->base);
}

bool load_fits(const struct load *ld, gpa base, uint64_t size)
{
    return size == 0 || (inside_ram(ld, base, size) && overlap(ld, base, size) == NULL);
}

/* More memory helps only below ECAM; elsewhere the address itself is wrong. */
static bool not_ram(const struct load *ld, gpa base, uint64_t size, const char *what,
                    struct err *err)
{
    unsigned long long b = base, n = size;

    if (base >= 1 * MiB && base < LAYOUT_ECAM_BASE && size <= LAYOUT_ECAM_BASE - base)
        return err_set(err, ENOSPC,
                       "%s of 0x%llx bytes at 0x%llx is beyond the %llu MiB of memory: use "
                       "--memory %lluM or more",
                       what, n, b, (unsigned long long)(ld->layout->memory / MiB),
                       (unsigned long long)(align_up(base + size, MiB) / MiB));
    return err_set(err, EINVAL, "%s of 0x%llx bytes at 0x%llx does not lie in RAM", what, n, b);
}

bool load_claim(struct load *ld, gpa base, uint64_t size, const char *what, struct err *err)
{
    const struct span *other;

    if (size == 0)
        return true;
    if (!inside_ram(ld, base, size))
        return not_ram(ld, base, size, what, err);
    other = overlap(ld, base, size);
    if (other != NULL)
        return err_set(err, EINVAL, "%s of 0x%llx bytes at 0x%llx overlaps the %s at 0x%llx", what,
                       (unsigned long long)size, (unsigned long long)base, other->what,
                       (unsigned long long)other->base);
    if (ld->spans == SPANS_MAX)
        return err_set(err, ENOSPC, "more than %d parts to load", SPANS_MAX);
    ld->span[ld->spans++] = (struct span){base, base + size, what};
    return true;
}

gpa load_top(const struct load *ld)
{
    gpa top = 0;

    for (unsigned i = 0; i < ld->spans; i++) {
        if (ld->span[i].end <= 4 * GiB)
            top = max_u64(top, ld->span[i].end);
    }
    return top;
}

static bool no_room(const struct load *ld, uint64_t size, uint64_t align, gpa min, const char *what,
                    struct err *err)
{
    uint64_t need =
        align_up(align_up(max_u64(load_top(ld), min), align), MiB) / MiB + size / MiB + 1;

    if (size < LAYOUT_ECAM_BASE && need < LAYOUT_ECAM_BASE / MiB && need > ld->layout->memory / MiB)
        return err_set(
            err, ENOSPC,
            "%s of %llu bytes does not fit in %llu MiB of memory: use --memory %lluM or more", what,
            (unsigned long long)size, (unsigned long long)(ld->layout->memory / MiB),
            (unsigned long long)need);
    return err_set(err, ENOSPC, "%s of %llu bytes does not fit below 4 GiB beside what is loaded",
                   what, (unsigned long long)size);
}

bool load_find_low(struct load *ld, uint64_t size, uint64_t align, gpa min, const char *what,
                   gpa *at, struct err *err)
{
    for (unsigned i = 0; i < ld->map_count; i++) {
        const struct e820_entry *e = &ld->map[i];
        const struct span *s;
        gpa base = align_up(max_u64(min, e->base), align);

        if (e->type != E820_RAM || e->base >= 4 * GiB)
            continue;
        while (base - e->base < e->size && inside_ram(ld, base, size)) {
            s = overlap(ld, base, size);
            if (s == NULL) {
                *at = base;
                return load_claim(ld, base, size, what, err);
            }
            base = align_up(s->end, align);
        }
    }
    return no_room(ld, size, align, min, what, err);
}

bool load_find_high(struct load *ld, uint64_t size, uint64_t align, gpa max, const char *what,
                    gpa *at, struct err *err)
{
    for (unsigned i = ld->map_count; i-- > 0;) {
        const struct e820_entry *e = &ld->map[i];
        gpa end = min_u64(max, e->base + e->size);

        if (e->type != E820_RAM || e->base >= 4 * GiB)
            continue;
        while (end > e->base && size <= end - e->base) {
            gpa base = align_down(end - size, align);
            const struct span *s;

            if (base < max_u64(e->base, SMALL_MIN))
                break;
            s = overlap(ld, base, size);
            if (s == NULL) {
                *at = base;
                return load_claim(ld, base, size, what, err);
            }
            end = s->base;
        }
    }
    return no_room(ld, size, align, 0, what, err);
}

static void *host_of(struct load *ld, gpa at, uint64_t len, struct err *err)
{
    void *host = mem_at_writable(ld->mem, at, len);

    if (host == NULL)
        err_set(err, EFAULT, "0x%llx bytes at 0x%llx are not in guest memory",
                (unsigned long long)len, (unsigned long long)at);
    return host;
}

bool load_bytes(struct load *ld, gpa at, const void *from, size_t len, struct err *err)
{
    void *host = host_of(ld, at, len, err);

    if (host == NULL)
        return false;
    memcpy(host, from, len);
    mem_dirty(ld->mem, at, len);
    return true;
}

/* Whole pages are given back rather than touched: most are fresh, and read as zero again. */
static void zero(uint8_t *at, size_t len)
{
    uint8_t *end = at + len, *first = (uint8_t *)align_up((uintptr_t)at, PAGE_SIZE),
            *last = (uint8_t *)align_down((uintptr_t)end, PAGE_SIZE);

    if (first >= last || madvise(first, (size_t)(last - first), MADV_REMOVE) != 0) {
        memset(at, 0, len);
        return;
    }
    memset(at, 0, (size_t)(first - at));
    memset(last, 0, (size_t)(end - last));
}

bool load_zero(struct load *ld, gpa at, uint64_t len, struct err *err)
{
    void *host;

    if (len == 0)
        return true;
    host = host_of(ld, at, len, err);
    if (host == NULL)
        return false;
    zero(host, len);
    mem_dirty(ld->mem, at, len);
    return true;
}

/* From the page cache into the memfd: a tenth of the time of reading through our mapping, where
 * each page would fault. */
static bool send_file(struct load *ld, const struct boot_file *f, uint64_t offset, uint64_t len,
                      gpa at)
{
    const struct mem_region *r = mem_find(ld->mem, at, len);

    return r != NULL && r->fd >= 0 &&
           file_send(f, offset, r->fd, r->fd_offset + (at - r->base), len);
}

bool load_file(struct load *ld, const struct boot_file *f, uint64_t offset, uint64_t len, gpa at,
               struct err *err)
{
    void *host;

    if (len == 0)
        return true;
    host = host_of(ld, at, len, err);
    if (host == NULL ||
        (!send_file(ld, f, offset, len, at) && !file_read(f, offset, host, len, err)))
        return false;
    mem_dirty(ld->mem, at, len);
    return true;
}

bool load_small(struct load *ld, const void *from, size_t len, const char *what, gpa *at,
                struct err *err)
{
    return load_find_low(ld, len, 4096, SMALL_MIN, what, at, err) &&
           load_bytes(ld, *at, from, len, err);
}
