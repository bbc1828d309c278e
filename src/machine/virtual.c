/* SPDX-License-Identifier: MIT */
/* --deterministic: the board keeps the engine's virtual time, and a vCPU goes on only when the loop
 * has done what devices asked of it. doc/deterministic.md. */
#include "dev/timer.h"
#include "loop/uring.h"
#include "machine/machine.h"

bool machine_vm_quiet(struct vm *vm)
{
    return loop_quiet(container_of(vm, struct machine, vm)->loop);
}

static void now_quiet(struct call *c)
{
    struct machine *m = container_of(c, struct machine, quiet);

    m->vm.engine->kick(m->waiting);
}

void machine_vm_settle(struct vm *vm, struct vcpu *cpu)
{
    struct machine *m = container_of(vm, struct machine, vm);

    m->waiting = cpu;
    loop_when_quiet(m->loop, &m->quiet);
}

uint64_t machine_vm_next_timer(struct vm *vm)
{
    return devtimer_next(&container_of(vm, struct machine, vm)->board);
}

static void fire_timers(struct call *c)
{
    devtimer_run(&container_of(c, struct machine, timers)->board);
}

void machine_vm_run_timers(struct vm *vm)
{
    struct machine *m = container_of(vm, struct machine, vm);

    loop_post(m->loop, &m->timers);
}

void machine_virtual(struct machine *m)
{
    m->quiet.run = now_quiet;
    m->timers.run = fire_timers;
    loop_in_order(m->loop);
    m->vm.deterministic = true;
    m->vm.random_seed = m->config.random_seed ? m->config.random_seed : 1;
    m->model.tsc_khz = 1000000; /* an instruction is a nanosecond and a tick */
    m->board.host_now = soft_virtual_ns;
    m->board.wall_now = soft_virtual_wall_ns;
    m->board.clock_base = 0;
    m->board.clock_driven = true;
}
