/* SPDX-License-Identifier: MIT */
/* Descriptors and the stacks they describe: reading them from the GDT and LDT, checking them,
 * loading segment registers. Intel SDM 3, chapters 3 and 5.
 *
 * The hidden part of a segment register is the truth, the selector only a number, so big real mode
 * comes for free. Nothing here changes a register before its last possible fault. */
#include "engine/soft/system.h"

static uint64_t wrap_linear(const struct soft_cpu *cpu, uint64_t linear)
{
    return long_mode(cpu) ? linear : (uint32_t)linear;
}

uint64_t system_load(struct soft_cpu *cpu, uint64_t linear, unsigned size)
{
    return soft_load_linear(cpu, wrap_linear(cpu, linear), size, true);
}

void system_store(struct soft_cpu *cpu, uint64_t linear, unsigned size, uint64_t value)
{
    soft_store_linear(cpu, wrap_linear(cpu, linear), size, value, true);
}

bool desc_find(struct soft_cpu *cpu, uint16_t sel, bool wide, struct desc *d)
{
    uint64_t base = cpu->gdt.base;
    uint32_t limit = cpu->gdt.limit, last = sel | 7u;

    if (sel & 4) {
        if (!(cpu->ldt.attr & SEG_P))
            return false;
        base = cpu->ldt.base;
        limit = cpu->ldt.limit;
    }
    if (last > limit)
        return false;
    *d = (struct desc){.linear = base + (sel & 0xfff8u), .sel = sel};
    d->raw = system_load(cpu, d->linear, 8);
    if (wide && !(desc_type(d) & SEG_S)) {
        if (last + 8 > limit)
            return false;
        d->high = system_load(cpu, d->linear + 8, 8);
    }
    return true;
}

void desc_read(struct soft_cpu *cpu, uint16_t sel, unsigned vector, struct desc *d)
{
    if (!desc_find(cpu, sel, long_mode(cpu), d))
        soft_raise(cpu, vector, sel_code(cpu, sel));
}

void desc_to_seg(const struct desc *d, uint16_t sel, struct x86_seg *seg)
{
    uint64_t raw = d->raw;
    uint32_t limit = (uint32_t)((raw & 0xffff) | (raw >> 32 & 0xf0000));

    seg->sel = sel;
    seg->attr = raw >> 40 & 0xf0ff;
    seg->limit = seg->attr & SEG_G ? limit << 12 | 0xfff : limit;
    seg->base = (raw >> 16 & 0xffffff) | (raw >> 32 & 0xff000000);
    if (!(seg->attr & SEG_S))
        seg->base |= d->high << 32;
}

/* Locked where the descriptor lies in one piece of RAM, as another processor may load it too. */
void desc_update(struct soft_cpu *cpu, const struct desc *d, uint32_t set, uint32_t clear)
{
    uint64_t at = wrap_linear(cpu, d->linear + 4);
    _Atomic uint32_t *p = soft_host_ptr(cpu, at, 4, ACCESS_WRITE, true);
    uint32_t old;

    if (p) {
        old = atomic_load(p);
        while (!atomic_compare_exchange_weak(p, &old, (old | set) & ~clear))
            ;
        return;
    }
    old = (uint32_t)system_load(cpu, at, 4);
    system_store(cpu, at, 4, (old | set) & ~clear);
}

void desc_accessed(struct soft_cpu *cpu, struct desc *d)
{
    if (d->raw >> 40 & TYPE_ACCESSED)
        return;
    desc_update(cpu, d, TYPE_ACCESSED << 8, 0);
    d->raw |= (uint64_t)TYPE_ACCESSED << 40;
}

void desc_gate(const struct desc *d, bool wide, struct gate *g)
{
    g->type = desc_type(d);
    g->dpl = (uint8_t)desc_dpl(d);
    g->present = desc_present(d);
    g->sel = d->raw >> 16 & 0xffff;
    g->count = d->raw >> 32 & 0x1f;
    g->offset = d->raw & 0xffff;
    if (g->type & 8)
        g->offset |= d->raw >> 32 & 0xffff0000;
    if (wide)
        g->offset |= d->high << 32;
}

void seg_real(struct x86_seg *seg, uint16_t sel)
{
    seg->sel = sel;
    seg->base = (uint32_t)sel << 4;
}

/* CS in real mode may be written through, whatever the descriptor said while PE was set. */
void seg_real_code(struct x86_seg *cs, uint16_t sel)
{
    seg_real(cs, sel);
    cs->attr = (uint16_t)((cs->attr & 0xff00) | SEG_P | SEG_S | TYPE_WRITE | TYPE_ACCESSED);
}

