/* SPDX-License-Identifier: MIT */
/* What a running vCPU tells about itself: counters, and where its guest was when it was asked.
 *
 * The vCPU's thread publishes its counters when it leaves the guest and when it is asked for a
 * sample; any thread reads them. A sample is a pending bit like others: translated code looks at
 * those at backward branches and at jumps to other pages, so samples tell loops and functions, not
 * single instructions. While nobody asks, nothing of this costs anything. */
#ifndef HULL_SOFT_PROFILE_H
#define HULL_SOFT_PROFILE_H

#include "engine/soft/soft.h"

#define PROFILE_SAMPLES 1024u /* the last ones are kept */

enum soft_profile_count {
    PROFILE_INSTRUCTIONS, /* without those of translated code, unless HULL_JIT=count */
    PROFILE_BLOCKS,
    PROFILE_JUMP_MISSES,
    PROFILE_SLOW,
    PROFILE_TLB_MISSES,
    PROFILE_TLB_FLUSHES,
    PROFILE_ARENA_RESETS,
    PROFILE_JIT_BLOCKS,
    PROFILE_JIT_INSTRUCTIONS,
    PROFILE_JIT_GUEST_BYTES,
    PROFILE_JIT_HOST_BYTES,
    PROFILE_JIT_CODE_USED,
    PROFILE_JIT_ENTERS,
    PROFILE_JIT_CALLS,
    PROFILE_JIT_JUMP_MISSES,
    PROFILE_JIT_REFUSED,
    PROFILE_JIT_CHANGED,
    PROFILE_JIT_EVICTED,
    PROFILE_JIT_BANNED,
    PROFILE_JIT_FLUSHES,
    PROFILE_COUNTS,
};
extern const char *const soft_profile_name[PROFILE_COUNTS];

struct soft_profile {
    _Atomic uint64_t count[PROFILE_COUNTS];
    _Atomic uint32_t asked, samples; /* an idle vCPU is asked and gives none */
    _Atomic uint64_t sample[PROFILE_SAMPLES];
};

struct soft_sample {
    uint64_t rip;
    unsigned cpl;
};

/* In the vCPU's thread, at an instruction boundary: publishes; and adds where it is. */
void soft_profile_publish(struct soft_cpu *cpu);
void soft_profile_take(struct soft_cpu *cpu);

/* ---- any thread ---- */
/* Asks every vCPU that is running for a sample. */
void soft_profile_ask(struct vm *vm);
/* The vCPU's profile; NULL: this engine keeps none. */
const struct soft_profile *soft_profile(const struct vcpu *vcpu);
/* The last `max` samples at most, the newest first; returns how many. */
unsigned soft_profile_samples(const struct soft_profile *p, struct soft_sample *out, unsigned max);
/* How often code was written, by who wrote it. */
struct soft_code_writes {
    uint64_t guest, device, beside;
};
void soft_profile_code(const struct vm *vm, struct soft_code_writes *out);
/* Whether PROFILE_INSTRUCTIONS has all of them. */
bool soft_profile_exact(const struct vcpu *vcpu);
bool soft_profile_jit(const struct vcpu *vcpu);

#endif
