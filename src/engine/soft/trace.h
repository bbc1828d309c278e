/* SPDX-License-Identifier: MIT */
/* Tracing for whoever debugs the engine: HULL_TRACE=insn,int in the environment, to stderr. */
#ifndef HULL_SOFT_TRACE_H
#define HULL_SOFT_TRACE_H

#include "engine/soft/soft.h"

enum { TRACE_INSN = 1, TRACE_INT = 2 };

extern unsigned soft_tracing; /* TRACE_* bits; fixed once the first machine is open */

void trace_setup(void);
void trace_insn(struct soft_cpu *cpu, const struct insn *in); /* before it runs */
void trace_fault(struct soft_cpu *cpu);

#endif
