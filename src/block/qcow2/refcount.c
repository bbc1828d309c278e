/* SPDX-License-Identifier: MIT */
/* Which clusters of the file are in use: taking some, and giving them back.
 *
 * Taking counts at once, in memory. Giving back is slow on purpose: a cluster may be taken again
 * only when no table on disk refers to it any more (a commit has ended) and no request that could
 * still be reading or writing it is under way (the requests of that epoch have ended):
 *
 *   q_free -> frees -> [commit] -> draining -> [epoch over] -> releasing -> hole, count 0, takeable
 *
 * A refcount block lies in the first cluster of the range that it counts, so making one needs no
 * other block. The refcount table, when it is too small, moves behind all that it covers. */
#include "block/qcow2/qcow2.h"
#include <errno.h>
#include <stdlib.h>

static unsigned ref_bits(const struct qcow2 *q)
{
    return q->cluster_bits + 3 - q->h.refcount_order;
}

uint64_t q_ref_get(const uint8_t *p, uint64_t index, unsigned order)
{
    switch (order) {
    case 3: return p[index];
    case 4: return be16(p + index * 2);
    case 5: return be32(p + index * 4);
    case 6: return be64(p + index * 8);
    default: break;
    }
    index <<= order;
    return p[index / 8] >> (index % 8) & ((1u << (1u << order)) - 1);
}

void q_ref_set(uint8_t *p, uint64_t index, unsigned order, uint64_t value)
{
    unsigned mask, shift;

    switch (order) {
    case 3: p[index] = (uint8_t)value; return;
    case 4: put_be16(p + index * 2, (uint16_t)value); return;
    case 5: put_be32(p + index * 4, (uint32_t)value); return;
    case 6: put_be64(p + index * 8, value); return;
    default: break;
    }
    index <<= order;
    mask = (1u << (1u << order)) - 1;
    shift = index % 8;
    p[index / 8] = (uint8_t)((p[index / 8] & ~(mask << shift)) | (value & mask) << shift);
}

uint64_t q_ref_max(const struct qcow2 *q)
{
    return q->h.refcount_order == 6 ? UINT64_MAX : BIT(1u << q->h.refcount_order) - 1;
}

/* The page that counts `cluster`, and its index there; *page is NULL if no block does. */
static int ref_page(struct qcow2 *q, uint64_t cluster, struct q_wait *w, struct q_page **page,
                    uint64_t *index)
{
    uint64_t table = cluster >> ref_bits(q);
    uint64_t entry = table < q->reftable_size ? q->reftable[table] : 0;
    uint64_t in = cluster & (BIT(ref_bits(q)) - 1), byte = (in << q->h.refcount_order) / 8;
    uint64_t start = align_down(byte, q->cache.page_size);

    *page = NULL;
    if (!entry)
        return 0;
    if (q_in_cluster(q, entry) || entry >> 56)
        return q_corrupt(q, "reserved bits in the refcount table", entry);
    *index = in - ((start * 8) >> q->h.refcount_order);
    return q_page_get(q, entry + start, Q_PAGE_REF, w, page);
}

/* A whole refcount block of zeroes at `cluster`. */
static bool make_block(struct qcow2 *q, uint64_t table, uint64_t cluster)
{
    for (uint64_t at = 0; at < q->cluster_size; at += q->cache.page_size)
        if (!q_page_make(q, (cluster << q->cluster_bits) + at, Q_PAGE_REF))
            return false;
    q->reftable[table] = cluster << q->cluster_bits;
    q->reftable_dirty = true;
    return true;
}

static void count_new(struct qcow2 *q, uint64_t cluster)
{
    struct q_page *page;
    uint64_t index;
    struct q_sleep never;

    q_sleep_init(&never);
    /* The block was made a moment ago: it is in memory. */
    if (ref_page(q, cluster, &never.wait, &page, &index) == 0 && page) {
        q_ref_set(page->data, index, q->h.refcount_order, 1);
        q_page_dirty(page);
    }
}

/* A larger table that covers entry `table` and itself: blocks first, then the table, all new. */
static int grow_table(struct qcow2 *q, uint64_t table)
{
    uint64_t base = table << ref_bits(q), per = BIT(ref_bits(q)), blocks = 1, clusters, want;
    uint64_t *bigger;

    do {
        want = blocks;
        clusters = align_up(max_u64(table + blocks + 1, (uint64_t)q->reftable_size * 2) * 8,
                            q->cluster_size) >>
                   q->cluster_bits;
        blocks = (clusters + want + per - 1) / per;
    } while (blocks > want);
    if (clusters << q->cluster_bits > Q_REFTABLE_MAX)
        return -EFBIG;
    bigger = aligned_alloc(4096, align_up(clusters << q->cluster_bits, 4096));
    if (!bigger)
        return -ENOMEM;
    memset(bigger, 0, clusters << q->cluster_bits);
    memcpy(bigger, q->reftable, (size_t)q->reftable_size * 8);
    free(q->reftable);
    q->reftable = bigger;
    q->reftable_size = (uint32_t)((clusters << q->cluster_bits) / 8);
    for (uint64_t i = 0; i < want; i++)
        if (!make_block(q, table + i, base + i))
            return -ENOMEM;
    for (uint64_t i = 0; i < want + clusters; i++)
        count_new(q, base + i);
    q_free(q, q->h.reftable_offset, q->h.reftable_clusters);
    q->h.reftable_offset = (base + want) << q->cluster_bits;
    q->h.reftable_clusters = (uint32_t)clusters;
    q->reftable_moved = true;
    q->virgin = max_u64(q->virgin, (base + want + clusters) << q->cluster_bits);
    return 0;
}

