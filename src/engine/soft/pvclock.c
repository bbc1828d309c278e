/* SPDX-License-Identifier: MIT */
/* kvmclock: pages in guest memory that tell how to turn the TSC into nanoseconds since power-on,
 * and the wall clock at power-on. The layout is KVM's ABI (Linux
 * Documentation/virt/kvm/x86/msr.rst). The TSC never changes its rate or offset here, so one write
 * when the guest asks is enough, and the page says that the time is stable across vCPUs. */
#include "base/clock.h"
#include "engine/soft/det.h"
#include "engine/soft/system.h"

struct pvclock_page { /* 32 bytes, no padding */
    uint32_t version; /* odd while being written */
    uint32_t pad;
    uint64_t tsc_timestamp;
    uint64_t system_time;
    uint32_t tsc_to_system_mul;
    int8_t tsc_shift;
    uint8_t flags; /* 1: stable across vCPUs */
    uint8_t pad2[2];
};

struct pvclock_wall {
    uint32_t version, sec, nsec;
};

/* ns = (ticks << shift, or >> -shift) * mul >> 32, with mul as large as it can be. */
static void scale(uint64_t hz, uint32_t *mul, int8_t *shift)
{
    uint64_t base = hz, ns = 1000000000;

    *shift = 0;
    while (base > ns * 2) {
        base >>= 1;
        (*shift)--;
    }
    while (base <= ns) {
        base <<= 1;
        (*shift)++;
    }
    *mul = (uint32_t)mul_div(ns, BIT(32), base);
}

static uint32_t next_version(struct soft_cpu *cpu, uint64_t at)
{
    uint32_t version = 0;

    mem_read(cpu->vm->mem, at, &version, sizeof version);
    return (version | 1) + 1;
}

/* Odd version first, then the fields, then the even version: readers retry in between. */
static void publish(struct soft_cpu *cpu, uint64_t at, void *page, size_t len)
{
    uint32_t version = next_version(cpu, at), odd = version + 1, even = version + 2;

    if (mem_write(cpu->vm->mem, at, &odd, sizeof odd))
        return; /* not RAM: the guest's mistake */
    atomic_thread_fence(memory_order_seq_cst);
    mem_write(cpu->vm->mem, at + 4, (uint8_t *)page + 4, len - 4);
    atomic_thread_fence(memory_order_seq_cst);
    mem_write(cpu->vm->mem, at, &even, sizeof even);
}

void pvclock_system_time(struct soft_cpu *cpu, uint64_t msr)
{
    struct pvclock_page page = {.flags = 1, .tsc_timestamp = cpu->msr->tsc_adjust};

    if (!(msr & 1))
        return;
    /* Power-on is TSC 0 plus what the guest added, so all vCPUs' pages agree. */
    scale(soft_tsc_hz(cpu), &page.tsc_to_system_mul, &page.tsc_shift);
    publish(cpu, msr & ~1ull, &page, sizeof page);
}

void pvclock_wall_clock(struct soft_cpu *cpu, uint64_t msr)
{
    struct pvclock_wall wall = {0};
    struct timespec now;
    uint64_t ns;

    clock_gettime(CLOCK_REALTIME, &now);
    ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
    if (cpu->det)
        ns = soft_virtual_wall_ns();
    ns -= mul_div(soft_tsc(cpu) - cpu->msr->tsc_adjust, 1000000000, soft_tsc_hz(cpu));
    wall.sec = (uint32_t)(ns / 1000000000);
    wall.nsec = (uint32_t)(ns % 1000000000);
    publish(cpu, msr & ~3ull, &wall, sizeof wall);
}
