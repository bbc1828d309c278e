/* SPDX-License-Identifier: MIT */
/* The guest's vector and x87 state: gates, register access, and where it lives.
 *
 * XMM and YMM registers are always in cpu->xsave (standard XSAVE format: low halves at 160, high
 * halves at 576) and MXCSR in cpu->mxcsr. The x87/MMX registers are in the host's while
 * cpu->fpu_live, else in the legacy area at offset 0. */
#ifndef HULL_SOFT_VECTOR_H
#define HULL_SOFT_VECTOR_H

#include "engine/soft/soft.h"

enum { /* offsets in cpu->xsave */
       XSAVE_ST = 32,
       XSAVE_XMM = 160,
       XSAVE_HEADER = 512,
       XSAVE_YMM = 576,
       XSAVE_END = 832,
};
#define MXCSR_DEFAULT 0x1f80u
#define MXCSR_MASK    0xffffu /* what the guest may set; FXSAVE reports it */
#define MXCSR_FLAGS   0x3fu

#define CR0_MP         BIT(1)
#define CR0_EM         BIT(2)
#define CR0_TS         BIT(3)
#define CR0_NE         BIT(5)
#define CR4_OSFXSR     BIT(9)
#define CR4_OSXMMEXCPT BIT(10)
#define CR4_OSXSAVE    BIT(18)

static inline uint8_t *soft_xmm(struct soft_cpu *cpu, unsigned r)
{
    return cpu->xsave + XSAVE_XMM + 16 * (r & 15);
}

static inline uint8_t *soft_ymm_high(struct soft_cpu *cpu, unsigned r)
{
    return cpu->xsave + XSAVE_YMM + 16 * (r & 15);
}

/* #UD or #NM if the control registers refuse the instruction set; #MF for pending x87 exceptions is
 * soft_fpu_wait's business. */
void soft_vec_gate_slow(struct soft_cpu *cpu, enum x86_gate gate);

static inline void soft_vec_gate(struct soft_cpu *cpu, enum x86_gate gate)
{
    if (unlikely(gate == X86_GATE_AVX || (cpu->cr0 & (CR0_EM | CR0_TS)) ||
                 !(cpu->cr4 & CR4_OSFXSR)))
        soft_vec_gate_slow(cpu, gate);
}

/* Moves the x87 state into the host's registers; nothing to do is fine. */
void soft_fpu_load(struct soft_cpu *cpu);
/* #MF if an unmasked x87 exception is pending. */
void soft_fpu_wait(struct soft_cpu *cpu);

/* Makes the image's control and status word what the host's FXRSTOR would make of them. */
void soft_fpu_normalise(struct soft_cpu *cpu);
/* The XCR0 bits that this vCPU may set. */
uint64_t soft_xcr0_valid(const struct soft_cpu *cpu);

/* MMX register `r` in cpu->xsave; the x87 state must not be live. */
uint8_t *soft_mm(struct soft_cpu *cpu, unsigned r);
/* What every MMX instruction does: TOP becomes 0, all tags valid (EMMS empties them then). */
void soft_mmx_enter(struct soft_cpu *cpu);

/* Whether the operand at offset `ea` misses its alignment (a power of 2). */
static inline bool soft_misaligned(const struct soft_cpu *cpu, const struct insn *in, uint64_t ea,
                                   unsigned align)
{
    bool flat = cpu->mode == X86_MODE_64 && in->seg < SEG_FS;

    return ((flat ? 0 : cpu->seg[in->seg].base) + ea) & (align - 1);
}

/* The memory operand in one piece. Alignment, segment and page faults are raised; store may fault
 * too, so it comes before anything else changes. */
void soft_vec_load(struct soft_cpu *cpu, const struct insn *in, void *dst, unsigned size);
void soft_vec_store(struct soft_cpu *cpu, const struct insn *in, const void *src, unsigned size);

#endif
