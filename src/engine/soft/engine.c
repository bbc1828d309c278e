/* SPDX-License-Identifier: MIT */
/* The soft engine's entry points: opening, closing, kicks and interrupts from outside, and the
 * state that goes into snapshots and comes out of them. What comes in is checked, because it may
 * come from a stranger: nothing in it may make the engine do what a guest could not. */
#include "engine/soft/det.h"
#include "engine/soft/page.h"
#include "engine/soft/system.h"
#include <errno.h>
#include <stdlib.h>

static bool engine_open(struct vm *vm, struct err *err)
{
    return soft_core_open(vm, (struct soft_vm **)&vm->priv, err);
}

static void engine_close(struct vm *vm)
{
    soft_core_close(vm, vm->priv);
    vm->priv = NULL;
}

static void engine_vcpu_close(struct vcpu *vcpu)
{
    struct soft_cpu *cpu = vcpu->priv;

    if (!cpu)
        return;
    if (cpu->clock)
        soft_clock_watch(cpu, false);
    if (vcpu->id == 0) {
        soft_clock_close(cpu->clock);
        det_close(cpu->det);
    }
    soft_cpu_close(cpu);
    soft_apic_close(cpu);
    free(cpu->msr);
    free(cpu);
    vcpu->priv = NULL;
}

static bool power_on(struct soft_cpu *cpu, struct err *err)
{
    struct vcpu_state *state = malloc(sizeof *state);
    bool done;

    if (!state)
        return err_set(err, ENOMEM, "no memory for a vCPU's state");
    vcpu_state_reset(state, cpu->vcpu->id == 0, cpu->vcpu->id);
    state->reg[2] = cpu->vm->model->signature;
    done = soft_engine.set(cpu->vcpu, state, err);
    free(state);
    return done;
}

/* The clock belongs to the first vCPU, which is opened first and closed last. */
static bool open_parts(struct soft_cpu *cpu, struct err *err)
{
    struct vcpu *first = cpu->vm->cpu[0];

    cpu->msr = calloc(1, sizeof *cpu->msr);
    if (!cpu->msr)
        return err_set(err, ENOMEM, "no memory for a vCPU");
    cpu->clock = cpu->vcpu->id == 0
                     ? soft_clock_open(!cpu->soft->stepper && !cpu->det, cpu->det, err)
                     : ((struct soft_cpu *)first->priv)->clock;
    if (!cpu->clock || !soft_cpu_open(cpu, err) || !soft_apic_open(cpu, err))
        return false;
    soft_clock_watch(cpu, true);
    return power_on(cpu, err);
}

static bool engine_vcpu_open(struct vcpu *vcpu, struct err *err)
{
    struct soft_cpu *cpu = aligned_alloc(64, align_up(sizeof *cpu, 64));

    if (!cpu)
        return err_set(err, ENOMEM, "no memory for a vCPU");
    memset(cpu, 0, sizeof *cpu);
    cpu->vcpu = vcpu;
    cpu->vm = vcpu->vm;
    cpu->soft = vcpu->vm->priv;
    cpu->a20_mask = UINT64_MAX;
    vcpu->priv = cpu;
    if (vcpu->vm->deterministic && !det_open(cpu, err)) {
        engine_vcpu_close(vcpu);
        return false;
    }
    if (open_parts(cpu, err))
        return true;
    engine_vcpu_close(vcpu);
    return false;
}

static void engine_kick(struct vcpu *vcpu)
{
    soft_pend(vcpu->priv, PEND_KICK);
}

static void engine_intr(struct vm *vm, bool level)
{
    soft_apic_pic(vm->cpu[0]->priv, level);
}

static void engine_nmi(struct vcpu *vcpu)
{
    soft_pend(vcpu->priv, PEND_NMI);
}

