/* SPDX-License-Identifier: MIT */
/* Block jobs: copying between images below a running disk. What is the same for all is here: state,
 * pausing, speed, errors, and the pieces under way; each kind says what to copy next and what the
 * end changes.
 *
 *   created -> running <-> paused             -> waiting -> pending -> concluded -> null
 *              running -> ready <-> standby      (mirror)
 *              any -> aborting -> concluded -> null
 *
 *   pump -> next() -> lock of the range -> read source -> write target -> copied() -> pump
 *        -> idle(), when nothing is under way and next() has nothing
 *
 * State names, events and their order are QEMU's. */
#ifndef HULL_BLOCK_JOB_H
#define HULL_BLOCK_JOB_H

#include "block/drive.h"

#define JOB_PIECES 8
#define JOB_PIECE  (1u << 20) /* bytes at most */

enum block_job_status {
    BLOCK_JOB_CREATED,
    BLOCK_JOB_RUNNING,
    BLOCK_JOB_PAUSED,
    BLOCK_JOB_READY,
    BLOCK_JOB_STANDBY,
    BLOCK_JOB_WAITING,
    BLOCK_JOB_PENDING,
    BLOCK_JOB_ABORTING,
    BLOCK_JOB_CONCLUDED,
    BLOCK_JOB_NULL,
};
extern const char *const block_job_status_name[];

struct block_job;

struct job_piece {
    struct block_job *job;
    struct drive_lock lock;
    struct block_req req;
    struct iovec iov;
    void *buffer;       /* JOB_PIECE bytes once it was needed */
    bool busy, retry;   /* retry: failed, waits until the job goes on */
    bool zero, reading; /* zero: nothing to read */
    struct list link;   /* backup: see there */
    struct drive_req *for_write;
};

struct block_job_type {
    const char *name;
    bool locks; /* guest writes stay out of a piece that is copied */
    /* Sets lock.offset, lock.length, zero of the piece; false: there is nothing (now). May turn the
     * loop. */
    bool (*next)(struct block_job *j, struct job_piece *p);
    void (*copied)(struct block_job *j, struct job_piece *p, int result); /* may be NULL */
    void (*idle)(struct block_job *j);
    /* The end: graph changes if `good`. Drained or not as the kind needs; may turn the loop. */
    bool (*finish)(struct block_job *j, bool good, struct err *err);
    void (*free)(struct block_job *j);
    bool can_complete;
};

struct block_jobs;

struct block_job_events {
    /* QMP's name of it: BLOCK_JOB_COMPLETED, JOB_STATUS_CHANGE, ... */
    void (*event)(struct block_jobs *all, struct block_job *j, const char *name);
    void (*io_error)(struct block_jobs *all, struct block_job *j, bool read, enum drive_policy did);
    /* Nobody else may change the graph from begin (if that is true) to end. */
    bool (*change_begin)(struct block_jobs *all);
    void (*change_end)(struct block_jobs *all);
    /* A job has no more use for its target. NULL: it is closed. */
    void (*release)(struct block_jobs *all, struct block *target);
    /* A disk has it now, for good. */
    void (*adopt)(struct block_jobs *all, struct block *target);
};

struct block_jobs {
    struct list list;
    struct loop *loop;
    const struct block_job_events *events;
    void *owner;
};

struct block_job {
    struct list link;
    struct block_jobs *all;
    const struct block_job_type *type;
    char id[64];
    enum block_job_status status;
    struct drive *drive;           /* NULL: none (create) */
    struct block *source, *target; /* pieces are copied from and to */
    bool manual_finalize, manual_dismiss;
    bool paused, cancelled, completing, pivot;
    bool finalize; /* asked for */
    enum drive_policy on_source_error, on_target_error;
    bool io_failed; /* paused by policy STOP */
    uint64_t done, total, speed;
    struct err err; /* code 0: none */
    struct job_piece piece[JOB_PIECES];
    unsigned under_way;
    struct call pump;
    struct timer timer;
    uint64_t next_ns; /* speed: when the next piece may begin */
    bool pumping, again;
};

