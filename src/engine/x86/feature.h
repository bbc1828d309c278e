/* SPDX-License-Identifier: MIT */
/* CPU features by name and CPUID bit. Shared by the opcode tables, the CPU models and the engines.
 *
 * `how` says what it takes for the soft engine to offer the feature: HOST if the host executes the
 * instructions in our place and so must have it, SOFT if the engine does it by itself, VIRT if it
 * never does. KVM says itself what it offers (engine/kvm/cpuid.c). State beyond AVX (AVX-512, AMX,
 * protection keys) is not in struct vcpu_state, so these features are not here. */
#ifndef HULL_X86_FEATURE_H
#define HULL_X86_FEATURE_H

enum x86_cpuid_reg { X86_EAX, X86_EBX, X86_ECX, X86_EDX };

/* name, text, leaf, sub-leaf, register, bit, how */
/* clang-format off */
#define X86_FEATURES(X) \
    X(FPU, "fpu", 1, 0, EDX, 0, HOST) X(DE, "de", 1, 0, EDX, 2, SOFT) X(PSE, "pse", 1, 0, EDX, 3, SOFT) \
    X(TSC, "tsc", 1, 0, EDX, 4, HOST) X(MSR, "msr", 1, 0, EDX, 5, SOFT) X(PAE, "pae", 1, 0, EDX, 6, SOFT) \
    X(MCE, "mce", 1, 0, EDX, 7, SOFT) X(CX8, "cx8", 1, 0, EDX, 8, SOFT) X(APIC, "apic", 1, 0, EDX, 9, SOFT) \
    X(SEP, "sep", 1, 0, EDX, 11, SOFT) X(MTRR, "mtrr", 1, 0, EDX, 12, SOFT) X(PGE, "pge", 1, 0, EDX, 13, SOFT) \
    X(MCA, "mca", 1, 0, EDX, 14, SOFT) X(CMOV, "cmov", 1, 0, EDX, 15, SOFT) X(PAT, "pat", 1, 0, EDX, 16, SOFT) \
    X(PSE36, "pse36", 1, 0, EDX, 17, SOFT) X(CLFLUSH, "clflush", 1, 0, EDX, 19, SOFT) X(MMX, "mmx", 1, 0, EDX, 23, HOST) \
    X(FXSR, "fxsr", 1, 0, EDX, 24, HOST) X(SSE, "sse", 1, 0, EDX, 25, HOST) X(SSE2, "sse2", 1, 0, EDX, 26, HOST) \
    X(SSE3, "sse3", 1, 0, ECX, 0, HOST) X(PCLMUL, "pclmul", 1, 0, ECX, 1, HOST) X(SSSE3, "ssse3", 1, 0, ECX, 9, HOST) \
    X(FMA, "fma", 1, 0, ECX, 12, HOST) X(CX16, "cx16", 1, 0, ECX, 13, HOST) X(PCID, "pcid", 1, 0, ECX, 17, SOFT) \
    X(SSE41, "sse4.1", 1, 0, ECX, 19, HOST) X(SSE42, "sse4.2", 1, 0, ECX, 20, HOST) X(X2APIC, "x2apic", 1, 0, ECX, 21, SOFT) \
    X(MOVBE, "movbe", 1, 0, ECX, 22, SOFT) X(POPCNT, "popcnt", 1, 0, ECX, 23, SOFT) \
    X(TSC_DEADLINE, "tsc-deadline", 1, 0, ECX, 24, SOFT) X(AES, "aes", 1, 0, ECX, 25, HOST) X(XSAVE, "xsave", 1, 0, ECX, 26, SOFT) \
    X(AVX, "avx", 1, 0, ECX, 28, HOST) X(F16C, "f16c", 1, 0, ECX, 29, HOST) X(RDRAND, "rdrand", 1, 0, ECX, 30, SOFT) \
    X(HYPERVISOR, "hypervisor", 1, 0, ECX, 31, SOFT) \
    X(FSGSBASE, "fsgsbase", 7, 0, EBX, 0, SOFT) X(TSC_ADJUST, "tsc-adjust", 7, 0, EBX, 1, SOFT) X(BMI1, "bmi1", 7, 0, EBX, 3, SOFT) \
    X(AVX2, "avx2", 7, 0, EBX, 5, HOST) X(SMEP, "smep", 7, 0, EBX, 7, SOFT) X(BMI2, "bmi2", 7, 0, EBX, 8, SOFT) \
    X(ERMS, "erms", 7, 0, EBX, 9, SOFT) X(INVPCID, "invpcid", 7, 0, EBX, 10, SOFT) X(RDSEED, "rdseed", 7, 0, EBX, 18, SOFT) \
    X(ADX, "adx", 7, 0, EBX, 19, SOFT) X(SMAP, "smap", 7, 0, EBX, 20, SOFT) X(CLFLUSHOPT, "clflushopt", 7, 0, EBX, 23, SOFT) \
    X(CLWB, "clwb", 7, 0, EBX, 24, SOFT) X(SHA, "sha", 7, 0, EBX, 29, HOST) X(UMIP, "umip", 7, 0, ECX, 2, SOFT) \
    X(RDPID, "rdpid", 7, 0, ECX, 22, SOFT) X(FSRM, "fsrm", 7, 0, EDX, 4, SOFT) X(SPEC_CTRL, "spec-ctrl", 7, 0, EDX, 26, SOFT) \
    X(ARCH_CAP, "arch-capabilities", 7, 0, EDX, 29, SOFT) \
    X(XSAVEOPT, "xsaveopt", 0xd, 1, EAX, 0, SOFT) X(XSAVEC, "xsavec", 0xd, 1, EAX, 1, SOFT) X(XGETBV1, "xgetbv1", 0xd, 1, EAX, 2, SOFT) \
    X(LAHF, "lahf", 0x80000001, 0, ECX, 0, SOFT) X(LZCNT, "lzcnt", 0x80000001, 0, ECX, 5, SOFT) \
    X(PREFETCHW, "prefetchw", 0x80000001, 0, ECX, 8, SOFT) X(SYSCALL, "syscall", 0x80000001, 0, EDX, 11, SOFT) \
    X(NX, "nx", 0x80000001, 0, EDX, 20, SOFT) X(PDPE1GB, "pdpe1gb", 0x80000001, 0, EDX, 26, SOFT) \
    X(RDTSCP, "rdtscp", 0x80000001, 0, EDX, 27, SOFT) X(LM, "lm", 0x80000001, 0, EDX, 29, SOFT) \
    X(INVTSC, "invtsc", 0x80000007, 0, EDX, 8, SOFT) \
    /* KVM's paravirtual features: Linux Documentation/virt/kvm/x86/cpuid.rst */ \
    X(KVM_NOP_IO_DELAY, "kvm-nopiodelay", 0x40000001, 0, EAX, 1, SOFT) X(KVMCLOCK, "kvmclock", 0x40000001, 0, EAX, 3, SOFT) \
    X(KVM_ASYNCPF, "kvm-asyncpf", 0x40000001, 0, EAX, 4, SOFT) X(KVM_STEAL_TIME, "kvm-steal-time", 0x40000001, 0, EAX, 5, SOFT) \
    X(KVM_PV_EOI, "kvm-pv-eoi", 0x40000001, 0, EAX, 6, SOFT) X(KVM_PV_UNHALT, "kvm-pv-unhalt", 0x40000001, 0, EAX, 7, VIRT) \
    X(KVM_PV_TLB_FLUSH, "kvm-pv-tlb-flush", 0x40000001, 0, EAX, 9, SOFT) X(KVM_PV_IPI, "kvm-pv-ipi", 0x40000001, 0, EAX, 11, VIRT) \
    X(KVM_POLL_CONTROL, "kvm-poll-control", 0x40000001, 0, EAX, 12, SOFT) \
    X(KVM_PV_SCHED_YIELD, "kvm-pv-sched-yield", 0x40000001, 0, EAX, 13, VIRT) \
    X(KVM_ASYNCPF_INT, "kvm-asyncpf-int", 0x40000001, 0, EAX, 14, SOFT) \
    X(KVMCLOCK_STABLE, "kvmclock-stable-bit", 0x40000001, 0, EAX, 24, SOFT) \
    /* Only on KVM */ \
    X(VMX, "vmx", 1, 0, ECX, 5, VIRT) X(SVM, "svm", 0x80000001, 0, ECX, 2, VIRT) X(SS, "ss", 1, 0, EDX, 27, VIRT) \
    X(HLE, "hle", 7, 0, EBX, 4, VIRT) X(FDP_EXCPTN_ONLY, "fdp-excptn-only", 7, 0, EBX, 6, VIRT) X(RTM, "rtm", 7, 0, EBX, 11, VIRT) \
    X(ZERO_FCS_FDS, "zero-fcs-fds", 7, 0, EBX, 13, VIRT) X(WAITPKG, "waitpkg", 7, 0, ECX, 5, VIRT) X(GFNI, "gfni", 7, 0, ECX, 8, VIRT) \
    X(VAES, "vaes", 7, 0, ECX, 9, VIRT) X(VPCLMULQDQ, "vpclmulqdq", 7, 0, ECX, 10, VIRT) X(CLDEMOTE, "cldemote", 7, 0, ECX, 25, VIRT) \
    X(MOVDIRI, "movdiri", 7, 0, ECX, 27, VIRT) X(MOVDIR64B, "movdir64b", 7, 0, ECX, 28, VIRT) \
    X(MD_CLEAR, "md-clear", 7, 0, EDX, 10, VIRT) X(SERIALIZE, "serialize", 7, 0, EDX, 14, VIRT) \
    X(TSXLDTRK, "tsxldtrk", 7, 0, EDX, 16, VIRT) X(STIBP, "stibp", 7, 0, EDX, 27, VIRT) X(FLUSH_L1D, "flush-l1d", 7, 0, EDX, 28, VIRT) \
    X(SSBD, "ssbd", 7, 0, EDX, 31, VIRT) X(SHA512, "sha512", 7, 1, EAX, 0, VIRT) X(SM3, "sm3", 7, 1, EAX, 1, VIRT) \
    X(SM4, "sm4", 7, 1, EAX, 2, VIRT) X(AVX_VNNI, "avx-vnni", 7, 1, EAX, 4, VIRT) X(CMPCCXADD, "cmpccxadd", 7, 1, EAX, 7, VIRT) \
    X(FZRM, "fzrm", 7, 1, EAX, 10, VIRT) X(FSRS, "fsrs", 7, 1, EAX, 11, VIRT) X(FSRC, "fsrc", 7, 1, EAX, 12, VIRT) \
    X(AVX_IFMA, "avx-ifma", 7, 1, EAX, 23, VIRT) X(AVX_VNNI_INT8, "avx-vnni-int8", 7, 1, EDX, 4, VIRT) \
    X(AVX_NE_CONVERT, "avx-ne-convert", 7, 1, EDX, 5, VIRT) X(AVX_VNNI_INT16, "avx-vnni-int16", 7, 1, EDX, 10, VIRT) \
    X(PREFETCHI, "prefetchi", 7, 1, EDX, 14, VIRT) X(INTEL_PSFD, "intel-psfd", 7, 2, EDX, 0, VIRT) \
    X(IPRED_CTRL, "ipred-ctrl", 7, 2, EDX, 1, VIRT) X(RRSBA_CTRL, "rrsba-ctrl", 7, 2, EDX, 2, VIRT) \
    X(DDPD_U, "ddpd-u", 7, 2, EDX, 3, VIRT) X(BHI_CTRL, "bhi-ctrl", 7, 2, EDX, 4, VIRT) X(MCDT_NO, "mcdt-no", 7, 2, EDX, 5, VIRT) \
    X(XSAVES, "xsaves", 0xd, 1, EAX, 3, VIRT) X(CR8LEGACY, "cr8legacy", 0x80000001, 0, ECX, 4, VIRT) \
    X(SSE4A, "sse4a", 0x80000001, 0, ECX, 6, VIRT) X(MISALIGNSSE, "misalignsse", 0x80000001, 0, ECX, 7, VIRT) \
    X(XOP, "xop", 0x80000001, 0, ECX, 11, VIRT) X(FMA4, "fma4", 0x80000001, 0, ECX, 16, VIRT) X(TBM, "tbm", 0x80000001, 0, ECX, 21, VIRT) \
    X(MMXEXT, "mmxext", 0x80000001, 0, EDX, 22, VIRT) X(FXSR_OPT, "fxsr-opt", 0x80000001, 0, EDX, 25, VIRT) \
    X(CLZERO, "clzero", 0x80000008, 0, EBX, 0, VIRT) X(XSAVEERPTR, "xsaveerptr", 0x80000008, 0, EBX, 2, VIRT) \
    X(WBNOINVD, "wbnoinvd", 0x80000008, 0, EBX, 9, VIRT) X(AMD_IBPB, "ibpb", 0x80000008, 0, EBX, 12, VIRT) \
    X(AMD_IBRS, "ibrs", 0x80000008, 0, EBX, 14, VIRT) X(AMD_STIBP, "amd-stibp", 0x80000008, 0, EBX, 15, VIRT) \
    X(STIBP_ALWAYS_ON, "stibp-always-on", 0x80000008, 0, EBX, 17, VIRT) X(AMD_SSBD, "amd-ssbd", 0x80000008, 0, EBX, 24, VIRT) \
    X(VIRT_SSBD, "virt-ssbd", 0x80000008, 0, EBX, 25, VIRT) X(AMD_SSB_NO, "amd-no-ssb", 0x80000008, 0, EBX, 26, VIRT) \
    X(AMD_PSFD, "amd-psfd", 0x80000008, 0, EBX, 28, VIRT)
/* clang-format on */

enum x86_feature {
    X86_F_BASE, /* always there */
#define X(name, text, leaf, sub, reg, bit, how) X86_F_##name,
    X86_FEATURES(X)
#undef X
        X86_F_COUNT
};

#endif
