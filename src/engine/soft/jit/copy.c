/* SPDX-License-Identifier: MIT */
/* The copier: instructions on general registers and memory are emitted again as they are, with the
 * memory operand replaced by checked host memory and registers that the host has no place for by
 * scratch registers. */
#include "engine/soft/jit/tr.h"
#include "engine/x86/encode.h"

#define NO_HOST ((uint16_t)(BIT(4) | BIT(9) | BIT(10) | BIT(11)))

struct remap { /* general registers of the instruction that live in memory */
    uint8_t guest[3], host[3];
    bool load[3], store[3];
    unsigned n;
};

/* The field of `in` that says which general register operand `k` is, or NULL. */
static uint8_t *register_field(struct insn *in, unsigned k)
{
    switch (kind_of(in, k).place) {
    case X86_AT_REG:
    case X86_AT_OPREG: return &in->reg;
    case X86_AT_RM: return in->mem ? NULL : &in->rm;
    case X86_AT_RMREG: return &in->rm;
    case X86_AT_VVVV: return &in->vvvv;
    default: return NULL;
    }
}

static bool operands_known(const struct insn *in)
{
    for (unsigned k = 0; k < 4 && has_operand(in, k); k++) {
        switch (kind_of(in, k).place) {
        case X86_AT_REG:
        case X86_AT_RM:
        case X86_AT_RMREG:
        case X86_AT_MEM:
        case X86_AT_OPREG:
        case X86_AT_VVVV:
        case X86_AT_IMM:
        case X86_AT_ACC:
        case X86_AT_CL:
        case X86_AT_ONE: break;
        default: return false;
        }
    }
    return true;
}

static bool excluded(const struct insn *in)
{
    switch (x86_form[in->form].op) {
    case X86_XLAT:
    case X86_PAUSE:
    case X86_CLD:
    case X86_STD:
    case X86_ENTER:
    case X86_BOUND: return true;
    case X86_BT: /* a bit offset in a register reaches beyond the operand */
    case X86_BTS:
    case X86_BTR:
    case X86_BTC: return in->mem && kind_of(in, 1).place != X86_AT_IMM;
    default: return false;
    }
}

static bool copyable(const struct tr *t)
{
    const struct insn *in = tr_insn(t);
    const struct x86_form *f = &x86_form[in->form];

    return f->class == X86_COPY && f->gate == X86_GATE_NONE && !f->cpl0 &&
           soft_offered(t->j->cpu, f) && !((in->prefix & X86_P_LOCK) && !(f->lock && in->mem)) &&
           !((f->implicit_read | f->implicit_written) & NO_HOST) && operands_known(in) &&
           !excluded(in);
}

static bool add_remap(struct remap *m, unsigned guest, bool load, bool store, unsigned max)
{
    unsigned i;

    for (i = 0; i < m->n && m->guest[i] != guest; i++)
        ;
    if (i == max)
        return false;
    if (i == m->n) {
        m->guest[i] = (uint8_t)guest;
        m->load[i] = m->store[i] = false;
        m->n++;
    }
    m->load[i] |= load;
    m->store[i] |= store;
    return true;
}

/* Registers of `in` become the host's; at most `max` have to pass through scratch registers. */
static bool map_registers(struct insn *in, struct remap *m, unsigned max)
{
    const struct x86_form *f = &x86_form[in->form];
    uint8_t *done[4] = {0};

    m->n = 0;
    m->host[0] = max == 1 ? T1 : T0;
    m->host[1] = T1;
    for (unsigned k = 0; k < 4 && has_operand(in, k); k++) {
        uint8_t *field = register_field(in, k);
        unsigned size = x86_operand_size(in, k), guest = field ? *field : 0;

        done[k] = field;
        if (field == NULL || guest >= X86_HIGH || tr_host_reg(guest) >= 0)
            continue;
        if (!add_remap(m, guest, (f->access[k] & 1) || size < 4, f->access[k] & 2, max))
            return false;
    }
    for (unsigned k = 0; k < 4; k++) {
        if (done[k] == NULL || *done[k] >= X86_HIGH || (k > 0 && done[k] == done[k - 1]))
            continue;
        if (tr_host_reg(*done[k]) >= 0) {
            *done[k] = (uint8_t)tr_host_reg(*done[k]);
            continue;
        }
        for (unsigned i = 0; i < m->n; i++) {
            if (m->guest[i] == *done[k]) {
                *done[k] = m->host[i];
                break;
            }
        }
    }
    return true;
}

