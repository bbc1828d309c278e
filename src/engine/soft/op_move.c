/* SPDX-License-Identifier: MIT */
/* Instruction handlers: moves, conversions, stack, flags in registers. */
#include "engine/soft/operand.h"
#include "engine/soft/ops.h"

void soft_op_mov(struct soft_cpu *cpu, const struct insn *in)
{
    operand_put(cpu, in, 0, operand_get(cpu, in, 1));
}

void soft_op_movzx(struct soft_cpu *cpu, const struct insn *in)
{
    operand_put(cpu, in, 0, operand_get(cpu, in, 1));
}

void soft_op_movsx(struct soft_cpu *cpu, const struct insn *in)
{
    operand_put(cpu, in, 0,
                (uint64_t)sign_extend(operand_get(cpu, in, 1), operand_size(cpu, in, 1)));
}

void soft_op_movbe(struct soft_cpu *cpu, const struct insn *in)
{
    operand_put(cpu, in, 0, __builtin_bswap64(operand_get(cpu, in, 1)) >> (64 - in->opsize * 8));
}

void soft_op_bswap(struct soft_cpu *cpu, const struct insn *in)
{
    if (in->opsize == 8)
        put_reg(cpu, in->reg, 8, __builtin_bswap64(cpu->reg[in->reg]));
    else if (in->opsize == 4)
        put_reg(cpu, in->reg, 4, __builtin_bswap32((uint32_t)cpu->reg[in->reg]));
    else
        put_reg(cpu, in->reg, 2, 0); /* undefined; processors give 0 */
}

void soft_op_lea(struct soft_cpu *cpu, const struct insn *in)
{
    put_reg(cpu, in->reg, in->opsize, soft_ea(cpu, in));
}

void soft_op_xlat(struct soft_cpu *cpu, const struct insn *in)
{
    uint64_t a = cpu->reg[3] + (uint8_t)cpu->reg[0];

    a = in->adsize == 8 ? a : in->adsize == 4 ? (uint32_t)a : (uint16_t)a;
    put_reg(cpu, 0, 1, soft_load(cpu, in->seg, a, 1));
}

void soft_op_nop(struct soft_cpu *cpu, const struct insn *in)
{
}

void soft_op_cbw(struct soft_cpu *cpu, const struct insn *in)
{
    put_reg(cpu, 0, 2, (uint64_t)(int8_t)cpu->reg[0]);
}

void soft_op_cwde(struct soft_cpu *cpu, const struct insn *in)
{
    put_reg(cpu, 0, 4, (uint64_t)(int16_t)cpu->reg[0]);
}

void soft_op_cdqe(struct soft_cpu *cpu, const struct insn *in)
{
    cpu->reg[0] = (uint64_t)(int32_t)cpu->reg[0];
}

void soft_op_cwd(struct soft_cpu *cpu, const struct insn *in)
{
    put_reg(cpu, 2, 2, (int16_t)cpu->reg[0] < 0 ? 0xffff : 0);
}

void soft_op_cdq(struct soft_cpu *cpu, const struct insn *in)
{
    put_reg(cpu, 2, 4, (int32_t)cpu->reg[0] < 0 ? 0xffffffff : 0);
}

void soft_op_cqo(struct soft_cpu *cpu, const struct insn *in)
{
    cpu->reg[2] = (int64_t)cpu->reg[0] < 0 ? ~0ULL : 0;
}

/* ---- conditions ---- */

/* CMOV reads its source, and faults, whatever the condition; a 32-bit destination is zero-extended.
 */
static void conditional_move(struct soft_cpu *cpu, const struct insn *in, unsigned cc)
{
    uint64_t v = operand_get(cpu, in, 1);

    operand_put(cpu, in, 0, soft_condition(cpu, cc) ? v : operand_get(cpu, in, 0));
}

#define CONDITION_OPS(cc, n)                                                                       \
    void soft_op_cmov##cc(struct soft_cpu *cpu, const struct insn *in)                             \
    {                                                                                              \
        conditional_move(cpu, in, n);                                                              \
    }                                                                                              \
    void soft_op_set##cc(struct soft_cpu *cpu, const struct insn *in)                              \
    {                                                                                              \
        operand_put(cpu, in, 0, soft_condition(cpu, n));                                           \
    }

CONDITION_OPS(o, 0)
CONDITION_OPS(no, 1)
CONDITION_OPS(b, 2)
CONDITION_OPS(ae, 3)
CONDITION_OPS(e, 4)
CONDITION_OPS(ne, 5)
CONDITION_OPS(be, 6)
CONDITION_OPS(a, 7)
CONDITION_OPS(s, 8)
CONDITION_OPS(ns, 9)
CONDITION_OPS(p, 10)
CONDITION_OPS(np, 11)
CONDITION_OPS(l, 12)
CONDITION_OPS(ge, 13)
CONDITION_OPS(le, 14)
CONDITION_OPS(g, 15)

/* ---- flags ---- */

