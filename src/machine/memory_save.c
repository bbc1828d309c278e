/* SPDX-License-Identifier: MIT */
/* One pass after another over guest memory. The main thread looks for runs of wanted pages, a few
 * megabytes at a time, and hands them to the loop, which writes them straight out of guest memory;
 * between two such turns disks and networks have theirs. */
#include "machine/memory_save.h"
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define RUN_PAGES  256  /* in one write */
#define LOOK_PAGES 4096 /* in one turn */

static uint8_t zeroes[RUN_PAGES * PAGE_SIZE]; /* never written: the host's one zero page */

static uint64_t region_pages(const struct mem_region *r)
{
    return r->size / PAGE_SIZE;
}

static size_t region_words(const struct mem_region *r)
{
    return (region_pages(r) + 63) / 64;
}

/* ---- what is wanted ---- */

bool memory_saver_open(struct memory_saver *s, struct vm *vm, struct loop *loop, int fd,
                       struct err *err)
{
    *s = (struct memory_saver){.vm = vm, .loop = loop, .fd = fd, .fresh = true};
    for (unsigned i = 0; i < vm->mem->count; i++) {
        size_t words = region_words(&vm->mem->region[i]);

        s->want[i] = calloc(words, sizeof *s->want[i]);
        s->held[i] = calloc(words, sizeof *s->held[i]);
        if (!s->want[i] || !s->held[i]) {
            memory_saver_close(s);
            return err_set(err, ENOMEM, "no memory for a map of pages");
        }
    }
    if (!ftruncate(fd, (off_t)mem_file_offset(vm->mem, vm->mem->count)))
        return true;
    err_set(err, errno, "the memory file cannot be made as large as memory: %s", strerror(errno));
    memory_saver_close(s);
    return false;
}

void memory_saver_close(struct memory_saver *s)
{
    if (!s->vm)
        return;
    s->done = NULL;
    s->error = -ECANCELED;
    while (s->in_flight)
        loop_turn(s->loop, UINT64_MAX);
    loop_unpost(s->loop, &s->again);
    for (unsigned i = 0; i < MEM_REGIONS_MAX; i++) {
        free(s->want[i]);
        free(s->held[i]);
    }
    s->vm = NULL;
}

void memory_want_all(struct memory_saver *s)
{
    for (unsigned i = 0; i < s->vm->mem->count; i++) {
        uint64_t pages = region_pages(&s->vm->mem->region[i]);

        memset(s->want[i], 0xff, pages / 64 * 8);
        if (pages % 64)
            s->want[i][pages / 64] = BIT(pages % 64) - 1;
    }
}

uint64_t memory_want_dirty(struct memory_saver *s)
{
    uint64_t wanted = 0;

    for (unsigned i = 0; i < s->vm->mem->count; i++) {
        struct mem_region *r = &s->vm->mem->region[i];

        s->vm->engine->dirty(s->vm, r);
        for (size_t w = 0; w < region_words(r); w++) {
            if (__atomic_load_n(&r->dirty[w], __ATOMIC_RELAXED))
                s->want[i][w] |= __atomic_exchange_n(&r->dirty[w], 0, __ATOMIC_ACQ_REL);
            wanted += (unsigned)__builtin_popcountll(s->want[i][w]);
        }
    }
    return wanted;
}

/* Documentation/admin-guide/mm/pagemap.rst of Linux. */
#define PM_FILE    BIT(61)
#define PM_SWAPPED BIT(62)
#define PM_PRESENT BIT(63)

static void want_written_word(struct memory_saver *s, unsigned region, uint64_t first,
                              const uint64_t *entry, unsigned count)
{
    const struct mem_region *r = &s->vm->mem->region[region];
    uint64_t bits = __atomic_load_n(&r->dropped[first / 64], __ATOMIC_RELAXED);

    for (unsigned i = 0; i < count; i++)
        if (entry[i] & (PM_PRESENT | PM_SWAPPED) && !(entry[i] & PM_FILE))
            bits |= BIT(i);
    s->want[region][first / 64] |= bits;
}

