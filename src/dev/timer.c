/* SPDX-License-Identifier: MIT */
/* The list of armed device timers and the loop timer that stands at its head. */
#include "dev/timer.h"
#include "loop/loop.h"

#include <errno.h>
#include <stdlib.h>

#define FIRE_MAX 256 /* timers per turn: a device that re-arms in the past cannot hold the loop */

struct devclock {
    struct board *board;
    unsigned users;       /* open timers: the last one frees this */
    pthread_mutex_t lock; /* innermost; guards what follows */
    struct list armed;    /* struct devtimer.link by at_ns */
    uint64_t loop_at_ns;  /* board time that the loop timer is set or being set for */
    struct timer timer;
    struct call rearm;
};

/* In the main thread: the loop timer to the earliest deadline. */
static void clock_rearm(struct devclock *c)
{
    struct board *b = c->board;
    uint64_t at_ns = UINT64_MAX;

    pthread_mutex_lock(&c->lock);
    if (!list_empty(&c->armed))
        at_ns = container_of(c->armed.next, struct devtimer, link)->at_ns;
    c->loop_at_ns = at_ns;
    pthread_mutex_unlock(&c->lock);
    if (!b->loop)
        return;
    if (at_ns == UINT64_MAX || b->clock_stopped || b->clock_driven)
        loop_cancel(b->loop, &c->timer);
    else
        loop_at(b->loop, &c->timer, board_host_time(b, at_ns));
}

static void clock_rearm_call(struct call *call)
{
    clock_rearm(container_of(call, struct devclock, rearm));
}

static void clock_changed(struct board *board)
{
    clock_rearm(board->clock);
}

/* Takes the first timer that is due off the list. */
static struct devtimer *clock_take(struct devclock *c, uint64_t now, uint32_t *generation)
{
    struct devtimer *t = NULL;

    pthread_mutex_lock(&c->lock);
    if (!list_empty(&c->armed)) {
        t = container_of(c->armed.next, struct devtimer, link);
        if (t->at_ns > now) {
            t = NULL;
        } else {
            list_remove(&t->link);
            t->armed = false;
            *generation = t->generation;
        }
    }
    pthread_mutex_unlock(&c->lock);
    return t;
}

void devtimer_run(struct board *board)
{
    struct devclock *c = board->clock;
    uint64_t now = board_now(board);
    uint32_t generation;
    struct devtimer *t;

    if (!c)
        return;
    for (int i = 0; i < FIRE_MAX && !board->clock_stopped; i++) {
        t = clock_take(c, now, &generation);
        if (!t)
            break;
        pthread_mutex_lock(&t->dev->lock);
        if (t->generation == generation) /* else: a register handler changed its mind meanwhile */
            t->fire(t);
        pthread_mutex_unlock(&t->dev->lock);
    }
    clock_rearm(c);
}

uint64_t devtimer_next(struct board *board)
{
    struct devclock *c = board->clock;
    uint64_t at_ns = UINT64_MAX;

    if (!c || board->clock_stopped)
        return UINT64_MAX;
    pthread_mutex_lock(&c->lock);
    if (!list_empty(&c->armed))
        at_ns = container_of(c->armed.next, struct devtimer, link)->at_ns;
    pthread_mutex_unlock(&c->lock);
    return at_ns == UINT64_MAX ? at_ns : board_host_time(board, at_ns);
}

static void clock_fire(struct timer *timer)
{
    devtimer_run(container_of(timer, struct devclock, timer)->board);
}

static struct devclock *clock_open(struct board *board)
{
    struct devclock *c = calloc(1, sizeof *c);

    if (!c)
        return NULL;
    c->board = board;
    c->loop_at_ns = UINT64_MAX;
    c->timer.fire = clock_fire;
    c->rearm.run = clock_rearm_call;
    pthread_mutex_init(&c->lock, NULL);
    list_init(&c->armed);
    board->clock = c;
    board->clock_changed = clock_changed;
    return c;
}

static void clock_close(struct devclock *c)
{
    struct board *b = c->board;

    if (b->loop) {
        loop_cancel(b->loop, &c->timer);
        loop_unpost(b->loop, &c->rearm);
    }
    b->clock = NULL;
    b->clock_changed = NULL;
    pthread_mutex_destroy(&c->lock);
    free(c);
}

bool devtimer_open(struct devtimer *t, struct device *dev, void (*fire)(struct devtimer *t),
                   struct err *err)
{
    struct devclock *c = dev->board->clock ? dev->board->clock : clock_open(dev->board);

    if (!c)
        return err_set(err, ENOMEM, "no memory for timers");
    c->users++;
    t->dev = dev;
    t->fire = fire;
    list_init(&t->link);
    return true;
}

void devtimer_close(struct devtimer *t)
{
    struct devclock *c;

    if (!t->fire)
        return;
    c = t->dev->board->clock;
    devtimer_cancel(t);
    t->fire = NULL;
    if (!--c->users)
        clock_close(c);
}

void devtimer_at(struct devtimer *t, uint64_t at_ns)
{
    struct devclock *c = t->dev->board->clock;
    struct list *before;
    bool earlier;

    pthread_mutex_lock(&c->lock);
    t->generation++;
    t->at_ns = at_ns;
    t->armed = true;
    list_remove(&t->link);
    for (before = c->armed.next; before != &c->armed; before = before->next)
        if (container_of(before, struct devtimer, link)->at_ns > at_ns)
            break;
    list_add(before, &t->link);
    earlier = at_ns < c->loop_at_ns;
    if (earlier)
        c->loop_at_ns = at_ns;
    pthread_mutex_unlock(&c->lock);
    if (earlier && t->dev->board->loop)
        loop_post(t->dev->board->loop, &c->rearm);
}

void devtimer_cancel(struct devtimer *t)
{
    struct devclock *c = t->dev->board->clock;

    /* The loop timer may now be early: it fires for nothing and moves on. */
    pthread_mutex_lock(&c->lock);
    t->generation++;
    t->armed = false;
    list_remove(&t->link);
    pthread_mutex_unlock(&c->lock);
}
