/* SPDX-License-Identifier: MIT */
/* Exceptions and interrupts: raising, combining, and delivery through the IVT or IDT.
 *
 * A fault leaves the instruction by longjmp (soft_raise); the run loop hands it to soft_deliver. A
 * fault during delivery leaves the same way and comes back to soft_deliver, which finds
 * cpu->delivering set and applies the double-fault rules. Delivery writes the new stack first and
 * changes registers last, so that a second fault sees the state before the first. What is asked for
 * between instructions goes through soft_events (pending.c). Intel SDM 3, chapter 6. */
#include "engine/soft/system.h"
#include "engine/soft/tlb.h"

#define BENIGN 0xff /* first_vector of interrupts and INT n: never part of a double fault */

struct frame { /* what delivery pushes and where it goes */
    unsigned vector;
    uint32_t code;
    uint64_t rip, flags; /* the interrupted program's */
    struct gate gate;
    unsigned ist;
    bool soft; /* INT n, INT3, INTO: the gate's DPL counts */
};

_Noreturn void soft_raise(struct soft_cpu *cpu, unsigned vector, uint32_t code)
{
    cpu->fault_vector = (uint8_t)vector;
    cpu->fault_code = code;
    longjmp(*cpu->fault, 1);
}

uint64_t soft_rflags(const struct soft_cpu *cpu)
{
    uint64_t f = cpu->rflags & ~(uint64_t)FL_ARITH;

    if ((f & FL_RF) && cpu->rip != cpu->rf_rip)
        f &= ~(uint64_t)FL_RF;
    f |= cpu->arith >> 8 & (FL_ARITH & 0xff);
    if (cpu->arith & 0xff)
        f |= FL_OF;
    return f | FL_FIXED;
}

void event_recheck(struct soft_cpu *cpu)
{
    if (cpu->intr_waiting && (cpu->rflags & FL_IF)) {
        cpu->intr_waiting = false;
        atomic_fetch_or(&cpu->pending, PEND_INTR);
    }
    if (cpu->rflags & FL_TF)
        atomic_fetch_or(&cpu->pending, PEND_TRAP);
}

void soft_set_rflags(struct soft_cpu *cpu, uint64_t rflags)
{
    cpu->arith = (uint16_t)((rflags & (FL_ARITH & 0xff)) << 8 | (rflags >> 11 & 1));
    cpu->rflags = (rflags & ~(uint64_t)FL_ARITH) | FL_FIXED;
    soft_tlb_class(cpu); /* AC */
    event_recheck(cpu);
}

/* ---- which vector in the end ---- */
static bool contributory(unsigned vector)
{
    return vector == VEC_DE || (vector >= VEC_TS && vector <= VEC_GP);
}

/* The vector to deliver when `second` happened while `first` was being delivered; -1: triple fault.
 */
static int combine(unsigned first, unsigned second)
{
    bool serious = contributory(second) || second == VEC_PF;

    if (first == VEC_DF && serious)
        return -1;
    if (contributory(first) && contributory(second))
        return VEC_DF;
    if (first == VEC_PF && serious)
        return VEC_DF;
    return (int)second;
}

/* ---- real mode ---- */
static void deliver_real(struct soft_cpu *cpu, const struct frame *f)
{
    struct stack s;
    uint64_t at = cpu->idt.base + f->vector * 4;
    uint32_t entry;

    if (f->vector * 4 + 3 > cpu->idt.limit)
        soft_gp(cpu, f->vector * 8 + 2 + cpu->ext);
    entry = (uint32_t)system_load(cpu, at, 4);
    stack_current(cpu, &s);
    stack_push(&s, 2, f->flags);
    stack_push(&s, 2, cpu->seg[SEG_CS].sel);
    stack_push(&s, 2, f->rip);
    cpu->reg[4] = s.sp;
    seg_real_code(&cpu->seg[SEG_CS], (uint16_t)(entry >> 16));
    cpu->next_rip = entry & 0xffff;
    cpu->rflags &= ~(uint64_t)(FL_IF | FL_TF | FL_AC | FL_RF);
}

/* ---- gates ---- */
static bool gate_type_valid(const struct soft_cpu *cpu, unsigned type)
{
    if (type == TYPE_INT32 || type == TYPE_TRAP32)
        return true;
    return !long_mode(cpu) && (type == TYPE_INT16 || type == TYPE_TRAP16 || type == TYPE_TASK);
}

