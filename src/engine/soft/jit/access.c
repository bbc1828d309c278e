/* SPDX-License-Identifier: MIT */
/* Guest memory in translated code: effective addresses, the TLB check, the slow way.
 *
 * `linear ^ tag` is the offset in the page if the TLB's entry matches and huge if not, so one
 * compare checks page, permission and page crossing (tlb.h). What fails it goes to code out of line
 * that has the whole instruction done by its handler. So nothing of the guest may change before an
 * instruction's last check. */
#include "engine/soft/jit/tr.h"

int tr_host_reg(unsigned guest)
{
    return guest == 4 ? G_SP : guest >= 9 && guest <= 11 ? -1 : (int)guest;
}

void tr_get(struct tr *t, unsigned host, unsigned guest)
{
    int r = tr_host_reg(guest);

    if (r < 0)
        e_load(t->hot, host, GS_REG(guest));
    else
        e_mov_rr(t->hot, host, (unsigned)r);
}

void tr_put(struct tr *t, unsigned guest, unsigned host)
{
    int r = tr_host_reg(guest);

    if (r < 0)
        e_store(t->hot, host, GS_REG(guest));
    else
        e_mov_rr(t->hot, (unsigned)r, host);
}

unsigned tr_meta(struct tr *t)
{
    struct jit *j = t->j;

    if (t->meta < 0) {
        t->meta = (int)j->metas++;
        j->meta[t->meta] = (struct jit_meta){.insn = *tr_insn(t),
                                             .rip = t->rip,
                                             .ends = t->exact,
                                             .left = (uint8_t)(t->insns - t->i),
                                             .undo = t->undo};
    }
    return (unsigned)t->meta;
}

/* ---- addresses ---- */

/* LEA with any of base and index missing (0xff). */
static void lea(struct buf *b, unsigned w, unsigned dst, unsigned base, unsigned index,
                unsigned scale, int32_t disp)
{
    if (base != 0xff) {
        e_mem(b, w, 0x8d, dst, base, index, scale, disp);
        return;
    }
    e_rex(b, w, dst, index == 0xff ? 0 : index, 0);
    e1(b, 0x8d);
    e1(b, (dst & 7) << 3 | 4);
    e1(b, scale << 6 | (index == 0xff ? 4 : index & 7) << 3 | 5);
    e4(b, (uint32_t)disp);
}

static unsigned in_register(struct tr *t, unsigned guest, unsigned scratch)
{
    int r;

    if (guest == X86_NO_REG)
        return 0xff;
    r = tr_host_reg(guest);
    if (r >= 0)
        return (unsigned)r;
    e_load(t->hot, scratch, GS_REG(guest));
    return scratch;
}

/* The address is known now, but for the segment's base. */
static bool constant(const struct tr *t, const struct insn *in, uint64_t *address)
{
    if (x86_form[in->form].op == X86_MOV_MOFFS)
        *address = in->imm;
    else if (in->index == X86_NO_REG && in->base == X86_RIP)
        *address = t->next + (uint64_t)(int64_t)in->disp;
    else if (in->index == X86_NO_REG && in->base == X86_NO_REG)
        *address = (uint64_t)(int64_t)in->disp;
    else
        return false;
    if (in->adsize == 4)
        *address = (uint32_t)*address;
    return true;
}

void tr_lea(struct tr *t, const struct insn *in, unsigned dst, unsigned w)
{
    unsigned base, index;
    uint64_t address;

    if (constant(t, in, &address)) {
        e_mov_ri(t->hot, dst, w ? address : (uint32_t)address);
        return;
    }
    base = in_register(t, in->base, T0);
    index = in_register(t, in->index, T1);
    if (index == 0xff && in->disp == 0) {
        if (base != dst || !w)
            e_rr(t->hot, w, 0x89, base, dst);
        return;
    }
    lea(t->hot, w, dst, base, index, in->scale, in->disp);
}

static void linear(struct tr *t, const struct insn *in)
{
    tr_lea(t, in, T0, in->adsize == 8);
    if (in->seg >= SEG_FS)
        e_gs(t->hot, 1, 0x03, T0,
             GS(seg) +
                 (int32_t)(in->seg * sizeof(struct x86_seg) + offsetof(struct x86_seg, base)));
}

/* ---- the check ---- */

static int32_t table_at(const struct tr *t, bool write)
{
    size_t at = write ? offsetof(struct soft_tlb, write) : offsetof(struct soft_tlb, read);

    return t->j->tlb + (int32_t)(at + (t->user ? sizeof(struct tlb_table) : 0) +
                                 offsetof(struct tlb_table, entry));
}

static void to_slow(struct tr *t, unsigned jump)
{
    t->check[t->checks++] = e_jump_later(t->hot, jump);
}

