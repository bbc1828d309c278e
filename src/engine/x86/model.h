/* SPDX-License-Identifier: MIT */
/* CPU models: what CPUID tells a guest.
 *
 * "x86-64-v3,-avx2,+sha" -> model_parse -> struct cpu_model -> cpu_model_cpuid, for both engines,
 * so that a machine saved under one restores under the other. A feature is offered only if the
 * model implements it and, where the host executes the instructions, the host has it. */
#ifndef HULL_X86_MODEL_H
#define HULL_X86_MODEL_H

#include "base/err.h"
#include "engine/x86/feature.h"

struct cpu_model {
    char name[24];
    uint8_t feature[X86_F_COUNT]; /* 1: offered; [X86_F_BASE] is 1 */
    uint32_t signature;           /* leaf 1 EAX: family, model, stepping */
    uint8_t phys_bits, linear_bits;
    uint32_t tsc_khz;   /* 0: the host's */
    uint64_t xcr0_mask; /* XCR0 bits that may be set */
};

struct cpuid_context { /* what the answer depends on besides the model */
    bool osxsave;      /* CR4.OSXSAVE */
    uint64_t xcr0;
    unsigned apic_id, cpu_count;
};

/* Reads NAME[,+FEATURE|,-FEATURE]...; errors name the nearest known name. NULL or "": the default,
 * x86-64-v2. "host" is the most that the soft engine can do on this host. */
bool cpu_model_parse(struct cpu_model *model, const char *text, struct err *err);

/* The same in memory of its own; NULL: see err. free accepts NULL. */
struct cpu_model *cpu_model_new(const char *text, struct err *err);
void cpu_model_free(struct cpu_model *model);

void cpu_model_cpuid(const struct cpu_model *model, const struct cpuid_context *context,
                     uint32_t leaf, uint32_t subleaf, uint32_t out[4]); /* EAX EBX ECX EDX */

/* Model names for --help, in the order to show them; NULL after the last. */
const char *const *cpu_model_names(void);

static inline bool cpu_model_has(const struct cpu_model *model, enum x86_feature feature)
{
    return model->feature[feature];
}

/* Bytes of a standard-format XSAVE area for these XCR0 bits; 576 at least. */
unsigned x86_xsave_size(uint64_t xcr0);

/* The clock of leaf 0x15, and so of the LAPIC timer. */
#define X86_CRYSTAL_HZ 25000000

/* What this host executes itself: 1 for each feature it has (those that the engine does by itself
 * too). Asks CPUID, which is slow under a hypervisor, once. */
const uint8_t *host_features(void);

/* The host's TSC in kHz: from CPUID, else the kernel's, else measured against CLOCK_MONOTONIC_RAW;
 * found out once. */
uint32_t host_tsc_khz(void);
/* Where it must be measured, that begins here: what is done until somebody asks need not be waited
 * for. May be left out. */
void host_tsc_begin(void);

#endif
