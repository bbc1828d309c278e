/* SPDX-License-Identifier: MIT */
/* Inside the loop: what loop.c, uring.c and threads.c share. Not for other folders. */
#ifndef HULL_LOOP_PRIVATE_H
#define HULL_LOOP_PRIVATE_H

#include "loop/loop.h"
#include "loop/uring.h"
#include <sys/epoll.h>

struct pool; /* The request is done; with in_order, perhaps later. */
void file_done(struct loop *l, struct file_req *req);

/* threads.c */
struct ring; /* uring.c */

#define BATCH_MAX 32

struct batch { /* events taken from epoll and not yet dispatched; one per nested turn */
    struct epoll_event event[BATCH_MAX];
    int count;
    struct batch *outer;
};

struct loop {
    int epoll, wake;     /* `wake` is an eventfd: makes epoll return for posts and quit */
    bool quit;           /* atomic */
    struct call *posted; /* atomic stack, newest first */
    struct call *ready, **ready_end; /* taken from `posted`, oldest first */
    struct call *last;               /* for the end of the turn, newest first */
    struct list timers;              /* sorted by at_ns */
    struct call *quiet;              /* atomic: run it when there is nothing else to do */
    bool stirred;                    /* atomic: a watch may have become ready since it was quiet */
    bool resting;                    /* atomic: waiting, and nothing to do */
    unsigned depth;                  /* of nested turns */
    struct batch *batch;
    struct watch wake_watch;
    /* file requests */
    struct list queued; /* not yet with the kernel or the pool */
    unsigned in_flight; /* with the kernel or the pool */
    bool in_order;      /* done() comes in the order of submission */
    struct list order;  /* then: requests whose done() is still to come */
    struct ring *ring;  /* one of these two */
    struct pool *pool;
};

/* uring.c */
bool files_open(struct loop *l, struct err *err);
void files_close(struct loop *l);
/* Hands over what was queued. False: the kernel wants to be asked again soon. */
bool files_flush(struct loop *l);
/* True if results wait to be reaped: do not sleep. */
bool files_waiting(struct loop *l);
/* Runs done() of what has finished. */
void files_reap(struct loop *l);

/* threads.c */
struct pool *pool_open(struct loop *l, struct err *err); /* NULL on error */
void pool_close(struct pool *p);                         /* accepts NULL; nothing in flight */
void pool_submit(struct pool *p, struct list *reqs);     /* takes all of the list */
bool pool_waiting(struct pool *p);
void pool_reap(struct pool *p);

#endif