void tr_check(struct tr *t, unsigned size, bool write)
{
    struct buf *b = t->hot;
    int32_t table = table_at(t, write);

    e_rr(b, 0, 0x89, T0, T1); /* mov T1d, T0d */
    e_rr(b, 0, 0xc1, 5, T1);  /* shr T1d, 8 */
    e1(b, PAGE_SHIFT - 4);
    e_rr(b, 0, 0x81, 4, T1); /* and T1d, slots */
    e4(b, (TLB_SLOTS - 1) << 4);
    e_gs_index(b, 1, 0x33, T0, T1, 0, table + (int32_t)offsetof(struct tlb_entry, tag));
    e_rr(b, 1, 0x81, 7, T0); /* cmp T0, 4096 - size */
    e4(b, (uint32_t)PAGE_SIZE - size);
    to_slow(t, J_ABOVE);
    e_gs_index(b, 1, 0x8b, T1, T1, 0, table + (int32_t)offsetof(struct tlb_entry, page));
}

static struct place check_constant(struct tr *t, uint64_t address, bool write)
{
    struct buf *b = t->hot;
    int32_t entry = table_at(t, write) + (int32_t)(tlb_slot(address) * sizeof(struct tlb_entry));

    e_mov_ri(b, T0, address & PAGE_MASK);
    e_gs(b, 1, 0x39, T0, entry + (int32_t)offsetof(struct tlb_entry, tag));
    to_slow(t, J_NE);
    e_load(b, T1, entry + (int32_t)offsetof(struct tlb_entry, page));
    return (struct place){true, (int32_t)(address & ~PAGE_MASK)};
}

static void check_aligned(struct tr *t, struct place p, unsigned align)
{
    if (p.fixed) {
        if (p.disp & (int32_t)(align - 1))
            to_slow(t, J_ALWAYS);
        return;
    }
    e_rr(t->hot, 0, 0xf7, 0, T0); /* test T0d, align - 1 */
    e4(t->hot, align - 1);
    to_slow(t, J_NE);
}

struct place tr_access(struct tr *t, const struct insn *in, unsigned size, bool write)
{
    /* CMPXCHG16B always wants it, also where the table does not say so. */
    unsigned align = x86_form[in->form].op == X86_CMPXCHG16B ? 16 : x86_form[in->form].align;
    struct place p = {false, 0};
    uint64_t address;

    tr_flags_clobber(t, t->live[t->i]);
    if (in->seg < SEG_FS && constant(t, in, &address) &&
        (address & ~PAGE_MASK) + size <= PAGE_SIZE) {
        p = check_constant(t, address, write);
    } else {
        linear(t, in);
        tr_check(t, size, write);
    }
    if (align > 1)
        check_aligned(t, p, align < size ? size : align);
    return p;
}

void tr_address(struct tr *t, struct place p)
{
    if (p.fixed)
        e_mem(t->hot, 1, 0x8d, T1, T1, 0xff, 0, p.disp);
    else
        e_mem(t->hot, 1, 0x8d, T1, T1, T0, 0, 0);
}

/* A single vCPU shares no word that it changes by LOCK with anyone: devices are asked for work by
 * plain stores and answer in words of their own, and one instruction is never torn by an interrupt.
 * What is left of LOCK is the fence. Drivers need that one, between their store and their look at
 * what the device stored; they write it as MFENCE, as XCHG, or as LOCK on the stack. Those stay. */
bool tr_locked(const struct tr *t, const struct insn *in)
{
    return (in->prefix & X86_P_LOCK) && (t->j->cpu->vm->cpu_count > 1 || in->base == 4);
}

/* ---- handlers ---- */

static void call_handler(struct tr *t, struct buf *b)
{
    e_mov_ri(b, T1, tr_meta(t));
    e_jump(b, J_CALL, t->j->op);
}

void tr_slow(struct tr *t)
{
    if (t->checks == 0)
        return;
    for (unsigned i = 0; i < t->checks; i++)
        e_patch(t->check[i], t->cold->p);
    call_handler(t, t->cold);
    if (t->exact) {
        e1(t->cold, 0x0f); /* ud2: not reached */
        e1(t->cold, 0x0b);
    } else {
        tr_vec_back(t);
        e_jump(t->cold, J_ALWAYS, t->hot->p);
    }
    t->checks = 0;
}

void tr_handler(struct tr *t, bool ends)
{
    const struct x86_form *f = tr_form(t);

    t->exact = ends;
    if (t->live[t->i] || f->class == X86_STATE || f->class == X86_FLOW || f->class == X86_UNDEF) {
        if (t->in_eflags)
            tr_flags_save(t);
    }
    if (ends) {
        e_mov_ri(t->hot, T1, tr_meta(t));
        e_jump(t->hot, J_ALWAYS, t->j->end);
        return;
    }
    call_handler(t, t->hot);
    t->in_eflags = t->in_memory = true;
    t->vec = 0;
    t->fpu = false;
}
