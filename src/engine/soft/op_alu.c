/* SPDX-License-Identifier: MIT */
/* Instruction handlers: arithmetic, logic, shifts. Each opens its destination and runs the host's
 * own instruction on it, so that results and all flags, undefined ones included, are the
 * processor's. */
#include "engine/soft/operand.h"
#include "engine/soft/vector.h"
#include "engine/soft/ops.h"

/* One host instruction on memory `p` with a register source, under each operand size. */
#define RMW(ins, p, src, size, f)                                                                  \
    do {                                                                                           \
        switch (size) {                                                                            \
        case 1: RMW_ONE(ins "b %b[s], (%[p])", p, src, f); break;                                  \
        case 2: RMW_ONE(ins "w %w[s], (%[p])", p, src, f); break;                                  \
        case 4: RMW_ONE(ins "l %k[s], (%[p])", p, src, f); break;                                  \
        default: RMW_ONE(ins "q %q[s], (%[p])", p, src, f); break;                                 \
        }                                                                                          \
    } while (0)
#define RMW_ONE(text, ptr, src, f)                                                                 \
    __asm__ volatile(FLAGS_IN text "\n\t" FLAGS_OUT                                                \
                     : "+a"(f)                                                                     \
                     : [s] "r"(src), [p] "r"(ptr)                                                  \
                     : "memory", "cc")

#define UNARY(ins, p, size, f)                                                                     \
    do {                                                                                           \
        switch (size) {                                                                            \
        case 1: UNARY_ONE(ins "b (%[p])", p, f); break;                                            \
        case 2: UNARY_ONE(ins "w (%[p])", p, f); break;                                            \
        case 4: UNARY_ONE(ins "l (%[p])", p, f); break;                                            \
        default: UNARY_ONE(ins "q (%[p])", p, f); break;                                           \
        }                                                                                          \
    } while (0)
#define UNARY_ONE(text, ptr, f)                                                                    \
    __asm__ volatile(FLAGS_IN text "\n\t" FLAGS_OUT : "+a"(f) : [p] "r"(ptr) : "memory", "cc")

#define SHIFT(ins, p, count, size, f)                                                              \
    do {                                                                                           \
        switch (size) {                                                                            \
        case 1: SHIFT_ONE(ins "b %%cl, (%[p])", p, count, f); break;                               \
        case 2: SHIFT_ONE(ins "w %%cl, (%[p])", p, count, f); break;                               \
        case 4: SHIFT_ONE(ins "l %%cl, (%[p])", p, count, f); break;                               \
        default: SHIFT_ONE(ins "q %%cl, (%[p])", p, count, f); break;                              \
        }                                                                                          \
    } while (0)
#define SHIFT_ONE(text, ptr, count, f)                                                             \
    __asm__ volatile(FLAGS_IN text "\n\t" FLAGS_OUT                                                \
                     : "+a"(f)                                                                     \
                     : "c"(count), [p] "r"(ptr)                                                    \
                     : "memory", "cc")

static bool lock_memory(const struct operand *o)
{
    return o->locked && !o->copy;
}

/* Destination is operand 0, source operand 1. The source is read first: it may be memory, and
 * fault. */
#define BINARY_OP(name, ins)                                                                       \
    void soft_op_##name(struct soft_cpu *cpu, const struct insn *in)                               \
    {                                                                                              \
        uint64_t src = operand_get(cpu, in, 1);                                                    \
        uint16_t f = cpu->arith;                                                                   \
        struct operand o;                                                                          \
                                                                                                   \
        operand_open(cpu, in, 0, true, &o);                                                        \
        if (lock_memory(&o))                                                                       \
            RMW("lock; " ins, o.p, src, o.size, f);                                                \
        else                                                                                       \
            RMW(ins, o.p, src, o.size, f);                                                         \
        operand_close(cpu, &o);                                                                    \
        cpu->arith = f;                                                                            \
    }

BINARY_OP(add, "add")
BINARY_OP(or, "or")
BINARY_OP(adc, "adc")
BINARY_OP(sbb, "sbb")
BINARY_OP(and, "and")
BINARY_OP(sub, "sub")
BINARY_OP(xor, "xor")

#define COMPARE_OP(name, ins)                                                                      \
    void soft_op_##name(struct soft_cpu *cpu, const struct insn *in)                               \
    {                                                                                              \
        uint64_t dst = operand_get(cpu, in, 0), src = operand_get(cpu, in, 1);                     \
        unsigned size = operand_size(cpu, in, 0);                                                  \
        uint16_t f = cpu->arith;                                                                   \
                                                                                                   \
        RMW(ins, &dst, src, size, f);                                                              \
        cpu->arith = f;                                                                            \
    }

