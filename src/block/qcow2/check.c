/* SPDX-License-Identifier: MIT */
/* Check and repair: counts the references to every cluster and compares with the refcounts.
 *
 * Counting happens for a window of clusters at a time, so memory does not grow with the image:
 *
 *   for each window: walk header, tables, snapshots, bitmaps -> counts -> compare, mend
 *                    walk the active tables again: the "copied" marks must say count == 1
 *
 * Mending a refcount whose block is missing appends a block, which needs counting itself: rounds
 * are repeated until one changes nothing. */
#include "block/qcow2/qcow2.h"
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { WINDOW = 4 << 20, ROUNDS = 6, SAY_MAX = 1000 };

struct checker {
    struct q_walk walk;
    struct qcow2 *q;
    struct block_check *result;
    unsigned fix, said;
    uint32_t *count;
    uint64_t base, clusters; /* window; file's clusters */
    bool first, active;      /* the first window reports what needs no counts; the active L1 */
    bool changed;
    uint64_t last_host;
    struct q_snapshot *snapshot;
    unsigned snapshots;
};

static void say(struct checker *c, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void say(struct checker *c, const char *fmt, ...)
{
    char text[200];
    va_list ap;

    if (!c->result->say || c->said++ > SAY_MAX)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    c->result->say(c->result, text);
}

static void damaged(struct checker *c, const char *what, uint64_t where)
{
    if (!c->first)
        return;
    c->result->corruptions++;
    say(c, "ERROR: %s at %#" PRIx64, what, where);
}

static void mark(struct checker *c, uint64_t first, uint64_t n, const char *what)
{
    if (first >= c->clusters || n > c->clusters - first) {
        damaged(c, what, first << c->q->cluster_bits);
        return;
    }
    for (uint64_t i = first; i < first + n; i++)
        if (i >= c->base && i - c->base < WINDOW && c->count[i - c->base] < UINT32_MAX)
            c->count[i - c->base]++;
}

static void mark_bytes(void *checker, uint64_t offset, uint64_t bytes, const char *what)
{
    struct checker *c = checker;

    if (bytes)
        mark(c, offset >> c->q->cluster_bits,
             (bytes + c->q->cluster_size - 1) >> c->q->cluster_bits, what);
}

static int mark_table(struct q_walk *w, uint64_t index, uint64_t entry)
{
    struct checker *c = container_of(w, struct checker, walk);

    (void)index;
    c->last_host = 0; /* counted for each table alone */
    if ((entry & ~(Q_OFFSET_MASK | Q_COPIED)) || q_in_cluster(c->q, entry & Q_OFFSET_MASK))
        damaged(c, "reserved bits in an L1 entry", entry);
    else if (entry & Q_OFFSET_MASK)
        mark(c, (entry & Q_OFFSET_MASK) >> c->q->cluster_bits, 1, "an L2 table outside the file");
    return 0;
}

static void count_data(struct checker *c, const uint8_t *p, uint64_t first)
{
    if (!c->first || !c->active)
        return;
    c->result->allocated++;
    if (be64(p) & Q_COMPRESSED) { /* fragmented by nature, as qemu-img counts */
        c->result->compressed++;
        c->result->fragmented++;
        return;
    }
    if (c->last_host && first != c->last_host + 1)
        c->result->fragmented++;
    c->last_host = first;
}

static int mark_entry(struct q_walk *w, uint64_t at, uint64_t guest, const uint8_t *p)
{
    struct checker *c = container_of(w, struct checker, walk);
    uint64_t first = 0, n = q_entry_clusters(c->q, p, &first);
    struct q_map m;

    (void)guest;
    if (c->first && q_decode(c->q, p, 0, &m)) {
        damaged(c, "a broken L2 entry", at);
        if (!(be64(p) & Q_COMPRESSED))
            return 0;
    }
    if (n) {
        mark(c, first, n, "data outside the file");
        count_data(c, p, first);
    }
    return 0;
}

static int mark_l1(struct checker *c, uint64_t offset, uint64_t entries, bool active)
{
    struct err err;
    uint64_t *l1;
    int failed;

    mark_bytes(c, offset, entries * 8, "an L1 table outside the file");
    l1 = q_table_read(c->q, offset, entries, &err);
    if (!l1)
        return -err.code;
    c->active = active;
    c->last_host = 0;
    c->walk.table = mark_table;
    c->walk.entry = mark_entry;
    failed = q_walk(c->q, l1, entries, &c->walk);
    free(l1);
    return failed;
}

static int mark_all(struct checker *c)
{
    struct qcow2 *q = c->q;
    const struct q_header *h = &q->h;
    int failed;

    mark(c, 0, 1, "the header");
    mark(c, h->reftable_offset >> q->cluster_bits, h->reftable_clusters, "the refcount table");
    for (uint64_t i = 0; i < q->reftable_size; i++) {
        if (q_in_cluster(q, q->reftable[i]))
            damaged(c, "reserved bits in the refcount table", q->reftable[i]);
        else if (q->reftable[i])
            mark(c, q->reftable[i] >> q->cluster_bits, 1, "a refcount block outside the file");
    }
    failed = mark_l1(c, h->l1_offset, h->l1_size, true);
    mark_bytes(c, h->snapshots_offset, q_snapshots_bytes(c->snapshot, c->snapshots),
               "the snapshot table outside the file");
    for (unsigned i = 0; i < c->snapshots && !failed; i++)
        failed = mark_l1(c, c->snapshot[i].l1_offset, c->snapshot[i].l1_size, false);
    if (!failed && h->bitmap_count)
        failed = q_bitmaps_visit(q, mark_bytes, c);
    return failed;
}

/* ---- refcounts against counts ---- */

static unsigned ref_bits(const struct qcow2 *q)
{
    return q->cluster_bits + 3 - q->h.refcount_order;
}

static int write_reftable(struct qcow2 *q, uint64_t index)
{
    _Alignas(4096) uint64_t sector[64];
    uint64_t start = align_down(index, 64);

    for (unsigned i = 0; i < 64; i++)
        sector[i] = start + i < q->reftable_size ? __builtin_bswap64(q->reftable[start + i]) : 0;
    return block_run(q->b->under, BLOCK_WRITE, 0, q->h.reftable_offset + start * 8, sector, 512);
}

/* A table twice the size, at the end of the file. The next round counts it. */
static int longer_reftable(struct checker *c, uint64_t index)
{
    struct qcow2 *q = c->q;
    uint64_t bytes = align_up((index + 1) * 16, q->cluster_size),
             at = c->clusters << q->cluster_bits;
    uint64_t *t;
    int failed = 0;

    if (bytes > Q_REFTABLE_MAX)
        return -EFBIG;
    t = aligned_alloc(4096, align_up(bytes, 4096));
    if (!t)
        return -ENOMEM;
    memset(t, 0, bytes);
    for (uint64_t i = 0; i < q->reftable_size; i++)
        t[i] = __builtin_bswap64(q->reftable[i]);
    failed = block_run(q->b->under, BLOCK_WRITE, 0, at, t, bytes);
    for (uint64_t i = 0; i < bytes / 8; i++)
        t[i] = __builtin_bswap64(t[i]);
    if (!failed)
        failed = block_run(q->b->under, BLOCK_FLUSH, 0, 0, NULL, 0);
    if (failed) {
        free(t);
        return failed;
    }
    free(q->reftable);
    q->reftable = t;
    q->reftable_size = (uint32_t)(bytes / 8);
    q->h.reftable_offset = at;
    q->h.reftable_clusters = (uint32_t)(bytes >> q->cluster_bits);
    put_be64(q->head + 48, at);
    put_be32(q->head + 56, q->h.reftable_clusters);
    c->clusters = q_file_clusters(q);
    return q_head_write(q);
}

/* Refcounts [first, first + n) of one block as they should be. */
static int mend(struct checker *c, uint64_t index, uint8_t *block, uint64_t first, uint64_t n)
{
    struct qcow2 *q = c->q;
    uint64_t place = q->reftable[index];
    bool fresh = !place;
    int failed;

    if (fresh)
        place = c->clusters << q->cluster_bits;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t in = (first + i) & (BIT(ref_bits(q)) - 1);
        uint64_t have = q_ref_get(block, in, q->h.refcount_order);
        uint64_t want = c->count[first + i - c->base];

        if (want < have && !(c->fix & BLOCK_FIX_LEAKS))
            continue;
        if (want > have && !(c->fix & BLOCK_FIX_ERRORS))
            continue;
        q_ref_set(block, in, q->h.refcount_order, min_u64(want, q_ref_max(q)));
    }
    failed = block_run(q->b->under, BLOCK_WRITE, 0, place, block, q->cluster_size);
    if (!failed && fresh) {
        failed = block_run(q->b->under, BLOCK_FLUSH, 0, 0, NULL, 0);
        q->reftable[index] = place;
        if (!failed)
            failed = write_reftable(q, index);
        c->clusters = q_file_clusters(q);
    }
    c->changed = true;
    return failed;
}

