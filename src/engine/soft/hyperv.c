/* SPDX-License-Identifier: MIT */
/* Hyper-V's interface as far as it is cheap and right here (--cpu ...,hyperv=on): guest id and
 * hypercall page, the processor's number, the reference counter and its TSC page, frequencies, and
 * the local APIC by MSRs. No hypercall is advised, so all of them fail. Hyper-V TLFS 3, 10, 12.
 *
 * Three registers belong to the machine, not to a vCPU: vCPU 0's state holds them. */
#include "base/clock.h"
#include "engine/soft/system.h"
#include "engine/x86/msr.h"

enum {
    HV_ENABLE = 1,
    HV_LOCKED = 2,
    HV_INVALID_CODE = 2, /* status of an unknown hypercall */
    APIC_TPR_AT = 0x80,
    APIC_EOI_AT = 0xb0,
    APIC_ICR_AT = 0x300,
    APIC_X2 = 0x400, /* in IA32_APIC_BASE */
};

static uint64_t *shared(struct soft_cpu *cpu, uint64_t *own)
{
    const struct soft_cpu *boot = cpu->vm->cpu[0]->priv;

    return (uint64_t *)((uint8_t *)boot->msr + ((uint8_t *)own - (uint8_t *)cpu->msr));
}

static uint64_t shared_get(struct soft_cpu *cpu, uint64_t *own)
{
    return __atomic_load_n(shared(cpu, own), __ATOMIC_SEQ_CST);
}

static void shared_set(struct soft_cpu *cpu, uint64_t *own, uint64_t value)
{
    __atomic_store_n(shared(cpu, own), value, __ATOMIC_SEQ_CST);
}

/* 100 ns units since power-on, which is TSC 0 plus what the guest added. */
static uint64_t ref_count(struct soft_cpu *cpu)
{
    return mul_div(soft_tsc(cpu) - cpu->msr->tsc_adjust, 10000000, soft_tsc_hz(cpu));
}

/* Time is (TSC * scale >> 64) + offset; sequence 0 says "not valid now". */
static void write_tsc_page(struct soft_cpu *cpu, uint64_t msr)
{
    uint64_t scale = (uint64_t)(((unsigned __int128)10000000 << 64) / soft_tsc_hz(cpu));
    uint64_t offset = 0 - (uint64_t)((unsigned __int128)cpu->msr->tsc_adjust * scale >> 64);
    uint64_t at = msr & PAGE_MASK;
    uint32_t none = 0, valid = 1;

    if (!(msr & HV_ENABLE) || mem_write(cpu->vm->mem, at, &none, sizeof none))
        return; /* not RAM: the guest's mistake */
    atomic_thread_fence(memory_order_seq_cst);
    mem_write(cpu->vm->mem, at + 8, &scale, sizeof scale);
    mem_write(cpu->vm->mem, at + 16, &offset, sizeof offset);
    atomic_thread_fence(memory_order_seq_cst);
    mem_write(cpu->vm->mem, at, &valid, sizeof valid);
}

static void write_hypercall(struct soft_cpu *cpu, uint64_t value)
{
    static const uint8_t code[] = {0x0f, 0x01, 0xc1, 0xc3}; /* vmcall; ret */
    uint64_t old = shared_get(cpu, &cpu->msr->hv_hypercall);

    if (old & HV_LOCKED)
        return;
    if (!shared_get(cpu, &cpu->msr->hv_guest_os_id))
        value &= ~(uint64_t)HV_ENABLE; /* who does not say who it is may not call */
    if (value & HV_ENABLE)
        mem_write(cpu->vm->mem, value & PAGE_MASK, code, sizeof code);
    shared_set(cpu, &cpu->msr->hv_hypercall, value);
}

static bool in_x2apic(struct soft_cpu *cpu)
{
    uint64_t base = 0;

    soft_apic_msr_read(cpu, MSR_APIC_BASE, &base);
    return base & APIC_X2;
}

