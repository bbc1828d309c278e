/* SPDX-License-Identifier: MIT */
/* Time: the guest's TSC, and who wakes a vCPU when its APIC timer is due.
 *
 * A vCPU that runs is interrupted by the machine's clock thread, which sleeps until the earliest
 * deadline it has seen. Deadlines that move later do not disturb it: it wakes once in vain. A vCPU
 * that sleeps in HLT waits with its own deadline as the futex's timeout, and the thread leaves it
 * alone.
 *
 * Races: clock_arm stores the deadline, then reads wake_at; the thread stores wake_at, then reads
 * the deadlines again. soft_sleep sets `sleeping`, then reads pending; soft_pend sets pending, then
 * reads `sleeping`. All sequentially consistent, so one of each pair sees the other. */
#include "base/clock.h"
#include "engine/soft/apic.h"
#include "engine/soft/det.h"
#include <stdlib.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

struct soft_clock {
    pthread_mutex_t lock; /* guards cpu[]: vCPUs come and go while the thread looks */
    struct soft_cpu *cpu[VCPUS_MAX];
    pthread_t thread;
    bool threaded;
    _Atomic bool stop;
    _Atomic uint32_t sequence; /* the thread's futex */
    _Atomic uint64_t wake_at;  /* when the thread will look by itself */
    uint64_t tsc_offset;       /* of every vCPU at power-on */
};

/* ---- TSC ---- */
uint64_t soft_tsc_hz(const struct soft_cpu *cpu)
{
    return cpu->det ? 1000000000 : host_tsc_khz() * 1000ull;
}

static uint64_t raw_tsc(const struct soft_cpu *cpu)
{
    return cpu->det ? det_now(cpu) : __rdtsc();
}

uint64_t soft_tsc(const struct soft_cpu *cpu)
{
    return raw_tsc(cpu) + cpu->tsc_offset;
}

uint64_t soft_now_ns(const struct soft_cpu *cpu)
{
    return cpu->det ? det_now(cpu) : now_ns();
}

/* ---- futexes ---- */
static void wait_until(_Atomic uint32_t *word, uint32_t value, uint64_t at_ns)
{
    struct timespec t = {.tv_sec = (time_t)(at_ns / 1000000000),
                         .tv_nsec = (long)(at_ns % 1000000000)};

    syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, value, at_ns == UINT64_MAX ? NULL : &t,
            NULL, FUTEX_BITSET_MATCH_ANY);
}

static void wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* True: the deadline was reached, and this caller is the one to say so. */
static bool take_due(struct soft_apic *a, uint64_t now, uint64_t *next)
{
    uint64_t due = atomic_load(&a->deadline_ns);

    if (due && due <= now)
        return atomic_compare_exchange_strong(&a->deadline_ns, &due, 0);
    if (due && due < *next)
        *next = due;
    return false;
}

/* ---- the clock thread ---- */
static uint64_t scan(struct soft_clock *clock)
{
    uint64_t next = UINT64_MAX, now = now_ns();

    pthread_mutex_lock(&clock->lock);
    for (unsigned i = 0; i < VCPUS_MAX; i++) {
        struct soft_cpu *cpu = clock->cpu[i];

        if (cpu && !atomic_load(&cpu->sleeping) && take_due(cpu->apic, now, &next))
            soft_pend(cpu, PEND_TIMER);
    }
    pthread_mutex_unlock(&clock->lock);
    return next;
}

void soft_clock_watch(struct soft_cpu *cpu, bool on)
{
    struct soft_clock *clock = cpu->clock;

    pthread_mutex_lock(&clock->lock);
    clock->cpu[cpu->vcpu->id] = on ? cpu : NULL;
    pthread_mutex_unlock(&clock->lock);
}

static void *clock_main(void *arg)
{
    struct soft_clock *clock = arg;

    prctl(PR_SET_NAME, "clock");
    prctl(PR_SET_TIMERSLACK, 1);
    while (!atomic_load(&clock->stop)) {
        uint32_t sequence = atomic_load(&clock->sequence);
        uint64_t next = scan(clock);

        atomic_store(&clock->wake_at, next);
        if (scan(clock) == next)
            wait_until(&clock->sequence, sequence, next);
        atomic_store(&clock->wake_at, 0); /* awake: arming needs no call */
    }
    return NULL;
}

