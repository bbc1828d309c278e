/* SPDX-License-Identifier: MIT */
/* Fast uops: branches. A direct branch goes to the uop in its `imm`: the target block itself once
 * it was found inside the page, else a uop that looks it up. An indirect one asks the jump cache.
 */
#include "engine/soft/jump.h"
#include "engine/soft/uop_mem.h"

#define TAKE(v)                                                                                    \
    do {                                                                                           \
        const struct uop *v_ = (v);                                                                \
        cpu->block_rip += (uint64_t)(int64_t)v_->disp;                                             \
        GOTO((const struct uop *)v_->imm);                                                         \
    } while (0)

/* Not taken: the next uop is uop_fall; do its work here. */
#define JCC(n, cc)                                                                                 \
    UOP j##cc(struct soft_cpu *cpu, const struct uop *u)                                           \
    {                                                                                              \
        if (uop_condition(cpu, n))                                                                 \
            TAKE(u);                                                                               \
        TAKE(u + 1);                                                                               \
    }

CONDITIONS(JCC)

#define JCC_ENTRY(n, cc) j##cc,
uop_fn *const uop_jcc[16] = {CONDITIONS(JCC_ENTRY)};

/* CMP or TEST, then Jcc: both fall-through and target follow as uop_fall. */
#define COMPARE_JCC(cc, ins, x, type)                                                              \
    UOP ins##_j##cc##_rr_##x(struct soft_cpu *cpu, const struct uop *u)                            \
    {                                                                                              \
        type d = REG(type, u->dst), s = REG(type, u->src);                                         \
        uint16_t f;                                                                                \
        bool yes;                                                                                  \
                                                                                                   \
        __asm__(#ins #x " %[s], %[d]\n\t" FLAGS_OUT                                                \
                : "=&a"(f), "=@cc" #cc(yes)                                                        \
                : [d] "r"(d), [s] "r"(s));                                                         \
        cpu->arith = f;                                                                            \
        if (yes)                                                                                   \
            TAKE(u + 1);                                                                           \
        TAKE(u + 2);                                                                               \
    }                                                                                              \
    UOP ins##_j##cc##_ri_##x(struct soft_cpu *cpu, const struct uop *u)                            \
    {                                                                                              \
        type d = REG(type, u->dst), s = (type)u->imm;                                              \
        uint16_t f;                                                                                \
        bool yes;                                                                                  \
                                                                                                   \
        __asm__(#ins #x " %[s], %[d]\n\t" FLAGS_OUT                                                \
                : "=&a"(f), "=@cc" #cc(yes)                                                        \
                : [d] "r"(d), [s] "r"(s));                                                         \
        cpu->arith = f;                                                                            \
        if (yes)                                                                                   \
            TAKE(u + 1);                                                                           \
        TAKE(u + 2);                                                                               \
    }

#define COMPARE_SIZES(n, cc)                                                                       \
    COMPARE_JCC(cc, cmp, b, uint8_t)                                                               \
    COMPARE_JCC(cc, cmp, w, uint16_t)                                                              \
    COMPARE_JCC(cc, cmp, l, uint32_t)                                                              \
    COMPARE_JCC(cc, cmp, q, uint64_t)                                                              \
    COMPARE_JCC(cc, test, b, uint8_t)                                                              \
    COMPARE_JCC(cc, test, w, uint16_t)                                                             \
    COMPARE_JCC(cc, test, l, uint32_t)                                                             \
    COMPARE_JCC(cc, test, q, uint64_t)

CONDITIONS(COMPARE_SIZES)

