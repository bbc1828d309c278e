/* SPDX-License-Identifier: MIT */
/* Model-specific registers: a table of those that are only stored, with what values they take, and
 * a few that do something. Anything unknown is #GP, which guests expect when they probe. Intel SDM
 * 4; Linux Documentation/virt/kvm/x86/msr.rst. */
#include "engine/soft/system.h"

enum keep_kind {
    KEEP_MASK,       /* bits outside `mask` are #GP */
    KEEP_CANONICAL,  /* an address */
    KEEP_PAT,        /* eight memory types of the page attribute table */
    KEEP_FIXED,      /* eight memory types of a fixed MTRR */
    KEEP_CONSTANT,   /* reads as `mask`; writes are #GP */
    KEEP_IGNORED,    /* reads as 0; writes within `mask` vanish */
    KEEP_WRITE_ONLY, /* writes within `mask` vanish; reads are #GP */
};

struct msr_rule {
    uint32_t index, count; /* count: consecutive MSRs in an array of uint64_t */
    uint8_t kind, feature; /* enum keep_kind, enum x86_feature; 0: always there */
    uint16_t offset;       /* in struct vcpu_state */
    uint64_t mask;
};

/* clang-format off */
#define STORED(index, kind, field, mask, feature) {index, 1, kind, feature, offsetof(struct vcpu_state, field), mask}
#define CONSTANT(index, value) {index, 1, KEEP_CONSTANT, 0, 0, value}
static const struct msr_rule rules[] = {
    CONSTANT(MSR_PLATFORM_ID, 0),
    CONSTANT(MSR_EBL_CR_POWERON, 0),
    CONSTANT(MSR_FEATURE_CONTROL, 1), /* feature control: locked */
    STORED(MSR_SPEC_CTRL, KEEP_MASK, spec_ctrl, 7, X86_F_SPEC_CTRL),
    {MSR_PRED_CMD, 1, KEEP_WRITE_ONLY, X86_F_SPEC_CTRL, 0, 1},
    {MSR_BIOS_UPDT_TRIG, 1, KEEP_WRITE_ONLY, 0, 0, UINT64_MAX},
    CONSTANT(MSR_PLATFORM_INFO, 0),
    CONSTANT(MSR_MTRR_CAP, 0x508), /* MTRRs: 8 variable, fixed, write-combining */
    STORED(MSR_SYSENTER_CS, KEEP_MASK, sysenter_cs, UINT64_MAX, X86_F_SEP),
    STORED(MSR_SYSENTER_ESP, KEEP_CANONICAL, sysenter_esp, 0, X86_F_SEP),
    STORED(MSR_SYSENTER_EIP, KEEP_CANONICAL, sysenter_eip, 0, X86_F_SEP),
    CONSTANT(MSR_MCG_CAP, 0), /* machine check: no banks */
    STORED(MSR_MCG_STATUS, KEEP_MASK, mcg_status, 7, X86_F_MCA),
    {MSR_PERF_STATUS, 1, KEEP_CONSTANT, 0, 0, 0},
    {MSR_PERF_CTL, 1, KEEP_IGNORED, 0, 0, UINT64_MAX},
    {MSR_DEBUGCTL, 1, KEEP_IGNORED, 0, 0, 3}, /* debug control: no LBR, no branch stepping */
    STORED(MSR_MTRR_FIX64K_00000, KEEP_FIXED, mtrr_fix[0], 0, X86_F_MTRR),
    {MSR_MTRR_FIX16K_80000, 2, KEEP_FIXED, X86_F_MTRR, offsetof(struct vcpu_state, mtrr_fix[1]), 0},
    {MSR_MTRR_FIX4K_C0000, 8, KEEP_FIXED, X86_F_MTRR, offsetof(struct vcpu_state, mtrr_fix[3]), 0},
    STORED(MSR_PAT, KEEP_PAT, pat, 0, X86_F_PAT),
    STORED(MSR_MTRR_DEF_TYPE, KEEP_MASK, mtrr_def, 0xcff, X86_F_MTRR),
    STORED(MSR_STAR, KEEP_MASK, star, UINT64_MAX, X86_F_LM),
    STORED(MSR_LSTAR, KEEP_CANONICAL, lstar, 0, X86_F_LM),
    STORED(MSR_CSTAR, KEEP_CANONICAL, cstar, 0, X86_F_LM),
    STORED(MSR_FMASK, KEEP_MASK, fmask, 0xffffffff, X86_F_LM),
    STORED(MSR_KERNEL_GS_BASE, KEEP_CANONICAL, kernel_gs_base, 0, X86_F_LM),
    STORED(MSR_TSC_AUX, KEEP_MASK, tsc_aux, 0xffffffff, X86_F_RDTSCP),
    /* Of KVM's guests that come here: kept, and nothing ever happens by them. */
    STORED(MSR_KVM_ASYNC_PF, KEEP_MASK, kvm_async_pf, ~0x30ull, X86_F_KVM_ASYNCPF),
    STORED(MSR_KVM_ASYNC_PF_INT, KEEP_MASK, kvm_async_pf_int, 0xff, X86_F_KVM_ASYNCPF_INT),
    {MSR_KVM_ASYNC_PF_ACK, 1, KEEP_IGNORED, X86_F_KVM_ASYNCPF_INT, 0, UINT64_MAX},
    STORED(MSR_KVM_STEAL_TIME, KEEP_MASK, kvm_steal_time, ~0x3eull, X86_F_KVM_STEAL_TIME),
    STORED(MSR_KVM_PV_EOI, KEEP_MASK, kvm_pv_eoi, ~2ull, X86_F_KVM_PV_EOI),
    STORED(MSR_KVM_POLL_CONTROL, KEEP_MASK, kvm_poll_control, 1, X86_F_KVM_POLL_CONTROL),
};
/* clang-format on */

