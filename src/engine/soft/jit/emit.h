/* SPDX-License-Identifier: MIT */
/* Writing host code: a cursor into the writable view of the code memory, and the few encodings that
 * the translator needs beside copied instructions.
 *
 * Memory forms are limited on purpose (doc/jit.md, "What may be emitted"): slots of struct soft_cpu
 * and of the tables beside it through GS, and guest memory through [R11 + R10], [R10], [R11 + disp]
 * after a check. verify.c holds the translator to that. */
#ifndef HULL_SOFT_JIT_EMIT_H
#define HULL_SOFT_JIT_EMIT_H

#include "base/bits.h"
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { /* host registers */
       RAX,
       RCX,
       RDX,
       RBX,
       RSP,
       RBP,
       RSI,
       RDI,
       R8,
       R9,
       R10,
       R11,
       R12,
       R13,
       R14,
       R15,
};
enum { G_SP = R9, T0 = R10, T1 = R11 }; /* guest RSP, scratch */

struct buf {
    uint8_t *p; /* writable view */
    uint8_t *end;
};

static inline void e1(struct buf *b, unsigned v)
{
    *b->p++ = (uint8_t)v;
}

static inline void e4(struct buf *b, uint32_t v)
{
    memcpy(b->p, &v, 4);
    b->p += 4;
}

static inline void e8(struct buf *b, uint64_t v)
{
    memcpy(b->p, &v, 8);
    b->p += 8;
}

static inline void e_rex(struct buf *b, unsigned w, unsigned reg, unsigned index, unsigned rm)
{
    unsigned rex = 0x40 | w << 3 | (reg >> 3 & 1) << 2 | (index >> 3 & 1) << 1 | (rm >> 3 & 1);

    if (rex != 0x40)
        e1(b, rex);
}

static inline void e_opcode(struct buf *b, unsigned op)
{
    if (op > 0xff)
        e1(b, 0x0f);
    e1(b, op & 0xff);
}

/* op reg, rm (or rm, reg, as the opcode says). */
static inline void e_rr(struct buf *b, unsigned w, unsigned op, unsigned reg, unsigned rm)
{
    e_rex(b, w, reg, 0, rm);
    e_opcode(b, op);
    e1(b, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

/* op reg, gs:[disp] */
static inline void e_gs(struct buf *b, unsigned w, unsigned op, unsigned reg, int32_t disp)
{
    e1(b, 0x65);
    e_rex(b, w, reg, 0, 0);
    e_opcode(b, op);
    e1(b, (reg & 7) << 3 | 4);
    e1(b, 0x25);
    e4(b, (uint32_t)disp);
}

/* op reg, gs:[index << scale + disp] */
static inline void e_gs_index(struct buf *b, unsigned w, unsigned op, unsigned reg, unsigned index,
                              unsigned scale, int32_t disp)
{
    e1(b, 0x65);
    e_rex(b, w, reg, index, 0);
    e_opcode(b, op);
    e1(b, (reg & 7) << 3 | 4);
    e1(b, scale << 6 | (index & 7) << 3 | 5);
    e4(b, (uint32_t)disp);
}

/* op reg, [base + index << scale + disp]; index 0xff: none. No segment: guest memory or LEA. */
static inline void e_mem(struct buf *b, unsigned w, unsigned op, unsigned reg, unsigned base,
                         unsigned index, unsigned scale, int32_t disp)
{
    bool sib = index != 0xff || (base & 7) == 4;
    unsigned mod = disp == 0 && (base & 7) != 5 ? 0 : disp == (int8_t)disp ? 1 : 2;

    e_rex(b, w, reg, index == 0xff ? 0 : index, base);
    e_opcode(b, op);
    e1(b, mod << 6 | (reg & 7) << 3 | (sib ? 4 : base & 7));
    if (sib)
        e1(b, scale << 6 | (index == 0xff ? 4 : index & 7) << 3 | (base & 7));
    if (mod == 1)
        e1(b, (uint8_t)disp);
    else if (mod == 2)
        e4(b, (uint32_t)disp);
}

static inline void e_mov_rr(struct buf *b, unsigned dst, unsigned src)
{
    e_rr(b, 1, 0x89, src, dst);
}

/* The shortest way; flags stay. */
static inline void e_mov_ri(struct buf *b, unsigned dst, uint64_t v)
{
    if (v == (uint32_t)v) {
        e_rex(b, 0, 0, 0, dst);
        e1(b, 0xb8 | (dst & 7));
        e4(b, (uint32_t)v);
    } else if (v == (uint64_t)(int64_t)(int32_t)v) {
        e_rex(b, 1, 0, 0, dst);
        e1(b, 0xc7);
        e1(b, 0xc0 | (dst & 7));
        e4(b, (uint32_t)v);
    } else {
        e_rex(b, 1, 0, 0, dst);
        e1(b, 0xb8 | (dst & 7));
        e8(b, v);
    }
}

static inline void e_load(struct buf *b, unsigned reg, int32_t disp)
{
    e_gs(b, 1, 0x8b, reg, disp);
}

static inline void e_store(struct buf *b, unsigned reg, int32_t disp)
{
    e_gs(b, 1, 0x89, reg, disp);
}

/* Jumps whose target is known in the same view; `op` 0xe9, 0xe8 or 0x180 + condition. */
static inline void e_jump(struct buf *b, unsigned op, const uint8_t *to)
{
    e_opcode(b, op);
    e4(b, (uint32_t)(to - (b->p + 4)));
}

/* A jump to be patched: where its 4-byte field is. */
static inline uint8_t *e_jump_later(struct buf *b, unsigned op)
{
    e_opcode(b, op);
    e4(b, 0);
    return b->p - 4;
}

static inline void e_patch(uint8_t *field, const uint8_t *to)
{
    uint32_t v = (uint32_t)(to - (field + 4));

    /* Atomic: another view of this is being executed, by this thread. */
    __atomic_store_n((uint32_t *)(void *)field, v, __ATOMIC_RELEASE);
}

enum { J_ABOVE = 0x187, J_NE = 0x185, J_E = 0x184, J_ALWAYS = 0xe9, J_CALL = 0xe8 };

#endif
