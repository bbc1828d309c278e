/* SPDX-License-Identifier: MIT */
/* Taking a snapshot of a running machine: a job, as QMP knows jobs.
 *
 *   created -> running (passes over memory, the guest runs)
 *           -> the guest stands still: last pages, state
 *           -> concluded (good or not); the guest goes on, or stays stopped if that was asked */
#ifndef HULL_MACHINE_SNAPSHOT_JOB_H
#define HULL_MACHINE_SNAPSHOT_JOB_H

#include "machine/memory_save.h"
#include "machine/snapshot.h"

struct snapshot_request {
    const char *job;         /* its id */
    int state_fd, memory_fd; /* fresh files, open for writing; the job's from now on */
    bool partial;            /* only what changed since the snapshot `base_id` */
    uint8_t base_id[16];
    const char *base; /* the base's directory, as `state` is to name it */
    bool stop;        /* the machine stays stopped */
};

struct snapshot_job;

enum job_status { JOB_NONE, JOB_RUNNING, JOB_CONCLUDED };

struct job_report {
    const char *id;
    enum job_status status;
    uint64_t done, total; /* bytes of memory */
    uint64_t pause_ns;    /* how long the guest stood still */
    const char *error;    /* NULL: none */
};

/* Closes the descriptors if it fails. */
bool snapshot_start(struct machine *m, const struct snapshot_request *request, struct err *err);
void snapshot_cancel(struct machine *m, const char *why); /* idempotent */
void snapshot_report(const struct machine *m, struct job_report *report);
void snapshot_free(struct machine *m); /* when the machine closes */

#endif
