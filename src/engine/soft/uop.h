/* SPDX-License-Identifier: MIT */
/* Micro-operations: what a block executes.
 *
 * A handler gets the vCPU and its uop, does its work and goes on to the next uop. In optimised
 * builds going on is a tail call, so that a block runs without returning; in sanitizer builds
 * (SOFT_LOOP) a handler returns the next uop to the loop in run.c. NULL ends the run of uops:
 * cpu->block_rip or, after an instruction handler, cpu->rip says where; the run loop looks what
 * there is to do.
 *
 * Registers are byte offsets from struct soft_cpu: 8 * n, plus 1 for AH..BH, `zero` for no
 * register. */
#ifndef HULL_SOFT_UOP_H
#define HULL_SOFT_UOP_H

#include "engine/soft/soft.h"

struct uop;
typedef const struct uop *uop_fn(struct soft_cpu *cpu, const struct uop *u);

struct uop { /* 32 bytes */
    uop_fn *fn;
    uint64_t imm; /* immediate; or the uop to go to */
    int32_t disp; /* of the address; or of a branch target from the block's first byte */
    uint8_t dst, src;
    uint8_t base, index;
    uint8_t scale,
        seg;     /* seg: offset of the segment's base in units of 8 from struct soft_cpu.seg_base */
    uint16_t at; /* offset of the instruction in the block */
    uint16_t insn;  /* distance in bytes from this uop to its struct insn; 0: none */
    uint8_t length; /* of the instruction */
    uint8_t n;      /* number of this uop in the block */
};
_Static_assert(sizeof(struct uop) == 32, "struct uop");

#ifdef SOFT_LOOP
#define GOTO(u) return (u)
#else
#define GOTO(u)                                                                                    \
    do {                                                                                           \
        const struct uop *goto_u_ = (u);                                                           \
        return goto_u_->fn(cpu, goto_u_);                                                          \
    } while (0)
#endif
#define NEXT GOTO(u + 1)

static inline const struct insn *uop_insn(const struct uop *u)
{
    return (const struct insn *)((const char *)u + u->insn);
}

uop_fn uop_enter, uop_enter2; /* first of every block; enter2: of two pages */
uop_fn uop_redirect;          /* first of a block that another replaced: on to that one */
uop_fn uop_insn_plain; /* the same for one that was checked when lowered and stores nothing */
uop_fn uop_insn_next;  /* instruction by its handler, then the next uop */
uop_fn uop_insn_end;   /* instruction by its handler, then wherever RIP points */
uop_fn uop_fall;       /* end of block: on to block_rip + disp */
uop_fn uop_link;       /* finds the block at block_rip and makes *imm point at it */
uop_fn uop_find;       /* finds the block at block_rip */
/* The running block's code changed: it must not go on after this instruction. */
bool soft_block_stale(const struct uop *u);
/* Slow way of an instruction that has a fast uop: TLB miss, device, watchpoint, fault. */
const struct uop *soft_slow(struct soft_cpu *cpu, const struct uop *u);

#endif
