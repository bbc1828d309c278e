/* SPDX-License-Identifier: MIT */
/* What a vCPU looks at between instructions: INIT, SIPI, traps, NMI, interrupts, instruction
 * breakpoints, in the order of Intel SDM 3, table 6-2. Other threads set bits of cpu->pending
 * (soft_pend).
 *
 * Shadows, single-step and instruction breakpoints need one instruction to run alone: soft_events
 * then leaves PEND_SHADOW set, the run loop runs one instruction and calls again. A shadow is bound
 * to the address of the instruction it covers, so nobody has to clear it in the common case that no
 * event waits; RF likewise. */
#include "engine/soft/det.h"
#include "engine/soft/system.h"
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

void soft_pend(struct soft_cpu *cpu, uint32_t bits)
{
    atomic_fetch_or(&cpu->pending, bits); /* then look whether it sleeps: pairs with soft_sleep */
    if (atomic_load(&cpu->sleeping))
        syscall(SYS_futex, &cpu->pending, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    if (cpu->det && !(bits & PEND_TURN))
        det_poke(cpu);
}

static void clear_pending(struct soft_cpu *cpu, uint32_t bits)
{
    atomic_fetch_and(&cpu->pending, ~bits);
}

/* INIT keeps the cache and the x87 and vector state, MTRRs and most MSRs; Intel SDM 3, table 10-1.
 */
void event_init(struct soft_cpu *cpu)
{
    bool boot_cpu = cpu->vcpu->id == 0;
    struct vcpu_state *s = cpu->msr;
    struct vcpu_state fresh;

    vcpu_state_reset(&fresh, boot_cpu, cpu->vcpu->id);
    memcpy(cpu->reg, fresh.reg, sizeof fresh.reg);
    memcpy(cpu->seg, fresh.seg, sizeof fresh.seg);
    cpu->ldt = fresh.ldt;
    cpu->tr = fresh.tr;
    cpu->gdt = fresh.gdt;
    cpu->idt = fresh.idt;
    cpu->cr0 = CR0_ET | (cpu->cr0 & (CR0_CD | CR0_NW));
    cpu->cr2 = cpu->cr3 = cpu->cr4 = 0;
    cpu->efer = 0;
    memset(cpu->dr, 0, sizeof cpu->dr);
    cpu->dr6 = fresh.dr6;
    cpu->dr7 = fresh.dr7;
    cpu->rip = cpu->next_rip = fresh.rip;
    soft_set_rflags(cpu, fresh.rflags);
    cpu->shadow_sti = cpu->shadow_ss = cpu->nmi_blocked = cpu->stepping = false;
    cpu->trap_dr6 = 0;
    s->nmi_pending = false;
    cpu->run = boot_cpu ? VCPU_RUNNABLE : VCPU_WAIT_SIPI;
    soft_tlb_flush(cpu, true);
    soft_mode_changed(cpu);
    soft_apic_init(cpu);
}

static void start_up(struct soft_cpu *cpu)
{
    uint16_t sel = (uint16_t)(soft_apic_sipi_vector(cpu) << 8);

    seg_real_code(&cpu->seg[SEG_CS], sel);
    cpu->rip = cpu->next_rip = 0;
    cpu->run = VCPU_RUNNABLE;
    soft_mode_changed(cpu);
}

/* True: there was an INIT. */
static bool take_init_sipi(struct soft_cpu *cpu, uint32_t pending)
{
    if (pending & PEND_INIT) {
        clear_pending(cpu, PEND_INIT | PEND_NMI);
        event_init(cpu);
    }
    if (pending & PEND_SIPI) {
        clear_pending(cpu, PEND_SIPI);
        if (cpu->run == VCPU_WAIT_SIPI)
            start_up(cpu);
    }
    return pending & PEND_INIT;
}

void soft_settle(struct soft_cpu *cpu)
{
    take_init_sipi(cpu, atomic_load(&cpu->pending));
}

static uint32_t code_breakpoints(const struct soft_cpu *cpu)
{
    uint64_t at = cpu->rip + (code64(cpu) ? 0 : cpu->seg[SEG_CS].base);
    uint32_t hits = 0;

    if (!long_mode(cpu))
        at = (uint32_t)at;
    for (unsigned i = 0; i < 4; i++)
        if ((cpu->dr7 >> (2 * i) & 3) && !(cpu->dr7 >> (16 + 4 * i) & 0xf) && cpu->dr[i] == at)
            hits |= 1u << i;
    return hits;
}

bool breakpoints_on_code(const struct soft_cpu *cpu)
{
    for (unsigned i = 0; i < 4; i++)
        if ((cpu->dr7 >> (2 * i) & 3) && !(cpu->dr7 >> (16 + 4 * i) & 3))
            return true;
    return false;
}

/* Debug registers record the latest hits in B0-B3 and only ever add to the other bits. */
static void record_dr6(struct soft_cpu *cpu, uint32_t bits)
{
    cpu->dr6 = (cpu->dr6 & ~0xfull) | bits;
}

/* The #DB traps of the instruction that just completed. False: triple fault. */
static bool deliver_traps(struct soft_cpu *cpu, bool shadow_ss, bool *done)
{
    if (cpu->stepping && !shadow_ss)
        cpu->trap_dr6 |= DR6_BS;
    cpu->stepping = false;
    if (!cpu->trap_dr6 || shadow_ss)
        return true;
    record_dr6(cpu, cpu->trap_dr6);
    cpu->trap_dr6 = 0;
    cpu->run = VCPU_RUNNABLE;
    *done = true;
    return soft_deliver(cpu, EVENT_TRAP, VEC_DB, NO_CODE);
}

static bool deliver_nmi(struct soft_cpu *cpu, bool *done)
{
    clear_pending(cpu, PEND_NMI);
    if (cpu->nmi_blocked) {
        cpu->msr->nmi_pending = true; /* IRET sets PEND_NMI again */
        return true;
    }
    cpu->nmi_blocked = true;
    cpu->run = VCPU_RUNNABLE;
    *done = true;
    return soft_deliver(cpu, EVENT_NMI, VEC_NMI, NO_CODE);
}

static bool deliver_interrupt(struct soft_cpu *cpu)
{
    int vector;

    clear_pending(cpu, PEND_INTR); /* before looking: who sets IRR sets it again */
    if (!(cpu->rflags & FL_IF)) {
        cpu->intr_waiting = soft_apic_pending(cpu) >= 0;
        return true;
    }
    vector = soft_apic_ack(cpu);
    if (vector < 0)
        return true;
    cpu->intr_waiting = true; /* perhaps more: looked at when IF is set again */
    cpu->run = VCPU_RUNNABLE;
    return soft_deliver(cpu, EVENT_EXTERNAL, (unsigned)vector, NO_CODE);
}

/* An exception that a snapshot, perhaps another engine's, held between two instructions. */
static void deliver_restored(struct soft_cpu *cpu)
{
    struct vcpu_state *m = cpu->msr;

    if (!m->exception_pending)
        return;
    m->exception_pending = false;
    soft_raise(cpu, m->exception_vector, m->exception_has_code ? m->exception_code : NO_CODE);
}

/* The same for an interrupt. False: triple fault. */
static bool deliver_acknowledged(struct soft_cpu *cpu)
{
    struct vcpu_state *m = cpu->msr;

    if (!m->interrupt_pending)
        return true;
    m->interrupt_pending = false;
    cpu->run = VCPU_RUNNABLE;
    return soft_deliver(cpu, EVENT_EXTERNAL, m->interrupt_vector, NO_CODE);
}

/* What makes the next instruction run alone. */
static void arm_step(struct soft_cpu *cpu)
{
    if (cpu->rflags & FL_TF) {
        cpu->stepping = true;
        atomic_fetch_or(&cpu->pending, PEND_TRAP | PEND_SHADOW);
    }
    if (breakpoints_on_code(cpu)) {
        uint32_t hits = soft_rflags(cpu) & FL_RF ? 0 : code_breakpoints(cpu);

        atomic_fetch_or(&cpu->pending, PEND_TRAP);
        if (hits) {
            atomic_fetch_and(&cpu->pending, ~(uint32_t)PEND_SHADOW);
            record_dr6(cpu, hits);
            soft_raise(cpu, VEC_DB, NO_CODE);
        }
        atomic_fetch_or(&cpu->pending, PEND_SHADOW);
    }
}

enum vcpu_exit soft_events(struct soft_cpu *cpu, bool *leave)
{
    uint32_t pending = atomic_load(&cpu->pending);
    bool shadow = (cpu->shadow_sti || cpu->shadow_ss) && cpu->rip == cpu->shadow_rip;
    bool shadow_ss = shadow && cpu->shadow_ss, done = false;

    *leave = false;
    if (pending & PEND_KICK) {
        clear_pending(cpu, PEND_KICK);
        *leave = true;
        return VCPU_KICKED;
    }
    if (cpu->det && (pending & (PEND_SYNC | PEND_TURN))) {
        clear_pending(cpu, PEND_TURN);
        if (!det_look(cpu)) {
            *leave = true;
            return VCPU_KICKED;
        }
        pending = atomic_load(&cpu->pending);
    }
    if (pending & PEND_SHADOW)
        return VCPU_KICKED; /* the instruction that shall run alone has not run yet */
    if (pending & PEND_TIMER) {
        clear_pending(cpu, PEND_TIMER);
        soft_apic_timer(cpu);
        pending |= atomic_load(&cpu->pending);
    }
    if (take_init_sipi(cpu, pending))
        shadow = shadow_ss = false;
    if (cpu->run == VCPU_WAIT_SIPI || cpu->run == VCPU_WAIT_INIT)
        return VCPU_HALT;
    cpu->shadow_sti = cpu->shadow_ss = false;
    clear_pending(cpu, PEND_TRAP);
    deliver_restored(cpu);
    if (!deliver_acknowledged(cpu))
        return VCPU_SHUTDOWN;
    if (!deliver_traps(cpu, shadow_ss, &done))
        return VCPU_SHUTDOWN;
    if ((pending & PEND_NMI) && !shadow && !done && !deliver_nmi(cpu, &done))
        return VCPU_SHUTDOWN;
    if ((pending & PEND_INTR) && !shadow && !done && !deliver_interrupt(cpu))
        return VCPU_SHUTDOWN;
    if (cpu->run == VCPU_HALTED)
        return VCPU_HALT;
    if (shadow)
        atomic_fetch_or(&cpu->pending, PEND_SHADOW | (cpu->trap_dr6 ? PEND_TRAP : 0));
    arm_step(cpu);
    return VCPU_KICKED;
}
