/* SPDX-License-Identifier: MIT */
/* The state of a vCPU after power-on, and the table by which it is saved, restored and dumped. */
#include "engine/engine.h"

static struct x86_seg segment(uint16_t sel, uint64_t base, uint16_t attr)
{
    return (struct x86_seg){.sel = sel, .base = base, .limit = 0xffff, .attr = attr};
}

static void reset_lapic(struct lapic_state *a, bool boot_cpu, unsigned id)
{
    a->base_msr = 0xfee00800 | (boot_cpu ? 0x100 : 0);
    put_le32(a->regs + 0x20, id << 24);
    put_le32(a->regs + 0x30, 0x50014);
    put_le32(a->regs + 0xe0, 0xffffffff);
    put_le32(a->regs + 0xf0, 0xff);
    for (unsigned lvt = 0x320; lvt <= 0x370; lvt += 0x10)
        put_le32(a->regs + lvt, 0x10000);
    /* The board's PIC is wired to the boot processor, and works before anyone programs the APIC. */
    if (boot_cpu)
        put_le32(a->regs + 0x350, 0x700);
}

void vcpu_state_reset(struct vcpu_state *s, bool boot_cpu, unsigned id)
{
    memset(s, 0, sizeof *s);
    s->rip = 0xfff0;
    s->rflags = 2;
    for (unsigned i = 0; i < 6; i++)
        s->seg[i] = segment(0, 0, 0x93);
    s->seg[1] = segment(0xf000, 0xffff0000, 0x93); /* CS */
    s->ldt = segment(0, 0, 0x82);
    s->tr = segment(0, 0, 0x8b);
    s->gdt.limit = s->idt.limit = 0xffff;
    s->reg[2] = 0x600; /* an engine puts its CPU model's signature here */
    s->cr0 = 0x60000010;
    s->dr6 = 0xffff0ff0;
    s->dr7 = 0x400;
    s->xcr0 = 1;
    s->pat = 0x0007040600070406;
    s->misc_enable = 0x1801;
    s->bios_sign = 1ull << 32;
    s->kvm_poll_control = 1;
    for (unsigned i = 0; i < ARRAY_SIZE(s->hv_sint); i++)
        s->hv_sint[i] = 0x10000; /* masked */
    s->run = boot_cpu ? VCPU_RUNNABLE : VCPU_WAIT_SIPI;
    put_le16(s->xsave, 0x40);        /* x87 control word */
    s->xsave[4] = 0xff;              /* abridged tags: all registers hold zero */
    put_le32(s->xsave + 24, 0x1f80); /* MXCSR */
    put_le64(s->xsave + 512, 3);
    reset_lapic(&s->lapic, boot_cpu, id);
}

static const struct field seg_fields[] = {
    FIELD(struct x86_seg, base, UINT64_MAX),
    FIELD(struct x86_seg, limit, UINT32_MAX),
    FIELD(struct x86_seg, sel, UINT16_MAX),
    FIELD(struct x86_seg, attr, UINT16_MAX),
    {0},
};

static const struct field table_fields[] = {
    FIELD(struct x86_table, base, UINT64_MAX),
    FIELD(struct x86_table, limit, UINT16_MAX),
    {0},
};

static const struct field lapic_fields[] = {
    FIELD_BYTES(struct lapic_state, regs),
    FIELD(struct lapic_state, base_msr, UINT64_MAX),
    FIELD(struct lapic_state, tsc_deadline, UINT64_MAX),
    FIELD(struct lapic_state, timer_left_ns, UINT64_MAX),
    {0},
};

#define STATE64(member)   FIELD(struct vcpu_state, member, UINT64_MAX)
#define STATE64S(member)  FIELD_ARRAY(struct vcpu_state, member, UINT64_MAX)
#define STATEBOOL(member) FIELD(struct vcpu_state, member, 1)

/* Append only, and raise the version of who saves it. */
const struct field vcpu_state_fields[] = {
    STATE64S(reg),
    STATE64(rip),
    STATE64(rflags),
    FIELD_TABLES(struct vcpu_state, seg, seg_fields),
    FIELD_TABLE(struct vcpu_state, ldt, seg_fields),
    FIELD_TABLE(struct vcpu_state, tr, seg_fields),
    FIELD_TABLE(struct vcpu_state, gdt, table_fields),
    FIELD_TABLE(struct vcpu_state, idt, table_fields),
    STATE64(cr0),
    STATE64(cr2),
    STATE64(cr3),
    STATE64(cr4),
    FIELD(struct vcpu_state, cr8, 15),
    STATE64(efer),
    STATE64(xcr0),
    STATE64(xss),
    STATE64S(dr),
    STATE64(dr6),
    STATE64(dr7),
    STATE64S(pdpte),
    STATE64(star),
    STATE64(lstar),
    STATE64(cstar),
    STATE64(fmask),
    STATE64(kernel_gs_base),
    STATE64(sysenter_cs),
    STATE64(sysenter_esp),
    STATE64(sysenter_eip),
    STATE64(pat),
    STATE64(tsc),
    STATE64(tsc_adjust),
    STATE64(tsc_aux),
    STATE64(misc_enable),
    STATE64(spec_ctrl),
    STATE64(bios_sign),
    STATE64(mtrr_def),
    STATE64S(mtrr_fix),
    STATE64S(mtrr_base),
    STATE64S(mtrr_mask),
    STATE64(kvm_wall_clock),
    STATE64(kvm_system_time),
    STATE64(mcg_status),
    STATEBOOL(shadow_sti),
    STATEBOOL(shadow_ss),
    STATEBOOL(nmi_blocked),
    STATEBOOL(nmi_pending),
    FIELD(struct vcpu_state, run, VCPU_WAIT_SIPI),
    STATEBOOL(exception_pending),
    FIELD(struct vcpu_state, exception_vector, 31),
    STATEBOOL(exception_has_code),
    FIELD(struct vcpu_state, exception_code, UINT32_MAX),
    FIELD_TABLE(struct vcpu_state, lapic, lapic_fields),
    FIELD_BYTES(struct vcpu_state, xsave),
    STATEBOOL(interrupt_pending),
    FIELD(struct vcpu_state, interrupt_vector, 255),
    STATE64(kvm_async_pf), /* version 3 */
    STATE64(kvm_async_pf_int),
    STATE64(kvm_steal_time),
    STATE64(kvm_pv_eoi),
    STATE64(kvm_poll_control),
    STATE64(hv_guest_os_id),
    STATE64(hv_hypercall),
    STATE64(hv_tsc_page),
    STATE64(hv_vp_assist),
    STATE64(hv_scontrol),
    STATE64(hv_siefp),
    STATE64(hv_simp),
    STATE64S(hv_sint),
    STATE64S(hv_stimer),
    {0},
};
