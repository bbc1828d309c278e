/* SPDX-License-Identifier: MIT */
/* What opcode_*.def say of one form of an instruction. gen.c turns rows into x86_form[]. */
#ifndef HULL_X86_FORM_H
#define HULL_X86_FORM_H

#include "engine/x86/feature.h"
#include "engine/x86/insn.h"
#include "engine/x86/operand.h"

enum x86_class {
    X86_COPY,   /* may be re-emitted with another memory operand; not if it uses memory that no
                 * operand   shows: the stack (rSP implicit), XLAT */
    X86_FLOW,   /* changes RIP: branches, calls, returns */
    X86_STRING, /* MOVS, STOS, ... */
    X86_STATE,  /* C handler; system state, ends a block if it can change the mode */
    X86_UNDEF,  /* defined to raise #UD */
};

enum { /* arithmetic flags in masks: their bits in EFLAGS */
       X86_CF = 1,
       X86_PF = 4,
       X86_AF = 0x10,
       X86_ZF = 0x40,
       X86_SF = 0x80,
       X86_DF = 0x400,
       X86_OF = 0x800,
};

enum x86_gate {
    X86_GATE_NONE,
    X86_GATE_X87,   /* CR0.EM or TS: #NM; pending x87 exception: #MF */
    X86_GATE_MMX,   /* CR0.EM: #UD; TS: #NM; pending x87 exception: #MF */
    X86_GATE_SSE,   /* CR0.EM or not CR4.OSFXSR: #UD; TS: #NM */
    X86_GATE_AVX,   /* XCR0[2:1] not 11b, not CR4.OSXSAVE, real or v8086 mode: #UD; TS: #NM */
    X86_GATE_FN,    /* CR0.EM or TS: #NM, nothing more: FNINIT, FNSTSW, FXSAVE, ... */
    X86_GATE_FWAIT, /* CR0.MP and TS: #NM; pending x87 exception: #MF */
};

/* Flags: `written` get defined values, `undefined` are left undefined; the two are disjoint. What
 * may pass through unchanged (shifts by a count that may be 0, REPE CMPS with rCX 0) is also in
 * `read`. */
struct x86_form {
    uint16_t op;        /* enum x86_op */
    uint8_t class;      /* enum x86_class */
    uint8_t gate;       /* enum x86_gate: which of CR0.EM/TS, CR4.OSFXSR, XCR0 refuse it */
    uint8_t operand[4]; /* enum x86_operand, X86_O_NONE after the last; [0] is the destination */
    uint8_t access[4];  /* 1 read, 2 write, 3 both */
    uint16_t flags_read, flags_written, flags_undefined; /* X86_CF ... in EFLAGS positions */
    uint8_t feature;   /* enum x86_feature that must be present, 0: base */
    uint8_t modes;     /* bit per enum x86_mode: valid in */
    uint8_t lock;      /* LOCK allowed with a memory destination */
    uint8_t cpl0;      /* #GP(0) unless CPL 0 */
    uint8_t align;     /* bytes of alignment a memory operand needs (#GP), 0: none */
    uint16_t mem_size; /* bytes of the memory operand; 0: see x86_mem_size() */
    uint16_t implicit_read,
        implicit_written; /* general registers that no operand shows: bit per number */
    uint16_t thunk;       /* vector and x87 forms: number of the host-executed thunk, 0: none */
};

extern const struct x86_form x86_form[];
extern const unsigned x86_form_count;
extern const unsigned x86_thunk_count;  /* numbers 1 ... this */
extern const char *const x86_op_name[]; /* lower-case mnemonics by enum x86_op */

/* Bytes of operand `i`; as a register, or in memory. 0: an address only, or XSAVE's, which XCR0
 * sizes. */
unsigned x86_operand_size(const struct insn *in, unsigned i);
/* Index in operand[] of the explicit memory operand, or -1. */
int x86_mem_operand(const struct insn *in);
/* Bytes that the explicit memory operand covers (moffs too); 0 if there is none, or as above. */
unsigned x86_mem_size(const struct insn *in);
/* Whether the explicit memory operand is read (1), written (2) or both (3). */
unsigned x86_mem_access(const struct insn *in);

static inline const struct x86_form *x86_form_of(const struct insn *in)
{
    return &x86_form[in->form];
}

#endif
