/* SPDX-License-Identifier: MIT */
/* Instructions on segment registers and descriptor tables: MOV, PUSH, POP of segment registers,
 * LDS..LGS, LAR, LSL, VERR, VERW, ARPL, LGDT, LIDT, LLDT, LTR and their stores. Intel SDM 2. */
#include "engine/soft/ops.h"
#include "engine/soft/system.h"

static uint64_t operand16(struct soft_cpu *cpu, const struct insn *in)
{
    return in->mem ? soft_load(cpu, in->seg, soft_ea(cpu, in), 2) : cpu->reg[in->rm] & 0xffff;
}

/* A register of operand size, or a word in memory: SLDT, STR, SMSW, MOV from Sreg. */
static void store16(struct soft_cpu *cpu, const struct insn *in, uint64_t value)
{
    if (in->mem)
        soft_store(cpu, in->seg, soft_ea(cpu, in), 2, value & 0xffff);
    else
        reg_write(cpu, in->rm, in->opsize, value);
}

/* One instruction without interrupts and debug traps after a load of SS. */
static void shadow_ss(struct soft_cpu *cpu)
{
    cpu->shadow_ss = true;
    cpu->shadow_rip = cpu->next_rip;
}

void op_mov_seg(struct soft_cpu *cpu, const struct insn *in)
{
    if (in->reg > SEG_GS)
        soft_ud(cpu);
    if (x86_form[in->form].operand[0] != X86_O_Sw) {
        store16(cpu, in, cpu->seg[in->reg].sel);
        return;
    }
    if (in->reg == SEG_CS)
        soft_ud(cpu);
    soft_load_seg(cpu, in->reg, (uint16_t)operand16(cpu, in));
    if (in->reg == SEG_SS)
        shadow_ss(cpu);
}

/* The segment that PUSH and POP name in their opcode. */
static unsigned fixed_seg(const struct insn *in)
{
    return x86_operand_kind[x86_form[in->form].operand[0]].size - X86_SZ_SEG0;
}

/* 32-bit pushes write only the selector's two bytes, as processors have done since the Pentium. */
void op_push_seg(struct soft_cpu *cpu, const struct insn *in)
{
    uint64_t mask = soft_sp_mask(cpu), sp = (cpu->reg[4] - in->opsize) & mask;

    if (in->opsize == 8) {
        soft_push(cpu, 8, cpu->seg[fixed_seg(in)].sel);
        return;
    }
    soft_store(cpu, SEG_SS, sp, 2, cpu->seg[fixed_seg(in)].sel);
    cpu->reg[4] = mask == 0xffff ? (cpu->reg[4] & ~mask) | sp : sp;
}

void op_pop_seg(struct soft_cpu *cpu, const struct insn *in)
{
    uint64_t mask = soft_sp_mask(cpu), sp = cpu->reg[4] & mask;
    unsigned seg = fixed_seg(in);
    uint16_t sel = (uint16_t)soft_load(cpu, SEG_SS, sp, 2);

    soft_load_seg(cpu, seg, sel);
    sp = (sp + in->opsize) & mask; /* by the old SS's size */
    cpu->reg[4] = mask == 0xffff ? (cpu->reg[4] & ~mask) | sp : sp;
    if (seg == SEG_SS)
        shadow_ss(cpu);
}

static void load_far(struct soft_cpu *cpu, const struct insn *in, unsigned seg)
{
    uint64_t ea = soft_ea(cpu, in), offset = soft_load(cpu, in->seg, ea, in->opsize);
    uint16_t sel = (uint16_t)soft_load(cpu, in->seg, ea + in->opsize, 2);

    soft_load_seg(cpu, seg, sel);
    reg_write(cpu, in->reg, in->opsize, offset);
}

void op_les(struct soft_cpu *cpu, const struct insn *in)
{
    load_far(cpu, in, SEG_ES);
}

void op_lds(struct soft_cpu *cpu, const struct insn *in)
{
    load_far(cpu, in, SEG_DS);
}

void op_lss(struct soft_cpu *cpu, const struct insn *in)
{
    load_far(cpu, in, SEG_SS);
}

