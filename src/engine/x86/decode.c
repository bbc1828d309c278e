/* SPDX-License-Identifier: MIT */
/* bytes -> struct insn. Prefixes, opcode map and ModRM are folded into one key (table.h); the first
 * candidate of the opcode's slot that the key fits is the form; then come address, immediate and
 * the checks that need both. Intel SDM volume 2, chapter 2. */
#include "engine/x86/form.h"
#include "engine/x86/table.h"

_Static_assert(sizeof(struct insn) == 32, "two instructions to a cache line");

struct cursor {
    const uint8_t *bytes;
    unsigned at, end;
    enum x86_mode mode;
    enum x86_decode_result short_by; /* what it means to run out of bytes */
    uint8_t map, vex_l, rep;         /* rep: last of F2, F3, as in the key: 2 is F3, 3 is F2 */
    int seg;                         /* override, or -1 */
};

enum { IS_SEG = 1, IS_66, IS_67, IS_LOCK, IS_REP, IS_REX };

static const uint8_t prefix_kind[256] = {
    [0x26] = IS_SEG, [0x2e] = IS_SEG, [0x36] = IS_SEG, [0x3e] = IS_SEG,  [0x64] = IS_SEG,
    [0x65] = IS_SEG, [0x66] = IS_66,  [0x67] = IS_67,  [0xf0] = IS_LOCK, [0xf2] = IS_REP,
    [0xf3] = IS_REP, [0x40] = IS_REX, [0x41] = IS_REX, [0x42] = IS_REX,  [0x43] = IS_REX,
    [0x44] = IS_REX, [0x45] = IS_REX, [0x46] = IS_REX, [0x47] = IS_REX,  [0x48] = IS_REX,
    [0x49] = IS_REX, [0x4a] = IS_REX, [0x4b] = IS_REX, [0x4c] = IS_REX,  [0x4d] = IS_REX,
    [0x4e] = IS_REX, [0x4f] = IS_REX,
};

static void take_segment(struct cursor *c, struct insn *in, uint8_t byte)
{
    static const uint8_t by_byte[] = {SEG_ES, SEG_CS, SEG_SS, SEG_DS};

    if (byte >= 0x64)
        c->seg = byte == 0x64 ? SEG_FS : SEG_GS;
    else if (c->mode == X86_MODE_64)
        return; /* no effect, not even on an earlier FS or GS */
    else
        c->seg = by_byte[byte >> 3 & 3];
    in->prefix |= X86_P_SEG;
}

/* A REX counts only directly before the opcode: any prefix after it cancels it. Returns false when
 * the bytes run out; else *opcode is the first byte that is no prefix. */
static bool take_prefixes(struct cursor *c, struct insn *in, uint8_t *opcode)
{
    for (;;) {
        uint8_t byte, kind;

        if (c->at == c->end)
            return false;
        byte = c->bytes[c->at++];
        kind = prefix_kind[byte];
        if (kind == 0 || (kind == IS_REX && c->mode != X86_MODE_64)) {
            *opcode = byte;
            return true;
        }
        in->rex = kind == IS_REX ? byte : 0;
        switch (kind) {
        case IS_SEG: take_segment(c, in, byte); break;
        case IS_66: in->prefix |= X86_P_66; break;
        case IS_67: in->prefix |= X86_P_67; break;
        case IS_LOCK: in->prefix |= X86_P_LOCK; break;
        case IS_REP: c->rep = byte == 0xf3 ? 2 : 3; break;
        default: break;
        }
    }
}

/* C4 and C5 are VEX in 64-bit mode, and elsewhere if the next byte's top bits are set (LES and LDS
 * have no register form). Fills map, vvvv, L and the REX-like bits, and reads the opcode. */
static enum x86_decode_result take_vex(struct cursor *c, struct insn *in, uint8_t escape,
                                       uint8_t *opcode)
{
    unsigned need = escape == 0xc5 ? 2 : 3;
    uint8_t first, last, map = 1;

    if (c->end - c->at < need)
        return c->short_by;
    if (in->rex || c->rep || in->prefix & (X86_P_66 | X86_P_LOCK))
        return X86_INVALID;
    first = c->bytes[c->at++];
    last = first;
    in->rex = 0x40 | (first & 0x80 ? 0 : 4);
    if (escape == 0xc4) {
        last = c->bytes[c->at++];
        map = first & 0x1f;
        in->rex |= (first & 0x40 ? 0 : 2) | (first & 0x20 ? 0 : 1) | (last & 0x80 ? 8 : 0);
    }
    if (map < 1 || map > 3)
        return X86_INVALID;
    in->vvvv = ~last >> 3 & 15;
    if (c->mode != X86_MODE_64) /* bits that select registers 8-15 have no effect */
        in->rex &= 0x48;
    c->map = (uint8_t)(X86_MAP_VEX_0F + map - 1);
    c->vex_l = last >> 2 & 1;
    in->prefix |= X86_P_VEX;
    c->rep = last & 3; /* as a key prefix: 1 is 66 */
    *opcode = c->bytes[c->at++];
    return X86_DECODED;
}

