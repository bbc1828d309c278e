/* SPDX-License-Identifier: MIT */
/* Far JMP, CALL and RET: to code segments, through call gates and task gates, between rings.
 *
 * Each form checks everything, writes the new stack, and only then commits CS, SS and RSP, so a
 * fault leaves the instruction restartable. Intel SDM 2 (JMP, CALL, RET) and 3, 5.8. */
#include "engine/soft/ops.h"
#include "engine/soft/system.h"
#include "engine/x86/operand.h"

void set_cs(struct soft_cpu *cpu, const struct x86_seg *cs, unsigned cpl, uint64_t rip)
{
    cpu->seg[SEG_CS] = *cs;
    cpu->cpl = (uint8_t)cpl;
    cpu->next_rip = rip;
    soft_mode_changed(cpu);
}

void check_rip(struct soft_cpu *cpu, const struct x86_seg *cs, uint64_t rip)
{
    bool wide = long_mode(cpu) && (cs->attr & SEG_L);

    if (wide ? !canonical(rip) : !seg_holds(cs, rip, 1))
        soft_gp(cpu, cpu->ext);
}

static uint64_t truncated(uint64_t offset, unsigned size)
{
    return size == 8 ? offset : size == 4 ? (uint32_t)offset : (uint16_t)offset;
}

/* The target in the instruction's immediate or in memory. */
static void far_operand(struct soft_cpu *cpu, const struct insn *in, uint16_t *sel,
                        uint64_t *offset)
{
    uint64_t ea;

    if (!in->mem) {
        *offset = truncated(in->imm, in->opsize);
        *sel = (uint16_t)(in->imm >> 32);
        return;
    }
    ea = soft_ea(cpu, in);
    *offset = soft_load(cpu, in->seg, ea, in->opsize);
    *sel = (uint16_t)soft_load(cpu, in->seg, ea + in->opsize, 2);
}

/* Real and v8086 mode. */
static void jump_real(struct soft_cpu *cpu, uint16_t sel, uint64_t offset)
{
    if (offset > cpu->seg[SEG_CS].limit)
        soft_gp(cpu, 0);
    if (protected_mode(cpu))
        seg_v8086(&cpu->seg[SEG_CS], sel);
    else
        seg_real_code(&cpu->seg[SEG_CS], sel);
    cpu->next_rip = offset;
    soft_mode_changed(cpu);
}

/* A code segment as the direct target of JMP or CALL: the privilege stays. */
static void check_direct(struct soft_cpu *cpu, const struct desc *d)
{
    unsigned rpl = d->sel & 3u, dpl = desc_dpl(d);
    bool allowed = desc_conforming(d) ? dpl <= cpu->cpl : dpl == cpu->cpl && rpl <= cpu->cpl;

    if (!allowed || (long_mode(cpu) && desc_long(d) && (d->raw >> 54 & 1)))
        soft_gp(cpu, sel_code(cpu, d->sel));
    if (!desc_present(d))
        soft_raise(cpu, VEC_NP, sel_code(cpu, d->sel));
}

static void code_seg(struct soft_cpu *cpu, struct desc *d, unsigned cpl, struct x86_seg *cs)
{
    desc_accessed(cpu, d);
    desc_to_seg(d, (uint16_t)((d->sel & ~3u) | cpl), cs);
}

/* What a far pointer names, if not code: a gate or a TSS, with the checks common to JMP and CALL.
 */
static void check_system(struct soft_cpu *cpu, const struct desc *d)
{
    unsigned type = desc_type(d), rpl = d->sel & 3u;
    bool valid = type == TYPE_CALL32;

    if (!long_mode(cpu))
        valid |=
            type == TYPE_CALL16 || type == TYPE_TASK || type == TYPE_TSS16 || type == TYPE_TSS32;
    if (!valid || desc_dpl(d) < cpu->cpl || desc_dpl(d) < rpl)
        soft_gp(cpu, sel_code(cpu, d->sel));
    if (!desc_present(d))
        soft_raise(cpu, VEC_NP, sel_code(cpu, d->sel));
    if (long_mode(cpu) && (d->high >> 40 & 0x1f))
        soft_gp(cpu, sel_code(cpu, d->sel));
}

