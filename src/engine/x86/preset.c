/* SPDX-License-Identifier: MIT */
/* The named CPU models and what is in them.
 *
 * x86-64-v2 and -v3 are the levels of the x86-64 psABI; they also take what speeds up guests and no
 * program counts on. Those named after processors hold exactly their list. All take what belongs to
 * the platform: the timer, the mitigations that the host's processor asks for, KVM's paravirtual
 * features. */
#include "engine/x86/model.h"
#include "engine/x86/preset.h"

#define LIST(name, ...) static const uint8_t name[] = {__VA_ARGS__, 0}
#define F(name)         X86_F_##name

/* clang-format off */
LIST(base, F(FPU), F(DE), F(PSE), F(TSC), F(MSR), F(PAE), F(MCE), F(CX8), F(APIC), F(SEP), F(MTRR), F(PGE), F(MCA),
    F(CMOV), F(PAT), F(PSE36), F(CLFLUSH), F(MMX), F(FXSR), F(SSE), F(SSE2), F(SYSCALL), F(NX), F(LM), F(RDTSCP),
    F(X2APIC), F(HYPERVISOR), F(TSC_ADJUST));
LIST(v2, F(SSE3), F(SSSE3), F(SSE41), F(SSE42), F(CX16), F(POPCNT), F(LAHF));
LIST(v3, F(XSAVE), F(AVX), F(AVX2), F(FMA), F(F16C), F(BMI1), F(BMI2), F(LZCNT), F(MOVBE));
LIST(westmere, F(AES), F(PCLMUL));
LIST(sandybridge, F(AVX), F(XSAVE), F(XSAVEOPT));
LIST(ivybridge, F(F16C), F(RDRAND), F(FSGSBASE), F(SMEP), F(ERMS));
LIST(haswell, F(MOVBE), F(FMA), F(AVX2), F(BMI1), F(BMI2), F(LZCNT), F(PCID), F(INVPCID));
LIST(broadwell, F(RDSEED), F(ADX), F(SMAP), F(PREFETCHW));
LIST(skylake, F(XSAVEC), F(XGETBV1), F(CLFLUSHOPT));

LIST(platform, F(TSC_DEADLINE), F(SPEC_CTRL), F(ARCH_CAP), F(MD_CLEAR), F(STIBP), F(FLUSH_L1D), F(SSBD),
    F(KVM_NOP_IO_DELAY), F(KVMCLOCK), F(KVMCLOCK_STABLE), F(KVM_ASYNCPF), F(KVM_ASYNCPF_INT), F(KVM_STEAL_TIME),
    F(KVM_PV_EOI), F(KVM_PV_UNHALT), F(KVM_PV_TLB_FLUSH), F(KVM_PV_IPI), F(KVM_POLL_CONTROL), F(KVM_PV_SCHED_YIELD));
LIST(extra, F(PCLMUL), F(MOVBE), F(AES), F(XSAVE), F(RDRAND), F(FSGSBASE), F(SMEP), F(ERMS), F(RDSEED), F(ADX),
    F(CLFLUSHOPT), F(SHA), F(UMIP), F(FSRM), F(XSAVEOPT), F(XSAVEC), F(XGETBV1), F(PREFETCHW), F(PDPE1GB), F(INVTSC));

#define LISTS(...) (const uint8_t *const[]){__VA_ARGS__, NULL}

/* The levels' signatures are outside Linux's lists of processors with bugs. */
const struct cpu_preset cpu_presets[] = {
    {"x86-64-v2", "the default: SSE4.2 and POPCNT, what a processor of 2009 has", LISTS(base, v2),
     LISTS(platform, extra), 0x106a5},
    {"x86-64-v3", "AVX2, FMA and BMI, what one of 2013 has", LISTS(base, v2, v3), LISTS(platform, extra), 0x806f8},
    {"host", "all that the engine can give on this host", LISTS(NULL), LISTS(NULL), 0},
    {"Nehalem", "Intel, 2008: SSE4.2", LISTS(base, v2), LISTS(platform), 0x106a3},
    {"Westmere", "Intel, 2010: AES", LISTS(base, v2, westmere), LISTS(platform), 0x206c1},
    {"SandyBridge", "Intel, 2011: AVX", LISTS(base, v2, westmere, sandybridge), LISTS(platform), 0x206a1},
    {"IvyBridge", "Intel, 2012: F16C, RDRAND, FSGSBASE, SMEP",
     LISTS(base, v2, westmere, sandybridge, ivybridge), LISTS(platform), 0x306a9},
    {"Haswell", "Intel, 2013, without TSX: AVX2, FMA, BMI, PCID",
     LISTS(base, v2, westmere, sandybridge, ivybridge, haswell), LISTS(platform), 0x306c4},
    {"Broadwell", "Intel, 2014, without TSX: ADX, RDSEED, SMAP",
     LISTS(base, v2, westmere, sandybridge, ivybridge, haswell, broadwell), LISTS(platform), 0x306d2},
    {"Skylake", "Intel, 2015, without TSX and MPX: XSAVEC, CLFLUSHOPT",
     LISTS(base, v2, westmere, sandybridge, ivybridge, haswell, broadwell, skylake), LISTS(platform), 0x506e3},
    {0},
};
/* clang-format on */

#define PRESETS (sizeof cpu_presets / sizeof cpu_presets[0])

const char *const *cpu_model_names(void)
{
    static const char *names[PRESETS];

    for (unsigned i = 0; i < PRESETS; i++)
        names[i] = cpu_presets[i].name;
    return names;
}

const char *cpu_model_about(const char *name)
{
    for (const struct cpu_preset *p = cpu_presets; p->name; p++)
        if (!strcmp(p->name, name))
            return p->about;
    return "";
}