/* The registers of the local APIC at offsets of its page. */
static bool apic_read(struct soft_cpu *cpu, uint32_t at, uint64_t *value)
{
    if (in_x2apic(cpu))
        return soft_apic_msr_read(cpu, MSR_X2APIC_BASE + at / 16, value);
    *value = soft_apic_mmio_read(cpu, at, 4);
    if (at == APIC_ICR_AT)
        *value |= soft_apic_mmio_read(cpu, at + 16, 4) << 32;
    return true;
}

static bool apic_write(struct soft_cpu *cpu, uint32_t at, uint64_t value)
{
    if (in_x2apic(cpu))
        return soft_apic_msr_write(cpu, MSR_X2APIC_BASE + at / 16, value);
    if (at == APIC_ICR_AT)
        soft_apic_mmio_write(cpu, at + 16, 4, (uint32_t)(value >> 32));
    soft_apic_mmio_write(cpu, at, 4, (uint32_t)value);
    return true;
}

bool soft_hyperv_read(struct soft_cpu *cpu, uint32_t index, uint64_t *value)
{
    if (!cpu->vm->model->hyperv)
        return false;
    switch (index) {
    case MSR_HV_GUEST_OS_ID: *value = shared_get(cpu, &cpu->msr->hv_guest_os_id); return true;
    case MSR_HV_HYPERCALL: *value = shared_get(cpu, &cpu->msr->hv_hypercall); return true;
    case MSR_HV_VP_INDEX: *value = cpu->vcpu->id; return true;
    case MSR_HV_TIME_REF_COUNT: *value = ref_count(cpu); return true;
    case MSR_HV_REFERENCE_TSC: *value = shared_get(cpu, &cpu->msr->hv_tsc_page); return true;
    case MSR_HV_TSC_FREQUENCY: *value = soft_tsc_hz(cpu); return true;
    case MSR_HV_APIC_FREQUENCY: *value = X86_CRYSTAL_HZ; return true;
    case MSR_HV_ICR: return apic_read(cpu, APIC_ICR_AT, value);
    case MSR_HV_TPR: return apic_read(cpu, APIC_TPR_AT, value);
    case MSR_HV_VP_ASSIST: *value = cpu->msr->hv_vp_assist; return true;
    default: return false;
    }
}

bool soft_hyperv_write(struct soft_cpu *cpu, uint32_t index, uint64_t value)
{
    if (!cpu->vm->model->hyperv)
        return false;
    switch (index) {
    case MSR_HV_GUEST_OS_ID:
        shared_set(cpu, &cpu->msr->hv_guest_os_id, value);
        if (!value)
            shared_set(cpu, &cpu->msr->hv_hypercall,
                       shared_get(cpu, &cpu->msr->hv_hypercall) & ~(uint64_t)HV_ENABLE);
        return true;
    case MSR_HV_HYPERCALL: write_hypercall(cpu, value); return true;
    case MSR_HV_REFERENCE_TSC:
        shared_set(cpu, &cpu->msr->hv_tsc_page, value);
        write_tsc_page(cpu, value);
        return true;
    case MSR_HV_EOI: return apic_write(cpu, APIC_EOI_AT, value & UINT32_MAX);
    case MSR_HV_ICR: return apic_write(cpu, APIC_ICR_AT, value);
    case MSR_HV_TPR: return apic_write(cpu, APIC_TPR_AT, value & UINT32_MAX);
    case MSR_HV_VP_ASSIST: cpu->msr->hv_vp_assist = value; return true; /* nothing is put there */
    default: return false;
    }
}

/* Status in RAX; in 32-bit code in EDX:EAX. Only ring 0 may call. */
void soft_hyperv_call(struct soft_cpu *cpu)
{
    if (cpu->cpl)
        soft_ud(cpu);
    cpu->reg[0] = HV_INVALID_CODE;
    if (!code64(cpu))
        cpu->reg[2] = 0;
}
