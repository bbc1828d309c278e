/* SPDX-License-Identifier: MIT */
/* Hardware task switches, 16- and 32-bit, by JMP, CALL, interrupt and IRET. Intel SDM 3, chapter 8.
 *
 *   read the new TSS, write the old one    faults belong to the old task: nothing has changed
 *   busy bits, back link, TR, registers    the commit
 *   LDT, CS, SS, data segments             faults belong to the new task, at its first instruction
 *
 * Used by 32-bit Windows for double faults and by DOS extenders; not worth any speed. */
#include "engine/soft/system.h"

struct task { /* what a TSS holds, whichever its size */
    uint32_t cr3, eip, eflags, reg[8];
    uint16_t sel[6], ldt; /* in enum x86_seg_name order */
    bool trap;
};

struct tss_layout {
    unsigned size, eip, eflags, reg, seg, segs, ldt,
        least;     /* bytes per field, offsets, least limit */
    unsigned step; /* between segment selectors */
};

static const struct tss_layout layout16 = {.size = 2,
                                           .eip = 14,
                                           .eflags = 16,
                                           .reg = 18,
                                           .seg = 34,
                                           .segs = 4,
                                           .ldt = 42,
                                           .least = 0x2b,
                                           .step = 2};
static const struct tss_layout layout32 = {.size = 4,
                                           .eip = 32,
                                           .eflags = 36,
                                           .reg = 40,
                                           .seg = 72,
                                           .segs = 6,
                                           .ldt = 96,
                                           .least = 0x67,
                                           .step = 4};

static const struct tss_layout *layout_of(unsigned type)
{
    return type & 8 ? &layout32 : &layout16;
}

static void read_task(struct soft_cpu *cpu, uint64_t base, const struct tss_layout *l,
                      struct task *t)
{
    *t = (struct task){0};
    if (l == &layout32) {
        t->cr3 = (uint32_t)system_load(cpu, base + 28, 4);
        t->trap = system_load(cpu, base + 100, 2) & 1;
    }
    t->eip = (uint32_t)system_load(cpu, base + l->eip, l->size);
    t->eflags = (uint32_t)system_load(cpu, base + l->eflags, l->size);
    for (unsigned i = 0; i < 8; i++)
        t->reg[i] = (uint32_t)system_load(cpu, base + l->reg + i * l->size, l->size);
    for (unsigned i = 0; i < l->segs; i++)
        t->sel[i] = (uint16_t)system_load(cpu, base + l->seg + i * l->step, 2);
    t->ldt = (uint16_t)system_load(cpu, base + l->ldt, 2);
}

static void write_task(struct soft_cpu *cpu, uint64_t eip, uint64_t eflags)
{
    const struct tss_layout *l = layout_of(seg_type(&cpu->tr));
    uint64_t base = cpu->tr.base;

    if (l->least > cpu->tr.limit)
        soft_raise(cpu, VEC_TS, sel_code(cpu, cpu->tr.sel));
    for (unsigned i = 0; i < 8; i++)
        system_store(cpu, base + l->reg + i * l->size, l->size, cpu->reg[i]);
    for (unsigned i = 0; i < l->segs; i++)
        system_store(cpu, base + l->seg + i * l->step, 2, cpu->seg[i].sel);
    system_store(cpu, base + l->eflags, l->size, eflags);
    system_store(cpu, base + l->eip, l->size, eip);
}

static void bad_selector(struct soft_cpu *cpu, unsigned vector, uint16_t sel)
{
    soft_raise(cpu, vector, sel_code(cpu, sel));
}

static void load_task_ldt(struct soft_cpu *cpu, uint16_t sel)
{
    struct desc d;

    cpu->ldt = (struct x86_seg){.sel = sel};
    if (null_sel(sel))
        return;
    if ((sel & 4) || !desc_find(cpu, sel, false, &d) || desc_type(&d) != TYPE_LDT ||
        !desc_present(&d))
        bad_selector(cpu, VEC_TS, sel);
    desc_to_seg(&d, sel, &cpu->ldt);
}

static void load_task_cs(struct soft_cpu *cpu, uint16_t sel)
{
    struct desc d;
    unsigned rpl = sel & 3u;

    if (null_sel(sel))
        bad_selector(cpu, VEC_TS, sel);
    desc_read(cpu, sel, VEC_TS, &d);
    if (!desc_is_code(&d) || (desc_conforming(&d) ? desc_dpl(&d) > rpl : desc_dpl(&d) != rpl))
        bad_selector(cpu, VEC_TS, sel);
    if (!desc_present(&d))
        bad_selector(cpu, VEC_NP, sel);
    desc_accessed(cpu, &d);
    desc_to_seg(&d, sel, &cpu->seg[SEG_CS]);
}

