/* SPDX-License-Identifier: MIT */
/* The QMP commands that change the chain of images below a running disk, or begin a job that will.
 * Arguments, defaults and errors as in QEMU 7.2. */
#include "block/graph.h"
#include "machine/nodes.h"
#include "machine/qmp.h"
#include "machine/qmp_args.h"
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

static bool not_busy(const struct drive *d, struct err *err)
{
    return !d->job ||
           err_set(err, EBUSY, "Node '%s' is busy: block device is in use by block job: %s",
                   d->block.under->name, d->job->type->name);
}

static json_t *result(bool good)
{
    return good ? json_object() : NULL;
}

/* ---- snapshots ---- */

static bool push(struct drive *d, struct block *overlay, struct err *err)
{
    bool good;

    drive_drain(d);
    good = graph_push(d, overlay, err);
    drive_resume(d);
    return good;
}

static bool create_over(struct machine *m, const struct block *base, const char *file,
                        const char *format, struct err *err)
{
    struct block_create c = {.file = file,
                             .format = format,
                             .size = base->size,
                             .backing = base->config.file,
                             .backing_format = base->ops->name,
                             .backing_unchecked = true};

    return node_create(m, &c, err);
}

static json_t *snapshot_sync(struct machine *m, json_t *args, struct err *err)
{
    const char *format = qmp_text(args, "format"), *mode = qmp_text(args, "mode");
    struct node_options o = {.file = qmp_text(args, "snapshot-file"),
                             .format = *format ? format : "qcow2",
                             .name = qmp_text(args, "snapshot-node-name"),
                             .alone = true};
    struct drive *d = qmp_need(args, "snapshot-file", err) ? qmp_drive(m, args, err) : NULL;
    struct block *overlay;

    if (!d || !not_busy(d, err) || !node_name_free(m, o.name, err))
        return NULL;
    if (strcmp(o.format, "raw") == 0) {
        err_set(err, EINVAL, "The overlay does not support backing images");
        return NULL;
    }
    if (strcmp(mode, "existing") != 0 && !create_over(m, d->block.under, o.file, o.format, err))
        return NULL;
    o.like = &d->block.under->config;
    overlay = node_open(m, &o, err);
    if (!overlay)
        return NULL;
    if (push(d, overlay, err))
        return json_object();
    block_close(overlay);
    return NULL;
}

static json_t *snapshot(struct machine *m, json_t *args, struct err *err)
{
    struct drive *d = qmp_need(args, "node", err) && qmp_need(args, "overlay", err)
                          ? qmp_drive(m, args, err)
                          : NULL;
    struct block *overlay;

    if (!d || !not_busy(d, err))
        return NULL;
    overlay = node_take(m, qmp_text(args, "overlay"), err);
    if (!overlay)
        return NULL;
    if (overlay->ops != d->block.under->ops && !overlay->cluster_size)
        err_set(err, EINVAL, "The overlay does not support backing images");
    else if (push(d, overlay, err)) {
        node_forget(m, overlay);
        return json_object();
    }
    node_release(m, overlay);
    return NULL;
}

/* ---- what all jobs' commands take ---- */

static bool read_policy(json_t *args, const char *name, enum drive_policy *p, struct err *err)
{
    return drive_policy_parse(p, qmp_text(args, name), DRIVE_REPORT, err) ||
           err_set(err, EINVAL, "Parameter '%s' does not accept value '%.40s'", name,
                   qmp_text(args, name));
}

bool qmp_read_job(json_t *args, struct job_options *o, struct err *err)
{
    json_int_t speed = json_integer_value(json_object_get(args, "speed"));

    *o = (struct job_options){.id = qmp_text(args, "job-id"),
                              .speed = (uint64_t)speed,
                              .manual_finalize = !qmp_bool(args, "auto-finalize", true),
                              .manual_dismiss = !qmp_bool(args, "auto-dismiss", true)};
    if (speed < 0)
        return err_set(err, EINVAL, "Parameter 'speed' expects a non-negative value");
    if (json_object_get(args, "on-error")) {
        if (!read_policy(args, "on-error", &o->on_source_error, err))
            return false;
        o->on_target_error = o->on_source_error;
        return true;
    }
    return read_policy(args, "on-source-error", &o->on_source_error, err) &&
           read_policy(args, "on-target-error", &o->on_target_error, err);
}

/* An image of the disk's chain: "base-node" or "base"; true and NULL if neither is given. */
static bool read_image(struct drive *d, json_t *args, const char *what, const char *file,
                       struct block **b, struct err *err)
{
    const char *node = qmp_text(args, what), *name = qmp_text(args, file);

    *b = NULL;
    if (*node && *name)
        return err_set(err, EINVAL, "'%s' and '%s' cannot be specified at the same time", what,
                       file);
    if (!*node && !*name)
        return true;
    *b = graph_find(d->block.under, *node ? node : name);
    return *b || (*node ? err_set(err, EINVAL, "Cannot find device='' nor node-name='%.64s'", node)
                        : err_set(err, EINVAL, "Can't find '%.100s' in the backing chain", name));
}

/* ---- stream, commit ---- */

static json_t *stream(struct machine *m, json_t *args, struct err *err)
{
    struct drive *d = qmp_need(args, "device", err) ? qmp_drive(m, args, err) : NULL;
    const char *name = qmp_text(args, "backing-file");
    struct job_options o;
    struct block *base;

    if (!d || !qmp_read_job(args, &o, err) || !read_image(d, args, "base-node", "base", &base, err))
        return NULL;
    if (base == d->block.under) {
        err_set(err, EINVAL, "Node '%s' is not a backing image of '%s'", base->name, d->id);
        return NULL;
    }
    if (*name && !base) {
        err_set(err, EINVAL, "backing file specified, but streaming the entire chain");
        return NULL;
    }
    return result(job_stream(&m->jobs, d, base, name, &o, err));
}

static bool commit_base(struct drive *d, struct block *top, struct block **base, struct err *err)
{
    if (!*base)
        for (*base = top; (*base)->backing;)
            *base = (*base)->backing;
    if (*base == top)
        return err_set(err, EINVAL, "cannot commit an image into itself");
    return graph_depth(top, *base) > 0 ||
           err_set(err, EINVAL, "'%s' is not in the backing chain of '%s'", (*base)->config.file,
                   top->config.file);
}

static json_t *commit(struct machine *m, json_t *args, struct err *err)
{
    struct drive *d = qmp_need(args, "device", err) ? qmp_drive(m, args, err) : NULL;
    const char *name = qmp_text(args, "backing-file");
    struct block *top, *base;
    struct job_options o;

    if (!d || !not_busy(d, err) || !qmp_read_job(args, &o, err) ||
        !read_image(d, args, "top-node", "top", &top, err) ||
        !read_image(d, args, "base-node", "base", &base, err))
        return NULL;
    if (!top)
        top = d->block.under;
    if (!commit_base(d, top, &base, err))
        return NULL;
    if (top != d->block.under)
        return result(job_commit(&m->jobs, d, top, base, name, &o, err));
    if (*name) {
        err_set(err, EINVAL, "'backing-file' specified, but 'top' is the active layer");
        return NULL;
    }
    return result(qmp_commit_active(m, d, base, &o, err));
}

const struct qmp_command qmp_block_commands[] = {
    {"blockdev-snapshot-sync", snapshot_sync},
    {"blockdev-snapshot", snapshot},
    {"block-stream", stream},
    {"block-commit", commit},
    {0},
};
