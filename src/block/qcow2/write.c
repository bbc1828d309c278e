/* SPDX-License-Identifier: MIT */
/* Writes. Clusters (or subclusters) that are ours alone are written in place. For all others a
 * q_alloc is made: it takes clusters, reads what the write leaves of the old contents (head and
 * tail), writes all in one go, and only then changes the L2 entries, in memory:
 *
 *   take clusters -> read head, tail -> write -> L2 entries -> old clusters freed
 *
 * Other writers of these guest clusters wait for it; readers see the old contents until the end. */
#include "block/qcow2/alloc.h"
#include <errno.h>
#include <stdlib.h>

enum { RUN_BYTES = 4 << 20, ZERO_CHUNK = 65536, ZERO_PIECE = 1 << 20 };

static uint8_t zeroes[ZERO_CHUNK] __attribute__((aligned(4096)));

struct q_alloc *q_alloc_at(struct qcow2 *q, uint64_t offset)
{
    list_for(i, &q->allocs)
    {
        struct q_alloc *a = container_of(i, struct q_alloc, link);

        if (offset >= a->first && offset - a->first < a->count << q->cluster_bits)
            return a;
    }
    return NULL;
}

void q_alloc_wait(struct q_alloc *a, struct q_wait *w)
{
    list_add(&a->waits, &w->link);
}

/* ---- L2 tables of our own ---- */

struct q_table { /* one being made */
    struct list link, waits;
    struct qcow2 *q;
    uint64_t index, old, host;
    struct block_req req;
    struct iovec iov;
    uint8_t *data;
};

static void table_end(struct q_table *t, int error)
{
    struct qcow2 *q = t->q;
    struct list waits;

    list_remove(&t->link);
    if (error) {
        q_free(q, t->host, 1);
    } else {
        if (t->old)
            q_free(q, t->old, 1);
        q->l1[t->index] = t->host | Q_COPIED;
        q->l1_dirty[t->index / 64] = 1;
    }
    list_init(&waits);
    if (!list_empty(&t->waits)) {
        list_add(&t->waits, &waits);
        list_remove(&t->waits);
    }
    free(t->data);
    free(t);
    q_resume_all(&waits, error);
}

static void table_written(struct block_req *req, int result)
{
    table_end(container_of(req, struct q_table, req), result);
}

static void table_write(struct q_table *t)
{
    t->req.op = BLOCK_WRITE;
    t->req.offset = t->host;
    t->req.done = table_written;
    block_pass(t->q->b->under, &t->req);
}

/* Entries of a shared table are shared too: their flags were cleared when it was shared. */
static void table_read(struct block_req *req, int result)
{
    struct q_table *t = container_of(req, struct q_table, req);

    if (result)
        table_end(t, result);
    else
        table_write(t);
}

static int table_begin(struct qcow2 *q, uint64_t index, uint64_t old, struct q_wait *w)
{
    struct q_table *t;
    uint64_t host;
    bool virgin;
    int64_t got = q_take(q, 1, w, &host, &virgin);

    if (got <= 0)
        return got ? (int)got : 1;
    t = calloc(1, sizeof *t);
    if (t)
        t->data = aligned_alloc(4096, align_up(q->cluster_size, 4096));
    if (!t || !t->data) {
        free(t);
        q_free(q, host, 1);
        return -ENOMEM;
    }
    memset(t->data, 0, q->cluster_size);
    t->q = q;
    t->index = index;
    t->old = old;
    t->host = host;
    t->iov = (struct iovec){t->data, q->cluster_size};
    t->req = (struct block_req){.op = BLOCK_READ,
                                .offset = old,
                                .length = q->cluster_size,
                                .iov = &t->iov,
                                .iov_count = 1,
                                .done = table_read};
    list_init(&t->waits);
    list_add(&t->waits, &w->link);
    list_add(&q->tables, &t->link);
    if (old)
        block_pass(q->b->under, &t->req);
    else
        table_write(t);
    return 1;
}

int q_own_table(struct qcow2 *q, uint64_t offset, struct q_wait *w, uint64_t *table)
{
    uint64_t index = offset >> (q->cluster_bits + q->l2_bits);
    bool copied;
    int failed = q_l2_offset(q, offset, table, &copied);

    if (failed || (*table && copied))
        return failed;
    list_for(i, &q->tables)
    {
        struct q_table *t = container_of(i, struct q_table, link);

        if (t->index == index) {
            list_add(&t->waits, &w->link);
            return 1;
        }
    }
    return table_begin(q, index, *table, w);
}