static int new_block(struct qcow2 *q, uint64_t cluster)
{
    uint64_t table = cluster >> ref_bits(q), at = table << ref_bits(q);

    if (table >= q->reftable_size)
        return grow_table(q, table);
    if (q_overlaps(q, at << q->cluster_bits, q->cluster_size))
        return q_corrupt_now(q, "a free cluster holds a table", at << q->cluster_bits);
    if (!make_block(q, table, at))
        return -ENOMEM;
    count_new(q, at);
    q->virgin = max_u64(q->virgin, (at + 1) << q->cluster_bits);
    return 0;
}

bool q_overlaps(const struct qcow2 *q, uint64_t offset, uint64_t length)
{
    const struct q_header *h = &q->h;
    const uint64_t table[][2] = {
        {0, q->cluster_size},
        {h->l1_offset, (uint64_t)h->l1_size * 8},
        {h->reftable_offset, (uint64_t)h->reftable_clusters << q->cluster_bits},
        {h->snapshots_offset, (uint64_t)h->snapshot_count * 40},
        {h->bitmaps_offset, h->bitmaps_size},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
        if (table[i][1] && offset < table[i][0] + table[i][1] && table[i][0] < offset + length)
            return true;
    return false;
}

int64_t q_take(struct qcow2 *q, uint64_t want, struct q_wait *w, uint64_t *offset, bool *virgin)
{
    for (uint64_t c = q->free_hint;;) {
        struct q_page *page;
        uint64_t index, per_page, n = 0;
        int failed = ref_page(q, c, w, &page, &index);

        q->free_hint = c;
        if (failed)
            return failed > 0 ? 0 : failed;
        if (!page) {
            failed = new_block(q, c);
            if (failed)
                return failed;
            continue;
        }
        per_page = ((uint64_t)q->cache.page_size * 8) >> q->h.refcount_order;
        while (index < per_page && q_ref_get(page->data, index, q->h.refcount_order))
            index++, c++;
        if (c >> (56 - q->cluster_bits))
            return -EFBIG;
        while (index + n < per_page && n < want &&
               !q_ref_get(page->data, index + n, q->h.refcount_order))
            n++;
        if (!n)
            continue;
        *offset = c << q->cluster_bits;
        if (q_overlaps(q, *offset, n << q->cluster_bits))
            return q_corrupt_now(q, "a free cluster holds a table", *offset);
        for (uint64_t i = 0; i < n; i++)
            q_ref_set(page->data, index + i, q->h.refcount_order, 1);
        q_page_dirty(page);
        *virgin = *offset >= q->virgin;
        q->virgin = max_u64(q->virgin, (c + n) << q->cluster_bits);
        q->free_hint = c + n;
        return (int64_t)n;
    }
}

/* One more for a cluster in use (compressed data shares clusters). 0, 1 or -errno. */
int q_ref_more(struct qcow2 *q, uint64_t offset, struct q_wait *w)
{
    struct q_page *page;
    uint64_t index, count;
    int failed = ref_page(q, offset >> q->cluster_bits, w, &page, &index);

    if (failed)
        return failed;
    count = page ? q_ref_get(page->data, index, q->h.refcount_order) : 0;
    if (!count || count == q_ref_max(q))
        return -EAGAIN;
    q_ref_set(page->data, index, q->h.refcount_order, count + 1);
    q_page_dirty(page);
    return 0;
}

/* The count of a cluster, raised by one if asked; waits. */
int q_ref_wait(struct qcow2 *q, uint64_t cluster, bool more, uint64_t *count)
{
    struct q_page *page;
    struct q_sleep s;
    uint64_t index = 0;
    int got;

    do {
        q_sleep_init(&s);
        got = ref_page(q, cluster, &s.wait, &page, &index);
        if (got > 0)
            got = q_sleep(q, &s);
    } while (got > 0);
    if (got)
        return got;
    *count = page ? q_ref_get(page->data, index, q->h.refcount_order) : 0;
    if (!more || !page)
        return 0;
    if (*count == q_ref_max(q))
        return -ERANGE;
    q_ref_set(page->data, index, q->h.refcount_order, *count + 1);
    q_page_dirty(page);
    return 0;
}

/* ---- giving back ---- */

static bool frees_add(struct q_frees *f, uint64_t first, uint64_t count)
{
    struct q_free *last = f->count ? &f->item[f->count - 1] : NULL;

    if (last && last->first + last->count == first) {
        last->count += count;
        return true;
    }
    if (f->count == f->room) {
        unsigned room = f->room ? f->room * 2 : 64;
        struct q_free *more = realloc(f->item, room * sizeof *more);

        if (!more)
            return false; /* leaked: check gives it back */
        f->item = more;
        f->room = room;
    }
    f->item[f->count++] = (struct q_free){first, count};
    return true;
}

void q_free(struct qcow2 *q, uint64_t offset, uint64_t clusters)
{
    if (q->compress_at && q->compress_at >= offset &&
        q->compress_at <= offset + (clusters << q->cluster_bits))
        q->compress_at = 0;
    frees_add(&q->frees, offset >> q->cluster_bits, clusters);
}

void q_frees_move(struct q_frees *to, struct q_frees *from)
{
    for (unsigned i = 0; i < from->count; i++)
        frees_add(to, from->item[i].first, from->item[i].count);
    from->count = 0;
}

static void release_step(struct qcow2 *q);

static void release_resumed(struct q_wait *w)
{
    struct qcow2 *q = container_of(w, struct qcow2, release_wait);

    q->release_waiting = false;
    if (w->error)
        q->releasing.count = 0; /* unreadable refcounts: leaked */
    release_step(q);
}

/* The hole is there (or there cannot be one): the clusters may be taken again. */
static void release_run(struct qcow2 *q)
{
    struct q_page *page = q->release_page;

    for (uint64_t i = 0; i < q->release_count; i++)
        q_ref_set(page->data, q->release_index + i, q->h.refcount_order, 0);
    q_page_dirty(page);
    page->pins--;
    q_cache_drop(q, q->release_first << q->cluster_bits, q->release_count << q->cluster_bits);
    q->free_hint = min_u64(q->free_hint, q->release_first);
    q->unpacked_from = 0;
}

static void hole_made(struct block_req *req, int result)
{
    struct qcow2 *q = container_of(req, struct qcow2, release_req);

    (void)result;
    release_run(q);
    q->release_waiting = false;
    release_step(q);
}

static void release_hole(struct qcow2 *q)
{
    q->release_page->pins++;
    if (!q->b->under->can_discard) {
        release_run(q);
        return;
    }
    q->release_waiting = true;
    q->release_req = (struct block_req){.op = BLOCK_DISCARD,
                                        .offset = q->release_first << q->cluster_bits,
                                        .length = q->release_count << q->cluster_bits,
                                        .done = hole_made};
    block_pass(q->b->under, &q->release_req);
}

/* Clusters [first, first + n) of the last item, as far as one page counts them alike. */
static int release_some(struct qcow2 *q, struct q_free *f)
{
    unsigned order = q->h.refcount_order;
    struct q_page *page;
    uint64_t index, count, n = 1, per_page = ((uint64_t)q->cache.page_size * 8) >> order;
    int failed = ref_page(q, f->first, &q->release_wait, &page, &index);

    if (failed) {
        q->release_waiting = failed > 0;
        if (failed < 0)
            f->count = 0;
        return failed;
    }
    count = page ? q_ref_get(page->data, index, order) : 0;
    if (count == 1) {
        while (n < f->count && index + n < per_page && q_ref_get(page->data, index + n, order) == 1)
            n++;
        q->release_page = page;
        q->release_index = index;
        q->release_first = f->first;
        q->release_count = n;
    } else if (count) {
        q_ref_set(page->data, index, order, count - 1);
        q_page_dirty(page);
    }
    f->first += n;
    f->count -= n;
    if (count == 1)
        release_hole(q);
    return 0;
}

static void release_step(struct qcow2 *q)
{
    if (q->release_busy)
        return;
    q->release_busy = true;
    while (q->releasing.count && !q->release_waiting) {
        struct q_free *f = &q->releasing.item[q->releasing.count - 1];

        if (!f->count)
            q->releasing.count--;
        else
            release_some(q, f);
    }
    q->release_busy = false;
}

void q_drain_check(struct qcow2 *q)
{
    if (q->draining.count && q->epoch_count[!q->epoch] == 0)
        q_frees_move(&q->releasing, &q->draining);
    if (!q->draining.count && q->drain_next.count) {
        q_frees_move(&q->draining, &q->drain_next);
        q->epoch = !q->epoch;
        if (q->epoch_count[!q->epoch] == 0)
            q_frees_move(&q->releasing, &q->draining);
    }
    release_step(q);
}

void q_refcount_open(struct qcow2 *q)
{
    q->release_wait.resume = release_resumed;
    list_init(&q->release_wait.link);
}
