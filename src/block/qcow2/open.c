/* SPDX-License-Identifier: MIT */
/* The qcow2 driver's table: opening with all checks, handing requests to their step, ending them.
 */
#include "block/qcow2/qcow2.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum { CACHE_BYTES = 16 << 20, CHAIN_BYTES = 48 << 20 };

static bool qcow2_probe(const void *head, size_t len)
{
    return len >= 8 && be32(head) == Q_MAGIC && be32((const uint8_t *)head + 4) >= 2;
}

static void set_geometry(struct qcow2 *q)
{
    bool extended = q->h.incompatible & Q_INCOMPAT_EXTL2;

    q->cluster_bits = q->h.cluster_bits;
    q->cluster_size = BIT(q->cluster_bits);
    q->entry_size = extended ? 16 : 8;
    q->l2_bits = q->cluster_bits - (extended ? 4 : 3);
    q->subs = extended ? 32 : 1;
    q->sub_bits = q->cluster_bits - (extended ? 5 : 0);
}

uint64_t *q_table_read(struct qcow2 *q, uint64_t offset, uint64_t entries, struct err *err)
{
    size_t bytes = align_up(max_u64(entries, 1) * 8, 4096);
    uint64_t *t = aligned_alloc(4096, bytes);
    int failed;

    if (!t) {
        err_set(err, ENOMEM, "%s: out of memory", q->b->config.file);
        return NULL;
    }
    memset(t, 0, bytes);
    failed =
        entries ? block_run(q->b->under, BLOCK_READ, 0, offset, t, align_up(entries * 8, 512)) : 0;
    if (failed) {
        err_set(err, -failed, "%s: a table cannot be read: %s", q->b->config.file,
                strerror(-failed));
        free(t);
        return NULL;
    }
    for (uint64_t i = 0; i < entries; i++)
        t[i] = __builtin_bswap64(t[i]);
    return t;
}

/* Tables of all images of a chain stay in memory: hostile ones may not add up to much. */
static bool chain_is_modest(const struct qcow2 *q, struct err *err)
{
    uint64_t bytes = 0;

    for (const struct block *b = q->b; b; b = b->config.above) {
        const struct qcow2 *one = b->priv;

        if (b->ops == &qcow2_ops && one)
            bytes += (uint64_t)one->l1_size * 8 + (uint64_t)one->reftable_size * 8;
    }
    return bytes <= CHAIN_BYTES ||
           err_set(err, EFBIG, "%s: the tables of its chain are too large", q->b->config.file);
}

static bool load_tables(struct qcow2 *q, struct err *err)
{
    unsigned shift = q->cluster_bits + q->l2_bits;

    /* Entries beyond the disk hold a machine's saved state: only snapshots and check look there. */
    q->l1_size = (uint32_t)((q->h.size + BIT(shift) - 1) >> shift);
    if (!q->b->readonly) {
        q->l1_size = q->h.l1_size;
        q->reftable_size = (uint32_t)(((uint64_t)q->h.reftable_clusters << q->cluster_bits) / 8);
    }
    if (!chain_is_modest(q, err))
        return false;
    q->l1 = q_table_read(q, q->h.l1_offset, q->l1_size, err);
    q->l1_dirty = calloc(1, q->l1_size / 64 + 1);
    if (!q->l1 || !q->l1_dirty)
        return q->l1 ? err_set(err, ENOMEM, "%s: out of memory", q->b->config.file) : false;
    if (q->b->readonly)
        return true;
    q->reftable = q_table_read(q, q->h.reftable_offset, q->reftable_size, err);
    return q->reftable != NULL;
}

