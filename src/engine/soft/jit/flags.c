/* SPDX-License-Identifier: MIT */
/* Where the guest's arithmetic flags are, and whether anyone needs them.
 *
 * They live in the host's EFLAGS. A memory check destroys those, so before one they are saved to
 * cpu->arith if a later instruction reads them, and loaded again only when one does. Who needs them
 * is found backward through the block from the table's masks; behind a branch inside the page by
 * looking at the code there. */
#include "engine/soft/jit/tr.h"

static bool counted_by_imm(const struct insn *in, unsigned *count)
{
    for (unsigned k = 0; k < 4; k++) {
        unsigned place = kind_of(in, k).place;

        if (place == X86_AT_ONE) {
            *count = 1;
            return true;
        }
        if (place == X86_AT_IMM) {
            *count = in->imm & (in->opsize == 8 ? 63 : 31);
            return true;
        }
    }
    return false;
}

/* Flags that the instruction really uses. The table also counts as read what a shift by 0 lets
 * through; that matters only if someone needs it behind (`out`). */
static unsigned reads(const struct insn *in, unsigned out)
{
    const struct x86_form *f = &x86_form[in->form];
    unsigned count, carry = 0;

    switch (f->op) {
    case X86_RCL:
    case X86_RCR: carry = X86_CF; /* fall through */
    case X86_ROL:
    case X86_ROR:
    case X86_SHL:
    case X86_SHR:
    case X86_SAR:
    case X86_SHLD:
    case X86_SHRD:
        if (counted_by_imm(in, &count) && count != 0)
            return carry;
        return carry | (f->flags_read & out & ARITH);
    case X86_BT:
    case X86_BTS:
    case X86_BTR:
    case X86_BTC: return 0;
    default: return f->flags_read & ARITH;
    }
}

static unsigned changes(const struct insn *in)
{
    const struct x86_form *f = &x86_form[in->form];

    return (f->flags_written | f->flags_undefined) & ARITH;
}

/* Flags that are not what they were, whatever they were. Undefined ones may be: the interpreter
 * hands the host the guest's flags, so where the same is to come out we must, too. */
static unsigned kills(const struct tr *t, const struct insn *in)
{
    return changes(in) & ~(t->j->opt.precise ? x86_form[in->form].flags_undefined : 0u);
}

static bool may_leave(const struct insn *in)
{
    const struct x86_form *f = &x86_form[in->form];

    return in->mem || f->class != X86_COPY || f->gate != X86_GATE_NONE ||
           f->implicit_written & 16 || f->op == X86_XLAT || f->op == X86_MOV_MOFFS ||
           f->op == X86_DIV || f->op == X86_IDIV;
}

void tr_liveness(struct tr *t)
{
    for (unsigned i = t->insns; i-- > 0;) {
        const struct insn *in = &t->insn[i];
        unsigned out = t->live[i + 1];

        t->live[i] = (uint16_t)((out & ~kills(t, in)) | reads(in, out));
        if (t->j->opt.precise && (may_leave(in) || i == 0)) /* the entry polls */
            t->live[i] = ARITH;
    }
}

unsigned tr_flags_through(const struct tr *t)
{
    const struct insn *in = tr_insn(t);
    unsigned out = t->live[t->i + 1];

    return reads(in, out) | (changes(in) ? out & ~kills(t, in) : 0);
}

void tr_flags_save(struct tr *t)
{
    struct buf *b = t->hot;

    if (t->in_memory)
        return;
    e_mov_rr(b, T1, RAX);
    e1(b, 0x9f);               /* lahf */
    e_rr(b, 0, 0x190, 0, RAX); /* seto al */
    e1(b, 0x66);
    e_gs(b, 0, 0x89, RAX, GS(arith));
    e_mov_rr(b, RAX, T1);
    t->in_memory = true;
}

void tr_flags_load(struct tr *t)
{
    struct buf *b = t->hot;

    if (t->in_eflags)
        return;
    e_store(b, RAX, GS(jit_rax));
    e_gs(b, 0, 0x1b7, RAX, GS(arith)); /* movzx eax, word */
    e1(b, 0x04);                       /* add al, 0x7f */
    e1(b, 0x7f);
    e1(b, 0x9e); /* sahf */
    e_load(b, RAX, GS(jit_rax));
    t->in_eflags = true;
}

void tr_flags_clobber(struct tr *t, unsigned live)
{
    if (live && t->in_eflags)
        tr_flags_save(t);
    t->in_eflags = false;
}

void tr_flags_written(struct tr *t)
{
    if (changes(tr_insn(t)) == 0)
        return;
    t->in_eflags = true;
    t->in_memory = false;
}

/* Whether all flags are overwritten at `rip` before anything reads them. Only inside the block's
 * own page, whose changes are noticed; what was looked at is noted. */
unsigned tr_look_ahead(struct tr *t, uint64_t rip)
{
    unsigned offset = rip & ~PAGE_MASK, need = 0, left = ARITH, at = 0;
    struct jit_look *look;

    if (t->j->opt.precise || (rip ^ t->start) >> PAGE_SHIFT)
        return ARITH;
    for (unsigned i = 0; i < t->t->looks; i++) {
        if (t->t->look[i].at == offset)
            return t->t->look[i].need;
    }
    if (t->t->looks == LOOKS_MAX)
        return ARITH;
    look = &t->t->look[t->t->looks];
    look->at = (uint16_t)offset;
    look->len = (uint8_t)min_size(JIT_LOOK, PAGE_SIZE - offset);
    memcpy(look->copy, (const uint8_t *)((uintptr_t)t->block->host[0] & PAGE_MASK) + offset,
           look->len);
    while (left) {
        struct insn in;

        if (x86_decode(&in, look->copy + at, look->len - at, X86_MODE_64) != X86_DECODED ||
            (x86_form[in.form].class != X86_COPY && x86_form[in.form].class != X86_FLOW))
            break;
        at += in.length;
        need |= reads(&in, ARITH) & left;
        left &= ~kills(t, &in);
        if (x86_form[in.form].class == X86_FLOW)
            break;
    }
    look->len = (uint8_t)at;
    if (left == ARITH)
        return ARITH; /* told nothing: nothing to depend on */
    t->t->looks++;
    look->need = (uint16_t)(need | left);
    return look->need;
}