/* clang-format off */
#define FUSED(ins, form, x) \
    {ins##_jo_##form##_##x, ins##_jno_##form##_##x, ins##_jb_##form##_##x, ins##_jae_##form##_##x, \
     ins##_je_##form##_##x, ins##_jne_##form##_##x, ins##_jbe_##form##_##x, ins##_ja_##form##_##x, \
     ins##_js_##form##_##x, ins##_jns_##form##_##x, ins##_jp_##form##_##x, ins##_jnp_##form##_##x, \
     ins##_jl_##form##_##x, ins##_jge_##form##_##x, ins##_jle_##form##_##x, ins##_jg_##form##_##x}
#define FUSED_SIZES(ins, form) {FUSED(ins, form, b), FUSED(ins, form, w), FUSED(ins, form, l), FUSED(ins, form, q)}
/* clang-format on */
uop_fn *const uop_cmp_jcc_rr[2][SIZE_KINDS][16] = {FUSED_SIZES(cmp, rr), FUSED_SIZES(test, rr)};
uop_fn *const uop_cmp_jcc_ri[2][SIZE_KINDS][16] = {FUSED_SIZES(cmp, ri), FUSED_SIZES(test, ri)};

/* ---- jumps, calls, returns ---- */

INLINE bool canonical(uint64_t a)
{
    return (uint64_t)((int64_t)(a << 16) >> 16) == a;
}

const struct uop *uop_jmp(struct soft_cpu *cpu, const struct uop *u)
{
    TAKE(u);
}

const struct uop *uop_jmp_r(struct soft_cpu *cpu, const struct uop *u)
{
    uint64_t to = REG(uint64_t, u->src);

    if (unlikely(!canonical(to)))
        return soft_slow(cpu, u);
    cpu->block_rip = to;
    GOTO(jump_to(cpu, to));
}

#define JUMP_MEM(ea)                                                                               \
    UOP jmp_m_##ea(struct soft_cpu *cpu, const struct uop *u)                                      \
    {                                                                                              \
        uint64_t to;                                                                               \
        uint8_t *p;                                                                                \
                                                                                                   \
        if (!uop_read(cpu, u, EA_##ea, 8, &p))                                                     \
            return soft_slow(cpu, u);                                                              \
        to = GUEST(uint64_t, p);                                                                   \
        if (unlikely(!canonical(to)))                                                              \
            return soft_slow(cpu, u);                                                              \
        cpu->block_rip = to;                                                                       \
        GOTO(jump_to(cpu, to));                                                                    \
    }                                                                                              \
    UOP call_m_##ea(struct soft_cpu *cpu, const struct uop *u)                                     \
    {                                                                                              \
        uint64_t to, sp = cpu->reg[4] - 8;                                                         \
        uint8_t *p, *stack;                                                                        \
                                                                                                   \
        if (!uop_read(cpu, u, EA_##ea, 8, &p) || !tlb_at(cpu->wr, sp, 8, &stack))                  \
            return soft_slow(cpu, u);                                                              \
        to = GUEST(uint64_t, p);                                                                   \
        if (unlikely(!canonical(to)))                                                              \
            return soft_slow(cpu, u);                                                              \
        GUEST(uint64_t, stack) = cpu->block_rip + u->at + u->length;                               \
        cpu->reg[4] = sp;                                                                          \
        cpu->block_rip = to;                                                                       \
        GOTO(jump_to(cpu, to));                                                                    \
    }

JUMP_MEM(B)
JUMP_MEM(X)

uop_fn *const uop_jmp_m[EA_KINDS] = {jmp_m_B, jmp_m_X, NULL};
uop_fn *const uop_call_m[EA_KINDS] = {call_m_B, call_m_X, NULL};

const struct uop *uop_call(struct soft_cpu *cpu, const struct uop *u)
{
    uint64_t sp = cpu->reg[4] - 8;
    uint8_t *p;

    if (!tlb_at(cpu->wr, sp, 8, &p))
        return soft_slow(cpu, u);
    GUEST(uint64_t, p) = cpu->block_rip + u->at + u->length;
    cpu->reg[4] = sp;
    TAKE(u);
}

const struct uop *uop_call_r(struct soft_cpu *cpu, const struct uop *u)
{
    uint64_t to = REG(uint64_t, u->src), sp = cpu->reg[4] - 8;
    uint8_t *p;

    if (!tlb_at(cpu->wr, sp, 8, &p) || unlikely(!canonical(to)))
        return soft_slow(cpu, u);
    GUEST(uint64_t, p) = cpu->block_rip + u->at + u->length;
    cpu->reg[4] = sp;
    cpu->block_rip = to;
    GOTO(jump_to(cpu, to));
}

const struct uop *uop_ret(struct soft_cpu *cpu, const struct uop *u)
{
    uint64_t to, sp = cpu->reg[4];
    uint8_t *p;

    if (!tlb_at(cpu->rd, sp, 8, &p))
        return soft_slow(cpu, u);
    to = GUEST(uint64_t, p);
    if (unlikely(!canonical(to)))
        return soft_slow(cpu, u);
    cpu->reg[4] = sp + 8 + u->imm;
    cpu->block_rip = to;
    GOTO(jump_to(cpu, to));
}

/* ---- the same in 32-bit code with flat segments ---- */

const struct uop *uop_call32(struct soft_cpu *cpu, const struct uop *u)
{
    uint32_t sp = (uint32_t)cpu->reg[4] - 4;
    uint8_t *p;

    if (!tlb_at(cpu->wr, sp, 4, &p))
        return soft_slow(cpu, u);
    GUEST(uint32_t, p) = (uint32_t)cpu->block_rip + u->at + u->length;
    cpu->reg[4] = sp;
    TAKE(u);
}

const struct uop *uop_call_r32(struct soft_cpu *cpu, const struct uop *u)
{
    uint32_t to = REG(uint32_t, u->src), sp = (uint32_t)cpu->reg[4] - 4;
    uint8_t *p;

    if (!tlb_at(cpu->wr, sp, 4, &p))
        return soft_slow(cpu, u);
    GUEST(uint32_t, p) = (uint32_t)cpu->block_rip + u->at + u->length;
    cpu->reg[4] = sp;
    cpu->block_rip = to;
    GOTO(jump_to(cpu, to));
}

const struct uop *uop_jmp_r32(struct soft_cpu *cpu, const struct uop *u)
{
    cpu->block_rip = REG(uint32_t, u->src);
    GOTO(jump_to(cpu, cpu->block_rip));
}

const struct uop *uop_ret32(struct soft_cpu *cpu, const struct uop *u)
{
    uint32_t sp = (uint32_t)cpu->reg[4];
    uint8_t *p;

    if (!tlb_at(cpu->rd, sp, 4, &p))
        return soft_slow(cpu, u);
    cpu->reg[4] = (uint32_t)(sp + 4 + u->imm);
    cpu->block_rip = GUEST(uint32_t, p);
    GOTO(jump_to(cpu, cpu->block_rip));
}
