/* SPDX-License-Identifier: MIT */
/* The stepper: a vCPU of the soft engine that nobody runs, in a machine of its own that borrows
 * another's memory and buses. It has no clock thread and translates nothing, so it may be opened
 * inside the sandbox; its vCPU takes on each caller's state for one instruction. */
#include "engine/soft/step.h"
#include "engine/soft/page.h"
#include "engine/soft/system.h"
#include <errno.h>
#include <stdlib.h>

struct soft_stepper {
    struct vm vm;
    struct vcpu vcpu;
    struct vcpu_state state;
};

static void no_end(struct vm *vm, struct vcpu *cpu)
{
}

static const struct vm_events no_events = {.shutdown = no_end};

/* Blocks of code are what a watcher is for, and here are none. */
static bool open_core(struct vm *vm, struct err *err)
{
    struct mem_watcher *watcher = vm->mem->watcher;
    bool good = soft_core_open(vm, (struct soft_vm **)&vm->priv, err);

    vm->mem->watcher = watcher;
    if (vm->priv)
        ((struct soft_vm *)vm->priv)->stepper = true;
    return good;
}

struct soft_stepper *soft_stepper_open(struct vm *vm, const struct cpu_model *model,
                                       struct err *err)
{
    struct soft_stepper *s = calloc(1, sizeof *s);

    if (!s) {
        err_set(err, ENOMEM, "no memory for the soft engine");
        return NULL;
    }
    s->vm.engine = &soft_engine;
    s->vm.events = &no_events;
    s->vm.mem = vm->mem;
    s->vm.mmio = vm->mmio;
    s->vm.pio = vm->pio;
    s->vm.model = model;
    s->vm.cpu[0] = &s->vcpu;
    s->vm.cpu_count = 1;
    s->vcpu.vm = &s->vm;
    if (open_core(&s->vm, err) && soft_engine.vcpu_open(&s->vcpu, err))
        return s;
    soft_stepper_close(s);
    return NULL;
}

void soft_stepper_close(struct soft_stepper *s)
{
    if (!s)
        return;
    soft_engine.vcpu_close(&s->vcpu);
    soft_core_close(&s->vm, s->vm.priv);
    free(s);
}

/* Without what would act on its own: an LAPIC, a kvmclock page to write, events that wait. */
static void bare(struct vcpu_state *to, const struct vcpu_state *from)
{
    *to = *from;
    to->lapic = (struct lapic_state){.base_msr = 0xfee00000};
    to->kvm_system_time = to->kvm_wall_clock = 0;
    to->nmi_pending = to->exception_pending = to->interrupt_pending = false;
    to->run = VCPU_RUNNABLE;
}

static void take_back(struct vcpu_state *to, const struct vcpu_state *from)
{
    struct vcpu_state old = *to;

    *to = *from;
    to->lapic = old.lapic;
    to->kvm_system_time = old.kvm_system_time;
    to->kvm_wall_clock = old.kvm_wall_clock;
    to->tsc = old.tsc;
    to->cr8 = old.cr8;
    to->nmi_pending = old.nmi_pending;
    to->interrupt_pending = old.interrupt_pending;
}

enum vcpu_exit soft_stepper_run(struct soft_stepper *s, struct vcpu_state *state, struct err *err)
{
    enum vcpu_exit exit;

    bare(&s->state, state);
    if (!soft_engine.set(&s->vcpu, &s->state, err))
        return VCPU_BROKEN;
    exit = soft_step(s->vcpu.priv);
    soft_engine.get(&s->vcpu, &s->state);
    take_back(state, &s->state);
    return exit;
}

bool soft_msr_plain(const struct cpu_model *model, uint32_t index, bool write, uint64_t *value)
{
    struct vm vm = {.model = model};
    struct soft_cpu *cpu = calloc(1, sizeof *cpu); /* nothing of it is looked at but its model */
    bool good;

    if (!cpu)
        return false;
    cpu->vm = &vm;
    good = msr_without_state(cpu, index, write, value);
    free(cpu);
    return good;
}

void soft_stepper_dirty(struct soft_stepper *s, struct mem_region *r)
{
    soft_dirty(&s->vm, r);
}
