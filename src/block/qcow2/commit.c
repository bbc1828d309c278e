/* SPDX-License-Identifier: MIT */
/* Making metadata durable, in the order that keeps every state on disk whole:
 *
 *   1  refcount blocks (and a refcount table that moved), then a sync. Data and new L2 tables were
 *      written before; the same sync covers them
 *   2  the refcount table's entries, or the header if it moved, then a sync; seldom needed
 *   3  L2 tables and L1 entries, then a sync
 *
 * What a later step refers to is durable before the step begins, so whatever subset of a step's
 * writes a power cut leaves, nothing refers to what is not there; at worst counted clusters are
 * used by nobody (leaks). Clusters that became free wait until 3 is over (refcount.c).
 *
 * A commit copies the dirty pages when it begins; requests go on changing pages meanwhile, for the
 * next commit. One runs at a time. Flushes that arrive during one share the next. */
#include "block/qcow2/qcow2.h"
#include <errno.h>
#include <stdlib.h>

struct q_write {
    struct block_req req;
    struct iovec iov;
    struct q_commit *commit;
    struct q_page *page; /* NULL: part of the L1 or refcount table, or the header */
    unsigned step;
    uint8_t copy[];
};

static void step_begin(struct q_commit *c);

static void put(struct q_commit *c)
{
    if (--c->pending)
        return;
    if (c->syncing) {
        c->syncing = false;
        c->step++;
    }
    step_begin(c);
}

static void written(struct block_req *req, int result)
{
    struct q_write *w = container_of(req, struct q_write, req);

    if (result && !w->commit->error)
        w->commit->error = result;
    put(w->commit);
}

static void synced(struct block_req *req, int result)
{
    struct q_commit *c = container_of(req, struct q_commit, sync);

    if (result && !c->error)
        c->error = result;
    put(c);
}

static void data_synced(struct block_req *req, int result)
{
    struct q_commit *c = container_of(req, struct q_commit, data_sync);

    if (result && !c->error)
        c->error = result;
    put(c);
}

static struct q_write *add(struct q_commit *c, unsigned step, uint64_t offset, const void *data,
                           size_t length)
{
    struct q_write *w;

    if (c->count == c->room) {
        unsigned room = c->room ? c->room * 2 : 64;
        struct q_write **more = realloc(c->write, room * sizeof *more);

        if (!more)
            return NULL;
        c->write = more;
        c->room = room;
    }
    w = aligned_alloc(4096, align_up(sizeof *w + length, 4096));
    if (!w)
        return NULL;
    *w = (struct q_write){.commit = c, .step = step};
    memcpy(w->copy, data, length);
    w->iov = (struct iovec){w->copy, length};
    w->req = (struct block_req){.op = BLOCK_WRITE,
                                .offset = offset,
                                .length = length,
                                .iov = &w->iov,
                                .iov_count = 1,
                                .done = written};
    c->write[c->count++] = w;
    return w;
}

/* A range of a table in host order, whole sectors. */
static bool add_table(struct q_commit *c, unsigned step, uint64_t offset, const uint64_t *table,
                      uint64_t from, uint64_t count, uint64_t entries)
{
    uint64_t buffer[64];

    for (uint64_t i = align_down(from, 64); i < from + count; i += 64) {
        for (unsigned k = 0; k < 64; k++)
            buffer[k] = i + k < entries ? __builtin_bswap64(table[i + k]) : 0;
        if (!add(c, step, offset + i * 8, buffer, sizeof buffer))
            return false;
    }
    return true;
}

static bool take_pages(struct qcow2 *q, struct q_commit *c)
{
    list_for(i, &q->cache.lru)
    {
        struct q_page *p = container_of(i, struct q_page, lru);
        struct q_write *w;

        if (!p->dirty)
            continue;
        w = add(c, p->kind == Q_PAGE_REF ? 1 : 3, p->offset, p->data, q->cache.page_size);
        if (!w)
            return false;
        w->page = p;
        p->writing = true;
        p->dirty = false;
        q->cache.dirty--;
    }
    return true;
}

static bool take_tables(struct qcow2 *q, struct q_commit *c)
{
    if (q->reftable_moved) {
        if (!add_table(c, 1, q->h.reftable_offset, q->reftable, 0, q->reftable_size,
                       q->reftable_size))
            return false;
        put_be64(q->head + 48, q->h.reftable_offset);
        put_be32(q->head + 56, q->h.reftable_clusters);
        if (!add(c, 2, 0, q->head, Q_HEAD))
            return false;
    } else if (q->reftable_dirty && !add_table(c, 2, q->h.reftable_offset, q->reftable, 0,
                                               q->reftable_size, q->reftable_size)) {
        return false;
    }
    for (uint64_t i = 0; i < q->l1_size; i += 64)
        if (q->l1_dirty[i / 64] && !add_table(c, 3, q->h.l1_offset, q->l1, i, 64, q->l1_size))
            return false;
    c->moved = q->reftable_moved;
    c->retable = q->reftable_dirty;
    q->reftable_moved = q->reftable_dirty = false;
    memset(q->l1_dirty, 0, q->l1_size / 64 + 1);
    return true;
}

