/* SPDX-License-Identifier: MIT */
/* Block jobs: state, pieces, the end. See job.h for the picture.
 *
 * The pump runs from the loop. next() may turn the loop, in which pieces end and want the pump
 * again: that is noted, not nested. */
#include "block/job.h"
#include "base/clock.h"
#include "block/format.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

const char *const block_job_status_name[] = {"created",   "running", "paused",  "ready",
                                             "standby",   "waiting", "pending", "aborting",
                                             "concluded", "null"};

#define RETRY_NS 1000000 /* when the machine is in the middle of a change */

static void say(struct block_job *j, const char *event)
{
    j->all->events->event(j->all, j, event);
}

static void set_status(struct block_job *j, enum block_job_status status)
{
    if (j->status == status)
        return;
    j->status = status;
    say(j, "JOB_STATUS_CHANGE");
}

void job_wake(struct block_job *j)
{
    if (j->status != BLOCK_JOB_CREATED && j->status < BLOCK_JOB_CONCLUDED)
        loop_post(j->all->loop, &j->pump);
}

/* ---- pieces ---- */

static void piece_read(struct job_piece *p);
static void piece_write(struct job_piece *p, bool zero);

static void piece_free(struct job_piece *p, int result)
{
    struct block_job *j = p->job;

    if (j->type->locks && !list_empty(&p->lock.link))
        drive_unlock(j->drive, &p->lock);
    p->busy = p->retry = false;
    j->under_way--;
    if (j->type->copied)
        j->type->copied(j, p, result);
    job_wake(j);
}

static void stop_for_error(struct block_job *j)
{
    j->paused = j->io_failed = true;
    set_status(j, j->status == BLOCK_JOB_READY ? BLOCK_JOB_STANDBY : BLOCK_JOB_PAUSED);
}

static void piece_failed(struct job_piece *p, int result)
{
    struct block_job *j = p->job;
    enum drive_policy did = p->reading ? j->on_source_error : j->on_target_error;

    if (did == DRIVE_ENOSPC)
        did = result == -ENOSPC ? DRIVE_STOP : DRIVE_REPORT;
    j->all->events->io_error(j->all, j, p->reading, did);
    if (did == DRIVE_REPORT || j->cancelled) {
        job_fail(j, result, strerror(-result));
        piece_free(p, result);
        return;
    }
    p->retry = true; /* the lock stays */
    if (did == DRIVE_STOP)
        stop_for_error(j);
    else
        piece_free(p, 0); /* ignored: as QEMU, the piece is left out */
}

static void piece_written(struct block_req *req, int result)
{
    struct job_piece *p = container_of(req, struct job_piece, req);

    if (result == -EOPNOTSUPP && req->op == BLOCK_WRITE_ZEROES) {
        memset(p->buffer, 0, p->lock.length);
        piece_write(p, false);
    } else if (result < 0)
        piece_failed(p, result);
    else
        piece_free(p, 0);
}

static bool all_zero(const void *data, size_t len)
{
    const uint64_t *word = data;

    for (size_t i = 0; i < len / 8; i++)
        if (word[i])
            return false;
    return true;
}

static void piece_write(struct job_piece *p, bool zero)
{
    p->reading = false;
    p->req = (struct block_req){.op = zero ? BLOCK_WRITE_ZEROES : BLOCK_WRITE,
                                .flags = zero ? BLOCK_REQ_UNMAP : 0,
                                .offset = p->lock.offset,
                                .length = p->lock.length,
                                .iov = &p->iov,
                                .iov_count = zero ? 0 : 1,
                                .done = piece_written};
    block_submit(p->job->target, &p->req);
}

static void piece_was_read(struct block_req *req, int result)
{
    struct job_piece *p = container_of(req, struct job_piece, req);

    if (result < 0)
        piece_failed(p, result);
    else
        piece_write(p, p->job->target->can_zero && all_zero(p->buffer, p->lock.length));
}

static void piece_read(struct job_piece *p)
{
    p->reading = true;
    p->iov = (struct iovec){p->buffer, p->lock.length};
    p->req = (struct block_req){.op = BLOCK_READ,
                                .offset = p->lock.offset,
                                .length = p->lock.length,
                                .iov = &p->iov,
                                .iov_count = 1,
                                .done = piece_was_read};
    block_submit(p->job->source, &p->req);
}