/* The code segment that call gate `g` leads to. */
static void gate_target(struct soft_cpu *cpu, const struct gate *g, bool call, struct desc *d)
{
    uint32_t code = sel_code(cpu, g->sel);
    bool allowed;

    if (null_sel(g->sel))
        soft_gp(cpu, 0);
    desc_read(cpu, g->sel, VEC_GP, d);
    allowed = call || desc_conforming(d) ? desc_dpl(d) <= cpu->cpl : desc_dpl(d) == cpu->cpl;
    if (!desc_is_code(d) || !allowed)
        soft_gp(cpu, code);
    if (long_mode(cpu) && (!desc_long(d) || d->raw >> 54 & 1))
        soft_gp(cpu, code);
    if (!desc_present(d))
        soft_raise(cpu, VEC_NP, code);
}

/* True: `d` was a TSS or task gate, and the switch is done. */
static bool jump_task(struct soft_cpu *cpu, struct desc *d, enum task_from from)
{
    struct gate g;

    switch (desc_type(d)) {
    case TYPE_TASK:
        desc_gate(d, false, &g);
        task_gate(cpu, g.sel, from, cpu->next_rip, NO_CODE);
        return true;
    case TYPE_TSS16:
    case TYPE_TSS32:
        if (d->sel & 4)
            soft_gp(cpu, sel_code(cpu, d->sel));
        task_switch(cpu, d, from, cpu->next_rip, NO_CODE);
        return true;
    }
    return false;
}

void op_jmp_far(struct soft_cpu *cpu, const struct insn *in)
{
    struct x86_seg cs;
    struct gate g;
    struct desc d;
    uint64_t offset;
    uint16_t sel;

    far_operand(cpu, in, &sel, &offset);
    if (real_segments(cpu)) {
        jump_real(cpu, sel, offset);
        return;
    }
    if (null_sel(sel))
        soft_gp(cpu, 0);
    desc_read(cpu, sel, VEC_GP, &d);
    if (desc_is_code(&d)) {
        check_direct(cpu, &d);
    } else {
        check_system(cpu, &d);
        if (jump_task(cpu, &d, TASK_JMP))
            return;
        desc_gate(&d, long_mode(cpu), &g);
        offset = g.offset;
        gate_target(cpu, &g, false, &d);
    }
    code_seg(cpu, &d, cpu->cpl, &cs);
    check_rip(cpu, &cs, offset);
    set_cs(cpu, &cs, cpu->cpl, offset);
}

static void push_return(struct soft_cpu *cpu, struct stack *s, unsigned size)
{
    stack_push(s, size, cpu->seg[SEG_CS].sel);
    stack_push(s, size, cpu->next_rip);
}

static void call_same(struct soft_cpu *cpu, struct desc *d, uint64_t offset, unsigned size)
{
    struct x86_seg cs;
    struct stack s;

    stack_current(cpu, &s);
    s.code = 0;
    push_return(cpu, &s, size);
    code_seg(cpu, d, cpu->cpl, &cs);
    check_rip(cpu, &cs, offset);
    cpu->reg[4] = s.sp;
    set_cs(cpu, &cs, cpu->cpl, offset);
}

static void call_inner64(struct soft_cpu *cpu, struct desc *d, uint64_t offset)
{
    struct stack s = {.cpu = cpu, .flat = true, .system = true};
    unsigned cpl = desc_dpl(d);
    struct x86_seg cs;

    s.sp = stack_from_tss64(cpu, cpl);
    stack_push(&s, 8, cpu->seg[SEG_SS].sel);
    stack_push(&s, 8, cpu->reg[4]);
    push_return(cpu, &s, 8);
    code_seg(cpu, d, cpl, &cs);
    check_rip(cpu, &cs, offset);
    seg_null(cpu, &cpu->seg[SEG_SS], (uint16_t)cpl);
    cpu->reg[4] = s.sp;
    set_cs(cpu, &cs, cpl, offset);
}