static int compare_block(struct checker *c, uint64_t first, uint64_t n, uint8_t *block)
{
    struct qcow2 *q = c->q;
    uint64_t index = first >> ref_bits(q), leaks = 0, errors = 0;
    int failed = 0;

    memset(block, 0, q->cluster_size);
    if (index < q->reftable_size && q->reftable[index] &&
        q->reftable[index] >> q->cluster_bits < c->clusters)
        failed = block_run(q->b->under, BLOCK_READ, 0, q->reftable[index], block, q->cluster_size);
    for (uint64_t i = 0; i < n && !failed; i++) {
        uint64_t have = q_ref_get(block, (first + i) & (BIT(ref_bits(q)) - 1), q->h.refcount_order);
        uint64_t want = c->count[first + i - c->base];

        if (have == want)
            continue;
        leaks += have > want;
        errors += have < want;
        say(c, "%s cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64,
            have > want ? "Leaked" : "ERROR", first + i, have, want);
    }
    c->result->leaks += leaks;
    c->result->corruptions += errors;
    if (failed ||
        !((leaks && (c->fix & BLOCK_FIX_LEAKS)) || (errors && (c->fix & BLOCK_FIX_ERRORS))))
        return failed;
    if (index >= q->reftable_size) {
        failed = longer_reftable(c, index);
        c->changed = true;
    }
    return failed ? failed : mend(c, index, block, first, n);
}