static enum x86_decode_result take_opcode(struct cursor *c, struct insn *in, uint8_t *opcode)
{
    if (*opcode == 0xc4 || *opcode == 0xc5) {
        if (c->at == c->end)
            return c->short_by;
        if (c->mode == X86_MODE_64 || c->bytes[c->at] >= 0xc0)
            return take_vex(c, in, *opcode, opcode);
        return X86_DECODED;
    }
    if (*opcode != 0x0f)
        return X86_DECODED;
    if (c->at == c->end)
        return c->short_by;
    c->map = X86_MAP_0F;
    *opcode = c->bytes[c->at++];
    if (*opcode != 0x38 && *opcode != 0x3a)
        return X86_DECODED;
    if (c->at == c->end)
        return c->short_by;
    c->map = *opcode == 0x38 ? X86_MAP_0F38 : X86_MAP_0F3A;
    *opcode = c->bytes[c->at++];
    return X86_DECODED;
}

/* Operand size by mode, REX.W and 66 alone: 2, 4 or 8. */
static unsigned plain_opsize(const struct cursor *c, const struct insn *in)
{
    bool p66 = in->prefix & X86_P_66;

    if (c->mode == X86_MODE_64 && in->rex & 8)
        return 8;
    return p66 == (c->mode == X86_MODE_16) ? 4 : 2;
}

static uint32_t make_key(const struct cursor *c, const struct insn *in, unsigned opsize)
{
    uint32_t key = in->modrm;
    unsigned prefix = c->rep ? c->rep : in->prefix & X86_P_66 ? 1 : 0;

    key |= prefix << X86_K_PREFIX_SHIFT;
    if (in->rex & 8)
        key |= X86_K_W | (c->mode == X86_MODE_64 ? X86_K_W64 : 0);
    if (in->rex & 1)
        key |= X86_K_REXB;
    if (c->vex_l)
        key |= X86_K_L;
    if (in->modrm >= 0xc0)
        key |= X86_K_MOD3;
    return key | (opsize >> 2) << X86_K_OPSIZE_SHIFT; /* 2, 4, 8 -> 0, 1, 2 */
}

static bool take_disp(struct cursor *c, struct insn *in, unsigned size)
{
    const uint8_t *p = c->bytes + c->at;

    if (c->end - c->at < size)
        return false;
    in->disp = size == 1   ? (int8_t)*p
               : size == 2 ? (int16_t)le16(p)
               : size == 4 ? (int32_t)le32(p)
                           : 0;
    c->at += size;
    return true;
}

static bool take_memory_16(struct cursor *c, struct insn *in)
{
    static const uint8_t base[] = {3, 3, 5, 5, 6, 7, 5, 3},
                         index[] = {6, 7, 6, 7, X86_NO_REG, X86_NO_REG, X86_NO_REG, X86_NO_REG};
    unsigned mod = in->modrm >> 6, rm = in->modrm & 7;

    in->base = base[rm];
    in->index = index[rm];
    if (mod == 0 && rm == 6)
        in->base = X86_NO_REG;
    in->seg = in->base == 5 ? SEG_SS : SEG_DS;
    return take_disp(c, in, mod == 0 ? (rm == 6 ? 2 : 0) : mod);
}

static bool take_memory_32(struct cursor *c, struct insn *in, bool vsib)
{
    unsigned mod = in->modrm >> 6, rm = in->modrm & 7, disp = mod == 1 ? 1 : mod == 2 ? 4 : 0;

    if (rm == 4) {
        uint8_t sib, index;

        if (c->at == c->end)
            return false;
        sib = c->bytes[c->at++];
        index = (sib >> 3 & 7) | (in->rex & 2) << 2;
        rm = sib & 7;
        if (index != 4 || vsib)
            in->index = index;
        in->scale = sib >> 6; /* also without an index: the re-encoded bytes are the same */
    }
    if (rm == 5 && mod == 0) {
        disp = 4;
        if ((in->modrm & 7) == 5 && c->mode == X86_MODE_64)
            in->base = X86_RIP;
    } else {
        in->base = (uint8_t)(rm | (in->rex & 1) << 3);
    }
    in->seg = rm == 4 || (rm == 5 && mod != 0) ? (in->base == 4 || in->base == 5 ? SEG_SS : SEG_DS)
                                               : SEG_DS;
    return take_disp(c, in, disp);
}

