/* SPDX-License-Identifier: MIT */
/* The seam between a machine and what runs its guest code. KVM and soft fill the same table.
 *
 * A machine makes a struct vm, gives it memory and buses, opens an engine on it, opens vCPUs, sets
 * their state, then starts them: one host thread each (engine/vcpu.c). Guest accesses outside RAM
 * go to vm->mmio and vm->pio from the vCPU's thread. */
#ifndef HULL_ENGINE_H
#define HULL_ENGINE_H

#include "bus/device.h"
#include "engine/state.h"
#include <stdatomic.h>

#define VCPUS_MAX 64

/* What an engine counts for each vCPU: why it left the guest for user space, and what was done on
 * the way. The soft engine, which leaves for nothing of this, counts none. */
enum vcpu_count {
    COUNT_PORT,     /* port accesses; a string of them counts once */
    COUNT_MMIO,     /* accesses to device memory */
    COUNT_DEFERRED, /* writes that came late, without an exit of their own: see defer */
    COUNT_EOI,      /* of level-triggered interrupts */
    COUNT_WINDOW,   /* the guest can take the PICs' interrupt now */
    COUNT_MSR,      /* MSRs that the kernel does not answer */
    COUNT_EMULATED, /* instructions completed by the soft engine */
    COUNT_DIRTY,    /* the list of pages written was full */
    COUNT_KICK,     /* someone asked for it */
    COUNT_OTHER,
    VCPU_COUNTS,
};
extern const char *const vcpu_count_name[VCPU_COUNTS];

enum vcpu_exit {
    VCPU_KICKED,   /* kick() was called, or nothing to say: ask vcpu_may_run again */
    VCPU_HALT,     /* HLT or wait-for-SIPI: sleep until kicked */
    VCPU_SHUTDOWN, /* triple fault */
    VCPU_BROKEN,   /* the engine cannot go on: err says why */
};

struct vm;
struct vcpu;

struct vm_events { /* calls upward, from vCPU threads; all return at once */
    void (*shutdown)(struct vm *vm, struct vcpu *cpu); /* triple fault */
    void (*broken)(struct vm *vm, struct vcpu *cpu, const struct err *err);
    void (*eoi)(struct vm *vm, uint8_t vector); /* level-triggered EOI: to the IOAPIC */
    int (*pic_ack)(struct vm *vm); /* INTA cycle: vector from the 8259 pair, -1: none */
    /* Deterministic machines only, from the one vCPU that runs. quiet: the loop has nothing to do.
     * settle: kick this vCPU once that is so. next_timer: when (soft_virtual_ns) a device's timer
     * is due; run_timers has the loop fire those that are. */
    bool (*quiet)(struct vm *vm);
    void (*settle)(struct vm *vm, struct vcpu *cpu);
    uint64_t (*next_timer)(struct vm *vm);
    void (*run_timers)(struct vm *vm);
};

/* engine/x86/model.h: what CPUID and MSRs say, and what an engine can make them say here */
struct cpu_model;
struct cpu_offer;

