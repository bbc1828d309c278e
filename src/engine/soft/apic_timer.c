/* SPDX-License-Identifier: MIT */
/* The local APIC's timer: one-shot, periodic, TSC-deadline. Time is the host's CLOCK_MONOTONIC; the
 * clock (clock.c) sets PEND_TIMER at due_ns and soft_apic_timer then decides what really is due, so
 * a late or spurious PEND_TIMER does no harm. Intel SDM 3, 11.5.4. */
#include "base/clock.h"
#include "engine/soft/apic.h"

#define PERIOD_MIN_NS 20000 /* a guest that asks for more gets one interrupt per 20 us */

static unsigned divisor(const struct soft_apic *a)
{
    unsigned d = ((a->divide & 3) | (a->divide >> 1 & 4)) + 1;

    return 1u << (d & 7);
}

static uint64_t period_ns(const struct soft_apic *a)
{
    return mul_div((uint64_t)a->initial * divisor(a), 1000000000, a->hz);
}

static void arm(struct soft_apic *a, uint64_t due_ns)
{
    a->due_ns = due_ns;
    clock_arm(a->cpu, due_ns);
}

void apic_timer_stop(struct soft_apic *a)
{
    arm(a, 0);
}

static void arm_deadline(struct soft_apic *a)
{
    uint64_t now = soft_now_ns(a->cpu), tsc = soft_tsc(a->cpu), ahead;

    if (!a->tsc_deadline) {
        apic_timer_stop(a);
        return;
    }
    ahead = a->tsc_deadline > tsc ? a->tsc_deadline - tsc : 0;
    if (ahead > BIT(62))
        ahead = BIT(62);
    arm(a, now + mul_div(ahead, 1000000000, soft_tsc_hz(a->cpu)) + 1);
}

void soft_apic_tsc_moved(struct soft_cpu *cpu)
{
    if (cpu->apic->tsc_deadline)
        arm_deadline(cpu->apic);
}

static void arm_count(struct soft_apic *a)
{
    uint64_t period = period_ns(a);

    a->start_ns = soft_now_ns(a->cpu);
    arm(a, a->initial ? a->start_ns + (period ? period : 1) : 0);
}

static unsigned mode(const struct soft_apic *a)
{
    return a->lvt[LVT_TIMER] & LVT_TIMER_MODE;
}

void apic_timer_set_initial(struct soft_apic *a, uint32_t count)
{
    if (mode(a) == LVT_DEADLINE)
        return;
    a->initial = count;
    arm_count(a);
}

void apic_timer_set_divide(struct soft_apic *a, uint32_t value)
{
    uint32_t left = apic_timer_current(a);

    a->divide = value & 0xb;
    if (!a->due_ns || mode(a) == LVT_DEADLINE || !left)
        return;
    a->start_ns = soft_now_ns(a->cpu) -
                  mul_div((uint64_t)(a->initial - left) * divisor(a), 1000000000, a->hz);
    arm(a, a->start_ns + period_ns(a));
}

void apic_timer_set_lvt(struct soft_apic *a, uint32_t value)
{
    bool other = ((a->lvt[LVT_TIMER] ^ value) & LVT_DEADLINE) != 0;

    a->lvt[LVT_TIMER] = value;
    if (!other)
        return;
    a->initial = 0; /* changing to or from TSC-deadline disarms */
    a->tsc_deadline = 0;
    apic_timer_stop(a);
}

void apic_timer_set_deadline(struct soft_apic *a, uint64_t tsc)
{
    if (mode(a) != LVT_DEADLINE)
        return;
    a->tsc_deadline = tsc;
    arm_deadline(a);
}

uint32_t apic_timer_current(const struct soft_apic *a)
{
    uint64_t now, left;

    if (!a->due_ns || mode(a) == LVT_DEADLINE)
        return 0;
    now = soft_now_ns(a->cpu);
    left = a->due_ns > now ? a->due_ns - now : 0;
    left = mul_div(left, a->hz, 1000000000) / divisor(a);
    return (uint32_t)min_u64(left, a->initial);
}

uint64_t apic_timer_left_ns(const struct soft_apic *a)
{
    uint64_t now = soft_now_ns(a->cpu);

    if (!a->due_ns)
        return 0;
    return a->due_ns > now ? a->due_ns - now : 1;
}

void apic_timer_resume(struct soft_apic *a, uint64_t left_ns)
{
    uint64_t now = soft_now_ns(a->cpu);

    if (mode(a) == LVT_DEADLINE) {
        arm_deadline(a);
        return;
    }
    left_ns = min_u64(left_ns, period_ns(a));
    a->start_ns = now + left_ns - period_ns(a);
    arm(a, left_ns ? now + left_ns : 0);
}

static void rearm_periodic(struct soft_apic *a, uint64_t now)
{
    uint64_t period = max_u64(period_ns(a), PERIOD_MIN_NS);

    a->start_ns = a->due_ns;
    if (now - a->start_ns >= period) /* late: the missed ones are lost, the phase is kept */
        a->start_ns += (now - a->start_ns) / period * period;
    arm(a, a->start_ns + period);
}

void soft_apic_timer(struct soft_cpu *cpu)
{
    struct soft_apic *a = cpu->apic;
    uint64_t now = soft_now_ns(a->cpu);

    if (!a->due_ns)
        return;
    if (now < a->due_ns) {
        clock_arm(cpu, a->due_ns);
        return;
    }
    if (mode(a) == LVT_DEADLINE) {
        if (soft_tsc(cpu) < a->tsc_deadline) {
            arm_deadline(a);
            return;
        }
        a->tsc_deadline = 0;
    }
    if (mode(a) == LVT_PERIODIC)
        rearm_periodic(a, now);
    else
        a->due_ns = 0;
    if (!(a->lvt[LVT_TIMER] & LVT_MASKED))
        apic_accept(a, a->lvt[LVT_TIMER] & 0xff, false);
}
