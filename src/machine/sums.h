/* SPDX-License-Identifier: MIT */
/* Checksums of a snapshot's memory, in the file `memory.sums` beside it: one for each MiB, so that
 * an alteration is found and placed. Restoring reads memory page by page, when it is touched, and
 * does not look at them; who wants to be sure asks first (hull snapshot --verify, hull restore
 * --verify).
 *
 *   "hullsums"  u32 version  u32 bytes of a chunk  u64 bytes of memory  u64 last 8 bytes of `state`
 *   u64 XXH64 of each chunk, 0 for one of zeroes
 *   u64 XXH64 of all before it
 *
 * Holes and zeroes are the same, so a copy may be sparser than its original. */
#ifndef HULL_MACHINE_SUMS_H
#define HULL_MACHINE_SUMS_H

#include "base/err.h"

#define SUMS_FILE "memory.sums"

/* Reads what is in the descriptors and writes the checksums to the empty file `to`. */
bool sums_write(int memory, int state, int to, struct err *err);
/* Reads all of DIR/memory and compares; false names the first place that differs. */
bool sums_check(const char *dir, struct err *err);

#endif
