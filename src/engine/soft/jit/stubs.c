/* SPDX-License-Identifier: MIT */
/* The ways into and out of translated code, emitted once per vCPU.
 *
 * Inside, RSP is the C stack's, 16-byte aligned; every guest register is in its host register (RSP
 * in R9, R9-R11 in struct soft_cpu). Ways out put them into struct soft_cpu, where C code and
 * faults (longjmp) expect them. */
#include "engine/soft/jit/jit_int.h"
#include "engine/soft/jit/run.h"
#include "engine/soft/vector.h"

/* Guest registers that live in host registers. */
static const struct {
    uint8_t host, guest;
} held[] = {{RCX, 1}, {RDX, 2}, {RBX, 3},  {G_SP, 4}, {RBP, 5},  {RSI, 6},
            {RDI, 7}, {R8, 8},  {R12, 12}, {R13, 13}, {R14, 14}, {R15, 15}};

static void store_all_but_rax(struct buf *b)
{
    for (unsigned i = 0; i < ARRAY_SIZE(held); i++)
        e_store(b, held[i].host, GS_REG(held[i].guest));
}

static void load_all(struct buf *b)
{
    for (unsigned i = 0; i < ARRAY_SIZE(held); i++)
        e_load(b, held[i].host, GS_REG(held[i].guest));
    e_load(b, RAX, GS_REG(0));
}

/* EFLAGS from cpu->arith; RAX is lost. */
static void flags_in(struct buf *b)
{
    e_gs(b, 0, 0x1b7, RAX, GS(arith)); /* movzx eax, word */
    e1(b, 0x04);                       /* add al, 0x7f: OF */
    e1(b, 0x7f);
    e1(b, 0x9e); /* sahf */
}

static void flags_out(struct buf *b)
{
    e1(b, 0x9f);               /* lahf */
    e_rr(b, 0, 0x190, 0, RAX); /* seto al */
    e1(b, 0x66);
    e_gs(b, 0, 0x89, RAX, GS(arith));
}

static const uint8_t saved[] = {RBX, RBP, R12, R13, R14, R15};

static void push(struct buf *b, unsigned reg)
{
    e_rex(b, 0, 0, 0, reg);
    e1(b, 0x50 | (reg & 7));
}

static void pop(struct buf *b, unsigned reg)
{
    e_rex(b, 0, 0, 0, reg);
    e1(b, 0x58 | (reg & 7));
}

static void add_rsp(struct buf *b, int n)
{
    e_rex(b, 1, 0, 0, RSP);
    e1(b, 0x83);
    e1(b, 0xc4);
    e1(b, (uint8_t)n);
}

static void epilogue(struct buf *b)
{
    add_rsp(b, 8);
    for (unsigned i = ARRAY_SIZE(saved); i-- > 0;)
        pop(b, saved[i]);
    e1(b, 0xc3);
}

/* ---- vector registers ---- */

enum { XMM_AT = GS(xsave) + XSAVE_XMM, YMM_AT = GS(xsave) + XSAVE_YMM };

/* VINSERTF128 (0x18) or VEXTRACTF128 (0x19) between YMM r and gs:[disp], upper half. */
static void high_half(struct buf *b, unsigned op, unsigned r, int32_t disp)
{
    e1(b, 0x65);
    e1(b, 0xc4);
    e1(b, (r > 7 ? 0 : 0x80) | 0x63);
    e1(b, (op == 0x18 ? (~r & 15) : 15u) << 3 | 5);
    e1(b, op);
    e1(b, (r & 7) << 3 | 4);
    e1(b, 0x25);
    e4(b, (uint32_t)disp);
    e1(b, 1);
}

static void test_gs(struct buf *b, int32_t disp, uint32_t bits)
{
    e_gs(b, 0, 0xf7, 0, disp);
    e4(b, bits);
}

/* Takes the guest's vector registers and MXCSR into the host's. T1 := 0, or not 0 if control
 * registers or unmasked exceptions do not allow that: then only handlers may run vector
 * instructions. Flags are lost. */
static void make_vec_in(struct jit *j, struct buf *b)
{
    uint8_t *refuse[4], *avx[2];

    j->vec_in = b->p;
    test_gs(b, GS(cr0), CR0_EM | CR0_TS);
    refuse[0] = e_jump_later(b, J_NE);
    test_gs(b, GS(cr4), CR4_OSFXSR);
    refuse[1] = e_jump_later(b, J_E);
    e_gs(b, 0, 0x8b, T1, GS(mxcsr));
    e_rr(b, 0, 0xf7, 2, T1); /* not */
    e_rr(b, 0, 0xf7, 0, T1);
    e4(b, MXCSR_DEFAULT);
    refuse[2] = e_jump_later(b, J_NE);
    e_gs(b, 0, 0x1ae, 2, GS(mxcsr)); /* ldmxcsr */
    for (unsigned i = 0; i < 16; i++) {
        e_gs(b, 0, 0x128, i, XMM_AT + 16 * (int32_t)i); /* movaps */
        if (j->wide)
            high_half(b, 0x18, i, YMM_AT + 16 * (int32_t)i);
    }
    e_gs(b, 0, 0xc6, 0, GS(vec_live));
    e1(b, VEC_SSE);
    e_gs(b, 0, 0x8b, T1, GS(xcr0));
    e_rr(b, 0, 0xf7, 2, T1);
    e_rr(b, 0, 0xf7, 0, T1);
    e4(b, 6);
    avx[0] = e_jump_later(b, J_NE);
    test_gs(b, GS(cr4), CR4_OSXSAVE);
    avx[1] = e_jump_later(b, J_E);
    e_gs(b, 0, 0xc6, 0, GS(vec_live));
    e1(b, VEC_SSE | VEC_AVX);
    e_patch(avx[0], b->p);
    e_patch(avx[1], b->p);
    e_mov_ri(b, T1, 0);
    e1(b, 0xc3);
    for (unsigned i = 0; i < 3; i++)
        e_patch(refuse[i], b->p);
    e_mov_ri(b, T1, 1);
    e1(b, 0xc3);
}

