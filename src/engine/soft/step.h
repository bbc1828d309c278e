/* SPDX-License-Identifier: MIT */
/* One instruction on somebody else's vCPU: for an engine whose own processor or kernel cannot do
 * it. */
#ifndef HULL_SOFT_STEP_H
#define HULL_SOFT_STEP_H

#include "engine/engine.h"

struct soft_stepper;

/* Of vm's memory and buses only; vm keeps its engine. NULL: err says why. */
struct soft_stepper *soft_stepper_open(struct vm *vm, const struct cpu_model *model,
                                       struct err *err);
void soft_stepper_close(struct soft_stepper *s); /* accepts NULL */

/* Executes the instruction at state->rip, and delivers the exception if that is what
 * comes of it; one thread at a time. Of `state` the registers, vector state and debug registers are
 * used and changed; interrupts, the LAPIC (whose page is not there), MSRs and time are not.
 * VCPU_KICKED: done; VCPU_SHUTDOWN: triple fault; VCPU_BROKEN: the soft engine cannot have such a
 * state, nothing happened, err says why. */
enum vcpu_exit soft_stepper_run(struct soft_stepper *s, struct vcpu_state *state, struct err *err);
/* An MSR that holds no state, as the soft engine answers for `model`; false: #GP. */
bool soft_msr_plain(const struct cpu_model *model, uint32_t index, bool write, uint64_t *value);
/* Adds the pages that such instructions wrote, as engine_ops.dirty does. */
void soft_stepper_dirty(struct soft_stepper *s, struct mem_region *r);

#endif
