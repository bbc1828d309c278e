/* SPDX-License-Identifier: MIT */
/* The local APIC of one vCPU. Owned by its thread, except what is _Atomic: other threads read those
 * to route a message and set bits of IRR and TMR. */
#ifndef HULL_SOFT_APIC_H
#define HULL_SOFT_APIC_H

#include "engine/soft/system.h"

enum apic_reg { /* offset in the page / 16; x2APIC MSR 0x800 + this */
                APIC_ID = 0x02,
                APIC_VERSION = 0x03,
                APIC_TPR = 0x08,
                APIC_APR = 0x09,
                APIC_PPR = 0x0a,
                APIC_EOI = 0x0b,
                APIC_LDR = 0x0d,
                APIC_DFR = 0x0e,
                APIC_SVR = 0x0f,
                APIC_ISR = 0x10,
                APIC_TMR = 0x18,
                APIC_IRR = 0x20,
                APIC_ESR = 0x28,
                APIC_ICR = 0x30,
                APIC_ICR_HIGH = 0x31,
                APIC_LVT = 0x32,
                APIC_LVT_LAST = 0x37,
                APIC_INITIAL = 0x38,
                APIC_CURRENT = 0x39,
                APIC_DIVIDE = 0x3e,
                APIC_SELF = 0x3f,
};

enum { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };
enum {
    LVT_MASKED = 0x10000,
    LVT_LEVEL = 0x8000,
    LVT_TIMER_MODE = 0x60000,
    LVT_PERIODIC = 0x20000,
    LVT_DEADLINE = 0x40000
};
enum {
    BASE_BSP = 0x100,
    BASE_X2 = 0x400,
    BASE_ENABLE = 0x800,
    SVR_ENABLE = 0x100,
    SVR_NO_BROADCAST = 0x1000
};
enum {
    DELIVER_FIXED,
    DELIVER_LOWEST,
    DELIVER_SMI,
    DELIVER_NMI = 4,
    DELIVER_INIT,
    DELIVER_SIPI,
    DELIVER_EXTINT
};
enum { ESR_SEND_VECTOR = 0x20, ESR_RECEIVE_VECTOR = 0x40, ESR_REGISTER = 0x80 };

struct soft_apic {
    struct soft_cpu *cpu;
    uint32_t id;
    _Atomic uint64_t base;
    _Atomic uint32_t ldr, dfr, svr, tpr;
    _Atomic uint32_t irr[8], tmr[8];
    _Atomic uint32_t errors; /* since ESR was last written */
    _Atomic uint32_t lint0;  /* LVT LINT0 */
    _Atomic bool pic_line;   /* the 8259 pair's output */
    _Atomic bool extint;     /* an ExtINT message came */
    _Atomic uint8_t sipi_vector;
    uint32_t isr[8], esr, lvt[LVT_COUNT]; /* lvt[LVT_LINT0] unused: see lint0 */
    uint32_t icr, icr_high;
    /* timer */
    uint32_t initial, divide;
    uint64_t tsc_deadline;
    uint64_t start_ns, due_ns;    /* due_ns 0: not armed */
    _Atomic uint64_t deadline_ns; /* what the clock knows; who takes it to 0 sets PEND_TIMER */
    uint64_t hz;                  /* of the timer's input, before division */
};

struct apic_message { /* from an ICR, an MSI or the IOAPIC */
    uint32_t dest;
    uint8_t vector, mode;
    bool logical, level, broadcast;
};

static inline bool apic_enabled(const struct soft_apic *a)
{
    return atomic_load_explicit(&a->base, memory_order_relaxed) & BASE_ENABLE;
}

static inline bool apic_x2(const struct soft_apic *a)
{
    return atomic_load_explicit(&a->base, memory_order_relaxed) & BASE_X2;
}

/* ---- apic.c ---- */
void apic_accept(struct soft_apic *a, uint8_t vector, bool level); /* any thread */
void apic_error(struct soft_apic *a, uint32_t bits);               /* any thread */
unsigned apic_ppr(struct soft_apic *a);
void apic_eoi(struct soft_apic *a);
void apic_set_tpr(struct soft_apic *a, unsigned tpr);
void apic_recheck(struct soft_apic *a); /* PEND_INTR if anything is requested */
uint32_t apic_lvt(const struct soft_apic *a, unsigned n);
void apic_clear(struct soft_apic *a); /* what power-on and INIT have in common */

/* ---- apic_route.c ---- */
void apic_send(struct vm *vm, const struct apic_message *m); /* any thread */
void apic_write_icr(struct soft_apic *a, uint32_t low, uint32_t dest);

/* ---- apic_timer.c ---- */
void apic_timer_set_initial(struct soft_apic *a, uint32_t count);
void apic_timer_set_divide(struct soft_apic *a, uint32_t value);
void apic_timer_set_lvt(struct soft_apic *a, uint32_t value);
void apic_timer_set_deadline(struct soft_apic *a, uint64_t tsc);
uint32_t apic_timer_current(const struct soft_apic *a);
uint64_t apic_timer_left_ns(const struct soft_apic *a);
void apic_timer_resume(struct soft_apic *a, uint64_t left_ns); /* after a restore; 0: not armed */
void apic_timer_stop(struct soft_apic *a);

/* ---- clock.c ---- */
/* The vCPU's next deadline (CLOCK_MONOTONIC; 0: none): PEND_TIMER comes then, also while it sleeps.
 */
void clock_arm(struct soft_cpu *cpu, uint64_t due_ns);

#endif