struct engine_ops {
    const char *name;                                        /* "kvm", "soft" */
    bool (*offer)(struct cpu_offer *offer, struct err *err); /* before open, on no machine */
    bool (*open)(struct vm *vm, struct err *err);
    void (*close)(struct vm *vm);
    bool (*vcpu_open)(struct vcpu *cpu, struct err *err); /* in power-on state; cpu 0 runnable */
    void (*vcpu_close)(struct vcpu *cpu);
    enum vcpu_exit (*run)(struct vcpu *cpu); /* in the vCPU's thread */
    void (*sleep)(struct vcpu *cpu); /* after VCPU_HALT: until kicked or an interrupt wakes it */
    void (*kick)(struct vcpu *cpu);  /* any thread: run() and sleep() return soon */
    void (*msi)(struct vm *vm, const struct msi *msi); /* any thread */
    /* What an IOAPIC pin now sends if it is level-triggered, NULL if not: the engine must report
     * such a vector's EOI. Called before the first such message. NULL: it reports all EOIs anyway.
     */
    void (*route)(struct vm *vm, unsigned pin, const struct msi *msi);
    /* As board_ops.defer; NULL: never late. Before vCPUs run. */
    void (*defer)(struct vm *vm, bool port, uint64_t addr, unsigned size);
    /* As board_ops.bell and board_ops.msi_fd; any thread. NULL: not offered. */
    bool (*bell)(struct vm *vm, uint64_t addr, int fd, bool on);
    bool (*msi_fd)(struct vm *vm, int fd, const struct msi *msi);
    /* The 8259 pair's output, to LINT0 of vCPU 0; any thread. */
    void (*intr)(struct vm *vm, bool level);
    void (*nmi)(struct vcpu *cpu);
    void (*dirty)(struct vm *vm, struct mem_region *r); /* adds the pages that the guest wrote */
    void (*get)(struct vcpu *cpu, struct vcpu_state *state); /* get and set: while paused */
    bool (*set)(struct vcpu *cpu, const struct vcpu_state *state, struct err *err);
    /* Before set() of a saved machine's vCPUs: the TSC, without what guests added to it, reads
     * `tsc` now. NULL: set() alone does it. */
    void (*set_tsc)(struct vm *vm, uint64_t tsc);
};

struct vcpu {
    struct vm *vm;
    unsigned id; /* also the APIC id */
    pthread_t thread;
    _Atomic int tid; /* the thread's, for people and their tools; 0 before it runs */
    bool started;
    bool stopped; /* after a triple fault, until the machine is reset; under vm->lock */
    _Atomic uint64_t instructions; /* counted if the engine can; for statistics and benchmarks */
    _Atomic uint64_t count[VCPU_COUNTS]; /* written by its own thread only */
    struct err err;                      /* for VCPU_BROKEN */
    void *priv;                          /* the engine's: struct soft_cpu */
};

struct vm {
    const struct engine_ops *engine;
    const struct vm_events *events;
    struct mem *mem;
    struct bus *mmio, *pio;
    const struct cpu_model *model;
    struct vcpu *cpu[VCPUS_MAX];
    unsigned cpu_count;
    uint64_t random_seed;
    bool deterministic; /* the soft engine's: one vCPU at a time, virtual time */
    void *priv;         /* the engine's */
    /* engine/vcpu.c's */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool pause, closing;
    unsigned parked;
};

/* One writer, so no locked instruction is needed. */
static inline void vcpu_count(struct vcpu *cpu, enum vcpu_count what)
{
    uint64_t n = atomic_load_explicit(&cpu->count[what], memory_order_relaxed);

    atomic_store_explicit(&cpu->count[what], n + 1, memory_order_relaxed);
}

/* engine/vcpu.c: threads and pausing. vm_init is first, vm_close last; both in the main thread. */
void vm_init(struct vm *vm);
bool vm_open(struct vm *vm, const struct engine_ops *engine, unsigned cpus, struct err *err);
/* Starts the threads, paused; vm_resume lets them run. */
bool vm_start(struct vm *vm, struct err *err);
void vm_pause(struct vm *vm); /* returns when every vCPU is parked */
void vm_resume(struct vm *vm);
void vm_close(struct vm *vm);
/* All vCPUs to power-on state; while paused. */
bool vm_reset(struct vm *vm, struct err *err);

/* The state after power-on or INIT: Intel SDM 3, table 10-1. Loaders change it, then set() it. */
void vcpu_state_reset(struct vcpu_state *state, bool boot_cpu, unsigned id);

extern const struct engine_ops soft_engine, kvm_engine;

/* The clocks of this process's deterministic machine. */
uint64_t soft_virtual_ns(void);
uint64_t soft_virtual_wall_ns(void);

#endif