static int compare(struct checker *c)
{
    struct qcow2 *q = c->q;
    uint8_t *block = aligned_alloc(4096, align_up(q->cluster_size, 4096));
    uint64_t end = min_u64(c->clusters, c->base + WINDOW), at = c->base;
    int failed = block ? 0 : -ENOMEM;

    while (at < end && !failed) {
        uint64_t n = min_u64(end - at, BIT(ref_bits(q)) - (at & (BIT(ref_bits(q)) - 1)));

        failed = compare_block(c, at, n, block);
        at += n;
    }
    free(block);
    return failed;
}

/* ---- the "copied" marks of the active tables ---- */

static bool mark_is_wrong(struct checker *c, uint64_t cluster, uint64_t entry)
{
    if (cluster < c->base || cluster - c->base >= WINDOW || cluster >= c->clusters)
        return false;
    return (c->count[cluster - c->base] == 1) != ((entry & Q_COPIED) != 0);
}

static int rewrite(struct checker *c, uint64_t at, uint64_t entry)
{
    _Alignas(4096) uint8_t sector[512];
    uint64_t start = align_down(at, 512);
    int failed;

    c->result->corruptions++;
    say(c, "ERROR: wrong copied mark in the entry at %#" PRIx64, at);
    if (!(c->fix & BLOCK_FIX_ERRORS))
        return 0;
    c->changed = true;
    failed = block_run(c->q->b->under, BLOCK_READ, 0, start, sector, sizeof sector);
    put_be64(sector + (at - start), entry ^ Q_COPIED);
    return failed ? failed
                  : block_run(c->q->b->under, BLOCK_WRITE, 0, start, sector, sizeof sector);
}

static int copied_table(struct q_walk *w, uint64_t index, uint64_t entry)
{
    struct checker *c = container_of(w, struct checker, walk);

    if (!mark_is_wrong(c, (entry & Q_OFFSET_MASK) >> c->q->cluster_bits, entry))
        return 0;
    return rewrite(c, c->q->h.l1_offset + index * 8, entry);
}

static int copied_entry(struct q_walk *w, uint64_t at, uint64_t guest, const uint8_t *p)
{
    struct checker *c = container_of(w, struct checker, walk);
    uint64_t first = 0, n = q_entry_clusters(c->q, p, &first);

    (void)guest;
    if (!n || (be64(p) & Q_COMPRESSED) || !mark_is_wrong(c, first, be64(p)))
        return 0;
    return rewrite(c, at, be64(p));
}

static int check_copied(struct checker *c)
{
    struct err err;
    uint64_t *l1 = q_table_read(c->q, c->q->h.l1_offset, c->q->h.l1_size, &err);
    int failed;

    if (!l1)
        return -err.code;
    c->walk.table = copied_table;
    c->walk.entry = copied_entry;
    failed = q_walk(c->q, l1, c->q->h.l1_size, &c->walk);
    free(l1);
    return failed;
}