static void call_inner(struct soft_cpu *cpu, struct desc *d, const struct gate *g)
{
    unsigned size = g->type == TYPE_CALL32 ? 4 : 2, cpl = desc_dpl(d);
    uint32_t param[31], esp;
    struct stack s, old;
    struct x86_seg cs;
    uint16_t ss;

    stack_current(cpu, &old);
    s = old;
    stack_from_tss(cpu, cpl, &ss, &esp);
    stack_segment(cpu, ss, cpl, VEC_TS, &s.seg);
    s.sp = esp;
    s.code = sel_code(cpu, ss);
    s.system = true;
    for (unsigned i = 0; i < g->count; i++)
        param[i] = (uint32_t)stack_peek(&old, i * size, size);
    stack_push(&s, size, cpu->seg[SEG_SS].sel);
    stack_push(&s, size, cpu->reg[4]);
    for (unsigned i = g->count; i > 0; i--)
        stack_push(&s, size, param[i - 1]);
    push_return(cpu, &s, size);
    code_seg(cpu, d, cpl, &cs);
    check_rip(cpu, &cs, g->offset);
    cpu->seg[SEG_SS] = s.seg;
    cpu->reg[4] = s.sp;
    set_cs(cpu, &cs, cpl, g->offset);
}

static void call_gate(struct soft_cpu *cpu, struct desc *d)
{
    struct gate g;

    desc_gate(d, long_mode(cpu), &g);
    gate_target(cpu, &g, true, d);
    if (desc_conforming(d) || desc_dpl(d) == cpu->cpl)
        call_same(cpu, d, g.offset, long_mode(cpu) ? 8 : g.type == TYPE_CALL32 ? 4 : 2);
    else if (long_mode(cpu))
        call_inner64(cpu, d, g.offset);
    else
        call_inner(cpu, d, &g);
}

void op_call_far(struct soft_cpu *cpu, const struct insn *in)
{
    struct stack s;
    struct desc d;
    uint64_t offset;
    uint16_t sel;

    far_operand(cpu, in, &sel, &offset);
    if (real_segments(cpu)) {
        stack_current(cpu, &s);
        push_return(cpu, &s, in->opsize);
        jump_real(cpu, sel, offset);
        cpu->reg[4] = s.sp;
        return;
    }
    if (null_sel(sel))
        soft_gp(cpu, 0);
    desc_read(cpu, sel, VEC_GP, &d);
    if (desc_is_code(&d)) {
        check_direct(cpu, &d);
        call_same(cpu, &d, offset, in->opsize);
        return;
    }
    check_system(cpu, &d);
    if (!jump_task(cpu, &d, TASK_CALL))
        call_gate(cpu, &d);
}

/* The code segment that a return to `sel` goes to, for RET and IRET. */
static void return_target(struct soft_cpu *cpu, uint16_t sel, struct desc *d)
{
    unsigned rpl = sel & 3u;
    uint32_t code = sel & 0xfffcu;

    if (null_sel(sel))
        soft_gp(cpu, 0);
    desc_read(cpu, sel, VEC_GP, d);
    if (!desc_is_code(d) || rpl < cpu->cpl)
        soft_gp(cpu, code);
    if (desc_conforming(d) ? desc_dpl(d) > rpl : desc_dpl(d) != rpl)
        soft_gp(cpu, code);
    if (long_mode(cpu) && desc_long(d) && (d->raw >> 54 & 1))
        soft_gp(cpu, code);
    if (!desc_present(d))
        soft_raise(cpu, VEC_NP, code);
}

