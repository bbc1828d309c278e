/* SPDX-License-Identifier: MIT */
/* Fast uops: arithmetic and logic. The host instruction computes result and flags; LAHF and SETO
 * save the flags. No handler calls anything but soft_slow, and that as its last act. */
#include "engine/soft/uop_mem.h"

/* ADC and SBB begin with the guest's CF, INC and DEC keep it. */
#define CARRY_IN "btw $8, %[arith]\n\t"
#define NO_CARRY ""

#define RR_ASM(pre, text, d, s, f)                                                                 \
    __asm__(pre text "\n\t" FLAGS_OUT                                                              \
            : [d] "+r"(d), "=&a"(f)                                                                \
            : [s] "r"(s), [arith] "m"(cpu->arith)                                                  \
            : "cc")
#define MR_ASM(pre, text, p, s, f)                                                                 \
    __asm__ volatile(pre text "\n\t" FLAGS_OUT                                                     \
                     : "=&a"(f)                                                                    \
                     : [s] "r"(s), [p] "r"(p), [arith] "m"(cpu->arith)                             \
                     : "memory", "cc")

/* reg, reg and reg, imm */
#define ALU_REG(x, type, size, bits, name, pre, keep)                                              \
    UOP name##_rr_##x(struct soft_cpu *cpu, const struct uop *u)                                   \
    {                                                                                              \
        type d = REG(type, u->dst), s = REG(type, u->src);                                         \
        uint16_t f;                                                                                \
                                                                                                   \
        RR_ASM(pre, #name #x " %[s], %[d]", d, s, f);                                              \
        keep(bits);                                                                                \
        cpu->arith = f;                                                                            \
        NEXT;                                                                                      \
    }                                                                                              \
    UOP name##_ri_##x(struct soft_cpu *cpu, const struct uop *u)                                   \
    {                                                                                              \
        type d = REG(type, u->dst), s = (type)u->imm;                                              \
        uint16_t f;                                                                                \
                                                                                                   \
        RR_ASM(pre, #name #x " %[s], %[d]", d, s, f);                                              \
        keep(bits);                                                                                \
        cpu->arith = f;                                                                            \
        NEXT;                                                                                      \
    }

#define KEEP(bits)    put##bits(cpu, u->dst, d)
#define DISCARD(bits) (void)0

/* reg, mem */
#define ALU_LOAD(x, type, size, bits, name, pre, keep, ea)                                         \
    UOP name##_rm_##ea##_##x(struct soft_cpu *cpu, const struct uop *u)                            \
    {                                                                                              \
        type d = REG(type, u->dst), s;                                                             \
        uint16_t f;                                                                                \
        uint8_t *p;                                                                                \
                                                                                                   \
        if (!uop_read(cpu, u, EA_##ea, size, &p))                                                  \
            return soft_slow(cpu, u);                                                              \
        s = GUEST(type, p);                                                                        \
        RR_ASM(pre, #name #x " %[s], %[d]", d, s, f);                                              \
        keep(bits);                                                                                \
        cpu->arith = f;                                                                            \
        NEXT;                                                                                      \
    }

/* mem, reg and mem, imm; `tag` and `lock` make the LOCKed twins */
#define ALU_STORE(x, type, size, bits, name, pre, reach, ea, tag, lock)                            \
    UOP name##_##tag##mr_##ea##_##x(struct soft_cpu *cpu, const struct uop *u)                     \
    {                                                                                              \
        type s = REG(type, u->src);                                                                \
        uint16_t f;                                                                                \
        uint8_t *p;                                                                                \
                                                                                                   \
        if (!reach(cpu, u, EA_##ea, size, &p))                                                     \
            return soft_slow(cpu, u);                                                              \
        MR_ASM(pre, lock #name #x " %[s], (%[p])", p, s, f);                                       \
        cpu->arith = f;                                                                            \
        NEXT;                                                                                      \
    }                                                                                              \
    UOP name##_##tag##mi_##ea##_##x(struct soft_cpu *cpu, const struct uop *u)                     \
    {                                                                                              \
        type s = (type)u->imm;                                                                     \
        uint16_t f;                                                                                \
        uint8_t *p;                                                                                \
                                                                                                   \
        if (!reach(cpu, u, EA_##ea, size, &p))                                                     \
            return soft_slow(cpu, u);                                                              \
        MR_ASM(pre, lock #name #x " %[s], (%[p])", p, s, f);                                       \
        cpu->arith = f;                                                                            \
        NEXT;                                                                                      \
    }

#define ALU_OP(name, pre, keep, reach)                                                             \
    SIZES(ALU_REG, name, pre, keep)                                                                \
    SIZES(ALU_LOAD, name, pre, keep, B)                                                            \
    SIZES(ALU_LOAD, name, pre, keep, X)                                                            \
    SIZES(ALU_LOAD, name, pre, keep, X32)                                                          \
    SIZES(ALU_STORE, name, pre, reach, B, , "")                                                    \
    SIZES(ALU_STORE, name, pre, reach, X, , "")                                                    \
    SIZES(ALU_STORE, name, pre, reach, X32, , "")
#define ALU_LOCK(name, pre)                                                                        \
    SIZES(ALU_STORE, name, pre, uop_write, B, lock_, "lock; ")                                     \
    SIZES(ALU_STORE, name, pre, uop_write, X, lock_, "lock; ")                                     \
    SIZES(ALU_STORE, name, pre, uop_write, X32, lock_, "lock; ")

ALU_OP(add, NO_CARRY, KEEP, uop_write)
ALU_OP(or, NO_CARRY, KEEP, uop_write)
ALU_OP(adc, CARRY_IN, KEEP, uop_write)
ALU_OP(sbb, CARRY_IN, KEEP, uop_write)
ALU_OP(and, NO_CARRY, KEEP, uop_write)
ALU_OP(sub, NO_CARRY, KEEP, uop_write)
ALU_OP(xor, NO_CARRY, KEEP, uop_write)
ALU_OP(cmp, NO_CARRY, DISCARD, uop_read)
ALU_OP(test, NO_CARRY, DISCARD, uop_read)
ALU_LOCK(add, NO_CARRY)
ALU_LOCK(or, NO_CARRY)
ALU_LOCK(adc, CARRY_IN)
ALU_LOCK(sbb, CARRY_IN)
ALU_LOCK(and, NO_CARRY)
ALU_LOCK(sub, NO_CARRY)
ALU_LOCK(xor, NO_CARRY)

#define OF_SIZES(name)                                                                             \
    {                                                                                              \
        name##_b, name##_w, name##_l, name##_q                                                     \
    }
#define OF_EA(name)                                                                                \
    {                                                                                              \
        OF_SIZES(name##_B), OF_SIZES(name##_X), OF_SIZES(name##_X32)                               \
    }
#define ALL_ALU(list, form)                                                                        \
    {                                                                                              \
        list(add_##form), list(or_##form), list(adc_##form), list(sbb_##form), list(and_##form),   \
            list(sub_##form), list(xor_##form), list(cmp_##form), list(test_##form)                \
    }
#define LOCK_ALU(form)                                                                             \
    {                                                                                              \
        OF_EA(add_##form), OF_EA(or_##form), OF_EA(adc_##form), OF_EA(sbb_##form),                 \
            OF_EA(and_##form), OF_EA(sub_##form), OF_EA(xor_##form)                                \
    }

uop_fn *const uop_alu_rr[ALU_COUNT][SIZE_KINDS] = ALL_ALU(OF_SIZES, rr);
uop_fn *const uop_alu_ri[ALU_COUNT][SIZE_KINDS] = ALL_ALU(OF_SIZES, ri);
uop_fn *const uop_alu_rm[ALU_COUNT][EA_KINDS][SIZE_KINDS] = ALL_ALU(OF_EA, rm);
uop_fn *const uop_alu_mr[ALU_COUNT][EA_KINDS][SIZE_KINDS] = ALL_ALU(OF_EA, mr);
uop_fn *const uop_alu_mi[ALU_COUNT][EA_KINDS][SIZE_KINDS] = ALL_ALU(OF_EA, mi);
uop_fn *const uop_lock_mr[ALU_COUNT][EA_KINDS][SIZE_KINDS] = LOCK_ALU(lock_mr);
uop_fn *const uop_lock_mi[ALU_COUNT][EA_KINDS][SIZE_KINDS] = LOCK_ALU(lock_mi);

/* ---- without flags: nobody reads them before they are overwritten ---- */

#define QUIET_OP(x, type, size, bits, name, op)                                                    \
    UOP name##_quiet_rr_##x(struct soft_cpu *cpu, const struct uop *u)                             \
    {                                                                                              \
        put##bits(cpu, u->dst, (type)(REG(type, u->dst) op REG(type, u->src)));                    \
        NEXT;                                                                                      \
    }                                                                                              \
    UOP name##_quiet_ri_##x(struct soft_cpu *cpu, const struct uop *u)                             \
    {                                                                                              \
        put##bits(cpu, u->dst, (type)(REG(type, u->dst) op(type) u->imm));                         \
        NEXT;                                                                                      \
    }

SIZES(QUIET_OP, add, +)
SIZES(QUIET_OP, or, |)
SIZES(QUIET_OP, and, &)
SIZES(QUIET_OP, sub, -)
SIZES(QUIET_OP, xor, ^)

#define QUIET_ALU(form)                                                                            \
    {                                                                                              \
        [ALU_ADD] = OF_SIZES(add_##form), [ALU_OR] = OF_SIZES(or_##form),                          \
        [ALU_AND] = OF_SIZES(and_##form), [ALU_SUB] = OF_SIZES(sub_##form),                        \
        [ALU_XOR] = OF_SIZES(xor_##form)                                                           \
    }
uop_fn *const uop_quiet_rr[ALU_COUNT][SIZE_KINDS] = QUIET_ALU(quiet_rr);
uop_fn *const uop_quiet_ri[ALU_COUNT][SIZE_KINDS] = QUIET_ALU(quiet_ri);

/* ---- one operand ---- */

#define UNARY_REG(x, type, size, bits, name, pre, flags)                                           \
    UOP name##_r_##x(struct soft_cpu *cpu, const struct uop *u)                                    \
    {                                                                                              \
        type d = REG(type, u->dst);                                                                \
        uint16_t f;                                                                                \
                                                                                                   \
        __asm__(pre #name #x " %[d]\n\t" FLAGS_OUT                                                 \
                : [d] "+r"(d), "=&a"(f)                                                            \
                : [arith] "m"(cpu->arith)                                                          \
                : "cc");                                                                           \
        put##bits(cpu, u->dst, d);                                                                 \
        flags;                                                                                     \
        NEXT;                                                                                      \
    }

#define UNARY_MEM(x, type, size, bits, name, pre, flags, ea, tag, lock)                            \
    UOP name##_##tag##m_##ea##_##x(struct soft_cpu *cpu, const struct uop *u)                      \
    {                                                                                              \
        uint16_t f;                                                                                \
        uint8_t *p;                                                                                \
                                                                                                   \
        if (!uop_write(cpu, u, EA_##ea, size, &p))                                                 \
            return soft_slow(cpu, u);                                                              \
        __asm__ volatile(pre lock #name #x " (%[p])\n\t" FLAGS_OUT                                 \
                         : "=&a"(f)                                                                \
                         : [p] "r"(p), [arith] "m"(cpu->arith)                                     \
                         : "memory", "cc");                                                        \
        flags;                                                                                     \
        NEXT;                                                                                      \
    }

#define UNARY_OP(name, pre, flags)                                                                 \
    SIZES(UNARY_REG, name, pre, flags)                                                             \
    SIZES(UNARY_MEM, name, pre, flags, B, , "")                                                    \
    SIZES(UNARY_MEM, name, pre, flags, X, , "")                                                    \
    SIZES(UNARY_MEM, name, pre, flags, X32, , "")                                                  \
    SIZES(UNARY_MEM, name, pre, flags, B, lock_, "lock; ")                                         \
    SIZES(UNARY_MEM, name, pre, flags, X, lock_, "lock; ")                                         \
    SIZES(UNARY_MEM, name, pre, flags, X32, lock_, "lock; ")

UNARY_OP(inc, CARRY_IN, cpu->arith = f)
UNARY_OP(dec, CARRY_IN, cpu->arith = f)
UNARY_OP(neg, NO_CARRY, cpu->arith = f)
UNARY_OP(not, NO_CARRY, (void)f)

#define ALL_UNARY(list, form)                                                                      \
    {                                                                                              \
        list(inc_##form), list(dec_##form), list(neg_##form), list(not_##form)                     \
    }
uop_fn *const uop_unary_r[UNARY_COUNT][SIZE_KINDS] = ALL_UNARY(OF_SIZES, r);
uop_fn *const uop_unary_m[UNARY_COUNT][EA_KINDS][SIZE_KINDS] = ALL_UNARY(OF_EA, m);
uop_fn *const uop_unary_lock[UNARY_COUNT][EA_KINDS][SIZE_KINDS] = ALL_UNARY(OF_EA, lock_m);

/* ---- shifts: SHL, SHR and SAR write every flag; rotates keep most ---- */

#define SHIFT_REG(x, type, size, bits, name, pre)                                                  \
    UOP name##_i_##x(struct soft_cpu *cpu, const struct uop *u)                                    \
    {                                                                                              \
        type d = REG(type, u->dst);                                                                \
        uint16_t f = cpu->arith;                                                                   \
                                                                                                   \
        __asm__(pre #name #x " %%cl, %[d]\n\t" FLAGS_OUT                                           \
                : [d] "+r"(d), "+a"(f)                                                             \
                : "c"((uint8_t)u->imm)                                                             \
                : "cc");                                                                           \
        put##bits(cpu, u->dst, d);                                                                 \
        cpu->arith = f;                                                                            \
        NEXT;                                                                                      \
    }                                                                                              \
    UOP name##_cl_##x(struct soft_cpu *cpu, const struct uop *u)                                   \
    {                                                                                              \
        type d = REG(type, u->dst);                                                                \
        uint16_t f = cpu->arith;                                                                   \
                                                                                                   \
        __asm__(FLAGS_IN #name #x " %%cl, %[d]\n\t" FLAGS_OUT                                      \
                : [d] "+r"(d), "+a"(f)                                                             \
                : "c"((uint8_t)cpu->reg[1])                                                        \
                : "cc");                                                                           \
        put##bits(cpu, u->dst, d);                                                                 \
        cpu->arith = f;                                                                            \
        NEXT;                                                                                      \
    }

SIZES(SHIFT_REG, rol, FLAGS_IN)
SIZES(SHIFT_REG, ror, FLAGS_IN)
SIZES(SHIFT_REG, shl, "")
SIZES(SHIFT_REG, shr, "")
SIZES(SHIFT_REG, sar, "")

#define ALL_SHIFT(form)                                                                            \
    {                                                                                              \
        OF_SIZES(rol_##form), OF_SIZES(ror_##form), OF_SIZES(shl_##form), OF_SIZES(shr_##form),    \
            OF_SIZES(sar_##form)                                                                   \
    }
uop_fn *const uop_shift_i[SHIFT_COUNT][SIZE_KINDS] = ALL_SHIFT(i);
uop_fn *const uop_shift_cl[SHIFT_COUNT][SIZE_KINDS] = ALL_SHIFT(cl);

/* ---- multiplication, bit test ---- */

#define IMUL_REG(x, type, size, bits, unused)                                                      \
    UOP imul_rr_##x(struct soft_cpu *cpu, const struct uop *u)                                     \
    {                                                                                              \
        type d = REG(type, u->dst), s = REG(type, u->src);                                         \
        uint16_t f = cpu->arith;                                                                   \
                                                                                                   \
        __asm__(FLAGS_IN "imul" #x " %[s], %[d]\n\t" FLAGS_OUT                                     \
                : [d] "+&r"(d), "+&a"(f)                                                           \
                : [s] "r"(s)                                                                       \
                : "cc");                                                                           \
        put##bits(cpu, u->dst, d);                                                                 \
        cpu->arith = f;                                                                            \
        NEXT;                                                                                      \
    }                                                                                              \
    UOP imul_rri_##x(struct soft_cpu *cpu, const struct uop *u)                                    \
    {                                                                                              \
        type d = (type)u->imm, s = REG(type, u->src);                                              \
        uint16_t f = cpu->arith;                                                                   \
                                                                                                   \
        __asm__(FLAGS_IN "imul" #x " %[s], %[d]\n\t" FLAGS_OUT                                     \
                : [d] "+&r"(d), "+&a"(f)                                                           \
                : [s] "r"(s)                                                                       \
                : "cc");                                                                           \
        put##bits(cpu, u->dst, d);                                                                 \
        cpu->arith = f;                                                                            \
        NEXT;                                                                                      \
    }                                                                                              \
    UOP bt_rr_##x(struct soft_cpu *cpu, const struct uop *u)                                       \
    {                                                                                              \
        type d = REG(type, u->dst), s = REG(type, u->src);                                         \
        uint16_t f = cpu->arith;                                                                   \
                                                                                                   \
        __asm__(FLAGS_IN "bt" #x " %[s], %[d]\n\t" FLAGS_OUT                                       \
                : "+&a"(f)                                                                         \
                : [s] "r"(s), [d] "r"(d)                                                           \
                : "cc");                                                                           \
        cpu->arith = f;                                                                            \
        NEXT;                                                                                      \
    }                                                                                              \
    UOP bt_ri_##x(struct soft_cpu *cpu, const struct uop *u)                                       \
    {                                                                                              \
        type d = REG(type, u->dst), s = (type)u->imm;                                              \
        uint16_t f = cpu->arith;                                                                   \
                                                                                                   \
        __asm__(FLAGS_IN "bt" #x " %[s], %[d]\n\t" FLAGS_OUT                                       \
                : "+&a"(f)                                                                         \
                : [s] "r"(s), [d] "r"(d)                                                           \
                : "cc");                                                                           \
        cpu->arith = f;                                                                            \
        NEXT;                                                                                      \
    }

IMUL_REG(w, uint16_t, 2, 16, )
IMUL_REG(l, uint32_t, 4, 32, )
IMUL_REG(q, uint64_t, 8, 64, )

#define WIDE_SIZES(name)                                                                           \
    {                                                                                              \
        NULL, name##_w, name##_l, name##_q                                                         \
    }
uop_fn *const uop_imul_rr[SIZE_KINDS] = WIDE_SIZES(imul_rr);
uop_fn *const uop_imul_rri[SIZE_KINDS] = WIDE_SIZES(imul_rri);
uop_fn *const uop_bt_rr[SIZE_KINDS] = WIDE_SIZES(bt_rr);
uop_fn *const uop_bt_ri[SIZE_KINDS] = WIDE_SIZES(bt_ri);
