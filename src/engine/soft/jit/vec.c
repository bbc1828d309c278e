/* SPDX-License-Identifier: MIT */
/* Vector instructions are copied like others: while `cpu->vec_live` says so, the host's XMM and YMM
 * registers and MXCSR are the guest's. They are taken in when a block first needs them and given
 * back on every way to C (stubs.c), where handlers find them in cpu->xsave. */
#include "engine/soft/jit/tr.h"

static bool places_known(const struct insn *in)
{
    for (unsigned k = 0; k < 4 && has_operand(in, k); k++) {
        switch (kind_of(in, k).place) {
        case X86_AT_REG:
        case X86_AT_RM:
        case X86_AT_RMREG:
        case X86_AT_MEM:
        case X86_AT_VVVV:
        case X86_AT_XREG:
        case X86_AT_XRM:
        case X86_AT_XRMREG:
        case X86_AT_XVVVV:
        case X86_AT_XIS4:
        case X86_AT_XMM0:
        case X86_AT_IMM: break;
        default: return false;
        }
    }
    return true;
}

/* Masked moves touch only part of their memory and must not fault for the rest. */
static bool partial(unsigned op)
{
    switch (op) {
    case X86_VMASKMOVPS:
    case X86_VMASKMOVPD:
    case X86_VPMASKMOVD:
    case X86_VPMASKMOVQ: return true;
    default: return false;
    }
}

bool tr_is_vector(const struct tr *t, const struct insn *in)
{
    const struct x86_form *f = &x86_form[in->form];

    return f->class == X86_COPY &&
           (f->gate == X86_GATE_SSE || (f->gate == X86_GATE_AVX && t->j->wide)) && !f->cpl0 &&
           !(in->prefix & X86_P_LOCK) && soft_offered(t->j->cpu, f) && places_known(in) &&
           !partial(f->op) && !(in->mem && x86_mem_size(in) == 0);
}

static void leave_behind(struct tr *t)
{
    e_mov_ri(t->cold, T0, t->next);
    e_mov_ri(t->cold, T1, 0);
    e_jump(t->cold, J_ALWAYS, t->j->leave);
}

/* Calls vec_in where nothing is live; returns how many jumps for refusal it made. */
static unsigned take_in(struct tr *t, unsigned need, uint8_t *refused[2])
{
    struct buf *c = t->cold;
    unsigned n = 0;

    e_jump(c, J_CALL, t->j->vec_in);
    e_rr(c, 0, 0x85, T1, T1);
    refused[n++] = e_jump_later(c, J_NE);
    if (need & VEC_AVX) {
        e_gs(c, 0, 0xf6, 0, GS(vec_live));
        e1(c, VEC_AVX);
        refused[n++] = e_jump_later(c, J_E);
    }
    return n;
}

void tr_vec_need(struct tr *t)
{
    unsigned need = tr_form(t)->gate == X86_GATE_AVX ? VEC_AVX : VEC_SSE, n;
    uint8_t *refused[2], *live = NULL;
    struct buf *c = t->cold;

    if (t->vec & need)
        return;
    tr_flags_clobber(t, t->live[t->i]);
    e_gs(t->hot, 0, 0xf6, 0, GS(vec_live)); /* test byte */
    e1(t->hot, need);
    e_patch(e_jump_later(t->hot, J_E), c->p);
    if (need == VEC_AVX) { /* live without AVX: not allowed */
        e_gs(c, 0, 0x80, 7, GS(vec_live));
        e1(c, 0);
        live = e_jump_later(c, J_NE);
    }
    n = take_in(t, need, refused);
    e_jump(c, J_ALWAYS, t->hot->p);
    for (unsigned i = 0; i < n; i++)
        e_patch(refused[i], c->p);
    if (live)
        e_patch(live, c->p);
    e_mov_ri(c, T1, tr_meta(t)); /* this one by its handler, then on from there */
    e_jump(c, J_CALL, t->j->op);
    leave_behind(t);
    t->vec |= (uint8_t)(need | VEC_SSE);
}

/* EFLAGS and RAX are the guest's here, and cpu->arith holds the flags too. */
void tr_vec_back(struct tr *t)
{
    struct buf *c = t->cold;
    uint8_t *refused[2];
    unsigned n;

    if (t->vec == 0 || t->i + 1 >= t->vec_end)
        return;
    n = take_in(t, t->vec, refused);
    e_store(c, RAX, GS(jit_rax));
    e_gs(c, 0, 0x1b7, RAX, GS(arith));
    e1(c, 0x04);
    e1(c, 0x7f);
    e1(c, 0x9e);
    e_load(c, RAX, GS(jit_rax));
    e_jump(c, J_ALWAYS, t->hot->p);
    for (unsigned i = 0; i < n; i++)
        e_patch(refused[i], c->p);
    leave_behind(t);
}
