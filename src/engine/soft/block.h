/* SPDX-License-Identifier: MIT */
/* Decoded blocks and how execution moves between them.
 *
 * A block is up to 32 instructions of one page, lowered to uops. Blocks belong to one vCPU, are
 * found by the physical address of their first byte and the mode bits that lowering depends on, and
 * live in an arena that is dropped as a whole when full. Execution enters at uop[0], which polls
 * for events and compares the page's generation with the one the block was made under (page.h). A
 * branch inside the page is a direct pointer to the target block's uop[0]; others go through the
 * jump cache, by RIP. */
#ifndef HULL_SOFT_BLOCK_H
#define HULL_SOFT_BLOCK_H

#include "engine/soft/page.h"
#include "engine/soft/uop.h"

#define BLOCK_INSNS 32

enum {                /* block key */
       KEY_MODE = 3,  /* enum x86_mode */
       KEY_SS32 = 4,  /* SS.B: 32-bit stack pointer */
       KEY_FLAT = 8,  /* CS, DS, ES, SS: base 0, no limit in the way */
       KEY_WIDE = 16, /* CS.limit is in no branch's way: links may be direct */
       KEY_USER = 32,
};

struct block {
    uint64_t phys;
    uint32_t key;
    uint16_t bytes; /* length of the code */
    uint16_t insns;
    struct block *next;        /* same hash */
    struct code_page *page[2]; /* [1]: of an instruction that straddles, else NULL */
    const uint8_t *host[2];    /* where the bytes lie in guest memory */
    struct trans *jit;         /* translations, by linear address */
    struct insn *insn;
    uint32_t generation[2];
    uint16_t first;                               /* bytes in page[0] */
    uint8_t copy[BLOCK_INSNS * X86_INSN_MAX + 1]; /* only `bytes` of it are allocated */
};

struct soft_blocks; /* block.c */
struct trans;       /* jit/jit_int.h */

/* The block that begins with this uop. */
static inline struct block *soft_block_of(const struct uop *entry)
{
    return (struct block *)((uintptr_t)entry - entry->insn);
}
/* Its page's code changed since it was made. */
static inline bool soft_block_changed(const struct block *b)
{
    return b->generation[0] != atomic_load_explicit(&b->page[0]->generation, memory_order_relaxed);
}
/* Enters by translated code from now on, or by uops again. */
void soft_block_translated(struct block *b);
void soft_block_plain(struct soft_cpu *cpu, struct block *b);

/* Instructions of this uop's block that begin with its own or come later. */
static inline unsigned soft_uops_left(const struct uop *u)
{
    const struct block *b = soft_block_of(u - u->n);

    return b->insns - (unsigned)(uop_insn(u) - b->insn);
}

/* Counted in cpu->instructions, but not completed, the running one first. */
static inline unsigned soft_behind(const struct soft_cpu *cpu)
{
    return cpu->uop ? soft_uops_left(cpu->uop) : cpu->behind;
}

static inline void soft_uncounted(struct soft_cpu *cpu)
{
    cpu->uop = NULL;
    cpu->behind = 0;
}

/* The block ends early: behind `done`, or (NULL) before the instruction that is running. */
void soft_uncount(struct soft_cpu *cpu, const struct insn *done);

/* The uop at which the code at cpu->block_rip begins, made if need be. Raises fetch faults. */
const struct uop *soft_find(struct soft_cpu *cpu);
/* The key of the current mode, and everything that follows from it. */
void soft_blocks_mode(struct soft_cpu *cpu);
/* The jump cache's entries for one half of the address space (bit 63 of RIP) are good no more. */
void soft_blocks_forget_jumps(struct soft_cpu *cpu, unsigned half);
/* Decodes the instruction at cpu->rip into *in; raises fetch and decode faults. */
void soft_fetch(struct soft_cpu *cpu, struct insn *in);
/* Runs one decoded instruction at cpu->rip by its handler; next_rip is where to go on. */
void soft_exec(struct soft_cpu *cpu, const struct insn *in);

struct soft_counters {
    uint64_t built, revalidated, finds, slow, arena_resets, tlb_misses, tlb_flushes, invalidations;
};
void soft_counters(struct soft_cpu *cpu, struct soft_counters *out);

/* lower.c: uops for `insns`; returns how many were written, at most SOFT_UOPS_MAX. */
#define SOFT_UOPS_MAX (2 * BLOCK_INSNS + 6)
struct lowering {
    const struct soft_cpu *cpu;
    const struct insn *insn; /* in order */
    unsigned insns;
    uint32_t key;
    bool ends_in_fault; /* after the last: decoding failed with this vector */
    uint8_t vector;
    uint32_t code;
    uint64_t page_offset; /* of the first byte, for links inside the page */
};
unsigned soft_lower(const struct lowering *l, struct uop *out);
/* True: no later instruction may share the block. */
bool soft_ends_block(const struct insn *in);

#endif
