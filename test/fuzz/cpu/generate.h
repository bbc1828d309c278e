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
/* The same for a program: loops, branches, calls, over two pages. 64-bit code. */
bool fuzz_program(struct fuzz_case *c);
/* Why a form is never run, or NULL. */
const char *fuzz_excluded(unsigned form);

/* ---- between generate.c and program.c ---- */

struct bytes {
    uint8_t b[32];
    unsigned n;
    int disp_at; /* offset of a 4-byte displacement, or -1 */
};

struct move { /* a register that an instruction of a program wants set */
    unsigned reg;
    uint64_t value;
};

struct gen {
    struct fuzz_case *c;
    struct rng r;
    bool high;                    /* 64-bit code at FUZZ_HIGH */
    uint64_t next;                /* address behind the instruction that is being made */
    uint64_t start[FUZZ_PROGRAM]; /* of the instructions made so far */
    unsigned starts;
    uint32_t locked; /* registers that address something already */
    struct move move[4];
    unsigned moves; /* in a program registers are set by instructions, not at the start */
};

bool make_one(struct gen *g, int form, bool last, struct bytes *o, struct insn *in);
void start_registers(struct gen *g);
bool decode_all(struct gen *g); /* what the pages hold: only that is what will run */

#endif