/* For writing: the damaged are mended, and what we do not keep up to date is marked as stale. */
static bool open_for_writing(struct qcow2 *q, struct err *err)
{
    struct block *b = q->b;
    struct block_check result = {0};
    uint64_t clear = q->h.autoclear & ~(uint64_t)Q_AUTOCLEAR_KNOWN;
    int failed = block_run(b->under, BLOCK_READ, 0, 0, q->head, Q_HEAD);

    q->virgin = align_up(b->under->end, q->cluster_size);
    if (!failed && clear && !b->config.repairing) {
        q->h.autoclear &= ~clear;
        put_be64(q->head + 88, q->h.autoclear);
        failed = q_head_write(q);
    }
    if (failed)
        return err_set(err, -failed, "%s: its header cannot be written: %s", b->config.file,
                       strerror(-failed));
    if (!(q->h.incompatible & Q_INCOMPAT_DIRTY) || b->config.repairing)
        return true;
    log_info("%s: was not closed properly: its refcounts are counted anew", b->config.file);
    if (q_check(q, BLOCK_FIX_LEAKS | BLOCK_FIX_ERRORS, &result, err))
        return false;
    return !result.corruptions ||
           err_set(err, EIO, "%s: is damaged beyond what can be mended by counting",
                   b->config.file);
}

static bool may_be_written(const struct qcow2 *q, struct err *err)
{
    const char *file = q->b->config.file;

    if (q->b->readonly || q->b->config.repairing)
        return true;
    if (q->h.incompatible & Q_INCOMPAT_CORRUPT)
        return err_set(
            err, EROFS,
            "%s: is marked as damaged: hull disk check --repair all mends it, readonly=on "
            "reads it",
            file);
    return true;
}

int q_head_write(struct qcow2 *q)
{
    int failed = block_run(q->b->under, BLOCK_WRITE, 0, 0, q->head, Q_HEAD);

    return failed ? failed : block_run(q->b->under, BLOCK_FLUSH, 0, 0, NULL, 0);
}

struct mark {
    struct block_req req;
    struct iovec iov;
    uint8_t head[Q_HEAD];
};

static void marked(struct block_req *req, int result)
{
    (void)result;
    free(container_of(req, struct mark, req));
}

int q_corrupt_now(struct qcow2 *q, const char *what, uint64_t where)
{
    struct mark *m;

    q_corrupt(q, what, where);
    if (q->corrupt || q->b->readonly)
        return -EIO;
    q->corrupt = true;
    if (q->h.version < 3)
        return -EIO;
    q->h.incompatible |= Q_INCOMPAT_CORRUPT;
    put_be64(q->head + 72, q->h.incompatible);
    m = aligned_alloc(4096, align_up(sizeof *m, 4096));
    if (!m)
        return -EIO;
    memcpy(m->head, q->head, Q_HEAD);
    m->iov = (struct iovec){m->head, Q_HEAD};
    m->req = (struct block_req){
        .op = BLOCK_WRITE, .length = Q_HEAD, .iov = &m->iov, .iov_count = 1, .done = marked};
    block_pass(q->b->under, &m->req);
    return -EIO;
}

static bool open_backing(struct qcow2 *q, struct err *err)
{
    struct block *b = q->b;
    const char *name = b->config.backing[0] ? b->config.backing : q->h.backing;
    const char *format = b->config.backing[0] ? b->config.backing_format : q->h.backing_format;

    if (!name[0] || b->config.alone)
        return true;
    b->backing = block_open_named(b, name, format, true, false, err);
    return b->backing != NULL;
}

static bool open_data(struct qcow2 *q, struct err *err)
{
    struct block *b = q->b;

    if (!(q->h.incompatible & Q_INCOMPAT_DATA_FILE))
        return true;
    if (!q->h.data_file[0])
        return err_set(err, EINVAL, "%s: its external data file has no name", b->config.file);
    b->data = block_open_named(b, q->h.data_file, "raw", b->readonly, true, err);
    return b->data != NULL;
}

static void free_tables(struct qcow2 *q)
{
    q_cache_close(q);
    free(q->l1);
    free(q->reftable);
    free(q->unpacked);
    free(q->l1_dirty);
    free(q->frees.item);
    free(q->drain_next.item);
    free(q->draining.item);
    free(q->releasing.item);
    free(q->commit.frees.item);
    free(q->commit.write);
    free(q->bitmaps.dir);
    q->b->priv = NULL;
    free(q);
}

/* Sized so that all of the disk's L2 tables fit, within reason. */
static uint64_t cache_bytes(const struct qcow2 *q)
{
    return min_u64(CACHE_BYTES >> min_u64(q->b->config.depth, 5),
                   ((q->h.size >> q->cluster_bits) + 1) * (q->entry_size + 2) + MiB);
}

