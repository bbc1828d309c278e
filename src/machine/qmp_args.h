/* SPDX-License-Identifier: MIT */
/* Reading a command's arguments, for the commands of disks. */
#ifndef HULL_MACHINE_QMP_ARGS_H
#define HULL_MACHINE_QMP_ARGS_H

#include "machine/disks.h"
#include <errno.h>
#include <jansson.h>

/* "" if it is not there. */
static inline const char *qmp_text(json_t *args, const char *name)
{
    const char *value = json_string_value(json_object_get(args, name));

    return value ? value : "";
}

static inline bool qmp_bool(json_t *args, const char *name, bool otherwise)
{
    const json_t *value = json_object_get(args, name);

    return json_is_boolean(value) ? json_is_true(value) : otherwise;
}

static inline bool qmp_need(json_t *args, const char *name, struct err *err)
{
    return json_object_get(args, name) || err_set(err, EINVAL, "Parameter '%s' is missing", name);
}

/* The drive that "device", "id", "node" or "node-name" means; its image's node name counts too. */
struct drive *qmp_drive(struct machine *m, json_t *args, struct err *err);
/* Active commit; in mirror_commands.c. */
bool qmp_commit_active(struct machine *m, struct drive *d, struct block *base,
                       const struct job_options *o, struct err *err);
/* What all jobs take: job-id, speed, on-error, auto-finalize, ... */
bool qmp_read_job(json_t *args, struct job_options *o, struct err *err);
json_t *qmp_describe_node(const struct block *b, const struct drive *d);

#endif