void seg_v8086(struct x86_seg *seg, uint16_t sel)
{
    *seg = (struct x86_seg){.base = (uint32_t)sel << 4,
                            .limit = 0xffff,
                            .sel = sel,
                            .attr = SEG_P | SEG_DPL | SEG_S | TYPE_WRITE | TYPE_ACCESSED};
}

/* A null selector: unusable outside 64-bit mode. SS keeps the privilege level, as VMX shows it. */
void seg_null(struct soft_cpu *cpu, struct x86_seg *seg, uint16_t sel)
{
    *seg = (struct x86_seg){.sel = sel};
    if (seg == &cpu->seg[SEG_SS])
        seg->attr = (uint16_t)((sel & 3) << 5);
}

bool seg_holds(const struct x86_seg *seg, uint64_t offset, unsigned size)
{
    uint64_t last = offset + size - 1;

    if ((seg->attr & (SEG_S | TYPE_CODE | TYPE_DOWN)) == (SEG_S | TYPE_DOWN))
        return offset > seg->limit && last <= (seg->attr & SEG_DB ? 0xffffffffu : 0xffffu);
    return last <= seg->limit;
}

void stack_segment(struct soft_cpu *cpu, uint16_t sel, unsigned dpl, unsigned vector,
                   struct x86_seg *ss)
{
    struct desc d;

    if (null_sel(sel))
        soft_raise(cpu, vector, cpu->ext);
    desc_read(cpu, sel, vector, &d);
    if ((sel & 3u) != dpl || desc_dpl(&d) != dpl || !desc_writable_data(&d))
        soft_raise(cpu, vector, sel_code(cpu, sel));
    if (!desc_present(&d))
        soft_raise(cpu, VEC_SS, sel_code(cpu, sel));
    desc_accessed(cpu, &d);
    desc_to_seg(&d, sel, ss);
}

static void load_ss(struct soft_cpu *cpu, uint16_t sel)
{
    struct x86_seg ss;

    if (null_sel(sel)) {
        if (!code64(cpu) || cpu->cpl == 3 || (sel & 3) != cpu->cpl)
            soft_gp(cpu, cpu->ext);
        seg_null(cpu, &cpu->seg[SEG_SS], sel);
        return;
    }
    stack_segment(cpu, sel, cpu->cpl, VEC_GP, &ss);
    cpu->seg[SEG_SS] = ss;
}

static void load_data(struct soft_cpu *cpu, unsigned seg, uint16_t sel)
{
    struct desc d;
    unsigned type, rpl = sel & 3u;

    if (null_sel(sel)) {
        seg_null(cpu, &cpu->seg[seg], sel);
        return;
    }
    desc_read(cpu, sel, VEC_GP, &d);
    type = desc_type(&d);
    if (!(type & SEG_S) || (type & (TYPE_CODE | TYPE_READ)) == TYPE_CODE)
        soft_gp(cpu, sel_code(cpu, sel));
    if ((type & (TYPE_CODE | TYPE_CONFORMING)) != (TYPE_CODE | TYPE_CONFORMING) &&
        (rpl > desc_dpl(&d) || cpu->cpl > desc_dpl(&d)))
        soft_gp(cpu, sel_code(cpu, sel));
    if (!desc_present(&d))
        soft_raise(cpu, VEC_NP, sel_code(cpu, sel));
    desc_accessed(cpu, &d);
    desc_to_seg(&d, sel, &cpu->seg[seg]);
}

void soft_load_seg(struct soft_cpu *cpu, unsigned seg, uint16_t sel)
{
    if (v8086(cpu) && protected_mode(cpu))
        seg_v8086(&cpu->seg[seg], sel);
    else if (!protected_mode(cpu))
        seg_real(&cpu->seg[seg], sel);
    else if (seg == SEG_SS)
        load_ss(cpu, sel);
    else
        load_data(cpu, seg, sel);
    soft_mode_changed(cpu);
}

void drop_inner_segments(struct soft_cpu *cpu, unsigned cpl)
{
    static const uint8_t data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

    for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
        struct x86_seg *s = &cpu->seg[data[i]];
        bool conforming =
            (s->attr & (TYPE_CODE | TYPE_CONFORMING)) == (TYPE_CODE | TYPE_CONFORMING);
        uint64_t base = s->base;

        if (!(s->attr & SEG_P) || (conforming && (s->attr & SEG_S)) || seg_dpl(s) >= cpl)
            continue;
        seg_null(cpu, s, 0);
        if (long_mode(cpu) && (data[i] == SEG_FS || data[i] == SEG_GS))
            s->base = base;
    }
}

