/* SPDX-License-Identifier: MIT */
/* The QMP commands of snapshots. Files come as descriptors by getfd, because the machine's process
 * can open none. */
#include "machine/qmp.h"
#include "machine/snapshot_job.h"
#include <errno.h>
#include <unistd.h>

static const char *text(json_t *args, const char *name)
{
    const char *value = json_string_value(json_object_get(args, name));

    return value ? value : "";
}

static bool parse_id(const char *hex, uint8_t id[16], struct err *err)
{
    for (unsigned i = 0; i < 16; i++) {
        unsigned byte;

        if (strlen(hex) != 32 || sscanf(hex + 2 * (size_t)i, "%2x", &byte) != 1)
            return err_set(err, EINVAL, "base-id must be 32 hexadecimal digits");
        id[i] = (uint8_t)byte;
    }
    return true;
}

static bool read_request(struct machine *m, json_t *args, struct snapshot_request *r,
                         struct err *err)
{
    r->job = text(args, "job-id");
    r->base = text(args, "base");
    r->partial = *r->base != 0;
    r->stop = json_is_true(json_object_get(args, "stop"));
    if (!*r->job)
        return err_set(err, EINVAL, "Parameter 'job-id' is missing");
    if (strlen(r->base) >= CONFIG_PATH)
        return err_set(err, EINVAL, "base: the name is too long");
    if (r->partial && !parse_id(text(args, "base-id"), r->base_id, err))
        return false;
    r->state_fd = qmp_take_fd(m->qmp, text(args, "state"), err);
    if (r->state_fd < 0)
        return false;
    r->memory_fd = qmp_take_fd(m->qmp, text(args, "memory"), err);
    if (r->memory_fd < 0)
        close(r->state_fd);
    return r->memory_fd >= 0;
}

json_t *qmp_snapshot(struct machine *m, json_t *args, struct err *err)
{
    struct snapshot_request r = {0};

    return read_request(m, args, &r, err) && snapshot_start(m, &r, err) ? json_object() : NULL;
}

void qmp_describe_snapshot_job(struct machine *m, json_t *list)
{
    struct job_report r;
    json_t *job;

    snapshot_report(m, &r);
    if (r.status == JOB_NONE)
        return;
    job = json_pack("{s:s, s:s, s:s, s:I, s:I}", "id", r.id, "type", "snapshot-save", "status",
                    r.status == JOB_RUNNING ? "running" : "concluded", "current-progress",
                    (json_int_t)r.done, "total-progress", (json_int_t)r.total);
    if (r.error)
        json_object_set_new(job, "error", json_string(r.error));
    if (r.status == JOB_CONCLUDED)
        json_object_set_new(job, "x-hull-pause-us", json_integer((json_int_t)r.pause_ns / 1000));
    json_array_append_new(list, job);
}

static bool named_job(struct machine *m, json_t *args, enum job_status status, struct err *err)
{
    struct job_report r;

    snapshot_report(m, &r);
    return (r.status == status && !strcmp(r.id, text(args, "id"))) ||
           err_set(err, EINVAL, "Job not found");
}

json_t *qmp_snapshot_cancel(struct machine *m, json_t *args, struct err *err)
{
    if (!named_job(m, args, JOB_RUNNING, err))
        return NULL;
    snapshot_cancel(m, "cancelled");
    return json_object();
}

json_t *qmp_snapshot_dismiss(struct machine *m, json_t *args, struct err *err)
{
    if (!named_job(m, args, JOB_CONCLUDED, err))
        return NULL;
    snapshot_free(m);
    return json_object();
}
