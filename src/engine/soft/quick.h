/* SPDX-License-Identifier: MIT */
/* Memory operands in the common case: 64-bit code, no address-size prefix, aligned if need be, a
 * TLB hit. Everything else gets NULL and must go through soft_vec_load and soft_vec_store. */
#ifndef HULL_SOFT_QUICK_H
#define HULL_SOFT_QUICK_H

#include "engine/soft/tlb.h"

static inline bool quick_linear(const struct soft_cpu *cpu, const struct insn *in, unsigned size,
                                uint64_t *linear)
{
    unsigned align = x86_form[in->form].align;
    uint64_t a = (uint64_t)(int64_t)in->disp;

    if (unlikely(cpu->mode != X86_MODE_64 || in->adsize != 8))
        return false;
    if (likely(in->base < 16))
        a += cpu->reg[in->base];
    else if (in->base == X86_RIP)
        a += cpu->next_rip;
    if (in->index < 16)
        a += cpu->reg[in->index] << in->scale;
    if (unlikely(in->seg >= SEG_FS))
        a += cpu->seg[in->seg].base;
    *linear = a;
    return align <= 1 || !(a & ((align < size ? size : align) - 1));
}

static inline const void *quick_read(const struct soft_cpu *cpu, const struct insn *in,
                                     unsigned size)
{
    uint64_t linear;

    return quick_linear(cpu, in, size, &linear) ? soft_tlb_read(cpu, linear, size) : NULL;
}

static inline void *quick_write(const struct soft_cpu *cpu, const struct insn *in, unsigned size)
{
    uint64_t linear;

    return quick_linear(cpu, in, size, &linear) ? soft_tlb_write(cpu, linear, size) : NULL;
}

#endif
