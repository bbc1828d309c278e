/* SPDX-License-Identifier: MIT */
/* System instructions, segment loads, far transfers, descriptor tables: handlers for ops.c. */
#ifndef HULL_SOFT_OPS_SYS_H
#define HULL_SOFT_OPS_SYS_H

/* clang-format off */
#define SOFT_SYS_OPS(X) \
    X(MOV_SEG, op_mov_seg) X(PUSH_SEG, op_push_seg) X(POP_SEG, op_pop_seg) \
    X(LES, op_les) X(LDS, op_lds) X(LSS, op_lss) X(LFS, op_lfs) X(LGS, op_lgs) \
    X(LAR, op_lar) X(LSL, op_lsl) X(VERR, op_verr) X(VERW, op_verw) X(ARPL, op_arpl) \
    X(SGDT, op_sgdt) X(SIDT, op_sidt) X(LGDT, op_lgdt) X(LIDT, op_lidt) \
    X(SLDT, op_sldt) X(STR, op_str) X(LLDT, op_lldt) X(LTR, op_ltr) \
    X(JMP_FAR, op_jmp_far) X(CALL_FAR, op_call_far) X(RETF, op_ret_far) X(IRET, op_iret) \
    X(INT, op_int) X(INT3, op_int3) X(INTO, op_into) X(INT1, op_int1) \
    X(SYSCALL, op_syscall) X(SYSRET, op_sysret) X(SYSENTER, op_sysenter) X(SYSEXIT, op_sysexit) \
    X(SWAPGS, op_swapgs) X(RDFSBASE, op_rdfsbase) X(RDGSBASE, op_rdgsbase) \
    X(WRFSBASE, op_wrfsbase) X(WRGSBASE, op_wrgsbase) \
    X(MOV_CR, op_mov_cr) X(MOV_DR, op_mov_dr) X(CLTS, op_clts) X(SMSW, op_smsw) X(LMSW, op_lmsw) \
    X(INVLPG, op_invlpg) X(INVPCID, op_invpcid) X(INVD, op_invd) X(WBINVD, op_invd) \
    X(CLI, op_cli) X(STI, op_sti) X(PUSHF, op_pushf) X(POPF, op_popf) X(CLAC, op_clac) X(STAC, op_stac) \
    X(HLT, op_hlt) X(CPUID, op_cpuid) X(RDTSC, op_rdtsc) X(RDTSCP, op_rdtscp) X(RDPID, op_rdpid) \
    X(RDPMC, op_rdpmc) X(RDMSR, op_rdmsr) X(WRMSR, op_wrmsr) X(VMCALL, op_vmcall) X(VMMCALL, op_vmcall)
/* clang-format on */

#endif