static unsigned imm_size(const struct insn *in, unsigned kind)
{
    switch (kind) {
    case X86_IMM_B:
    case X86_IMM_BS: return 1;
    case X86_IMM_W: return 2;
    case X86_IMM_Z: return in->opsize == 2 ? 2 : 4;
    case X86_IMM_V: return in->opsize;
    case X86_IMM_FAR: return in->opsize + 2;
    case X86_IMM_ENTER: return 3;
    case X86_IMM_MOFFS: return in->adsize;
    default: return 0;
    }
}

static bool take_imm(struct cursor *c, struct insn *in, unsigned kind)
{
    unsigned size = imm_size(in, kind);
    const uint8_t *p = c->bytes + c->at;

    if (c->end - c->at < size)
        return false;
    c->at += size;
    switch (kind) {
    case X86_IMM_NONE: return true;
    case X86_IMM_B: in->imm = *p; return true;
    case X86_IMM_BS: in->imm = (uint64_t)(int8_t)*p; return true;
    case X86_IMM_W: in->imm = le16(p); return true;
    case X86_IMM_FAR:
        in->imm = (size == 4 ? le16(p) : le32(p)) | (uint64_t)le16(p + size - 2) << 32;
        return true;
    case X86_IMM_ENTER: in->imm = le16(p) | (uint32_t)p[2] << 16; return true;
    case X86_IMM_MOFFS:
        in->imm = size == 2 ? le16(p) : size == 4 ? le32(p) : le64(p);
        in->mem = 1;
        return true;
    default: /* X86_IMM_Z, X86_IMM_V */
        in->imm = size == 2   ? (uint64_t)(int16_t)le16(p)
                  : size == 4 ? (uint64_t)(int32_t)le32(p)
                              : le64(p);
        return true;
    }
}

static void set_opsize(const struct cursor *c, struct insn *in, const struct x86_encoding *e,
                       unsigned plain)
{
    bool wide = c->mode == X86_MODE_64;

    in->w64 = wide && (in->rex & 8 || e->flags & X86_E_F64);
    switch (e->opsize) {
    case X86_OS_V: in->opsize = (uint8_t)plain; break;
    case X86_OS_Z: in->opsize = plain == 2 ? 2 : 4; break;
    case X86_OS_Y: in->opsize = in->w64 ? 8 : 4; break;
    default: in->opsize = e->fixed; return;
    }
    if (wide && (e->flags & X86_E_F64 || (e->flags & X86_E_D64 && in->opsize == 4)))
        in->opsize = 8;
}

/* Byte registers 4-7 are AH, CH, DH, BH unless a REX is there. */
static uint8_t byte_register(const struct insn *in, uint8_t n)
{
    return !(in->rex && !(in->prefix & X86_P_VEX)) && n >= 4 && n < 8 ? X86_HIGH + n - 4 : n;
}

static void set_registers(const struct cursor *c, struct insn *in, const struct x86_encoding *e,
                          uint8_t opcode)
{
    if (e->flags & X86_E_PLUS_R)
        in->reg = (opcode & 7) | (in->rex & 1) << 3;
    else if (e->flags & X86_E_MODRM) /* as part of the opcode, ModRM.reg is not extended */
        in->reg = (in->modrm >> 3 & 7) | ((e->mask & 0x38) == 0x38 ? 0 : (in->rex & 4) << 1);
    if (e->flags & X86_E_MODRM && !in->mem)
        in->rm = (in->modrm & 7) | (in->rex & 1) << 3;
    if (e->flags & X86_E_BYTE_REG)
        in->reg = byte_register(in, in->reg);
    if (e->flags & X86_E_BYTE_RM && !in->mem)
        in->rm = byte_register(in, in->rm);
    if (c->mode != X86_MODE_64 && in->prefix & X86_P_VEX && e->flags & X86_E_VVVV)
        in->vvvv &= 7;
}

