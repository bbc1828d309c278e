/* SPDX-License-Identifier: MIT */
/* A request's way through a drive:
 *
 *   submit -> held (drained) -> slow (limits) -> waiting (locks) -> before() -> active: the image
 *          <- failed (policy STOP) <- wrote(), after() <- done
 *
 * Each arrow may be a stop; `kick`, the timer and drive_retry send on from there. */
#include "block/drive.h"
#include "base/clock.h"
#include "block/format.h"
#include "block/image.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

const char *const drive_policy_name[] = {"report", "ignore", "enospc", "stop"};

bool drive_policy_parse(enum drive_policy *policy, const char *word, enum drive_policy otherwise,
                        struct err *err)
{
    *policy = otherwise;
    if (!*word)
        return true;
    for (unsigned i = 0; i < ARRAY_SIZE(drive_policy_name); i++) {
        *policy = (enum drive_policy)i;
        if (!strcmp(drive_policy_name[i], word))
            return true;
    }
    return err_set(err, EINVAL, "%.40s: report, ignore, enospc and stop are known", word);
}

static struct drive *drive_of(struct block *b)
{
    return container_of(b, struct drive, block);
}

bool drive_changes(const struct drive_req *r)
{
    return r->below.op != BLOCK_READ && r->below.op != BLOCK_FLUSH;
}

static bool meets(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
    return a < b + b_len && b < a + a_len;
}

/* ---- the end ---- */

static void released(struct drive *d)
{
    if (!list_empty(&d->locks))
        loop_post(d->block.loop, &d->kick);
    if (d->drained && d->idle && list_empty(&d->active))
        loop_post(d->block.loop, d->idle);
}

void drive_end(struct drive_req *r)
{
    struct drive *d = r->drive;
    struct block_req *above = r->above;
    int result = r->result;

    list_remove(&r->link);
    r->above = (void *)d->free;
    d->free = r;
    released(d);
    block_done(&d->block, above, result);
}

static enum drive_policy policy_for(const struct drive *d, const struct drive_req *r, int error)
{
    enum drive_policy p = r->below.op == BLOCK_READ ? d->on_read_error : d->on_write_error;

    if (error == -EOPNOTSUPP || error == -EINVAL || error == -EROFS ||
        (r->below.flags & BLOCK_REQ_NO_POLICY))
        return DRIVE_REPORT;
    if (p == DRIVE_ENOSPC)
        return error == -ENOSPC ? DRIVE_STOP : DRIVE_REPORT;
    return p;
}

/* True: the request stays here for now. */
static bool failed(struct drive_req *r)
{
    struct drive *d = r->drive;
    enum drive_policy p = policy_for(d, r, r->result);
    int error = r->result;

    if (p == DRIVE_IGNORE)
        r->result = 0;
    if (p == DRIVE_STOP) {
        list_remove(&r->link);
        list_add(&d->failed, &r->link);
        d->block.parked++;
        d->io_error = error;
        released(d);
    }
    if (error != -EOPNOTSUPP && d->events && d->events->io_error &&
        !(r->below.flags & BLOCK_REQ_NO_POLICY))
        d->events->io_error(d, r->below.op == BLOCK_READ, p, error);
    return p == DRIVE_STOP;
}

static void below_done(struct block_req *below, int result)
{
    struct drive_req *r = container_of(below, struct drive_req, below);
    struct drive *d = r->drive;
    bool taken = false;

    r->result = result;
    if (unlikely(result < 0) && failed(r))
        return;
    if (unlikely(!list_empty(&d->watches)) && drive_changes(r)) {
        list_for_safe(at, &d->watches)
        {
            struct drive_watch *w = container_of(at, struct drive_watch, link);

            if (w->wrote)
                w->wrote(w, r);
            if (w->after && !taken)
                taken = w->after(w, r);
        }
    }
    if (!taken)
        drive_end(r);
}

/* ---- the way down ---- */

static bool locked(const struct drive *d, const struct drive_req *r)
{
    list_for(at, &d->locks)
    {
        const struct drive_lock *l = container_of(at, struct drive_lock, link);

        if (meets(r->below.offset, r->below.length, l->offset, l->length))
            return true;
    }
    return false;
}