static void load_mapped(struct tr *t, const struct remap *m)
{
    for (unsigned i = 0; i < m->n; i++) {
        if (m->load[i])
            e_load(t->hot, m->host[i], GS_REG(m->guest[i]));
    }
}

static void store_mapped(struct tr *t, const struct remap *m)
{
    for (unsigned i = 0; i < m->n; i++) {
        if (m->store[i])
            e_store(t->hot, m->host[i], GS_REG(m->guest[i]));
    }
}

static void put_bytes(struct tr *t, const uint8_t *bytes, unsigned len)
{
    memcpy(t->hot->p, bytes, len);
    t->hot->p += len;
}

static bool copy_registers(struct tr *t)
{
    struct insn in = *tr_insn(t);
    uint8_t bytes[X86_INSN_MAX];
    struct remap m;
    unsigned len;

    in.prefix &= (uint8_t)~X86_P_SEG;
    if (in.adsize != 8) {
        in.adsize = 8;
        in.prefix &= (uint8_t)~X86_P_67;
    }
    if (!map_registers(&in, &m, 2) || (len = x86_encode(&in, X86_MODE_64, bytes)) == 0)
        return false;
    load_mapped(t, &m);
    if (tr_flags_through(t))
        tr_flags_load(t);
    put_bytes(t, bytes, len);
    store_mapped(t, &m);
    tr_flags_written(t);
    return true;
}

static bool copy_memory(struct tr *t)
{
    struct insn in = *tr_insn(t);
    unsigned size = x86_mem_size(&in), len;
    uint8_t bytes[X86_INSN_MAX];
    struct place p;
    struct remap m;

    if (size == 0 || !map_registers(&in, &m, 1))
        return false;
    in.adsize = 8;
    in.prefix &= (uint8_t) ~(X86_P_67 | X86_P_SEG);
    if (!tr_locked(t, tr_insn(t)))
        in.prefix &= (uint8_t)~X86_P_LOCK;
    x86_set_mem(&in, T1, T0, 0, 0);
    if (x86_encode(&in, X86_MODE_64, bytes) == 0)
        return false;
    p = tr_access(t, tr_insn(t), size, x86_mem_access(&in) & 2);
    if (m.n) {
        if (p.fixed)
            e_mem(t->hot, 1, 0x8d, T0, T1, 0xff, 0, p.disp);
        else
            e_mem(t->hot, 1, 0x8d, T0, T1, T0, 0, 0);
        x86_set_mem(&in, T0, X86_NO_REG, 0, 0);
        load_mapped(t, &m);
    } else if (p.fixed) {
        x86_set_mem(&in, T1, X86_NO_REG, 0, p.disp);
    }
    if (tr_flags_through(t))
        tr_flags_load(t);
    len = x86_encode(&in, X86_MODE_64, bytes);
    put_bytes(t, bytes, len);
    store_mapped(t, &m);
    tr_flags_written(t);
    tr_slow(t);
    return true;
}

/* MOV between RAX and an absolute address. */
static bool copy_moffs(struct tr *t)
{
    const struct insn *in = tr_insn(t);
    bool write = kind_of(in, 0).place == X86_AT_MOFFS;
    unsigned size = x86_operand_size(in, 0);
    struct place p = tr_access(t, in, size, write);

    tr_address(t, p);
    if (size == 2)
        e1(t->hot, 0x66);
    e_mem(t->hot, size == 8, (write ? 0x88 : 0x8a) | (size > 1), RAX, T1, 0xff, 0, 0);
    tr_slow(t);
    return true;
}

