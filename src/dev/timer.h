/* SPDX-License-Identifier: MIT */
/* Timers of devices, in board time (board_now), armed from any thread.
 *
 * Register handlers run in vCPU threads, the loop in the main thread. A devtimer bridges them:
 * arming puts it into one sorted list per board; the main thread's single loop timer stands at the
 * earliest. fire() runs in the main thread with the device's lock held, and never after
 * devtimer_cancel or a later devtimer_at returned, if those were called under that lock. No timer
 * fires while the board clock is stopped. fire() must re-arm for later than now. */
#ifndef HULL_DEV_TIMER_H
#define HULL_DEV_TIMER_H

#include "bus/device.h"

struct devtimer {
    void (*fire)(struct devtimer *t);
    struct device *dev;
    uint64_t at_ns;      /* board time, while armed */
    uint32_t generation; /* counts devtimer_at and devtimer_cancel */
    bool armed;
    struct list link;
};

/* In attach and detach. close accepts a timer that was never opened. */
bool devtimer_open(struct devtimer *t, struct device *dev, void (*fire)(struct devtimer *t),
                   struct err *err);
void devtimer_close(struct devtimer *t);
/* Under the device's lock. */
void devtimer_at(struct devtimer *t, uint64_t at_ns);
void devtimer_cancel(struct devtimer *t);
/* When (board->host_now) the earliest is due; UINT64_MAX: none. Any thread. */
uint64_t devtimer_next(struct board *board);
/* Fires what is due. The loop does this; tests with a hand-wound clock call it. */
void devtimer_run(struct board *board);

#endif
