/* SPDX-License-Identifier: MIT */
/* Instruction handlers: near branches, calls and returns. A target outside the code segment, or not
 * canonical, is #GP(0) of the branch itself, before anything changes. */
#include "engine/soft/operand.h"
#include "engine/soft/ops.h"

static uint64_t checked_target(struct soft_cpu *cpu, const struct insn *in, uint64_t target)
{
    if (cpu->mode == X86_MODE_64) {
        if ((uint64_t)((int64_t)(target << 16) >> 16) != target)
            soft_gp(cpu, 0);
        return target;
    }
    target = in->opsize == 2 ? (uint16_t)target : (uint32_t)target;
    if (target > cpu->seg[SEG_CS].limit)
        soft_gp(cpu, 0);
    return target;
}

static void jump_relative(struct soft_cpu *cpu, const struct insn *in)
{
    cpu->next_rip = checked_target(cpu, in, cpu->next_rip + in->imm);
}

void soft_op_jmp(struct soft_cpu *cpu, const struct insn *in)
{
    if (kind_of(in, 0).place == X86_AT_REL)
        jump_relative(cpu, in);
    else
        cpu->next_rip = checked_target(cpu, in, operand_get(cpu, in, 0));
}

void soft_op_call(struct soft_cpu *cpu, const struct insn *in)
{
    uint64_t to =
        kind_of(in, 0).place == X86_AT_REL ? cpu->next_rip + in->imm : operand_get(cpu, in, 0);

    to = checked_target(cpu, in, to);
    soft_push(cpu, in->opsize, cpu->next_rip);
    cpu->next_rip = to;
}

void soft_op_ret(struct soft_cpu *cpu, const struct insn *in)
{
    uint64_t mask = soft_sp_mask(cpu), sp = cpu->reg[4];
    uint64_t to = soft_load(cpu, SEG_SS, sp & mask, in->opsize);

    cpu->next_rip = checked_target(cpu, in, to);
    sp += in->opsize + (has_operand(in, 0) ? in->imm & 0xffff : 0);
    cpu->reg[4] = (cpu->reg[4] & ~mask) | (sp & mask);
}

#define JCC_OP(cc, n)                                                                              \
    void soft_op_j##cc(struct soft_cpu *cpu, const struct insn *in)                                \
    {                                                                                              \
        if (soft_condition(cpu, n))                                                                \
            jump_relative(cpu, in);                                                                \
    }

JCC_OP(o, 0)
JCC_OP(no, 1)
JCC_OP(b, 2)
JCC_OP(ae, 3)
JCC_OP(e, 4)
JCC_OP(ne, 5)
JCC_OP(be, 6)
JCC_OP(a, 7)
JCC_OP(s, 8)
JCC_OP(ns, 9)
JCC_OP(p, 10)
JCC_OP(np, 11)
JCC_OP(l, 12)
JCC_OP(ge, 13)
JCC_OP(le, 14)
JCC_OP(g, 15)

/* LOOP: the counter is rCX by address size; it is written only if the branch does not fault. */
static void loop(struct soft_cpu *cpu, const struct insn *in, bool also)
{
    uint64_t n = (get_reg(cpu, 1, in->adsize) - 1) & size_mask(in->adsize);

    if (n != 0 && also)
        jump_relative(cpu, in);
    put_reg(cpu, 1, in->adsize, n);
}

void soft_op_loop(struct soft_cpu *cpu, const struct insn *in)
{
    loop(cpu, in, true);
}

void soft_op_loope(struct soft_cpu *cpu, const struct insn *in)
{
    loop(cpu, in, soft_condition(cpu, 4));
}

void soft_op_loopne(struct soft_cpu *cpu, const struct insn *in)
{
    loop(cpu, in, soft_condition(cpu, 5));
}

void soft_op_jcxz(struct soft_cpu *cpu, const struct insn *in)
{
    if (get_reg(cpu, 1, in->adsize) == 0)
        jump_relative(cpu, in);
}

void soft_op_bound(struct soft_cpu *cpu, const struct insn *in)
{
    unsigned size = in->opsize;
    uint64_t at = soft_ea(cpu, in), mask = size_mask(in->adsize);
    int64_t low = sign_extend(soft_load(cpu, in->seg, at, size), size);
    int64_t high = sign_extend(soft_load(cpu, in->seg, (at + size) & mask, size), size);
    int64_t index = sign_extend(get_reg(cpu, in->reg, size), size);

    if (index < low || index > high)
        soft_raise(cpu, VEC_BR, NO_CODE);
}
