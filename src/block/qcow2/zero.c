/* SPDX-License-Identifier: MIT */
/* Discard and write-zeroes: whole clusters (and subclusters) by changing their entries, what is
 * left over at the edges by writing zeroes, or not at all for a discard, which is advice.
 *
 *   discard, zeroes that may unmap     no cluster any more: nothing, or a zero mark over a backing
 * file zeroes that must stay allocated    the cluster kept, with a zero mark
 *
 * Version 2 has no zero mark: over a backing file zeroes are written and discards ignored. */
#include "block/qcow2/qcow2.h"
#include <errno.h>
#include <stdlib.h>

static bool must_write(const struct qcow2 *q)
{
    return (q->h.version < 3 && q->b->backing) || (q->h.autoclear & Q_AUTOCLEAR_DATA_RAW);
}

static bool may_free(const struct q_req *r)
{
    return r->req->op == BLOCK_DISCARD || (r->req->flags & BLOCK_REQ_UNMAP);
}

/* The whole cluster behind `p` becomes zeroes. */
static void clear_cluster(struct q_req *r, struct q_page *page, uint8_t *p)
{
    struct qcow2 *q = r->q;
    uint64_t old = be64(p), now = 0, bits = 0;
    bool keep = !may_free(r) && !(old & Q_COMPRESSED) && (old & Q_COPIED) && q->h.version >= 3;

    if (keep)
        now = old;
    if (q->h.version >= 3 && (keep || q->b->backing)) {
        now |= q->subs > 1 ? 0 : Q_ZERO_FLAG;
        bits = (uint64_t)UINT32_MAX << 32;
    }
    if (old == now && (q->subs == 1 || bits == be64(p + 8)))
        return;
    put_be64(p, now);
    if (q->subs > 1)
        put_be64(p + 8, bits);
    q_page_dirty(page);
    if (!keep)
        q_free_entry(q, old);
}

static void clear_subclusters(struct q_req *r, struct q_page *page, uint8_t *p, uint64_t to)
{
    struct qcow2 *q = r->q;
    unsigned low = (unsigned)(q_in_cluster(q, r->at) >> q->sub_bits);
    unsigned n = (unsigned)((to - r->at) >> q->sub_bits);
    uint64_t mask = (BIT(n) - 1) << low, bits = be64(p + 8);

    put_be64(p + 8, (bits & ~mask) | mask << 32);
    q_page_dirty(page);
}

/* 0, 1 (waiting) or -errno; r->at moves on. */
static int zero_piece(struct q_req *r)
{
    struct qcow2 *q = r->q;
    uint64_t cluster_end = align_down(r->at, q->cluster_size) + q->cluster_size;
    uint64_t to = min_u64(r->end, cluster_end), table;
    bool whole = q_in_cluster(q, r->at) == 0 && (to == cluster_end || to == q->b->size);
    bool subs = q->subs > 1 && ((r->at | to) & (BIT(q->sub_bits) - 1)) == 0;
    bool discard = r->req->op == BLOCK_DISCARD;
    struct q_alloc *busy = q_alloc_at(q, r->at);
    struct q_page *page;
    struct q_map m;
    unsigned at;
    int failed;

    if (busy) {
        q_alloc_wait(busy, &r->wait);
        return 1;
    }
    failed = q_lookup(q, r->at, r->end - r->at, &r->wait, &m);
    if (failed)
        return failed;
    if ((m.kind == Q_ZERO && (!discard || !m.allocated)) || (m.kind == Q_NONE && !q->b->backing)) {
        /* Zeroes already; up to the next allocation in flight. */
        r->at = min_u64(cluster_end, r->at + m.length);
        return 0;
    }
    if ((discard && (!whole || must_write(q))) || (discard && m.kind == Q_NONE && !m.allocated)) {
        r->at = to;
        return 0;
    }
    if (must_write(q) || !(whole || (subs && m.kind != Q_PACKED)))
        return q_write_piece(r, to);
    failed = q_own_table(q, r->at, &r->wait, &table);
    if (!failed)
        failed = q_l2_page(q, table, r->at, &r->wait, &page, &at);
    if (failed)
        return failed;
    if (whole)
        clear_cluster(r, page, page->data + at);
    else
        clear_subclusters(r, page, page->data + at, to);
    r->at = to;
    return 0;
}

void q_zero_step(struct q_req *r)
{
    while (r->at < r->end && !r->error) {
        int failed = zero_piece(r);

        if (failed > 0)
            return;
        r->error = failed;
    }
    q_req_put(r, 0);
}
