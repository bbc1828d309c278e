/* SPDX-License-Identifier: MIT */
/* Instruction handlers: multiplication, division, decimal, bits, BMI. The host computes where it
 * has the instruction in every baseline; the rest is plain C. */
#include "engine/soft/operand.h"
#include "engine/soft/ops.h"

/* One-operand MUL and IMUL: RDX:RAX (AX for bytes) by operand 0. */
#define WIDE_ONE(text, a, d, src, f)                                                               \
    __asm__ volatile(FLAGS_IN "movq %[lo], %%rax\n\t" text "\n\tmovq %%rax, %[lo]\n\t" FLAGS_OUT   \
                     : "=a"(f), [lo] "+r"(a), "+d"(d)                                              \
                     : [s] "r"(src), "0"(f)                                                        \
                     : "cc")
#define WIDE_OP(name, ins)                                                                         \
    void soft_op_##name(struct soft_cpu *cpu, const struct insn *in)                               \
    {                                                                                              \
        uint64_t src = operand_get(cpu, in, 0), a = cpu->reg[0], d = cpu->reg[2];                  \
        uint16_t f = cpu->arith;                                                                   \
                                                                                                   \
        switch (operand_size(cpu, in, 0)) {                                                        \
        case 1: WIDE_ONE(ins "b %b[s]", a, d, src, f); break;                                      \
        case 2: WIDE_ONE(ins "w %w[s]", a, d, src, f); break;                                      \
        case 4: WIDE_ONE(ins "l %k[s]", a, d, src, f); break;                                      \
        default: WIDE_ONE(ins "q %q[s]", a, d, src, f); break;                                     \
        }                                                                                          \
        cpu->reg[0] = a;                                                                           \
        cpu->reg[2] = d;                                                                           \
        cpu->arith = f;                                                                            \
    }

WIDE_OP(mul, "mul")
WIDE_OP(imul_1, "imul")

/* True: the quotient would not fit, or the divisor is 0. */
static bool divide_overflows(uint64_t high, uint64_t src, unsigned size)
{
    return (high & size_mask(size)) >= src;
}

static bool signed_overflows(unsigned __int128 value, int64_t src, unsigned size)
{
    __int128 v = (__int128)value, q, limit = (__int128)1 << (size * 8 - 1);

    if (src == 0 || (src == -1 && v == (__int128)((unsigned __int128)1 << 127)))
        return true;
    q = v / src;
    return q >= limit || q < -limit;
}

static unsigned __int128 dividend(const struct soft_cpu *cpu, unsigned size)
{
    switch (size) {
    case 1: return (unsigned __int128)(__int128)(int16_t)cpu->reg[0];
    case 2:
        return (unsigned __int128)(__int128)(int32_t)(uint32_t)((uint16_t)cpu->reg[0] |
                                                                (uint32_t)cpu->reg[2] << 16);
    case 4:
        return (unsigned __int128)(__int128)(int64_t)((uint32_t)cpu->reg[0] | cpu->reg[2] << 32);
    default: return (unsigned __int128)cpu->reg[2] << 64 | cpu->reg[0];
    }
}

