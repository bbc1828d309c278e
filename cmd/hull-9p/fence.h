/* SPDX-License-Identifier: MIT */
/* The fence around hull-9p: see fence.c. */
#ifndef HULL_9P_FENCE_H
#define HULL_9P_FENCE_H

#include "base/err.h"

/* Before threads: the user, the directory `root` as all that is left of the file system. */
bool fence_files(int root, bool readonly, const char *user, struct err *err);
/* All threads: the system calls. `proc` is /proc/self/fd, the only place that plain openat may
 * open from. */
bool fence_calls(int proc, struct err *err);

#endif
