/* SPDX-License-Identifier: MIT */
/* Instructions that touch little of the system's state and are frequent in kernels: done inline.
 * Also bit tests whose bit offset, in a register, reaches beyond the operand. */
#include "engine/soft/jit/tr.h"
#include "engine/soft/system.h"

static int32_t seg_at(unsigned seg, size_t member)
{
    return GS(seg) + (int32_t)(seg * sizeof(struct x86_seg) + member);
}

static void to_slow(struct tr *t, unsigned jump)
{
    t->check[t->checks++] = e_jump_later(t->hot, jump);
}

/* Blocks know whether CPL is 3, not whether it is 0. */
static void check_cpl0(struct tr *t)
{
    e_gs(t->hot, 0, 0x80, 7, GS(cpl));
    e1(t->hot, 0);
    to_slow(t, J_NE);
}

static void test_rflags(struct tr *t, uint32_t bits)
{
    e_gs(t->hot, 0, 0xf7, 0, GS(rflags));
    e4(t->hot, bits);
}

static bool cli(struct tr *t)
{
    if (t->user)
        return false;
    tr_flags_clobber(t, t->live[t->i]);
    check_cpl0(t);
    e_gs(t->hot, 0, 0x81, 4, GS(rflags));
    e4(t->hot, ~(uint32_t)FL_IF);
    tr_slow(t);
    return true;
}

/* With nothing held back only the shadow has to be noted. */
static bool sti(struct tr *t)
{
    uint8_t *already;

    if (t->user)
        return false;
    tr_flags_clobber(t, t->live[t->i]);
    check_cpl0(t);
    e_gs(t->hot, 0, 0x80, 7, GS(intr_waiting));
    e1(t->hot, 0);
    to_slow(t, J_NE);
    test_rflags(t, FL_TF);
    to_slow(t, J_NE);
    test_rflags(t, FL_IF);
    already = e_jump_later(t->hot, J_NE);
    e_gs(t->hot, 0, 0x81, 1, GS(rflags));
    e4(t->hot, FL_IF);
    e_gs(t->hot, 0, 0xc6, 0, GS(shadow_sti));
    e1(t->hot, 1);
    e_mov_ri(t->hot, T0, t->next);
    e_store(t->hot, T0, GS(shadow_rip));
    e_patch(already, t->hot->p);
    tr_slow(t);
    return true;
}

static bool pushf(struct tr *t)
{
    struct buf *b = t->hot;

    if (tr_insn(t)->opsize != 8)
        return false;
    if (t->in_eflags)
        tr_flags_save(t);
    t->in_eflags = false;
    test_rflags(t, FL_RF | FL_VM);
    to_slow(t, J_NE);
    e_mem(b, 1, 0x8d, T0, G_SP, 0xff, 0, -8);
    tr_check(t, 8, true);
    e_mem(b, 1, 0x8d, T0, T1, T0, 0, 0);
    e_store(b, RAX, GS(jit_rax));
    e_gs(b, 0, 0x1b6, RAX, GS(arith)); /* movzx eax, OF */
    e_rr(b, 0, 0xc1, 4, RAX);          /* shl eax, 11 */
    e1(b, 11);
    e_gs(b, 0, 0x1b6, T1, GS(arith) + 1);
    e_rr(b, 0, 0x81, 4, T1); /* and */
    e4(b, FL_ARITH & 0xff);
    e_rr(b, 0, 0x09, RAX, T1); /* or */
    e_gs(b, 1, 0x0b, T1, GS(rflags));
    e_rr(b, 0, 0x83, 1, T1);
    e1(b, FL_FIXED);
    e_load(b, RAX, GS(jit_rax));
    e_mem(b, 1, 0x89, T1, T0, 0xff, 0, 0);
    e_mem(b, 1, 0x8d, G_SP, G_SP, 0xff, 0, -8);
    tr_slow(t);
    return true;
}

static bool swapgs(struct tr *t)
{
    struct buf *b = t->hot;
    int32_t base = seg_at(SEG_GS, offsetof(struct x86_seg, base));

    if (t->user)
        return false;
    tr_flags_clobber(t, t->live[t->i]);
    check_cpl0(t);
    e_store(b, RAX, GS(jit_rax));
    e_mov_ri(b, T0, (uintptr_t)&t->j->cpu->msr->kernel_gs_base);
    e_mem(b, 1, 0x8b, T1, T0, 0xff, 0, 0);
    e_load(b, RAX, base);
    e_mem(b, 1, 0x89, RAX, T0, 0xff, 0, 0);
    e_store(b, T1, base);
    e_load(b, RAX, GS(jit_rax));
    tr_slow(t);
    return true;
}

