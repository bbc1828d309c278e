/* SPDX-License-Identifier: MIT */
/* struct insn -> bytes: the decoder's table read the other way. Prefixes are chosen from operand
 * and address size; those without effect are kept, so that decode, encode, decode gives the same
 * insn. */
#include "engine/x86/encode.h"
#include "engine/x86/table.h"

struct buffer {
    uint8_t bytes[32]; /* more than any form takes; x86_encode checks the limit of 15 at the end */
    unsigned len;
};

struct plan { /* what goes around the opcode */
    bool p66, w, rex_needed, rex_forbidden;
    unsigned rep; /* 0, 0xf2, 0xf3 */
    unsigned r, x, b;
};

static void put(struct buffer *out, unsigned byte)
{
    out->bytes[out->len++] = (uint8_t)byte;
}

static void put_le(struct buffer *out, uint64_t value, unsigned size)
{
    while (size--) {
        put(out, value & 0xff);
        value >>= 8;
    }
}

/* Operand size that prefixes alone must give: 2, 4, 8, or 0 if it does not matter. */
static unsigned wanted_size(const struct insn *in, const struct x86_encoding *e, enum x86_mode mode)
{
    if (e->mask & X86_K_OPSIZE)
        return 2u << ((e->key & X86_K_OPSIZE) >> X86_K_OPSIZE_SHIFT);
    if (mode == X86_MODE_64 && e->flags & X86_E_F64)
        return 0;
    if (e->opsize == X86_OS_V)
        return mode == X86_MODE_64 && in->opsize == 8 && e->flags & X86_E_D64 ? 0 : in->opsize;
    if (e->opsize == X86_OS_Z)
        return in->opsize == 4 && mode == X86_MODE_64 && in->prefix & X86_P_REXW ? 0 : in->opsize;
    return 0;
}

static bool plan_size(const struct insn *in, const struct x86_encoding *e, enum x86_mode mode,
                      struct plan *p)
{
    unsigned size = wanted_size(in, e, mode), fixed = (e->key & X86_K_PREFIX) >> X86_K_PREFIX_SHIFT;

    p->w = in->prefix & X86_P_REXW;
    p->p66 = in->prefix & X86_P_66;
    if (size == 8) {
        if (mode != X86_MODE_64)
            return false;
        p->w = true;
    } else if (size) {
        p->w = false;
        p->p66 = (size == 2) != (mode == X86_MODE_16);
    } else if (mode == X86_MODE_64 && e->flags & X86_E_D64 && !p->w) {
        p->p66 = false; /* with it, the size would be 2 */
    } else if (e->opsize == X86_OS_Y || e->opsize == X86_OS_FIX) {
        if (in->w64 && !(e->flags & X86_E_F64))
            p->w = true;
        else if (mode == X86_MODE_64 && e->opsize == X86_OS_Y && !(e->flags & X86_E_F64))
            p->w = false;
    }
    if (e->mask & X86_K_W || (e->mask & X86_K_W64 && mode == X86_MODE_64))
        p->w = e->key & (X86_K_W | X86_K_W64);
    if ((e->mask & X86_K_PREFIX) == X86_K_PREFIX) {
        p->rep = fixed == 2 ? 0xf3 : fixed == 3 ? 0xf2 : 0;
        if (fixed <= 1) {
            if (p->p66 && fixed == 0 && size)
                return false;
            p->p66 = fixed == 1;
        }
    } else if (!(e->mask & X86_K_REP)) {
        p->rep = in->prefix & X86_P_REP ? 0xf3 : in->prefix & X86_P_REPNE ? 0xf2 : 0;
    }
    return true;
}

static bool byte_register(struct plan *p, uint8_t n)
{
    if (n >= X86_HIGH + 4)
        return false;
    if (n >= X86_HIGH)
        p->rex_forbidden = true;
    else if (n >= 4)
        p->rex_needed = true;
    return true;
}

static uint8_t low_bits(uint8_t n)
{
    return n >= X86_HIGH && n < X86_HIGH + 4 ? n - X86_HIGH + 4 : n & 7;
}

static unsigned high_bit(uint8_t n)
{
    return n < X86_HIGH ? n >> 3 & 1 : 0;
}