/* ---- state out ---- */
static void engine_get(struct vcpu *vcpu, struct vcpu_state *s)
{
    struct soft_cpu *cpu = vcpu->priv;
    bool shadow;

    soft_settle(cpu);
    shadow = cpu->rip == cpu->shadow_rip;
    *s = *cpu->msr;
    memcpy(s->reg, cpu->reg, sizeof s->reg);
    s->rip = cpu->rip;
    s->rflags = soft_rflags(cpu);
    memcpy(s->seg, cpu->seg, sizeof s->seg);
    s->ldt = cpu->ldt;
    s->tr = cpu->tr;
    s->gdt = cpu->gdt;
    s->idt = cpu->idt;
    s->cr0 = cpu->cr0;
    s->cr2 = cpu->cr2;
    s->cr3 = cpu->cr3;
    s->cr4 = cpu->cr4;
    s->cr8 = soft_apic_cr8(cpu);
    s->efer = cpu->efer;
    s->xcr0 = cpu->xcr0;
    s->xss = 0;
    memcpy(s->dr, cpu->dr, sizeof s->dr);
    s->dr6 = cpu->dr6;
    s->dr7 = cpu->dr7;
    memcpy(s->pdpte, cpu->pdpte, sizeof s->pdpte);
    s->tsc = soft_tsc(cpu);
    s->shadow_sti = cpu->shadow_sti && shadow;
    s->shadow_ss = cpu->shadow_ss && shadow;
    s->nmi_blocked = cpu->nmi_blocked;
    s->nmi_pending |= (atomic_load(&cpu->pending) & PEND_NMI) != 0;
    s->run = cpu->run;
    if (cpu->stepping ||
        cpu->trap_dr6) { /* a #DB trap that the next boundary would have delivered */
        s->exception_pending = true;
        s->exception_vector = VEC_DB;
        s->dr6 |= cpu->trap_dr6 | (cpu->stepping ? DR6_BS : 0);
    }
    soft_apic_get(cpu, &s->lapic);
    soft_xsave_get(cpu, s->xsave);
}

/* ---- state in ---- */
static bool bad(struct err *err, const char *what, uint64_t value)
{
    return err_set(err, EINVAL, "vCPU state: %s 0x%llx is impossible", what,
                   (unsigned long long)value);
}

static bool check_control(struct soft_cpu *cpu, const struct vcpu_state *s, struct err *err)
{
    bool lma = s->efer & EFER_LMA;
    uint64_t phys = BIT(soft_phys_bits(cpu)) - 1;

    if (s->cr0 >> 32 || ((s->cr0 & CR0_PG) && !(s->cr0 & CR0_PE)))
        return bad(err, "CR0", s->cr0);
    if (s->cr4 & ~control_cr4_known(cpu))
        return bad(err, "CR4", s->cr4);
    if (s->efer & ~(uint64_t)(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE))
        return bad(err, "EFER", s->efer);
    if (lma != ((s->efer & EFER_LME) && (s->cr0 & CR0_PG)) || (lma && !(s->cr4 & CR4_PAE)))
        return bad(err, "EFER", s->efer);
    if (s->cr3 & ~phys)
        return bad(err, "CR3", s->cr3);
    if (lma && (s->rflags & FL_VM))
        return bad(err, "RFLAGS", s->rflags);
    if (!(s->xcr0 & 1) || (s->xcr0 & ~cpu->vm->model->xcr0_mask & ~1ull) || (s->xcr0 & 6) == 4)
        return bad(err, "XCR0", s->xcr0);
    for (unsigned i = 0; i < 4; i++)
        if ((s->pdpte[i] & 1) && (s->pdpte[i] & (~phys | 0x1e6)))
            return bad(err, "PDPTE", s->pdpte[i]);
    return true;
}

static bool check_addresses(const struct vcpu_state *s, struct err *err)
{
    const uint64_t address[] = {
        s->lstar,           s->cstar,    s->kernel_gs_base, s->sysenter_esp, s->sysenter_eip,
        s->gdt.base,        s->idt.base, s->ldt.base,       s->tr.base,      s->seg[SEG_FS].base,
        s->seg[SEG_GS].base};

    for (unsigned i = 0; i < ARRAY_SIZE(address); i++)
        if (!canonical(address[i]))
            return bad(err, "address", address[i]);
    for (unsigned i = 0; i < SEG_FS; i++)
        if (s->seg[i].base >> 32)
            return bad(err, "segment base", s->seg[i].base);
    if (s->run > VCPU_WAIT_SIPI)
        return bad(err, "run state", s->run);
    if (s->exception_pending && s->exception_vector > 31)
        return bad(err, "exception", s->exception_vector);
    return true;
}

static bool check_xsave(struct soft_cpu *cpu, const struct vcpu_state *s, struct err *err)
{
    uint32_t mxcsr = le32(s->xsave + 24);
    uint64_t present = le64(s->xsave + 512), compact = le64(s->xsave + 520);

    if (mxcsr >> 16)
        return bad(err, "MXCSR", mxcsr);
    if (compact || (present & ~(cpu->vm->model->xcr0_mask | 3)))
        return bad(err, "XSAVE header", present | compact);
    for (unsigned i = 528; i < 576; i++)
        if (s->xsave[i])
            return bad(err, "XSAVE header byte", s->xsave[i]);
    return true;
}

