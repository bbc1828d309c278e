/* SPDX-License-Identifier: MIT */
/* A disk as a device has it: one node that stays while the graph of images below it changes.
 *
 *   device ----\                             /-> watches: dirty bitmaps, backup, mirror
 *   NBD export -> drive: limits, drain, locks --> image (block.under) --> backing ...
 *                        <- errors: report, ignore, or hold until the machine goes on
 *
 * Block jobs and block commands (job.h) work on the image below and use this to keep the guest's
 * requests away: from a range of the disk (drive_lock), from the whole image (drive_drain). */
#ifndef HULL_BLOCK_DRIVE_H
#define HULL_BLOCK_DRIVE_H

#include "block/block.h"
#include "block/throttle.h"

struct drive;
struct block_job;

enum drive_policy { DRIVE_REPORT, DRIVE_IGNORE, DRIVE_ENOSPC, DRIVE_STOP };
extern const char *const drive_policy_name[];
/* "" is `otherwise`. */
bool drive_policy_parse(enum drive_policy *policy, const char *word, enum drive_policy otherwise,
                        struct err *err);

struct drive_events { /* to the machine; any may be NULL */
    /* `did` is REPORT, IGNORE or STOP; STOP: the request waits for drive_retry. */
    void (*io_error)(struct drive *d, bool read, enum drive_policy did, int error);
    void (*resized)(struct drive *d);
    void (*replaced)(struct drive *d); /* another image is below */
};

struct drive_req { /* a request of the device on its way through */
    struct block_req below;
    struct block_req *above;
    struct drive *drive;
    struct list link; /* in one of the drive's lists, or a watcher's */
    int result;
};

struct drive_watch { /* who needs to know of writes (and zeroes and discards) */
    /* Before it goes down. True: the watcher has taken it, and calls drive_go_on. May be NULL. */
    bool (*before)(struct drive_watch *w, struct drive_req *r);
    /* It has ended, well or not; the device does not know yet. May be NULL. */
    void (*wrote)(struct drive_watch *w, const struct drive_req *r);
    /* The same for one watcher at most, and true: it calls drive_end. May be NULL. */
    bool (*after)(struct drive_watch *w, struct drive_req *r);
    struct list link;
};

/* A part of the disk that no write of the device enters. It is held once those under way there have
 * ended and every lock taken before it that meets it is gone. */
struct drive_lock {
    uint64_t offset, length;
    void (*held)(struct drive_lock *l); /* from the loop */
    struct list link;
    bool granted;
};

struct drive {
    struct block block; /* for the device; block.under is the image and ours */
    char id[32];
    void *owner; /* whom the events are for */
    const struct drive_events *events;
    enum drive_policy on_read_error, on_write_error;
    int io_error; /* negative errno of what is held by policy STOP; 0: none */
    struct list active, waiting, held, failed;
    struct list slow[2]; /* reads, writes that the limits keep */
    struct list locks, watches;
    unsigned drained;
    struct call *idle; /* posted when nothing is active and drained is not 0; or NULL */
    struct call kick;
    struct throttle throttle;
    struct timer timer;
    bool rush; /* limits do not count: the machine stops */
    struct block_job *job;
    struct list bitmaps; /* named dirty bitmaps: bitmaps.h */
    struct drive_req *free;
};

/* Over `image`, which belongs to the drive from now on; NULL on error, and the image is closed.
 * block_close(&d->block) ends it. */
struct drive *drive_open(struct block *image, const char *id, struct err *err);

bool drive_limit(struct drive *d, const struct throttle_config *c, struct err *err);
void drive_rush(struct drive *d, bool on);
/* What STOP has held: goes down again, or fails now. */
void drive_retry(struct drive *d);
void drive_give_up(struct drive *d);

/* No request of the device is below after drive_drain, until drive_resume. They nest. drive_drain
 * waits by turning the loop; drive_hold does not: see `idle` and drive_quiet. */
void drive_drain(struct drive *d);
void drive_hold(struct drive *d);
bool drive_quiet(const struct drive *d);
void drive_resume(struct drive *d);

void drive_lock(struct drive *d, struct drive_lock *l);
void drive_unlock(struct drive *d, struct drive_lock *l); /* also one that is not held yet */

void drive_watch(struct drive *d, struct drive_watch *w);
void drive_unwatch(struct drive_watch *w);
void drive_go_on(struct drive_req *r);
void drive_end(struct drive_req *r);
bool drive_changes(const struct drive_req *r); /* a write, zeroes or discard */

/* Drained only. Another image below: the old one is the caller's. */
struct block *drive_replace(struct drive *d, struct block *image);
bool drive_resize(struct drive *d, uint64_t size, struct err *err);

#endif