static bool read_segment(struct tr *t)
{
    const struct insn *in = tr_insn(t);

    if (kind_of(in, 0).place == X86_AT_SEG || in->mem || in->opsize == 2 || in->reg > SEG_GS)
        return false;
    e_gs(t->hot, 0, 0x1b7, T0, seg_at(in->reg, offsetof(struct x86_seg, sel)));
    tr_put(t, in->rm, T0);
    return true;
}

static bool rdtsc(struct tr *t)
{
    struct buf *b = t->hot;

    if (t->j->cpu->det) /* time is what was counted */
        return false;
    tr_flags_clobber(t, t->live[t->i]);
    if (t->user) {
        e_gs(b, 0, 0xf7, 0, GS(cr4));
        e4(b, CR4_TSD);
        to_slow(t, J_NE);
    }
    e1(b, 0x0f);
    e1(b, 0x31);
    e_rr(b, 1, 0xc1, 4, RDX); /* shl rdx, 32 */
    e1(b, 32);
    e_rr(b, 1, 0x09, RDX, RAX); /* or */
    e_gs(b, 1, 0x03, RAX, GS(tsc_offset));
    e_mov_rr(b, RDX, RAX);
    e_rr(b, 1, 0xc1, 5, RDX); /* shr */
    e1(b, 32);
    e_rr(b, 0, 0x89, RAX, RAX);
    tr_slow(t);
    return true;
}

static bool fence(struct tr *t, unsigned modrm)
{
    e1(t->hot, 0x0f);
    e1(t->hot, 0xae);
    e1(t->hot, modrm);
    return true;
}

static bool direction(struct tr *t, bool down)
{
    tr_flags_clobber(t, t->live[t->i]);
    e_gs(t->hot, 0, 0x81, down ? 1 : 4, GS(rflags));
    e4(t->hot, down ? FL_DF : ~(uint32_t)FL_DF);
    return true;
}

/* BT, BTS, BTR, BTC of memory by a register: the address moves with the bit. */
static bool bit_test(struct tr *t)
{
    const struct insn *in = tr_insn(t);
    const struct x86_form *f = tr_form(t);
    unsigned size = in->opsize, w = size == 8;
    bool write = f->op != X86_BT;
    struct buf *b = t->hot;

    if (!in->mem || kind_of(in, 1).place == X86_AT_IMM || size < 4 || in->seg >= SEG_FS ||
        in->adsize != 8 || ((in->prefix & X86_P_LOCK) && !f->lock))
        return false;
    tr_flags_clobber(t, t->live[t->i]);
    tr_lea(t, in, T0, 1);
    tr_get(t, T1, in->reg);
    if (!w)
        e_rr(b, 1, 0x63, T1, T1); /* movsxd */
    e_rr(b, 1, 0xc1, 7, T1);      /* sar */
    e1(b, w ? 6 : 5);
    e_mem(b, 1, 0x8d, T0, T0, T1, w ? 3 : 2, 0);
    tr_check(t, size, write);
    e_mem(b, 1, 0x8d, T0, T1, T0, 0, 0);
    tr_get(t, T1, in->reg);
    e_rr(b, 0, 0x83, 4, T1); /* and */
    e1(b, size * 8 - 1);
    if (tr_flags_through(t))
        tr_flags_load(t);
    if (tr_locked(t, in))
        e1(b, 0xf0);
    e_mem(b, w, 0x100 | in->opcode, T1, T0, 0xff, 0, 0);
    tr_flags_written(t);
    tr_slow(t);
    return true;
}

bool tr_system(struct tr *t)
{
    const struct x86_form *f = tr_form(t);

    if (!soft_offered(t->j->cpu, f))
        return false;
    switch (f->op) {
    case X86_BT:
    case X86_BTS:
    case X86_BTR:
    case X86_BTC: return bit_test(t);
    default: break;
    }
    if (tr_insn(t)->prefix & X86_P_LOCK)
        return false;
    switch (f->op) {
    case X86_CLI: return cli(t);
    case X86_STI: return sti(t);
    case X86_PUSHF: return pushf(t);
    case X86_SWAPGS: return swapgs(t);
    case X86_MOV_SEG: return read_segment(t);
    case X86_RDTSC: return rdtsc(t);
    case X86_LFENCE: return fence(t, 0xe8);
    case X86_MFENCE: return fence(t, 0xf0);
    case X86_SFENCE: return fence(t, 0xf8);
    case X86_CLD: return direction(t, false);
    case X86_STD: return direction(t, true);
    default: return false;
    }
}