static bool qcow2_open(struct block *b, struct err *err)
{
    struct qcow2 *q = calloc(1, sizeof *q);

    if (!q)
        return err_set(err, ENOMEM, "%s: out of memory", b->config.file);
    q->b = b;
    b->priv = q;
    list_init(&q->allocs);
    list_init(&q->tables);
    list_init(&q->bitmaps.waits);
    q_commit_open(q);
    q_refcount_open(q);
    if (!q_header_read(b->under, b->config.file, &q->h, err))
        goto free_tables;
    set_geometry(q);
    if (!may_be_written(q, err) || !load_tables(q, err) || !q_cache_open(q, cache_bytes(q), err) ||
        !open_data(q, err) || !open_backing(q, err))
        goto free_tables;
    if (!b->readonly && !open_for_writing(q, err))
        goto free_tables;
    if (b->config.snapshot[0] && !q_snapshot_open(q, b->config.snapshot, err))
        goto free_tables;
    b->size = align_down(q->h.size, 512);
    b->cluster_size = (uint32_t)q->cluster_size;
    b->physical_size = (uint32_t)min_u64(q->cluster_size, 4096);
    b->discard_align = (uint32_t)BIT(q->sub_bits);
    b->can_discard = b->config.discard && !b->readonly;
    b->can_zero = !b->readonly;
    if (q_bitmaps_open(q, err))
        return true;
free_tables:
    free_tables(q);
    return false;
}

static void qcow2_close(struct block *b)
{
    struct qcow2 *q = b->priv;

    if (!b->readonly) {
        int failed = q_settle(q);

        if (!failed)
            failed = q_bitmaps_store(q);
        if (failed)
            log_error("%s: could not be written at the end: %s", b->config.file, strerror(-failed));
    }
    while (!block_idle(b->under)) /* nothing of ours may come back later */
        loop_turn(b->loop, UINT64_MAX);
    loop_unpost(b->loop, &q->commit.call);
    free_tables(q);
}

static void end_epoch(struct qcow2 *q, unsigned epoch)
{
    if (--q->epoch_count[epoch] == 0)
        q_drain_check(q);
}

static void req_end(struct q_req *r)
{
    struct qcow2 *q = r->q;
    struct block_req *req = r->req;
    int result = r->error;
    bool inside = r->submitting;

    end_epoch(q, r->epoch);
    free(r);
    if (inside)
        block_done_later(q->b, req, result);
    else
        block_done(q->b, req, result);
    /* Too much unwritten metadata, or too many clusters that wait to be free. */
    if (!q->b->readonly && (q->cache.dirty > q->cache.max / 2 || q->frees.count > 4096))
        q_commit(q, NULL);
}

static bool wants_commit(const struct q_req *r)
{
    enum block_cache cache = r->q->b->config.cache;

    if (r->req->op == BLOCK_FLUSH)
        return !r->q->b->readonly;
    return (r->req->op == BLOCK_WRITE || r->req->op == BLOCK_WRITE_ZEROES) &&
           (cache == CACHE_WRITETHROUGH ||
            ((r->req->flags & BLOCK_REQ_FUA) && cache != CACHE_UNSAFE));
}

void q_req_put(struct q_req *r, int result)
{
    if (result && !r->error)
        r->error = result;
    if (--r->pending)
        return;
    if (r->error || r->committing || !wants_commit(r)) {
        req_end(r);
        return;
    }
    r->committing = true;
    r->pending = 1;
    q_commit(r->q, &r->wait);
}

static void resume(struct q_wait *w)
{
    struct q_req *r = container_of(w, struct q_req, wait);

    if (w->error && !r->error)
        r->error = w->error;
    if (r->committing)
        q_req_put(r, 0);
    else
        r->step(r);
}

static void (*step_of(enum block_op op))(struct q_req *)
{
    switch (op) {
    case BLOCK_WRITE: return q_write_step;
    case BLOCK_DISCARD:
    case BLOCK_WRITE_ZEROES: return q_zero_step;
    case BLOCK_READ:
    case BLOCK_FLUSH: break;
    }
    return q_read_step;
}

/* Bitmaps on the disk must say that they may be out of date before they are. */
static void first_write_step(struct q_req *r)
{
    if (!r->error && q_bitmaps_in_use(r->q, &r->wait))
        return;
    r->step = step_of(r->req->op);
    r->step(r);
}

