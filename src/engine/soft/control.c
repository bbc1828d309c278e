/* SPDX-License-Identifier: MIT */
/* Control and debug registers: MOV CRn, MOV DRn, LMSW, SMSW, CLTS, INVLPG, INVPCID, with every
 * check of Intel SDM 3, 2.5 and 17.2, and with what each change drops from the TLB.
 *
 * A change of PE, CS or CPL only changes the block key (soft_mode_changed), never flushes. */
#include "engine/soft/ops.h"
#include "engine/soft/system.h"

#define CR3_PCID_KEEP BIT(63)

static uint64_t phys_mask(const struct soft_cpu *cpu)
{
    return BIT(soft_phys_bits(cpu)) - 1;
}

static bool pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
    return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LMA);
}

bool control_load_pdpte(struct soft_cpu *cpu, uint64_t cr3)
{
    uint64_t reserved = ~phys_mask(cpu) | 0x1e6, pdpte[4];

    if (mem_read(cpu->vm->mem, cr3 & 0xffffffe0 & cpu->a20_mask, pdpte, sizeof pdpte))
        memset(pdpte, 0, sizeof pdpte); /* no RAM there: nothing is mapped */
    for (unsigned i = 0; i < 4; i++)
        if ((pdpte[i] & 1) && (pdpte[i] & reserved))
            return false;
    memcpy(cpu->pdpte, pdpte, sizeof pdpte);
    return true;
}

void control_set_cr3(struct soft_cpu *cpu, uint64_t value)
{
    uint64_t bits = value;

    if (cpu->cr4 & CR4_PCIDE)
        bits &= ~CR3_PCID_KEEP;
    if (!long_mode(cpu))
        bits &= 0xffffffff;
    else if (bits & ~phys_mask(cpu))
        soft_gp(cpu, 0);
    if (pae_paging(cpu->cr0, cpu->cr4, cpu->efer) && !control_load_pdpte(cpu, bits))
        soft_gp(cpu, 0);
    cpu->cr3 = bits;
    soft_tlb_flush(cpu, false);
}

/* EFER.LMA and the rules of entering and leaving long mode, when paging changes. */
static uint64_t paging_efer(struct soft_cpu *cpu, uint64_t cr0)
{
    uint64_t efer = cpu->efer;
    bool on = cr0 & CR0_PG;

    if (on == !!(cpu->cr0 & CR0_PG) || !(efer & EFER_LME))
        return efer;
    if (!on) {
        if (code64(cpu))
            soft_gp(cpu, 0);
        return efer & ~(uint64_t)EFER_LMA;
    }
    if (!(cpu->cr4 & CR4_PAE) || (cpu->seg[SEG_CS].attr & SEG_L))
        soft_gp(cpu, 0);
    return efer | EFER_LMA;
}

static void set_cr0(struct soft_cpu *cpu, uint64_t value)
{
    uint64_t known =
        CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG;
    uint64_t changed, efer, cr0 = (value & known) | CR0_ET;

    if (value >> 32 || ((cr0 & CR0_PG) && !(cr0 & CR0_PE)) || ((cr0 & CR0_NW) && !(cr0 & CR0_CD)))
        soft_gp(cpu, 0);
    if (!(cr0 & CR0_PG) && (cpu->cr4 & CR4_PCIDE))
        soft_gp(cpu, 0);
    efer = paging_efer(cpu, cr0);
    changed = cr0 ^ cpu->cr0;
    if (pae_paging(cr0, cpu->cr4, efer) && (changed & (CR0_PG | CR0_CD | CR0_NW)) &&
        !control_load_pdpte(cpu, cpu->cr3))
        soft_gp(cpu, 0);
    cpu->cr0 = cr0;
    cpu->efer = efer;
    if (changed & (CR0_PG | CR0_WP))
        soft_tlb_flush(cpu, true);
    soft_mode_changed(cpu);
}

uint64_t control_cr4_known(const struct soft_cpu *cpu)
{
    static const struct {
        uint8_t feature;
        uint32_t bits;
    } by_feature[] = {
        {X86_F_FXSR, CR4_OSFXSR},       {X86_F_SSE, CR4_OSXMM},  {X86_F_UMIP, CR4_UMIP},
        {X86_F_FSGSBASE, CR4_FSGSBASE}, {X86_F_PCID, CR4_PCIDE}, {X86_F_XSAVE, CR4_OSXSAVE},
        {X86_F_SMEP, CR4_SMEP},         {X86_F_SMAP, CR4_SMAP},
    };
    uint64_t known = CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE;

    for (unsigned i = 0; i < ARRAY_SIZE(by_feature); i++)
        if (soft_has(cpu, by_feature[i].feature))
            known |= by_feature[i].bits;
    return known;
}

static void set_cr4(struct soft_cpu *cpu, uint64_t value)
{
    uint64_t changed = value ^ cpu->cr4,
             paging = CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP | CR4_SMAP | CR4_PCIDE;

    if (value & ~control_cr4_known(cpu))
        soft_gp(cpu, 0);
    if (long_mode(cpu) && !(value & CR4_PAE))
        soft_gp(cpu, 0);
    if ((changed & value & CR4_PCIDE) && (!long_mode(cpu) || (cpu->cr3 & 0xfff)))
        soft_gp(cpu, 0);
    if (pae_paging(cpu->cr0, value, cpu->efer) &&
        (changed & (CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP)) && !control_load_pdpte(cpu, cpu->cr3))
        soft_gp(cpu, 0);
    cpu->cr4 = value;
    if (changed & paging)
        soft_tlb_flush(cpu, true);
    soft_mode_changed(cpu);
}

