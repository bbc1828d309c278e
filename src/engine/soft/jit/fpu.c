/* SPDX-License-Identifier: MIT */
/* x87 instructions are copied while the guest's x87 state is in the host's registers
 * (cpu->fpu_live) and all exceptions are masked, so that none can be pending: x87.c. A block looks
 * once; otherwise the handler does the instruction and, if it can, loads the state.
 *
 * The guest's instruction and data pointers are kept in cpu->xsave as the handlers do. */
#include "engine/soft/jit/tr.h"
#include "engine/soft/vector.h"
#include "engine/x86/encode.h"

enum { FCW_MASKS = 0x3f, FOP_AT = GS(xsave) + 6, FIP_AT = GS(xsave) + 8, FDP_AT = GS(xsave) + 16 };

static bool places_known(const struct insn *in)
{
    for (unsigned k = 0; k < 4 && has_operand(in, k); k++) {
        unsigned place = kind_of(in, k).place;

        if (place != X86_AT_ST0 && place != X86_AT_STI && place != X86_AT_MEM)
            return false;
    }
    return true;
}

/* Control and environment, and what does not wait for exceptions. */
static bool control(const struct insn *in)
{
    if (in->mem)
        return (in->opcode == 0xd9 || in->opcode == 0xdd) && (in->modrm >> 3 & 7) >= 4;
    return (in->opcode == 0xdb && in->modrm >= 0xe0 && in->modrm <= 0xe4) || in->modrm == 0xe0;
}

static bool is_fpu(const struct tr *t, const struct insn *in)
{
    const struct x86_form *f = &x86_form[in->form];

    return f->class == X86_COPY && f->gate == X86_GATE_X87 && !(in->prefix & X86_P_LOCK) &&
           soft_offered(t->j->cpu, f) && places_known(in) && !control(in) &&
           !(in->mem && x86_mem_size(in) == 0);
}

static void look(struct tr *t)
{
    struct buf *b = t->hot;

    tr_flags_clobber(t, t->live[t->i]);
    e_gs(b, 0, 0x80, 7, GS(fpu_live));
    e1(b, 0);
    t->check[t->checks++] = e_jump_later(b, J_E);
    e_gs(b, 0, 0xf7, 0, GS(cr0));
    e4(b, CR0_EM | CR0_TS);
    t->check[t->checks++] = e_jump_later(b, J_NE);
    e_gs(b, 0, 0x1b6, T1, GS(xsave)); /* FCW */
    e_rr(b, 0, 0xf7, 2, T1);          /* not */
    e_rr(b, 0, 0xf7, 0, T1);          /* test */
    e4(b, FCW_MASKS);
    t->check[t->checks++] = e_jump_later(b, J_NE);
}

/* The handler may or may not have loaded the state: on from the next instruction by another block.
 */
static void slow_look(struct tr *t)
{
    struct buf *c = t->cold;

    for (unsigned i = 0; i < t->checks; i++)
        e_patch(t->check[i], c->p);
    t->checks = 0;
    e_mov_ri(c, T1, tr_meta(t));
    e_jump(c, J_CALL, t->j->op);
    e_mov_ri(c, T0, t->next);
    e_mov_ri(c, T1, 0);
    e_jump(c, J_ALWAYS, t->j->leave);
}

/* Who follows at once without memory replaces the instruction's pointer and cannot leave. */
static bool pointer_replaced(const struct tr *t)
{
    return t->i + 1 < t->insns && !t->insn[t->i + 1].mem && is_fpu(t, &t->insn[t->i + 1]);
}

static void note_pointers(struct tr *t)
{
    const struct insn *in = tr_insn(t);
    struct buf *b = t->hot;

    if (in->mem) {
        tr_lea(t, in, T0, in->adsize == 8);
        e_store(b, T0, FDP_AT);
    }
    if (pointer_replaced(t))
        return;
    e_mov_ri(b, T1, (in->opcode & 7u) << 8 | in->modrm);
    e1(b, 0x66);
    e_gs(b, 0, 0x89, T1, FOP_AT);
    e_mov_ri(b, T1, t->rip);
    e_store(b, T1, FIP_AT);
}

bool tr_fpu(struct tr *t)
{
    const struct insn *in = tr_insn(t);
    struct insn out = *in;
    uint8_t bytes[X86_INSN_MAX];
    struct place p;
    unsigned len;

    if (!is_fpu(t, in))
        return false;
    out.adsize = 8;
    out.prefix &= (uint8_t) ~(X86_P_67 | X86_P_SEG | X86_P_REXW);
    if (in->mem)
        x86_set_mem(&out, T1, T0, 0, 0);
    if (x86_encode(&out, X86_MODE_64, bytes) == 0)
        return false;
    if (!t->fpu) {
        look(t);
        slow_look(t);
        t->fpu = true;
    }
    if (in->mem) {
        p = tr_access(t, in, x86_mem_size(in), x86_mem_access(in) & 2);
        if (p.fixed)
            x86_set_mem(&out, T1, X86_NO_REG, 0, p.disp);
    }
    if (tr_flags_through(t))
        tr_flags_load(t);
    len = x86_encode(&out, X86_MODE_64, bytes);
    memcpy(t->hot->p, bytes, len);
    t->hot->p += len;
    note_pointers(t);
    tr_flags_written(t);
    tr_slow(t);
    return true;
}
