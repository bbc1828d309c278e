/* SPDX-License-Identifier: MIT */
/* Rebase and commit: walks over the extents of a chain.
 *
 *   rebase   what the image does not have itself: old contents against new ones, written to the
 *            image where they differ -> flush -> the header names the new backing file
 *   commit   what is above the base: written to the base -> flush */
#include "block/rebase.h"
#include "block/format.h"
#include "block/graph.h"
#include "block/image.h"
#include <errno.h>
#include <stdlib.h>

enum { CHUNK = 1 << 20, PIECE = 64 << 10 };

static bool io_failed(const struct block *b, int failed, struct err *err)
{
    return !failed || err_set(err, -failed, "%s: %s", b->config.file, strerror(-failed));
}

static bool go_on(struct block_walk *w, uint64_t done, uint64_t all, struct err *err)
{
    return !w || !w->go_on || w->go_on(w, done, all) || err_set(err, ECANCELED, "stopped");
}

static bool is_zero(const uint8_t *p, uint64_t n)
{
    return p[0] == 0 && memcmp(p, p + 1, n - 1) == 0;
}

/* ---- rebase ---- */

struct rebase {
    struct block *b, *base; /* base: the new one, or NULL */
    uint8_t *old, *now;
};

/* The new backing file's contents, zero behind its end. */
static int read_new(const struct rebase *r, uint64_t at, uint64_t n)
{
    uint64_t there = r->base && at < r->base->size ? min_u64(n, r->base->size - at) : 0;

    memset(r->now + there, 0, n - there);
    return there ? block_run(r->base, BLOCK_READ, 0, at, r->now, there) : 0;
}

/* [at, at + n) is not in the image itself. */
static int rebase_chunk(const struct rebase *r, uint64_t at, uint64_t n)
{
    int failed = block_run(r->b, BLOCK_READ, 0, at, r->old, n);

    if (!failed)
        failed = read_new(r, at, n);
    for (uint64_t i = 0; i < n && !failed;) {
        uint64_t len = min_u64(PIECE - (at + i) % PIECE, n - i);

        if (memcmp(r->old + i, r->now + i, len) == 0)
            ; /* the new one has it */
        else if (is_zero(r->old + i, len))
            failed = block_run(r->b, BLOCK_WRITE_ZEROES, BLOCK_REQ_UNMAP, at + i, NULL, len);
        else
            failed = block_run(r->b, BLOCK_WRITE, 0, at + i, r->old + i, len);
        i += len;
    }
    return failed;
}

static bool rebase_walk(const struct rebase *r, struct block_walk *w, struct err *err)
{
    for (uint64_t at = 0; at < r->b->size;) {
        struct block_extent e;
        uint64_t n = r->b->size - at;

        if (!go_on(w, at, r->b->size, err) || !block_map(r->b, at, n, &e, err))
            return false;
        n = e.length;
        if ((!e.present || e.depth > 0) && !(e.zero && !r->base)) {
            n = min_u64(n, CHUNK - at % CHUNK);
            if (!io_failed(r->b, rebase_chunk(r, at, n), err))
                return false;
        }
        at += n;
    }
    return io_failed(r->b, block_run(r->b, BLOCK_FLUSH, 0, 0, NULL, 0), err);
}

bool block_rebase(struct block *b, const char *backing, const char *format, struct block_walk *w,
                  struct err *err)
{
    bool none = !backing || !*backing, good;
    struct rebase r = {.b = b};
    char name[16] = "";

    if (!none) {
        r.base = block_open_named(b, backing, format ? format : "", true, false, err);
        if (!r.base)
            return false;
        memcpy(name, r.base->ops->name, min_size(strlen(r.base->ops->name), 15));
    }
    r.old = aligned_alloc(4096, CHUNK);
    r.now = aligned_alloc(4096, CHUNK);
    good = r.old && r.now ? rebase_walk(&r, w, err) : err_set(err, ENOMEM, "out of memory");
    free(r.old);
    free(r.now);
    block_close(r.base);
    return good && block_set_backing(b, none ? NULL : backing, none ? NULL : name, err);
}

/* ---- commit ---- */

static struct block *find_base(struct block *b, const char *name, struct err *err)
{
    struct block *base = name ? graph_find(b, name) : b->backing;

    if (base && base != b)
        return base;
    err_set(err, EINVAL,
            name ? "%s: %.100s is not in its chain of backing files" : "%s: has no backing file%s",
            b->config.file, name ? name : "");
    return NULL;
}

static int commit_chunk(struct block *b, struct block *base, uint64_t at, uint64_t n, bool zero,
                        uint8_t *buffer)
{
    int failed;

    if (zero)
        return block_run(base, BLOCK_WRITE_ZEROES, BLOCK_REQ_UNMAP, at, NULL, n);
    failed = block_run(b, BLOCK_READ, 0, at, buffer, n);
    return failed ? failed : block_run(base, BLOCK_WRITE, 0, at, buffer, n);
}

static bool commit_walk(struct block *b, struct block *base, struct block_walk *w, struct err *err)
{
    unsigned depth = (unsigned)graph_depth(b, base);
    uint8_t *buffer = aligned_alloc(4096, CHUNK);
    bool good = buffer || err_set(err, ENOMEM, "out of memory");

    for (uint64_t at = 0; at < b->size && good;) {
        struct block_extent e;
        uint64_t n = b->size - at;

        good = go_on(w, at, b->size, err) && block_map(b, at, n, &e, err);
        if (!good)
            break;
        n = e.length;
        if (e.depth < depth && (e.present || e.zero)) {
            n = e.zero ? n : min_u64(n, CHUNK);
            good = io_failed(base, commit_chunk(b, base, at, n, e.zero, buffer), err);
        }
        at += n;
    }
    free(buffer);
    return good && io_failed(base, block_run(base, BLOCK_FLUSH, 0, 0, NULL, 0), err);
}

bool block_commit(struct block *b, const char *name, struct block_walk *w, struct err *err)
{
    struct block *base = find_base(b, name, err);

    if (!base)
        return false;
    if (!graph_make_writable(graph_above(b, base), &base, err))
        return false;
    if (base->size < b->size && !block_resize(base, b->size, PREALLOC_OFF, err))
        return false;
    return commit_walk(b, base, w, err);
}

bool block_make_empty(struct block *b, struct err *err)
{
    uint64_t step = 1ULL << 30;
    int failed = 0;

    for (uint64_t at = 0; at < b->size && !failed; at += step)
        failed = block_run(b, BLOCK_DISCARD, 0, at, NULL, min_u64(step, b->size - at));
    return io_failed(b, failed, err);
}
