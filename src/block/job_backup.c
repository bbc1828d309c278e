/* SPDX-License-Identifier: MIT */
/* blockdev-backup: the target becomes the disk as it was when the job began. A bitmap says what is
 * still to be copied; a guest's write to such a part waits until the old contents are saved.
 *
 *   guest's write -> lock -> still to copy? -> copied first -> the write goes on
 *
 * An incremental backup begins with what a named bitmap has collected; that one is frozen for the
 * time, and afterwards has what was written meanwhile (and the rest too, if the backup failed). */
#include "block/bitmap.h"
#include "block/image.h"
#include "block/job.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct backup_job {
    struct block_job job;
    struct backup_options o;
    struct block_bitmap *todo;
    struct drive_watch watch;
    uint64_t at, scan;
    bool frozen;
    unsigned writes; /* of the guest, that wait for their part's copy */
};

struct saved_write { /* a guest's write that waits */
    struct drive_lock lock;
    struct drive_req *r;
    struct backup_job *b;
    struct block_req req;
    struct iovec iov;
    uint64_t at, length;
    void *buffer;
};

static struct backup_job *backup_of(struct block_job *j)
{
    return container_of(j, struct backup_job, job);
}

/* ---- copy before write ---- */

static void save_next(struct saved_write *s);

static void save_end(struct saved_write *s)
{
    struct backup_job *b = s->b;
    struct drive_req *r = s->r;

    drive_unlock(b->job.drive, &s->lock);
    b->writes--;
    free(s->buffer);
    free(s);
    drive_go_on(r);
    job_wake(&b->job);
}

/* The backup is lost then, not the guest's write. */
static void save_failed(struct saved_write *s, int result)
{
    job_fail(&s->b->job, result, strerror(-result));
    save_end(s);
}

static void save_written(struct block_req *req, int result)
{
    struct saved_write *s = container_of(req, struct saved_write, req);

    if (result < 0) {
        save_failed(s, result);
        return;
    }
    s->b->job.done += s->length;
    save_next(s);
}

static void save_was_read(struct block_req *req, int result)
{
    struct saved_write *s = container_of(req, struct saved_write, req);

    if (result < 0) {
        save_failed(s, result);
        return;
    }
    req->op = BLOCK_WRITE;
    req->done = save_written;
    block_submit(s->b->job.target, req);
}

static void save_next(struct saved_write *s)
{
    struct backup_job *b = s->b;
    uint64_t end = s->lock.offset + s->lock.length;

    if (b->job.err.code || b->job.cancelled ||
        !block_bitmap_next(b->todo, s->at, &s->at, &s->length) || s->at >= end) {
        save_end(s);
        return;
    }
    s->length = min_u64(min_u64(s->length, end - s->at), JOB_PIECE);
    block_bitmap_reset(b->todo, s->at, s->length);
    s->iov = (struct iovec){s->buffer, s->length};
    s->req = (struct block_req){.op = BLOCK_READ,
                                .offset = s->at,
                                .length = s->length,
                                .iov = &s->iov,
                                .iov_count = 1,
                                .done = save_was_read};
    block_submit(b->job.source, &s->req);
}

static void save_held(struct drive_lock *l)
{
    save_next(container_of(l, struct saved_write, lock));
}

static bool backup_before(struct drive_watch *w, struct drive_req *r)
{
    struct backup_job *b = container_of(w, struct backup_job, watch);
    uint64_t g = b->todo->granularity, from = align_down(r->below.offset, g), at, length;
    uint64_t to = min_u64(align_up(r->below.offset + r->below.length, g), b->job.source->size);
    struct saved_write *s;

    if (b->job.err.code || b->job.cancelled || !block_bitmap_next(b->todo, from, &at, &length) ||
        at >= to)
        return false;
    s = calloc(1, sizeof *s);
    if (!s || !(s->buffer = aligned_alloc(4096, JOB_PIECE))) {
        free(s);
        job_fail(&b->job, -ENOMEM, "no memory for a copy before write");
        return false;
    }
    s->r = r;
    s->b = b;
    s->at = from;
    s->lock = (struct drive_lock){.offset = from, .length = to - from, .held = save_held};
    b->writes++;
    drive_lock(b->job.drive, &s->lock);
    return true;
}

/* ---- pieces ---- */

/* Without this pass all of the disk is to be copied before it is written. */
static bool leave_out(const struct backup_job *b, const struct block_extent *e)
{
    if (b->o.sync == BACKUP_TOP)
        return e->depth > 0 || !e->present;
    return b->o.sync == BACKUP_FULL && b->o.target_is_zero && (!e->present || e->zero);
}