void job_piece_run(struct job_piece *p)
{
    if (!p->buffer && !(p->buffer = aligned_alloc(4096, JOB_PIECE))) {
        piece_failed(p, -ENOMEM);
        return;
    }
    p->iov = (struct iovec){p->buffer, p->lock.length};
    if (p->zero)
        piece_write(p, p->job->target->can_zero || (memset(p->buffer, 0, p->lock.length), false));
    else
        piece_read(p);
}

static void piece_held(struct drive_lock *l)
{
    job_piece_run(container_of(l, struct job_piece, lock));
}

static struct job_piece *piece_find(struct block_job *j)
{
    for (unsigned i = 0; i < JOB_PIECES; i++)
        if (!j->piece[i].busy)
            return &j->piece[i];
    return NULL;
}

uint64_t job_piece_max(const struct block_job *j)
{
    return j->speed ? min_u64(JOB_PIECE, max_u64(align_down(j->speed / 10, 65536), 65536))
                    : JOB_PIECE;
}

/* ---- the pump ---- */

static bool may_go_on(struct block_job *j)
{
    uint64_t now;

    if (j->cancelled || j->err.code || j->status > BLOCK_JOB_STANDBY)
        return false;
    if (j->paused) {
        set_status(j, j->status == BLOCK_JOB_READY || j->status == BLOCK_JOB_STANDBY
                          ? BLOCK_JOB_STANDBY
                          : BLOCK_JOB_PAUSED);
        return false;
    }
    if (!j->speed || (now = now_ns()) >= j->next_ns)
        return true;
    loop_at(j->all->loop, &j->timer, j->next_ns);
    return false;
}

static void count_speed(struct block_job *j, uint64_t bytes)
{
    if (j->speed)
        j->next_ns = max_u64(now_ns(), j->next_ns) + mul_div(bytes, 1000000000, j->speed);
}

/* False: nothing to begin. */
static bool begin_piece(struct block_job *j)
{
    struct job_piece *p = may_go_on(j) ? piece_find(j) : NULL;

    if (!p)
        return false;
    p->busy = true; /* next() may turn the loop */
    j->under_way++;
    p->zero = false;
    list_init(&p->lock.link);
    if (!j->type->next(j, p) || j->cancelled || j->err.code) {
        p->busy = false;
        j->under_way--;
        return false;
    }
    count_speed(j, p->lock.length);
    if (j->type->locks)
        drive_lock(j->drive, &p->lock);
    else
        job_piece_run(p);
    return true;
}

static void pump_once(struct block_job *j)
{
    while (begin_piece(j))
        ;
    if (j->under_way || j->again)
        return;
    if (j->cancelled || j->err.code)
        job_conclude(j);
    else if (!j->paused && !(j->speed && now_ns() < j->next_ns) && j->status <= BLOCK_JOB_STANDBY)
        j->type->idle(j);
}

static void pump(struct call *c)
{
    struct block_job *j = container_of(c, struct block_job, pump);

    if (j->pumping) {
        j->again = true;
        return;
    }
    j->pumping = true;
    if (j->status >= BLOCK_JOB_WAITING)
        job_conclude(j);
    else
        do {
            j->again = false;
            pump_once(j);
        } while (j->again && j->status <= BLOCK_JOB_STANDBY);
    j->pumping = false;
    if (j->status == BLOCK_JOB_NULL)
        job_drop(j);
}

static void timer_fired(struct timer *t)
{
    loop_post(container_of(t, struct block_job, timer)->all->loop,
              &container_of(t, struct block_job, timer)->pump);
}

/* ---- beginning and end ---- */

static bool check_id(struct block_jobs *all, const char *id, struct err *err)
{
    if (!*id)
        return err_set(err, EINVAL, "An explicit job ID is required");
    if (strlen(id) >= sizeof(((struct block_job *)NULL)->id))
        return err_set(err, EINVAL, "Invalid job ID '%.64s'", id);
    return !block_job_find(all, id) || err_set(err, EEXIST, "Job ID '%s' already in use", id);
}

