/* SPDX-License-Identifier: MIT */
/* Turns, virtual time and idle time of deterministic mode. See det.h.
 *
 * Only the holder changes what is in struct soft_det. Everyone waits on its own `pending` word:
 * PEND_TURN says that it holds the turn, PEND_KICK that it must go back to its thread's loop; what
 * it waited for is looked at again when it comes back. */
#include "engine/soft/det.h"
#include "engine/soft/apic.h"
#include "engine/soft/block.h"
#include <errno.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SLICE_NS  100000u                /* a turn, where several vCPUs want one */
#define EPOCH_NS  1735689600000000000ull /* the wall clock at power-on: 2025 begins */
#define WAKE_BITS (PEND_INTR | PEND_NMI | PEND_INIT | PEND_SIPI | PEND_TIMER)

struct soft_det {
    struct vm *vm;
    _Atomic(struct soft_cpu *) holder;
    uint64_t base;      /* virtual time, less the holder's instructions */
    uint64_t slice_end; /* virtual time */
    bool halted[VCPUS_MAX];
    FILE *log; /* HULL_STATE_LOG: hashes of the vCPU's state */
    uint64_t log_every, log_next, log_from;
};

static _Atomic uint64_t virtual_ns; /* as devices see it: one deterministic machine a process */

uint64_t soft_virtual_ns(void)
{
    return atomic_load(&virtual_ns);
}

uint64_t soft_virtual_wall_ns(void)
{
    return EPOCH_NS + atomic_load(&virtual_ns);
}

/* HULL_STATE_LOG=FILE,EVERY[,FROM]: for comparing runs: doc/deterministic.md. */
static void open_log(struct soft_det *d)
{
    const char *text = getenv("HULL_STATE_LOG"), *comma = text ? strchr(text, ',') : NULL;
    char path[4096], *end;

    if (comma == NULL || (size_t)(comma - text) >= sizeof path)
        return;
    memcpy(path, text, (size_t)(comma - text));
    path[comma - text] = 0;
    d->log_every = strtoull(comma + 1, &end, 10);
    d->log_from = *end == ',' ? strtoull(end + 1, NULL, 10) : 0;
    d->log_next = d->log_from > 0 ? d->log_from : d->log_every;
    d->log = d->log_every > 0 ? fopen(path, "we") : NULL;
}

bool det_open(struct soft_cpu *cpu, struct err *err)
{
    struct soft_det *d;

    if (cpu->vcpu->id > 0) {
        cpu->det = ((struct soft_cpu *)cpu->vm->cpu[0]->priv)->det;
    } else {
        d = calloc(1, sizeof *d);
        if (d == NULL)
            return err_set(err, ENOMEM, "no memory for the turns of vCPUs");
        d->vm = cpu->vm;
        atomic_store(&virtual_ns, 0);
        open_log(d);
        atomic_store(&d->holder, cpu);
        cpu->det = d;
    }
    return true;
}

void det_close(struct soft_det *d)
{
    if (d && d->log)
        fclose(d->log);
    free(d);
}

/* ---- time ---- */

static bool holds(const struct soft_cpu *cpu)
{
    return atomic_load(&cpu->det->holder) == cpu;
}

uint64_t det_now(const struct soft_cpu *cpu)
{
    if (!holds(cpu))
        return atomic_load(&virtual_ns);
    return cpu->det->base + cpu->instructions - soft_behind(cpu);
}

static uint64_t publish(struct soft_cpu *cpu)
{
    uint64_t now = det_now(cpu);

    atomic_store(&virtual_ns, now);
    return now;
}

void det_touched(struct soft_cpu *cpu)
{
    publish(cpu);
    atomic_fetch_or(&cpu->pending, PEND_SYNC);
}

void det_rearm(struct soft_cpu *cpu)
{
    struct soft_cpu *holder = atomic_load(&cpu->det->holder);

    if (holder)
        atomic_fetch_or(&holder->pending, PEND_SYNC);
}

static struct soft_cpu *cpu_at(const struct soft_det *d, unsigned i)
{
    return d->vm->cpu[i] ? d->vm->cpu[i]->priv : NULL;
}