void op_lfs(struct soft_cpu *cpu, const struct insn *in)
{
    load_far(cpu, in, SEG_FS);
}

void op_lgs(struct soft_cpu *cpu, const struct insn *in)
{
    load_far(cpu, in, SEG_GS);
}

/* ---- asking about selectors ---- */
static void needs_protected(struct soft_cpu *cpu)
{
    if (real_segments(cpu))
        soft_ud(cpu);
}

/* Whether the current and the requested privilege may see the descriptor. */
static bool visible(const struct soft_cpu *cpu, const struct desc *d)
{
    if (desc_is_code(d) && desc_conforming(d))
        return true;
    return desc_dpl(d) >= cpu->cpl && desc_dpl(d) >= (d->sel & 3u);
}

/* Finds the operand's descriptor for LAR, LSL, VERR, VERW, which answer in ZF and do not fault on
 * it. */
static bool examine(struct soft_cpu *cpu, uint16_t sel, struct desc *d)
{
    return !null_sel(sel) && desc_find(cpu, sel, long_mode(cpu), d) && visible(cpu, d);
}

void op_lar(struct soft_cpu *cpu, const struct insn *in)
{
    static const uint32_t legacy =
        0xffff0000 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 9 | 1 << 11 | 1 << 12;
    static const uint32_t wide = 0xffff0000 | 1 << 2 | 1 << 9 | 1 << 11 | 1 << 12;
    struct desc d;
    bool found;

    needs_protected(cpu);
    found = examine(cpu, (uint16_t)operand16(cpu, in), &d) &&
            ((long_mode(cpu) ? wide : legacy) >> desc_type(&d) & 1);
    set_zf(cpu, found);
    if (found)
        reg_write(cpu, in->reg, in->opsize, d.raw >> 32 & (in->opsize == 2 ? 0xff00 : 0xffff00));
}

void op_lsl(struct soft_cpu *cpu, const struct insn *in)
{
    static const uint32_t legacy = 0xffff0000 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 9 | 1 << 11;
    static const uint32_t wide = 0xffff0000 | 1 << 2 | 1 << 9 | 1 << 11;
    struct x86_seg seg;
    struct desc d;
    bool found;

    needs_protected(cpu);
    found = examine(cpu, (uint16_t)operand16(cpu, in), &d) &&
            ((long_mode(cpu) ? wide : legacy) >> desc_type(&d) & 1);
    set_zf(cpu, found);
    if (!found)
        return;
    desc_to_seg(&d, d.sel, &seg);
    reg_write(cpu, in->reg, in->opsize, seg.limit);
}

void op_verr(struct soft_cpu *cpu, const struct insn *in)
{
    struct desc d;

    needs_protected(cpu);
    set_zf(cpu, examine(cpu, (uint16_t)operand16(cpu, in), &d) && (desc_type(&d) & SEG_S) &&
                    (!desc_is_code(&d) || (desc_type(&d) & TYPE_READ)));
}

void op_verw(struct soft_cpu *cpu, const struct insn *in)
{
    struct desc d;

    needs_protected(cpu);
    set_zf(cpu, examine(cpu, (uint16_t)operand16(cpu, in), &d) && desc_writable_data(&d));
}

void op_arpl(struct soft_cpu *cpu, const struct insn *in)
{
    unsigned rpl = cpu->reg[in->reg] & 3, value;
    uint64_t ea = in->mem ? soft_ea(cpu, in) : 0;

    needs_protected(cpu);
    if (in->mem)
        soft_probe_write(cpu, in->seg, ea, 2);
    value = (unsigned)(in->mem ? soft_load(cpu, in->seg, ea, 2) : cpu->reg[in->rm] & 0xffff);
    set_zf(cpu, (value & 3) < rpl);
    if ((value & 3) >= rpl)
        return;
    value = (value & ~3u) | rpl;
    if (in->mem)
        soft_store(cpu, in->seg, ea, 2, value);
    else
        reg_write(cpu, in->rm, 2, value);
}