/* Past the limits already. The request is in no list. */
static void admit(struct drive_req *r)
{
    struct drive *d = r->drive;

    if (unlikely(d->drained)) {
        list_add(&d->held, &r->link);
        return;
    }
    if (drive_changes(r)) {
        if (unlikely(!list_empty(&d->locks)) && locked(d, r)) {
            list_add(&d->waiting, &r->link);
            return;
        }
        list_for_safe(at, &d->watches)
        {
            struct drive_watch *w = container_of(at, struct drive_watch, link);

            if (w->before && w->before(w, r))
                return;
        }
    }
    list_add(&d->active, &r->link);
    block_submit(d->block.under, &r->below);
}

void drive_go_on(struct drive_req *r)
{
    list_remove(&r->link);
    admit(r);
}

static bool is_write(const struct drive_req *r)
{
    return r->below.op != BLOCK_READ;
}

static uint64_t limited_bytes(const struct drive_req *r)
{
    return r->below.op == BLOCK_DISCARD ? 0 : r->below.length;
}

/* Lets go what may go; the timer is for the first of those that may not. */
static void slow_kick(struct drive *d)
{
    uint64_t now = now_ns(), next = UINT64_MAX;

    for (unsigned write = 0; write < 2; write++) {
        while (!list_empty(&d->slow[write])) {
            struct drive_req *r = container_of(d->slow[write].next, struct drive_req, link);
            uint64_t wait =
                d->throttle.on && !d->rush ? throttle_wait(&d->throttle, write, now) : 0;

            if (wait) {
                next = min_u64(next, wait);
                break;
            }
            list_remove(&r->link);
            throttle_count(&d->throttle, write, limited_bytes(r));
            admit(r);
        }
    }
    if (next != UINT64_MAX)
        loop_at(d->block.loop, &d->timer, now + next);
    else
        loop_cancel(d->block.loop, &d->timer);
}

static void timer_fired(struct timer *t)
{
    slow_kick(container_of(t, struct drive, timer));
}

static struct drive_req *req_new(struct drive *d)
{
    struct drive_req *r = d->free;

    if (r)
        d->free = (void *)r->above;
    else
        r = malloc(sizeof *r);
    return r;
}

static void drive_submit(struct block *b, struct block_req *req)
{
    struct drive *d = drive_of(b);
    struct drive_req *r = req_new(d);

    if (!r) {
        block_done_later(b, req, -ENOMEM);
        return;
    }
    r->below.op = req->op;
    r->below.flags = req->flags & ~(unsigned)BLOCK_REQ_INTERNAL;
    r->below.offset = req->offset;
    r->below.length = req->length;
    r->below.iov = req->iov;
    r->below.iov_count = req->iov_count;
    r->below.done = below_done;
    r->above = req;
    r->drive = d;
    list_init(&r->link);
    if (likely(!d->throttle.on) || req->op == BLOCK_FLUSH) {
        admit(r);
        return;
    }
    list_add(&d->slow[is_write(r)], &r->link);
    slow_kick(d);
}

/* ---- sending on ---- */

static void admit_all(struct list *from)
{
    struct list all;

    if (list_empty(from))
        return;
    all = *from;
    all.next->prev = all.prev->next = &all;
    list_init(from);
    while (!list_empty(&all)) {
        struct drive_req *r = container_of(all.next, struct drive_req, link);

        list_remove(&r->link);
        admit(r);
    }
}

static bool may_hold(const struct drive *d, const struct drive_lock *l)
{
    list_for(at, &d->locks)
    {
        const struct drive_lock *other = container_of(at, struct drive_lock, link);

        if (other == l)
            break;
        if (meets(l->offset, l->length, other->offset, other->length))
            return false;
    }
    list_for(at, &d->active)
    {
        const struct drive_req *r = container_of(at, struct drive_req, link);

        if (drive_changes(r) && meets(l->offset, l->length, r->below.offset, r->below.length))
            return false;
    }
    return true;
}

static struct drive_lock *grantable(const struct drive *d)
{
    list_for(at, &d->locks)
    {
        struct drive_lock *l = container_of(at, struct drive_lock, link);

        if (!l->granted && may_hold(d, l))
            return l;
    }
    return NULL;
}

static void kicked(struct call *c)
{
    struct drive *d = container_of(c, struct drive, kick);
    struct drive_lock *l;

    while ((l = grantable(d)) != NULL) {
        l->granted = true;
        l->held(l);
    }
    admit_all(&d->waiting);
    if (!d->drained)
        admit_all(&d->held);
}

void drive_lock(struct drive *d, struct drive_lock *l)
{
    l->granted = false;
    list_add(&d->locks, &l->link);
    loop_post(d->block.loop, &d->kick);
}

void drive_unlock(struct drive *d, struct drive_lock *l)
{
    list_remove(&l->link);
    loop_post(d->block.loop, &d->kick);
}

