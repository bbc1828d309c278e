/* SPDX-License-Identifier: MIT */
/* What the operand kinds of a decoded instruction mean: sizes and accesses. */
#include "engine/x86/form.h"

const struct x86_operand_kind x86_operand_kind[X86_O_COUNT] = {{X86_AT_NONE, 0},
#define X(name, place, size) {X86_AT_##place, size},
                                                               X86_OPERANDS(X)
#undef X
};

static unsigned size_by_rule(const struct insn *in, unsigned rule)
{
    bool wide = in->opsize == 8; /* OS_V forms only: vector forms have fixed sizes or X */

    switch (rule) {
    case X86_SZ_V: return in->opsize;
    case X86_SZ_Z: return in->opsize < 4 ? in->opsize : 4;
    case X86_SZ_Y: return in->w64 ? 8 : 4;
    case X86_SZ_X: return in->opsize;
    case X86_SZ_RVMW: return in->mem ? 2 : in->opsize;
    case X86_SZ_RDMB: return in->mem ? 1 : 4;
    case X86_SZ_RDMW: return in->mem ? 2 : 4;
    case X86_SZ_P: return in->opsize + 2;
    case X86_SZ_S: return wide ? 10 : 6;
    case X86_SZ_A: return 2 * in->opsize;
    case X86_SZ_ENV: return in->opsize == 2 ? 14 : 28;
    case X86_SZ_FSAVE: return in->opsize == 2 ? 94 : 108;
    case X86_SZ_FXSAVE: return 512;
    default: return 0;
    }
}

unsigned x86_operand_size(const struct insn *in, unsigned i)
{
    unsigned size = x86_operand_kind[x86_form[in->form].operand[i]].size;

    return size <= 32 ? size : size_by_rule(in, size);
}

static bool memory_place(unsigned place)
{
    return place == X86_AT_RM || place == X86_AT_MEM || place == X86_AT_XRM ||
           place == X86_AT_MRM || place == X86_AT_VSIB || place == X86_AT_MOFFS;
}

int x86_mem_operand(const struct insn *in)
{
    if (in->mem)
        for (unsigned i = 0; i < 4; i++)
            if (memory_place(x86_operand_kind[x86_form[in->form].operand[i]].place))
                return (int)i;
    return -1;
}

unsigned x86_mem_size(const struct insn *in)
{
    int i = x86_mem_operand(in);

    return i < 0 ? 0 : x86_operand_size(in, (unsigned)i);
}

unsigned x86_mem_access(const struct insn *in)
{
    int i = x86_mem_operand(in);

    return i < 0 ? 0 : x86_form[in->form].access[i];
}