static void set_pending(struct soft_cpu *cpu, const struct vcpu_state *s)
{
    /* The clock's thread may have said that the timer is due before the store below: it is asked
     * again, for nothing if it is not. */
    uint32_t pending = PEND_INTR | PEND_TIMER;

    cpu->stepping = false;
    cpu->trap_dr6 = 0;
    if (s->exception_pending && s->exception_vector == VEC_DB) {
        cpu->msr->exception_pending = false;
        cpu->trap_dr6 = s->dr6 & (0xf | DR6_BS | DR6_BT);
    }
    if (s->exception_pending || (s->rflags & FL_TF) || breakpoints_on_code(cpu))
        pending |= PEND_TRAP;
    cpu->msr->nmi_pending = false;
    if (s->nmi_pending)
        pending |= PEND_NMI;
    cpu->intr_waiting = false;
    if (cpu->jit)
        pending |= PEND_CODE; /* memory may come with the state */
    atomic_store(&cpu->pending, pending | (atomic_load(&cpu->pending) & PEND_REQUEST));
}

static void set_segments(struct soft_cpu *cpu, const struct vcpu_state *s)
{
    memcpy(cpu->seg, s->seg, sizeof cpu->seg);
    for (unsigned i = 0; i < 6; i++)
        cpu->seg[i].attr &= 0xf0ff;
    cpu->ldt = s->ldt;
    cpu->tr = s->tr;
    cpu->gdt = s->gdt;
    cpu->idt = s->idt;
    if (!(s->cr0 & CR0_PE))
        cpu->cpl = 0;
    else
        cpu->cpl = s->rflags & FL_VM ? 3 : (uint8_t)seg_dpl(&cpu->seg[SEG_SS]);
}

static bool engine_set(struct vcpu *vcpu, const struct vcpu_state *s, struct err *err)
{
    struct soft_cpu *cpu = vcpu->priv;

    if (!check_control(cpu, s, err) || !check_addresses(s, err) || !check_xsave(cpu, s, err) ||
        !soft_apic_check(&s->lapic, soft_phys_bits(cpu), err))
        return false;
    *cpu->msr = *s;
    memcpy(cpu->reg, s->reg, sizeof cpu->reg);
    cpu->rip = cpu->next_rip = cpu->rf_rip = cpu->shadow_rip = s->rip;
    cpu->cr0 = s->cr0 | CR0_ET;
    cpu->cr2 = s->cr2;
    cpu->cr3 = s->cr3;
    cpu->cr4 = s->cr4;
    cpu->efer = s->efer;
    cpu->xcr0 = s->xcr0;
    set_segments(cpu, s);
    memcpy(cpu->dr, s->dr, sizeof cpu->dr);
    cpu->dr6 = (s->dr6 & (0xf | DR6_BD | DR6_BS | DR6_BT)) | DR6_FIXED;
    cpu->dr7 = (s->dr7 & 0xffff23ff) | DR7_FIXED;
    memcpy(cpu->pdpte, s->pdpte, sizeof cpu->pdpte);
    soft_xsave_set(cpu, s->xsave);
    cpu->shadow_sti = s->shadow_sti;
    cpu->shadow_ss = s->shadow_ss;
    cpu->nmi_blocked = s->nmi_blocked;
    cpu->run = s->run;
    cpu->delivering = false;
    cpu->ext = 0;
    cpu->tsc_offset = soft_clock_offset(cpu, s->tsc, s->tsc_adjust);
    soft_set_rflags(cpu, s->rflags & 0x3f7fd7);
    soft_apic_set(cpu, &s->lapic);
    set_pending(cpu, s);
    soft_tlb_flush(cpu, true);
    soft_mode_changed(cpu);
    pvclock_system_time(cpu, cpu->msr->kvm_system_time);
    return true;
}

static bool engine_offer(struct cpu_offer *offer, struct err *err)
{
    cpu_offer_soft(offer);
    return true;
}

const struct engine_ops soft_engine = {
    .name = "soft",
    .offer = engine_offer,
    .open = engine_open,
    .close = engine_close,
    .vcpu_open = engine_vcpu_open,
    .vcpu_close = engine_vcpu_close,
    .run = soft_run,
    .sleep = soft_sleep,
    .kick = engine_kick,
    .msi = soft_apic_msi,
    .intr = engine_intr,
    .nmi = engine_nmi,
    .dirty = soft_dirty,
    .get = engine_get,
    .set_tsc = soft_clock_set,
    .set = engine_set,
};