/* Operands that not every register number fits; REX has no effect on the small files. */
static bool check_registers(struct insn *in, const struct x86_form *f, enum x86_mode mode)
{
    for (unsigned i = 0; i < 4 && f->operand[i]; i++) {
        switch (x86_operand_kind[f->operand[i]].place) {
        case X86_AT_MREG: in->reg &= 7; break;
        case X86_AT_MRM:
        case X86_AT_MRMREG:
        case X86_AT_STI: in->rm &= 7; break;
        case X86_AT_SEG:
            in->reg &= 7;
            if (in->reg > SEG_GS || (in->reg == SEG_CS && f->access[i] & 2))
                return false;
            break;
        case X86_AT_CR:
            if (in->reg != 0 && (in->reg < 2 || in->reg > 4) && in->reg != 8)
                return false;
            break;
        case X86_AT_DR:
            if (in->reg > 7)
                return false;
            break;
        case X86_AT_XIS4:
            if (mode != X86_MODE_64)
                in->imm &= 0x7f;
            break;
        case X86_AT_VSIB: /* index, mask and destination must differ */
            if (in->index == in->reg || in->index == in->vvvv || in->reg == in->vvvv)
                return false;
            break;
        default: break;
        }
    }
    return true;
}

static enum x86_decode_result take_operands(struct cursor *c, struct insn *in, uint8_t opcode,
                                            unsigned plain)
{
    const struct x86_encoding *e = &x86_encoding[in->form];
    const struct x86_form *f = &x86_form[in->form];

    set_opsize(c, in, e, plain);
    in->base = in->index = X86_NO_REG;
    in->seg = SEG_DS;
    if (e->flags & X86_E_MODRM && in->modrm < 0xc0 && !(e->flags & X86_E_ANY_MOD)) {
        in->mem = 1;
        if (e->flags & X86_E_VSIB && (in->adsize == 2 || (in->modrm & 7) != 4))
            return X86_INVALID;
        if (!(in->adsize == 2 ? take_memory_16(c, in)
                              : take_memory_32(c, in, e->flags & X86_E_VSIB)))
            return c->short_by;
    }
    if (in->prefix & X86_P_SEG)
        in->seg = (uint8_t)c->seg;
    if (!take_imm(c, in, e->imm))
        return c->short_by;
    set_registers(c, in, e, opcode);
    if (in->prefix & X86_P_VEX && !(e->flags & X86_E_VVVV) && in->vvvv)
        return X86_INVALID;
    if (in->prefix & X86_P_LOCK && !(f->lock && in->mem))
        return X86_INVALID;
    if (!check_registers(in, f, c->mode))
        return X86_INVALID;
    in->length = (uint8_t)c->at;
    return X86_DECODED;
}

static enum x86_decode_result find_form(struct cursor *c, struct insn *in, uint8_t opcode,
                                        unsigned plain)
{
    const struct x86_slot *slot = &x86_slot[c->map][opcode];
    const struct x86_candidate *p = &x86_candidate[slot->first], *end = p + slot->count;
    uint32_t key;

    if (!slot->count)
        return X86_INVALID;
    if (slot->modrm) {
        if (c->at == c->end)
            return c->short_by;
        in->modrm = c->bytes[c->at++];
    }
    key = make_key(c, in, plain);
    for (; p < end; p++)
        if ((key & p->mask) == p->key && p->modes >> c->mode & 1) {
            in->form = p->form;
            in->op = x86_form[p->form].op;
            return X86_DECODED;
        }
    return X86_INVALID;
}

enum x86_decode_result x86_decode(struct insn *in, const uint8_t *bytes, size_t len,
                                  enum x86_mode mode)
{
    struct cursor c = {.bytes = bytes,
                       .end = len < X86_INSN_MAX ? (unsigned)len : X86_INSN_MAX,
                       .mode = mode,
                       .seg = -1};
    enum x86_decode_result result;
    uint8_t opcode;
    unsigned plain;

    c.short_by = len < X86_INSN_MAX ? X86_NEED_MORE : X86_TOO_LONG;
    memset(in, 0, sizeof *in);
    if (!take_prefixes(&c, in, &opcode))
        return c.short_by;
    result = take_opcode(&c, in, &opcode);
    if (result != X86_DECODED)
        return result;
    in->opcode = opcode;
    if (!(in->prefix & X86_P_VEX))
        in->prefix |= c.rep == 2 ? X86_P_REP : c.rep == 3 ? X86_P_REPNE : 0;
    if (in->rex & 8)
        in->prefix |= X86_P_REXW;
    plain = plain_opsize(&c, in);
    in->adsize = mode == X86_MODE_64 ? 8 : mode == X86_MODE_32 ? 4 : 2;
    if (in->prefix & X86_P_67)
        in->adsize = in->adsize == 4 ? 2 : 4;
    result = find_form(&c, in, opcode, plain);
    if (result != X86_DECODED)
        return result;
    return take_operands(&c, in, opcode, plain);
}