COMPARE_OP(cmp, "cmp")
COMPARE_OP(test, "test")

#define UNARY_OP(name, ins)                                                                        \
    void soft_op_##name(struct soft_cpu *cpu, const struct insn *in)                               \
    {                                                                                              \
        uint16_t f = cpu->arith;                                                                   \
        struct operand o;                                                                          \
                                                                                                   \
        operand_open(cpu, in, 0, true, &o);                                                        \
        if (lock_memory(&o))                                                                       \
            UNARY("lock; " ins, o.p, o.size, f);                                                   \
        else                                                                                       \
            UNARY(ins, o.p, o.size, f);                                                            \
        operand_close(cpu, &o);                                                                    \
        cpu->arith = f;                                                                            \
    }

UNARY_OP(inc, "inc")
UNARY_OP(dec, "dec")
UNARY_OP(neg, "neg")
UNARY_OP(not, "not")

#define SHIFT_OP(name, ins)                                                                        \
    void soft_op_##name(struct soft_cpu *cpu, const struct insn *in)                               \
    {                                                                                              \
        uint8_t count = (uint8_t)operand_get(cpu, in, 1);                                          \
        uint16_t f = cpu->arith;                                                                   \
        struct operand o;                                                                          \
                                                                                                   \
        operand_open(cpu, in, 0, true, &o);                                                        \
        SHIFT(ins, o.p, count, o.size, f);                                                         \
        operand_close(cpu, &o);                                                                    \
        cpu->arith = f;                                                                            \
    }

SHIFT_OP(rol, "rol")
SHIFT_OP(ror, "ror")
SHIFT_OP(rcl, "rcl")
SHIFT_OP(rcr, "rcr")
SHIFT_OP(shl, "shl")
SHIFT_OP(shr, "shr")
SHIFT_OP(sar, "sar")

#define DOUBLE_ONE(text, ptr, src, count, f)                                                       \
    __asm__ volatile(FLAGS_IN text "\n\t" FLAGS_OUT                                                \
                     : "+a"(f)                                                                     \
                     : [s] "r"(src), "c"(count), [p] "r"(ptr)                                      \
                     : "memory", "cc")
