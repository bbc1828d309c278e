/* SPDX-License-Identifier: MIT */
/* From a block of decoded instructions to host code.
 *
 *   table entry:  cmp T0, rip; jne miss        from the jump table
 *   polled entry: cmp pending, 0; jne leave    from backward links
 *   entry:        instructions                 from forward links
 */
#include "engine/soft/jit/tr.h"

#define INSN_CODE  320u /* more than the code of one instruction, in either region */
#define INSN_POOL  128u
#define BLOCK_POOL 1024u

/* What an instruction at the block's end leaves to who comes next. */
static unsigned live_out(struct tr *t)
{
    const struct insn *last = &t->insn[t->insns - 1];
    const struct x86_form *f = &x86_form[last->form];
    uint64_t end = t->start + t->block->bytes;

    if (!soft_ends_block(last))
        return tr_look_ahead(t, end);
    if (f->op >= X86_JO && f->op <= X86_JG)
        return tr_look_ahead(t, end + last->imm) | tr_look_ahead(t, end);
    if ((f->op == X86_JMP || f->op == X86_CALL) && kind_of(last, 0).place == X86_AT_REL)
        return tr_look_ahead(t, end + last->imm);
    return ARITH;
}

/* ---- entries ---- */

static void poll(struct tr *t, const uint8_t *leave)
{
    e_gs(t->hot, 0, 0x83, 7, GS(pending)); /* cmp dword gs:[pending], 0 */
    e1(t->hot, 0);
    e_jump(t->hot, J_NE, leave);
}

static void compare_rip(struct tr *t)
{
    if (t->start == (uint64_t)(int64_t)(int32_t)t->start) {
        e_rr(t->hot, 1, 0x81, 7, T0);
        e4(t->hot, (uint32_t)t->start);
    } else {
        e_mov_ri(t->hot, T1, t->start);
        e_rr(t->hot, 1, 0x39, T1, T0);
    }
    e_jump(t->hot, J_NE, t->j->miss);
}

/* The block's instructions are counted; not entered if that would pass the limit. Whoever runs some
 * of them only takes the others back (jit_meta.left). */
static void count(struct tr *t, const uint8_t *leave)
{
    bool flags = t->in_eflags;

    if (flags)
        tr_flags_save(t);
    e_load(t->hot, T1, GS(instructions));
    e_mem(t->hot, 1, 0x8d, T1, T1, 0xff, 0, (int32_t)t->insns);
    e_gs(t->hot, 1, 0x3b, T1, GS(limit)); /* cmp */
    e_jump(t->hot, J_ABOVE, leave);
    e_store(t->hot, T1, GS(instructions));
    if (!flags)
        return;
    t->in_eflags = false;
    tr_flags_load(t);
}

/* GAS allows e_gs with an immediate behind: RIP-relative forms are not used, so that is safe. */
static void entries(struct tr *t)
{
    const uint8_t *leave = t->cold->p;
    uint8_t *over;

    e_mov_ri(t->cold, T0, t->start);
    e_mov_ri(t->cold, T1, 0);
    e_jump(t->cold, J_ALWAYS, t->j->leave);
    t->t->table_entry = t->hot->p;
    compare_rip(t);
    if (t->live[0] == 0) {
        t->t->polled = t->hot->p;
        poll(t, leave);
        t->t->entry = t->hot->p;
        t->in_eflags = t->in_memory = false;
    } else {
        poll(t, leave);
        t->in_memory = true;
        tr_flags_load(t);
        over = e_jump_later(t->hot, J_ALWAYS);
        t->t->polled = t->hot->p;
        t->in_memory = false;
        tr_flags_save(t);
        poll(t, leave);
        t->in_eflags = false;
        tr_flags_load(t);
        e_patch(over, t->hot->p);
        t->t->entry = t->hot->p;
        t->in_eflags = true;
        t->in_memory = false;
    }
    if (t->j->opt.count)
        count(t, leave);
}

/* ---- instructions ---- */

static bool one(struct tr *t)
{
    bool ends = soft_ends_block(tr_insn(t));

    t->checks = 0;
    t->meta = -1;
    t->undo = 0;
    t->exact = false;
    if (tr_form(t)->class == X86_FLOW) {
        if (tr_flow(t))
            return false;
    } else if (tr_stack(t) || tr_system(t) || tr_fpu(t) || tr_copy(t)) {
        return true;
    } else if (tr_form(t)->class == X86_STRING) {
        ends = false; /* the block does; but what follows is the next instruction, if any */
    }
    tr_handler(t, ends);
    return !ends;
}

static void body(struct tr *t)
{
    bool open = true;

    for (unsigned i = 0; i < t->insns; i++) {
        if (tr_is_vector(t, &t->insn[i]))
            t->vec_end = i + 1;
    }
    t->next = t->start;
    for (t->i = 0; t->i < t->insns; t->i++) {
        t->rip = t->next;
        t->next = t->rip + tr_insn(t)->length;
        open = one(t);
    }
    if (open) {
        t->i = t->insns - 1;
        t->rip = t->next - 1; /* so that the link is a forward one */
        tr_direct(t, J_ALWAYS, t->next);
    }
}

static bool room(const struct jit *j, unsigned insns)
{
    size_t code = (insns + 3) * INSN_CODE;

    return (size_t)(j->hot.end - j->hot.p) > code && (size_t)(j->cold.end - j->cold.p) > code &&
           j->pool_used + BLOCK_POOL + insns * INSN_POOL < j->pool_size &&
           j->metas + insns < j->metas_max && j->transes < j->transes_max &&
           j->pages < j->pages_max;
}

struct trans *jit_translate(struct jit *j, struct block *b, uint64_t rip)
{
    struct trans *n;
    struct tr t = {.j = j,
                   .hot = &j->hot,
                   .cold = &j->cold,
                   .block = b,
                   .insns = b->insns,
                   .start = rip,
                   .user = b->key & KEY_USER};
    uint8_t *hot = j->hot.p, *cold = j->cold.p, *copy;

    if ((b->key & KEY_MODE) != X86_MODE_64 || b->page[0] == NULL || b->page[1])
        return NULL;
    if (!room(j, b->insns))
        soft_jit_flush(j->cpu);
    n = t.t = &j->trans[j->transes++];
    *n = (struct trans){
        .rip = rip, .phys = b->phys, .user = t.user, .bytes = b->bytes, .insns = b->insns};
    n->look = jit_pool(j, LOOKS_MAX * sizeof *n->look);
    n->copy = copy = jit_pool(j, b->bytes);
    memcpy(copy, b->copy, b->bytes);
    t.insn = b->insn;
    t.live[t.insns] = (uint16_t)live_out(&t);
    tr_liveness(&t);
    entries(&t);
    body(&t);
    n->code_bytes = (uint32_t)(j->hot.p - hot);
    j->n.translated++;
    j->n.instructions += b->insns;
    j->n.guest_bytes += b->bytes;
    j->n.host_bytes += (uint64_t)(j->hot.p - hot) + (uint64_t)(j->cold.p - cold);
    jit_map_add(j, hot, j->hot.p, "", n);
    jit_map_add(j, cold, j->cold.p, " slow", n);
    if (j->opt.verify && (!jit_verify(j, hot, j->hot.p) || !jit_verify(j, cold, j->cold.p))) {
        j->n.rejected++;
        return NULL;
    }
    return n;
}