#define DIVIDE_OP(name, overflow)                                                                  \
    void soft_op_##name(struct soft_cpu *cpu, const struct insn *in)                               \
    {                                                                                              \
        uint64_t src = operand_get(cpu, in, 0), a = cpu->reg[0], d = cpu->reg[2];                  \
        unsigned size = operand_size(cpu, in, 0);                                                  \
        uint16_t f = cpu->arith;                                                                   \
                                                                                                   \
        if (overflow)                                                                              \
            soft_raise(cpu, VEC_DE, NO_CODE);                                                      \
        switch (size) {                                                                            \
        case 1: WIDE_ONE(#name "b %b[s]", a, d, src, f); break;                                    \
        case 2: WIDE_ONE(#name "w %w[s]", a, d, src, f); break;                                    \
        case 4: WIDE_ONE(#name "l %k[s]", a, d, src, f); break;                                    \
        default: WIDE_ONE(#name "q %q[s]", a, d, src, f); break;                                   \
        }                                                                                          \
        cpu->reg[0] = a;                                                                           \
        cpu->reg[2] = d;                                                                           \
        cpu->arith = f;                                                                            \
    }

DIVIDE_OP(div, divide_overflows(size == 1 ? a >> 8 : d, src, size))
DIVIDE_OP(idiv, signed_overflows(dividend(cpu, size), sign_extend(src, size), size))

/* Two and three operands: the last two are multiplied; with two, operand 0 is one of them. */
#define REG_OP_ONE(text, dst, src, f)                                                              \
    __asm__ volatile(FLAGS_IN text "\n\t" FLAGS_OUT                                                \
                     : "+a"(f), [d] "+r"(dst)                                                      \
                     : [s] "r"(src)                                                                \
                     : "c"                                                                         \
                       "c")
#define REG_OP(ins, dst, src, size, f)                                                             \
    do {                                                                                           \
        switch (size) {                                                                            \
        case 2: REG_OP_ONE(ins "w %w[s], %w[d]", dst, src, f); break;                              \
        case 4: REG_OP_ONE(ins "l %k[s], %k[d]", dst, src, f); break;                              \
        default: REG_OP_ONE(ins "q %q[s], %q[d]", dst, src, f); break;                             \
        }                                                                                          \
    } while (0)

void soft_op_imul(struct soft_cpu *cpu, const struct insn *in)
{
    bool three = has_operand(in, 2);
    uint64_t src = operand_get(cpu, in, 1), dst = three ? in->imm : operand_get(cpu, in, 0);
    uint16_t f = cpu->arith;

    REG_OP("imul", dst, src, in->opsize, f);
    operand_put(cpu, in, 0, dst);
    cpu->arith = f;
}

#define SCAN_OP(name)                                                                              \
    void soft_op_##name(struct soft_cpu *cpu, const struct insn *in)                               \
    {                                                                                              \
        uint64_t src = operand_get(cpu, in, 1), dst = operand_get(cpu, in, 0);                     \
        uint16_t f = cpu->arith;                                                                   \
                                                                                                   \
        if (in->opsize == 8 || src != 0 || in->opsize == 2)                                        \
            REG_OP(#name, dst, src, in->opsize, f);                                                \
        else { /* source 0: the host leaves its 64-bit destination alone, so must we */            \
            dst = cpu->reg[in->reg];                                                               \
            REG_OP_ONE(#name "l %k[s], %k[d]", dst, src, f);                                       \
            cpu->reg[in->reg] = dst;                                                               \
            cpu->arith = f;                                                                        \
            return;                                                                                \
        }                                                                                          \
        operand_put(cpu, in, 0, dst);                                                              \
        cpu->arith = f;                                                                            \
    }

SCAN_OP(bsf)
SCAN_OP(bsr)

#define COUNT_OP(name)                                                                             \
    void soft_op_##name(struct soft_cpu *cpu, const struct insn *in)                               \
    {                                                                                              \
        uint64_t src = operand_get(cpu, in, 1), dst = 0;                                           \
        uint16_t f = cpu->arith;                                                                   \
                                                                                                   \
        REG_OP(#name, dst, src, in->opsize, f);                                                    \
        operand_put(cpu, in, 0, dst);                                                              \
        cpu->arith = f;                                                                            \
    }

COUNT_OP(tzcnt)
COUNT_OP(lzcnt)
COUNT_OP(popcnt)

#define CARRY_OP(name)                                                                             \
    void soft_op_##name(struct soft_cpu *cpu, const struct insn *in)                               \
    {                                                                                              \
        uint64_t src = operand_get(cpu, in, 1), dst = operand_get(cpu, in, 0);                     \
        unsigned size = operand_size(cpu, in, 0);                                                  \
        uint16_t f = cpu->arith;                                                                   \
                                                                                                   \
        if (size == 4)                                                                             \
            REG_OP_ONE(#name "l %k[s], %k[d]", dst, src, f);                                       \
        else                                                                                       \
            REG_OP_ONE(#name "q %q[s], %q[d]", dst, src, f);                                       \
        operand_put(cpu, in, 0, dst);                                                              \
        cpu->arith = f;                                                                            \
    }

CARRY_OP(adcx)
CARRY_OP(adox)

void soft_op_crc32(struct soft_cpu *cpu, const struct insn *in)
{
    uint64_t crc = cpu->reg[in->reg], src = operand_get(cpu, in, 1);

    switch (operand_size(cpu, in, 1)) {
    case 1: __asm__("crc32b %b1, %k0" : "+r"(crc) : "r"(src)); break;
    case 2: __asm__("crc32w %w1, %k0" : "+r"(crc) : "r"(src)); break;
    case 4: __asm__("crc32l %k1, %k0" : "+r"(crc) : "r"(src)); break;
    default: __asm__("crc32q %q1, %q0" : "+r"(crc) : "r"(src)); break;
    }
    put_reg(cpu, in->reg, 8, (uint32_t)crc);
}

/* ---- bit tests ---- */

/* With a register as bit number and a memory operand, the number reaches beyond the operand. */
static void open_bit(struct soft_cpu *cpu, const struct insn *in, bool write, struct operand *o,
                     uint64_t *bit)
{
    unsigned size = in->opsize, width = size * 8;

    *bit = operand_get(cpu, in, 1);
    if (in->mem && kind_of(in, 1).place == X86_AT_REG) {
        int64_t n = sign_extend(*bit, size);
        uint64_t offset = soft_ea(cpu, in) + (uint64_t)(n >> (size == 2   ? 4
                                                              : size == 4 ? 5
                                                                          : 6)) *
                                                 size;

        offset = in->adsize == 8 ? offset : in->adsize == 4 ? (uint32_t)offset : (uint16_t)offset;
        operand_open_memory(cpu, in, offset, size, write, o);
    } else {
        operand_open(cpu, in, 0, write, o);
    }
    *bit &= width - 1;
}

#define BIT_OP(name, write)                                                                        \
    void soft_op_##name(struct soft_cpu *cpu, const struct insn *in)                               \
    {                                                                                              \
        uint16_t f = cpu->arith;                                                                   \
        struct operand o;                                                                          \
        uint64_t bit;                                                                              \
                                                                                                   \
        open_bit(cpu, in, write, &o, &bit);                                                        \
        switch (o.size + (write && o.locked && !o.copy ? 16 : 0)) {                                \
        case 2: BIT_ONE(#name "w %w[b], (%[p])", o.p, bit, f); break;                              \
        case 4: BIT_ONE(#name "l %k[b], (%[p])", o.p, bit, f); break;                              \
        case 8: BIT_ONE(#name "q %q[b], (%[p])", o.p, bit, f); break;                              \
        case 18: BIT_ONE(BIT_LOCK_##write #name "w %w[b], (%[p])", o.p, bit, f); break;            \
        case 20: BIT_ONE(BIT_LOCK_##write #name "l %k[b], (%[p])", o.p, bit, f); break;            \
        default: BIT_ONE(BIT_LOCK_##write #name "q %q[b], (%[p])", o.p, bit, f); break;            \
        }                                                                                          \
        operand_close(cpu, &o);                                                                    \
        cpu->arith = f;                                                                            \
    }
#define BIT_ONE(text, ptr, bit, f)                                                                 \
    __asm__ volatile(FLAGS_IN text "\n\t" FLAGS_OUT                                                \
                     : "+a"(f)                                                                     \
                     : [b] "r"(bit), [p] "r"(ptr)                                                  \
                     : "memory", "cc")
#define BIT_LOCK_1 "lock; "
#define BIT_LOCK_0

BIT_OP(bt, 0)
BIT_OP(bts, 1)
BIT_OP(btr, 1)
BIT_OP(btc, 1)

/* ---- decimal: SDM volume 2; undefined flags as Intel's processors leave them ---- */

static void set_szp(struct soft_cpu *cpu, uint8_t v, bool cf, bool af)
{
    unsigned f = 2 | (cf ? FL_CF : 0) | (af ? FL_AF : 0) | (v == 0 ? FL_ZF : 0) |
                 (v & 0x80 ? FL_SF : 0) | (__builtin_parity(v) ? 0 : FL_PF);

    cpu->arith = (uint16_t)(f << 8);
}

static void decimal_adjust(struct soft_cpu *cpu, bool subtract)
{
    uint8_t al = (uint8_t)cpu->reg[0], old = al;
    bool old_cf = cpu->arith >> 8 & FL_CF, cf = false, af = cpu->arith >> 8 & FL_AF;

    if ((al & 15) > 9 || af) {
        cf = old_cf || (subtract ? al < 6 : al > 0xf9);
        al = (uint8_t)(subtract ? al - 6 : al + 6);
        af = true;
    }
    if (old > 0x99 || old_cf) {
        al = (uint8_t)(subtract ? al - 0x60 : al + 0x60);
        cf = true;
    }
    put_reg(cpu, 0, 1, al);
    set_szp(cpu, al, cf, af);
}

void soft_op_daa(struct soft_cpu *cpu, const struct insn *in)
{
    decimal_adjust(cpu, false);
}

void soft_op_das(struct soft_cpu *cpu, const struct insn *in)
{
    decimal_adjust(cpu, true);
}

static void ascii_adjust(struct soft_cpu *cpu, bool subtract)
{
    uint16_t ax = (uint16_t)cpu->reg[0];
    bool adjust = (ax & 15) > 9 || (cpu->arith >> 8 & FL_AF);

    if (adjust)
        ax = (uint16_t)(subtract ? ax - 0x106 : ax + 0x106);
    put_reg(cpu, 0, 2, ax & 0xff0f);
    set_szp(cpu, (uint8_t)(ax & 0x0f), adjust, adjust);
}

void soft_op_aaa(struct soft_cpu *cpu, const struct insn *in)
{
    ascii_adjust(cpu, false);
}

void soft_op_aas(struct soft_cpu *cpu, const struct insn *in)
{
    ascii_adjust(cpu, true);
}

void soft_op_aam(struct soft_cpu *cpu, const struct insn *in)
{
    uint8_t al = (uint8_t)cpu->reg[0], base = (uint8_t)in->imm;

    if (base == 0)
        soft_raise(cpu, VEC_DE, NO_CODE);
    put_reg(cpu, 0, 2, (uint64_t)(al / base) << 8 | al % base);
    set_szp(cpu, al % base, false, false);
}

void soft_op_aad(struct soft_cpu *cpu, const struct insn *in)
{
    uint16_t ax = (uint16_t)cpu->reg[0];
    uint8_t al = (uint8_t)((ax & 0xff) + (ax >> 8) * (uint8_t)in->imm);

    put_reg(cpu, 0, 2, al);
    set_szp(cpu, al, false, false);
}

/* ---- BMI ---- */

static void set_logic_flags(struct soft_cpu *cpu, uint64_t v, unsigned size, bool cf)
{
    unsigned keep = cpu->arith >> 8 & (FL_AF | FL_PF);
    unsigned f =
        2 | keep | (cf ? FL_CF : 0) | (v == 0 ? FL_ZF : 0) | (v >> (size * 8 - 1) & 1 ? FL_SF : 0);

    cpu->arith = (uint16_t)(f << 8);
}

void soft_op_andn(struct soft_cpu *cpu, const struct insn *in)
{
    unsigned size = operand_size(cpu, in, 0);
    uint64_t v = ~operand_get(cpu, in, 1) & operand_get(cpu, in, 2) & size_mask(size);

    operand_put(cpu, in, 0, v);
    set_logic_flags(cpu, v, size, false);
}

void soft_op_blsr(struct soft_cpu *cpu, const struct insn *in)
{
    unsigned size = operand_size(cpu, in, 0);
    uint64_t src = operand_get(cpu, in, 1), v = src & (src - 1) & size_mask(size);

    operand_put(cpu, in, 0, v);
    set_logic_flags(cpu, v, size, src == 0);
}

void soft_op_blsmsk(struct soft_cpu *cpu, const struct insn *in)
{
    unsigned size = operand_size(cpu, in, 0);
    uint64_t src = operand_get(cpu, in, 1), v = (src ^ (src - 1)) & size_mask(size);

    operand_put(cpu, in, 0, v);
    set_logic_flags(cpu, v, size, src == 0);
}

void soft_op_blsi(struct soft_cpu *cpu, const struct insn *in)
{
    unsigned size = operand_size(cpu, in, 0);
    uint64_t src = operand_get(cpu, in, 1), v = src & -src & size_mask(size);

    operand_put(cpu, in, 0, v);
    set_logic_flags(cpu, v, size, src != 0);
}

void soft_op_bextr(struct soft_cpu *cpu, const struct insn *in)
{
    unsigned size = operand_size(cpu, in, 0), start, len;
    uint64_t v = operand_get(cpu, in, 1), control = operand_get(cpu, in, 2);

    start = control & 0xff;
    len = control >> 8 & 0xff;
    v = start < size * 8 ? v >> start : 0;
    if (len < size * 8)
        v &= BIT(len) - 1;
    operand_put(cpu, in, 0, v);
    set_logic_flags(cpu, v, size, false);
    cpu->arith &= (uint16_t) ~(FL_SF << 8);
}

void soft_op_bzhi(struct soft_cpu *cpu, const struct insn *in)
{
    unsigned size = operand_size(cpu, in, 0), n;
    uint64_t v = operand_get(cpu, in, 1);

    n = operand_get(cpu, in, 2) & 0xff;
    if (n < size * 8)
        v &= BIT(n) - 1;
    operand_put(cpu, in, 0, v);
    set_logic_flags(cpu, v, size, n >= size * 8);
}

void soft_op_pdep(struct soft_cpu *cpu, const struct insn *in)
{
    uint64_t src = operand_get(cpu, in, 1), mask = operand_get(cpu, in, 2), v = 0;

    for (; mask != 0; mask &= mask - 1, src >>= 1) {
        if (src & 1)
            v |= mask & -mask;
    }
    operand_put(cpu, in, 0, v);
}

void soft_op_pext(struct soft_cpu *cpu, const struct insn *in)
{
    uint64_t src = operand_get(cpu, in, 1), mask = operand_get(cpu, in, 2), v = 0;

    for (unsigned i = 0; mask != 0; mask &= mask - 1, i++) {
        if (src & mask & -mask)
            v |= BIT(i);
    }
    operand_put(cpu, in, 0, v);
}

void soft_op_mulx(struct soft_cpu *cpu, const struct insn *in)
{
    unsigned size = operand_size(cpu, in, 0);
    unsigned __int128 v = (unsigned __int128)get_reg(cpu, 2, size) * operand_get(cpu, in, 2);

    operand_put(cpu, in, 1, (uint64_t)v); /* the high half wins if both are one register */
    operand_put(cpu, in, 0, (uint64_t)(v >> (size * 8)));
}

void soft_op_shlx(struct soft_cpu *cpu, const struct insn *in)
{
    unsigned bits = operand_size(cpu, in, 0) * 8;

    operand_put(cpu, in, 0, operand_get(cpu, in, 1) << (operand_get(cpu, in, 2) & (bits - 1)));
}

void soft_op_shrx(struct soft_cpu *cpu, const struct insn *in)
{
    unsigned bits = operand_size(cpu, in, 0) * 8;

    operand_put(cpu, in, 0, operand_get(cpu, in, 1) >> (operand_get(cpu, in, 2) & (bits - 1)));
}

void soft_op_sarx(struct soft_cpu *cpu, const struct insn *in)
{
    unsigned size = operand_size(cpu, in, 0);
    int64_t v = sign_extend(operand_get(cpu, in, 1), size);

    operand_put(cpu, in, 0, (uint64_t)(v >> (operand_get(cpu, in, 2) & (size * 8 - 1))));
}

void soft_op_rorx(struct soft_cpu *cpu, const struct insn *in)
{
    unsigned size = operand_size(cpu, in, 0), bits = size * 8, n = in->imm & (bits - 1);
    uint64_t v = operand_get(cpu, in, 1);

    operand_put(cpu, in, 0, n == 0 ? v : v >> n | v << (bits - n));
}