bool memory_want_written(struct memory_saver *s, int pagemap, struct err *err)
{
    uint64_t entry[512];

    for (unsigned i = 0; i < s->vm->mem->count; i++) {
        const struct mem_region *r = &s->vm->mem->region[i];

        for (uint64_t page = 0, n; page < region_pages(r); page += n) {
            uint64_t at = (uintptr_t)r->host / PAGE_SIZE + page;

            n = region_pages(r) - page;
            if (n > ARRAY_SIZE(entry))
                n = ARRAY_SIZE(entry);
            if (!r->dropped || pread(pagemap, entry, n * 8, (off_t)(at * 8)) != (ssize_t)(n * 8))
                return err_set(err, EIO,
                               "the host does not say which pages were written: take a "
                               "full snapshot, without --base");
            for (uint64_t j = 0; j < n; j += 64)
                want_written_word(s, i, page + j, entry + j, n - j < 64 ? (unsigned)(n - j) : 64);
        }
    }
    return true;
}

void memory_forget_dirty(struct vm *vm)
{
    for (unsigned i = 0; i < vm->mem->count; i++) {
        struct mem_region *r = &vm->mem->region[i];

        vm->engine->dirty(vm, r);
        for (size_t w = 0; w < region_words(r); w++)
            __atomic_store_n(&r->dirty[w], 0, __ATOMIC_RELEASE);
    }
}

bool memory_held(const struct memory_saver *s, struct stream *out, struct err *err)
{
    for (unsigned i = 0; i < s->vm->mem->count; i++)
        if (!stream_put(out, s->held[i], region_words(&s->vm->mem->region[i]) * 8, err))
            return false;
    return true;
}

/* ---- looking for runs ---- */

static bool wants(const struct memory_saver *s, uint64_t page)
{
    return s->want[s->region][page / 64] >> page % 64 & 1;
}

static void take(struct memory_saver *s, uint64_t first, uint64_t end)
{
    for (uint64_t p = first; p < end; p++) {
        s->want[s->region][p / 64] &= ~BIT(p % 64);
        s->held[s->region][p / 64] |= BIT(p % 64);
    }
    s->saved += end - first;
}

/* Is there memory behind the page, or would looking at it make some? */
static bool exists(struct memory_saver *s, const struct mem_region *r, uint64_t page)
{
    off_t at = (off_t)(r->fd_offset + page * PAGE_SIZE), from, to;

    if (r->fd < 0)
        return true;
    if (page < s->data_from || page >= s->data_to) {
        from = lseek(r->fd, at, SEEK_DATA);
        if (from < 0 && errno != ENXIO) /* huge pages cannot tell */
            return true;
        if (from < 0)
            from = (off_t)(r->fd_offset + r->size);
        to = from == at ? lseek(r->fd, at, SEEK_HOLE) : from;
        s->data_from = ((uint64_t)from - r->fd_offset) / PAGE_SIZE;
        s->data_to = ((uint64_t)to - r->fd_offset + PAGE_SIZE - 1) / PAGE_SIZE;
        if (from != at) { /* nothing from here to `from` */
            s->data_to = s->data_from;
            return false;
        }
    }
    return true;
}

static bool is_zero(const uint8_t *page)
{
    const uint64_t *word = (const uint64_t *)page;
    uint64_t any = 0;

    for (unsigned i = 0; i < PAGE_SIZE / 8 && !any; i += 8)
        any = word[i] | word[i + 1] | word[i + 2] | word[i + 3] | word[i + 4] | word[i + 5] |
              word[i + 6] | word[i + 7];
    return !any;
}

enum page_kind { PAGE_SKIP, PAGE_DATA, PAGE_ZERO };

/* What to do about a page: only a file that was never written may keep its holes. */
static enum page_kind kind_of(struct memory_saver *s, const struct mem_region *r, uint64_t page)
{
    if (!wants(s, page))
        return PAGE_SKIP;
    if (!exists(s, r, page))
        return PAGE_ZERO;
    return s->fresh && is_zero(r->host + page * PAGE_SIZE) ? PAGE_ZERO : PAGE_DATA;
}