static bool plan_registers(const struct insn *in, const struct x86_encoding *e, enum x86_mode mode,
                           struct plan *p)
{
    bool vex = e->map >= X86_MAP_VEX_0F;

    if (e->flags & X86_E_BYTE_REG && !byte_register(p, in->reg))
        return false;
    if (e->flags & X86_E_BYTE_RM && !in->mem && !byte_register(p, in->rm))
        return false;
    if (e->flags & X86_E_PLUS_R)
        p->b = high_bit(in->reg);
    else if (e->flags & X86_E_MODRM) {
        p->r = (e->mask & 0x38) == 0x38 ? 0 : high_bit(in->reg);
        if (!in->mem)
            p->b = high_bit(in->rm);
    }
    if (e->flags & X86_E_MODRM && in->mem) {
        p->b = in->base == X86_NO_REG || in->base == X86_RIP ? 0 : high_bit(in->base);
        p->x = in->index == X86_NO_REG ? 0 : high_bit(in->index);
    }
    if (mode == X86_MODE_64)
        return !(p->rex_forbidden && (p->rex_needed || p->r || p->x || p->b || p->w)) || vex;
    if (!vex && p->w)
        p->w = false;
    if (p->rex_needed) /* SPL ... DIL */
        return false;
    return !(p->r || p->x || p->b) && (!(e->flags & X86_E_VVVV) || in->vvvv < 8);
}

static void put_vex(struct buffer *out, const struct insn *in, const struct x86_encoding *e,
                    const struct plan *p)
{
    unsigned map = e->map - X86_MAP_VEX_0F + 1;
    unsigned vvvv = e->flags & X86_E_VVVV ? in->vvvv : 0;
    unsigned last = (~vvvv & 15) << 3 | (e->mask & e->key & X86_K_L ? 4 : 0) |
                    (e->key & X86_K_PREFIX) >> X86_K_PREFIX_SHIFT;

    if (map == 1 && !p->x && !p->b && !p->w) {
        put(out, 0xc5);
        put(out, (p->r ? 0 : 0x80) | last);
        return;
    }
    put(out, 0xc4);
    put(out, (p->r ? 0 : 0x80) | (p->x ? 0 : 0x40) | (p->b ? 0 : 0x20) | map);
    put(out, (p->w ? 0x80 : 0) | last);
}

static void put_prefixes(struct buffer *out, const struct insn *in, const struct x86_encoding *e,
                         enum x86_mode mode, const struct plan *p)
{
    static const uint8_t seg[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65};
    unsigned usual = mode == X86_MODE_64 ? 8 : mode == X86_MODE_32 ? 4 : 2;

    if (in->prefix & X86_P_SEG && in->seg <= SEG_GS)
        put(out, seg[in->seg]);
    if (in->adsize ? in->adsize != usual : in->prefix & X86_P_67)
        put(out, 0x67);
    if (in->prefix & X86_P_LOCK)
        put(out, 0xf0);
    if (e->map >= X86_MAP_VEX_0F) {
        put_vex(out, in, e, p);
        return;
    }
    if (p->p66)
        put(out, 0x66);
    if (p->rep)
        put(out, p->rep);
    if (mode == X86_MODE_64 && (p->rex_needed || p->w || p->r || p->x || p->b))
        put(out, 0x40 | p->w << 3 | p->r << 2 | p->x << 1 | p->b);
    if (e->map != X86_MAP_1)
        put(out, 0x0f);
    if (e->map == X86_MAP_0F38)
        put(out, 0x38);
    if (e->map == X86_MAP_0F3A)
        put(out, 0x3a);
}

static bool put_memory_16(struct buffer *out, const struct insn *in, unsigned reg)
{
    static const uint8_t base[] = {3, 3, 5, 5, 6, 7, 5, 3},
                         index[] = {6, 7, 6, 7, 0xff, 0xff, 0xff, 0xff};
    unsigned rm = 0, mod;

    if (in->base == X86_NO_REG && in->index == X86_NO_REG) {
        put(out, reg << 3 | 6);
        put_le(out, (uint16_t)in->disp, 2);
        return true;
    }
    while (rm < 8 && (in->base != base[rm] || in->index != index[rm]))
        rm++;
    if (rm == 8 || in->scale)
        return false;
    mod = in->disp == 0 && rm != 6 ? 0 : in->disp == (int8_t)in->disp ? 1 : 2;
    put(out, mod << 6 | reg << 3 | rm);
    put_le(out, (uint16_t)in->disp, mod);
    return true;
}

