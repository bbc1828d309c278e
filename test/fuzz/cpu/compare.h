/* SPDX-License-Identifier: MIT */
/* Comparing what the host and the soft engine left: compare.c. */
#ifndef HULL_FUZZ_COMPARE_H
#define HULL_FUZZ_COMPARE_H

#include "fuzz.h"

/* Differences that say nothing about the engine: the list of what the architecture leaves open,
 * where processors differ, and what our way of running on the host cannot show. */
bool fuzz_incomparable(const struct fuzz_case *c, const struct fuzz_state *host,
                       const struct fuzz_state *soft);
/* Translated code has pushed the return address when it finds that a target is not canonical; it
 * takes RSP back, but not the bytes below. */
bool fuzz_calls_nowhere(const struct fuzz_case *c, const struct fuzz_state *host);
/* Number of differences; `text` says which, a line each. `loose`: flags that nobody read may be
 * wrong where a fault ended the run. */
unsigned fuzz_compare(const struct fuzz_case *c, const struct fuzz_state *host,
                      const struct fuzz_state *soft, bool loose, const uint8_t *host_memory,
                      const uint8_t *soft_memory, char *text, size_t size);

#endif