static uint64_t next_device_timer(const struct soft_det *d)
{
    const struct vm_events *e = d->vm->events;

    return e && e->next_timer ? e->next_timer(d->vm) : UINT64_MAX;
}

static uint64_t earliest(const struct soft_det *d)
{
    uint64_t next = next_device_timer(d);

    for (unsigned i = 0; i < d->vm->cpu_count; i++) {
        struct soft_cpu *cpu = cpu_at(d, i);
        uint64_t due = cpu && cpu->apic ? atomic_load(&cpu->apic->deadline_ns) : 0;

        if (due && due < next)
            next = due;
    }
    return next;
}

/* True: the loop has to fire timers of devices first. */
static bool fire(struct soft_det *d, uint64_t now)
{
    for (unsigned i = 0; i < d->vm->cpu_count; i++) {
        struct soft_cpu *cpu = cpu_at(d, i);
        uint64_t due = cpu ? atomic_load(&cpu->apic->deadline_ns) : 0;

        if (due && due <= now) {
            atomic_store(&cpu->apic->deadline_ns, 0);
            soft_pend(cpu, PEND_TIMER);
        }
    }
    if (next_device_timer(d) > now)
        return false;
    d->vm->events->run_timers(d->vm);
    return true;
}

/* ---- waiting ---- */

/* Until one of the bits is pending. */
static uint32_t wait_for(struct soft_cpu *cpu, uint32_t bits)
{
    uint32_t pending;

    atomic_store(&cpu->sleeping, 1);
    while (!((pending = atomic_load(&cpu->pending)) & bits)) {
        if (pending & PEND_REQUEST) {
            soft_serve(cpu);
            continue;
        }
        syscall(SYS_futex, &cpu->pending, FUTEX_WAIT_PRIVATE, pending, NULL, NULL, 0);
    }
    atomic_store(&cpu->sleeping, 0);
    return pending;
}

/* True: devices and the loop have done what they were asked. False: the vCPU was kicked, by the
 * loop when it has, or by someone else; ask again. */
static bool quiet(struct soft_cpu *cpu)
{
    const struct vm_events *e = cpu->vm->events;

    if (!e || !e->quiet || e->quiet(cpu->vm))
        return true;
    e->settle(cpu->vm, cpu->vcpu);
    wait_for(cpu, PEND_KICK);
    return false;
}

/* ---- turns ---- */

/* Something that ends its sleep. */
static bool wakes(const struct soft_cpu *cpu)
{
    bool parked = cpu->run == VCPU_WAIT_SIPI || cpu->run == VCPU_WAIT_INIT;

    return atomic_load(&cpu->pending) & (parked ? PEND_INIT | PEND_SIPI : WAKE_BITS);
}

static bool wants(const struct soft_det *d, unsigned i)
{
    const struct soft_cpu *cpu = cpu_at(d, i);

    return cpu && !cpu->vcpu->stopped && (!d->halted[i] || wakes(cpu));
}

static struct soft_cpu *next_after(const struct soft_det *d, unsigned id)
{
    for (unsigned k = 1; k < d->vm->cpu_count; k++) {
        unsigned i = (id + k) % d->vm->cpu_count;

        if (wants(d, i))
            return cpu_at(d, i);
    }
    return NULL;
}

static void hand_over(struct soft_cpu *cpu, struct soft_cpu *to)
{
    struct soft_det *d = cpu->det;
    uint64_t now = publish(cpu);

    d->base = now - to->instructions;
    d->slice_end = now + SLICE_NS;
    atomic_store(&d->holder, to);
    soft_pend(to, PEND_TURN | PEND_SYNC);
}

bool det_enter(struct soft_cpu *cpu)
{
    while (!holds(cpu)) {
        if (wait_for(cpu, PEND_KICK | PEND_TURN) & PEND_KICK) {
            atomic_fetch_and(&cpu->pending, ~(uint32_t)PEND_KICK);
            return false;
        }
        atomic_fetch_and(&cpu->pending, ~(uint32_t)PEND_TURN);
    }
    return true;
}

void det_poke(struct soft_cpu *cpu)
{
    struct soft_cpu *holder = atomic_load(&cpu->det->holder);

    if (holder && holder != cpu && atomic_load(&holder->sleeping))
        soft_pend(holder, PEND_TURN);
}

