/* SPDX-License-Identifier: MIT */
/* The kinds of operand that opcode_*.def uses, in the notation of Intel SDM volume 2, appendix A: a
 * letter for the place (E: general register or memory by ModRM, G: general register in ModRM.reg,
 * V/W/H: vector register in ModRM.reg / ModRM / VEX.vvvv, ...), then one for the size (b w d q, v:
 * 2, 4 or 8 by operand size, z: the same but at most 4, y: 4 or 8 by REX.W, x: 16 or 32 by VEX.L).
 * The generator, decoder, encoder and formatter share this list. */
#ifndef HULL_X86_OPERAND_H
#define HULL_X86_OPERAND_H

#include <stdint.h>

enum x86_place {
    X86_AT_NONE,
    X86_AT_REG,    /* general register in ModRM.reg: insn.reg */
    X86_AT_RM,     /* general register insn.rm, or memory if insn.mem */
    X86_AT_RMREG,  /* insn.rm, never memory */
    X86_AT_MEM,    /* memory only */
    X86_AT_OPREG,  /* general register in the opcode's low bits: insn.reg */
    X86_AT_VVVV,   /* general register insn.vvvv */
    X86_AT_XREG,   /* vector register insn.reg */
    X86_AT_XRM,    /* vector register insn.rm, or memory */
    X86_AT_XRMREG, /* vector register insn.rm */
    X86_AT_XVVVV,  /* vector register insn.vvvv */
    X86_AT_XIS4,   /* vector register in bits 7-4 of insn.imm */
    X86_AT_XMM0,   /* XMM0, implied */
    X86_AT_VSIB,   /* memory with a vector index (AVX2 gathers) */
    X86_AT_MREG,   /* MMX register insn.reg (0-7) */
    X86_AT_MRM,    /* MMX register insn.rm, or memory */
    X86_AT_MRMREG, /* MMX register insn.rm */
    X86_AT_SEG,    /* segment register in ModRM.reg: insn.reg is an enum x86_seg_name */
    X86_AT_CR,     /* control register insn.reg */
    X86_AT_DR,     /* debug register insn.reg */
    X86_AT_IMM,    /* insn.imm */
    X86_AT_REL,    /* branch displacement from the next instruction: insn.imm */
    X86_AT_FAR,    /* selector:offset in insn.imm */
    X86_AT_MOFFS,  /* memory at absolute offset insn.imm; insn.mem is set */
    X86_AT_SRC,    /* memory at seg:rSI */
    X86_AT_DST,    /* memory at ES:rDI */
    X86_AT_ACC,    /* AL, AX, EAX, RAX */
    X86_AT_CL,
    X86_AT_DX,
    X86_AT_ONE,    /* the constant 1 */
    X86_AT_ST0,    /* x87 top of stack */
    X86_AT_STI,    /* x87 ST(insn.rm) */
    X86_AT_FIXSEG, /* segment register named by the opcode (PUSH ES): number in `size` - X86_SZ_SEG0
                    */
};

/* Sizes up to 32 are bytes; these are rules. */
enum x86_size_rule {
    X86_SZ_V = 128, /* opsize: 2, 4, 8 */
    X86_SZ_Z,       /* opsize, at most 4 */
    X86_SZ_Y,       /* 8 with REX.W in 64-bit mode, else 4 */
    X86_SZ_X,       /* 16 or 32 */
    X86_SZ_RVMW,    /* opsize as a register, 2 in memory (SLDT, MOV r/m, Sreg) */
    X86_SZ_RDMB,    /* 4 as a register, 1 in memory (PEXTRB) */
    X86_SZ_RDMW,    /* 4 as a register, 2 in memory (PEXTRW, PINSRW) */
    X86_SZ_P,       /* far pointer: opsize + 2 */
    X86_SZ_S,       /* descriptor-table register: 6, or 10 in 64-bit mode */
    X86_SZ_A,       /* BOUND's pair: 2 * opsize */
    X86_SZ_ENV,     /* FLDENV: 14 or 28 */
    X86_SZ_FSAVE,   /* FSAVE: 94 or 108 */
    X86_SZ_FXSAVE,  /* 512 */
    X86_SZ_XSAVE,   /* depends on XCR0 */
    X86_SZ_LINE,    /* an address only: prefetch, cache line, INVLPG, LEA */
    X86_SZ_SEG0 = 160,
};

