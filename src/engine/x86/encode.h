/* SPDX-License-Identifier: MIT */
/* struct insn -> bytes, and random instructions of a given form.
 *
 * x86_decode, change a field (registers, base, index, disp, opsize, seg, imm), x86_encode: that is
 * how the JIT and the fuzzer move an instruction to other operands. A fresh insn needs form, the
 * register fields its operands name, opsize for forms that have several, and adsize if it has
 * memory. */
#ifndef HULL_X86_ENCODE_H
#define HULL_X86_ENCODE_H

#include "engine/x86/form.h"

/* Length, or 0 if no encoding in `mode` says this: r8-r15 outside 64-bit mode, AH with a REX, an
 * operand size that the form lacks. Uses form, opsize, w64, adsize, seg (with X86_P_SEG), the other
 * prefix bits, reg, rm, vvvv, mem with base, index, scale, disp, and imm. Picks the shortest
 * displacement and VEX; length, modrm, rex and opcode of `in` are not looked at. */
unsigned x86_encode(const struct insn *in, enum x86_mode mode, uint8_t out[X86_INSN_MAX]);

/* Makes `in`'s memory operand [base + index << scale + disp] without an override; X86_NO_REG: none.
 */
void x86_set_mem(struct insn *in, uint8_t base, uint8_t index, uint8_t scale, int32_t disp);

struct x86_rng {    /* xorshift64*: the same seed gives the same instructions */
    uint64_t state; /* not 0 */
};
uint64_t x86_rng_next(struct x86_rng *rng);

enum {                   /* x86_random's `wish`; 0 leaves all to chance */
       X86_WISH_REG = 1, /* ModRM operand a register */
       X86_WISH_MEM = 2, /* ModRM operand in memory */
       X86_WISH_PLAIN =
           4, /* no segment override, LOCK, REP, address-size prefix or prefix without effect */
};

/* A random valid encoding of form number `form`: registers, memory operand, operand size, prefixes
 * and immediates vary, with a taste for edge values. Length, or 0 if the form has none in this mode
 * (or not as wished). What comes out always decodes to that form. */
unsigned x86_random(unsigned form, struct x86_rng *rng, enum x86_mode mode, unsigned wish,
                    uint8_t out[X86_INSN_MAX]);

#endif
