/* SPDX-License-Identifier: MIT */
/* Where the interpreter and the JIT meet. */
#ifndef HULL_SOFT_JIT_RUN_H
#define HULL_SOFT_JIT_RUN_H

#include "engine/soft/jit/jit.h"
#include "engine/soft/uop.h"

struct block;

uop_fn uop_jit; /* first uop of a block that has translations */

/* Opening is not an error when the host refuses: cpu->jit stays NULL. */
void soft_jit_open(struct soft_cpu *cpu);
void soft_jit_close(struct soft_cpu *cpu);
/* Memory within reach of GS-relative displacements from `near`; NULL: none. */
void *soft_map_near(const void *near, size_t size);
/* Before translated code can run in this thread. */
void soft_jit_thread(struct soft_cpu *cpu);
/* The block was entered often enough. True: it is translated now, or was already. */
bool soft_jit_hot(struct soft_cpu *cpu, struct block *b);
/* The interpreter made this block: it may have translations from before. */
void soft_jit_attach(struct soft_cpu *cpu, struct block *b);
/* All of the interpreter's blocks are gone. */
void soft_jit_detach_all(struct soft_cpu *cpu);
/* Translations of linear addresses changed in this half of the address space. */
void soft_jit_forget_jumps(struct soft_cpu *cpu, unsigned half);
/* PEND_CODE: some page's code changed. */
void soft_jit_serve(struct soft_cpu *cpu);
/* Called by translated code: runs the instruction of a jit_meta. 0: go on behind it. */
uint32_t soft_jit_op(struct soft_cpu *cpu, uint32_t number);
/* The same for one that may go anywhere: the code to go on at, or NULL to leave. */
const void *soft_jit_end(struct soft_cpu *cpu, uint32_t number);

#endif
