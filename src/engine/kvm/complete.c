/* SPDX-License-Identifier: MIT */
/* Instructions that KVM's emulator does not know, such as vector moves to device memory: the soft
 * engine's interpreter executes that one on the vCPU's state, then KVM goes on.
 *
 *   KVM_EXIT_INTERNAL_ERROR -> state -> soft_stepper_run -> memory, buses -> state -> KVM_RUN
 *
 * One stepper serves the machine, opened when first needed. Its lock is held over accesses to
 * devices, so it comes before theirs. */
#include "engine/soft/step.h"
#include "engine/kvm/kvm.h"
#include <errno.h>
#include <stdlib.h>

static enum vcpu_exit step_locked(struct vcpu *vcpu, struct vcpu_state *state, struct err *err)
{
    struct kvm_vm *kvm = kvm_of(vcpu->vm);

    if (!kvm->step)
        kvm->step = soft_stepper_open(vcpu->vm, &kvm->model, err);
    return kvm->step ? soft_stepper_run(kvm->step, state, err) : VCPU_BROKEN;
}

enum vcpu_exit kvm_complete(struct vcpu *vcpu, struct err *err)
{
    struct kvm_vm *kvm = kvm_of(vcpu->vm);
    struct vcpu_state *state = malloc(sizeof *state);
    enum vcpu_exit exit;

    if (!state) {
        err_set(err, ENOMEM, "no memory for a vCPU's state");
        return VCPU_BROKEN;
    }
    kvm_engine_get(vcpu, state);
    pthread_mutex_lock(&kvm->step_lock);
    exit = step_locked(vcpu, state, err);
    pthread_mutex_unlock(&kvm->step_lock);
    if (exit == VCPU_KICKED && !kvm_put_completed(vcpu, state, err))
        exit = VCPU_BROKEN;
    free(state);
    return exit;
}

void kvm_complete_dirty(struct vm *vm, struct mem_region *r)
{
    struct kvm_vm *kvm = kvm_of(vm);

    pthread_mutex_lock(&kvm->step_lock);
    if (kvm->step)
        soft_stepper_dirty(kvm->step, r);
    pthread_mutex_unlock(&kvm->step_lock);
}

void kvm_complete_close(struct vm *vm)
{
    struct kvm_vm *kvm = kvm_of(vm);

    soft_stepper_close(kvm->step);
    kvm->step = NULL;
}