/* ---- the end of an allocation ---- */

void q_free_entry(struct qcow2 *q, uint64_t entry)
{
    if (q->h.incompatible & Q_INCOMPAT_DATA_FILE)
        return;
    if (entry & Q_COMPRESSED) {
        uint64_t length, offset = q_packed_offset(q, entry, &length);
        uint64_t first = align_down(offset, q->cluster_size);

        q_free(q, first, (align_up(offset + length, q->cluster_size) - first) >> q->cluster_bits);
    } else if (entry & Q_OFFSET_MASK) {
        q_free(q, entry & Q_OFFSET_MASK, 1);
    }
}

/* The subclusters that [from, to) touches within the cluster at `cluster`. */
static uint64_t touched(const struct qcow2 *q, uint64_t cluster, uint64_t from, uint64_t to)
{
    uint64_t low = from > cluster ? (from - cluster) >> q->sub_bits : 0;
    uint64_t high = (min_u64(to - cluster, q->cluster_size) + BIT(q->sub_bits) - 1) >> q->sub_bits;

    return (BIT(high) - 1) & ~(BIT(low) - 1);
}

static void link_entries(struct q_alloc *a)
{
    struct qcow2 *q = a->q;

    for (uint64_t i = 0; i < a->count; i++) {
        uint8_t *p = a->page->data + a->at + i * q->entry_size;
        uint64_t old = be64(p), guest = a->first + (i << q->cluster_bits);

        if (a->taken || a->pack)
            q_free_entry(q, old);
        put_be64(p, a->pack ? a->descriptor : (a->host + (i << q->cluster_bits)) | Q_COPIED);
        if (q->subs > 1) {
            uint64_t bits = (old & Q_COMPRESSED) ? 0 : be64(p + 8);
            uint64_t now = a->whole ? UINT32_MAX : touched(q, guest, a->from, a->to);

            put_be64(p + 8, a->pack ? 0 : (bits | now) & ~(now << 32));
        }
    }
    q_page_dirty(a->page);
}

void q_alloc_end(struct q_alloc *a)
{
    struct q_req *r = a->owner;
    struct list waits;
    int error = a->error;

    if (!error)
        link_entries(a);
    else if (a->taken)
        q_free(a->q, a->host, a->count);
    a->page->pins--;
    list_remove(&a->link);
    list_init(&waits);
    if (!list_empty(&a->waits)) {
        list_add(&a->waits, &waits);
        list_remove(&a->waits);
    }
    free(a->head);
    free(a->tail);
    free(a);
    q_resume_all(&waits, 0);
    q_req_put(r, error);
}

static void alloc_written(struct block_req *req, int result)
{
    struct q_alloc *a = container_of(req, struct q_alloc, req);

    a->error = result;
    q_alloc_end(a);
}

/* Head and tail are here. */
static void alloc_write(struct q_alloc *a)
{
    struct block *b = a->q->b;

    if (a->error) {
        q_alloc_end(a);
        return;
    }
    a->req.op = BLOCK_WRITE;
    a->req.offset = a->host + (a->from - a->first);
    a->req.length = a->to - a->from;
    a->req.done = alloc_written;
    block_pass(b->data ? b->data : b->under, &a->req);
}

static void alloc_put(struct q_alloc *a, int result)
{
    if (result && !a->error)
        a->error = result;
    if (--a->pending == 0)
        alloc_write(a);
}

static void head_read(struct block_req *req, int result)
{
    alloc_put(container_of(req, struct q_alloc, head_req), result);
}

static void tail_read(struct block_req *req, int result)
{
    alloc_put(container_of(req, struct q_alloc, tail_req), result);
}

/* ---- the beginning ---- */

static int zero_iov(struct iovec *iov, uint64_t length)
{
    int n = 0;

    for (; length; n++) {
        iov[n] = (struct iovec){zeroes, min_u64(length, ZERO_CHUNK)};
        length -= iov[n].iov_len;
    }
    return n;
}

static bool reads_as_zero(struct q_req *r, uint64_t from, uint64_t to)
{
    struct q_map m;

    while (from < to) {
        if (q_lookup(r->q, from, to - from, &r->wait, &m) != 0) {
            list_remove(&r->wait.link);
            return false;
        }
        if (m.kind != Q_ZERO && (m.kind != Q_NONE || r->q->b->backing))
            return false;
        from += m.length;
    }
    return true;
}

