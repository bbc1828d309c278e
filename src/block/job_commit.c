/* SPDX-License-Identifier: MIT */
/* block-commit below the disk's own image: what the images from `top` down to `base` have goes into
 * `base`; then the image over `top` stands on `base`. Nothing of this is written by the guest, so
 * no part needs a lock. (Committing the disk's own image is a mirror into its chain.) */
#include "block/graph.h"
#include "block/image.h"
#include "block/job.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct commit_job {
    struct block_job job;
    char name[1024];
    uint64_t at;
};

static bool commit_next(struct block_job *job, struct job_piece *p)
{
    struct commit_job *c = container_of(job, struct commit_job, job);
    unsigned depth = (unsigned)graph_depth(job->source, job->target);
    uint64_t size = min_u64(job->source->size, job->target->size);

    while (c->at < size) {
        struct block_extent e;
        struct err err;
        uint64_t at = c->at;

        if (!block_map(job->source, at, min_u64(job_piece_max(job), size - at), &e, &err)) {
            job_fail(job, -err.code, err.text);
            return false;
        }
        c->at += e.length;
        job->done = c->at;
        if (e.depth < depth) {
            p->lock.offset = at;
            p->lock.length = e.length;
            p->zero = e.zero;
            return true;
        }
    }
    return false;
}

static void commit_idle(struct block_job *job)
{
    job_conclude(job);
}

static bool commit_finish(struct block_job *job, bool good, struct err *err)
{
    struct commit_job *c = container_of(job, struct commit_job, job);
    struct block *over = graph_above(job->drive->block.under, job->source);
    int failed = block_run(job->target, BLOCK_FLUSH, 0, 0, NULL, 0);
    struct err ignored;

    if (failed && good)
        good = err_set(err, -failed, "%s: %s", job->target->config.file, strerror(-failed));
    if (good) {
        struct block *above = graph_above(job->drive->block.under, over);

        drive_drain(job->drive);
        good = (!over->readonly || graph_make_writable(above, &over, err)) &&
               graph_cut(over, job->target, c->name, err);
        drive_resume(job->drive);
    }
    graph_lock(job->target, false, &ignored);
    return good;
}

static const struct block_job_type commit_type = {
    .name = "commit",
    .next = commit_next,
    .idle = commit_idle,
    .finish = commit_finish,
};

static bool prepare(struct drive *d, struct block *top, struct block **base, struct err *err)
{
    bool good;

    drive_drain(d);
    good = graph_make_writable(graph_above(d->block.under, *base), base, err) &&
           ((*base)->size >= top->size || block_resize(*base, top->size, PREALLOC_OFF, err));
    drive_resume(d);
    return good;
}

bool job_commit(struct block_jobs *all, struct drive *d, struct block *top, struct block *base,
                const char *base_name, const struct job_options *o, struct err *err)
{
    struct commit_job *c = job_new(all, &commit_type, sizeof *c, d, o, err);

    if (!c)
        return false;
    if (!prepare(d, top, &base, err)) {
        job_drop(&c->job);
        return false;
    }
    snprintf(c->name, sizeof c->name, "%s", base_name);
    c->job.source = top;
    c->job.target = base;
    c->job.total = min_u64(top->size, base->size);
    job_start(&c->job);
    return true;
}