static bool put_memory_32(struct buffer *out, const struct insn *in, unsigned reg,
                          enum x86_mode mode, bool vsib)
{
    bool no_base = in->base == X86_NO_REG, no_index = in->index == X86_NO_REG, sib;
    unsigned mod;

    if (in->base == X86_RIP) {
        if (mode != X86_MODE_64 || !no_index || vsib)
            return false;
        put(out, reg << 3 | 5);
        put_le(out, (uint32_t)in->disp, 4);
        return true;
    }
    if ((!no_base && in->base > 15) ||
        (!no_index && (in->index > 15 || (in->index == 4 && !vsib))) || (vsib && no_index))
        return false;
    sib = vsib || !no_index || in->scale || (no_base ? mode == X86_MODE_64 : (in->base & 7) == 4);
    mod = no_base || (in->disp == 0 && (in->base & 7) != 5) ? 0
          : in->disp == (int8_t)in->disp                    ? 1
                                                            : 2;
    put(out, mod << 6 | reg << 3 | (sib ? 4 : no_base ? 5 : in->base & 7));
    if (sib)
        put(out,
            in->scale << 6 | (no_index ? 4 : in->index & 7) << 3 | (no_base ? 5 : in->base & 7));
    put_le(out, (uint32_t)in->disp, no_base || mod == 2 ? 4 : mod);
    return true;
}

static bool put_modrm(struct buffer *out, const struct insn *in, const struct x86_encoding *e,
                      enum x86_mode mode)
{
    unsigned reg = (e->mask & 0x38) == 0x38 ? e->key >> 3 & 7 : low_bits(in->reg);

    if ((e->mask & 0xff) == 0xff) {
        put(out, e->key & 0xff);
        return true;
    }
    if (!in->mem) {
        put(out, 0xc0 | reg << 3 | low_bits(in->rm));
        return true;
    }
    if (in->adsize == 2)
        return !(e->flags & X86_E_VSIB) && mode != X86_MODE_64 && put_memory_16(out, in, reg);
    return put_memory_32(out, in, reg, mode, e->flags & X86_E_VSIB);
}

static void put_imm(struct buffer *out, const struct insn *in, const struct x86_encoding *e)
{
    switch (e->imm) {
    case X86_IMM_B:
    case X86_IMM_BS: put_le(out, in->imm, 1); break;
    case X86_IMM_W: put_le(out, in->imm, 2); break;
    case X86_IMM_Z: put_le(out, in->imm, in->opsize == 2 ? 2 : 4); break;
    case X86_IMM_V: put_le(out, in->imm, in->opsize); break;
    case X86_IMM_ENTER: put_le(out, in->imm, 3); break;
    case X86_IMM_MOFFS: put_le(out, in->imm, in->adsize); break;
    case X86_IMM_FAR:
        put_le(out, in->imm, in->opsize);
        put_le(out, in->imm >> 32, 2);
        break;
    default: break;
    }
}

unsigned x86_encode(const struct insn *in, enum x86_mode mode, uint8_t out[X86_INSN_MAX])
{
    const struct x86_encoding *e = &x86_encoding[in->form];
    struct buffer b = {.len = 0};
    struct plan p = {0};

    if (!plan_size(in, e, mode, &p) || !plan_registers(in, e, mode, &p))
        return 0;
    put_prefixes(&b, in, e, mode, &p);
    put(&b, e->opcode | (e->flags & X86_E_PLUS_R ? low_bits(in->reg) : 0u));
    if (e->flags & X86_E_MODRM && !put_modrm(&b, in, e, mode))
        return 0;
    put_imm(&b, in, e);
    if (b.len > X86_INSN_MAX)
        return 0;
    memcpy(out, b.bytes, b.len);
    return b.len;
}

void x86_set_mem(struct insn *in, uint8_t base, uint8_t index, uint8_t scale, int32_t disp)
{
    in->mem = 1;
    in->base = base;
    in->index = index;
    in->scale = scale;
    in->disp = disp;
    in->prefix &= (uint8_t)~X86_P_SEG;
    in->seg = base == 4 || base == 5 ? SEG_SS : SEG_DS;
}
