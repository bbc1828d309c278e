/* SPDX-License-Identifier: MIT */
/* The same-ISA JIT of the soft engine, as the rest of the engine and tools see it. doc/jit.md.
 *
 * Hot blocks (block.h) of 64-bit code become host code that keeps the guest's registers and flags
 * in the host's own. Translations belong to one vCPU. Everything that is not worth copying is done
 * by the same instruction handlers that the interpreter uses. */
#ifndef HULL_SOFT_JIT_H
#define HULL_SOFT_JIT_H

#include "base/err.h"
#include "engine/soft/soft.h"

/* Read when a vCPU opens (soft_cpu_open). */
struct soft_jit_options {
    bool on;
    /* Flags are right in the frame of every fault and interrupt, also where later instructions
     * overwrite them before anything reads them: slower, for comparing with the interpreter. */
    bool precise;
    bool verify;        /* every translation is decoded again and checked */
    bool count;         /* cpu->instructions counts translated instructions too */
    bool perf;          /* writes /tmp/perf-PID.map for perf(1) */
    bool stats;         /* prints the counters to stderr at the end */
    unsigned threshold; /* entries of a block until it is translated; 1: at once (hot-forced) */
};
extern struct soft_jit_options soft_jit_options;

/* "on", "off", or a list of those and precise, verify, count, perf, force, hot=N. The environment's
 * HULL_JIT has the same form and is applied when the first machine opens. */
bool soft_jit_setup(const char *text, struct err *err);

/* The vCPU translates: wanted, and the host allowed executable memory. */
bool soft_jit_active(const struct soft_cpu *cpu);
/* Entries needed from now on, for tests. */
void soft_jit_set_threshold(struct soft_cpu *cpu, unsigned entries);
/* Forgets all translations of this vCPU; only while it is outside run(), or from its thread. */
void soft_jit_flush(struct soft_cpu *cpu);

struct soft_jit_counters {
    uint64_t translated;   /* blocks */
    uint64_t instructions; /* guest instructions in them */
    uint64_t guest_bytes, host_bytes;
    uint64_t killed;    /* translations dropped because their code changed, or evicted */
    uint64_t evicted;   /* because their block has too many, at different addresses */
    uint64_t banned;    /* pages that changed so often that they are interpreted for a while */
    uint64_t flushes;   /* code cache dropped as a whole */
    uint64_t enters;    /* from C into translated code */
    uint64_t calls;     /* instruction handlers called from translated code */
    uint64_t misses;    /* indirect branches that the jump table did not know */
    uint64_t refused;   /* blocks that could not be translated */
    uint64_t rejected;  /* by the verifier: our mistake */
    uint64_t code_used; /* bytes of the code cache in use */
};
/* false: no JIT, *out is zeroed. */
bool soft_jit_counters(struct soft_cpu *cpu, struct soft_jit_counters *out);

/* For profilers: what is translated. `data` is handed through. */
struct soft_jit_block {
    uint64_t rip, phys; /* guest addresses of the first byte */
    unsigned bytes, insns;
    const void *code; /* where it runs in the host */
    unsigned code_bytes;
    bool user;
};
void soft_jit_each(struct soft_cpu *cpu, void (*f)(void *data, const struct soft_jit_block *b),
                   void *data);

#endif