static void notify(struct soft_clock *clock, uint64_t due)
{
    if (due && due < atomic_load(&clock->wake_at)) {
        atomic_fetch_add(&clock->sequence, 1);
        wake(&clock->sequence);
    }
}

void clock_arm(struct soft_cpu *cpu, uint64_t due_ns)
{
    atomic_store(&cpu->apic->deadline_ns, due_ns);
    if (cpu->det)
        det_rearm(cpu);
    else
        notify(cpu->clock, due_ns);
}

static int start_thread(struct soft_clock *clock)
{
    sigset_t all, old;
    int e;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    e = pthread_create(&clock->thread, NULL, clock_main, clock);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    clock->threaded = !e;
    return e;
}

struct soft_clock *soft_clock_open(bool thread, bool virtual_time, struct err *err)
{
    struct soft_clock *clock = calloc(1, sizeof *clock);
    int e;

    if (!clock) {
        err_set(err, ENOMEM, "no memory for the clock");
        return NULL;
    }
    pthread_mutex_init(&clock->lock, NULL);
    clock->tsc_offset = virtual_time ? 0 : -__rdtsc();
    e = thread ? start_thread(clock) : 0;
    if (e) {
        pthread_mutex_destroy(&clock->lock);
        free(clock);
        err_set(err, e, "cannot start the clock thread: %s", strerror(e));
        return NULL;
    }
    return clock;
}

void soft_clock_close(struct soft_clock *clock)
{
    if (!clock)
        return;
    atomic_store(&clock->stop, true);
    atomic_fetch_add(&clock->sequence, 1);
    wake(&clock->sequence);
    if (clock->threaded)
        pthread_join(clock->thread, NULL);
    pthread_mutex_destroy(&clock->lock);
    free(clock);
}

/* The offset with which this vCPU's TSC reads `tsc` now. vCPUs that are set within a second of
 * where the machine's clock is mean the same clock, and share it exactly. */
uint64_t soft_clock_offset(struct soft_cpu *cpu, uint64_t tsc, uint64_t adjust)
{
    uint64_t offset = tsc - adjust - raw_tsc(cpu), apart = offset - cpu->clock->tsc_offset,
             second = soft_tsc_hz(cpu);

    if (apart + second <= 2 * second)
        offset = cpu->clock->tsc_offset;
    else if (cpu->vcpu->id == 0)
        cpu->clock->tsc_offset = offset;
    return offset + adjust;
}

void soft_clock_set(struct vm *vm, uint64_t tsc)
{
    struct soft_cpu *first = vm->cpu[0]->priv;

    first->clock->tsc_offset = tsc - raw_tsc(first);
}

/* ---- sleeping vCPUs ---- */
#define PARKED_BITS (PEND_KICK | PEND_INIT | PEND_SIPI | PEND_TIMER | PEND_REQUEST)
#define WAKE_BITS   (PARKED_BITS | PEND_INTR | PEND_NMI)

void soft_sleep(struct vcpu *vcpu)
{
    struct soft_cpu *cpu = vcpu->priv;
    /* One that waits for SIPI takes no interrupts: those that wait must not keep it awake. */
    bool parked = cpu->run == VCPU_WAIT_SIPI || cpu->run == VCPU_WAIT_INIT;
    uint32_t pending, wake = parked ? PARKED_BITS : WAKE_BITS;

    if (cpu->det) {
        det_sleep(cpu);
        return;
    }
    atomic_store(&cpu->sleeping, 1);
    while (!((pending = atomic_load(&cpu->pending)) & wake)) {
        uint64_t next = UINT64_MAX;

        if (take_due(cpu->apic, now_ns(), &next))
            atomic_fetch_or(&cpu->pending, PEND_TIMER);
        else
            wait_until(&cpu->pending, pending, next);
    }
    atomic_store(&cpu->sleeping, 0);
    notify(cpu->clock, atomic_load(&cpu->apic->deadline_ns));
}
