/* SPDX-License-Identifier: MIT */
/* Ways into the kernel and back: INT n, INT3, INTO, INT1, SYSCALL, SYSRET, SYSENTER, SYSEXIT, and
 * the FS and GS bases that go with them. As Intel does it: SYSCALL is #UD outside 64-bit mode,
 * SYSRET to a non-canonical address faults in ring 0. Intel SDM 2. */
#include "engine/soft/ops.h"
#include "engine/soft/system.h"

void op_int(struct soft_cpu *cpu, const struct insn *in)
{
    if (v8086(cpu) && protected_mode(cpu) && iopl(cpu) < 3)
        soft_gp(cpu, 0);
    soft_deliver(cpu, EVENT_SOFT_INT, in->imm & 0xff, NO_CODE);
}

void op_int3(struct soft_cpu *cpu, const struct insn *in)
{
    soft_deliver(cpu, EVENT_SOFT_TRAP, VEC_BP, NO_CODE);
}

void op_into(struct soft_cpu *cpu, const struct insn *in)
{
    if (cpu->arith & 0xff)
        soft_deliver(cpu, EVENT_SOFT_TRAP, VEC_OF, NO_CODE);
}

void op_int1(struct soft_cpu *cpu, const struct insn *in)
{
    soft_deliver(cpu, EVENT_INT1, VEC_DB, NO_CODE);
}

/* ---- fast system calls ---- */
static void flat_seg(struct x86_seg *seg, uint16_t sel, unsigned dpl, uint16_t type)
{
    *seg = (struct x86_seg){
        .limit = 0xffffffff,
        .sel = sel,
        .attr = (uint16_t)(SEG_G | SEG_P | SEG_S | TYPE_ACCESSED | type | dpl << 5)};
}

static void enter_ring(struct soft_cpu *cpu, uint16_t cs_sel, uint16_t ss_sel, unsigned cpl,
                       bool wide, uint64_t rip)
{
    struct x86_seg cs;

    flat_seg(&cs, (uint16_t)((cs_sel & ~3u) | cpl), cpl,
             TYPE_CODE | TYPE_READ | (wide ? SEG_L : SEG_DB));
    flat_seg(&cpu->seg[SEG_SS], (uint16_t)((ss_sel & ~3u) | cpl), cpl, TYPE_WRITE | SEG_DB);
    set_cs(cpu, &cs, cpl, rip);
}

/* With TF, the #DB after these instructions depends on the new flags, not on the old. */
static void restart_stepping(struct soft_cpu *cpu)
{
    cpu->stepping = cpu->rflags & FL_TF;
}

void op_syscall(struct soft_cpu *cpu, const struct insn *in)
{
    const struct vcpu_state *m = cpu->msr;
    uint64_t flags = soft_rflags(cpu);
    uint16_t sel = m->star >> 32 & 0xffff;

    if (!code64(cpu) || !(cpu->efer & EFER_SCE))
        soft_ud(cpu);
    cpu->reg[1] = cpu->next_rip;
    cpu->reg[11] = flags;
    soft_set_rflags(cpu, flags & ~(m->fmask | FL_RF));
    enter_ring(cpu, sel, (uint16_t)(sel + 8), 0, true, m->lstar);
    restart_stepping(cpu);
}

void op_sysret(struct soft_cpu *cpu, const struct insn *in)
{
    uint16_t sel = cpu->msr->star >> 48 & 0xffff;
    bool wide = in->opsize == 8;
    uint64_t rip = wide ? cpu->reg[1] : (uint32_t)cpu->reg[1];

    if (!code64(cpu) || !(cpu->efer & EFER_SCE))
        soft_ud(cpu);
    if (cpu->cpl || !canonical(rip))
        soft_gp(cpu, 0);
    soft_set_rflags(cpu, cpu->reg[11] & 0x3c7fd7 & ~(uint64_t)FL_RF);
    enter_ring(cpu, (uint16_t)(sel + (wide ? 16 : 0)), (uint16_t)(sel + 8), 3, wide, rip);
    restart_stepping(cpu);
}

void op_sysenter(struct soft_cpu *cpu, const struct insn *in)
{
    const struct vcpu_state *m = cpu->msr;
    uint16_t sel = (uint16_t)m->sysenter_cs;
    bool wide = long_mode(cpu);

    if (!protected_mode(cpu) || null_sel(sel))
        soft_gp(cpu, 0);
    cpu->rflags &= ~(uint64_t)(FL_VM | FL_IF | FL_RF);
    cpu->reg[4] = wide ? m->sysenter_esp : (uint32_t)m->sysenter_esp;
    enter_ring(cpu, sel, (uint16_t)((sel & ~3u) + 8), 0, wide,
               wide ? m->sysenter_eip : (uint32_t)m->sysenter_eip);
    restart_stepping(cpu);
}

void op_sysexit(struct soft_cpu *cpu, const struct insn *in)
{
    uint16_t sel = (uint16_t)cpu->msr->sysenter_cs & 0xfffc;
    bool wide = in->opsize == 8;

    if (!protected_mode(cpu) || cpu->cpl || null_sel(sel))
        soft_gp(cpu, 0);
    if (wide && (!canonical(cpu->reg[2]) || !canonical(cpu->reg[1])))
        soft_gp(cpu, 0);
    cpu->reg[4] = wide ? cpu->reg[1] : (uint32_t)cpu->reg[1];
    enter_ring(cpu, (uint16_t)(sel + (wide ? 32 : 16)), (uint16_t)(sel + (wide ? 40 : 24)), 3, wide,
               wide ? cpu->reg[2] : (uint32_t)cpu->reg[2]);
}

/* ---- FS and GS bases ---- */
void op_swapgs(struct soft_cpu *cpu, const struct insn *in)
{
    uint64_t base = cpu->seg[SEG_GS].base;

    if (!code64(cpu))
        soft_ud(cpu);
    if (cpu->cpl)
        soft_gp(cpu, 0);
    cpu->seg[SEG_GS].base = cpu->msr->kernel_gs_base;
    cpu->msr->kernel_gs_base = base;
}

static void check_fsgsbase(struct soft_cpu *cpu)
{
    if (!code64(cpu) || !(cpu->cr4 & CR4_FSGSBASE))
        soft_ud(cpu);
}

void op_rdfsbase(struct soft_cpu *cpu, const struct insn *in)
{
    check_fsgsbase(cpu);
    reg_write(cpu, in->rm, in->opsize, cpu->seg[SEG_FS].base);
}

void op_rdgsbase(struct soft_cpu *cpu, const struct insn *in)
{
    check_fsgsbase(cpu);
    reg_write(cpu, in->rm, in->opsize, cpu->seg[SEG_GS].base);
}

static void write_base(struct soft_cpu *cpu, const struct insn *in, unsigned seg)
{
    uint64_t base = in->opsize == 8 ? cpu->reg[in->rm] : (uint32_t)cpu->reg[in->rm];

    check_fsgsbase(cpu);
    if (!canonical(base))
        soft_gp(cpu, 0);
    cpu->seg[seg].base = base;
}

void op_wrfsbase(struct soft_cpu *cpu, const struct insn *in)
{
    write_base(cpu, in, SEG_FS);
}

void op_wrgsbase(struct soft_cpu *cpu, const struct insn *in)
{
    write_base(cpu, in, SEG_GS);
}
