/* SPDX-License-Identifier: MIT */
/* The stack and branches.
 *
 * A branch to a known address in the block's own page is a direct jump, patched when the target is
 * translated. All others put the target's RIP in T0 and jump through the jump table, by its low 16
 * bits; the code there compares T0 with its own address (translate.c). */
#include "engine/soft/jit/tr.h"

/* [T1 + T0] := register, which must be a host register other than those. */
static void store_value(struct tr *t, unsigned host)
{
    e_mem(t->hot, 1, 0x89, host, T1, T0, 0, 0);
}

static void store_constant(struct tr *t, uint64_t v)
{
    if (v == (uint64_t)(int64_t)(int32_t)v) {
        e_mem(t->hot, 1, 0xc7, 0, T1, T0, 0, 0);
        e4(t->hot, (uint32_t)v);
        return;
    }
    e_mem(t->hot, 1, 0x8d, T0, T1, T0, 0, 0);
    e_mov_ri(t->hot, T1, v);
    e_mem(t->hot, 1, 0x89, T1, T0, 0xff, 0, 0);
}

static void store_slot(struct tr *t, int32_t slot)
{
    e_mem(t->hot, 1, 0x8d, T0, T1, T0, 0, 0);
    e_load(t->hot, T1, slot);
    e_mem(t->hot, 1, 0x89, T1, T0, 0xff, 0, 0);
}

/* lea rsp, [rsp + n] */
static void move_sp(struct tr *t, int32_t n)
{
    e_mem(t->hot, 1, 0x8d, G_SP, G_SP, 0xff, 0, n);
}

static void check_push(struct tr *t)
{
    tr_flags_clobber(t, t->live[t->i]);
    e_mem(t->hot, 1, 0x8d, T0, G_SP, 0xff, 0, -8);
    tr_check(t, 8, true);
}

static void check_pop(struct tr *t, unsigned base)
{
    tr_flags_clobber(t, t->live[t->i]);
    e_mov_rr(t->hot, T0, base);
    tr_check(t, 8, false);
}

/* T0 := the 8 bytes of the explicit memory operand. */
static void load_operand(struct tr *t)
{
    struct place p = tr_access(t, tr_insn(t), 8, false);

    if (p.fixed)
        e_mem(t->hot, 1, 0x8b, T0, T1, 0xff, 0, p.disp);
    else
        e_mem(t->hot, 1, 0x8b, T0, T1, T0, 0, 0);
}

static bool push(struct tr *t)
{
    const struct insn *in = tr_insn(t);
    unsigned place = kind_of(in, 0).place;
    int host = place == X86_AT_IMM ? 0
                                   : tr_host_reg(in->mem              ? 0
                                                 : place == X86_AT_RM ? in->rm
                                                                      : in->reg);
    unsigned guest = place == X86_AT_RM ? in->rm : in->reg;

    if (in->opsize != 8)
        return false;
    if (in->mem) {
        load_operand(t);
        e_store(t->hot, T0, GS(jit_tmp));
    }
    check_push(t);
    if (in->mem)
        store_slot(t, GS(jit_tmp));
    else if (place == X86_AT_IMM)
        store_constant(t, in->imm);
    else if (host < 0)
        store_slot(t, GS_REG(guest));
    else
        store_value(t, (unsigned)host);
    move_sp(t, -8);
    tr_slow(t);
    return true;
}

static bool pop(struct tr *t)
{
    const struct insn *in = tr_insn(t);
    unsigned guest = kind_of(in, 0).place == X86_AT_RM ? in->rm : in->reg;
    int host = tr_host_reg(guest);

    if (in->opsize != 8 || in->mem)
        return false;
    check_pop(t, G_SP);
    e_mem(t->hot, 1, 0x8b, host < 0 ? T0 : (unsigned)host, T1, T0, 0, 0);
    if (host < 0)
        e_store(t->hot, T0, GS_REG(guest));
    if (guest != 4)
        move_sp(t, 8);
    tr_slow(t);
    return true;
}

static bool leave(struct tr *t)
{
    if (tr_insn(t)->opsize != 8)
        return false;
    check_pop(t, RBP);
    e_mem(t->hot, 1, 0x8b, T0, T1, T0, 0, 0);
    e_mem(t->hot, 1, 0x8d, G_SP, RBP, 0xff, 0, 8);
    e_mov_rr(t->hot, RBP, T0);
    tr_slow(t);
    return true;
}

bool tr_stack(struct tr *t)
{
    if (tr_insn(t)->prefix & X86_P_LOCK)
        return false;
    switch (tr_form(t)->op) {
    case X86_PUSH: return push(t);
    case X86_POP: return pop(t);
    case X86_LEAVE: return leave(t);
    default: return false;
    }
}

/* ---- direct branches ---- */

static int32_t table_slot(const struct tr *t, uint64_t rip)
{
    return t->j->table + (int32_t)((t->user ? JIT_SLOTS : 0) + (rip & (JIT_SLOTS - 1))) * 8;
}

/* To another page: through the jump table's entry. */
static void across(struct tr *t, uint64_t target)
{
    tr_flags_clobber(t, ARITH);
    e_mov_ri(t->hot, T0, target);
    e_gs(t->hot, 0, 0xff, 4, table_slot(t, target)); /* jmp */
}

