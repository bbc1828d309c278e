/* SPDX-License-Identifier: MIT */
/* Threads for what would hold the loop up: reading cached files, looking for zeroes, compressing.
 * A job is its owner's memory; work() runs in some thread, then done.run() in the loop's. */
#ifndef HULL_BLOCK_WORKERS_H
#define HULL_BLOCK_WORKERS_H

#include "loop/loop.h"

struct workers;

struct work_job {
    void (*work)(struct work_job *job); /* in a thread: touches nothing that the loop does */
    struct call done;                   /* its run() is the owner's */
    struct list link;                   /* the pool's */
};

/* `threads` 0: as many as there are processors, 4 to 16. NULL on error. */
struct workers *workers_open(struct loop *loop, unsigned threads, struct err *err);
unsigned workers_threads(const struct workers *p);
void workers_submit(struct workers *p, struct work_job *job); /* the loop's thread */
void workers_close(struct workers *p); /* accepts NULL; no job may be under way */

#endif