static void scan(struct backup_job *b)
{
    struct block *source = b->job.source;

    while (b->scan < source->size) {
        struct block_extent e = {.length = source->size - b->scan, .present = true};
        uint64_t at = b->scan;
        struct err err;

        if (source->ops->map && !block_map(source, at, source->size - at, &e, &err)) {
            job_fail(&b->job, -err.code, err.text);
            return;
        }
        b->scan = at + e.length;
        if (leave_out(b, &e)) { /* whole parts only */
            uint64_t g = b->todo->granularity, from = align_up(at, g);
            uint64_t to = b->scan == source->size ? b->scan : align_down(b->scan, g);

            if (from < to)
                block_bitmap_reset(b->todo, from, to - from);
        }
    }
    b->job.total = b->job.done + block_bitmap_bytes(b->todo);
}

static bool backup_next(struct block_job *job, struct job_piece *p)
{
    struct backup_job *b = backup_of(job);
    uint64_t from, length;

    if (b->o.sync == BACKUP_NONE || !block_bitmap_next(b->todo, b->at, &from, &length))
        return false;
    length = min_u64(length, max_u64(align_down(job_piece_max(job), b->todo->granularity),
                                     b->todo->granularity));
    b->at = from + length;
    block_bitmap_reset(b->todo, from, length);
    p->lock.offset = from;
    p->lock.length = length;
    return true;
}

static void backup_copied(struct block_job *job, struct job_piece *p, int result)
{
    if (result == 0)
        job->done += p->lock.length;
}

static void backup_idle(struct block_job *job)
{
    struct backup_job *b = backup_of(job);

    if (b->writes || b->o.sync == BACKUP_NONE)
        return;
    job_conclude(job);
}

static bool backup_finish(struct block_job *job, bool good, struct err *err)
{
    struct backup_job *b = backup_of(job);
    int failed;

    drive_unwatch(&b->watch);
    while (b->writes)
        loop_turn(job->all->loop, UINT64_MAX);
    failed = good ? block_run(job->target, BLOCK_FLUSH, 0, 0, NULL, 0) : 0;
    if (failed)
        good = err_set(err, -failed, "%s: %s", job->target->config.file, strerror(-failed));
    block_bitmap_remove(b->todo, &(struct err){0});
    if (b->frozen)
        block_bitmap_thaw(b->o.bitmap,
                          b->o.mode == BACKUP_ALWAYS || (good && b->o.mode == BACKUP_ON_SUCCESS));
    job_release(job, job->target);
    return good;
}

static const struct block_job_type backup_type = {.name = "backup",
                                                  .locks = true,
                                                  .next = backup_next,
                                                  .copied = backup_copied,
                                                  .idle = backup_idle,
                                                  .finish = backup_finish};

/* From here on the disk is the one to be saved: nothing is under way. */
static bool begin(struct backup_job *b, struct err *err)
{
    struct block *source = b->job.source, *target = b->job.target;
    uint32_t granularity = (uint32_t)min_u64(max_u64(target->cluster_size, 65536), JOB_PIECE);

    b->todo = block_bitmap_add(source, "", granularity, BITMAP_DISABLED, err);
    if (!b->todo)
        return false;
    if (b->o.sync == BACKUP_BITMAP) {
        if (!block_bitmap_merge(b->todo, b->o.bitmap, err) ||
            !block_bitmap_freeze(b->o.bitmap, err))
            return false;
        b->frozen = true;
    } else
        block_bitmap_set(b->todo, 0, source->size);
    scan(b);
    b->watch.before = backup_before;
    drive_watch(b->job.drive, &b->watch);
    return true;
}

bool job_backup(struct block_jobs *all, struct drive *d, struct block *target,
                const struct backup_options *o, struct err *err)
{
    struct backup_job *b;
    bool good;

    if (target->readonly)
        return err_set(err, EROFS, "Block node is read-only");
    if (target->size < d->block.size)
        return err_set(err, EINVAL, "Source and target image have different sizes");
    b = job_new(all, &backup_type, sizeof *b, d, &o->job, err);
    if (!b)
        return false;
    b->o = *o;
    b->job.source = d->block.under;
    b->job.target = target;
    drive_drain(d);
    good = begin(b, err);
    drive_resume(d);
    if (good) {
        job_start(&b->job);
        return true;
    }
    if (b->todo)
        block_bitmap_remove(b->todo, &(struct err){0});
    job_drop(&b->job);
    return false;
}
