/* SPDX-License-Identifier: MIT */
/* A listening socket in a loop. Takes connections one at a time; when the process or the host has
 * no descriptor left it rests for a moment instead of being called again at once. */
#ifndef HULL_LISTENER_H
#define HULL_LISTENER_H

#include "loop/loop.h"

struct listener { /* embedded in its owner; ready() of `watch` calls listener_accept */
    struct watch watch;
    struct timer retry;
    struct loop *loop;
};

/* A non-blocking socket bound to `path`, in place of one that nobody listens on any more. -1 on
 * error, with a text that begins with the path. */
int listen_unix(const char *path, int backlog, struct err *err);

/* Owns `fd` from here, also on failure. */
bool listener_open(struct listener *s, struct loop *loop, int fd,
                   void (*ready)(struct watch *w, uint32_t events), struct err *err);
int listener_accept(struct listener *s); /* a non-blocking descriptor, or -1: nobody, or later */
void listener_pause(struct listener *s); /* no ready() until listener_resume */
void listener_resume(struct listener *s);
void listener_close(struct listener *s); /* idempotent; also for one that is only zeroed: fd 0 is
                                            never a listener */

#endif