/* What every job's command may say. */
struct job_options {
    const char *id; /* "": the drive's */
    uint64_t speed;
    bool manual_finalize, manual_dismiss;
    enum drive_policy on_source_error, on_target_error;
};

/* For the kinds: checks the id, takes the drive (one job each), fills in. `size`: of the kind's
 * struct, which begins with struct block_job. */
void *job_new(struct block_jobs *all, const struct block_job_type *type, size_t size,
              struct drive *d, const struct job_options *o, struct err *err);
void job_start(struct block_job *j);
void job_drop(struct block_job *j); /* not started: frees it */
/* Ends it: well if err.code is 0. From idle(). */
void job_conclude(struct block_job *j);
void job_ready(struct block_job *j);
void job_fail(struct block_job *j, int error, const char *what);
void job_wake(struct block_job *j);
uint64_t job_piece_max(const struct block_job *j);
/* Copies a piece at once, past next(); for backup's writes. */
void job_piece_run(struct job_piece *p);
void job_release(struct block_job *j, struct block *target);
/* finish() and free() done, state concluded and, if that is automatic, gone. */

/* For commands. */
void block_jobs_init(struct block_jobs *all, struct loop *loop,
                     const struct block_job_events *events, void *owner);
struct block_job *block_job_find(struct block_jobs *all, const char *id);
bool block_job_cancel(struct block_job *j, bool force, struct err *err);
bool block_job_complete(struct block_job *j, struct err *err);
bool block_job_pause(struct block_job *j, struct err *err);
bool block_job_resume(struct block_job *j, struct err *err);
bool block_job_finalize(struct block_job *j, struct err *err);
bool block_job_dismiss(struct block_job *j, struct err *err);
void block_job_set_speed(struct block_job *j, uint64_t speed);
void block_jobs_close(struct block_jobs *all); /* cancels all and waits */

/* ---- the kinds ---- */
bool job_stream(struct block_jobs *all, struct drive *d, struct block *base, const char *base_name,
                const struct job_options *o, struct err *err);
/* top: not the drive's own image (that one needs job_mirror). */
bool job_commit(struct block_jobs *all, struct drive *d, struct block *top, struct block *base,
                const char *base_name, const struct job_options *o, struct err *err);

enum mirror_sync { MIRROR_FULL, MIRROR_TOP, MIRROR_NONE };

struct mirror_options {
    struct job_options job;
    enum mirror_sync sync;
    bool target_is_zero; /* it was made for this */
    bool write_blocking;
    uint32_t granularity;
    /* Active commit: the target is this image of the chain, and what is above goes. */
    struct block *commit_base;
    /* What the target's backing is after the pivot: the same as the source's, the source, none. */
    enum { BACKING_KEEP, BACKING_OF_SOURCE, BACKING_IS_SOURCE } backing;
};
/* The target is the job's, and the drive's after the pivot, unless it is commit_base. */
bool job_mirror(struct block_jobs *all, struct drive *d, struct block *target,
                const struct mirror_options *o, struct err *err);

enum backup_sync { BACKUP_FULL, BACKUP_TOP, BACKUP_NONE, BACKUP_BITMAP };
enum backup_bitmap_mode { BACKUP_ON_SUCCESS, BACKUP_NEVER, BACKUP_ALWAYS };
struct block_bitmap;

struct backup_options {
    struct job_options job;
    enum backup_sync sync;
    struct block_bitmap *bitmap; /* BACKUP_BITMAP */
    enum backup_bitmap_mode mode;
    bool target_is_zero;
};
/* The target is the job's until it ends: then it is released. */
bool job_backup(struct block_jobs *all, struct drive *d, struct block *target,
                const struct backup_options *o, struct err *err);
#endif
