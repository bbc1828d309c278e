/* SPDX-License-Identifier: MIT */
/* Copies a disk with several threads. A task is a piece of the disk on its way:
 *
 *   loop: plan where it is read -> thread: read, look for zeroes, compress
 *     -> loop, in the disk's order: take clusters -> thread: write        (a new image)
 *     or  thread writes at once                                           (a new raw file)
 *     or  loop: submit writes and zeroes to the target                    (any other target)
 *
 * Clusters are taken in order, so the same disk gives the same image whatever the threads do. */
#include "block/bulk.h"
#include "block/format.h"
#include "block/gather.h"
#include "block/image.h"
#include "block/workers.h"
#include <errno.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { TASK = 256 << 10, TASKS_MAX = 40, OUT_IOV = 64 };
#define ZERO_TASK (1ULL << 30) /* of nothing but zeroes: no data are held */

struct span { /* of a task: all alike */
    uint64_t offset, length;
    bool zero, whole;      /* whole: covers its clusters */
    const uint8_t *packed; /* compressed: these bytes instead */
    uint64_t packed_length;
};

struct out { /* one write */
    struct task *task;
    const uint8_t *data;
    uint64_t length, host;
    int fd;
    struct iovec iov;
    struct block_req req; /* when submitted */
};

enum stage { STAGE_FREE, STAGE_READ, STAGE_PLACE, STAGE_WRITE, STAGE_SUBMIT };

struct task {
    struct work_job job;
    struct copier *k;
    enum stage stage;
    uint64_t sequence, offset, length;
    struct gather g;
    uint8_t *data, *packed;
    struct span *span;
    unsigned spans, span_room;
    struct out *out;
    unsigned outs, out_room, pending;
    int failed;
    bool writing; /* what failed was a write */
};

struct copier {
    struct block_copy *c;
    struct workers *pool;
    struct task task[TASKS_MAX];
    unsigned tasks, active;
    uint64_t unit, task_size, at, size, done;
    uint64_t next_sequence, next_place;
    int raw_fd; /* the target, when threads may write to it as it is; else -1 */
    bool failed;
    bool placing; /* a place may turn the loop, where the next task's turn must not come yet */
    struct err *err;
};

/* ---- in a thread ---- */

static bool add_span(struct task *t, struct span s)
{
    struct span *last = t->spans ? &t->span[t->spans - 1] : NULL;

    if (last && !s.packed && !last->packed && last->zero == s.zero && last->whole == s.whole &&
        last->offset + last->length == s.offset) {
        last->length += s.length;
        return true;
    }
    if (t->spans == t->span_room) {
        unsigned room = t->span_room ? t->span_room * 2 : 32;
        struct span *more = realloc(t->span, room * sizeof *more);

        if (!more)
            return false;
        t->span = more;
        t->span_room = room;
    }
    t->span[t->spans++] = s;
    return true;
}

/* One cluster of data, or what there is of it; compressed if that is wanted and it gets smaller. */
static void pack_span(struct task *t, struct span *s)
{
    const struct copier *k = t->k;
    uint8_t *data = t->data + (s->offset - t->offset), *to = t->packed + (s->offset - t->offset);
    int got;

    if (s->length < k->unit) /* the disk's last */
        memset(data + s->length, 0, k->unit - s->length);
    got = block_pack(k->c->to, data, to, k->unit - 1);
    if (got <= 0)
        return;
    s->packed = to;
    s->packed_length = (uint64_t)got;
}

static int look_at(struct task *t, uint64_t from, uint64_t to)
{
    const struct copier *k = t->k;

    while (from < to) {
        uint64_t end = min_u64(align_down(from, k->unit) + k->unit, to);
        struct span s = {.offset = from, .length = end - from};

        s.whole = from % k->unit == 0 && (end % k->unit == 0 || end == k->size);
        s.zero = k->c->sparse && is_zero(t->data + (from - t->offset), s.length);
        if (k->c->compress && s.whole && !s.zero && t->packed)
            pack_span(t, &s);
        if (!add_span(t, s))
            return -ENOMEM;
        from = end;
    }
    return 0;
}

/* Ranges that are not absent, whatever pieces they consist of. */
static int look_at_all(struct task *t)
{
    unsigned i = 0;
    int failed = 0;

    while (i < t->g.count && !failed) {
        uint64_t from = t->g.piece[i].offset, to = from;

        if (t->g.piece[i].kind == GATHER_ABSENT) {
            i++;
            continue;
        }
        for (; i < t->g.count && t->g.piece[i].kind != GATHER_ABSENT; i++)
            to = t->g.piece[i].offset + t->g.piece[i].length;
        failed = look_at(t, from, to);
    }
    return failed;
}

