/* SPDX-License-Identifier: MIT */
/* The jump cache: RIP to the first uop of its block, while the vCPU's jump tag (epoch of the TLB,
 * mode) is the one it was filled under. */
#ifndef HULL_SOFT_JUMP_H
#define HULL_SOFT_JUMP_H

#include "engine/soft/uop.h"

#define JUMP_SIZE 4096u

struct jump {
    uint64_t rip, tag;
    const struct uop *uop;
    uint64_t unused;
};

const struct uop *uop_find(struct soft_cpu *cpu, const struct uop *u);
extern const struct uop soft_find_uop; /* a uop whose handler is uop_find */

static inline unsigned jump_slot(uint64_t rip)
{
    return (rip ^ rip >> 12) & (JUMP_SIZE - 1);
}

/* Where to go on at `rip`, which is cpu->block_rip. */
static inline __attribute__((always_inline)) const struct uop *jump_to(struct soft_cpu *cpu,
                                                                       uint64_t rip)
{
    const struct jump *j = &cpu->jump[jump_slot(rip)];

    return likely(j->rip == rip && j->tag == cpu->jump_tag[rip >> 63]) ? j->uop : &soft_find_uop;
}

#endif