void soft_op_lahf(struct soft_cpu *cpu, const struct insn *in)
{
    put_reg(cpu, X86_HIGH, 1, (cpu->arith >> 8) | 2);
}

void soft_op_sahf(struct soft_cpu *cpu, const struct insn *in)
{
    cpu->arith = (uint16_t)((cpu->arith & 0xff) | ((cpu->reg[0] & 0xd500) | 0x200));
}

void soft_op_cmc(struct soft_cpu *cpu, const struct insn *in)
{
    cpu->arith ^= FL_CF << 8;
}

void soft_op_clc(struct soft_cpu *cpu, const struct insn *in)
{
    cpu->arith &= (uint16_t) ~(FL_CF << 8);
}

void soft_op_stc(struct soft_cpu *cpu, const struct insn *in)
{
    cpu->arith |= FL_CF << 8;
}

void soft_op_cld(struct soft_cpu *cpu, const struct insn *in)
{
    cpu->rflags &= ~(uint64_t)FL_DF;
}

void soft_op_std(struct soft_cpu *cpu, const struct insn *in)
{
    cpu->rflags |= FL_DF;
}

void soft_op_salc(struct soft_cpu *cpu, const struct insn *in)
{
    put_reg(cpu, 0, 1, cpu->arith >> 8 & FL_CF ? 0xff : 0);
}

/* ---- stack ---- */

void soft_op_push(struct soft_cpu *cpu, const struct insn *in)
{
    soft_push(cpu, in->opsize, operand_get(cpu, in, 0));
}

/* POP to memory computes its address with the RSP after the pop, and a fault undoes the pop. */
void soft_op_pop(struct soft_cpu *cpu, const struct insn *in)
{
    uint64_t rsp = cpu->reg[4], v = soft_pop(cpu, in->opsize), offset, after;

    if (!in->mem) {
        operand_put(cpu, in, 0, v);
        return;
    }
    offset = soft_ea(cpu, in);
    after = cpu->reg[4];
    cpu->reg[4] = rsp;
    soft_store(cpu, in->seg, offset, in->opsize, v);
    cpu->reg[4] = after;
}

void soft_op_pusha(struct soft_cpu *cpu, const struct insn *in)
{
    uint64_t mask = soft_sp_mask(cpu), sp = cpu->reg[4];
    unsigned size = in->opsize;

    for (unsigned i = 0; i < 8;
         i++) /* check all of it before the first write: both ends may fault */
        soft_probe_write(cpu, SEG_SS, (sp - (i + 1) * size) & mask, size);
    for (unsigned i = 0; i < 8; i++)
        soft_store(cpu, SEG_SS, (sp - (i + 1) * size) & mask, size, get_reg(cpu, i, size));
    cpu->reg[4] = (sp & ~mask) | ((sp - 8 * size) & mask);
}

void soft_op_popa(struct soft_cpu *cpu, const struct insn *in)
{
    uint64_t mask = soft_sp_mask(cpu), sp = cpu->reg[4], v[8];
    unsigned size = in->opsize;

    for (unsigned i = 0; i < 8; i++)
        v[i] = soft_load(cpu, SEG_SS, (sp + i * size) & mask, size);
    for (unsigned i = 0; i < 8; i++) {
        if (i != 3)
            put_reg(cpu, 7 - i, size, v[i]);
    }
    cpu->reg[4] = (sp & ~mask) | ((sp + 8 * size) & mask);
}

void soft_op_leave(struct soft_cpu *cpu, const struct insn *in)
{
    uint64_t mask = soft_sp_mask(cpu), bp = cpu->reg[5];
    uint64_t v = soft_load(cpu, SEG_SS, bp & mask, in->opsize);

    cpu->reg[4] = (cpu->reg[4] & ~mask) | ((bp + in->opsize) & mask);
    put_reg(cpu, 5, in->opsize, v);
}

/* ENTER: the frame pointers of the enclosing levels are copied first, registers change last. */
void soft_op_enter(struct soft_cpu *cpu, const struct insn *in)
{
    uint64_t mask = soft_sp_mask(cpu), sp = cpu->reg[4], bp = cpu->reg[5], frame;
    unsigned size = in->opsize, level = (in->imm >> 16) & 31;

    sp -= size;
    soft_store(cpu, SEG_SS, sp & mask, size, get_reg(cpu, 5, size));
    frame = sp;
    for (unsigned i = 1; i < level; i++) {
        bp -= size;
        sp -= size;
        soft_store(cpu, SEG_SS, sp & mask, size, soft_load(cpu, SEG_SS, bp & mask, size));
    }
    if (level > 0) {
        sp -= size;
        soft_store(cpu, SEG_SS, sp & mask, size, frame);
    }
    sp -= in->imm & 0xffff;
    soft_probe_write(cpu, SEG_SS, sp & mask, size);
    cpu->reg[4] = (cpu->reg[4] & ~mask) | (sp & mask);
    put_reg(cpu, 5, size, mask == 0xffff && size > 2 ? (bp & ~mask) | (frame & mask) : frame);
}