/* Gives them back before C runs. RAX and flags are lost. */
static void vec_out(struct jit *j, struct buf *b)
{
    uint8_t *done;

    e_gs(b, 0, 0x80, 7, GS(vec_live)); /* cmp byte, 0 */
    e1(b, 0);
    done = e_jump_later(b, J_E);
    for (unsigned i = 0; i < 16; i++) {
        e_gs(b, 0, 0x129, i, XMM_AT + 16 * (int32_t)i);
        if (j->wide)
            high_half(b, 0x19, i, YMM_AT + 16 * (int32_t)i);
    }
    if (j->wide) { /* vzeroupper */
        e1(b, 0xc5);
        e1(b, 0xf8);
        e1(b, 0x77);
    }
    e_gs(b, 0, 0x1ae, 3, GS(mxcsr)); /* stmxcsr */
    e_gs(b, 0, 0xc7, 0, GS(jit_rax));
    e4(b, MXCSR_DEFAULT);
    e_gs(b, 0, 0x1ae, 2, GS(jit_rax));
    e_gs(b, 0, 0xc6, 0, GS(vec_live));
    e1(b, 0);
    e_patch(done, b->p);
}

/* ---- in and out ---- */

static void make_enter(struct jit *j, struct buf *b)
{
    const uint8_t *at = jit_exec(j, b->p);

    j->enter = (uint64_t(*)(struct soft_cpu *, const void *))(uintptr_t)at;
    for (unsigned i = 0; i < ARRAY_SIZE(saved); i++)
        push(b, saved[i]);
    add_rsp(b, -8);
    e_mov_rr(b, T0, RSI);
    flags_in(b);
    load_all(b);
    e_rr(b, 0, 0xff, 4, T0); /* jmp T0 */
}

/* T0: RIP to go on at, T1: site or 0. */
static void make_leave(struct jit *j, struct buf *b)
{
    uint8_t *over;

    j->leave_flags = b->p;
    e_store(b, RAX, GS_REG(0));
    flags_out(b);
    over = e_jump_later(b, J_ALWAYS);
    j->leave = b->p;
    e_store(b, RAX, GS_REG(0));
    e_patch(over, b->p);
    store_all_but_rax(b);
    e_store(b, T0, GS(block_rip));
    e_store(b, T0, GS(rip));
    vec_out(j, b);
    e_mov_rr(b, RAX, T1);
    epilogue(b);
    j->miss = b->p;
    e_mov_ri(b, T1, 0);
    e_jump(b, J_ALWAYS, j->leave);
}

/* The guest's state goes to memory; RAX gets the function, which is to be called with the vCPU and
 * with what T1 holds. */
static void leave_to(struct jit *j, struct buf *b, uintptr_t function)
{
    e_store(b, RAX, GS_REG(0));
    store_all_but_rax(b);
    vec_out(j, b);
    e_mov_ri(b, RDI, (uintptr_t)j->cpu);
    e_rr(b, 0, 0x89, T1, RSI);
    e_mov_ri(b, RAX, function);
}

/* Called with the number of a jit_meta in T1. cpu->arith holds the flags if anyone needs them. */
static void make_op(struct jit *j, struct buf *b)
{
    uint8_t *out;

    j->op = b->p;
    leave_to(j, b, (uintptr_t)soft_jit_op);
    add_rsp(b, -8);
    e_rr(b, 0, 0xff, 2, RAX); /* call rax */
    add_rsp(b, 8);
    e_rr(b, 0, 0x85, RAX, RAX);
    out = e_jump_later(b, J_NE);
    flags_in(b);
    load_all(b);
    e1(b, 0xc3);
    e_patch(out, b->p);
    add_rsp(b, 8);
    e_mov_ri(b, RAX, 0);
    epilogue(b);
}

/* Jumped to, as above; goes on through the jump table. */
static void make_end(struct jit *j, struct buf *b)
{
    uint8_t *out;

    j->end = b->p;
    leave_to(j, b, (uintptr_t)soft_jit_end);
    e_rr(b, 0, 0xff, 2, RAX);
    e_rr(b, 1, 0x85, RAX, RAX);
    out = e_jump_later(b, J_E);
    e_mov_rr(b, T1, RAX);
    e_load(b, T0, GS(rip));
    load_all(b);
    e_rr(b, 0, 0xff, 4, T1);
    e_patch(out, b->p);
    epilogue(b);
}

void jit_make_stubs(struct jit *j)
{
    const uint8_t *from = j->hot.p;

    make_enter(j, &j->hot);
    make_vec_in(j, &j->hot);
    make_leave(j, &j->hot);
    make_op(j, &j->hot);
    make_end(j, &j->hot);
    jit_map_add(j, from, j->hot.p, "", NULL);
}
