/* SPDX-License-Identifier: MIT */
/* One decoded x86 instruction, and the form (row of opcode.def) it matched.
 *
 * bytes -> x86_decode -> struct insn -> interpreter, JIT, formatter, fuzzer. The decoder keeps no
 * state and allocates nothing. Intel SDM volume 2. */
#ifndef HULL_X86_INSN_H
#define HULL_X86_INSN_H

#include "base/bits.h"
#include "x86_ops.h" /* generated from opcode_*.def: enum x86_op { X86_ADD, ... X86_OP_COUNT } */

#define X86_INSN_MAX 15

enum x86_mode {
    X86_MODE_16,
    X86_MODE_32,
    X86_MODE_64
}; /* default operand and address size of CS */

enum x86_seg_name { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS };

/* Register numbers in struct insn: 0-15 as encoded, with REX applied. Byte operands: 0-15 are the
 * low bytes; AH, CH, DH, BH (no REX) are X86_HIGH + 0..3. */
enum {
    X86_HIGH = 16,
    X86_NO_REG = 0xff, /* no base, or no index */
    X86_RIP = 0xfe,    /* base of RIP-relative addressing */
};

enum { /* struct insn.prefix */
       X86_P_66 = 1,
       X86_P_67 = 2,
       X86_P_LOCK = 4,
       X86_P_REP = 8,    /* F3 */
       X86_P_REPNE = 16, /* F2 */
       X86_P_SEG = 32,   /* an override was given; seg holds the result anyway */
       X86_P_VEX = 64,
       X86_P_REXW = 128, /* REX.W or VEX.W */
};

struct insn {       /* 32 bytes */
    uint16_t form;  /* row in x86_form[] */
    uint16_t op;    /* enum x86_op, as x86_form[form].op */
    uint8_t length; /* bytes, prefixes included */
    uint8_t prefix; /* X86_P_* */
    uint8_t opsize; /* 2, 4 or 8: effective operand size; 1 for byte forms; 8 for MMX, 16 or 32 for
                       vector forms */
    uint8_t adsize; /* 2, 4 or 8 */
    uint8_t seg; /* segment of the memory operand, override applied, default SS for rSP/rBP bases;
                  * the same for what strings, XLAT and MASKMOV read at DS by default */
    uint8_t mem; /* 1: the r/m operand (or moffs) is memory */
    uint8_t base, index, scale; /* of the memory operand; scale is the shift: 0-3 */
    uint8_t reg;                /* ModRM.reg operand (also the register in +r opcodes) */
    uint8_t rm;                 /* ModRM.rm operand when it is a register */
    uint8_t vvvv;               /* VEX.vvvv; also is4's register is in imm bits 7-4 */
    uint8_t modrm;              /* raw */
    uint8_t rex;                /* raw REX, or 0; for VEX the same bits: 0x40 | WRXB */
    uint8_t opcode;             /* the last opcode byte */
    uint8_t w64; /* Ey, Gy operands are 8 bytes: REX.W or VEX.W in 64-bit mode, or a form that is
                    always so */
    int32_t disp;
    /* Iz, Iv, Is and J operands: sign-extended to 64 bits; Ib and Iw: zero-extended. Moffs: the
     * address; far pointers: offset | selector << 32; ENTER: size | level << 16. */
    uint64_t imm;
};

enum x86_decode_result {
    X86_DECODED = 0,
    X86_NEED_MORE, /* `len` bytes are a true prefix of an instruction: fetch the next page's */
    X86_INVALID,   /* #UD */
    X86_TOO_LONG,  /* over 15 bytes: #GP(0) */
};

enum x86_decode_result x86_decode(struct insn *in, const uint8_t *bytes, size_t len,
                                  enum x86_mode mode);

/* Intel-syntax text for logs, the monitor and gdb; `rip` is the instruction's own address. Always
 * NUL-terminates. */
void x86_format(const struct insn *in, uint64_t rip, char *text, size_t size);

#endif
