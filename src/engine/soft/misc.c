/* SPDX-License-Identifier: MIT */
/* Small system instructions: flags and the interrupt flag, HLT, CPUID, time stamps, MSRs,
 * hypercalls. Intel SDM 2. */
#include "engine/soft/ops.h"
#include "engine/soft/system.h"

/* CLI, STI: by IOPL, without VME and PVI. */
static void check_iopl(struct soft_cpu *cpu)
{
    if (protected_mode(cpu) && cpu->cpl > iopl(cpu))
        soft_gp(cpu, 0);
}

void op_cli(struct soft_cpu *cpu, const struct insn *in)
{
    check_iopl(cpu);
    cpu->rflags &= ~(uint64_t)FL_IF;
}

void op_sti(struct soft_cpu *cpu, const struct insn *in)
{
    check_iopl(cpu);
    if (cpu->rflags & FL_IF)
        return;
    cpu->rflags |= FL_IF;
    cpu->shadow_sti = true;
    cpu->shadow_rip = cpu->next_rip;
    event_recheck(cpu);
}

static void check_v8086_flags(struct soft_cpu *cpu)
{
    if (protected_mode(cpu) && v8086(cpu) && iopl(cpu) < 3)
        soft_gp(cpu, 0);
}

void op_pushf(struct soft_cpu *cpu, const struct insn *in)
{
    check_v8086_flags(cpu);
    soft_push(cpu, in->opsize, soft_rflags(cpu) & ~(uint64_t)(FL_VM | FL_RF));
}

void op_popf(struct soft_cpu *cpu, const struct insn *in)
{
    uint64_t may = FL_ARITH | FL_TF | FL_DF | FL_NT, image;

    check_v8086_flags(cpu);
    if (in->opsize > 2)
        may |= FL_AC | FL_ID;
    if (!protected_mode(cpu) || cpu->cpl <= iopl(cpu))
        may |= FL_IF;
    if (cpu->cpl == 0)
        may |= FL_IOPL;
    image = soft_pop(cpu, in->opsize);
    soft_set_rflags(cpu, (soft_rflags(cpu) & ~may & ~(uint64_t)FL_RF) | (image & may));
}

void op_clac(struct soft_cpu *cpu, const struct insn *in)
{
    if (cpu->cpl)
        soft_ud(cpu);
    cpu->rflags &= ~(uint64_t)FL_AC;
    soft_mode_changed(cpu);
}

void op_stac(struct soft_cpu *cpu, const struct insn *in)
{
    if (cpu->cpl)
        soft_ud(cpu);
    cpu->rflags |= FL_AC;
    soft_mode_changed(cpu);
}

/* soft_events finds the wake-up, or tells the run loop to sleep. */
void op_hlt(struct soft_cpu *cpu, const struct insn *in)
{
    cpu->run = VCPU_HALTED;
    atomic_fetch_or(&cpu->pending, PEND_INTR);
}

/* Caches are the host's business. */
void op_invd(struct soft_cpu *cpu, const struct insn *in)
{
}

void op_cpuid(struct soft_cpu *cpu, const struct insn *in)
{
    struct cpuid_context context = {.osxsave = cpu->cr4 & CR4_OSXSAVE,
                                    .xcr0 = cpu->xcr0,
                                    .apic_id = cpu->vcpu->id,
                                    .cpu_count = cpu->vm->cpu_count};
    uint32_t out[4];

    cpu_model_cpuid(cpu->vm->model, &context, (uint32_t)cpu->reg[0], (uint32_t)cpu->reg[1], out);
    cpu->reg[0] = out[X86_EAX];
    cpu->reg[3] = out[X86_EBX];
    cpu->reg[1] = out[X86_ECX];
    cpu->reg[2] = out[X86_EDX];
}

static void set_edx_eax(struct soft_cpu *cpu, uint64_t value)
{
    cpu->reg[0] = (uint32_t)value;
    cpu->reg[2] = value >> 32;
}

static void check_tsd(struct soft_cpu *cpu)
{
    if ((cpu->cr4 & CR4_TSD) && cpu->cpl)
        soft_gp(cpu, 0);
}

void op_rdtsc(struct soft_cpu *cpu, const struct insn *in)
{
    check_tsd(cpu);
    set_edx_eax(cpu, soft_tsc(cpu));
}

void op_rdtscp(struct soft_cpu *cpu, const struct insn *in)
{
    check_tsd(cpu);
    set_edx_eax(cpu, soft_tsc(cpu));
    cpu->reg[1] = (uint32_t)cpu->msr->tsc_aux;
}

void op_rdpid(struct soft_cpu *cpu, const struct insn *in)
{
    cpu->reg[in->rm] = cpu->msr->tsc_aux;
}

/* There are no performance counters. */
void op_rdpmc(struct soft_cpu *cpu, const struct insn *in)
{
    soft_gp(cpu, 0);
}

void op_rdmsr(struct soft_cpu *cpu, const struct insn *in)
{
    uint64_t value;

    if (!msr_read(cpu, (uint32_t)cpu->reg[1], &value))
        soft_gp(cpu, 0);
    set_edx_eax(cpu, value);
}

void op_wrmsr(struct soft_cpu *cpu, const struct insn *in)
{
    if (!msr_write(cpu, (uint32_t)cpu->reg[1], cpu->reg[2] << 32 | (uint32_t)cpu->reg[0]))
        soft_gp(cpu, 0);
}

/* KVM's hypercall convention: none is offered in CPUID, so guests that ask get ENOSYS. */
void op_vmcall(struct soft_cpu *cpu, const struct insn *in)
{
    int64_t answer = cpu->cpl ? -1 : -1000; /* KVM_EPERM, KVM_ENOSYS */

    if (cpu->vm->model->hyperv) {
        soft_hyperv_call(cpu);
        return;
    }
    cpu->reg[0] = code64(cpu) ? (uint64_t)answer : (uint32_t)answer;
}