static int write_raw(struct task *t)
{
    int failed = 0;

    for (unsigned i = 0; i < t->spans && !failed; i++) {
        const struct span *s = &t->span[i];

        if (!s->zero)
            failed =
                write_all(t->k->raw_fd, t->data + (s->offset - t->offset), s->length, s->offset);
    }
    t->writing = failed != 0;
    return failed;
}

static void read_work(struct work_job *job)
{
    struct task *t = container_of(job, struct task, job);

    t->failed = gather_read(&t->g, t->data);
    if (!t->failed)
        t->failed = look_at_all(t);
    if (!t->failed && t->k->raw_fd >= 0)
        t->failed = write_raw(t);
}

/* Neighbours in the file, like compressed clusters, go in one write. */
static int write_outs(struct task *t)
{
    int failed = 0;

    for (unsigned i = 0; i < t->outs && !failed;) {
        const struct out *first = &t->out[i];
        struct iovec iov[OUT_IOV];
        uint64_t length = 0;
        int n = 0;

        for (; i < t->outs && n < OUT_IOV && t->out[i].fd == first->fd &&
               t->out[i].host == first->host + length;
             i++) {
            iov[n++] = (struct iovec){(void *)t->out[i].data, t->out[i].length};
            length += t->out[i].length;
        }
        failed = write_iov(first->fd, iov, n, first->host);
    }
    return failed;
}

static void write_work(struct work_job *job)
{
    struct task *t = container_of(job, struct task, job);

    t->failed = write_outs(t);
    t->writing = true;
}

/* ---- in the loop ---- */

static void task_end(struct task *t)
{
    struct copier *k = t->k;

    if (t->failed && !k->failed) {
        const struct block *b = t->writing ? k->c->to : k->c->from;

        k->failed = true;
        err_set(k->err, -t->failed, "%s: cannot be %s at byte %llu: %s", b->config.file,
                t->writing ? "written" : "read", (unsigned long long)t->offset,
                strerror(-t->failed));
    }
    k->done += t->length;
    k->active--;
    t->stage = STAGE_FREE;
}

static struct out *new_out(struct task *t)
{
    if (t->outs == t->out_room) {
        unsigned room = t->out_room ? t->out_room * 2 : 16;
        struct out *more = realloc(t->out, room * sizeof *more);

        if (!more)
            return NULL;
        t->out = more;
        t->out_room = room;
    }
    t->out[t->outs] = (struct out){.task = t, .fd = -1};
    return &t->out[t->outs++];
}

static int place_packed(struct task *t, const struct span *s)
{
    struct block_place p;
    struct out *o;
    int failed = block_place_packed(t->k->c->to, s->offset, s->packed_length, &p);

    if (failed)
        return failed;
    o = new_out(t);
    if (!o)
        return -ENOMEM;
    o->data = s->packed;
    o->length = s->packed_length;
    o->host = p.host;
    o->fd = p.fd;
    return 0;
}

static int place_data(struct task *t, const struct span *s)
{
    for (uint64_t at = 0; at < s->length;) {
        struct block_place p;
        struct out *o;
        int failed = block_place(t->k->c->to, s->offset + at, s->length - at, true, &p);

        if (failed)
            return failed;
        o = new_out(t);
        if (!o)
            return -ENOMEM;
        o->data = t->data + (s->offset + at - t->offset);
        o->length = p.length;
        o->host = p.host;
        o->fd = p.fd;
        at += p.length;
    }
    return 0;
}

/* To be submitted: what has no place of its own, and zeroes that must be written. */
static int add_request(struct task *t, const struct span *s)
{
    struct out *o = new_out(t);

    if (!o)
        return -ENOMEM;
    o->data = s->zero ? NULL : t->data + (s->offset - t->offset);
    o->req.op = s->zero ? BLOCK_WRITE_ZEROES : BLOCK_WRITE;
    o->req.flags = s->zero ? BLOCK_REQ_UNMAP : t->k->c->compress ? BLOCK_REQ_COMPRESS : 0;
    o->req.offset = s->offset;
    o->req.length = s->length;
    return 0;
}

