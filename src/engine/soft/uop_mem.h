/* SPDX-License-Identifier: MIT */
/* What fast uop handlers share: registers, addresses, the TLB check, flags. */
#ifndef HULL_SOFT_UOP_MEM_H
#define HULL_SOFT_UOP_MEM_H

#include "engine/soft/access.h"
#include "engine/soft/operand.h"
#include "engine/soft/tlb.h"
#include "engine/soft/uop.h"

#define UOP               static const struct uop *
#define REG(type, offset) (*(type *)((char *)cpu + (offset)))

/* How a uop's address is made. B: base + disp. X: base + index * scale + disp + segment base. X32:
 * the same in 32 bits, segment base 0. */
enum uop_ea { EA_B, EA_X, EA_X32, EA_KINDS };

#define INLINE static inline __attribute__((always_inline))

INLINE uint64_t uop_ea(const struct soft_cpu *cpu, const struct uop *u, enum uop_ea kind)
{
    switch (kind) {
    case EA_B: return REG(uint64_t, u->base) + (uint64_t)(int64_t)u->disp;
    case EA_X:
        return REG(uint64_t, u->base) + (REG(uint64_t, u->index) << u->scale) +
               (uint64_t)(int64_t)u->disp + REG(uint64_t, u->seg * 8u);
    default:
        return REG(uint32_t, u->base) + (REG(uint32_t, u->index) << u->scale) + (uint32_t)u->disp;
    }
}

/* *p: host address of `size` bytes at a linear address; false: take the slow way. */
INLINE bool tlb_at(const struct tlb_table *t, uint64_t linear, unsigned size, uint8_t **p)
{
    const struct tlb_entry *e =
        (const struct tlb_entry *)((const char *)t->entry +
                                   (linear >> (PAGE_SHIFT - 4) & (TLB_SLOTS - 1) << 4));
    uint64_t offset = linear ^ e->tag;

    if (unlikely(offset > PAGE_SIZE - size))
        return false;
    *p = e->page + offset;
    return true;
}

INLINE bool uop_read(const struct soft_cpu *cpu, const struct uop *u, enum uop_ea kind,
                     unsigned size, uint8_t **p)
{
    return tlb_at(cpu->rd, uop_ea(cpu, u, kind), size, p);
}

INLINE bool uop_write(const struct soft_cpu *cpu, const struct uop *u, enum uop_ea kind,
                      unsigned size, uint8_t **p)
{
    return tlb_at(cpu->wr, uop_ea(cpu, u, kind), size, p);
}

/* A 32-bit result clears the upper half. */
INLINE void put8(struct soft_cpu *cpu, unsigned offset, uint8_t v)
{
    REG(uint8_t, offset) = v;
}

INLINE void put16(struct soft_cpu *cpu, unsigned offset, uint16_t v)
{
    REG(uint16_t, offset) = v;
}

INLINE void put32(struct soft_cpu *cpu, unsigned offset, uint32_t v)
{
    REG(uint64_t, offset) = v;
}

INLINE void put64(struct soft_cpu *cpu, unsigned offset, uint64_t v)
{
    REG(uint64_t, offset) = v;
}

/* Condition `cc`, a constant, from the saved flags. */
INLINE bool uop_condition(const struct soft_cpu *cpu, unsigned cc)
{
    const uint8_t *f = (const uint8_t *)&cpu->arith; /* f[0]: OF, f[1]: the rest */
    bool yes;

    switch (cc >> 1) {
    case 0: yes = f[0]; break;
    case 1: yes = f[1] & FL_CF; break;
    case 2: yes = f[1] & FL_ZF; break;
    case 3: yes = f[1] & (FL_CF | FL_ZF); break;
    case 4: yes = f[1] & FL_SF; break;
    case 5: yes = f[1] & FL_PF; break;
    case 6: yes = f[1] >> 7 != f[0]; break;
    default: yes = (f[1] & FL_ZF) || f[1] >> 7 != f[0]; break;
    }
    return yes != (cc & 1);
}

/* The 16 conditions: X(number, name). */
/* clang-format off */
#define CONDITIONS(X) \
    X(0, o) X(1, no) X(2, b) X(3, ae) X(4, e) X(5, ne) X(6, be) X(7, a) \
    X(8, s) X(9, ns) X(10, p) X(11, np) X(12, l) X(13, ge) X(14, le) X(15, g)
/* clang-format on */

/* Suffix, type, size, index of tables. */
#define SIZES(X, ...)                                                                              \
    X(b, uint8_t, 1, 8, __VA_ARGS__)                                                               \
    X(w, uint16_t, 2, 16, __VA_ARGS__)                                                             \
    X(l, uint32_t, 4, 32, __VA_ARGS__) X(q, uint64_t, 8, 64, __VA_ARGS__)

