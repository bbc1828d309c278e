/* SPDX-License-Identifier: MIT */
/* block-stream: what the images between the disk's own and `base` have is copied up into it; then
 * they are no longer needed. */
#include "block/graph.h"
#include "block/image.h"
#include "block/job.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct stream_job {
    struct block_job job;
    struct block *base; /* or NULL */
    char base_name[1024];
    uint64_t at;
};

static bool stream_next(struct block_job *job, struct job_piece *p)
{
    struct stream_job *s = container_of(job, struct stream_job, job);
    unsigned depth = s->base ? (unsigned)graph_depth(job->target, s->base) : UINT32_MAX;

    while (s->at < job->target->size) {
        struct block_extent e;
        struct err err;
        uint64_t at = s->at;

        if (!block_map(job->target, at, min_u64(job_piece_max(job), job->target->size - at), &e,
                       &err)) {
            job_fail(job, -err.code, err.text);
            return false;
        }
        s->at += e.length;
        job->done = s->at;
        /* An image that ends before the base does hides what the base has there. */
        if (e.depth > 0 && e.depth < depth && (e.present || s->base)) {
            p->lock.offset = at;
            p->lock.length = e.length;
            return true;
        }
    }
    return false;
}

static void stream_idle(struct block_job *job)
{
    job_conclude(job);
}

static bool stream_finish(struct block_job *job, bool good, struct err *err)
{
    struct stream_job *s = container_of(job, struct stream_job, job);

    if (!good)
        return true;
    drive_drain(job->drive);
    good = graph_cut(job->target, s->base, s->base_name, err);
    drive_resume(job->drive);
    return good;
}

static const struct block_job_type stream_type = {
    .name = "stream",
    .locks = true,
    .next = stream_next,
    .idle = stream_idle,
    .finish = stream_finish,
};

bool job_stream(struct block_jobs *all, struct drive *d, struct block *base, const char *base_name,
                const struct job_options *o, struct err *err)
{
    struct stream_job *s;

    if (d->block.under->readonly)
        return err_set(err, EROFS, "Block node is read-only");
    s = job_new(all, &stream_type, sizeof *s, d, o, err);
    if (!s)
        return false;
    s->base = base;
    snprintf(s->base_name, sizeof s->base_name, "%s", base_name);
    s->job.source = s->job.target = d->block.under;
    s->job.total = d->block.size;
    job_start(&s->job);
    return true;
}
