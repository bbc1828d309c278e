/* SPDX-License-Identifier: MIT */
/* The KVM engine's own structures: one struct kvm_vm for each machine, one struct kvm_cpu for each
 * vCPU. KVM runs in split-irqchip mode: the LAPICs are the kernel's, IOAPIC, PICs and PIT ours. */
#ifndef HULL_KVM_KVM_H
#define HULL_KVM_KVM_H

#include "engine/engine.h"
#include "engine/x86/model.h"
#include <linux/kvm.h>
#include <signal.h>

#define KVM_PINS        24      /* of the board's IOAPIC */
#define KVM_LINES_MAX   1024    /* eventfds that send messages */
#define KVM_KICK_SIGNAL SIGUSR1 /* its handler does nothing: it only makes KVM_RUN return */

struct kvm_vm {
    int sys, fd;            /* /dev/kvm and the machine's descriptor */
    size_t run_size;        /* bytes of struct kvm_run and what follows it */
    unsigned apic_bus_ns;   /* one tick of the LAPIC timer before its divider */
    struct cpu_model model; /* vm->model with the TSC's frequency */
    _Atomic bool intr;      /* the 8259 pair's output */
    bool logging[MEM_REGIONS_MAX];
    struct kvm_coalesced_mmio_ring *ring; /* deferred writes; NULL: none, or no vCPU yet */
    unsigned ring_max;
    pthread_mutex_t ring_lock;  /* taken before any device's */
    struct soft_stepper *step;  /* opened at the first instruction that needs it */
    pthread_mutex_t step_lock;  /* guards `step`, whose instructions reach devices */
    unsigned dirty_entries;     /* of each vCPU's dirty ring; 0: the log is used */
    pthread_mutex_t dirty_lock; /* of who empties the rings */
    pthread_mutex_t lock;       /* guards what follows */
    struct msi pin[KVM_PINS];
    uint32_t level_pins; /* a bit for each pin whose EOI we must hear of */
    struct kvm_line {
        int fd; /* -1: free */
        struct msi msi;
    } * line; /* GSI KVM_PINS + index */
    unsigned line_count;
};

struct kvm_cpu {
    int fd;
    struct kvm_run *run;         /* shared with the kernel */
    struct kvm_dirty_gfn *dirty; /* its ring of pages written; NULL: none */
    uint32_t dirty_next;
    bool unblocked; /* its thread takes KVM_KICK_SIGNAL */
};

static inline struct kvm_vm *kvm_of(struct vm *vm)
{
    return vm->priv;
}

/* ---- engine.c ---- */
/* Opens /dev/kvm and checks its version; -1: err says which group or module is missing. */
int kvm_open_device(struct err *err);
/* What the engine cannot do without. */
bool kvm_check_capabilities(int sys, struct err *err);
void kvm_engine_kick(struct vcpu *vcpu);
/* The steps of opening that may fail for the host's sake. */
bool kvm_check_version(int fd, struct err *err);
bool kvm_check_capabilities(int sys, struct err *err);
bool kvm_refused(int why, struct err *err); /* false: KVM_CREATE_VM said `why` */

/* ---- cpuid.c ---- */
/* What this KVM can give; the second opens /dev/kvm for it. */
bool kvm_offer(int sys, struct cpu_offer *offer, struct err *err);
bool kvm_engine_offer(struct cpu_offer *offer, struct err *err);
/* Fills kvm->model from vm->model. */
bool kvm_model_open(struct vm *vm, struct err *err);
bool kvm_set_cpuid(struct vcpu *vcpu, struct err *err);

/* ---- dirty.c ---- */
extern bool kvm_without_ring; /* for tests: the log, although the kernel has rings */
bool kvm_set_slot(struct vm *vm, unsigned slot, bool log);
bool kvm_dirty_open(struct vm *vm, struct err *err); /* before vCPUs */
bool kvm_dirty_vcpu_open(struct vcpu *vcpu, struct err *err);
void kvm_dirty_vcpu_close(struct vcpu *vcpu);
void kvm_dirty_collect(struct vm *vm); /* any thread: empties the rings */
void kvm_engine_dirty(struct vm *vm, struct mem_region *r);

/* ---- defer.c ---- */
/* With the first vCPU, whose mapping holds the ring. */
void kvm_defer_open(struct vcpu *vcpu);
void kvm_engine_defer(struct vm *vm, bool port, uint64_t addr, unsigned size);
/* Does the writes that the kernel held back; after each KVM_RUN. */
void kvm_defer_flush(struct vcpu *vcpu);

/* ---- filter.c ---- */
void kvm_filter_msrs(struct kvm_vm *kvm); /* once kvm->model is known */
void kvm_answer_msr(struct vcpu *vcpu, struct kvm_run *run);

/* ---- route.c ---- */
void kvm_engine_route(struct vm *vm, unsigned pin, const struct msi *msi);
bool kvm_engine_msi_fd(struct vm *vm, int fd, const struct msi *msi);
bool kvm_engine_bell(struct vm *vm, uint64_t addr, int fd, bool on);

/* ---- run.c ---- */
enum vcpu_exit kvm_engine_run(struct vcpu *vcpu);

/* ---- complete.c ---- */
/* Does the instruction that KVM refuses. VCPU_BROKEN: the soft engine refuses too, err says why. */
enum vcpu_exit kvm_complete(struct vcpu *vcpu, struct err *err);
void kvm_complete_close(struct vm *vm);
/* Pages that such instructions wrote. */
void kvm_complete_dirty(struct vm *vm, struct mem_region *r);

/* ---- state.c, msr.c ---- */
void kvm_engine_get(struct vcpu *vcpu, struct vcpu_state *state);
bool kvm_engine_set(struct vcpu *vcpu, const struct vcpu_state *state, struct err *err);
/* What an instruction changes: registers, vector state, debug registers. Events that KVM has in
 * hand stay, but for the exception that it raised for the instruction. */
bool kvm_put_completed(struct vcpu *vcpu, const struct vcpu_state *state, struct err *err);
void kvm_get_msrs(struct vcpu *vcpu, struct vcpu_state *state);
bool kvm_set_msrs(struct vcpu *vcpu, const struct vcpu_state *state, struct err *err);
/* IA32_TSC_DEADLINE alone: it needs the LAPIC's timer mode and the TSC to be there. */
bool kvm_set_deadline(struct vcpu *vcpu, const struct vcpu_state *state, struct err *err);

#endif
