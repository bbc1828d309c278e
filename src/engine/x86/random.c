/* SPDX-License-Identifier: MIT */
/* Random instructions of a given form, for the fuzzers: fill the fields that the form has, encode,
 * and keep the bytes if they decode to the form again. */
#include "engine/x86/encode.h"
#include "engine/x86/table.h"

uint64_t x86_rng_next(struct x86_rng *rng)
{
    rng->state ^= rng->state >> 12;
    rng->state ^= rng->state << 25;
    rng->state ^= rng->state >> 27;
    return rng->state * 0x2545f4914f6cdd1d;
}

static unsigned below(struct x86_rng *rng, unsigned limit)
{
    return (unsigned)((x86_rng_next(rng) >> 32) * limit >> 32);
}

/* Small numbers, ends of ranges, and anything. */
static uint64_t random_value(struct x86_rng *rng)
{
    static const uint64_t edges[] = {0,      1,      2,          0x7f,       0x80,      0xff,
                                     0x7fff, 0x8000, 0x7fffffff, 0x80000000, UINT64_MAX};

    switch (below(rng, 4)) {
    case 0: return edges[below(rng, ARRAY_SIZE(edges))];
    case 1: return below(rng, 256);
    case 2: return (uint64_t)(int64_t)(int8_t)below(rng, 256);
    default: return x86_rng_next(rng);
    }
}

static void random_memory(struct insn *in, struct x86_rng *rng, enum x86_mode mode, unsigned regs,
                          bool vsib)
{
    static const uint8_t base_16[] = {3, 3, 5, 5, 6, 7, 5, 3, 0xff},
                         index_16[] = {6, 7, 6, 7, 0xff, 0xff, 0xff, 0xff, 0xff};
    unsigned rm = below(rng, 9), kind = below(rng, 4);

    in->disp = kind == 0 ? 0 : kind < 3 ? (int8_t)below(rng, 256) : (int32_t)x86_rng_next(rng);
    if (in->adsize == 2) {
        in->base = base_16[rm];
        in->index = index_16[rm];
        in->disp = (int16_t)in->disp;
        return;
    }
    in->base = (uint8_t)below(rng, regs);
    in->index = below(rng, 2) || vsib ? (uint8_t)below(rng, regs) : X86_NO_REG;
    if (in->index == 4 && !vsib)
        in->index = X86_NO_REG;
    if (in->index != X86_NO_REG)
        in->scale = (uint8_t)below(rng, 4);
    if (below(rng, 16) == 0)
        in->base = X86_NO_REG;
    if (mode == X86_MODE_64 && !vsib && below(rng, 16) == 0) {
        in->base = X86_RIP;
        in->index = X86_NO_REG;
        in->scale = 0;
    }
}

static void random_prefixes(struct insn *in, struct x86_rng *rng, enum x86_mode mode,
                            const struct x86_form *f)
{
    if (below(rng, 8) == 0) {
        in->prefix |= X86_P_SEG;
        in->seg = (uint8_t)(mode == X86_MODE_64 ? SEG_FS + below(rng, 2) : below(rng, 6));
    }
    if (f->lock && in->mem && below(rng, 4) == 0)
        in->prefix |= X86_P_LOCK;
    if (f->class == X86_STRING && below(rng, 2))
        in->prefix |= below(rng, 2) ? X86_P_REP : X86_P_REPNE;
    if (below(rng, 16) == 0)
        in->prefix |= X86_P_REXW; /* kept only where it changes nothing else */
    if (below(rng, 16) == 0)
        in->prefix |= X86_P_66;
}