void *job_new(struct block_jobs *all, const struct block_job_type *type, size_t size,
              struct drive *d, const struct job_options *o, struct err *err)
{
    const char *id = o->id && *o->id ? o->id : d ? d->id : "";
    struct block_job *j;

    if (!check_id(all, id, err))
        return NULL;
    if (d && d->job) {
        err_set(err, EBUSY, "Node '%s' is busy: block device is in use by block job: %s",
                d->block.under->name, d->job->type->name);
        return NULL;
    }
    j = calloc(1, size);
    if (!j) {
        err_set(err, ENOMEM, "no memory for a block job");
        return NULL;
    }
    j->all = all;
    j->type = type;
    snprintf(j->id, sizeof j->id, "%s", id);
    j->drive = d;
    j->manual_finalize = o->manual_finalize;
    j->manual_dismiss = o->manual_dismiss;
    j->on_source_error = o->on_source_error;
    j->on_target_error = o->on_target_error;
    j->speed = o->speed;
    j->pump.run = pump;
    j->timer.fire = timer_fired;
    for (unsigned i = 0; i < JOB_PIECES; i++) {
        j->piece[i].job = j;
        j->piece[i].lock.held = piece_held;
        list_init(&j->piece[i].lock.link);
    }
    list_add(&all->list, &j->link);
    if (d)
        d->job = j;
    return j;
}

void job_start(struct block_job *j)
{
    say(j, "JOB_STATUS_CHANGE"); /* created */
    set_status(j, BLOCK_JOB_RUNNING);
    loop_post(j->all->loop, &j->pump);
}

void job_drop(struct block_job *j)
{
    loop_unpost(j->all->loop, &j->pump);
    loop_cancel(j->all->loop, &j->timer);
    for (unsigned i = 0; i < JOB_PIECES; i++)
        free(j->piece[i].buffer);
    if (j->drive && j->drive->job == j)
        j->drive->job = NULL;
    list_remove(&j->link);
    free(j);
}

void job_release(struct block_job *j, struct block *target)
{
    if (target && j->all->events->release)
        j->all->events->release(j->all, target);
    else
        block_close(target);
}

void job_fail(struct block_job *j, int error, const char *what)
{
    if (!j->err.code)
        err_set(&j->err, -error, "%s", what);
}

void job_ready(struct block_job *j)
{
    set_status(j, BLOCK_JOB_READY);
    say(j, "BLOCK_JOB_READY");
}

/* Pieces that wait for a retry that will not come. */
static void drop_retries(struct block_job *j)
{
    for (unsigned i = 0; i < JOB_PIECES; i++)
        if (j->piece[i].busy && j->piece[i].retry)
            piece_free(&j->piece[i], -ECANCELED);
}

static void end(struct block_job *j, bool good)
{
    if (j->drive && j->drive->job == j)
        j->drive->job = NULL;
    say(j, j->cancelled && !good ? "BLOCK_JOB_CANCELLED" : "BLOCK_JOB_COMPLETED");
    set_status(j, BLOCK_JOB_CONCLUDED);
    if (!j->manual_dismiss)
        block_job_dismiss(j, &(struct err){0});
}

static void finish(struct block_job *j)
{
    bool good = !j->err.code && !j->cancelled;
    struct err err = {0};

    if (!j->all->events->change_begin(j->all)) {
        loop_at(j->all->loop, &j->timer, now_ns() + RETRY_NS);
        return;
    }
    if (!j->type->finish(j, good, &err) && good) {
        j->err = err;
        good = false;
    }
    if (j->type->free)
        j->type->free(j);
    j->all->events->change_end(j->all);
    end(j, good);
}

void job_conclude(struct block_job *j)
{
    bool good = !j->err.code && !j->cancelled;

    if (j->status >= BLOCK_JOB_CONCLUDED)
        return;

    if (!good) {
        set_status(j, BLOCK_JOB_ABORTING);
        finish(j);
        return;
    }
    if (j->status < BLOCK_JOB_WAITING)
        set_status(j, BLOCK_JOB_WAITING);
    if (j->status == BLOCK_JOB_WAITING) {
        set_status(j, BLOCK_JOB_PENDING);
        if (j->manual_finalize)
            say(j, "BLOCK_JOB_PENDING");
    }
    if (!j->manual_finalize || j->finalize)
        finish(j);
}

