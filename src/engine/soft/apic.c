/* SPDX-License-Identifier: MIT */
/* The local APIC's heart: requests, priorities, acknowledgement, end of interrupt. Registers are in
 * apic_regs.c, messages between processors in apic_route.c, the timer in apic_timer.c.
 *
 *   apic_accept (any thread) -> IRR -> PEND_INTR -> soft_events -> soft_apic_ack -> ISR -> apic_eoi
 *
 * IRR is set before PEND_INTR; soft_events clears PEND_INTR before it reads IRR: nothing is lost.
 * Intel SDM 3, chapter 11. */
#include "engine/soft/apic.h"

static int highest(const uint32_t word[8])
{
    for (int i = 7; i >= 0; i--)
        if (word[i])
            return i * 32 + 31 - __builtin_clz(word[i]);
    return -1;
}

static int highest_request(struct soft_apic *a)
{
    uint32_t word[8];

    for (unsigned i = 0; i < 8; i++)
        word[i] = atomic_load_explicit(&a->irr[i], memory_order_relaxed);
    return highest(word);
}

void apic_accept(struct soft_apic *a, uint8_t vector, bool level)
{
    uint32_t bit = 1u << (vector & 31);

    if (!apic_enabled(a) || !(atomic_load_explicit(&a->svr, memory_order_relaxed) & SVR_ENABLE))
        return;
    if (vector < 16) {
        apic_error(a, ESR_RECEIVE_VECTOR);
        return;
    }
    if (level)
        atomic_fetch_or(&a->tmr[vector / 32], bit);
    else
        atomic_fetch_and(&a->tmr[vector / 32], ~bit);
    atomic_fetch_or(&a->irr[vector / 32], bit);
    soft_pend(a->cpu, PEND_INTR);
}

void apic_error(struct soft_apic *a, uint32_t bits)
{
    uint32_t lvt = a->lvt[LVT_ERROR];
    uint8_t vector = lvt & 0xff;

    atomic_fetch_or(&a->errors, bits);
    if (!(lvt & LVT_MASKED) && vector >= 16)
        apic_accept(a, vector, false);
}

unsigned apic_ppr(struct soft_apic *a)
{
    unsigned tpr = atomic_load_explicit(&a->tpr, memory_order_relaxed);
    int isr = highest(a->isr);

    return isr < 0 || (tpr >> 4) >= (unsigned)isr >> 4 ? tpr : (unsigned)isr & 0xf0;
}

void apic_recheck(struct soft_apic *a)
{
    if (highest_request(a) >= 0)
        atomic_fetch_or(&a->cpu->pending, PEND_INTR);
}

/* The 8259 pair reaches the processor through LINT0 as ExtINT, or directly while the APIC is off.
 */
static bool pic_waits(struct soft_apic *a)
{
    uint32_t lint0 = atomic_load_explicit(&a->lint0, memory_order_relaxed);

    if (atomic_load_explicit(&a->extint, memory_order_relaxed))
        return true;
    if (!atomic_load_explicit(&a->pic_line, memory_order_relaxed))
        return false;
    return !apic_enabled(a) || (!(lint0 & LVT_MASKED) && (lint0 >> 8 & 7) == DELIVER_EXTINT);
}

/* The highest request that the processor's priority lets through, or -1. */
static int allowed_request(struct soft_apic *a)
{
    int vector = apic_enabled(a) ? highest_request(a) : -1;

    return vector >= 0 && (unsigned)vector >> 4 > apic_ppr(a) >> 4 ? vector : -1;
}

int soft_apic_pending(struct soft_cpu *cpu)
{
    /* The PIC names its vector only when it is acknowledged. */
    return pic_waits(cpu->apic) ? 0 : allowed_request(cpu->apic);
}

