/* SPDX-License-Identifier: MIT */
/* Model-specific registers by number: Intel SDM volume 4, AMD APM volume 2, KVM's paravirtual ones.
 */
#ifndef HULL_X86_MSR_H
#define HULL_X86_MSR_H

enum x86_msr {
    MSR_P5_MC_ADDR = 0,
    MSR_P5_MC_TYPE = 1,
    MSR_TSC = 0x10,
    MSR_PLATFORM_ID = 0x17,
    MSR_APIC_BASE = 0x1b,
    MSR_EBL_CR_POWERON = 0x2a,
    MSR_FEATURE_CONTROL = 0x3a,
    MSR_TSC_ADJUST = 0x3b,
    MSR_SPEC_CTRL = 0x48,
    MSR_PRED_CMD = 0x49,
    MSR_BIOS_UPDT_TRIG = 0x79,
    MSR_BIOS_SIGN_ID = 0x8b,
    MSR_PLATFORM_INFO = 0xce,
    MSR_MTRR_CAP = 0xfe,
    MSR_ARCH_CAPABILITIES = 0x10a,
    MSR_FLUSH_CMD = 0x10b,
    MSR_MISC_FEATURES_ENABLES = 0x140,
    MSR_SYSENTER_CS = 0x174,
    MSR_SYSENTER_ESP = 0x175,
    MSR_SYSENTER_EIP = 0x176,
    MSR_MCG_CAP = 0x179,
    MSR_MCG_STATUS = 0x17a,
    MSR_MCG_CTL = 0x17b,
    MSR_PERF_STATUS = 0x198,
    MSR_PERF_CTL = 0x199,
    MSR_THERM_STATUS = 0x19c,
    MSR_MISC_ENABLE = 0x1a0,
    MSR_DEBUGCTL = 0x1d9,
    MSR_MTRR_PHYS_BASE0 = 0x200, /* base and mask of 8 ranges, in turn, to 0x20f */
    MSR_MTRR_FIX64K_00000 = 0x250,
    MSR_MTRR_FIX16K_80000 = 0x258,
    MSR_MTRR_FIX16K_A0000 = 0x259,
    MSR_MTRR_FIX4K_C0000 = 0x268, /* to 0x26f */
    MSR_PAT = 0x277,
    MSR_MTRR_DEF_TYPE = 0x2ff,
    MSR_TSC_DEADLINE = 0x6e0,
    MSR_X2APIC_BASE = 0x800, /* to 0x83f */
    MSR_XSS = 0xda0,
    MSR_KVM_WALL_CLOCK = 0x11,
    MSR_KVM_SYSTEM_TIME = 0x12,
    MSR_KVM_WALL_CLOCK_NEW = 0x4b564d00,
    MSR_KVM_SYSTEM_TIME_NEW = 0x4b564d01,
    MSR_KVM_ASYNC_PF = 0x4b564d02,
    MSR_KVM_STEAL_TIME = 0x4b564d03,
    MSR_KVM_PV_EOI = 0x4b564d04,
    MSR_KVM_POLL_CONTROL = 0x4b564d05,
    MSR_KVM_ASYNC_PF_INT = 0x4b564d06,
    MSR_KVM_ASYNC_PF_ACK = 0x4b564d07,
    /* Hyper-V's: TLFS, appendix C */
    MSR_HV_GUEST_OS_ID = 0x40000000,
    MSR_HV_HYPERCALL = 0x40000001,
    MSR_HV_VP_INDEX = 0x40000002,
    MSR_HV_TIME_REF_COUNT = 0x40000020,
    MSR_HV_REFERENCE_TSC = 0x40000021,
    MSR_HV_TSC_FREQUENCY = 0x40000022,
    MSR_HV_APIC_FREQUENCY = 0x40000023,
    MSR_HV_EOI = 0x40000070,
    MSR_HV_ICR = 0x40000071,
    MSR_HV_TPR = 0x40000072,
    MSR_HV_VP_ASSIST = 0x40000073,
    MSR_HV_SCONTROL = 0x40000080,
    MSR_HV_SIEFP = 0x40000082,
    MSR_HV_SIMP = 0x40000083,
    MSR_HV_SINT0 = 0x40000090,
    MSR_HV_STIMER0 = 0x400000b0, /* configuration and count of four timers, in turn */
};

/* These do not fit an int-sized enumerator's sign. */
#define MSR_EFER           0xc0000080U
#define MSR_STAR           0xc0000081U
#define MSR_LSTAR          0xc0000082U
#define MSR_CSTAR          0xc0000083U
#define MSR_FMASK          0xc0000084U
#define MSR_FS_BASE        0xc0000100U
#define MSR_GS_BASE        0xc0000101U
#define MSR_KERNEL_GS_BASE 0xc0000102U
#define MSR_TSC_AUX        0xc0000103U

enum { /* EFER */
       EFER_SCE = 1,
       EFER_LME = 0x100,
       EFER_LMA = 0x400,
       EFER_NXE = 0x800,
};

/* IA32_ARCH_CAPABILITIES: not affected by the speculation bugs. It is honest: the guest's
 * mitigations would do nothing inside an interpreter or translated code. RSBA stays clear on
 * purpose. */
#define ARCH_CAPABILITIES                                                                          \
    (1ULL << 0 /* RDCL_NO */ | 1ULL << 1 /* IBRS_ALL */ | 1ULL << 3 /* SKIP_L1DFL_VMENTRY */ |     \
     1ULL << 4 /* SSB_NO */ | 1ULL << 5 /* MDS_NO */ | 1ULL << 6 /* PSCHANGE_MC_NO */ |            \
     1ULL << 8 /* TAA_NO */ | 1ULL << 13 /* SBDR_SSDP_NO */ | 1ULL << 14 /* FBSDP_NO */ |          \
     1ULL << 15 /* PSDP_NO */ | 1ULL << 20 /* BHI_NO */ | 1ULL << 24 /* PBRSB_NO */ |              \
     1ULL << 26 /* GDS_NO */ | 1ULL << 27 /* RFDS_NO */ | 1ULL << 62 /* ITS_NO */)

#endif
