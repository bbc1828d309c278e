/* SPDX-License-Identifier: MIT */
/* drive-mirror, blockdev-mirror, and block-commit of the disk's own image: a dirty bitmap says what
 * the target does not have yet; when it is empty the job is ready, and from there source and target
 * are the same but for what the guest has just written. The end waits for a moment without writes,
 * and then the disk goes on on the target (pivot), or on the source.
 *
 * Each part is copied under its lock, so an old copy never overtakes a newer one. With
 * write-blocking the guest's writes go to both, and nothing becomes dirty any more. */
#include "base/clock.h"
#include "block/bitmap.h"
#include "block/graph.h"
#include "block/image.h"
#include "block/job.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct mirror_job {
    struct block_job job;
    struct mirror_options o;
    struct block_bitmap *dirty;
    struct drive_watch watch;
    uint64_t at;   /* of the bitmap */
    uint64_t scan; /* of the source: what is copied at first */
    bool holds;    /* the drive is held for the end */
    unsigned both; /* writes under way to the target */
};

struct both { /* a guest's write on its way to the target */
    struct block_req req;
    struct mirror_job *m;
    struct drive_req *r;
};

static struct mirror_job *mirror_of(struct block_job *j)
{
    return container_of(j, struct mirror_job, job);
}

/* ---- what is copied at first ---- */

static bool wanted(const struct mirror_job *m, const struct block_extent *e)
{
    if (m->o.sync == MIRROR_TOP) /* a commit: all above the base */
        return e->depth <
               (m->o.commit_base ? (unsigned)graph_depth(m->job.source, m->o.commit_base) : 1);
    return !m->o.target_is_zero || (e->present && !e->zero);
}

/* Some of the disk, so that the guest's own work is not kept waiting. False: done, or an error. */
static bool scan_some(struct mirror_job *m)
{
    struct block *b = m->job.source;
    uint64_t until = m->scan + (256 * MiB);

    if (m->o.sync == MIRROR_NONE)
        m->scan = b->size;
    while (m->scan < min_u64(until, b->size)) {
        struct block_extent e = {.length = b->size - m->scan, .present = true};
        uint64_t at = m->scan;
        struct err err;

        if (b->ops->map && !block_map(b, at, b->size - at, &e, &err)) {
            job_fail(&m->job, -err.code, err.text);
            return false;
        }
        if (wanted(m, &e))
            block_bitmap_set(m->dirty, at, e.length);
        m->scan = at + e.length;
    }
    m->job.total = m->job.done + block_bitmap_bytes(m->dirty);
    return m->scan < b->size;
}

/* ---- pieces ---- */

static bool mirror_next(struct block_job *job, struct job_piece *p)
{
    struct mirror_job *m = mirror_of(job);
    uint64_t from, length;

    while (m->scan < job->source->size && !job->err.code)
        scan_some(m);
    if (job->err.code || (!block_bitmap_next(m->dirty, m->at, &from, &length) &&
                          !block_bitmap_next(m->dirty, 0, &from, &length)))
        return false;
    length = min_u64(length, max_u64(align_down(job_piece_max(job), m->dirty->granularity),
                                     m->dirty->granularity));
    m->at = from + length;
    block_bitmap_reset(m->dirty, from, length);
    p->lock.offset = from;
    p->lock.length = length;
    job->total = max_u64(job->total, job->done + block_bitmap_bytes(m->dirty) + length);
    return true;
}

static void mirror_copied(struct block_job *job, struct job_piece *p, int result)
{
    struct mirror_job *m = mirror_of(job);

    if (result < 0)
        block_bitmap_set(m->dirty, p->lock.offset, p->lock.length);
    else
        job->done += p->lock.length;
}

static void mirror_idle(struct block_job *job)
{
    struct mirror_job *m = mirror_of(job);

    if (block_bitmap_bytes(m->dirty))
        return;
    job->total = job->done;
    if (job->status == BLOCK_JOB_RUNNING)
        job_ready(job);
    if (!job->completing)
        return;
    if (!m->holds) {
        m->holds = true;
        job->drive->idle = &job->pump;
        drive_hold(job->drive);
    }
    if (drive_quiet(job->drive) && !m->both && !block_bitmap_bytes(m->dirty))
        job_conclude(job);
}

/* ---- the guest's writes ---- */

static void mirror_wrote(struct drive_watch *w, const struct drive_req *r)
{
    struct mirror_job *m = container_of(w, struct mirror_job, watch);

    job_wake(&m->job);
}

static void both_done(struct block_req *req, int result)
{
    struct both *b = container_of(req, struct both, req);
    struct mirror_job *m = b->m;
    struct drive_req *r = b->r;

    free(b);
    m->both--;
    if (result == -EOPNOTSUPP) /* zeroes or discards: by copying */
        block_bitmap_set(m->dirty, r->below.offset, r->below.length);
    else if (result < 0) {
        block_bitmap_set(m->dirty, r->below.offset, r->below.length);
        job_fail(&m->job, result, strerror(-result));
    } else {
        uint64_t g = m->dirty->granularity, from = align_up(r->below.offset, g);
        uint64_t to = align_down(r->below.offset + r->below.length, g);

        if (from < to)
            block_bitmap_reset(m->dirty, from, to - from);
    }
    drive_end(r);
    job_wake(&m->job);
}

/* What lies whole in the bitmap's parts is in the target then; parts that were not dirty before
 * stay clean at the edges too, because the target has the rest of them. */
