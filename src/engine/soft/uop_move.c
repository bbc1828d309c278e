/* SPDX-License-Identifier: MIT */
/* Fast uops: moves, extensions, addresses, conditional moves, exchanges, the 64-bit stack. */
#include "engine/soft/uop_mem.h"

#define MOVE_REG(x, type, size, bits, unused)                                                      \
    UOP mov_rr_##x(struct soft_cpu *cpu, const struct uop *u)                                      \
    {                                                                                              \
        put##bits(cpu, u->dst, REG(type, u->src));                                                 \
        NEXT;                                                                                      \
    }                                                                                              \
    UOP mov_ri_##x(struct soft_cpu *cpu, const struct uop *u)                                      \
    {                                                                                              \
        put##bits(cpu, u->dst, (type)u->imm);                                                      \
        NEXT;                                                                                      \
    }

#define MOVE_MEM(x, type, size, bits, ea)                                                          \
    UOP load_##ea##_##x(struct soft_cpu *cpu, const struct uop *u)                                 \
    {                                                                                              \
        uint8_t *p;                                                                                \
                                                                                                   \
        if (!uop_read(cpu, u, EA_##ea, size, &p))                                                  \
            return soft_slow(cpu, u);                                                              \
        put##bits(cpu, u->dst, GUEST(type, p));                                                    \
        NEXT;                                                                                      \
    }                                                                                              \
    UOP store_##ea##_##x(struct soft_cpu *cpu, const struct uop *u)                                \
    {                                                                                              \
        uint8_t *p;                                                                                \
                                                                                                   \
        if (!uop_write(cpu, u, EA_##ea, size, &p))                                                 \
            return soft_slow(cpu, u);                                                              \
        GUEST(type, p) = REG(type, u->src);                                                        \
        NEXT;                                                                                      \
    }                                                                                              \
    UOP store_i_##ea##_##x(struct soft_cpu *cpu, const struct uop *u)                              \
    {                                                                                              \
        uint8_t *p;                                                                                \
                                                                                                   \
        if (!uop_write(cpu, u, EA_##ea, size, &p))                                                 \
            return soft_slow(cpu, u);                                                              \
        GUEST(type, p) = (type)u->imm;                                                             \
        NEXT;                                                                                      \
    }

SIZES(MOVE_REG, )
SIZES(MOVE_MEM, B)
SIZES(MOVE_MEM, X)
SIZES(MOVE_MEM, X32)

#define OF_SIZES(name)                                                                             \
    {                                                                                              \
        name##_b, name##_w, name##_l, name##_q                                                     \
    }
#define OF_EA(name)                                                                                \
    {                                                                                              \
        OF_SIZES(name##_B), OF_SIZES(name##_X), OF_SIZES(name##_X32)                               \
    }
uop_fn *const uop_mov_rr[SIZE_KINDS] = OF_SIZES(mov_rr);
uop_fn *const uop_mov_ri[SIZE_KINDS] = OF_SIZES(mov_ri);
uop_fn *const uop_load[EA_KINDS][SIZE_KINDS] = OF_EA(load);
uop_fn *const uop_store[EA_KINDS][SIZE_KINDS] = OF_EA(store);
uop_fn *const uop_store_i[EA_KINDS][SIZE_KINDS] = OF_EA(store_i);

/* ---- extensions ---- */

#define EXTEND_REG(name, from, to)                                                                 \
    UOP name##_r(struct soft_cpu *cpu, const struct uop *u)                                        \
    {                                                                                              \
        REG(uint64_t, u->dst) = (uint64_t)(to)REG(from, u->src);                                   \
        NEXT;                                                                                      \
    }
#define EXTEND_MEM(name, from, to, ea)                                                             \
    UOP name##_m_##ea(struct soft_cpu *cpu, const struct uop *u)                                   \
    {                                                                                              \
        uint8_t *p;                                                                                \
                                                                                                   \
        if (!uop_read(cpu, u, EA_##ea, sizeof(from), &p))                                          \
            return soft_slow(cpu, u);                                                              \
        REG(uint64_t, u->dst) = (uint64_t)(to)(GUEST(from, p));                                    \
        NEXT;                                                                                      \
    }
#define EXTEND(name, from, to)                                                                     \
    EXTEND_REG(name, from, to)                                                                     \
    EXTEND_MEM(name, from, to, B)                                                                  \
    EXTEND_MEM(name, from, to, X)                                                                  \
    EXTEND_MEM(name, from, to, X32)

EXTEND(zero_b, uint8_t, uint64_t)
EXTEND(zero_w, uint16_t, uint64_t)
EXTEND(zero_l, uint32_t, uint64_t)
EXTEND(sign64_b, int8_t, int64_t)
EXTEND(sign64_w, int16_t, int64_t)
EXTEND(sign64_l, int32_t, int64_t)
EXTEND(sign32_b, int8_t, uint32_t)
EXTEND(sign32_w, int16_t, uint32_t)
EXTEND(sign32_l, int32_t, uint32_t)

#define OF_FROM(name, form)                                                                        \
    {                                                                                              \
        name##_b_##form, name##_w_##form, name##_l_##form                                          \
    }
#define OF_FROM_EA(name)                                                                           \
    {                                                                                              \
        OF_FROM(name, m_B), OF_FROM(name, m_X), OF_FROM(name, m_X32)                               \
    }
uop_fn *const uop_extend_r[EXTEND_COUNT][3] = {OF_FROM(zero, r), OF_FROM(sign64, r),
                                               OF_FROM(sign32, r)};
uop_fn *const uop_extend_m[EXTEND_COUNT][EA_KINDS][3] = {OF_FROM_EA(zero), OF_FROM_EA(sign64),
                                                         OF_FROM_EA(sign32)};

const struct uop *uop_cdqe(struct soft_cpu *cpu, const struct uop *u)
{
    cpu->reg[0] = (uint64_t)(int32_t)cpu->reg[0];
    NEXT;
}

const struct uop *uop_cwde(struct soft_cpu *cpu, const struct uop *u)
{
    cpu->reg[0] = (uint32_t)(int16_t)cpu->reg[0];
    NEXT;
}

const struct uop *uop_cdq(struct soft_cpu *cpu, const struct uop *u)
{
    cpu->reg[2] = (uint32_t)((int32_t)cpu->reg[0] >> 31);
    NEXT;
}

const struct uop *uop_cqo(struct soft_cpu *cpu, const struct uop *u)
{
    cpu->reg[2] = (uint64_t)((int64_t)cpu->reg[0] >> 63);
    NEXT;
}

/* ---- LEA ---- */

#define LEA_EA(ea)                                                                                 \
    UOP lea_##ea##_l(struct soft_cpu *cpu, const struct uop *u)                                    \
    {                                                                                              \
        put32(cpu, u->dst, (uint32_t)uop_ea(cpu, u, EA_##ea));                                     \
        NEXT;                                                                                      \
    }                                                                                              \
    UOP lea_##ea##_q(struct soft_cpu *cpu, const struct uop *u)                                    \
    {                                                                                              \
        put64(cpu, u->dst, uop_ea(cpu, u, EA_##ea));                                               \
        NEXT;                                                                                      \
    }

LEA_EA(B)
LEA_EA(X)
LEA_EA(X32)

uop_fn *const uop_lea[EA_KINDS][SIZE_KINDS] = {{NULL, NULL, lea_B_l, lea_B_q},
                                               {NULL, NULL, lea_X_l, lea_X_q},
                                               {NULL, NULL, lea_X32_l, lea_X32_q}};

/* ---- conditions ---- */

#define CONDITIONAL(n, cc)                                                                         \
    UOP cmov_##cc##_l(struct soft_cpu *cpu, const struct uop *u)                                   \
    {                                                                                              \
        put32(cpu, u->dst, uop_condition(cpu, n) ? REG(uint32_t, u->src) : REG(uint32_t, u->dst)); \
        NEXT;                                                                                      \
    }                                                                                              \
    UOP cmov_##cc##_q(struct soft_cpu *cpu, const struct uop *u)                                   \
    {                                                                                              \
        put64(cpu, u->dst, uop_condition(cpu, n) ? REG(uint64_t, u->src) : REG(uint64_t, u->dst)); \
        NEXT;                                                                                      \
    }                                                                                              \
    UOP set_##cc(struct soft_cpu *cpu, const struct uop *u)                                        \
    {                                                                                              \
        REG(uint8_t, u->dst) = uop_condition(cpu, n);                                              \
        NEXT;                                                                                      \
    }

CONDITIONS(CONDITIONAL)

#define CMOV_ENTRY(n, cc) {NULL, NULL, cmov_##cc##_l, cmov_##cc##_q},
#define SET_ENTRY(n, cc)  set_##cc,
uop_fn *const uop_cmov_r[16][SIZE_KINDS] = {CONDITIONS(CMOV_ENTRY)};
uop_fn *const uop_set_r[16] = {CONDITIONS(SET_ENTRY)};

/* ---- atomic exchanges with memory ---- */

#define EXCHANGE(x, type, size, bits, ea)                                                          \
    UOP xchg_m_##ea##_##x(struct soft_cpu *cpu, const struct uop *u)                               \
    {                                                                                              \
        type s = REG(type, u->src);                                                                \
        uint8_t *p;                                                                                \
                                                                                                   \
        if (!uop_write(cpu, u, EA_##ea, size, &p))                                                 \
            return soft_slow(cpu, u);                                                              \
        __asm__ volatile("xchg" #x " %0, (%1)" : "+r"(s) : "r"(p) : "memory");                     \
        put##bits(cpu, u->src, s);                                                                 \
        NEXT;                                                                                      \
    }                                                                                              \
    UOP xadd_m_##ea##_##x(struct soft_cpu *cpu, const struct uop *u)                               \
    {                                                                                              \
        type s = REG(type, u->src);                                                                \
        uint16_t f;                                                                                \
        uint8_t *p;                                                                                \
                                                                                                   \
        if (!uop_write(cpu, u, EA_##ea, size, &p))                                                 \
            return soft_slow(cpu, u);                                                              \
        __asm__ volatile("lock; xadd" #x " %0, (%2)\n\t" FLAGS_OUT                                 \
                         : "+r"(s), "=&a"(f)                                                       \
                         : "r"(p)                                                                  \
                         : "memory", "cc");                                                        \
        cpu->arith = f;                                                                            \
        put##bits(cpu, u->src, s);                                                                 \
        NEXT;                                                                                      \
    }                                                                                              \
    UOP cmpxchg_m_##ea##_##x(struct soft_cpu *cpu, const struct uop *u)                            \
    {                                                                                              \
        type s = REG(type, u->src);                                                                \
        uint64_t acc = cpu->reg[0];                                                                \
        uint16_t f;                                                                                \
        uint8_t *p;                                                                                \
                                                                                                   \
        if (!uop_write(cpu, u, EA_##ea, size, &p))                                                 \
            return soft_slow(cpu, u);                                                              \
        __asm__ volatile("movq %[acc], %%rax\n\tlock; cmpxchg" #x                                  \
                         " %[s], (%[p])\n\tmovq %%rax, %[acc]\n\t" FLAGS_OUT                       \
                         : "=&a"(f), [acc] "+&r"(acc)                                              \
                         : [s] "r"(s), [p] "r"(p)                                                  \
                         : "memory", "cc");                                                        \
        cpu->arith = f;                                                                            \
        if (!(f >> 8 & FL_ZF))                                                                     \
            put##bits(cpu, 0, (type)acc);                                                          \
        NEXT;                                                                                      \
    }

SIZES(EXCHANGE, B)
SIZES(EXCHANGE, X)
SIZES(EXCHANGE, X32)

uop_fn *const uop_xchg_m[EA_KINDS][SIZE_KINDS] = OF_EA(xchg_m);
uop_fn *const uop_xadd_m[EA_KINDS][SIZE_KINDS] = OF_EA(xadd_m);
uop_fn *const uop_cmpxchg_m[EA_KINDS][SIZE_KINDS] = OF_EA(cmpxchg_m);

/* ---- the 64-bit stack ---- */

const struct uop *uop_push(struct soft_cpu *cpu, const struct uop *u)
{
    uint64_t sp = cpu->reg[4] - 8;
    uint8_t *p;

    if (!tlb_at(cpu->wr, sp, 8, &p))
        return soft_slow(cpu, u);
    GUEST(uint64_t, p) = REG(uint64_t, u->src);
    cpu->reg[4] = sp;
    NEXT;
}

const struct uop *uop_push_i(struct soft_cpu *cpu, const struct uop *u)
{
    uint64_t sp = cpu->reg[4] - 8;
    uint8_t *p;

    if (!tlb_at(cpu->wr, sp, 8, &p))
        return soft_slow(cpu, u);
    GUEST(uint64_t, p) = u->imm;
    cpu->reg[4] = sp;
    NEXT;
}

const struct uop *uop_pop(struct soft_cpu *cpu, const struct uop *u)
{
    uint64_t sp = cpu->reg[4];
    uint8_t *p;

    if (!tlb_at(cpu->rd, sp, 8, &p))
        return soft_slow(cpu, u);
    cpu->reg[4] = sp + 8; /* first: POP RSP leaves what was popped */
    REG(uint64_t, u->dst) = GUEST(uint64_t, p);
    NEXT;
}

const struct uop *uop_leave(struct soft_cpu *cpu, const struct uop *u)
{
    uint64_t bp = cpu->reg[5];
    uint8_t *p;

    if (!tlb_at(cpu->rd, bp, 8, &p))
        return soft_slow(cpu, u);
    cpu->reg[4] = bp + 8;
    cpu->reg[5] = GUEST(uint64_t, p);
    NEXT;
}

/* ---- the stack of 32-bit code with flat segments ---- */

const struct uop *uop_push32(struct soft_cpu *cpu, const struct uop *u)
{
    uint32_t sp = (uint32_t)cpu->reg[4] - 4;
    uint8_t *p;

    if (!tlb_at(cpu->wr, sp, 4, &p))
        return soft_slow(cpu, u);
    GUEST(uint32_t, p) = REG(uint32_t, u->src);
    cpu->reg[4] = sp;
    NEXT;
}

const struct uop *uop_push_i32(struct soft_cpu *cpu, const struct uop *u)
{
    uint32_t sp = (uint32_t)cpu->reg[4] - 4;
    uint8_t *p;

    if (!tlb_at(cpu->wr, sp, 4, &p))
        return soft_slow(cpu, u);
    GUEST(uint32_t, p) = (uint32_t)u->imm;
    cpu->reg[4] = sp;
    NEXT;
}

const struct uop *uop_pop32(struct soft_cpu *cpu, const struct uop *u)
{
    uint32_t sp = (uint32_t)cpu->reg[4];
    uint8_t *p;

    if (!tlb_at(cpu->rd, sp, 4, &p))
        return soft_slow(cpu, u);
    cpu->reg[4] = (uint32_t)(sp + 4); /* first: POP ESP leaves what was popped */
    REG(uint64_t, u->dst) = GUEST(uint32_t, p);
    NEXT;
}

const struct uop *uop_leave32(struct soft_cpu *cpu, const struct uop *u)
{
    uint32_t bp = (uint32_t)cpu->reg[5];
    uint8_t *p;

    if (!tlb_at(cpu->rd, bp, 4, &p))
        return soft_slow(cpu, u);
    cpu->reg[4] = (uint32_t)(bp + 4);
    cpu->reg[5] = GUEST(uint32_t, p);
    NEXT;
}
