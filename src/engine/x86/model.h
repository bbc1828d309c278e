/* SPDX-License-Identifier: MIT */
/* CPU models: what CPUID tells a guest.
 *
 *   "x86-64-v3,-avx2,+sha" --+
 *                            +-> cpu_model_make -> struct cpu_model -> cpu_model_cpuid
 *   engine -> cpu_offer -----+
 *
 * for both engines, so that a machine saved under one restores under the other. A model holds only
 * what was offered: what it stands for and cannot have is an error that names it. */
#ifndef HULL_X86_MODEL_H
#define HULL_X86_MODEL_H

#include "base/err.h"
#include "engine/x86/feature.h"

struct cpu_hyperv {  /* leaves of Hyper-V's TLFS, section 2.4 */
    uint32_t access; /* 0x40000003 EAX: registers that a partition may use */
    uint32_t misc;   /* 0x40000003 EDX */
    uint32_t advice; /* 0x40000004 EAX */
    uint32_t spins;  /* 0x40000004 EBX: attempts before a hypercall; all ones: never */
};

enum { /* bits of the above that the engines look at */
       HV_ACCESS_REF_COUNT = 1 << 1,
       HV_ACCESS_SYNIC = 1 << 2,
       HV_ACCESS_STIMER = 1 << 3,
       HV_ACCESS_APIC = 1 << 4,
       HV_ACCESS_HYPERCALL = 1 << 5,
       HV_ACCESS_VP_INDEX = 1 << 6,
       HV_ACCESS_REF_TSC = 1 << 9,
       HV_ACCESS_FREQUENCY = 1 << 11,
       HV_MISC_FREQUENCY = 1 << 8,
       HV_MISC_STIMER_DIRECT = 1 << 19,
       HV_ADVICE_TLB_FLUSH = 1 << 2,
       HV_ADVICE_APIC = 1 << 3,
       HV_ADVICE_RELAXED = 1 << 5,
       HV_ADVICE_IPI = 1 << 10,
       HV_ADVICE_MORE_CPUS = 1 << 11,
};

struct cpu_model {
    char name[24], vendor[13], brand[49];
    uint8_t feature[X86_F_COUNT]; /* 1: offered; [X86_F_BASE] is 1 */
    uint32_t signature;           /* leaf 1 EAX: family, model, stepping */
    uint8_t phys_bits, linear_bits;
    uint32_t tsc_khz;   /* 0: the host's */
    uint64_t xcr0_mask; /* XCR0 bits that may be set */
    bool hyperv;        /* Hyper-V's leaves instead of KVM's */
    struct cpu_hyperv hv;
    uint32_t svm[4]; /* leaf 0x8000000a */
};

enum { CPU_LACKS, CPU_OFFERS, CPU_ON_REQUEST /* has it, but "host" leaves it out */ };

/* What an engine can give on this host. */
struct cpu_offer {
    const char *who; /* "the soft engine on this host": for errors */
    uint8_t feature[X86_F_COUNT];
    char vendor[13], brand[49]; /* what "host" shows; brand may be "" */
    uint32_t signature;
    uint8_t phys_bits;
    uint64_t xcr0_mask;
    struct cpu_hyperv hv; /* all 0: none */
    uint32_t svm[4];
};

struct cpuid_context { /* what the answer depends on besides the model */
    bool osxsave;      /* CR4.OSXSAVE */
    uint64_t xcr0;
    unsigned apic_id, cpu_count;
};

/* Reads NAME[,+FEATURE|,-FEATURE|,hyperv=on|off]...; NULL or "": the default, x86-64-v2. Errors:
 * EINVAL names the nearest known word, ENOTSUP lists what the offer lacks. */
bool cpu_model_make(struct cpu_model *model, const char *text, const struct cpu_offer *offer,
                    struct err *err);

/* The same with the soft engine's offer. */
bool cpu_model_parse(struct cpu_model *model, const char *text, struct err *err);

/* Whether the words are known, whatever this host has. */
bool cpu_model_check(const char *text, struct err *err);

void cpu_model_cpuid(const struct cpu_model *model, const struct cpuid_context *context,
                     uint32_t leaf, uint32_t subleaf, uint32_t out[4]); /* EAX EBX ECX EDX */

/* Sub-leaves that tell something: 0 if the number does not matter. */
unsigned cpu_model_subleaves(uint32_t leaf);

/* What the named model is short of with this offer: what it stands for (then it is no model here),
 * and what it would have taken. 1 for each; false: no such model. */
bool cpu_model_gaps(const char *name, const struct cpu_offer *offer, uint8_t lacks[X86_F_COUNT],
                    uint8_t without[X86_F_COUNT]);

/* Model names for --help, in the order to show them; NULL after the last. */
const char *const *cpu_model_names(void);
/* A line about each, in the same order. */
const char *cpu_model_about(const char *name);
const char *cpu_feature_name(unsigned feature);

/* Where CPUID tells a feature. */
struct cpuid_bit {
    uint32_t leaf;
    uint8_t sub, reg, bit;
};
extern const struct cpuid_bit cpuid_bit[X86_F_COUNT];

static inline bool cpu_model_has(const struct cpu_model *model, enum x86_feature feature)
{
    return model->feature[feature];
}

/* Bytes of a standard-format XSAVE area for these XCR0 bits; 576 at least. */
unsigned x86_xsave_size(uint64_t xcr0);

/* The board's address space; KVM gives fewer on a processor that has fewer. */
#define X86_PHYS_BITS 40

/* The clock of leaf 0x15, and so of the LAPIC timer. */
#define X86_CRYSTAL_HZ 25000000

/* What this host executes itself: 1 for each feature it has (those that the engine does by itself
 * too). Asks CPUID, which is slow under a hypervisor, once. */
const uint8_t *host_features(void);

/* What the soft engine offers on this host. */
void cpu_offer_soft(struct cpu_offer *offer);

/* The host's processor: vendor, signature and brand. */
void host_identity(char vendor[13], uint32_t *signature, char brand[49]);

/* The host's TSC in kHz: from CPUID, else the kernel's, else measured against CLOCK_MONOTONIC_RAW;
 * found out once. */
uint32_t host_tsc_khz(void);
/* A machine saved where the TSC ran at `khz` goes on here: if the difference is no more than what
 * measuring leaves open, host_tsc_khz says so from now on. False: it really differs. */
bool host_tsc_assume(uint32_t khz);
/* Where it must be measured, that begins here: what is done until somebody asks need not be waited
 * for. May be left out. */
void host_tsc_begin(void);

#endif
