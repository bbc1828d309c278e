/* SPDX-License-Identifier: MIT */
/* The control socket: QMP, as QEMU's clients speak it. One server, several clients.
 *
 * A client gets a greeting, sends qmp_capabilities, then commands; answers and events come back one
 * JSON object a line. Requests are hostile: at most 1 MiB each, at most 8 clients. */
#ifndef HULL_MACHINE_QMP_H
#define HULL_MACHINE_QMP_H

#include "machine/machine.h"
#include <jansson.h>

struct qmp;

/* Listens on `path` if it is not empty; a stale socket file is replaced, a live one is an error. */
struct qmp *qmp_open(struct machine *m, const char *path, struct err *err);
bool qmp_add_client(struct qmp *q, int fd,
                    struct err *err); /* owns fd; its hang-up quits the machine */
void qmp_close(struct qmp *q);        /* accepts NULL; removes the socket file */

/* The machine has ended a change (machine->changing): clients are heard again. q may be NULL. */
void qmp_changed(struct qmp *q);
/* `data` as json_pack takes it, NULL: none. Goes to every client that negotiated. q may be NULL. */
void qmp_event(struct qmp *q, const char *name, const char *data, ...);

/* A descriptor that a client passed by getfd, now the caller's; -1 with an error. */
/* A command runs, and may be turning the loop. q may be NULL. */
bool qmp_busy(const struct qmp *q);

int qmp_take_fd(struct qmp *q, const char *name, struct err *err);

/* ---- commands.c ---- */
struct qmp_command {
    const char *name;
    /* `args` is an object or NULL. NULL: error in *err, whose code ENOENT stands for
     * DeviceNotFound, ENODEV for DeviceNotActive. */
    json_t *(*run)(struct machine *m, json_t *args, struct err *err);
};
/* Tables that end with a NULL name, and a list of them that ends with NULL. */
extern const struct qmp_command *const qmp_tables[];
extern const struct qmp_command qmp_disk_commands[];   /* disk_commands.c */
extern const struct qmp_command qmp_node_commands[];   /* nodes.c */
extern const struct qmp_command qmp_job_commands[];    /* jobs.c */
extern const struct qmp_command qmp_block_commands[];  /* block_commands.c */
extern const struct qmp_command qmp_nbd_commands[];    /* nbd.c */
extern const struct qmp_command qmp_mirror_commands[]; /* mirror_commands.c */

/* ---- profile_commands.c ---- */
json_t *qmp_query_jit(struct machine *m, json_t *args, struct err *err);

/* ---- snapshot_commands.c ---- */
json_t *qmp_snapshot(struct machine *m, json_t *args, struct err *err);
/* What jobs.c has to add for the job that takes a snapshot. */
void qmp_describe_snapshot_job(struct machine *m, json_t *list);
json_t *qmp_snapshot_cancel(struct machine *m, json_t *args, struct err *err);
json_t *qmp_snapshot_dismiss(struct machine *m, json_t *args, struct err *err);

#endif
