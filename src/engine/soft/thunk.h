/* SPDX-License-Identifier: MIT */
/* Vector instructions that the host executes in our place: thunks, made at build time by
 * gen_thunks.c.
 *
 * A thunk is one instruction and RET. Its registers are normalised: operand i of the form is
 * XMM(i+1) or MM(i+1), an implied XMM0 is XMM0, a general register is RAX, memory is [RDI]. The
 * caller (vec_call.S) loads those from a struct vec_args, calls the thunk and stores what it may
 * have changed. So no executable memory is ever made at run time. */
#ifndef HULL_SOFT_THUNK_H
#define HULL_SOFT_THUNK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vec_args {                                  /* vec_call.S knows the offsets */
    uint8_t v[5][32] __attribute__((aligned(32))); /* XMM0..XMM4, or the low 8 bytes: MM0..MM4 */
    uint64_t rax;                                  /* 160 */
    uint64_t rcx;                                  /* 168: PCMPxSTRI's result */
    uint64_t rdx;                                  /* 176 */
    void *mem;                                     /* 184: RDI */
    uint16_t arith; /* 192: flags after the instruction, as in soft_cpu.arith */
};
_Static_assert(offsetof(struct vec_args, arith) == 192, "vec_call.S");

typedef void vec_call_fn(struct vec_args *args, const void *thunk);
vec_call_fn soft_vec_call128, soft_vec_call256, soft_mmx_call;

/* The quick way, without struct vec_args: pointers to the low halves of registers (or to 16 bytes
 * of memory), whose high halves lie HIGH_HALF bytes behind. The destination is loaded first. */
#define HIGH_HALF 416
void soft_plain2_128(void *dst, const void *src, const void *thunk);
void soft_plain3_128(void *dst, const void *src1, const void *src2, const void *thunk);
void soft_plain2_256(void *dst, const void *src, const void *thunk);
void soft_plain3_256(void *dst, const void *src1, const void *src2, const void *thunk);

/* Of soft_thunk_code, by form * 4 + (32-byte vectors) * 2 + (VEX.W or REX.W): 0 means none. Bit 31:
 * one thunk per value of the immediate byte, 8 bytes apart. */
extern const uint32_t soft_thunk_offset[];
#define THUNK_IMM 0x80000000u
extern const uint8_t soft_thunk_code[];
/* What the caller needs to know of a form; by form. */
extern const uint16_t soft_thunk_flags[];
enum {
    THUNK_FP = 1,  /* reads MXCSR and may set its exception flags */
    THUNK_MEM = 2, /* its memory operand is [RDI], not a register */
    THUNK_SINGLE =
        4, /* FP results are 4-byte elements, else 8: for tiny results with unmasked underflow */
    THUNK_PLAIN2 = 256, /* dst, src [,imm]: for soft_plain2_... */
    THUNK_PLAIN3 = 512, /* dst, src, src [,imm] */
    THUNK_HALF = 128,   /* FP results are 2-byte elements */
    THUNK_TINY = 64,    /* its result can be tiny: underflow */
    THUNK_IMM6 = 32,    /* INSERTPS: from memory, bits 7-6 of the immediate mean nothing */
    THUNK_MMX = 16,     /* has an MMX register operand */
    THUNK_SCALAR = 8,   /* only the lowest element is computed */
};

#endif