/* ---- tables of handlers, by what lower.c knows ---- */

enum alu {
    ALU_ADD,
    ALU_OR,
    ALU_ADC,
    ALU_SBB,
    ALU_AND,
    ALU_SUB,
    ALU_XOR,
    ALU_CMP,
    ALU_TEST,
    ALU_COUNT
};
enum { SIZE_1, SIZE_2, SIZE_4, SIZE_8, SIZE_KINDS };

extern uop_fn *const uop_alu_rr[ALU_COUNT][SIZE_KINDS];
extern uop_fn *const uop_alu_ri[ALU_COUNT][SIZE_KINDS];
extern uop_fn *const uop_alu_rm[ALU_COUNT][EA_KINDS][SIZE_KINDS];
extern uop_fn *const uop_alu_mr[ALU_COUNT][EA_KINDS][SIZE_KINDS];
extern uop_fn *const uop_alu_mi[ALU_COUNT][EA_KINDS][SIZE_KINDS];
extern uop_fn *const uop_lock_mr[ALU_COUNT][EA_KINDS][SIZE_KINDS];
extern uop_fn *const uop_lock_mi[ALU_COUNT][EA_KINDS][SIZE_KINDS];
/* Flags not needed. */
extern uop_fn *const uop_quiet_rr[ALU_COUNT][SIZE_KINDS];
extern uop_fn *const uop_quiet_ri[ALU_COUNT][SIZE_KINDS];

enum unary { UNARY_INC, UNARY_DEC, UNARY_NEG, UNARY_NOT, UNARY_COUNT };
extern uop_fn *const uop_unary_r[UNARY_COUNT][SIZE_KINDS];
extern uop_fn *const uop_unary_m[UNARY_COUNT][EA_KINDS][SIZE_KINDS];
extern uop_fn *const uop_unary_lock[UNARY_COUNT][EA_KINDS][SIZE_KINDS];

enum shift { SHIFT_ROL, SHIFT_ROR, SHIFT_SHL, SHIFT_SHR, SHIFT_SAR, SHIFT_COUNT };
extern uop_fn *const uop_shift_i[SHIFT_COUNT][SIZE_KINDS]; /* count not 0 */
extern uop_fn *const uop_shift_cl[SHIFT_COUNT][SIZE_KINDS];

extern uop_fn *const uop_imul_rr[SIZE_KINDS], *const uop_imul_rri[SIZE_KINDS];
extern uop_fn *const uop_bt_rr[SIZE_KINDS], *const uop_bt_ri[SIZE_KINDS];

extern uop_fn *const uop_mov_rr[SIZE_KINDS], *const uop_mov_ri[SIZE_KINDS];
extern uop_fn *const uop_load[EA_KINDS][SIZE_KINDS], *const uop_store[EA_KINDS][SIZE_KINDS];
extern uop_fn *const uop_store_i[EA_KINDS][SIZE_KINDS];
/* To 64 bits (zero- or sign-extended), and sign-extended to 32: from sizes 1, 2, 4. */
enum extend { EXTEND_ZERO, EXTEND_SIGN64, EXTEND_SIGN32, EXTEND_COUNT };
extern uop_fn *const uop_extend_r[EXTEND_COUNT][3], *const uop_extend_m[EXTEND_COUNT][EA_KINDS][3];
extern uop_fn *const uop_lea[EA_KINDS][SIZE_KINDS]; /* sizes 4 and 8; EA_X without a segment */
extern uop_fn *const uop_cmov_r[16][SIZE_KINDS], *const uop_set_r[16]; /* sizes 4 and 8 */
extern uop_fn *const uop_xchg_m[EA_KINDS][SIZE_KINDS], *const uop_cmpxchg_m[EA_KINDS][SIZE_KINDS];
extern uop_fn *const uop_xadd_m[EA_KINDS][SIZE_KINDS];
uop_fn uop_cdqe, uop_cwde, uop_cdq, uop_cqo;
uop_fn uop_push, uop_push_i, uop_pop, uop_leave;         /* 64-bit */
uop_fn uop_push32, uop_push_i32, uop_pop32, uop_leave32; /* 32-bit, flat segments */

extern uop_fn *const uop_jcc[16];
extern uop_fn *const uop_cmp_jcc_rr[2][SIZE_KINDS][16]; /* [0] CMP, [1] TEST */
extern uop_fn *const uop_cmp_jcc_ri[2][SIZE_KINDS][16];
uop_fn uop_jmp, uop_jmp_r, uop_call, uop_call_r, uop_ret;
uop_fn uop_jmp_r32, uop_call32, uop_call_r32, uop_ret32;
extern uop_fn *const uop_jmp_m[EA_KINDS], *const uop_call_m[EA_KINDS];

#endif