static void load_task_data(struct soft_cpu *cpu, unsigned seg, uint16_t sel)
{
    unsigned type, rpl = sel & 3u;
    struct desc d;

    if (null_sel(sel))
        return;
    desc_read(cpu, sel, VEC_TS, &d);
    type = desc_type(&d);
    if (!(type & SEG_S) || (type & (TYPE_CODE | TYPE_READ)) == TYPE_CODE)
        bad_selector(cpu, VEC_TS, sel);
    if ((type & (TYPE_CODE | TYPE_CONFORMING)) != (TYPE_CODE | TYPE_CONFORMING) &&
        (desc_dpl(&d) < rpl || desc_dpl(&d) < cpu->cpl))
        bad_selector(cpu, VEC_TS, sel);
    if (!desc_present(&d))
        bad_selector(cpu, VEC_NP, sel);
    desc_accessed(cpu, &d);
    desc_to_seg(&d, sel, &cpu->seg[seg]);
}

static void load_segments(struct soft_cpu *cpu, const struct task *t)
{
    static const uint8_t data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

    load_task_ldt(cpu, t->ldt);
    if (v8086(cpu))
        return;
    stack_segment(cpu, t->sel[SEG_SS], cpu->cpl, VEC_TS, &cpu->seg[SEG_SS]);
    for (unsigned i = 0; i < ARRAY_SIZE(data); i++)
        load_task_data(cpu, data[i], t->sel[data[i]]);
    load_task_cs(cpu, t->sel[SEG_CS]);
    soft_mode_changed(cpu);
}

/* Registers of the new task; segments hold their selectors, unusable until checked. */
static void commit(struct soft_cpu *cpu, const struct task *t, uint64_t eflags)
{
    bool vm = eflags & FL_VM;

    for (unsigned i = 0; i < 8; i++)
        cpu->reg[i] = t->reg[i];
    cpu->rip = cpu->next_rip = cpu->rf_rip = t->eip;
    soft_set_rflags(cpu, eflags & (FL_ARITH | FL_TF | FL_IF | FL_DF | FL_IOPL | FL_NT | FL_RF |
                                   FL_VM | FL_AC | FL_VIF | FL_VIP | FL_ID));
    cpu->cpl = vm ? 3 : t->sel[SEG_CS] & 3;
    for (unsigned i = 0; i < 6; i++) {
        if (vm)
            seg_v8086(&cpu->seg[i], t->sel[i]);
        else
            cpu->seg[i] = (struct x86_seg){.sel = t->sel[i]};
    }
    if (!vm) { /* so that CPL stays what CS.RPL says wherever it is derived from */
        cpu->seg[SEG_SS].attr = (uint16_t)(cpu->cpl << 5);
        cpu->seg[SEG_CS].attr = (uint16_t)(cpu->cpl << 5);
    }
    soft_mode_changed(cpu);
}

static void push_code(struct soft_cpu *cpu, unsigned size, uint32_t code)
{
    struct stack s;

    stack_current(cpu, &s);
    s.system = cpu->cpl != 3;
    stack_push(&s, size, code);
    cpu->reg[4] = s.sp;
}

void task_switch(struct soft_cpu *cpu, struct desc *d, enum task_from from, uint64_t next,
                 uint32_t code)
{
    const struct tss_layout *l = layout_of(desc_type(d));
    uint64_t old_flags = soft_rflags(cpu), eflags;
    bool nested = from == TASK_CALL || from == TASK_INT;
    struct desc old = {.linear = cpu->gdt.base + (cpu->tr.sel & 0xfff8u)};
    struct x86_seg tr;
    struct task t;

    desc_to_seg(d, d->sel, &tr);
    if (tr.limit < l->least)
        bad_selector(cpu, VEC_TS, d->sel);
    read_task(cpu, tr.base, l, &t);
    write_task(cpu, next, from == TASK_IRET ? old_flags & ~(uint64_t)FL_NT : old_flags);
    if (nested)
        system_store(cpu, tr.base, 2, cpu->tr.sel);
    if (from == TASK_JMP || from == TASK_IRET)
        desc_update(cpu, &old, 0, 2u << 8);
    if (from != TASK_IRET)
        desc_update(cpu, d, 2u << 8, 0);
    tr.attr |= 2;
    cpu->tr = tr;
    cpu->cr0 |= CR0_TS;
    cpu->dr7 &= ~0x55ull; /* local breakpoints */
    if (l == &layout32 && (cpu->cr0 & CR0_PG) && t.cr3 != cpu->cr3)
        control_set_cr3(cpu, t.cr3);
    eflags = t.eflags | FL_FIXED | (nested ? FL_NT : 0);
    commit(cpu, &t, eflags);
    load_segments(cpu, &t);
    if (code != NO_CODE)
        push_code(cpu, l->size, code);
    if (!seg_holds(&cpu->seg[SEG_CS], cpu->next_rip, 1))
        soft_gp(cpu, cpu->ext);
    if (t.trap) {
        cpu->trap_dr6 |= DR6_BT;
        atomic_fetch_or(&cpu->pending, PEND_TRAP);
    }
}

void task_gate(struct soft_cpu *cpu, uint16_t sel, enum task_from from, uint64_t next,
               uint32_t code)
{
    struct desc d;

    if ((sel & 4) || null_sel(sel) || !desc_find(cpu, sel, false, &d) ||
        (desc_type(&d) & ~8u) != TYPE_TSS16)
        soft_gp(cpu, sel_code(cpu, sel));
    if (!desc_present(&d))
        soft_raise(cpu, VEC_NP, sel_code(cpu, sel));
    task_switch(cpu, &d, from, next, code);
}