/* The old contents of [offset, end), zero beyond the disk, into *buffer. */
static bool old_contents(struct q_alloc *a, uint64_t offset, uint64_t end, uint8_t **buffer,
                         struct block_req *req, struct iovec *iov,
                         void (*done)(struct block_req *, int))
{
    struct block *b = a->q->b;
    uint64_t there = offset < b->size ? min_u64(end, b->size) - offset : 0;

    if (end == offset)
        return true;
    *buffer = aligned_alloc(4096, align_up(end - offset, 4096));
    if (!*buffer)
        return false;
    memset(*buffer + there, 0, end - offset - there);
    if (!there)
        return true;
    *iov = (struct iovec){*buffer, there};
    *req = (struct block_req){.op = BLOCK_READ,
                              .flags = BLOCK_REQ_INTERNAL,
                              .offset = offset,
                              .length = there,
                              .iov = iov,
                              .iov_count = 1,
                              .done = done};
    return true;
}

static void alloc_begin(struct q_alloc *a)
{
    struct q_req *r = a->owner;
    struct block *b = a->q->b;
    uint64_t length = a->data_to - a->data_from;
    int n = 0;

    if (!old_contents(a, a->from, a->data_from, &a->head, &a->head_req, &a->head_iov, head_read) ||
        !old_contents(a, a->data_to, a->to, &a->tail, &a->tail_req, &a->tail_iov, tail_read))
        a->error = -ENOMEM;
    if (a->head)
        a->iov[n++] = (struct iovec){a->head, a->data_from - a->from};
    n += r->req->op == BLOCK_WRITE ? q_iov_slice(r->req->iov, r->req->iov_count,
                                                 a->data_from - r->req->offset, length, a->iov + n)
                                   : zero_iov(a->iov + n, length);
    if (a->tail)
        a->iov[n++] = (struct iovec){a->tail, a->to - a->data_to};
    a->req.iov = a->iov;
    a->req.iov_count = n;
    a->pending = 1;
    r->pending++;
    if (!a->error && a->head_req.length) {
        a->pending++;
        block_pass(b, &a->head_req);
    }
    if (!a->error && a->tail_req.length) {
        a->pending++;
        block_pass(b, &a->tail_req);
    }
    if (!a->error)
        alloc_put(a, 0);
    else
        q_alloc_end(a);
}

/* May the entry be written over without taking a cluster? Only for data that is there already. */
static bool is_in_place(const struct q_map *m)
{
    return m->kind == Q_DATA && m->copied;
}

/* How many clusters from r->at on need clusters of their own, all of one kind, entries in a row. */
static uint64_t run_length(struct q_req *r, const struct q_page *page, unsigned at, uint64_t to)
{
    struct qcow2 *q = r->q;
    uint64_t first = align_down(r->at, q->cluster_size), n = 1;
    uint64_t limit = max_u64(RUN_BYTES >> q->cluster_bits, 1);

    for (; n < limit && first + (n << q->cluster_bits) < to; n++) {
        struct q_map m;
        unsigned entry = at + (unsigned)n * q->entry_size;

        if (entry >= q->cache.page_size || q_alloc_at(q, first + (n << q->cluster_bits)) ||
            q_decode(q, page->data + entry, 0, &m) || (m.allocated && m.copied) ||
            (q->subs > 1 && (m.allocated || m.kind == Q_PACKED)))
            break;
    }
    return n;
}

struct q_alloc *q_alloc_new(struct q_req *r, struct q_page *page, unsigned at, uint64_t count)
{
    struct qcow2 *q = r->q;
    size_t iovs = (size_t)r->req->iov_count + 2 + ZERO_PIECE / ZERO_CHUNK + 2;
    struct q_alloc *a = malloc(sizeof *a + iovs * sizeof a->iov[0]);

    if (!a)
        return NULL;
    memset(a, 0, sizeof *a);
    a->owner = r;
    a->q = q;
    a->first = align_down(r->at, q->cluster_size);
    a->count = count;
    a->page = page;
    a->at = at;
    page->pins++;
    list_init(&a->waits);
    list_add(&q->allocs, &a->link);
    return a;
}