void drive_watch(struct drive *d, struct drive_watch *w)
{
    list_add(&d->watches, &w->link);
}

void drive_unwatch(struct drive_watch *w)
{
    list_remove(&w->link);
}

/* ---- drain ---- */

bool drive_quiet(const struct drive *d)
{
    return list_empty(&d->active);
}

void drive_hold(struct drive *d)
{
    d->drained++;
    if (d->idle && drive_quiet(d))
        loop_post(d->block.loop, d->idle);
}

void drive_drain(struct drive *d)
{
    d->drained++;
    while (!drive_quiet(d))
        loop_turn(d->block.loop, UINT64_MAX);
}

void drive_resume(struct drive *d)
{
    if (!--d->drained)
        loop_post(d->block.loop, &d->kick);
}

/* ---- limits and errors ---- */

bool drive_limit(struct drive *d, const struct throttle_config *c, struct err *err)
{
    if (!throttle_set(&d->throttle, c, now_ns(), err))
        return false;
    slow_kick(d);
    return true;
}

void drive_rush(struct drive *d, bool on)
{
    d->rush = on;
    slow_kick(d);
}

void drive_retry(struct drive *d)
{
    d->io_error = 0;
    d->block.parked = 0;
    admit_all(&d->failed);
}

void drive_give_up(struct drive *d)
{
    d->block.parked = 0;
    d->io_error = 0;
    while (!list_empty(&d->failed)) {
        struct drive_req *r = container_of(d->failed.next, struct drive_req, link);
        struct block_req *above = r->above;

        list_remove(&r->link);
        free(r);
        block_done_later(&d->block, above, -EIO);
    }
}

/* ---- the image below ---- */

/* The device was told the rest when it was made. */
static void take_shape(struct drive *d)
{
    struct block *image = d->block.under;

    d->block.size = image->size;
    memcpy(d->block.config.file, image->config.file, sizeof d->block.config.file);
    memcpy(d->block.config.format, image->config.format, sizeof d->block.config.format);
}

struct block *drive_replace(struct drive *d, struct block *image)
{
    struct block *old = d->block.under;
    uint64_t size = d->block.size;

    d->block.under = image;
    take_shape(d);
    if (d->events && d->events->replaced)
        d->events->replaced(d);
    if (size != d->block.size && d->events && d->events->resized)
        d->events->resized(d);
    return old;
}

bool drive_resize(struct drive *d, uint64_t size, struct err *err)
{
    bool good;

    drive_drain(d);
    good = block_resize(d->block.under, size, PREALLOC_OFF, err);
    d->block.size = d->block.under->size;
    drive_resume(d);
    if (good && d->events && d->events->resized)
        d->events->resized(d);
    return good;
}

static bool drive_map(struct block *b, uint64_t offset, struct block_extent *e, struct err *err)
{
    return block_map(b->under, offset, b->under->size - offset, e, err);
}

static void drive_close(struct block *b)
{
    struct drive *d = drive_of(b);

    loop_cancel(b->loop, &d->timer);
    loop_unpost(b->loop, &d->kick);
    while (d->free) {
        struct drive_req *r = d->free;

        d->free = (void *)r->above;
        free(r);
    }
}

static const struct block_ops drive_ops = {
    .name = "drive",
    .submit = drive_submit,
    .close = drive_close,
    .map = drive_map,
};

struct drive *drive_open(struct block *image, const char *id, struct err *err)
{
    struct drive *d = calloc(1, sizeof *d);

    if (!d) {
        err_set(err, ENOMEM, "no memory for a disk");
        block_close(image);
        return NULL;
    }
    d->block = *image;
    d->block.ops = &drive_ops;
    d->block.under = image;
    d->block.backing = d->block.data = NULL;
    d->block.file = NULL;
    d->block.priv = NULL;
    d->block.in_flight = 0;
    d->block.finish = (struct call){.run = image->finish.run};
    list_init(&d->block.ready);
    list_init(&d->block.bitmaps);
    snprintf(d->id, sizeof d->id, "%s", id);
    d->on_write_error = DRIVE_ENOSPC;
    d->kick.run = kicked;
    d->timer.fire = timer_fired;
    list_init(&d->active);
    list_init(&d->waiting);
    list_init(&d->held);
    list_init(&d->failed);
    list_init(&d->slow[0]);
    list_init(&d->slow[1]);
    list_init(&d->locks);
    list_init(&d->watches);
    list_init(&d->bitmaps);
    return d;
}