static const struct msr_rule *find_rule(struct soft_cpu *cpu, uint32_t index)
{
    for (unsigned i = 0; i < ARRAY_SIZE(rules); i++) {
        const struct msr_rule *r = &rules[i];

        if (index - r->index < r->count)
            return !r->feature || soft_has(cpu, r->feature) ? r : NULL;
    }
    return NULL;
}

static uint64_t *slot(struct soft_cpu *cpu, const struct msr_rule *r, uint32_t index)
{
    return (uint64_t *)((uint8_t *)cpu->msr + r->offset) + (index - r->index);
}

bool msr_without_state(struct soft_cpu *cpu, uint32_t index, bool write, uint64_t *value)
{
    const struct msr_rule *r = find_rule(cpu, index);

    if (!r)
        return false;
    if (write)
        return (r->kind == KEEP_IGNORED || r->kind == KEEP_WRITE_ONLY) && !(*value & ~r->mask);
    *value = r->kind == KEEP_CONSTANT ? r->mask : 0;
    return r->kind == KEEP_CONSTANT || r->kind == KEEP_IGNORED;
}

/* Types 0 UC, 1 WC, 4 WT, 5 WP, 6 WB, and 7 UC- in the PAT. */
static bool memory_types(uint64_t value, unsigned allowed)
{
    for (unsigned i = 0; i < 8; i++, value >>= 8)
        if ((value & 0xff) > 7 || !(allowed >> (value & 7) & 1))
            return false;
    return true;
}

#define MTRR_TYPES 0x73u
#define PAT_TYPES  0xf3u

static bool valid_value(const struct msr_rule *r, uint64_t value)
{
    switch (r->kind) {
    case KEEP_CANONICAL: return canonical(value);
    case KEEP_PAT: return memory_types(value, PAT_TYPES);
    case KEEP_FIXED: return memory_types(value, MTRR_TYPES);
    default: return !(value & ~r->mask);
    }
}

/* 200-20f: base and mask of eight ranges in turn. */
static uint64_t *variable_mtrr(struct soft_cpu *cpu, uint32_t index)
{
    unsigned n = (index - 0x200) / 2;

    return index & 1 ? &cpu->msr->mtrr_mask[n] : &cpu->msr->mtrr_base[n];
}

static bool write_variable_mtrr(struct soft_cpu *cpu, uint32_t index, uint64_t value)
{
    uint64_t reserved = ~(BIT(soft_phys_bits(cpu)) - 1) | (index & 1 ? 0x7ff : 0xf00);

    if ((value & reserved) || (!(index & 1) && !(MTRR_TYPES >> (value & 7) & 1)) ||
        (!(index & 1) && (value & 0xf8)))
        return false;
    *variable_mtrr(cpu, index) = value;
    return true;
}

static bool is_apic(uint32_t index)
{
    return index == MSR_APIC_BASE || index == MSR_TSC_DEADLINE ||
           (index >= MSR_X2APIC_BASE && index < MSR_X2APIC_BASE + 0x40);
}

static bool is_hyperv(uint32_t index)
{
    return index >= MSR_HV_GUEST_OS_ID && index < MSR_HV_GUEST_OS_ID + 0x200;
}

static bool is_variable_mtrr(struct soft_cpu *cpu, uint32_t index)
{
    return index >= 0x200 && index < 0x210 && soft_has(cpu, X86_F_MTRR);
}

/* The old numbers belong to a feature that is not offered. */
static bool has_kvmclock(struct soft_cpu *cpu, uint32_t index)
{
    return index >= MSR_KVM_WALL_CLOCK_NEW && soft_has(cpu, X86_F_KVMCLOCK);
}