static void read_gate(struct soft_cpu *cpu, struct frame *f)
{
    unsigned size = long_mode(cpu) ? 16 : 8;
    uint32_t code = f->vector * 8 + 2 + cpu->ext;
    struct desc d = {.linear = cpu->idt.base + (uint64_t)f->vector * size};

    if (f->vector * size + size - 1 > cpu->idt.limit)
        soft_gp(cpu, code);
    d.raw = system_load(cpu, d.linear, 8);
    if (size == 16)
        d.high = system_load(cpu, d.linear + 8, 8);
    if (!gate_type_valid(cpu, desc_type(&d)))
        soft_gp(cpu, code);
    desc_gate(&d, size == 16, &f->gate);
    if (f->soft && f->gate.dpl < cpu->cpl)
        soft_gp(cpu, code);
    if (!f->gate.present)
        soft_raise(cpu, VEC_NP, code);
    f->ist = size == 16 ? f->gate.count & 7 : 0;
}

/* The handler's code segment; *cpl becomes the handler's privilege. */
static void read_handler(struct soft_cpu *cpu, const struct frame *f, struct desc *d, unsigned *cpl)
{
    uint16_t sel = f->gate.sel;

    if (null_sel(sel))
        soft_gp(cpu, cpu->ext);
    desc_read(cpu, sel, VEC_GP, d);
    if (!desc_is_code(d) || desc_dpl(d) > cpu->cpl)
        soft_gp(cpu, sel_code(cpu, sel));
    if (long_mode(cpu) && (!desc_long(d) || d->raw >> 54 & 1))
        soft_gp(cpu, sel_code(cpu, sel));
    if (!desc_present(d))
        soft_raise(cpu, VEC_NP, sel_code(cpu, sel));
    *cpl = desc_conforming(d) ? cpu->cpl : desc_dpl(d);
    if (v8086(cpu) && *cpl != 0)
        soft_gp(cpu, sel_code(cpu, sel));
}

static void clear_flags(struct soft_cpu *cpu, unsigned type)
{
    cpu->rflags &= ~(uint64_t)(FL_TF | FL_NT | FL_RF | FL_VM);
    if (!(type & 1)) /* interrupt gates; trap gates leave IF */
        cpu->rflags &= ~(uint64_t)FL_IF;
}

static void deliver_long(struct soft_cpu *cpu, const struct frame *f)
{
    struct stack s = {.cpu = cpu, .flat = true, .code = cpu->ext};
    struct x86_seg cs;
    struct desc d;
    unsigned cpl;

    read_handler(cpu, f, &d, &cpl);
    if (f->ist)
        s.sp = stack_from_tss64(cpu, 3 + f->ist);
    else if (cpl < cpu->cpl)
        s.sp = stack_from_tss64(cpu, cpl);
    else
        s.sp = cpu->reg[4];
    s.sp &= ~15ull;
    s.system = cpl != 3;
    stack_push(&s, 8, cpu->seg[SEG_SS].sel);
    stack_push(&s, 8, cpu->reg[4]);
    stack_push(&s, 8, f->flags);
    stack_push(&s, 8, cpu->seg[SEG_CS].sel);
    stack_push(&s, 8, f->rip);
    if (f->code != NO_CODE)
        stack_push(&s, 8, f->code);
    if (!canonical(f->gate.offset))
        soft_gp(cpu, cpu->ext);
    desc_accessed(cpu, &d);
    desc_to_seg(&d, (uint16_t)((f->gate.sel & ~3u) | cpl), &cs);
    if (cpl != cpu->cpl)
        seg_null(cpu, &cpu->seg[SEG_SS], (uint16_t)cpl);
    cpu->reg[4] = s.sp;
    clear_flags(cpu, f->gate.type);
    set_cs(cpu, &cs, cpl, f->gate.offset);
}

static void push_frame(struct soft_cpu *cpu, struct stack *s, const struct frame *f, bool inner,
                       unsigned size)
{
    if (v8086(cpu)) {
        stack_push(s, size, cpu->seg[SEG_GS].sel);
        stack_push(s, size, cpu->seg[SEG_FS].sel);
        stack_push(s, size, cpu->seg[SEG_DS].sel);
        stack_push(s, size, cpu->seg[SEG_ES].sel);
    }
    if (inner) {
        stack_push(s, size, cpu->seg[SEG_SS].sel);
        stack_push(s, size, cpu->reg[4]);
    }
    stack_push(s, size, f->flags);
    stack_push(s, size, cpu->seg[SEG_CS].sel);
    stack_push(s, size, f->rip);
    if (f->code != NO_CODE)
        stack_push(s, size, f->code);
}

