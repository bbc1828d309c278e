/* SPDX-License-Identifier: MIT */
/* Counters and samples of running vCPUs. See profile.h. */
#include "engine/soft/profile.h"
#include "engine/soft/block.h"
#include "engine/soft/jit/run.h"

const char *const soft_profile_name[PROFILE_COUNTS] = {
    [PROFILE_INSTRUCTIONS] = "instructions",
    [PROFILE_BLOCKS] = "blocks",
    [PROFILE_JUMP_MISSES] = "jump-misses",
    [PROFILE_SLOW] = "slow-ways",
    [PROFILE_TLB_MISSES] = "tlb-misses",
    [PROFILE_TLB_FLUSHES] = "tlb-flushes",
    [PROFILE_ARENA_RESETS] = "block-resets",
    [PROFILE_JIT_BLOCKS] = "jit-blocks",
    [PROFILE_JIT_INSTRUCTIONS] = "jit-instructions",
    [PROFILE_JIT_GUEST_BYTES] = "jit-guest-bytes",
    [PROFILE_JIT_HOST_BYTES] = "jit-host-bytes",
    [PROFILE_JIT_CODE_USED] = "jit-code-used",
    [PROFILE_JIT_ENTERS] = "jit-enters",
    [PROFILE_JIT_CALLS] = "jit-calls",
    [PROFILE_JIT_JUMP_MISSES] = "jit-jump-misses",
    [PROFILE_JIT_REFUSED] = "jit-refused",
    [PROFILE_JIT_CHANGED] = "jit-dropped-changed",
    [PROFILE_JIT_EVICTED] = "jit-dropped-aliases",
    [PROFILE_JIT_BANNED] = "jit-pages-banned",
    [PROFILE_JIT_FLUSHES] = "jit-flushes",
};

#define SAMPLE_CPL 62 /* bits of a sample above a linear address's 48 */

static void put(struct soft_cpu *cpu, enum soft_profile_count what, uint64_t n)
{
    atomic_store_explicit(&cpu->profile->count[what], n, memory_order_relaxed);
}

static void publish_jit(struct soft_cpu *cpu)
{
    struct soft_jit_counters n;

    if (!soft_jit_counters(cpu, &n))
        return;
    put(cpu, PROFILE_JIT_BLOCKS, n.translated);
    put(cpu, PROFILE_JIT_INSTRUCTIONS, n.instructions);
    put(cpu, PROFILE_JIT_GUEST_BYTES, n.guest_bytes);
    put(cpu, PROFILE_JIT_HOST_BYTES, n.host_bytes);
    put(cpu, PROFILE_JIT_CODE_USED, n.code_used);
    put(cpu, PROFILE_JIT_ENTERS, n.enters);
    put(cpu, PROFILE_JIT_CALLS, n.calls);
    put(cpu, PROFILE_JIT_JUMP_MISSES, n.misses);
    put(cpu, PROFILE_JIT_REFUSED, n.refused);
    put(cpu, PROFILE_JIT_CHANGED, n.killed - n.evicted);
    put(cpu, PROFILE_JIT_EVICTED, n.evicted);
    put(cpu, PROFILE_JIT_BANNED, n.banned);
    put(cpu, PROFILE_JIT_FLUSHES, n.flushes);
}

void soft_profile_publish(struct soft_cpu *cpu)
{
    struct soft_counters n;

    if (cpu->profile == NULL)
        return;
    soft_counters(cpu, &n);
    put(cpu, PROFILE_INSTRUCTIONS, cpu->instructions);
    put(cpu, PROFILE_BLOCKS, n.built);
    put(cpu, PROFILE_JUMP_MISSES, n.finds);
    put(cpu, PROFILE_SLOW, n.slow);
    put(cpu, PROFILE_TLB_MISSES, n.tlb_misses);
    put(cpu, PROFILE_TLB_FLUSHES, n.tlb_flushes);
    put(cpu, PROFILE_ARENA_RESETS, n.arena_resets);
    publish_jit(cpu);
}

void soft_profile_take(struct soft_cpu *cpu)
{
    struct soft_profile *p = cpu->profile;
    uint64_t at;
    uint32_t n;

    atomic_fetch_and(&cpu->pending, ~(uint32_t)PEND_SAMPLE);
    if (p == NULL)
        return;
    soft_profile_publish(cpu);
    at = cpu->mode == X86_MODE_64 ? cpu->rip : cpu->seg[SEG_CS].base + cpu->rip;
    n = atomic_load_explicit(&p->samples, memory_order_relaxed);
    atomic_store_explicit(&p->sample[n % PROFILE_SAMPLES],
                          (at & (BIT(48) - 1)) | (uint64_t)cpu->cpl << SAMPLE_CPL,
                          memory_order_relaxed);
    atomic_store_explicit(&p->samples, n + 1, memory_order_release);
}

/* ---- for other threads ---- */

void soft_profile_ask(struct vm *vm)
{
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        struct soft_cpu *cpu = vm->cpu[i]->priv;

        if (cpu->profile == NULL)
            continue;
        atomic_fetch_add(&cpu->profile->asked, 1);
        if (atomic_load(&cpu->running))
            atomic_fetch_or(&cpu->pending, PEND_SAMPLE);
    }
}

const struct soft_profile *soft_profile(const struct vcpu *vcpu)
{
    const struct soft_cpu *cpu = vcpu->priv;

    return vcpu->vm->engine == &soft_engine && cpu ? cpu->profile : NULL;
}

unsigned soft_profile_samples(const struct soft_profile *p, struct soft_sample *out, unsigned max)
{
    uint32_t n = atomic_load_explicit(&p->samples, memory_order_acquire);
    unsigned count = 0;

    while (count < max && count < PROFILE_SAMPLES && count < n) {
        uint64_t s = atomic_load_explicit(&p->sample[(n - 1 - count) % PROFILE_SAMPLES],
                                          memory_order_relaxed);

        out[count].rip = (uint64_t)((int64_t)(s << 16) >> 16);
        out[count++].cpl = (unsigned)(s >> SAMPLE_CPL);
    }
    return count;
}

void soft_profile_code(const struct vm *vm, struct soft_code_writes *out)
{
    const struct soft_vm *soft = ((const struct soft_cpu *)vm->cpu[0]->priv)->soft;

    out->guest = atomic_load(&soft->code_written[CODE_BY_GUEST]);
    out->device = atomic_load(&soft->code_written[CODE_BY_DEVICE]);
    out->beside = atomic_load(&soft->code_written[CODE_BESIDE]);
}

bool soft_profile_exact(const struct vcpu *vcpu)
{
    return !soft_profile_jit(vcpu) || soft_jit_options.count;
}

bool soft_profile_jit(const struct vcpu *vcpu)
{
    return soft_jit_active(vcpu->priv);
}