static uint64_t get_cr(struct soft_cpu *cpu, unsigned n)
{
    switch (n) {
    case 0: return cpu->cr0;
    case 2: return cpu->cr2;
    case 3: return cpu->cr3;
    case 4: return cpu->cr4;
    case 8: return soft_apic_cr8(cpu);
    }
    soft_ud(cpu);
}

static void set_cr(struct soft_cpu *cpu, unsigned n, uint64_t value)
{
    switch (n) {
    case 0: set_cr0(cpu, value); break;
    case 2: cpu->cr2 = value; break;
    case 3: control_set_cr3(cpu, value); break;
    case 4: set_cr4(cpu, value); break;
    case 8:
        if (value & ~15ull)
            soft_gp(cpu, 0);
        soft_apic_set_cr8(cpu, (unsigned)value);
        break;
    default: soft_ud(cpu);
    }
}

static uint64_t move_value(const struct soft_cpu *cpu, uint64_t value)
{
    return code64(cpu) ? value : (uint32_t)value;
}

void op_mov_cr(struct soft_cpu *cpu, const struct insn *in)
{
    if (x86_form[in->form].operand[0] == X86_O_Cy)
        set_cr(cpu, in->reg, move_value(cpu, cpu->reg[in->rm]));
    else
        cpu->reg[in->rm] = move_value(cpu, get_cr(cpu, in->reg));
}

void op_clts(struct soft_cpu *cpu, const struct insn *in)
{
    cpu->cr0 &= ~(uint64_t)CR0_TS;
    soft_mode_changed(cpu);
}

void op_smsw(struct soft_cpu *cpu, const struct insn *in)
{
    if ((cpu->cr4 & CR4_UMIP) && cpu->cpl && protected_mode(cpu))
        soft_gp(cpu, 0);
    if (in->mem)
        soft_store(cpu, in->seg, soft_ea(cpu, in), 2, cpu->cr0 & 0xffff);
    else
        reg_write(cpu, in->rm, in->opsize, cpu->cr0);
}

/* Sets PE, MP, EM, TS; cannot clear PE. */
void op_lmsw(struct soft_cpu *cpu, const struct insn *in)
{
    uint64_t value = in->mem ? soft_load(cpu, in->seg, soft_ea(cpu, in), 2) : cpu->reg[in->rm];

    set_cr0(cpu, (cpu->cr0 & ~0xeull) | (value & 15));
}

/* ---- debug registers ---- */
static unsigned debug_reg(struct soft_cpu *cpu, unsigned n)
{
    if (n > 7 || ((n == 4 || n == 5) && (cpu->cr4 & CR4_DE)))
        soft_ud(cpu);
    if (cpu->dr7 & DR7_GD) {
        cpu->dr6 |= DR6_BD;
        soft_raise(cpu, VEC_DB, NO_CODE);
    }
    return n == 4 || n == 5 ? n + 2 : n;
}

static void set_dr(struct soft_cpu *cpu, unsigned n, uint64_t value)
{
    if (n >= 6 && value >> 32)
        soft_gp(cpu, 0);
    if (n == 6) {
        cpu->dr6 = (value & (0xf | DR6_BD | DR6_BS | DR6_BT)) | DR6_FIXED;
        return;
    }
    if (n == 7)
        cpu->dr7 = (value & 0xffff23ff) | DR7_FIXED;
    else
        cpu->dr[n] = value;
    soft_tlb_flush(cpu, true); /* watched pages must miss */
    if (breakpoints_on_code(cpu))
        atomic_fetch_or(&cpu->pending, PEND_TRAP);
    soft_mode_changed(cpu);
}

void op_mov_dr(struct soft_cpu *cpu, const struct insn *in)
{
    unsigned n = debug_reg(cpu, in->reg);

    if (x86_form[in->form].operand[0] == X86_O_Dy)
        set_dr(cpu, n, move_value(cpu, cpu->reg[in->rm]));
    else
        cpu->reg[in->rm] = move_value(cpu, n == 6 ? cpu->dr6 : n == 7 ? cpu->dr7 : cpu->dr[n]);
}

/* ---- TLB ---- */
void op_invlpg(struct soft_cpu *cpu, const struct insn *in)
{
    uint64_t at = soft_ea(cpu, in);

    if (!code64(cpu))
        at = (uint32_t)(at + cpu->seg[in->seg].base);
    else if (in->seg >= SEG_FS)
        at += cpu->seg[in->seg].base;
    if (canonical(at))
        soft_tlb_invlpg(cpu, at);
}

/* One address space tag: every kind of invalidation drops what is not global, or all. */
void op_invpcid(struct soft_cpu *cpu, const struct insn *in)
{
    uint64_t type = move_value(cpu, cpu->reg[in->reg]), image[2];

    soft_load_bytes(cpu, in->seg, soft_ea(cpu, in), image, sizeof image);
    if (type > 3 || image[0] >> 12)
        soft_gp(cpu, 0);
    if (type < 2 && !(cpu->cr4 & CR4_PCIDE) && image[0])
        soft_gp(cpu, 0);
    if (type == 0 && !canonical(image[1]))
        soft_gp(cpu, 0);
    soft_tlb_flush(cpu, type == 2);
}
