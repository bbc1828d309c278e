/* SPDX-License-Identifier: MIT */
/* What opcode.def says of one form of an instruction. The generator turns rows into x86_form[]. */
#ifndef HULL_X86_FORM_H
#define HULL_X86_FORM_H

#include "engine/x86/insn.h"

enum x86_class {
    X86_COPY,   /* may be re-emitted with another memory operand */
    X86_FLOW,   /* changes RIP: branches, calls, returns */
    X86_STRING, /* MOVS, STOS, ... */
    X86_STATE,  /* C handler; system state, ends a block if it can change the mode */
    X86_UNDEF,  /* defined to raise #UD */
};

enum { /* arithmetic flags in masks: their bits in EFLAGS */
    X86_CF = 1, X86_PF = 4, X86_AF = 0x10, X86_ZF = 0x40, X86_SF = 0x80, X86_DF = 0x400, X86_OF = 0x800,
};

enum x86_gate { X86_GATE_NONE, X86_GATE_X87, X86_GATE_MMX, X86_GATE_SSE, X86_GATE_AVX, X86_GATE_FWAIT };

struct x86_form {
    uint16_t op;      /* enum x86_op */
    uint8_t class;    /* enum x86_class */
    uint8_t gate;     /* enum x86_gate: which of CR0.EM/TS, CR4.OSFXSR, XCR0 refuse it */
    uint8_t operand[4]; /* enum x86_operand, X86_O_NONE after the last; [0] is the destination */
    uint8_t access[4];  /* 1 read, 2 write, 3 both */
    uint16_t flags_read, flags_written, flags_undefined; /* X86_CF ... in EFLAGS positions */
    uint8_t feature;  /* enum x86_feature that must be present, 0: base */
    uint8_t modes;    /* bit per enum x86_mode: valid in */
    uint8_t lock;     /* LOCK allowed with a memory destination */
    uint8_t cpl0;     /* #GP(0) unless CPL 0 */
    uint8_t align;    /* bytes of alignment a memory operand needs (#GP), 0: none */
    uint8_t mem_size; /* bytes of the memory operand; 0: opsize decides */
    uint16_t thunk;   /* vector and x87 forms: number of the host-executed thunk, 0: none */
};

extern const struct x86_form x86_form[];
extern const unsigned x86_form_count;
extern const char *const x86_op_name[]; /* lower-case mnemonics by enum x86_op */

#endif