int soft_apic_ack(struct soft_cpu *cpu)
{
    struct soft_apic *a = cpu->apic;
    int vector;

    if (pic_waits(a)) {
        atomic_store(&a->extint, false);
        vector = cpu->vm->events->pic_ack ? cpu->vm->events->pic_ack(cpu->vm) : -1;
        if (vector >= 0)
            return vector & 0xff; /* soft_events looks again for the APIC's */
    }
    vector = allowed_request(a);
    if (vector < 0)
        return -1;
    atomic_fetch_and(&a->irr[vector / 32], ~(1u << (vector & 31)));
    a->isr[vector / 32] |= 1u << (vector & 31);
    return vector;
}

void apic_eoi(struct soft_apic *a)
{
    int vector = highest(a->isr);
    uint32_t bit = 1u << (vector & 31);
    const struct vm_events *events = a->cpu->vm->events;

    if (vector < 0)
        return;
    a->isr[vector / 32] &= ~bit;
    if ((atomic_load(&a->tmr[vector / 32]) & bit) && events->eoi &&
        !(atomic_load(&a->svr) & SVR_NO_BROADCAST))
        events->eoi(a->cpu->vm, (uint8_t)vector);
    apic_recheck(a);
}

void apic_set_tpr(struct soft_apic *a, unsigned tpr)
{
    unsigned old = atomic_load_explicit(&a->tpr, memory_order_relaxed);

    atomic_store_explicit(&a->tpr, tpr & 0xff, memory_order_relaxed);
    if (tpr < old)
        apic_recheck(a);
}

uint64_t soft_apic_cr8(struct soft_cpu *cpu)
{
    return atomic_load_explicit(&cpu->apic->tpr, memory_order_relaxed) >> 4;
}

void soft_apic_set_cr8(struct soft_cpu *cpu, unsigned cr8)
{
    apic_set_tpr(cpu->apic, cr8 << 4);
}

uint8_t soft_apic_sipi_vector(struct soft_cpu *cpu)
{
    return atomic_load(&cpu->apic->sipi_vector);
}

/* The 8259 pair's output changed; any thread. */
void soft_apic_pic(struct soft_cpu *cpu, bool level)
{
    struct soft_apic *a = cpu->apic;
    uint32_t lint0 = atomic_load(&a->lint0);
    bool was = atomic_exchange(&a->pic_line, level);

    if (!level || was)
        return;
    if (apic_enabled(a) && !(lint0 & LVT_MASKED)) {
        if ((lint0 >> 8 & 7) == DELIVER_FIXED)
            apic_accept(a, lint0 & 0xff, lint0 & LVT_LEVEL);
        else if ((lint0 >> 8 & 7) == DELIVER_NMI)
            soft_pend(cpu, PEND_NMI);
    }
    soft_pend(cpu, PEND_INTR);
}

uint32_t apic_lvt(const struct soft_apic *a, unsigned n)
{
    return n == LVT_LINT0 ? atomic_load_explicit(&a->lint0, memory_order_relaxed) : a->lvt[n];
}

void apic_clear(struct soft_apic *a)
{
    for (unsigned i = 0; i < 8; i++) {
        atomic_store(&a->irr[i], 0);
        atomic_store(&a->tmr[i], 0);
        a->isr[i] = 0;
    }
    for (unsigned i = 0; i < LVT_COUNT; i++)
        a->lvt[i] = LVT_MASKED;
    /* Boards wire the PIC to the boot processor; kernels without firmware expect it to work. */
    atomic_store(&a->lint0, a->id == 0 ? DELIVER_EXTINT << 8 : LVT_MASKED);
    atomic_store(&a->svr, 0xff);
    atomic_store(&a->dfr, 0xffffffff);
    atomic_store(&a->ldr, apic_x2(a) ? (a->id >> 4) << 16 | 1u << (a->id & 15) : 0);
    atomic_store(&a->tpr, 0);
    atomic_store(&a->errors, 0);
    atomic_store(&a->extint, false);
    a->esr = a->icr = a->icr_high = a->initial = a->divide = 0;
    a->tsc_deadline = 0;
    apic_timer_stop(a);
}

void soft_apic_init(struct soft_cpu *cpu)
{
    apic_clear(cpu->apic);
}