/* What must be copied around the data: to subclusters where the rest may stay as it is. */
static void set_bounds(struct q_alloc *a, uint64_t to, bool whole, bool virgin)
{
    struct q_req *r = a->owner;
    struct qcow2 *q = a->q;
    uint64_t unit = whole ? q->cluster_size : BIT(q->sub_bits);

    a->data_from = r->at;
    a->data_to = min_u64(to, a->first + (a->count << q->cluster_bits));
    a->from = align_down(a->data_from, unit);
    a->to = align_up(a->data_to, unit);
    a->whole = whole;
    if (virgin && reads_as_zero(r, a->from, a->data_from))
        a->from = a->data_from;
    if (virgin && reads_as_zero(r, a->data_to, min_u64(a->to, q->b->size)))
        a->to = a->data_to;
}

static int alloc_piece(struct q_req *r, struct q_page *page, unsigned at, const struct q_map *m,
                       uint64_t to)
{
    struct qcow2 *q = r->q;
    bool external = q->b->data != NULL, reuse = m->allocated && m->copied, virgin = false;
    bool whole = q->subs == 1 || (!reuse && (m->allocated || m->kind == Q_PACKED));
    uint64_t count = reuse || whole != (q->subs == 1) ? 1 : run_length(r, page, at, to), host;
    struct q_alloc *a;

    if (reuse) { /* up to data that others may be writing in place */
        to = min_u64(to, r->at + m->length);
        host = be64(page->data + at) & Q_OFFSET_MASK;
        if (!external && q_overlaps(q, host, q->cluster_size))
            return q_corrupt_now(q, "guest data lies over a table", host);
    } else if (external) {
        host = align_down(r->at, q->cluster_size);
    } else {
        int64_t got;

        page->pins++;
        got = q_take(q, count, &r->wait, &host, &virgin);
        page->pins--;
        if (got <= 0)
            return got ? (int)got : 1;
        count = (uint64_t)got;
    }
    a = q_alloc_new(r, page, at, count);
    if (!a) {
        if (!reuse && !external)
            q_free(q, host, count);
        return -ENOMEM;
    }
    a->host = host;
    a->taken = !reuse && !external;
    set_bounds(a, to, whole, virgin);
    r->at = a->data_to;
    alloc_begin(a);
    return 0;
}

static void part_written(struct block_req *req, int result)
{
    q_part_end(container_of(req, struct q_part, req), result);
}

static int write_in_place(struct q_req *r, const struct q_map *m)
{
    struct qcow2 *q = r->q;
    struct q_part *p;

    if (!q->b->data && q_overlaps(q, m->host, m->length))
        return q_corrupt_now(q, "guest data lies over a table", m->host);
    p = q_part_new(r, m->length);
    if (!p)
        return -ENOMEM;
    if (r->req->op != BLOCK_WRITE)
        p->req.iov_count = zero_iov(p->iov, m->length);
    p->req.op = BLOCK_WRITE;
    p->req.offset = m->host;
    p->req.done = part_written;
    r->at += m->length;
    block_pass(q->b->data ? q->b->data : q->b->under, &p->req);
    return 0;
}

int q_write_piece(struct q_req *r, uint64_t to)
{
    struct qcow2 *q = r->q;
    struct q_alloc *busy;
    struct q_page *page;
    struct q_map m;
    uint64_t table;
    unsigned at;
    int failed;

    if (r->req->op != BLOCK_WRITE)
        to = min_u64(to, r->at + ZERO_PIECE);
    failed = q_own_table(q, r->at, &r->wait, &table);
    if (failed)
        return failed;
    failed = q_l2_page(q, table, r->at, &r->wait, &page, &at);
    if (failed)
        return failed;
    failed = q_lookup(q, r->at, to - r->at, &r->wait, &m);
    if (failed)
        return failed;
    if (is_in_place(&m))
        return write_in_place(r, &m);
    busy = q_alloc_at(q, r->at);
    if (busy) {
        q_alloc_wait(busy, &r->wait);
        return 1;
    }
    return alloc_piece(r, page, at, &m, to);
}

void q_write_step(struct q_req *r)
{
    while (r->at < r->end && !r->error) {
        int failed = (r->req->flags & BLOCK_REQ_COMPRESS) && !r->q->b->data
                         ? q_pack_piece(r)
                         : q_write_piece(r, r->end);

        if (failed > 0)
            return;
        r->error = failed;
    }
    q_req_put(r, 0);
}