bool msr_read(struct soft_cpu *cpu, uint32_t index, uint64_t *value)
{
    const struct msr_rule *r;

    if (is_apic(index))
        return soft_apic_msr_read(cpu, index, value);
    if (is_hyperv(index))
        return soft_hyperv_read(cpu, index, value);
    if (is_variable_mtrr(cpu, index)) {
        *value = *variable_mtrr(cpu, index);
        return true;
    }
    switch (index) {
    case MSR_TSC: *value = soft_tsc(cpu); return true;
    case MSR_TSC_ADJUST: *value = cpu->msr->tsc_adjust; return soft_has(cpu, X86_F_TSC_ADJUST);
    case MSR_BIOS_SIGN_ID: *value = cpu->msr->bios_sign; return true;
    case MSR_ARCH_CAPABILITIES: *value = ARCH_CAPABILITIES; return soft_has(cpu, X86_F_ARCH_CAP);
    case MSR_MISC_ENABLE: *value = cpu->msr->misc_enable; return true;
    case MSR_EFER: *value = cpu->efer; return true;
    case MSR_FS_BASE: *value = cpu->seg[SEG_FS].base; return soft_has(cpu, X86_F_LM);
    case MSR_GS_BASE: *value = cpu->seg[SEG_GS].base; return soft_has(cpu, X86_F_LM);
    case MSR_KVM_WALL_CLOCK:
    case MSR_KVM_WALL_CLOCK_NEW: *value = cpu->msr->kvm_wall_clock; return has_kvmclock(cpu, index);
    case MSR_KVM_SYSTEM_TIME:
    case MSR_KVM_SYSTEM_TIME_NEW:
        *value = cpu->msr->kvm_system_time;
        return has_kvmclock(cpu, index);
    }
    r = find_rule(cpu, index);
    if (!r || r->kind == KEEP_WRITE_ONLY)
        return false;
    *value = r->kind == KEEP_CONSTANT  ? r->mask
             : r->kind == KEEP_IGNORED ? 0
                                       : *slot(cpu, r, index);
    return true;
}

/* Changes this vCPU's TSC alone; its kvmclock page must follow. */
static void move_tsc(struct soft_cpu *cpu, uint64_t by)
{
    cpu->tsc_offset += by;
    cpu->msr->tsc_adjust += by;
    pvclock_system_time(cpu, cpu->msr->kvm_system_time);
    soft_apic_tsc_moved(cpu);
}

static bool write_efer(struct soft_cpu *cpu, uint64_t value)
{
    uint64_t known = EFER_LMA, changed;

    known |= soft_has(cpu, X86_F_SYSCALL) ? EFER_SCE : 0;
    known |= soft_has(cpu, X86_F_LM) ? EFER_LME : 0;
    known |= soft_has(cpu, X86_F_NX) ? EFER_NXE : 0;
    value = (value & ~(uint64_t)EFER_LMA) | (cpu->efer & EFER_LMA);
    changed = value ^ cpu->efer;
    if ((value & ~known) || ((changed & EFER_LME) && (cpu->cr0 & CR0_PG)))
        return false;
    cpu->efer = value;
    if (changed & EFER_NXE)
        soft_tlb_flush(cpu, true);
    soft_mode_changed(cpu);
    return true;
}

static bool write_base(struct soft_cpu *cpu, unsigned seg, uint64_t value)
{
    if (!canonical(value) || !soft_has(cpu, X86_F_LM))
        return false;
    cpu->seg[seg].base = value;
    soft_mode_changed(cpu);
    return true;
}

/* Fast strings and the like; read-only bits 11 and 12 say that BTS and PEBS are not there. */
static bool write_misc_enable(struct soft_cpu *cpu, uint64_t value)
{
    if (value & ~0x77ffffffffull)
        return false;
    cpu->msr->misc_enable = (value & 0x440009) | 0x1800;
    return true;
}

bool msr_write(struct soft_cpu *cpu, uint32_t index, uint64_t value)
{
    const struct msr_rule *r;

    if (is_apic(index))
        return soft_apic_msr_write(cpu, index, value);
    if (is_hyperv(index))
        return soft_hyperv_write(cpu, index, value);
    if (is_variable_mtrr(cpu, index))
        return write_variable_mtrr(cpu, index, value);
    switch (index) {
    case MSR_TSC: move_tsc(cpu, value - soft_tsc(cpu)); return true;
    case MSR_TSC_ADJUST:
        if (!soft_has(cpu, X86_F_TSC_ADJUST))
            return false;
        move_tsc(cpu, value - cpu->msr->tsc_adjust);
        return true;
    case MSR_BIOS_SIGN_ID:
        return true; /* how software asks for the microcode's revision: write 0, CPUID, read */
    case MSR_MISC_ENABLE: return write_misc_enable(cpu, value);
    case MSR_EFER: return write_efer(cpu, value);
    case MSR_FS_BASE: return write_base(cpu, SEG_FS, value);
    case MSR_GS_BASE: return write_base(cpu, SEG_GS, value);
    case MSR_KVM_WALL_CLOCK:
    case MSR_KVM_WALL_CLOCK_NEW:
        if (!has_kvmclock(cpu, index))
            return false;
        cpu->msr->kvm_wall_clock = value;
        pvclock_wall_clock(cpu, value);
        return true;
    case MSR_KVM_SYSTEM_TIME:
    case MSR_KVM_SYSTEM_TIME_NEW:
        if (!has_kvmclock(cpu, index))
            return false;
        cpu->msr->kvm_system_time = value;
        pvclock_system_time(cpu, value);
        return true;
    }
    r = find_rule(cpu, index);
    if (!r || r->kind == KEEP_CONSTANT || !valid_value(r, value))
        return false;
    if (r->kind != KEEP_IGNORED && r->kind != KEEP_WRITE_ONLY)
        *slot(cpu, r, index) = value;
    return true;
}