static void inside(struct tr *t, unsigned op, uint64_t target)
{
    unsigned live = tr_look_ahead(t, target);
    struct jit_site *s = jit_pool(t->j, sizeof *s);

    if (live)
        tr_flags_load(t);
    *s = (struct jit_site){.rip = target, .backward = target <= t->rip, .stub = t->cold->p};
    s->field = e_jump_later(t->hot, op);
    e_patch(s->field, s->stub);
    e_mov_ri(t->cold, T0, target);
    e_mov_ri(t->cold, T1, (uintptr_t)s);
    e_jump(t->cold, J_ALWAYS, t->in_eflags ? t->j->leave_flags : t->j->leave);
}

void tr_direct(struct tr *t, unsigned op, uint64_t target)
{
    bool in_memory = t->in_memory, in_eflags = t->in_eflags;
    struct buf *hot = t->hot;

    if ((target ^ t->start) >> PAGE_SHIFT == 0) {
        inside(t, op, target);
    } else if (op == J_ALWAYS) {
        across(t, target);
    } else {
        e_patch(e_jump_later(hot, op), t->cold->p);
        t->hot = t->cold;
        across(t, target);
        t->hot = hot;
    }
    t->in_memory = in_memory; /* what was emitted is only on this way */
    t->in_eflags = in_eflags;
}

/* ---- indirect branches ---- */

/* To the address in T0; `undo` is what the instruction added to RSP. */
static void indirect(struct tr *t, int undo)
{
    struct buf *b = t->hot;

    t->undo = (int8_t)undo;
    t->j->meta[tr_meta(t)].undo = (int8_t)undo;
    e_gs(b, 0, 0xc7, 0, GS(jit_from)); /* mov dword: who jumps, should T0 not be canonical */
    e4(b, tr_meta(t));
    e_rr(b, 0, 0x1b7, T1, T0); /* movzx T1d, T0w */
    e_gs_index(b, 0, 0xff, 4, T1, 3, table_slot(t, 0));
}

static void load_target(struct tr *t)
{
    const struct insn *in = tr_insn(t);

    if (in->mem)
        load_operand(t);
    else
        tr_get(t, T0, in->rm);
}

static bool jump_indirect(struct tr *t)
{
    tr_flags_clobber(t, ARITH);
    load_target(t);
    indirect(t, 0);
    tr_slow(t);
    return true;
}

static bool call_indirect(struct tr *t)
{
    tr_flags_clobber(t, ARITH);
    load_target(t);
    e_store(t->hot, T0, GS(jit_tmp));
    check_push(t);
    store_constant(t, t->next);
    move_sp(t, -8);
    e_load(t->hot, T0, GS(jit_tmp));
    indirect(t, -8);
    tr_slow(t);
    return true;
}

static bool call_direct(struct tr *t, uint64_t target)
{
    bool near = (target ^ t->start) >> PAGE_SHIFT == 0;

    tr_flags_clobber(t, near ? tr_look_ahead(t, target) : ARITH);
    check_push(t);
    store_constant(t, t->next);
    move_sp(t, -8);
    tr_direct(t, J_ALWAYS, target);
    tr_slow(t);
    return true;
}

static bool ret(struct tr *t)
{
    const struct insn *in = tr_insn(t);
    int32_t extra = has_operand(in, 0) ? (int32_t)(in->imm & 0xffff) : 0;

    if (extra > 100)
        return false; /* jit_meta.undo */
    tr_flags_clobber(t, ARITH);
    check_pop(t, G_SP);
    e_mem(t->hot, 1, 0x8b, T0, T1, T0, 0, 0);
    move_sp(t, 8 + extra);
    indirect(t, 8 + extra);
    tr_slow(t);
    return true;
}

/* JRCXZ itself is copied: it is the one branch that only reaches near. */
static void counter_branch(struct tr *t, uint64_t if_zero, uint64_t if_not)
{
    uint8_t *from;

    if (tr_insn(t)->adsize == 4)
        e1(t->hot, 0x67);
    e1(t->hot, 0xe3);
    e1(t->hot, 0);
    from = t->hot->p;
    tr_direct(t, J_ALWAYS, if_not);
    from[-1] = (uint8_t)(t->hot->p - from);
    tr_direct(t, J_ALWAYS, if_zero);
}

static bool counted(struct tr *t, bool loop, uint64_t target)
{
    if (t->live[t->i + 1] && t->in_eflags)
        tr_flags_save(t); /* once for both ways */
    if (!loop) {
        counter_branch(t, target, t->next);
        return true;
    }
    e_mem(t->hot, tr_insn(t)->adsize == 8, 0x8d, RCX, RCX, 0xff, 0, -1);
    counter_branch(t, t->next, target);
    return true;
}

bool tr_flow(struct tr *t)
{
    const struct insn *in = tr_insn(t);
    const struct x86_form *f = tr_form(t);
    bool relative = kind_of(in, 0).place == X86_AT_REL;
    uint64_t target = t->next + in->imm;

    if (in->prefix & X86_P_LOCK)
        return false;
    if (relative && (uint64_t)((int64_t)(target << 16) >> 16) != target)
        return false;
    t->exact = true;
    if (f->op >= X86_JO && f->op <= X86_JG) {
        tr_flags_load(t);
        tr_direct(t, 0x180 | (f->op - X86_JO), target);
        tr_direct(t, J_ALWAYS, t->next);
        return true;
    }
    switch (f->op) {
    case X86_JMP:
        if (!relative)
            return jump_indirect(t);
        tr_direct(t, J_ALWAYS, target);
        return true;
    case X86_CALL: return relative ? call_direct(t, target) : call_indirect(t);
    case X86_RET: return ret(t);
    case X86_JCXZ: return counted(t, false, target);
    case X86_LOOP: return counted(t, true, target);
    default: return false;
    }
}
