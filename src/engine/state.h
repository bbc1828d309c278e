/* SPDX-License-Identifier: MIT */
/* The architectural state of one vCPU, the same for every engine: saved, restored, compared. */
#ifndef HULL_ENGINE_STATE_H
#define HULL_ENGINE_STATE_H

#include "field/field.h"

struct x86_seg { /* hidden part is the truth; the selector is only a number */
    uint64_t base;
    uint32_t limit; /* bytes, granularity applied */
    uint16_t sel;
    /* Bits 8-23 of the descriptor's high dword without limit: type, S, DPL, P, AVL, L, DB, G. */
    uint16_t attr;
};

/* The bits of x86_seg.attr. */
enum {
    SEG_TYPE = 0x0f,
    SEG_S = 0x10,
    SEG_DPL = 0x60,
    SEG_P = 0x80,
    SEG_AVL = 0x1000,
    SEG_L = 0x2000,
    SEG_DB = 0x4000,
    SEG_G = 0x8000,
};

struct x86_table {
    uint64_t base;
    uint16_t limit;
};

enum vcpu_run { VCPU_RUNNABLE, VCPU_HALTED, VCPU_WAIT_INIT, VCPU_WAIT_SIPI };

struct lapic_state {
    uint8_t regs[1024]; /* the 4 KiB page's registers, 16 bytes each, first 0x400 bytes */
    uint64_t base_msr, tsc_deadline;
    uint64_t timer_left_ns; /* until the timer fires; 0: not armed */
};

struct vcpu_state {
    uint64_t reg[16]; /* rax rcx rdx rbx rsp rbp rsi rdi r8-r15 */
    uint64_t rip, rflags;
    struct x86_seg seg[6], ldt, tr; /* seg in enum x86_seg_name order */
    struct x86_table gdt, idt;
    uint64_t cr0, cr2, cr3, cr4, cr8, efer, xcr0, xss;
    uint64_t dr[4], dr6, dr7;
    uint64_t pdpte[4];
    /* MSRs */
    uint64_t star, lstar, cstar, fmask, kernel_gs_base, sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, tsc, tsc_adjust, tsc_aux, misc_enable, spec_ctrl, bios_sign;
    uint64_t mtrr_def, mtrr_fix[11], mtrr_base[8], mtrr_mask[8];
    uint64_t kvm_wall_clock, kvm_system_time, mcg_status;
    uint64_t kvm_async_pf, kvm_async_pf_int, kvm_steal_time, kvm_pv_eoi, kvm_poll_control;
    /* Hyper-V's; the first three are the machine's, and vCPU 0 holds them */
    uint64_t hv_guest_os_id, hv_hypercall, hv_tsc_page, hv_vp_assist;
    uint64_t hv_scontrol, hv_siefp, hv_simp, hv_sint[16], hv_stimer[8];
    /* what is between instructions */
    bool shadow_sti, shadow_ss, nmi_blocked, nmi_pending;
    uint8_t run; /* enum vcpu_run */
    bool exception_pending;
    uint8_t exception_vector;
    bool exception_has_code;
    uint32_t exception_code;
    /* One that its controller has acknowledged, on its way to the guest. */
    bool interrupt_pending;
    uint8_t interrupt_vector;
    struct lapic_state lapic;
    uint8_t xsave[1024]; /* standard format, host order: legacy area, header, AVX state */
};

#define VCPU_STATE_VERSION 3
extern const struct field vcpu_state_fields[];

#endif
