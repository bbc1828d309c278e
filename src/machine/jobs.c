/* SPDX-License-Identifier: MIT */
/* QMP's commands and events of jobs. What begins a block job is in block_commands.c, snapshots of
 * the machine are in snapshot_commands.c. */
#include "machine/jobs.h"
#include "machine/nbd.h"
#include "machine/nodes.h"
#include "machine/qmp.h"
#include "machine/qmp_args.h"

/* ---- events ---- */

static const char *device_of(const struct block_job *j)
{
    return j->id;
}

static void on_event(struct block_jobs *all, struct block_job *j, const char *name)
{
    struct machine *m = all->owner;
    json_t *data;

    if (!strcmp(name, "JOB_STATUS_CHANGE")) {
        qmp_event(m->qmp, name, "{s:s, s:s}", "status", block_job_status_name[j->status], "id",
                  j->id);
        return;
    }
    if (!j->drive) /* blockdev-create: no block job in QEMU's sense */
        return;
    if (!strcmp(name, "BLOCK_JOB_PENDING")) {
        qmp_event(m->qmp, name, "{s:s, s:s}", "type", j->type->name, "id", j->id);
        return;
    }
    data = json_pack("{s:s, s:s, s:I, s:I, s:I}", "type", j->type->name, "device", device_of(j),
                     "len", (json_int_t)j->total, "offset", (json_int_t)j->done, "speed",
                     (json_int_t)j->speed);
    if (j->err.code && strcmp(name, "BLOCK_JOB_COMPLETED") == 0)
        json_object_set_new(data, "error", json_string(j->err.text));
    qmp_event(m->qmp, name, "o", data);
}

static void on_io_error(struct block_jobs *all, struct block_job *j, bool read,
                        enum drive_policy did)
{
    struct machine *m = all->owner;

    qmp_event(m->qmp, "BLOCK_JOB_ERROR", "{s:s, s:s, s:s}", "device", j->id, "operation",
              read ? "read" : "write", "action", drive_policy_name[did]);
}

static bool change_begin(struct block_jobs *all)
{
    struct machine *m = all->owner;

    if (m->changing || qmp_busy(m->qmp) || nbd_looks(m))
        return false;
    m->changing = true;
    return true;
}

static void change_end(struct block_jobs *all)
{
    machine_changed(all->owner);
}

static void release(struct block_jobs *all, struct block *target)
{
    node_release(all->owner, target);
}

static void adopt(struct block_jobs *all, struct block *target)
{
    node_forget(all->owner, target);
}

static const struct block_job_events events = {
    .event = on_event,
    .io_error = on_io_error,
    .change_begin = change_begin,
    .change_end = change_end,
    .release = release,
    .adopt = adopt,
};

void machine_jobs_open(struct machine *m)
{
    block_jobs_init(&m->jobs, m->loop, &events, m);
}

/* ---- queries ---- */

static json_t *query_block_jobs(struct machine *m, json_t *args, struct err *err)
{
    json_t *list = json_array();

    list_for(at, &m->jobs.list)
    {
        const struct block_job *j = container_of(at, struct block_job, link);
        json_t *job;

        if (!j->drive)
            continue;
        job = json_pack("{s:s, s:s, s:I, s:I, s:I, s:b, s:b, s:b, s:s, s:s, s:b, s:b}", "type",
                        j->type->name, "device", device_of(j), "len", (json_int_t)j->total,
                        "offset", (json_int_t)j->done, "speed", (json_int_t)j->speed, "busy",
                        j->under_way != 0, "paused", j->paused, "ready",
                        j->status == BLOCK_JOB_READY || j->status == BLOCK_JOB_STANDBY, "io-status",
                        j->io_failed ? "failed" : "ok", "status", block_job_status_name[j->status],
                        "auto-finalize", !j->manual_finalize, "auto-dismiss", !j->manual_dismiss);
        if (j->err.code)
            json_object_set_new(job, "error", json_string(j->err.text));
        json_array_append_new(list, job);
    }
    return list;
}