/* ---- stacks ---- */
void stack_current(struct soft_cpu *cpu, struct stack *s)
{
    *s = (struct stack){.cpu = cpu,
                        .seg = cpu->seg[SEG_SS],
                        .sp = cpu->reg[4],
                        .code = cpu->ext,
                        .flat = code64(cpu),
                        .system = cpu->cpl != 3};
}

static uint64_t stack_mask(const struct stack *s)
{
    if (s->flat)
        return UINT64_MAX;
    return s->seg.attr & SEG_DB ? 0xffffffffu : 0xffffu;
}

/* Moves SP, which in 16-bit stacks leaves the upper half alone. */
static uint64_t moved(const struct stack *s, uint64_t by)
{
    uint64_t mask = stack_mask(s);

    if (mask == 0xffff)
        return (s->sp & ~mask) | ((s->sp + by) & mask);
    return (s->sp + by) & mask;
}

static uint64_t stack_linear(struct stack *s, uint64_t sp, unsigned size)
{
    uint64_t offset = sp & stack_mask(s);

    if (s->flat) {
        if (!canonical(offset) || !canonical(offset + size - 1))
            soft_raise(s->cpu, VEC_SS, s->code);
        return offset;
    }
    if (!seg_holds(&s->seg, offset, size))
        soft_raise(s->cpu, VEC_SS, s->code);
    return (uint32_t)(s->seg.base + offset);
}

void stack_push(struct stack *s, unsigned size, uint64_t value)
{
    uint64_t sp = moved(s, -(uint64_t)size);

    soft_store_linear(s->cpu, stack_linear(s, sp, size), size, value, s->system);
    s->sp = sp;
}

uint64_t stack_peek(struct stack *s, unsigned offset, unsigned size)
{
    return soft_load_linear(s->cpu, stack_linear(s, moved(s, offset), size), size, s->system);
}

uint64_t stack_pop(struct stack *s, unsigned size)
{
    uint64_t value = stack_peek(s, 0, size);

    s->sp = moved(s, size);
    return value;
}

void stack_skip(struct stack *s, unsigned bytes)
{
    s->sp = moved(s, bytes);
}

void stack_from_tss(struct soft_cpu *cpu, unsigned dpl, uint16_t *ss, uint32_t *esp)
{
    bool wide = seg_type(&cpu->tr) & 8;
    unsigned at = wide ? 4 + 8 * dpl : 2 + 4 * dpl, size = wide ? 4 : 2;

    if (at + 2 * size - 1 > cpu->tr.limit)
        soft_raise(cpu, VEC_TS, sel_code(cpu, cpu->tr.sel));
    *esp = (uint32_t)system_load(cpu, cpu->tr.base + at, size);
    *ss = (uint16_t)system_load(cpu, cpu->tr.base + at + size, 2);
}

uint64_t stack_from_tss64(struct soft_cpu *cpu, unsigned slot)
{
    unsigned at = 4 + 8 * slot; /* RSP0-2, a reserved one, IST1-7 */
    uint64_t rsp;

    if (at + 7 > cpu->tr.limit)
        soft_raise(cpu, VEC_TS, sel_code(cpu, cpu->tr.sel));
    rsp = system_load(cpu, cpu->tr.base + at, 8);
    if (!canonical(rsp))
        soft_raise(cpu, VEC_SS, cpu->ext);
    return rsp;
}

uint64_t soft_sp_mask(const struct soft_cpu *cpu)
{
    if (code64(cpu))
        return UINT64_MAX;
    return cpu->seg[SEG_SS].attr & SEG_DB ? 0xffffffffu : 0xffffu;
}

void soft_push(struct soft_cpu *cpu, unsigned size, uint64_t value)
{
    uint64_t mask = soft_sp_mask(cpu), sp = (cpu->reg[4] - size) & mask;

    soft_store(cpu, SEG_SS, sp, size, value);
    cpu->reg[4] = mask == 0xffff ? (cpu->reg[4] & ~mask) | sp : sp;
}

uint64_t soft_pop(struct soft_cpu *cpu, unsigned size)
{
    uint64_t mask = soft_sp_mask(cpu), sp = cpu->reg[4] & mask,
             value = soft_load(cpu, SEG_SS, sp, size);

    sp = (sp + size) & mask;
    cpu->reg[4] = mask == 0xffff ? (cpu->reg[4] & ~mask) | sp : sp;
    return value;
}