static void commit_end(struct q_commit *c);

static bool step_has_writes(const struct q_commit *c)
{
    for (unsigned i = 0; i < c->count; i++)
        if (c->write[i]->step == c->step)
            return true;
    return false;
}

static void sync_begin(struct q_commit *c)
{
    struct block *under = c->q->b->under, *data = c->q->b->data;

    c->syncing = true;
    c->pending = 1;
    c->sync = (struct block_req){.op = BLOCK_FLUSH, .done = synced};
    if (data && c->step == 1) { /* what the L2 entries to come refer to */
        c->pending++;
        c->data_sync = (struct block_req){.op = BLOCK_FLUSH, .done = data_synced};
        block_pass(data, &c->data_sync);
    }
    block_pass(under, &c->sync);
}

static void step_begin(struct q_commit *c)
{
    if (c->error) {
        commit_end(c);
        return;
    }
    if (c->written == c->step) { /* this step's writes are done */
        sync_begin(c);
        return;
    }
    /* Step 1 syncs even if it writes nothing: data is what it makes durable. */
    while (c->step <= 3 && c->step != 1 && !step_has_writes(c))
        c->step++;
    if (c->step > 3) {
        commit_end(c);
        return;
    }
    c->written = c->step;
    c->pending = 1;
    for (unsigned i = 0; i < c->count; i++) {
        if (c->write[i]->step == c->step) {
            c->pending++;
            block_pass(c->q->b->under, &c->write[i]->req);
        }
    }
    put(c);
}

/* What was not made durable is dirty again. */
static void take_back(struct qcow2 *q, struct q_commit *c)
{
    for (unsigned i = 0; i < c->count; i++)
        if (c->write[i]->page)
            q_page_dirty(c->write[i]->page);
    memset(q->l1_dirty, 1, q->l1_size / 64 + 1);
    q->reftable_moved |= c->moved;
    q->reftable_dirty |= c->retable;
    q_frees_move(&q->frees, &c->frees);
}

static void commit_end(struct q_commit *c)
{
    struct qcow2 *q = c->q;
    struct list served;
    int error = c->error;

    for (unsigned i = 0; i < c->count; i++)
        if (c->write[i]->page)
            c->write[i]->page->writing = false;
    if (error)
        take_back(q, c);
    else
        q_frees_move(&q->drain_next, &c->frees);
    for (unsigned i = 0; i < c->count; i++)
        free(c->write[i]);
    c->count = 0;
    c->running = false;
    q_drain_check(q);
    list_init(&served);
    if (!list_empty(&c->served)) {
        list_add(&c->served, &served);
        list_remove(&c->served);
    }
    if (!list_empty(&c->waits))
        q_commit(q, NULL);
    q_resume_all(&served, error);
}

static void run(struct call *call)
{
    struct q_commit *c = container_of(call, struct q_commit, call);
    struct qcow2 *q = c->q;

    if (c->running)
        return;
    c->running = true;
    c->error = 0;
    c->step = 1;
    c->written = 0;
    while (!list_empty(&c->waits)) {
        struct list *w = c->waits.next;

        list_remove(w);
        list_add(&c->served, w);
    }
    q_frees_move(&c->frees, &q->frees);
    if (!take_pages(q, c) || !take_tables(q, c))
        c->error = -ENOMEM;
    step_begin(c);
}

void q_commit(struct qcow2 *q, struct q_wait *w)
{
    if (w)
        list_add(&q->commit.waits, &w->link);
    if (!q->commit.running)
        loop_post(q->b->loop, &q->commit.call);
}

bool q_is_clean(const struct qcow2 *q)
{
    const struct q_commit *c = &q->commit;

    return !c->running && !c->call.posted && !q->cache.dirty && !q->frees.count &&
           !q->draining.count && !q->drain_next.count && !q->releasing.count &&
           !q->release_waiting && !q->reftable_dirty && !q->reftable_moved &&
           !memchr(q->l1_dirty, 1, q->l1_size / 64 + 1);
}

void q_commit_open(struct qcow2 *q)
{
    q->commit.q = q;
    q->commit.call.run = run;
    list_init(&q->commit.waits);
    list_init(&q->commit.served);
}

int q_settle(struct qcow2 *q)
{
    struct q_sleep s;
    int got;

    for (unsigned tries = 0; tries < 8; tries++) {
        q_sleep_init(&s);
        q_commit(q, &s.wait);
        got = q_sleep(q, &s);
        if (got < 0)
            return got;
        while (q->releasing.count || q->release_waiting)
            loop_turn(q->b->loop, UINT64_MAX);
        if (q_is_clean(q))
            return 0;
    }
    return 0;
}