/* ---- descriptor table registers ---- */
/* CR4.UMIP hides where the tables are from outer rings. */
static void check_umip(struct soft_cpu *cpu)
{
    if ((cpu->cr4 & CR4_UMIP) && cpu->cpl && protected_mode(cpu))
        soft_gp(cpu, 0);
}

static void store_table(struct soft_cpu *cpu, const struct insn *in, const struct x86_table *t)
{
    uint8_t image[10];

    check_umip(cpu);
    put_le16(image, t->limit);
    put_le64(image + 2, t->base);
    soft_store_bytes(cpu, in->seg, soft_ea(cpu, in), image, code64(cpu) ? 10 : 6);
}

static void load_table(struct soft_cpu *cpu, const struct insn *in, struct x86_table *t)
{
    uint8_t image[10] = {0};
    uint64_t base;

    soft_load_bytes(cpu, in->seg, soft_ea(cpu, in), image, code64(cpu) ? 10 : 6);
    base = le64(image + 2);
    if (!code64(cpu) && in->opsize == 2)
        base &= 0xffffff;
    if (!canonical(base))
        soft_gp(cpu, 0);
    t->base = base;
    t->limit = le16(image);
}

void op_sgdt(struct soft_cpu *cpu, const struct insn *in)
{
    store_table(cpu, in, &cpu->gdt);
}

void op_sidt(struct soft_cpu *cpu, const struct insn *in)
{
    store_table(cpu, in, &cpu->idt);
}

void op_lgdt(struct soft_cpu *cpu, const struct insn *in)
{
    load_table(cpu, in, &cpu->gdt);
}

void op_lidt(struct soft_cpu *cpu, const struct insn *in)
{
    load_table(cpu, in, &cpu->idt);
}

void op_sldt(struct soft_cpu *cpu, const struct insn *in)
{
    needs_protected(cpu);
    check_umip(cpu);
    store16(cpu, in, cpu->ldt.sel);
}

void op_str(struct soft_cpu *cpu, const struct insn *in)
{
    needs_protected(cpu);
    check_umip(cpu);
    store16(cpu, in, cpu->tr.sel);
}

/* LLDT and LTR: #UD in real and v8086 mode comes before #GP for the ring. */
static void needs_ring0(struct soft_cpu *cpu)
{
    needs_protected(cpu);
    if (cpu->cpl)
        soft_gp(cpu, 0);
}

static void system_desc(struct soft_cpu *cpu, uint16_t sel, struct desc *d)
{
    if (sel & 4)
        soft_gp(cpu, sel_code(cpu, sel));
    desc_read(cpu, sel, VEC_GP, d);
    if (long_mode(cpu) && ((d->high >> 40 & 0x1f) || !canonical(d->high << 32)))
        soft_gp(cpu, sel_code(cpu, sel));
}

void op_lldt(struct soft_cpu *cpu, const struct insn *in)
{
    uint16_t sel;
    struct desc d;

    needs_ring0(cpu);
    sel = (uint16_t)operand16(cpu, in);
    if (null_sel(sel)) {
        cpu->ldt = (struct x86_seg){.sel = sel};
        return;
    }
    system_desc(cpu, sel, &d);
    if (desc_type(&d) != TYPE_LDT)
        soft_gp(cpu, sel_code(cpu, sel));
    if (!desc_present(&d))
        soft_raise(cpu, VEC_NP, sel_code(cpu, sel));
    desc_to_seg(&d, sel, &cpu->ldt);
}

void op_ltr(struct soft_cpu *cpu, const struct insn *in)
{
    uint16_t sel;
    struct desc d;

    needs_ring0(cpu);
    sel = (uint16_t)operand16(cpu, in);
    if (null_sel(sel))
        soft_gp(cpu, 0);
    system_desc(cpu, sel, &d);
    if (desc_type(&d) != TYPE_TSS32 && (long_mode(cpu) || desc_type(&d) != TYPE_TSS16))
        soft_gp(cpu, sel_code(cpu, sel));
    if (!desc_present(&d))
        soft_raise(cpu, VEC_NP, sel_code(cpu, sel));
    desc_update(cpu, &d, 2u << 8, 0);
    desc_to_seg(&d, sel, &cpu->tr);
    cpu->tr.attr |= 2;
}