static void qcow2_submit(struct block *b, struct block_req *req)
{
    struct qcow2 *q = b->priv;
    struct q_req *r = malloc(sizeof *r);

    if (!r) {
        block_done_later(b, req, -ENOMEM);
        return;
    }
    *r = (struct q_req){.q = q,
                        .req = req,
                        .at = req->offset,
                        .end = req->op == BLOCK_FLUSH ? req->offset : req->offset + req->length,
                        .pending = 2,
                        .epoch = q->epoch,
                        .submitting = true,
                        .wait.resume = resume,
                        .step = step_of(req->op)};
    list_init(&r->wait.link);
    q->epoch_count[r->epoch]++;
    if (q->corrupt && req->op != BLOCK_READ)
        r->error = -EIO;
    else if (q->bitmaps.dir && !q->bitmaps.in_use && req->op != BLOCK_READ &&
             req->op != BLOCK_FLUSH)
        r->step = first_write_step;
    r->step(r);
    /* Still ours: one of the two pendings is for this moment. */
    if (r->pending > 1 || (!r->error && wants_commit(r)))
        r->submitting = false;
    q_req_put(r, 0);
}

static bool qcow2_map(struct block *b, uint64_t offset, struct block_extent *e, struct err *err)
{
    struct qcow2 *q = b->priv;
    struct q_map m;
    struct q_sleep s;
    int got;

    do {
        q_sleep_init(&s);
        got = q_lookup(q, offset, b->size - offset, &s.wait, &m);
        if (got > 0)
            got = q_sleep(q, &s);
    } while (got > 0);
    if (got < 0)
        return err_set(err, -got, "%s: cannot be read at %llu: %s", b->config.file,
                       (unsigned long long)offset, strerror(-got));
    *e =
        (struct block_extent){.length = m.length,
                              .present = m.kind != Q_NONE,
                              .zero = m.kind == Q_ZERO || (m.kind == Q_NONE && !b->backing),
                              .data = m.kind == Q_DATA || m.kind == Q_PACKED,
                              .compressed = m.kind == Q_PACKED,
                              .has_offset = m.kind == Q_DATA || (m.kind != Q_PACKED && m.allocated),
                              .host_offset = m.host,
                              .node = b};
    return true;
}

static void wake(struct q_wait *w)
{
    container_of(w, struct q_sleep, wait)->woken = true;
}

void q_sleep_init(struct q_sleep *s)
{
    *s = (struct q_sleep){.wait.resume = wake};
    list_init(&s->wait.link);
}

/* 1: try again; or -errno. */
int q_sleep(struct qcow2 *q, struct q_sleep *s)
{
    while (!s->woken)
        loop_turn(q->b->loop, UINT64_MAX);
    return s->wait.error ? s->wait.error : 1;
}

static void qcow2_info(struct block *b, struct block_info *i)
{
    const struct qcow2 *q = b->priv;
    const struct q_header *h = &q->h;

    i->backing = h->backing[0] ? h->backing : NULL;
    i->backing_format = h->backing_format[0] ? h->backing_format : NULL;
    i->data_file = h->data_file[0] ? h->data_file : NULL;
    i->data_file_raw = h->autoclear & Q_AUTOCLEAR_DATA_RAW;
    i->version = h->version;
    i->refcount_bits = 1u << h->refcount_order;
    i->snapshot_count = h->snapshot_count;
    i->bitmap_count = h->bitmap_count;
    i->lazy_refcounts = h->compatible & Q_COMPAT_LAZY;
    i->extended_l2 = q->subs > 1;
    i->zstd = h->compression == 1;
    i->dirty = h->incompatible & Q_INCOMPAT_DIRTY;
    i->corrupt = h->incompatible & Q_INCOMPAT_CORRUPT;
}

const struct block_ops qcow2_ops = {
    .name = "qcow2",
    .probe = qcow2_probe,
    .open = qcow2_open,
    .submit = qcow2_submit,
    .close = qcow2_close,
    .map = qcow2_map,
    .resize = qcow2_resize,
    .info = qcow2_info,
    .check = qcow2_check,
};