static int place_span(struct task *t, const struct span *s)
{
    const struct block_copy *c = t->k->c;

    if (s->zero)
        return c->is_zero ? 0 : add_request(t, s);
    if (s->packed)
        return place_packed(t, s);
    if (c->fresh && s->whole && c->to->cluster_size)
        return place_data(t, s);
    return add_request(t, s);
}

static void submitted(struct block_req *req, int result)
{
    struct task *t = container_of(req, struct out, req)->task;

    if (result && !t->failed)
        t->failed = result;
    if (--t->pending == 0)
        task_end(t);
}

/* All of them are known by now: their memory may not move any more. */
static void submit_requests(struct task *t)
{
    t->stage = STAGE_SUBMIT;
    t->writing = true;
    t->pending = 1;
    for (unsigned i = 0; i < t->outs; i++) {
        struct out *o = &t->out[i];

        if (o->fd >= 0)
            continue;
        o->iov = (struct iovec){(void *)o->data, o->req.length};
        o->req.iov = &o->iov;
        o->req.iov_count = o->data ? 1 : 0;
        o->req.done = submitted;
        t->pending++;
        block_submit(t->k->c->to, &o->req);
    }
    if (--t->pending == 0)
        task_end(t);
}

/* Direct writes to the front: the thread does those, the rest is submitted after it. */
static void sort_outs(struct task *t)
{
    unsigned n = 0;

    for (unsigned i = 0; i < t->outs; i++) {
        if (t->out[i].fd >= 0) {
            struct out o = t->out[i];

            t->out[i] = t->out[n];
            t->out[n++] = o;
        }
    }
    t->pending = t->outs - n;
    t->outs = n;
}

static void place(struct task *t)
{
    t->outs = 0;
    for (unsigned i = 0; i < t->spans && !t->failed && !t->k->failed; i++) {
        t->failed = place_span(t, &t->span[i]);
        t->writing = t->failed != 0;
    }
    if (t->failed || t->k->failed || !t->outs) {
        task_end(t);
        return;
    }
    sort_outs(t);
    if (!t->outs) {
        t->outs = t->pending;
        submit_requests(t);
        return;
    }
    t->stage = STAGE_WRITE;
    t->job.work = write_work;
    workers_submit(t->k->pool, &t->job);
}

/* Tasks whose turn it is, in the disk's order. */
static void place_ready(struct copier *k)
{
    if (k->placing)
        return;
    k->placing = true;
    for (bool more = true; more;) {
        more = false;
        for (unsigned i = 0; i < k->tasks; i++) {
            struct task *t = &k->task[i];

            if (t->stage != STAGE_PLACE || t->sequence != k->next_place)
                continue;
            k->next_place++;
            more = true;
            place(t);
        }
    }
    k->placing = false;
}

static void task_done(struct call *call)
{
    struct task *t = container_of(call, struct task, job.done);

    if (t->stage == STAGE_READ) {
        t->stage = STAGE_PLACE;
        if (t->k->raw_fd >= 0)
            t->spans = 0; /* written already */
        place_ready(t->k);
    } else if (t->pending && !t->failed) { /* requests behind the direct writes */
        memmove(t->out, t->out + t->outs, t->pending * sizeof *t->out);
        t->outs = t->pending;
        submit_requests(t);
    } else {
        task_end(t);
    }
}

/* ---- what comes next ---- */

/* Bytes from k->at on that need not be read: zeroes, or absent. */
static bool nothing_there(struct copier *k, uint64_t *length, bool *absent)
{
    uint64_t end = k->at;
    struct block_extent e;

    *absent = false;
    while (k->c->sparse && end < k->size) {
        bool gone;

        if (!block_map(k->c->from, end, k->size - end, &e, k->err))
            return false;
        gone = k->c->top_only && (!e.present || e.depth > 0);
        if (end == k->at)
            *absent = gone;
        if ((!gone && !e.zero) || gone != *absent)
            break;
        end += e.length;
        if (end - k->at >= ZERO_TASK)
            break;
    }
    if (end < k->size)
        end = max_u64(align_down(end, k->task_size), k->at);
    *length = end - k->at;
    return true;
}

static bool task_memory(struct task *t)
{
    struct copier *k = t->k;

    if (!t->data)
        t->data = aligned_alloc(4096, k->task_size);
    if (!t->packed && k->c->compress && k->c->fresh)
        t->packed = aligned_alloc(4096, k->task_size);
    return t->data && (t->packed || !k->c->compress || !k->c->fresh);
}