/* name, place, size */
/* clang-format off */
#define X86_OPERANDS(X) \
    X(Eb, RM, 1) X(Ew, RM, 2) X(Ed, RM, 4) X(Eq, RM, 8) X(Ev, RM, X86_SZ_V) X(Ey, RM, X86_SZ_Y) X(Ez, RM, X86_SZ_Z) \
    X(RvMw, RM, X86_SZ_RVMW) X(RdMb, RM, X86_SZ_RDMB) X(RdMw, RM, X86_SZ_RDMW) \
    X(Gb, REG, 1) X(Gw, REG, 2) X(Gd, REG, 4) X(Gv, REG, X86_SZ_V) X(Gy, REG, X86_SZ_Y) X(Gz, REG, X86_SZ_Z) \
    X(Rd, RMREG, 4) X(Ry, RMREG, X86_SZ_Y) X(Rv, RMREG, X86_SZ_V) X(Rq, RMREG, 8) \
    X(Zb, OPREG, 1) X(Zv, OPREG, X86_SZ_V) X(By, VVVV, X86_SZ_Y) \
    X(Mb, MEM, 1) X(Mw, MEM, 2) X(Md, MEM, 4) X(Mq, MEM, 8) X(Mdq, MEM, 16) X(Mqq, MEM, 32) X(Mx, MEM, X86_SZ_X) \
    X(Mv, MEM, X86_SZ_V) X(My, MEM, X86_SZ_Y) X(Mt, MEM, 10) X(Mp, MEM, X86_SZ_P) X(Ms, MEM, X86_SZ_S) X(Ma, MEM, X86_SZ_A) \
    X(Menv, MEM, X86_SZ_ENV) X(Mfsave, MEM, X86_SZ_FSAVE) X(Mfx, MEM, X86_SZ_FXSAVE) X(Mxs, MEM, X86_SZ_XSAVE) X(M, MEM, X86_SZ_LINE) \
    X(Vb, XREG, 1) X(Vw, XREG, 2) X(Vd, XREG, 4) X(Vq, XREG, 8) X(Vdq, XREG, 16) X(Vx, XREG, X86_SZ_X) \
    X(Wb, XRM, 1) X(Ww, XRM, 2) X(Wd, XRM, 4) X(Wq, XRM, 8) X(Wdq, XRM, 16) X(Wx, XRM, X86_SZ_X) \
    X(Ud, XRMREG, 4) X(Uq, XRMREG, 8) X(Udq, XRMREG, 16) X(Ux, XRMREG, X86_SZ_X) \
    X(Hd, XVVVV, 4) X(Hq, XVVVV, 8) X(Hdq, XVVVV, 16) X(Hx, XVVVV, X86_SZ_X) \
    X(Ldq, XIS4, 16) X(Lx, XIS4, X86_SZ_X) X(XMM0, XMM0, 16) \
    X(VMd, VSIB, 4) X(VMq, VSIB, 8) X(VXq, VSIB, 8) \
    X(Pd, MREG, 4) X(Pq, MREG, 8) X(Qd, MRM, 4) X(Qq, MRM, 8) X(Nq, MRMREG, 8) \
    X(Sw, SEG, 2) X(Cy, CR, X86_SZ_Y) X(Dy, DR, X86_SZ_Y) \
    X(Ib, IMM, 1) X(Is, IMM, 1) X(Iw, IMM, 2) X(Iz, IMM, X86_SZ_Z) X(Iv, IMM, X86_SZ_V) \
    X(Jb, REL, 1) X(Jz, REL, X86_SZ_Z) X(Ap, FAR, X86_SZ_P) X(Ob, MOFFS, 1) X(Ov, MOFFS, X86_SZ_V) \
    X(Xb, SRC, 1) X(Xv, SRC, X86_SZ_V) X(Xz, SRC, X86_SZ_Z) X(Yb, DST, 1) X(Yv, DST, X86_SZ_V) X(Yz, DST, X86_SZ_Z) \
    X(AL, ACC, 1) X(AX, ACC, 2) X(rAX, ACC, X86_SZ_V) X(eAX, ACC, X86_SZ_Z) X(CL, CL, 1) X(DX, DX, 2) X(ONE, ONE, 1) \
    X(ST, ST0, 10) X(STi, STI, 10) \
    X(ES, FIXSEG, X86_SZ_SEG0 + 0) X(CS, FIXSEG, X86_SZ_SEG0 + 1) X(SS, FIXSEG, X86_SZ_SEG0 + 2) \
    X(DS, FIXSEG, X86_SZ_SEG0 + 3) X(FS, FIXSEG, X86_SZ_SEG0 + 4) X(GS, FIXSEG, X86_SZ_SEG0 + 5)
/* clang-format on */

enum x86_operand {
    X86_O_NONE,
#define X(name, place, size) X86_O_##name,
    X86_OPERANDS(X)
#undef X
        X86_O_COUNT
};

struct x86_operand_kind {
    uint8_t place; /* enum x86_place */
    uint8_t size;  /* bytes, or enum x86_size_rule */
};

extern const struct x86_operand_kind x86_operand_kind[X86_O_COUNT]; /* decode.c */

#endif
