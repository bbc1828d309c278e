/* SPDX-License-Identifier: MIT */
/* gbench: what a processor does in user programs and at a kernel's edge, one row each.
 *
 * gbench.c has main() and the clock; gbench_cpu.c, gbench_mem.c and gbench_sys.c have rows. A row's
 * run(n) does its operation n times; set-up belongs before the clock, in prepare. */
#ifndef HULL_GBENCH_H
#define HULL_GBENCH_H

#include <stdbool.h>
#include <stdint.h>

struct row {
    const char *name;
    const char *group; /* compute, memory, system */
    void (*run)(uint64_t n);
    bool (*prepare)(void); /* may be NULL; false: the row is left out */
};

extern const struct row gbench_cpu[], gbench_mem[], gbench_sys[]; /* ended by a NULL name */
extern volatile uint64_t gbench_sink;                             /* keeps results alive */
extern const char *gbench_self; /* path of this program, for exec */

#endif