static void random_sizes(struct insn *in, struct x86_rng *rng, enum x86_mode mode,
                         const struct x86_encoding *e, unsigned wish)
{
    unsigned usual = mode == X86_MODE_64 ? 8 : mode == X86_MODE_32 ? 4 : 2;
    unsigned sizes = mode == X86_MODE_64 ? 3 : 2;

    in->adsize = (uint8_t)usual;
    if (!(wish & X86_WISH_PLAIN) && below(rng, 8) == 0)
        in->adsize = usual == 4 ? 2 : 4;
    in->w64 = mode == X86_MODE_64 && (below(rng, 2) || e->flags & X86_E_F64);
    switch (e->opsize) {
    case X86_OS_V: in->opsize = (uint8_t)(2u << below(rng, sizes)); break;
    case X86_OS_Z: in->opsize = (uint8_t)(2u << below(rng, 2)); break;
    case X86_OS_Y: in->opsize = in->w64 ? 8 : 4; break;
    default: in->opsize = e->fixed; break;
    }
    if (mode == X86_MODE_64 && e->opsize == X86_OS_V) {
        if (e->flags & X86_E_F64 || (e->flags & X86_E_D64 && in->opsize == 4))
            in->opsize = 8;
    }
}

static void random_registers(struct insn *in, struct x86_rng *rng, const struct x86_form *f,
                             unsigned regs)
{
    static const uint8_t control[] = {0, 2, 3, 4, 8};

    in->reg = (uint8_t)below(rng, regs);
    in->rm = (uint8_t)below(rng, regs);
    in->vvvv = (uint8_t)below(rng, regs);
    for (unsigned i = 0; i < 4; i++) {
        const struct x86_operand_kind k = x86_operand_kind[f->operand[i]];

        switch (k.place) {
        case X86_AT_CR: in->reg = control[below(rng, 5)]; break;
        case X86_AT_SEG: in->reg = (uint8_t)below(rng, 6); break;
        case X86_AT_DR:
        case X86_AT_MREG: in->reg &= 7; break;
        case X86_AT_STI:
        case X86_AT_MRM:
        case X86_AT_MRMREG: in->rm &= 7; break;
        case X86_AT_REG:
        case X86_AT_OPREG:
            if (k.size == 1 && below(rng, 4) == 0)
                in->reg = (uint8_t)(X86_HIGH + below(rng, 4));
            break;
        case X86_AT_RM:
            if (k.size == 1 && below(rng, 4) == 0)
                in->rm = (uint8_t)(X86_HIGH + below(rng, 4));
            break;
        default: break;
        }
    }
}

/* The value as the decoder would give it back is not needed here: encode keeps the low bytes. */
static bool build(struct insn *in, unsigned form, struct x86_rng *rng, enum x86_mode mode,
                  unsigned wish)
{
    const struct x86_encoding *e = &x86_encoding[form];
    const struct x86_form *f = &x86_form[form];
    unsigned regs = mode == X86_MODE_64 ? 16 : 8;
    bool can_mem =
        e->flags & X86_E_MODRM && !(e->mask & e->key & X86_K_MOD3) && !(e->flags & X86_E_ANY_MOD);
    bool can_reg = !(e->flags & X86_E_MODRM) || !(e->mask & X86_K_MOD3) || e->key & X86_K_MOD3;

    memset(in, 0, sizeof *in);
    in->form = (uint16_t)form;
    in->seg = SEG_DS;
    in->base = in->index = X86_NO_REG;
    if ((wish & X86_WISH_MEM && !can_mem) || (wish & X86_WISH_REG && !can_reg))
        return false;
    in->mem =
        can_mem && (!can_reg || wish & X86_WISH_MEM || (!(wish & X86_WISH_REG) && below(rng, 2)));
    random_sizes(in, rng, mode, e, wish);
    random_registers(in, rng, f, regs);
    if (in->mem)
        random_memory(in, rng, mode, regs, e->flags & X86_E_VSIB);
    if (!(wish & X86_WISH_PLAIN))
        random_prefixes(in, rng, mode, f);
    in->imm = random_value(rng);
    return true;
}

unsigned x86_random(unsigned form, struct x86_rng *rng, enum x86_mode mode, unsigned wish,
                    uint8_t out[X86_INSN_MAX])
{
    if (!(x86_encoding[form].modes >> mode & 1))
        return 0;
    for (unsigned tries = 0; tries < 64; tries++) {
        struct insn in, again;
        unsigned len;

        if (!build(&in, form, rng, mode, wish))
            return 0;
        len = x86_encode(&in, mode, out);
        if (len && x86_decode(&again, out, len, mode) == X86_DECODED && again.form == form &&
            again.length == len)
            return len;
    }
    return 0;
}