static json_t *query_jobs(struct machine *m, json_t *args, struct err *err)
{
    json_t *list = json_array();

    list_for(at, &m->jobs.list)
    {
        const struct block_job *j = container_of(at, struct block_job, link);
        json_t *job = json_pack("{s:s, s:s, s:s, s:I, s:I}", "id", j->id, "type", j->type->name,
                                "status", block_job_status_name[j->status], "current-progress",
                                (json_int_t)j->done, "total-progress", (json_int_t)j->total);

        if (j->err.code)
            json_object_set_new(job, "error", json_string(j->err.text));
        else if (j->cancelled)
            json_object_set_new(job, "error", json_string("Operation canceled"));
        json_array_append_new(list, job);
    }
    qmp_describe_snapshot_job(m, list);
    return list;
}

/* ---- steering ---- */

static struct block_job *find(struct machine *m, json_t *args, struct err *err)
{
    const char *device = qmp_text(args, "device"), *id = *device ? device : qmp_text(args, "id");
    struct block_job *j = block_job_find(&m->jobs, id);

    if (!j && *device) {
        err_set(err, ENODEV, "Block job '%.64s' not found", device);
    } else if (!j)
        err_set(err, EINVAL, "Job not found");
    return j;
}

static json_t *result(bool good)
{
    return good ? json_object() : NULL;
}

static json_t *cancel(struct machine *m, json_t *args, struct err *err)
{
    struct block_job *j = find(m, args, err);

    return result(j && block_job_cancel(j, qmp_bool(args, "force", false), err));
}

/* job-cancel is always forced, but for a mirror that is ready (as QEMU has it). */
static json_t *job_cancel(struct machine *m, json_t *args, struct err *err)
{
    struct block_job *j = block_job_find(&m->jobs, qmp_text(args, "id"));

    return j ? result(block_job_cancel(j, true, err)) : qmp_snapshot_cancel(m, args, err);
}

static json_t *job_dismiss(struct machine *m, json_t *args, struct err *err)
{
    struct block_job *j = block_job_find(&m->jobs, qmp_text(args, "id"));

    return j ? result(block_job_dismiss(j, err)) : qmp_snapshot_dismiss(m, args, err);
}

static json_t *pause_job(struct machine *m, json_t *args, struct err *err)
{
    struct block_job *j = find(m, args, err);

    return result(j && block_job_pause(j, err));
}

static json_t *resume_job(struct machine *m, json_t *args, struct err *err)
{
    struct block_job *j = find(m, args, err);

    return result(j && block_job_resume(j, err));
}

static json_t *complete_job(struct machine *m, json_t *args, struct err *err)
{
    struct block_job *j = find(m, args, err);

    return result(j && block_job_complete(j, err));
}

static json_t *finalize_job(struct machine *m, json_t *args, struct err *err)
{
    struct block_job *j = find(m, args, err);

    return result(j && block_job_finalize(j, err));
}

static json_t *set_speed(struct machine *m, json_t *args, struct err *err)
{
    json_int_t speed = json_integer_value(json_object_get(args, "speed"));
    struct block_job *j = find(m, args, err);

    if (!j)
        return NULL;
    if (speed < 0) {
        err_set(err, EINVAL, "Parameter 'speed' expects a non-negative value");
        return NULL;
    }
    block_job_set_speed(j, (uint64_t)speed);
    return json_object();
}

const struct qmp_command qmp_job_commands[] = {
    {"query-block-jobs", query_block_jobs},
    {"query-jobs", query_jobs},
    {"block-job-cancel", cancel},
    {"block-job-pause", pause_job},
    {"block-job-resume", resume_job},
    {"block-job-complete", complete_job},
    {"block-job-finalize", finalize_job},
    {"block-job-dismiss", job_dismiss},
    {"block-job-set-speed", set_speed},
    {"job-cancel", job_cancel},
    {"job-pause", pause_job},
    {"job-resume", resume_job},
    {"job-complete", complete_job},
    {"job-finalize", finalize_job},
    {"job-dismiss", job_dismiss},
    {0},
};