/* ---- the state log ---- */

static uint64_t hash(uint64_t h, const void *data, size_t len)
{
    const uint8_t *p = data;

    for (size_t i = 0; i < len; i++)
        h = (h ^ p[i]) * 0x100000001b3ull;
    return h;
}

static void log_state(struct soft_cpu *cpu)
{
    struct soft_det *d = cpu->det;
    uint8_t image[sizeof cpu->xsave];
    uint64_t flags = soft_rflags(cpu), h;

    soft_fpu_save(cpu);
    soft_xsave_get(cpu, image);
    memset(image + 6, 0, 18); /* FOP, FIP, FDP */
    h = hash(0xcbf29ce484222325ull, cpu->reg, sizeof cpu->reg);
    h = hash(h, &flags, sizeof flags);
    h = hash(h, &cpu->cr3, sizeof cpu->cr3);
    h = hash(h, image, sizeof image);
    fprintf(d->log, "%u %llu %llu %016llx %016llx", cpu->vcpu->id,
            (unsigned long long)cpu->instructions, (unsigned long long)det_now(cpu),
            (unsigned long long)cpu->rip, (unsigned long long)h);
    if (d->log_every < 1000) { /* someone looks for the first difference */
        for (unsigned i = 0; i < 16; i++)
            fprintf(d->log, " %llx", (unsigned long long)cpu->reg[i]);
        fprintf(d->log, " %llx %llx", (unsigned long long)flags, (unsigned long long)cpu->cr3);
    }
    fputc('\n', d->log);
    d->log_next = (det_now(cpu) / d->log_every + 1) * d->log_every;
}

/* ---- what the engine calls ---- */

bool det_look(struct soft_cpu *cpu)
{
    struct soft_det *d = cpu->det;
    uint64_t now = publish(cpu), next;
    struct soft_cpu *other;

    if (!quiet(cpu))
        return false;
    if (fire(d, now))
        return false; /* comes back at once, and then waits until it was done */
    if (d->log && now >= d->log_next)
        log_state(cpu);
    if (d->vm->cpu_count > 1 && now >= d->slice_end) {
        other = next_after(d, cpu->vcpu->id);
        if (other) {
            hand_over(cpu, other);
            return false;
        }
        d->slice_end = now + SLICE_NS;
    }
    next = earliest(d);
    if (d->vm->cpu_count > 1 && d->slice_end < next)
        next = d->slice_end;
    if (d->log && d->log_next < next)
        next = d->log_next;
    atomic_fetch_and(&cpu->pending, ~(uint32_t)PEND_SYNC);
    cpu->limit = next > now ? cpu->instructions + min_u64(next - now, BIT(62)) : cpu->instructions;
    return true;
}

/* All vCPUs sleep: on to the next timer. False: kicked, or to be asked again. */
static bool idle(struct soft_cpu *cpu)
{
    struct soft_det *d = cpu->det;
    uint64_t now = publish(cpu), next;

    if (!quiet(cpu))
        return false;
    next = earliest(d);
    if (next == UINT64_MAX) {
        wait_for(cpu, WAKE_BITS | PEND_KICK | PEND_TURN); /* for someone outside */
        atomic_fetch_and(&cpu->pending, ~(uint32_t)PEND_TURN);
        return true;
    }
    if (next > now)
        d->base += next - now;
    fire(d, publish(cpu));
    return true;
}

void det_sleep(struct soft_cpu *cpu)
{
    struct soft_det *d = cpu->det;

    d->halted[cpu->vcpu->id] = true;
    for (;;) {
        struct soft_cpu *other;

        if (atomic_load(&cpu->pending) & PEND_KICK)
            return;
        if (!holds(cpu)) {
            wait_for(cpu, PEND_KICK | PEND_TURN);
            atomic_fetch_and(&cpu->pending, ~(uint32_t)PEND_TURN);
            continue;
        }
        if (wakes(cpu)) {
            atomic_fetch_or(&cpu->pending, PEND_SYNC);
            d->halted[cpu->vcpu->id] = false;
            return;
        }
        other = next_after(d, cpu->vcpu->id);
        if (other)
            hand_over(cpu, other);
        else if (!idle(cpu))
            return;
    }
}