static void deliver_protected(struct soft_cpu *cpu, const struct frame *f)
{
    unsigned size = f->gate.type & 8 ? 4 : 2, cpl;
    bool from_v8086 = v8086(cpu), inner;
    struct x86_seg cs;
    struct stack s;
    struct desc d;
    uint16_t ss;
    uint32_t esp;

    read_handler(cpu, f, &d, &cpl);
    stack_current(cpu, &s);
    inner = cpl < cpu->cpl;
    if (inner) {
        stack_from_tss(cpu, cpl, &ss, &esp);
        stack_segment(cpu, ss, cpl, VEC_TS, &s.seg);
        s.sp = esp;
        s.code = sel_code(cpu, ss);
        s.system = true;
    }
    push_frame(cpu, &s, f, inner, size);
    desc_accessed(cpu, &d);
    desc_to_seg(&d, (uint16_t)((f->gate.sel & ~3u) | cpl), &cs);
    if (!seg_holds(&cs, f->gate.offset, 1))
        soft_gp(cpu, cpu->ext);
    cpu->seg[SEG_SS] = s.seg;
    cpu->reg[4] = s.sp;
    clear_flags(cpu, f->gate.type);
    if (from_v8086) {
        seg_null(cpu, &cpu->seg[SEG_ES], 0);
        seg_null(cpu, &cpu->seg[SEG_DS], 0);
        seg_null(cpu, &cpu->seg[SEG_FS], 0);
        seg_null(cpu, &cpu->seg[SEG_GS], 0);
    }
    set_cs(cpu, &cs, cpl, f->gate.offset);
}

static void deliver(struct soft_cpu *cpu, struct frame *f)
{
    if (!protected_mode(cpu)) {
        deliver_real(cpu, f);
        soft_mode_changed(cpu);
        return;
    }
    read_gate(cpu, f);
    if (f->gate.type == TYPE_TASK)
        task_gate(cpu, f->gate.sel, TASK_INT, f->rip, f->code);
    else if (long_mode(cpu))
        deliver_long(cpu, f);
    else
        deliver_protected(cpu, f);
}

static bool has_code(unsigned vector)
{
    return vector == VEC_DF || (vector >= VEC_TS && vector <= VEC_PF) || vector == VEC_AC;
}

bool soft_deliver(struct soft_cpu *cpu, enum event_kind kind, unsigned vector, uint32_t code)
{
    bool exception = kind == EVENT_FAULT || kind == EVENT_TRAP;
    struct frame f = {.soft = kind == EVENT_SOFT_INT || kind == EVENT_SOFT_TRAP};
    bool after = f.soft || kind == EVENT_INT1;
    int combined = (int)vector;

    if (kind == EVENT_FAULT && cpu->delivering)
        combined = combine(cpu->first_vector, vector);
    if (combined < 0) {
        cpu->delivering = false;
        cpu->ext = 0;
        return false;
    }
    f.vector = (unsigned)combined;
    f.code = combined == VEC_DF ? 0 : code;
    if (!exception || !has_code(f.vector))
        f.code = NO_CODE;
    cpu->delivering = true;
    cpu->first_vector = exception ? (uint8_t)f.vector : BENIGN;
    cpu->ext = !f.soft;
    cpu->stepping = false;
    if (kind == EVENT_FAULT)
        cpu->trap_dr6 = 0;
    f.rip = after ? cpu->next_rip : cpu->rip;
    f.flags = soft_rflags(cpu);
    if (after)
        f.flags &= ~(uint64_t)FL_RF;
    if (kind == EVENT_FAULT && f.vector != VEC_DB)
        f.flags |= FL_RF;
    deliver(cpu, &f);
    if (exception && f.vector == VEC_DB)
        cpu->dr7 &= ~(uint64_t)DR7_GD;
    cpu->delivering = false;
    cpu->ext = 0;
    cpu->shadow_sti = cpu->shadow_ss = false;
    cpu->rip = cpu->next_rip;
    return true;
}
