/* SPDX-License-Identifier: MIT */
/* The host's monotonic clock in nanoseconds, and the TSC. */
#ifndef HULL_BASE_CLOCK_H
#define HULL_BASE_CLOCK_H

#include "base/bits.h"
#include <time.h>

static inline uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* `a * b / c` in 128 bits: scales clocks without overflow. */
static inline uint64_t mul_div(uint64_t a, uint64_t b, uint64_t c)
{
    return (uint64_t)((unsigned __int128)a * b / c);
}

#endif