/* Steps over words without wanted pages, at most to the region's end. */
static uint64_t next_wanted(const struct memory_saver *s, uint64_t page, uint64_t pages)
{
    while (page < pages) {
        uint64_t bits = s->want[s->region][page / 64] >> page % 64;

        if (bits)
            return min_u64(page + (unsigned)__builtin_ctzll(bits), pages);
        page = (page / 64 + 1) * 64;
    }
    return pages;
}

/* The next run of one kind, from the cursor; false at the end of memory, or when this turn has
 * looked at enough. */
static bool next_run(struct memory_saver *s, uint64_t *first, uint64_t *end, enum page_kind *kind,
                     uint64_t *look)
{
    while (s->region < s->vm->mem->count && *look) {
        const struct mem_region *r = &s->vm->mem->region[s->region];
        uint64_t pages = region_pages(r), page = next_wanted(s, s->page, pages);

        s->page = page;
        if (page == pages) {
            s->region++;
            s->page = s->data_from = s->data_to = 0;
            continue;
        }
        *first = page;
        *kind = kind_of(s, r, page);
        while (page < pages && page - *first < RUN_PAGES && *look && kind_of(s, r, page) == *kind) {
            page++;
            --*look;
        }
        *end = s->page = page;
        if (page > *first)
            return true;
    }
    return false;
}

/* ---- writing ---- */

static void advance(struct memory_saver *s);

static void pass_over(struct memory_saver *s)
{
    s->running = false;
    s->fresh = false;
    if (s->done)
        s->done(s);
}

static void chunk_done(struct file_req *req, int result)
{
    struct memory_chunk *c = container_of(req, struct memory_chunk, req);
    struct memory_saver *s = c->saver;

    if (result > 0 && (size_t)result < c->iov.iov_len && !s->error) { /* short: the rest again */
        c->iov.iov_base = (uint8_t *)c->iov.iov_base + result;
        c->iov.iov_len -= (size_t)result;
        c->req.offset += (uint64_t)result;
        c->req.length = c->iov.iov_len;
        file_submit(s->loop, &c->req);
        return;
    }
    c->busy = false;
    s->in_flight--;
    if (result <= 0 && !s->error)
        s->error = result ? result : -EIO;
    advance(s);
}

static void write_run(struct memory_saver *s, uint64_t first, uint64_t end, enum page_kind kind)
{
    const struct mem_region *r = &s->vm->mem->region[s->region];
    struct memory_chunk *c = s->chunk;

    while (c->busy)
        c++;
    c->busy = true;
    c->saver = s;
    c->iov.iov_base = kind == PAGE_ZERO ? zeroes : r->host + first * PAGE_SIZE;
    c->iov.iov_len = (end - first) * PAGE_SIZE;
    c->req = (struct file_req){
        .op = FILE_WRITE,
        .fd = s->fd,
        .offset = mem_file_offset(s->vm->mem, s->region) + first * PAGE_SIZE,
        .length = c->iov.iov_len,
        .iov = &c->iov,
        .iov_count = 1,
        .done = chunk_done,
    };
    s->in_flight++;
    s->bytes += c->iov.iov_len;
    file_submit(s->loop, &c->req);
}

static void advance(struct memory_saver *s)
{
    uint64_t look = LOOK_PAGES, first, end;
    enum page_kind kind;

    if (!s->running)
        return;
    while (!s->error && s->in_flight < MEMORY_CHUNKS && next_run(s, &first, &end, &kind, &look)) {
        if (kind == PAGE_DATA || !s->fresh)
            write_run(s, first, end, kind);
        take(s, first, end);
    }
    if (s->in_flight)
        return;
    if (!s->error && s->region < s->vm->mem->count)
        loop_post(s->loop, &s->again);
    else
        pass_over(s);
}

static void advance_again(struct call *call)
{
    advance(container_of(call, struct memory_saver, again));
}

void memory_save(struct memory_saver *s)
{
    s->again.run = advance_again;
    s->region = 0;
    s->page = s->data_from = s->data_to = 0;
    s->running = true;
    loop_post(s->loop, &s->again);
}
