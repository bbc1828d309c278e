/* SPDX-License-Identifier: MIT */
/* One translation in the making. */
#ifndef HULL_SOFT_JIT_TR_H
#define HULL_SOFT_JIT_TR_H

#include "engine/soft/jit/jit_int.h"
#include "engine/soft/operand.h"

#define ARITH      (X86_CF | X86_PF | X86_AF | X86_ZF | X86_SF | X86_OF)
#define CHECKS_MAX 4 /* of one instruction */

struct tr {
    struct jit *j;
    struct buf *hot, *cold;
    const struct block *block;
    const struct insn *insn;
    unsigned insns, i;  /* i: the current one */
    uint64_t rip, next; /* of the current instruction and behind it */
    uint64_t start;
    struct trans *t;
    bool user;
    /* Where the guest's flags are at this point: EFLAGS, cpu->arith, or both. */
    bool in_eflags, in_memory;
    uint8_t vec;                    /* VEC_* known to be live at this point */
    bool fpu;                       /* x87 state known to be live, and no exception unmasked */
    unsigned vec_end;               /* number of the last native vector instruction + 1 */
    uint16_t live[BLOCK_INSNS + 1]; /* flags that are needed before instruction i */
    /* checks of the current instruction: their jumps to its slow way */
    uint8_t *check[CHECKS_MAX];
    unsigned checks;
    int meta; /* of the current instruction, -1: not made */
    int8_t undo;
    bool exact; /* the slow way may not come back behind the instruction */
};

/* Guest memory after a check: [T1 + T0], or [T1 + disp] if `fixed`. */
struct place {
    bool fixed;
    int32_t disp;
};

static inline const struct x86_form *tr_form(const struct tr *t)
{
    return &x86_form[t->insn[t->i].form];
}

static inline const struct insn *tr_insn(const struct tr *t)
{
    return &t->insn[t->i];
}

/* flags.c */
void tr_liveness(struct tr *t);
/* Flags that must survive from before to behind the current instruction's own work, or that it
 * reads. */
unsigned tr_flags_through(const struct tr *t);
void tr_flags_save(struct tr *t);                   /* cpu->arith has them; T1 is lost */
void tr_flags_load(struct tr *t);                   /* EFLAGS have them */
void tr_flags_clobber(struct tr *t, unsigned live); /* EFLAGS are about to be lost */
/* The current instruction was emitted and wrote flags as its form says. */
void tr_flags_written(struct tr *t);
/* Flags that the code at `rip` needs; notes what the answer depends on. */
unsigned tr_look_ahead(struct tr *t, uint64_t rip);

/* access.c */
unsigned tr_meta(struct tr *t);
int tr_host_reg(unsigned guest); /* -1: in memory */
/* Host memory for the explicit operand, checked. */
struct place tr_access(struct tr *t, const struct insn *in, unsigned size, bool write);
/* For the address in T0. */
void tr_check(struct tr *t, unsigned size, bool write);
/* dst := effective address in the segment, w: 64 bits of it; flags stay. */
void tr_lea(struct tr *t, const struct insn *in, unsigned dst, unsigned w);
void tr_get(struct tr *t, unsigned host, unsigned guest);
void tr_put(struct tr *t, unsigned guest, unsigned host);
/* Emits the slow way of the current instruction, which the checks lead to. */
void tr_slow(struct tr *t);
/* Calls the instruction's handler; `ends`: and then goes on wherever RIP is. */
void tr_handler(struct tr *t, bool ends);
/* T1 := host address. */
void tr_address(struct tr *t, struct place p);
/* The instruction has LOCK, and the copy needs it. */
bool tr_locked(const struct tr *t, const struct insn *in);

/* vec.c */
/* The instruction is a vector one that the host may run on its own registers. */
bool tr_is_vector(const struct tr *t, const struct insn *in);
void tr_vec_need(struct tr *t); /* before such an instruction */
void tr_vec_back(struct tr *t); /* in the slow way, behind the handler */
/* copy.c: false, nothing emitted: by its handler. */
bool tr_copy(struct tr *t);
/* fpu.c */
bool tr_fpu(struct tr *t);
/* system.c */
bool tr_system(struct tr *t);
/* flow.c */
bool tr_stack(struct tr *t);
bool tr_flow(struct tr *t);
void tr_direct(struct tr *t, unsigned op, uint64_t target); /* a branch to a known address */

#endif