/* ---- rounds ---- */

static int check_once(struct checker *c)
{
    int failed = 0;

    c->changed = false;
    c->clusters = q_file_clusters(c->q);
    for (c->base = 0; c->base < c->clusters && !failed; c->base += WINDOW) {
        /* A little more than the file has: mending may append. */
        memset(c->count, 0, min_u64(WINDOW, c->clusters - c->base + 4096) * sizeof *c->count);
        c->first = c->base == 0;
        failed = mark_all(c);
        if (!failed)
            failed = compare(c);
        if (!failed)
            failed = check_copied(c);
        if (c->result->progress)
            c->result->progress(c->result, min_u64(c->base + WINDOW, c->clusters), c->clusters);
    }
    return failed;
}

static int check_rounds(struct checker *c)
{
    struct block_check *r = c->result, first = {0};
    int failed = 0;

    for (unsigned round = 0; round < ROUNDS; round++) {
        struct block_check clean = {.say = r->say, .progress = r->progress};

        *r = clean;
        failed = check_once(c);
        if (round == 0)
            first = *r;
        if (failed || !c->changed)
            break;
        r->say = NULL; /* said in the first round */
        failed = block_run(c->q->b->under, BLOCK_FLUSH, 0, 0, NULL, 0);
        if (failed)
            break;
        first.say = clean.say;
    }
    r->say = first.say;
    r->corruptions_fixed = first.corruptions - min_u64(first.corruptions, r->corruptions);
    r->leaks_fixed = first.leaks - min_u64(first.leaks, r->leaks);
    r->total_clusters = (c->q->h.size + c->q->cluster_size - 1) >> c->q->cluster_bits;
    r->image_end = c->clusters << c->q->cluster_bits;
    return failed;
}

/* What the marks in the header said is mended now. */
static int clear_marks(struct qcow2 *q)
{
    q->h.incompatible &= ~(uint64_t)(Q_INCOMPAT_DIRTY | Q_INCOMPAT_CORRUPT);
    q->corrupt = false;
    if (be32(q->head + 4) < 3 || be64(q->head + 72) == q->h.incompatible)
        return 0;
    put_be64(q->head + 72, q->h.incompatible);
    return q_head_write(q);
}

/* The cache and the tables in memory begin anew: check writes to the file itself. */
static int reload(struct qcow2 *q)
{
    struct err err;
    uint64_t *l1 = q_table_read(q, q->h.l1_offset, q->l1_size, &err);

    if (!l1)
        return -err.code;
    free(q->l1);
    q->l1 = l1;
    q_cache_forget(q);
    q->free_hint = 0;
    q->compress_at = 0;
    q->virgin = align_up(block_end(q->b->under), q->cluster_size);
    return 0;
}

int q_check(struct qcow2 *q, unsigned fix, struct block_check *result, struct err *err)
{
    struct checker c = {.q = q, .result = result, .fix = fix};
    uint64_t *table = NULL;
    int failed = 0;

    if (!q_snapshots_load(q, &c.snapshot, &c.snapshots, err))
        return -err->code;
    c.count = malloc(WINDOW * sizeof *c.count);
    if (!q->reftable) { /* read-only: not loaded */
        q->reftable_size = (uint32_t)(((uint64_t)q->h.reftable_clusters << q->cluster_bits) / 8);
        table = q->reftable = q_table_read(q, q->h.reftable_offset, q->reftable_size, err);
    }
    if (!c.count || !q->reftable)
        failed = -ENOMEM;
    if (!failed)
        failed = check_rounds(&c);
    if (!failed && fix)
        failed = reload(q);
    if (!failed && (fix & BLOCK_FIX_ERRORS) && !result->corruptions)
        failed = clear_marks(q);
    if (table) {
        free(q->reftable);
        q->reftable = NULL;
    }
    free(c.count);
    q_snapshots_free(c.snapshot, c.snapshots);
    if (failed)
        err_set(err, -failed, "%s: could not be checked: %s", q->b->config.file, strerror(-failed));
    return failed;
}

bool qcow2_check(struct block *b, unsigned fix, struct block_check *result, struct err *err)
{
    struct qcow2 *q = b->priv;

    if (fix && b->readonly)
        return err_set(err, EROFS, "%s: is open read-only", b->config.file);
    if (!b->readonly && q_settle(q))
        return err_set(err, EIO, "%s: could not be written back first", b->config.file);
    return q_check(q, fix, result, err) == 0;
}
