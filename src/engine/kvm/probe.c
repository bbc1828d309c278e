/* SPDX-License-Identifier: MIT */
/* Measures what KVM is worth: a /dev/kvm that opens may still run ring 0 in software. A throw-away
 * vCPU runs a counting loop in real mode up to HLT, which exits because it has no LAPIC. A run with
 * one turn costs an exit and little else, so the difference to a long one is the guest's speed. */
#include "engine/kvm/probe.h"
#include "base/clock.h"
#include "engine/kvm/kvm.h"
#include <errno.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    CODE_AT = 0x1000,
    TURNS = 3000, /* two instructions each: 3.5 ms at the 1.7 MIPS of a KVM in software */
    TRIES = 4,
    SLOW_NS =
        1000000, /* a long run beyond this is no hardware's, twice: the host was not just busy */
};

struct probe {
    int sys, vm, cpu;
    size_t run_size;
    struct kvm_run *run;
    uint8_t *memory;
};

/* dec cx; jnz -3; hlt */
static const uint8_t code[] = {0x49, 0x75, 0xfd, 0xf4};

static bool probe_memory(struct probe *p)
{
    struct kvm_userspace_memory_region m = {.memory_size = 2 * PAGE_SIZE};

    p->memory =
        mmap(NULL, m.memory_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p->memory == MAP_FAILED)
        return false;
    memcpy(p->memory + CODE_AT, code, sizeof code);
    m.userspace_addr = (uintptr_t)p->memory;
    return ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &m) == 0;
}

static bool open_machine(struct probe *p, struct err *err)
{
    p->sys = kvm_open_device(err);
    if (p->sys < 0 || !kvm_check_capabilities(p->sys, err))
        return false;
    do
        p->vm = ioctl(p->sys, KVM_CREATE_VM, 0);
    while (p->vm < 0 && errno == EINTR);
    if (p->vm < 0 && errno == EBUSY)
        return err_set(err, EBUSY,
                       "another hypervisor holds the processor's virtualization: end it");
    return p->vm >= 0 || err_set(err, errno, "/dev/kvm creates no machine: %s", strerror(errno));
}

static bool probe_open(struct probe *p, struct err *err)
{
    int size;

    if (!open_machine(p, err))
        return false;
    size = ioctl(p->sys, KVM_GET_VCPU_MMAP_SIZE, 0);
    /* KVM's own pages on some Intel CPUs; harmless elsewhere */
    if (size > 0 && !ioctl(p->vm, KVM_SET_TSS_ADDR, 0xfeffd000ul) && probe_memory(p))
        p->cpu = ioctl(p->vm, KVM_CREATE_VCPU, 0ul);
    if (p->cpu >= 0) {
        p->run_size = (size_t)size;
        p->run = mmap(NULL, p->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, p->cpu, 0);
    }
    return (p->cpu >= 0 && p->run != MAP_FAILED) ||
           err_set(err, errno, "/dev/kvm creates no vCPU: %s", strerror(errno));
}

static void probe_close(struct probe *p)
{
    if (p->run != MAP_FAILED)
        munmap(p->run, p->run_size);
    if (p->memory != MAP_FAILED)
        munmap(p->memory, 2 * PAGE_SIZE);
    for (int *fd = (int[]){p->cpu, p->vm, p->sys, -2}; *fd != -2; fd++)
        if (*fd >= 0)
            close(*fd);
}

/* One run of `turns`; its nanoseconds, 0 if it did not end in HLT. */
static uint64_t probe_run(struct probe *p, unsigned turns)
{
    const struct kvm_regs regs = {.rip = CODE_AT, .rcx = turns, .rflags = 2};
    struct kvm_sregs sregs;
    uint64_t begin;
    int result;

    if (ioctl(p->cpu, KVM_GET_SREGS, &sregs))
        return 0;
    sregs.cs.base = sregs.cs.selector = 0;
    if (ioctl(p->cpu, KVM_SET_SREGS, &sregs) || ioctl(p->cpu, KVM_SET_REGS, &regs))
        return 0;
    begin = now_ns();
    do
        result = ioctl(p->cpu, KVM_RUN, 0);
    while (result < 0 && errno == EINTR);
    return result || p->run->exit_reason != KVM_EXIT_HLT ? 0 : now_ns() - begin + 1;
}

static bool measure(struct probe *p, struct kvm_speed *speed)
{
    uint64_t empty = UINT64_MAX, full = UINT64_MAX;

    if (!probe_run(p, 1)) /* touches the pages */
        return false;
    for (unsigned i = 0; i < TRIES; i++) {
        uint64_t a = probe_run(p, 1), b = probe_run(p, TURNS);

        if (!a || !b)
            return false;
        empty = min_u64(empty, a);
        full = min_u64(full, b);
        if (i == 1 && full > SLOW_NS)
            break;
    }
    if (full > SLOW_NS) /* a busy host may have made the short runs as long: they say nothing */
        empty = min_u64(empty, full / 2);
    speed->exit_us = (double)empty / 1000;
    speed->mips = 2.0 * TURNS * 1000 / (double)(full > empty + 100 ? full - empty : 100);
    return true;
}

bool kvm_usable(struct err *err)
{
    struct probe p = {.sys = -1, .vm = -1, .cpu = -1, .run = MAP_FAILED, .memory = MAP_FAILED};
    bool good = open_machine(&p, err);

    probe_close(&p);
    return good;
}

bool kvm_measure(struct kvm_speed *speed, struct err *err)
{
    struct probe p = {.sys = -1, .vm = -1, .cpu = -1, .run = MAP_FAILED, .memory = MAP_FAILED};
    bool good =
        probe_open(&p, err) &&
        (measure(&p, speed) ||
         err_set(err, EIO, "/dev/kvm runs no real-mode code (exit reason %u)", p.run->exit_reason));

    probe_close(&p);
    return good;
}
