/* SPDX-License-Identifier: MIT */
/* A machine's vCPU threads, and how they pause.
 *
 * Each vCPU has one thread, which runs the engine until kicked and then asks vcpu_may_run. Pausing
 * sets vm->pause, kicks everyone and waits until all threads are parked on vm->changed. vm->lock
 * guards pause, closing, parked and every vcpu's `stopped`; no engine call but kick is made under
 * it.
 *
 *   open -> parked <-> running -> stopped (triple fault: until the machine is reset)
 *                 \-> closing */
#include "engine/engine.h"
#include "engine/x86/model.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

const char *const vcpu_count_name[VCPU_COUNTS] = {
    [COUNT_PORT] = "port",   [COUNT_MMIO] = "mmio",         [COUNT_DEFERRED] = "deferred",
    [COUNT_EOI] = "eoi",     [COUNT_WINDOW] = "window",     [COUNT_MSR] = "msr",
    [COUNT_KICK] = "kick",   [COUNT_EMULATED] = "emulated", [COUNT_OTHER] = "other",
    [COUNT_DIRTY] = "dirty",
};

void vm_init(struct vm *vm)
{
    memset(vm, 0, sizeof *vm);
    pthread_mutex_init(&vm->lock, NULL);
    pthread_cond_init(&vm->changed, NULL);
    vm->pause = true;
}

static void close_vcpus(struct vm *vm)
{
    for (unsigned i = VCPUS_MAX; i > 0; i--) {
        struct vcpu *cpu = vm->cpu[i - 1];

        if (!cpu)
            continue;
        vm->engine->vcpu_close(cpu);
        vm->cpu[i - 1] = NULL;
        free(cpu);
    }
}

static bool open_vcpu(struct vm *vm, unsigned id, struct err *err)
{
    struct vcpu *cpu = calloc(1, sizeof *cpu);

    if (!cpu)
        return err_set(err, ENOMEM, "no memory for a vCPU");
    cpu->vm = vm;
    cpu->id = id;
    vm->cpu[id] = cpu;
    if (vm->engine->vcpu_open(cpu, err))
        return true;
    vm->cpu[id] = NULL;
    free(cpu);
    return false;
}

bool vm_open(struct vm *vm, const struct engine_ops *engine, unsigned cpus, struct err *err)
{
    if (cpus < 1 || cpus > VCPUS_MAX)
        return err_set(err, EINVAL, "%u vCPUs: from 1 to %u are possible", cpus, VCPUS_MAX);
    vm->engine = engine;
    if (!engine->open(vm, err)) {
        vm->engine = NULL;
        return err_wrap(err, "engine %s", engine->name);
    }
    vm->cpu_count = cpus;
    for (unsigned i = 0; i < cpus; i++)
        if (!open_vcpu(vm, i, err))
            return err_wrap(err, "engine %s: vCPU %u", engine->name, i);
    return true;
}

/* ---- the threads ---- */
/* Waits here while paused or stopped. False: the machine closes. */
static bool vcpu_may_run(struct vcpu *cpu)
{
    struct vm *vm = cpu->vm;
    bool may;

    pthread_mutex_lock(&vm->lock);
    if ((vm->pause || cpu->stopped) && !vm->closing) {
        vm->parked++;
        pthread_cond_broadcast(&vm->changed);
        while ((vm->pause || cpu->stopped) && !vm->closing)
            pthread_cond_wait(&vm->changed, &vm->lock);
        vm->parked--;
    }
    may = !vm->closing;
    pthread_mutex_unlock(&vm->lock);
    return may;
}

static void vcpu_stop(struct vcpu *cpu)
{
    pthread_mutex_lock(&cpu->vm->lock);
    cpu->stopped = true;
    pthread_mutex_unlock(&cpu->vm->lock);
}

static void vcpu_loop(struct vcpu *cpu)
{
    struct vm *vm = cpu->vm;

    while (vcpu_may_run(cpu)) {
        switch (vm->engine->run(cpu)) {
        case VCPU_KICKED: break;
        case VCPU_HALT: vm->engine->sleep(cpu); break;
        case VCPU_SHUTDOWN:
            vcpu_stop(cpu);
            vm->events->shutdown(vm, cpu);
            break;
        case VCPU_BROKEN:
            vcpu_stop(cpu);
            vm->events->broken(vm, cpu, &cpu->err);
            break;
        }
    }
}

static void *vcpu_main(void *arg)
{
    struct vcpu *cpu = arg;
    char name[16];

    snprintf(name, sizeof name, "vcpu%u", cpu->id);
    prctl(PR_SET_NAME, name);
    atomic_store(&cpu->tid, gettid());
    prctl(PR_SET_TIMERSLACK, 1); /* the guest's timers are precise to what the host can do */
    vcpu_loop(cpu);
    return NULL;
}

/* Signals are the main thread's business. */
static int start_thread(struct vcpu *cpu)
{
    sigset_t all, old;
    int e;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    e = pthread_create(&cpu->thread, NULL, vcpu_main, cpu);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    cpu->started = !e;
    return e;
}

bool vm_start(struct vm *vm, struct err *err)
{
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        int e = start_thread(vm->cpu[i]);

        if (e)
            return err_set(err, e, "cannot start the thread of vCPU %u: %s", i, strerror(e));
    }
    return true;
}

static unsigned started_count(const struct vm *vm)
{
    unsigned n = 0;

    for (unsigned i = 0; i < vm->cpu_count; i++)
        n += vm->cpu[i] && vm->cpu[i]->started;
    return n;
}

static void kick_all(struct vm *vm)
{
    for (unsigned i = 0; i < vm->cpu_count; i++)
        if (vm->cpu[i] && vm->cpu[i]->started)
            vm->engine->kick(vm->cpu[i]);
}

void vm_pause(struct vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    vm->pause = true;
    kick_all(vm);
    while (vm->parked < started_count(vm))
        pthread_cond_wait(&vm->changed, &vm->lock);
    pthread_mutex_unlock(&vm->lock);
}

void vm_resume(struct vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    vm->pause = false;
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
}

static void join_threads(struct vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    vm->closing = true;
    pthread_cond_broadcast(&vm->changed);
    kick_all(vm);
    pthread_mutex_unlock(&vm->lock);
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        struct vcpu *cpu = vm->cpu[i];

        if (cpu && cpu->started)
            pthread_join(cpu->thread, NULL);
        if (cpu)
            cpu->started = false;
    }
}

void vm_close(struct vm *vm)
{
    if (vm->engine) {
        join_threads(vm);
        close_vcpus(vm);
        vm->engine->close(vm);
        vm->engine = NULL;
    }
    pthread_cond_destroy(&vm->changed);
    pthread_mutex_destroy(&vm->lock);
}

bool vm_reset(struct vm *vm, struct err *err)
{
    struct vcpu_state *state = malloc(sizeof *state);
    bool done = state != NULL;

    if (!done)
        return err_set(err, ENOMEM, "no memory to reset vCPUs");
    for (unsigned i = 0; i < vm->cpu_count && done; i++) {
        vcpu_state_reset(state, i == 0, i);
        if (vm->model)
            state->reg[2] = vm->model->signature;
        done = vm->engine->set(vm->cpu[i], state, err);
    }
    free(state);
    pthread_mutex_lock(&vm->lock);
    for (unsigned i = 0; i < vm->cpu_count; i++)
        vm->cpu[i]->stopped = false;
    pthread_mutex_unlock(&vm->lock);
    return done;
}