/* ---- commands ---- */

void block_jobs_init(struct block_jobs *all, struct loop *loop,
                     const struct block_job_events *events, void *owner)
{
    *all = (struct block_jobs){.loop = loop, .events = events, .owner = owner};
    list_init(&all->list);
}

struct block_job *block_job_find(struct block_jobs *all, const char *id)
{
    list_for(at, &all->list)
    {
        struct block_job *j = container_of(at, struct block_job, link);

        if (!strcmp(j->id, id))
            return j;
    }
    return NULL;
}

static bool refused(const struct block_job *j, const char *verb, struct err *err)
{
    return err_set(err, EPERM, "Job '%s' in state '%s' cannot accept command verb '%s'", j->id,
                   block_job_status_name[j->status], verb);
}

bool block_job_cancel(struct block_job *j, bool force, struct err *err)
{
    if (j->status >= BLOCK_JOB_ABORTING)
        return refused(j, "cancel", err);
    j->paused = j->io_failed = false;
    if (j->status == BLOCK_JOB_READY || j->status == BLOCK_JOB_STANDBY) {
        if (!force) { /* a mirror that is ready ends well, without the pivot */
            j->completing = true;
            j->pivot = false;
            set_status(j, BLOCK_JOB_READY);
            drop_retries(j);
            job_wake(j);
            return true;
        }
    }
    j->cancelled = true;
    drop_retries(j);
    loop_post(j->all->loop, &j->pump);
    return true;
}

bool block_job_complete(struct block_job *j, struct err *err)
{
    if (j->status != BLOCK_JOB_READY || !j->type->can_complete)
        return refused(j, "complete", err);
    j->completing = j->pivot = true;
    job_wake(j);
    return true;
}

bool block_job_pause(struct block_job *j, struct err *err)
{
    if (j->status > BLOCK_JOB_STANDBY)
        return refused(j, "pause", err);
    if (j->paused)
        return err_set(err, EPERM, "Job is already paused");
    j->paused = true;
    job_wake(j);
    return true;
}

static void retry_pieces(struct block_job *j)
{
    for (unsigned i = 0; i < JOB_PIECES; i++)
        if (j->piece[i].busy && j->piece[i].retry) {
            j->piece[i].retry = false;
            job_piece_run(&j->piece[i]);
        }
}

bool block_job_resume(struct block_job *j, struct err *err)
{
    if (j->status > BLOCK_JOB_STANDBY)
        return refused(j, "resume", err);
    if (!j->paused)
        return err_set(err, EPERM, "Can't resume a job that was not paused");
    j->paused = j->io_failed = false;
    if (j->status == BLOCK_JOB_PAUSED)
        set_status(j, BLOCK_JOB_RUNNING);
    if (j->status == BLOCK_JOB_STANDBY)
        set_status(j, BLOCK_JOB_READY);
    retry_pieces(j);
    job_wake(j);
    return true;
}

bool block_job_finalize(struct block_job *j, struct err *err)
{
    if (j->status != BLOCK_JOB_PENDING)
        return refused(j, "finalize", err);
    j->finalize = true;
    loop_post(j->all->loop, &j->pump);
    return true;
}

bool block_job_dismiss(struct block_job *j, struct err *err)
{
    if (j->status != BLOCK_JOB_CONCLUDED)
        return refused(j, "dismiss", err);
    set_status(j, BLOCK_JOB_NULL);
    if (!j->pumping)
        job_drop(j);
    return true;
}

void block_job_set_speed(struct block_job *j, uint64_t speed)
{
    j->speed = speed;
    j->next_ns = 0;
    job_wake(j);
}

void block_jobs_close(struct block_jobs *all)
{
    list_for_safe(at, &all->list)
    {
        struct block_job *j = container_of(at, struct block_job, link);

        j->manual_dismiss = true;
        if (j->status < BLOCK_JOB_ABORTING)
            block_job_cancel(j, true, &(struct err){0});
        while (j->status < BLOCK_JOB_CONCLUDED)
            loop_turn(all->loop, UINT64_MAX);
        job_drop(j);
    }
}
