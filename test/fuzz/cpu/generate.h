/* SPDX-License-Identifier: MIT */
/* Making cases: start states (values.c) and instruction bytes (generate.c). */
#ifndef HULL_FUZZ_GENERATE_H
#define HULL_FUZZ_GENERATE_H

#include "fuzz.h"
#include "random.h"

uint64_t fuzz_integer(struct rng *r);
uint64_t fuzz_address(struct rng *r, bool low); /* of data, often near the edge of something */
void fuzz_bytes(struct rng *r, uint8_t *to, unsigned length); /* a multiple of 8 */
void fuzz_fpu(struct rng *r, uint8_t *xsave);
void fuzz_golden(uint8_t *pages);

/* Fills `c` from c->seed. `form`: this row of the table, or -1: any. False: no such case (the form
 * does not exist in the mode chosen, is on the list of what cannot be compared, ...). */
bool fuzz_generate(struct fuzz_case *c, int form);
/* Why a form is never run, or NULL. */
const char *fuzz_excluded(unsigned form);

#endif
