/* SPDX-License-Identifier: MIT */
/* The event loop: descriptors, timers, calls from other threads, and io_uring.
 *
 * Watches, timers and calls are embedded in their owner and found again with container_of: no
 * allocation, no opaque pointer. Everything but loop_post and loop_quit belongs to the thread that
 * runs the loop. One loop runs in one thread; a machine may have several.
 *
 * A turn: hand queued file requests to the kernel, wait, ready() of watches, fire() of timers,
 * run() of calls, done() of file requests, run() of last calls. Any callback may add, change or
 * remove any watch or timer, and may take turns itself. */
#ifndef HULL_LOOP_H
#define HULL_LOOP_H

#include "base/err.h"
#include "base/list.h"

struct loop;

struct watch { /* events and ready() take EPOLLIN and friends */
    int fd;
    uint32_t events;
    void (*ready)(struct watch *w, uint32_t events);
    bool active; /* the loop's */
};

struct timer {
    uint64_t at_ns; /* CLOCK_MONOTONIC; the loop's while armed */
    void (*fire)(struct timer *t);
    struct list link; /* the loop's; zeroed means never armed */
    bool armed;
};

struct call { /* posted at most once until run() begins; posting again before that is a no-op */
    void (*run)(struct call *c);
    struct call *next; /* the loop's */
    bool posted;       /* the loop's, atomic */
};

struct loop *loop_open(struct err *err); /* NULL on error */
void loop_close(struct loop *l);         /* accepts NULL; finishes file requests in flight first */
void loop_run(struct loop *l);           /* until loop_quit */
void loop_quit(struct loop *l);          /* any thread, and signal handlers */
/* One turn: waits at most timeout_ns (UINT64_MAX: for ever). For tests and special loops. */
void loop_turn(struct loop *l, uint64_t timeout_ns);

bool loop_watch(struct loop *l, struct watch *w, struct err *err);
void loop_rewatch(struct loop *l, struct watch *w, uint32_t events); /* changes events */
void loop_forget(struct loop *l, struct watch *w); /* no ready() after this returns; idempotent */
void loop_at(struct loop *l, struct timer *t, uint64_t at_ns); /* re-arms if armed */
void loop_cancel(struct loop *l, struct timer *t);             /* idempotent */
void loop_post(struct loop *l, struct call *c);                /* any thread */
/* For who must not go on before everything is done: other threads. quiet: nothing is posted or
 * stirred, no file request is under way, and the loop waits. when_quiet runs c in the loop's thread
 * once that is so; one caller at a time. */
bool loop_quiet(struct loop *l);
void loop_stir(struct loop *l); /* before a write to a watched eventfd */
void loop_when_quiet(struct loop *l, struct call *c);
/* Takes back a posted call, so that its owner may go; nobody may be posting it meanwhile.
 * Idempotent. */
void loop_unpost(struct loop *l, struct call *c);
/* Runs c at the end of this turn, after done() of file requests: what a batch of completions
 * shares, like one interrupt. The loop's thread only; a call is either posted or last, not both. */
void loop_last(struct loop *l, struct call *c);
void loop_unlast(struct loop *l, struct call *c); /* takes it back; idempotent */

#endif