static bool mirror_after(struct drive_watch *w, struct drive_req *r)
{
    struct mirror_job *m = container_of(w, struct mirror_job, watch);
    struct both *b;

    if (r->result < 0 || m->job.status < BLOCK_JOB_RUNNING || m->job.err.code || m->job.cancelled ||
        r->below.op == BLOCK_DISCARD || !(b = calloc(1, sizeof *b)))
        return false;
    b->m = m;
    b->r = r;
    b->req = (struct block_req){.op = r->below.op,
                                .flags = r->below.flags & BLOCK_REQ_UNMAP,
                                .offset = r->below.offset,
                                .length = r->below.length,
                                .iov = r->below.iov,
                                .iov_count = r->below.iov_count,
                                .done = both_done};
    m->both++;
    block_submit(m->job.target, &b->req);
    return true;
}

/* ---- the end ---- */

/* The images above the base are no longer needed; the base has all that they had. */
static void pivot_to_base(struct mirror_job *m)
{
    struct block *base = m->o.commit_base, *over = graph_above(m->job.source, base), *old;

    over->backing = NULL;
    old = drive_replace(m->job.drive, base);
    block_close(old);
}

static void pivot(struct mirror_job *m)
{
    struct block *source = m->job.source, *target = m->job.target, *old;

    if (m->o.backing == BACKING_OF_SOURCE && !target->backing) {
        target->backing = source->backing;
        source->backing = NULL;
    }
    old = drive_replace(m->job.drive, target);
    if (m->o.backing == BACKING_IS_SOURCE && !target->backing)
        target->backing = old;
    else
        job_release(&m->job, old);
    m->job.all->events->adopt(m->job.all, target);
}

static bool mirror_finish(struct block_job *job, bool good, struct err *err)
{
    struct mirror_job *m = mirror_of(job);
    struct err ignored;
    int failed = 0;

    drive_drain(job->drive); /* for nothing if it is held already */
    while (m->both)
        loop_turn(job->all->loop, UINT64_MAX);
    drive_unwatch(&m->watch);
    if (m->dirty)
        block_bitmap_remove(m->dirty, &ignored);
    if (good)
        failed = block_run(job->target, BLOCK_FLUSH, 0, 0, NULL, 0);
    if (failed)
        good = err_set(err, -failed, "%s: %s", job->target->config.file, strerror(-failed));
    if (good && job->pivot && m->o.commit_base)
        pivot_to_base(m);
    else if (good && job->pivot)
        pivot(m);
    else if (m->o.commit_base)
        graph_lock(job->target, false, &ignored);
    else
        job_release(job, job->target);
    job->drive->idle = NULL;
    if (m->holds)
        drive_resume(job->drive);
    drive_resume(job->drive);
    return good;
}

static const struct block_job_type mirror_type = {.name = "mirror",
                                                  .locks = true,
                                                  .can_complete = true,
                                                  .next = mirror_next,
                                                  .copied = mirror_copied,
                                                  .idle = mirror_idle,
                                                  .finish = mirror_finish};
static const struct block_job_type commit_type = {.name = "commit",
                                                  .locks = true,
                                                  .can_complete = true,
                                                  .next = mirror_next,
                                                  .copied = mirror_copied,
                                                  .idle = mirror_idle,
                                                  .finish = mirror_finish};

static bool check(struct drive *d, const struct block *target, const struct mirror_options *o,
                  struct err *err)
{
    if (target == d->block.under)
        return err_set(err, EINVAL, "Can't mirror node into itself");
    if (!o->commit_base && target->size < d->block.size)
        return err_set(err, EINVAL, "Source and target image have different sizes");
    if (!o->commit_base && target->readonly)
        return err_set(err, EROFS, "Block node is read-only");
    return !o->granularity ||
           (is_power_of_2(o->granularity) && o->granularity >= 512 && o->granularity <= 64 * MiB) ||
           err_set(
               err, EINVAL,
               "Parameter 'granularity' expects a value in range [512B, 64MB] and a power of 2");
}

static bool prepare_base(struct mirror_job *m, struct drive *d, struct err *err)
{
    struct block **base = &m->o.commit_base;
    bool good;

    drive_drain(d);
    good =
        graph_make_writable(graph_above(d->block.under, *base), base, err) &&
        ((*base)->size >= d->block.size || block_resize(*base, d->block.size, PREALLOC_OFF, err));
    drive_resume(d);
    m->job.target = *base;
    return good;
}

bool job_mirror(struct block_jobs *all, struct drive *d, struct block *target,
                const struct mirror_options *o, struct err *err)
{
    struct mirror_job *m;

    if (!check(d, target, o, err))
        return false;
    m = job_new(all, o->commit_base ? &commit_type : &mirror_type, sizeof *m, d, &o->job, err);
    if (!m)
        return false;
    m->o = *o;
    m->job.source = d->block.under;
    m->job.target = target;
    list_init(&m->watch.link);
    m->dirty = block_bitmap_add(
        d->block.under, "",
        o->granularity ? o->granularity
                       : (uint32_t)max_u64(min_u64(target->cluster_size, 65536), 65536),
        0, err);
    if (!m->dirty || (o->commit_base && !prepare_base(m, d, err))) {
        if (m->dirty)
            block_bitmap_remove(m->dirty, &(struct err){0});
        job_drop(&m->job);
        return false;
    }
    m->watch.wrote = mirror_wrote;
    m->watch.after = o->write_blocking ? mirror_after : NULL;
    drive_watch(d, &m->watch);
    job_start(&m->job);
    return true;
}