/* SS for a return to ring `cpl` in `cs`: null is fine in 64-bit code outside ring 3. */
static void return_stack(struct soft_cpu *cpu, uint16_t sel, unsigned cpl, const struct x86_seg *cs,
                         struct x86_seg *ss)
{
    bool wide = long_mode(cpu) && (cs->attr & SEG_L);

    if (null_sel(sel) && wide && cpl != 3 && (sel & 3u) == cpl) {
        *ss = (struct x86_seg){.sel = sel, .attr = (uint16_t)(cpl << 5)};
        return;
    }
    stack_segment(cpu, sel, cpl, VEC_GP, ss);
}

/* Commits a return: `rsp` is full width, kept whole only where the new stack or code is that wide.
 */
static void return_commit(struct soft_cpu *cpu, const struct x86_seg *cs, const struct x86_seg *ss,
                          uint64_t rip, uint64_t rsp)
{
    unsigned cpl = cs->sel & 3u;
    bool outer = cpl != cpu->cpl, wide = long_mode(cpu) && (cs->attr & SEG_L);

    cpu->seg[SEG_SS] = *ss;
    if (wide)
        cpu->reg[4] = rsp;
    else if (ss->attr & SEG_DB)
        cpu->reg[4] = (uint32_t)rsp;
    else
        cpu->reg[4] = (cpu->reg[4] & ~0xffffull) | (rsp & 0xffff);
    if (outer)
        drop_inner_segments(cpu, cpl);
    set_cs(cpu, cs, cpl, rip);
}

void op_ret_far(struct soft_cpu *cpu, const struct insn *in)
{
    unsigned size = in->opsize, release = x86_form[in->form].operand[0] ? in->imm & 0xffff : 0;
    struct x86_seg cs, ss;
    struct stack s;
    struct desc d;
    uint64_t rip, rsp;
    uint16_t sel;

    stack_current(cpu, &s);
    rip = stack_pop(&s, size);
    sel = (uint16_t)stack_pop(&s, size);
    if (real_segments(cpu)) {
        jump_real(cpu, sel, rip);
        stack_skip(&s, release);
        cpu->reg[4] = s.sp;
        return;
    }
    return_target(cpu, sel, &d);
    code_seg(cpu, &d, sel & 3, &cs);
    stack_skip(&s, release);
    if ((sel & 3) == cpu->cpl) {
        check_rip(cpu, &cs, rip);
        cpu->reg[4] = s.sp;
        set_cs(cpu, &cs, cpu->cpl, rip);
        return;
    }
    rsp = stack_pop(&s, size);
    return_stack(cpu, (uint16_t)stack_pop(&s, size), sel & 3, &cs, &ss);
    check_rip(cpu, &cs, rip);
    return_commit(cpu, &cs, &ss, rip, rsp + release);
}

/* ---- IRET ---- */
/* RFLAGS after IRET of `size` bytes, by what the current privilege may change. */
static void return_flags(struct soft_cpu *cpu, uint64_t image, unsigned size, unsigned cpl,
                         uint64_t rip)
{
    uint64_t may = FL_ARITH | FL_TF | FL_DF | FL_NT, old = soft_rflags(cpu);

    if (size > 2)
        may |= FL_RF | FL_AC | FL_ID;
    if (cpl <= iopl(cpu))
        may |= FL_IF;
    if (cpl == 0)
        may |= FL_IOPL | (size > 2 ? FL_VIF | FL_VIP : 0);
    cpu->rf_rip = rip;
    soft_set_rflags(cpu, (old & ~may & ~(uint64_t)FL_RF) | (image & may));
}

static void iret_real(struct soft_cpu *cpu, unsigned size)
{
    struct stack s;
    uint64_t rip, flags;
    uint16_t sel;

    if (protected_mode(cpu) && iopl(cpu) < 3)
        soft_gp(cpu, 0);
    stack_current(cpu, &s);
    rip = stack_pop(&s, size);
    sel = (uint16_t)stack_pop(&s, size);
    flags = stack_pop(&s, size);
    jump_real(cpu, sel, rip);
    cpu->reg[4] = s.sp;
    if (v8086(cpu))
        flags = (flags & ~(uint64_t)FL_IOPL) | (cpu->rflags & FL_IOPL);
    return_flags(cpu, flags, size, protected_mode(cpu) ? 3 : 0, rip);
}