static bool copy_lea(struct tr *t)
{
    const struct insn *in = tr_insn(t);

    int host = tr_host_reg(in->reg);

    if (in->opsize < 4)
        return false;
    tr_lea(t, in, host < 0 ? T0 : (unsigned)host, in->opsize == 8 && in->adsize == 8);
    if (host < 0)
        e_store(t->hot, T0, GS_REG(in->reg));
    return true;
}

/* ---- division: what would fault in the host goes to the handler ---- */

static void slow_if(struct tr *t, unsigned jump)
{
    t->check[t->checks++] = e_jump_later(t->hot, jump);
}

static void check_unsigned(struct tr *t, unsigned w, unsigned d)
{
    e_rr(t->hot, w, 0x39, d, RDX); /* cmp rdx, d */
    slow_if(t, 0x183);             /* not below: overflow, or 0 */
}

/* Only the usual case: rDX is rAX's sign, and the divisor neither 0 nor -1. */
static void check_signed(struct tr *t, unsigned w, unsigned d)
{
    struct buf *b = t->hot;

    e_rr(b, w, 0x89, RAX, T1);
    e_rr(b, w, 0xc1, 7, T1); /* sar */
    e1(b, w ? 63 : 31);
    e_rr(b, w, 0x39, T1, RDX);
    slow_if(t, J_NE);
    e_mem(b, w, 0x8d, T1, d, 0xff, 0, 1);
    e_rr(b, w, 0x83, 7, T1);
    e1(b, 1);
    slow_if(t, 0x186); /* below or equal */
}

static bool copy_division(struct tr *t, bool is_signed)
{
    const struct insn *in = tr_insn(t);
    unsigned size = x86_operand_size(in, 0), w = size == 8, d = T0;
    struct place p;

    if (size < 4 || (in->prefix & X86_P_LOCK))
        return false;
    tr_flags_clobber(t, t->live[t->i]);
    if (in->mem) {
        p = tr_access(t, in, size, false);
        if (p.fixed)
            e_mem(t->hot, w, 0x8b, T0, T1, 0xff, 0, p.disp);
        else
            e_mem(t->hot, w, 0x8b, T0, T1, T0, 0, 0);
    } else if (tr_host_reg(in->rm) < 0) {
        tr_get(t, T0, in->rm);
    } else {
        d = (unsigned)tr_host_reg(in->rm);
    }
    if (is_signed)
        check_signed(t, w, d);
    else
        check_unsigned(t, w, d);
    if (tr_flags_through(t))
        tr_flags_load(t);
    e_rr(t->hot, w, 0xf7, is_signed ? 7 : 6, d);
    tr_flags_written(t);
    tr_slow(t);
    return true;
}

bool tr_copy(struct tr *t)
{
    const struct insn *in = tr_insn(t);

    if (x86_form[in->form].class != X86_COPY)
        return false;
    switch (x86_form[in->form].op) {
    case X86_NOP:
    case X86_ENDBR64:
    case X86_ENDBR32:
    case X86_PREFETCHW:
    case X86_PREFETCHNTA:
    case X86_PREFETCHT0:
    case X86_PREFETCHT1:
    case X86_PREFETCHT2: return !(in->prefix & X86_P_LOCK);
    case X86_LEA: return !(in->prefix & X86_P_LOCK) && copy_lea(t);
    case X86_MOV_MOFFS: return !(in->prefix & X86_P_LOCK) && copy_moffs(t);
    case X86_DIV: return copy_division(t, false);
    case X86_IDIV: return copy_division(t, true);
    default: break;
    }
    if (tr_is_vector(t, in))
        tr_vec_need(t);
    else if (!copyable(t))
        return false;
    return in->mem ? copy_memory(t) : copy_registers(t);
}