#define DOUBLE_OP(name)                                                                            \
    void soft_op_##name(struct soft_cpu *cpu, const struct insn *in)                               \
    {                                                                                              \
        uint64_t src = operand_get(cpu, in, 1);                                                    \
        uint8_t count = (uint8_t)operand_get(cpu, in, 2);                                          \
        uint16_t f = cpu->arith;                                                                   \
        struct operand o;                                                                          \
                                                                                                   \
        operand_open(cpu, in, 0, true, &o);                                                        \
        switch (o.size) {                                                                          \
        case 2: DOUBLE_ONE(#name "w %%cl, %w[s], (%[p])", o.p, src, count, f); break;              \
        case 4: DOUBLE_ONE(#name "l %%cl, %k[s], (%[p])", o.p, src, count, f); break;              \
        default: DOUBLE_ONE(#name "q %%cl, %q[s], (%[p])", o.p, src, count, f); break;             \
        }                                                                                          \
        operand_close(cpu, &o);                                                                    \
        cpu->arith = f;                                                                            \
    }

DOUBLE_OP(shld)
DOUBLE_OP(shrd)

/* ---- exchange ---- */

void soft_op_xchg(struct soft_cpu *cpu, const struct insn *in)
{
    uint64_t v = operand_get(cpu, in, 1);
    struct operand o;

    operand_open(cpu, in, 0, true, &o); /* XCHG with memory is atomic without LOCK */
    switch (o.size) {
    case 1: __asm__ volatile("xchgb %b0, (%1)" : "+q"(v) : "r"(o.p) : "memory"); break;
    case 2: __asm__ volatile("xchgw %w0, (%1)" : "+r"(v) : "r"(o.p) : "memory"); break;
    case 4: __asm__ volatile("xchgl %k0, (%1)" : "+r"(v) : "r"(o.p) : "memory"); break;
    default: __asm__ volatile("xchgq %q0, (%1)" : "+r"(v) : "r"(o.p) : "memory"); break;
    }
    operand_close(cpu, &o);
    operand_put(cpu, in, 1, v);
}

#define XADD_ONE(text, ptr, v, f)                                                                  \
    __asm__ volatile(FLAGS_IN text "\n\t" FLAGS_OUT                                                \
                     : "+a"(f), [v] "+r"(v)                                                        \
                     : [p] "r"(ptr)                                                                \
                     : "memory", "cc")

void soft_op_xadd(struct soft_cpu *cpu, const struct insn *in)
{
    uint64_t v = operand_get(cpu, in, 1);
    uint16_t f = cpu->arith;
    struct operand o;

    operand_open(cpu, in, 0, true, &o);
    switch (o.size) { /* LOCK on a copy or a register costs little and hurts nobody */
    case 1: XADD_ONE("lock; xaddb %b[v], (%[p])", o.p, v, f); break;
    case 2: XADD_ONE("lock; xaddw %w[v], (%[p])", o.p, v, f); break;
    case 4: XADD_ONE("lock; xaddl %k[v], (%[p])", o.p, v, f); break;
    default: XADD_ONE("lock; xaddq %q[v], (%[p])", o.p, v, f); break;
    }
    operand_close(cpu, &o);
    if (in->mem || in->rm != in->reg) /* XADD RAX, RAX leaves the sum */
        operand_put(cpu, in, 1, v);
    cpu->arith = f;
}

#define CMPXCHG_ONE(text, ptr, src, acc, f)                                                        \
    __asm__ volatile(FLAGS_IN "movq %[acc], %%rax\n\t" text "\n\tmovq %%rax, %[acc]\n\t" FLAGS_OUT \
                     : "+a"(f), [acc] "+r"(acc)                                                    \
                     : [s] "r"(src), [p] "r"(ptr)                                                  \
                     : "memory", "cc")

void soft_op_cmpxchg(struct soft_cpu *cpu, const struct insn *in)
{
    uint64_t src = operand_get(cpu, in, 1), acc = cpu->reg[0];
    uint16_t f = cpu->arith;
    struct operand o;

    operand_open(cpu, in, 0, true, &o);
    switch (o.size) {
    case 1: CMPXCHG_ONE("lock; cmpxchgb %b[s], (%[p])", o.p, src, acc, f); break;
    case 2: CMPXCHG_ONE("lock; cmpxchgw %w[s], (%[p])", o.p, src, acc, f); break;
    case 4: CMPXCHG_ONE("lock; cmpxchgl %k[s], (%[p])", o.p, src, acc, f); break;
    default: CMPXCHG_ONE("lock; cmpxchgq %q[s], (%[p])", o.p, src, acc, f); break;
    }
    if (!in->mem && !(f >> 8 & FL_ZF))
        o.write = false; /* a register keeps its upper half then */
    operand_close(cpu, &o);
    cpu->arith = f;
    if (!(f >> 8 & FL_ZF)) /* not equal: the accumulator takes what was there */
        put_reg(cpu, 0, o.size, acc);
}

void soft_op_cmpxchg8b(struct soft_cpu *cpu, const struct insn *in)
{
    uint64_t expected = (uint32_t)cpu->reg[0] | cpu->reg[2] << 32, old = expected;
    uint64_t desired = (uint32_t)cpu->reg[3] | cpu->reg[1] << 32;
    struct operand o;

    operand_open(cpu, in, 0, true, &o);
    __asm__ volatile("lock; cmpxchgq %[d], (%[p])"
                     : "+a"(old)
                     : [d] "r"(desired), [p] "r"(o.p)
                     : "memory", "cc");
    operand_close(cpu, &o);
    if (old == expected) {
        cpu->arith |= FL_ZF << 8;
        return;
    }
    cpu->arith &= (uint16_t) ~(FL_ZF << 8);
    put_reg(cpu, 0, 4, old);
    put_reg(cpu, 2, 4, old >> 32);
}

void soft_op_cmpxchg16b(struct soft_cpu *cpu, const struct insn *in)
{
    uint64_t low = cpu->reg[0], high = cpu->reg[2], offset = soft_ea(cpu, in);
    struct operand o;
    bool equal;

    if (soft_misaligned(cpu, in, offset, 16)) /* before the address itself is looked at */
        soft_gp(cpu, 0);
    operand_open_memory(cpu, in, offset, 16, true, &o);
    __asm__ volatile("lock; cmpxchg16b (%[p])"
                     : "=@ccz"(equal), "+a"(low), "+d"(high)
                     : "b"(cpu->reg[3]), "c"(cpu->reg[1]), [p] "r"(o.p)
                     : "memory");
    operand_close(cpu, &o);
    cpu->arith = (uint16_t)((cpu->arith & ~(FL_ZF << 8)) | (equal ? FL_ZF << 8 : 0));
    if (!equal) {
        cpu->reg[0] = low;
        cpu->reg[2] = high;
    }
}