static void iret_task(struct soft_cpu *cpu)
{
    struct desc d;
    uint16_t link;

    if (long_mode(cpu))
        soft_gp(cpu, 0);
    link = (uint16_t)system_load(cpu, cpu->tr.base, 2);
    if ((link & 4) || !desc_find(cpu, link, false, &d) || (desc_type(&d) & ~8u) != TYPE_TSS16_BUSY)
        soft_raise(cpu, VEC_TS, sel_code(cpu, link));
    if (!desc_present(&d))
        soft_raise(cpu, VEC_NP, sel_code(cpu, link));
    task_switch(cpu, &d, TASK_IRET, cpu->next_rip, NO_CODE);
}

static void iret_to_v8086(struct soft_cpu *cpu, struct stack *s, uint64_t rip, uint16_t cs,
                          uint64_t flags)
{
    static const uint8_t order[] = {SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    uint64_t esp = stack_pop(s, 4);
    uint16_t sel[ARRAY_SIZE(order)];

    for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
        sel[i] = (uint16_t)stack_pop(s, 4);
    if (rip > 0xffff)
        soft_gp(cpu, 0);
    for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
        seg_v8086(&cpu->seg[order[i]], sel[i]);
    seg_v8086(&cpu->seg[SEG_CS], cs);
    cpu->reg[4] = (uint32_t)esp;
    cpu->cpl = 3;
    cpu->next_rip = rip;
    cpu->rf_rip = rip;
    soft_set_rflags(cpu, flags & (FL_ARITH | FL_TF | FL_IF | FL_DF | FL_IOPL | FL_NT | FL_RF |
                                  FL_VM | FL_AC | FL_VIF | FL_VIP | FL_ID));
    soft_mode_changed(cpu);
}

static void unblock_nmi(struct soft_cpu *cpu)
{
    cpu->nmi_blocked = false;
    if (cpu->msr->nmi_pending) {
        cpu->msr->nmi_pending = false;
        atomic_fetch_or(&cpu->pending, PEND_NMI);
    }
}

static void iret_protected(struct soft_cpu *cpu, unsigned size)
{
    unsigned old_cpl = cpu->cpl;
    struct x86_seg cs, ss = cpu->seg[SEG_SS];
    struct stack s;
    struct desc d;
    uint64_t rip, flags, rsp;
    uint16_t sel;

    stack_current(cpu, &s);
    rip = stack_pop(&s, size);
    sel = (uint16_t)stack_pop(&s, size);
    flags = stack_pop(&s, size);
    if (size == 4 && (flags & FL_VM) && cpu->cpl == 0 && !long_mode(cpu)) {
        iret_to_v8086(cpu, &s, rip, sel, flags);
        return;
    }
    return_target(cpu, sel, &d);
    code_seg(cpu, &d, sel & 3, &cs);
    if (code64(cpu) || (sel & 3) != cpu->cpl) {
        rsp = stack_pop(&s, size);
        return_stack(cpu, (uint16_t)stack_pop(&s, size), sel & 3, &cs, &ss);
        check_rip(cpu, &cs, rip);
        return_commit(cpu, &cs, &ss, rip, rsp);
    } else {
        check_rip(cpu, &cs, rip);
        cpu->reg[4] = s.sp;
        set_cs(cpu, &cs, cpu->cpl, rip);
    }
    return_flags(cpu, flags, size, old_cpl, rip);
}

void op_iret(struct soft_cpu *cpu, const struct insn *in)
{
    unblock_nmi(cpu);
    if (real_segments(cpu))
        iret_real(cpu, in->opsize);
    else if (cpu->rflags & FL_NT)
        iret_task(cpu);
    else
        iret_protected(cpu, in->opsize);
}