/* Gives the task the next part of the disk. */
static bool task_begin(struct task *t)
{
    struct copier *k = t->k;
    bool absent;

    if (!nothing_there(k, &t->length, &absent))
        return false;
    t->offset = k->at;
    t->failed = 0;
    t->spans = 0;
    k->active++;
    if (t->length) {
        k->at += t->length;
        if (!absent && !k->c->is_zero &&
            !add_span(t, (struct span){.offset = t->offset, .length = t->length, .zero = true}))
            t->failed = -ENOMEM;
        t->sequence = k->next_sequence++;
        t->stage = STAGE_PLACE;
        place_ready(k);
        return true;
    }
    t->length = min_u64(k->task_size, k->size - k->at);
    if (!task_memory(t)) {
        k->active--;
        return err_set(k->err, ENOMEM, "out of memory");
    }
    if (!gather_plan(&t->g, k->c->from, t->offset, t->length, k->c->top_only, k->err)) {
        k->active--;
        return false;
    }
    k->at += t->length;
    t->sequence = k->next_sequence++;
    t->failed = gather_fetch(&t->g, k->c->from, t->data);
    t->stage = STAGE_READ;
    t->job.work = read_work;
    t->job.done.run = task_done;
    if (t->failed)
        task_done(&t->job.done);
    else
        workers_submit(k->pool, &t->job);
    return true;
}

static bool is_stopped(struct copier *k)
{
    if (!k->failed && k->c->stopped && k->c->stopped()) {
        err_set(k->err, ECANCELED, "stopped");
        k->failed = true;
    }
    return k->failed;
}

static void run(struct copier *k)
{
    while (k->active || (k->at < k->size && !k->failed)) {
        for (unsigned i = 0; i < k->tasks && k->at < k->size && !is_stopped(k); i++)
            if (k->task[i].stage == STAGE_FREE)
                k->failed |= !task_begin(&k->task[i]);
        if (k->active)
            loop_turn(k->c->from->loop, 100000000);
        is_stopped(k);
        if (k->c->progress)
            k->c->progress(k->c, k->done, k->size);
    }
}

/* Where files can share blocks, a raw copy of a raw file costs nothing. */
static bool share_blocks(struct copier *k)
{
    int from = gather_fd(k->c->from);

    return k->raw_fd >= 0 && k->c->sparse && k->c->from->ops == &raw_ops && from >= 0 &&
           ioctl(k->raw_fd, FICLONE, from) == 0 && ftruncate(k->raw_fd, (off_t)k->c->to->size) == 0;
}

static bool set_up(struct copier *k, struct block_copy *c, struct err *err)
{
    const struct image_file *f = c->to->file;

    *k = (struct copier){.c = c, .size = c->from->size, .err = err, .raw_fd = -1};
    if (c->to->ops == &raw_ops && f && c->fresh && c->is_zero && !f->direct_align)
        k->raw_fd = f->fd;
    k->unit = c->to->cluster_size ? c->to->cluster_size
                                  : max_u64(align_down(min_u64(c->sparse, 65536), 4096), 4096);
    while (k->unit & (k->unit - 1))
        k->unit &= k->unit - 1;
    k->task_size = max_u64(TASK, k->unit);
    k->pool = workers_open(c->from->loop, c->workers, err);
    if (!k->pool)
        return false;
    k->tasks = (unsigned)min_u64(TASKS_MAX, 2 * workers_threads(k->pool) + 2);
    for (unsigned i = 0; i < k->tasks; i++)
        k->task[i].k = k;
    return true;
}

bool block_copy(struct block_copy *c, struct err *err)
{
    struct copier *k = malloc(sizeof *k);
    int failed = 0;
    bool good;

    if (!k)
        return err_set(err, ENOMEM, "out of memory");
    if (!set_up(k, c, err)) {
        free(k);
        return false;
    }
    if (!share_blocks(k))
        run(k);
    workers_close(k->pool);
    for (unsigned i = 0; i < k->tasks; i++) {
        gather_free(&k->task[i].g);
        free(k->task[i].data);
        free(k->task[i].packed);
        free(k->task[i].span);
        free(k->task[i].out);
    }
    good = !k->failed;
    free(k);
    if (good && c->fresh)
        failed = block_placed(c->to);
    return good && (!failed || err_set(err, -failed, "%s: cannot be written: %s",
                                       c->to->config.file, strerror(-failed)));
}
