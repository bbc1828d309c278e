/* SPDX-License-Identifier: MIT */
/* Deterministic mode: the same input gives the same instructions in the same order.
 *
 * One vCPU runs at a time: the holder. Virtual time is what it has completed since the machine was
 * opened, one instruction a nanosecond, plus what was skipped while all vCPUs slept. Timers are
 * taken at the very instruction at which they are due (soft_cpu.limit). After every access to a
 * device the vCPU waits until the machine's loop has nothing left to do, so that what a device does
 * in another thread is done at that instruction, too. doc/deterministic.md. */
#ifndef HULL_SOFT_DET_H
#define HULL_SOFT_DET_H

#include "engine/soft/soft.h"

bool det_open(struct soft_cpu *cpu, struct err *err); /* vCPU 0 first */
void det_close(struct soft_det *det);                 /* accepts NULL */
uint64_t det_now(const struct soft_cpu *cpu);
/* Waits for this vCPU's turn. False: kicked meanwhile. */
bool det_enter(struct soft_cpu *cpu);
/* At an instruction boundary, PEND_SYNC set: lets devices finish, fires what is due, says how far
 * to go. False: leave run(). */
bool det_look(struct soft_cpu *cpu);
void det_sleep(struct soft_cpu *cpu); /* engine_ops.sleep */
void det_rearm(struct soft_cpu *cpu); /* its APIC timer changed */
void det_poke(struct soft_cpu *cpu);  /* any thread: something became pending there */
void det_touched(struct soft_cpu *cpu);

/* Before an access to a device. */
static inline void det_access(struct soft_cpu *cpu)
{
    if (unlikely(cpu->det != NULL))
        det_touched(cpu);
}

#endif
