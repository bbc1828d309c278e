/* SPDX-License-Identifier: MIT */
/* How forms are encoded: what gen.c makes from opcode_*.def for the decoder and the encoder. */
#ifndef HULL_X86_TABLE_H
#define HULL_X86_TABLE_H

#include <stdint.h>

enum x86_map {
    X86_MAP_1,
    X86_MAP_0F,
    X86_MAP_0F38,
    X86_MAP_0F3A,
    X86_MAP_VEX_0F,
    X86_MAP_VEX_0F38,
    X86_MAP_VEX_0F3A,
    X86_MAP_COUNT
};

/* The facts about a byte sequence that choose a form, packed so that one mask and compare tests
 * them. */
enum x86_key {
    X86_K_MODRM = 0xff,
    X86_K_PREFIX = 0x300, /* 0 none, 1: 66, 2: F3, 3: F2 */
    X86_K_PREFIX_SHIFT = 8,
    X86_K_REP = 0x200,   /* F2 or F3 */
    X86_K_W = 0x400,     /* VEX.W or REX.W as written */
    X86_K_L = 0x800,     /* VEX.L */
    X86_K_W64 = 0x1000,  /* W in 64-bit mode: W in the others does not widen general registers */
    X86_K_MOD3 = 0x2000, /* ModRM.mod is 3 */
    X86_K_REXB = 0x4000,
    X86_K_OPSIZE = 0x18000, /* 0: 16, 1: 32, 2: 64 bits, by prefixes alone */
    X86_K_OPSIZE_SHIFT = 15,
};

enum x86_imm_kind {
    X86_IMM_NONE,
    X86_IMM_B,   /* byte, zero-extended */
    X86_IMM_BS,  /* byte, sign-extended */
    X86_IMM_W,   /* word, zero-extended */
    X86_IMM_Z,   /* word or dword, sign-extended */
    X86_IMM_V,   /* word, dword or qword */
    X86_IMM_FAR, /* offset of opsize, then selector */
    X86_IMM_ENTER,
    X86_IMM_MOFFS, /* adsize bytes */
};

enum x86_opsize_kind {
    X86_OS_V,   /* 2, 4, 8 by prefixes */
    X86_OS_Z,   /* 2, 4 */
    X86_OS_Y,   /* 4, 8 by W */
    X86_OS_FIX, /* encoding.fixed */
};

enum x86_encoding_flag {
    X86_E_MODRM = 1,
    X86_E_PLUS_R = 2,    /* register in the opcode's low three bits */
    X86_E_VVVV = 4,      /* uses VEX.vvvv: otherwise it must be 1111b */
    X86_E_D64 = 8,       /* operand size is 64 in 64-bit mode unless 66 */
    X86_E_F64 = 16,      /* operand size is 64 in 64-bit mode, 66 ignored */
    X86_E_BYTE_REG = 32, /* reg is a byte register: AH..BH without REX */
    X86_E_BYTE_RM = 64,  /* the same for rm */
    X86_E_VSIB = 128,
    X86_E_ANY_MOD = 256, /* ModRM.mod is ignored: always registers (MOV CR, DR) */
};

struct x86_encoding {           /* parallel to x86_form[] */
    uint8_t map, opcode;        /* enum x86_map */
    uint8_t imm, opsize, fixed; /* enum x86_imm_kind, enum x86_opsize_kind, bytes */
    uint16_t flags;             /* enum x86_encoding_flag */
    uint8_t modes;
    uint32_t key, mask; /* enum x86_key */
};

struct x86_candidate {
    uint32_t key, mask;
    uint16_t form;
    uint8_t modes;
};

struct x86_slot {   /* one opcode of one map */
    uint16_t first; /* in x86_candidate[] */
    uint8_t count;
    uint8_t modrm; /* a ModRM byte follows */
};

extern const struct x86_encoding x86_encoding[];
extern const struct x86_candidate x86_candidate[];
extern const struct x86_slot x86_slot[X86_MAP_COUNT][256];

#endif
