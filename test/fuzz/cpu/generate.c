/* SPDX-License-Identifier: MIT */
/* Cases from the opcode table: encodes rows with random prefixes and operands, then aims the memory
 * operand at a chosen place by setting the registers that address it.
 *
 * Instructions of a sequence are made from the last to the first, because the last byte's address
 * is what is fixed: it ends where the code pages end. Every encoding is decoded again; what does
 * not come out as the wanted row is dropped. */
#include "generate.h"
#include "engine/x86/table.h"
#include <string.h>

static const struct exclusion {
    const char *name, *why;
} exclusions[] = {
    {"syscall", "enters the kernel"},
    {"sysenter", "enters the kernel"},
    {"int", "enters the kernel"},
    {"sysret", "privileged, makers differ in the fault"},
    {"sysexit", "privileged, makers differ in the fault"},
    {"cpuid", "the model's answer, not the host's"},
    {"rdtsc", "time"},
    {"rdtscp", "time"},
    {"rdpid", "the host's CPU number"},
    {"rdpmc", "the host's counters"},
    {"rdrand", "random"},
    {"rdseed", "random"},
    {"sgdt", "the host's tables"},
    {"sidt", "the host's tables"},
    {"sldt", "the host's tables"},
    {"str", "the host's tables"},
    {"smsw", "the host's CR0"},
    {"lar", "the host's GDT"},
    {"lsl", "the host's GDT"},
    {"verr", "the host's GDT"},
    {"verw", "the host's GDT"},
    {"arpl", "selectors"},
    {"lds", "the host's GDT"},
    {"les", "the host's GDT"},
    {"lss", "the host's GDT"},
    {"lfs", "the host's GDT"},
    {"lgs", "the host's GDT"},
    {"iret", "the host's GDT"},
    {"retf", "the host's GDT"},
    {"jmpf", "the host's GDT"},
    {"callf", "the host's GDT"},
    {"rdfsbase", "would change the program's TLS"},
    {"wrfsbase", "would change the program's TLS"},
    {"rdgsbase", "the host's CR4.FSGSBASE"},
    {"wrgsbase", "the host's CR4.FSGSBASE"},
    {"xsave", "layout depends on the host"},
    {"xsaveopt", "layout depends on the host"},
    {"xsavec", "layout depends on the host"},
    {"xrstor", "layout depends on the host"},
    {"xgetbv", "the host's XCR0"},
    {"monitor", "not in the model"},
    {"mwait", "not in the model"},
    {"vmcall", "belongs to the hypervisor below"},
    {"vmmcall", "belongs to the hypervisor below"},
    {"fxsave", "FIP, FDP"},
    {"fnsave", "FIP, FDP"},
    {"fnstenv", "FIP, FDP"},
};

const char *fuzz_excluded(unsigned form)
{
    const struct x86_form *f = &x86_form[form];
    const char *name = x86_op_name[f->op];

    for (unsigned i = 0; i < sizeof exclusions / sizeof exclusions[0]; i++)
        if (!strcmp(exclusions[i].name, name))
            return exclusions[i].why;
    if (f->class == X86_FLOW && (x86_operand_kind[f->operand[0]].place == X86_AT_FAR ||
                                 x86_operand_kind[f->operand[0]].size == X86_SZ_P))
        return "the host's GDT";
    for (unsigned i = 0; i < 4; i++) {
        unsigned place = x86_operand_kind[f->operand[i]].place;

        if ((place == X86_AT_SEG || place == X86_AT_FIXSEG) && (f->access[i] & 2))
            return "the host's GDT";
        if (place == X86_AT_SEG || place == X86_AT_FIXSEG)
            return NULL;
    }
    return NULL;
}

static void put(struct bytes *o, unsigned byte)
{
    o->b[o->n++] = (uint8_t)byte;
}

static void put32(struct bytes *o, uint32_t v)
{
    memcpy(o->b + o->n, &v, 4);
    o->n += 4;
}

/* ---- prefixes and opcode ---- */

/* One of the mandatory-prefix codes (0 none, 1: 66, 2: F3, 3: F2) that the row accepts. */
static unsigned choose_prefix(struct gen *g, const struct x86_form *f, const struct x86_encoding *e)
{
    unsigned p = one_in(&g->r, 4) ? 1 : 0;

    if (f->class == X86_STRING)
        p = rng_below(&g->r, 4);
    else if (one_in(&g->r, 64))
        p = rng_below(&g->r, 4);
    for (unsigned i = 0; i < 4; i++, p = (p + 1) & 3)
        if (((p << X86_K_PREFIX_SHIFT) & e->mask & X86_K_PREFIX) ==
            (e->key & e->mask & X86_K_PREFIX))
            return p;
    return 0;
}

static void put_legacy_prefixes(struct gen *g, const struct x86_form *f,
                                const struct x86_encoding *e, bool mem, struct bytes *o)
{
    static const uint8_t code[] = {0, 0x66, 0xf3, 0xf2}, segs[] = {0x26, 0x2e, 0x36, 0x3e};
    unsigned p = choose_prefix(g, f, e);
    bool string = f->class == X86_STRING;

    if (e->mask & X86_K_OPSIZE)
        p = (p & 2) ? p : (e->key & X86_K_OPSIZE) == 0 ? 1 : 0;
    if ((mem || string) && one_in(&g->r, 12))
        put(o, segs[rng_below(&g->r, 4)]);
    else if (mem && g->c->mode == X86_MODE_64 && one_in(&g->r, 24))
        put(o, one_in(&g->r, 3) ? 0x64 : 0x65);
    if ((f->lock && mem && one_in(&g->r, 4)) || one_in(&g->r, 200))
        put(o, 0xf0);
    if ((mem || string || one_in(&g->r, 10)) && one_in(&g->r, 8))
        put(o, 0x67);
    if (p)
        put(o, code[p]);
    if (p >= 2 && !(e->mask & 0x100) && one_in(&g->r, 4))
        put(o, 0x66);
}

static unsigned choose_rex(struct gen *g, const struct x86_encoding *e)
{
    unsigned rex = one_in(&g->r, 2) ? 0x40 | rng_below(&g->r, 8) : 0;
    uint32_t w = e->mask & (X86_K_W | X86_K_W64);

    if (w)
        rex = e->key & w ? rex | 0x48 : rex & ~8u;
    else if (one_in(&g->r, e->opsize == X86_OS_FIX ? 16 : 3))
        rex |= 0x48;
    if ((e->mask & X86_K_OPSIZE) && (e->key & X86_K_OPSIZE) >> X86_K_OPSIZE_SHIFT == 2)
        rex |= 0x48;
    else if (e->mask & X86_K_OPSIZE)
        rex &= ~8u;
    if (e->mask & X86_K_REXB)
        rex = e->key & X86_K_REXB ? rex | 0x41 : rex & ~1u;
    return rex;
}

static void put_legacy_opcode(struct gen *g, const struct x86_encoding *e, struct bytes *o)
{
    unsigned rex = g->c->mode == X86_MODE_64 ? choose_rex(g, e) : 0;

    if (rex)
        put(o, rex);
    if (e->map != X86_MAP_1)
        put(o, 0x0f);
    if (e->map == X86_MAP_0F38)
        put(o, 0x38);
    if (e->map == X86_MAP_0F3A)
        put(o, 0x3a);
    put(o, e->flags & X86_E_PLUS_R ? e->opcode | rng_below(&g->r, 8) : e->opcode);
}

static void put_vex_opcode(struct gen *g, const struct x86_encoding *e, bool mem, struct bytes *o)
{
    bool wide = g->c->mode == X86_MODE_64;
    unsigned rxb = wide ? rng_below(&g->r, 8) : 7;
    unsigned vvvv = e->flags & X86_E_VVVV ? rng_below(&g->r, wide ? 16 : 8) : 0;
    unsigned pp = (e->key & X86_K_PREFIX) >> X86_K_PREFIX_SHIFT;
    bool w = e->mask & (X86_K_W | X86_K_W64) ? e->key & (X86_K_W | X86_K_W64) : one_in(&g->r, 4);
    bool l = e->mask & X86_K_L ? e->key & X86_K_L : one_in(&g->r, 4);
    unsigned last = (~vvvv & 15) << 3 | (unsigned)l << 2 | pp;

    if (one_in(&g->r, 200))
        put(o, 0x66);
    if (mem && one_in(&g->r, 10))
        put(o, 0x67);
    if (mem && wide && one_in(&g->r, 30))
        put(o, 0x65);
    if (e->map == X86_MAP_VEX_0F && !w && (rxb & 3) == 3 && one_in(&g->r, 2)) {
        put(o, 0xc5);
        put(o, (rxb & 4) << 5 | last);
    } else {
        put(o, 0xc4);
        put(o, rxb << 5 | (e->map - X86_MAP_VEX_0F + 1u));
        put(o, (unsigned)w << 7 | last);
    }
    put(o, e->opcode);
}

/* ---- ModRM ---- */

static uint8_t choose_modrm(struct gen *g, const struct x86_encoding *e)
{
    uint8_t modrm = (uint8_t)rng_next(&g->r);
    uint8_t mask = e->mask & X86_K_MODRM;

    if (e->mask & X86_K_MOD3)
        modrm = e->key & X86_K_MOD3 ? modrm | 0xc0 : (modrm & 0xc0) == 0xc0 ? modrm & 0x7f : modrm;
    else if (one_in(&g->r, 2))
        modrm |= 0xc0;
    modrm = (modrm & ~mask) | (e->key & mask);
    if ((e->flags & X86_E_VSIB) && modrm < 0xc0)
        modrm = (modrm & ~7) | 4;
    return modrm;
}

static void put_memory(struct gen *g, uint8_t modrm, struct bytes *o)
{
    unsigned mod = modrm >> 6, rm = modrm & 7;
    uint8_t sib = (uint8_t)rng_next(&g->r);
    bool disp32 = mod == 2 || (mod == 0 && (rm == 5 || (rm == 4 && (sib & 7) == 5)));

    if (rm == 4)
        put(o, sib);
    if (disp32) {
        o->disp_at = (int)o->n;
        put32(o, one_in(&g->r, 2) ? (uint32_t)rng_next(&g->r) : rng_below(&g->r, 256));
    } else if (mod == 1) {
        put(o, (unsigned)rng_next(&g->r));
    }
}

/* ---- aiming ---- */

static uint64_t segment_base(const struct insn *in)
{
    return in->seg == SEG_GS ? FUZZ_GS_BASE : in->seg == SEG_FS ? FUZZ_FS_BASE : 0;
}

static void set_register(struct gen *g, unsigned r, uint64_t value, unsigned adsize)
{
    uint64_t *reg = &g->c->start.reg[r & 15];

    if (g->c->program && g->moves < ARRAY_SIZE(g->move)) {
        g->move[g->moves++] = (struct move){r & 15, value};
        g->locked |= 1u << (r & 15);
        return;
    }
    if (adsize == 4 && g->c->mode == X86_MODE_64)
        *reg = (value & 0xffffffff) | rng_next(&g->r) << 32;
    else
        *reg = g->c->mode == X86_MODE_64 ? value : (uint32_t)value;
    g->locked |= 1u << (r & 15);
}

static uint64_t register_value(const struct gen *g, unsigned r)
{
    for (unsigned i = g->moves; i > 0; i--)
        if (g->move[i - 1].reg == r)
            return g->move[i - 1].value;
    return g->c->start.reg[r];
}

static void put_disp(struct bytes *o, struct insn *in, uint64_t value)
{
    in->disp = (int32_t)value;
    memcpy(o->b + o->disp_at, &in->disp, 4);
}

/* Index vector elements become small, so that a gather stays near its base. */
static void aim_vector_index(struct gen *g, const struct insn *in)
{
    for (unsigned half = 0; half < 2; half++) {
        uint8_t *v = g->c->start.xsave + (half ? 576 : 160) + 16 * (in->index & 15);

        for (unsigned i = 0; i < 16; i += in->opcode & 1 ? 8 : 4) {
            int64_t value = (int64_t)rng_below(&g->r, 64) - 32;

            memcpy(v + i, &value, in->opcode & 1 ? 8 : 4);
        }
    }
}

/* Makes the memory operand's linear address `target`, where the encoding allows it. */
static void aim(struct gen *g, struct bytes *o, struct insn *in, uint64_t target, bool vsib)
{
    uint64_t ea = target - segment_base(in);
    bool index = in->index != X86_NO_REG && !vsib;

    if (vsib)
        aim_vector_index(g, in);
    if (in->base == X86_RIP) {
        put_disp(o, in, ea - g->next);
    } else if (in->base == X86_NO_REG && o->disp_at >= 0) {
        if (index && !(g->locked & 1u << in->index))
            set_register(g, in->index, rng_below(&g->r, 100), in->adsize);
        put_disp(o, in, ea - (index ? register_value(g, in->index) << in->scale : 0));
    } else if (in->base <= 15 && !(index && in->index == in->base) &&
               !(g->locked & 1u << in->base)) {
        if (index && !(g->locked & 1u << in->index) && (g->c->program || one_in(&g->r, 2)))
            set_register(g, in->index, fuzz_integer(&g->r) & (one_in(&g->r, 2) ? 0xff : ~0ull), 8);
        set_register(g, in->base,
                     ea - (uint64_t)(int64_t)in->disp -
                         (index ? register_value(g, in->index) << in->scale : 0),
                     in->adsize);
    }
}

static uint64_t choose_target(struct gen *g, const struct insn *in)
{
    const struct x86_form *f = &x86_form[in->form];
    bool absolute = in->base == X86_NO_REG && in->index == X86_NO_REG;
    uint64_t t = fuzz_address(&g->r, in->adsize != 8 || absolute || g->c->mode != X86_MODE_64);

    if (in->base == X86_RIP)
        t = (t & 0xffffff) | (g->high ? FUZZ_HIGH : FUZZ_LOW);
    if (f->align > 1 && !one_in(&g->r, 12))
        t &= ~(uint64_t)(f->align - 1);
    if (f->lock && one_in(&g->r, 2))
        t &= ~15ull;
    return t;
}

static void aim_string(struct gen *g, const struct insn *in)
{
    bool low = in->adsize != 8;
    uint64_t from = fuzz_address(&g->r, low), to = fuzz_address(&g->r, low);

    /* The host's fast MOVS does not see that two addresses are the same memory. */
    to += (from >= FUZZ_HIGH ? FUZZ_HIGH : FUZZ_LOW) - (to >= FUZZ_HIGH ? FUZZ_HIGH : FUZZ_LOW);
    set_register(g, 6, from, in->adsize);
    set_register(g, 7, to, in->adsize);
    if (one_in(&g->r, 4)) /* overlapping operands */
        set_register(g, 7, register_value(g, 6) + rng_below(&g->r, 64) - 32, in->adsize);
    set_register(g, 1, rng_below(&g->r, one_in(&g->r, 3) ? 600 : 24), in->adsize);
}

static void aim_operands(struct gen *g, struct bytes *o, struct insn *in)
{
    const struct x86_form *f = &x86_form[in->form];
    bool vsib = x86_encoding[in->form].flags & X86_E_VSIB;
    uint64_t target;

    for (unsigned i = 0; i < 4; i++)
        if (x86_operand_kind[f->operand[i]].place == X86_AT_MOFFS) {
            target = fuzz_address(&g->r, g->c->mode != X86_MODE_64 || in->adsize == 4);
            target -= segment_base(in);
            memcpy(o->b + in->length - in->adsize, &target, in->adsize);
            in->imm = target;
            return;
        }
    if (f->class == X86_STRING)
        aim_string(g, in);
    if (!in->mem || in->adsize == 2 || one_in(&g->r, 24))
        return;
    target = choose_target(g, in);
    aim(g, o, in, target, vsib);
    g->c->patch_at = (unsigned)(target & 0xffffff) & ~63u;
}

/* ---- one instruction ---- */

static bool undefined_matters(const struct insn *in, bool last)
{
    return !last && x86_form[in->form].flags_undefined;
}

/* A branch back could loop for ever; one into the middle of a later instruction could run anything.
 */
static bool bad_branch(const struct gen *g, const struct insn *in)
{
    const struct x86_form *f = &x86_form[in->form];
    uint64_t end = g->c->base + PAGE_CODE * 4096 + g->c->code_to, target;

    if (x86_operand_kind[f->operand[0]].place != X86_AT_REL &&
        x86_operand_kind[f->operand[1]].place != X86_AT_REL)
        return false;
    target = g->next + in->imm;
    if (target < g->next)
        return target + 64 >= g->next;
    for (unsigned i = 0; i < g->starts; i++)
        if (target == g->start[i])
            return false;
    return target < end && target != g->next;
}

/* AMD truncates RIP to 16 bits where 66 stands before a near branch in 64-bit mode; Intel, which
 * our models claim to be, ignores that prefix. MOVSXD with a 16-bit operand reads 4 bytes on AMD, 2
 * on Intel. LOOPE and LOOPNE after F2 or F3: one processor takes the prefix's condition. */
static bool makers_differ(const struct gen *g, const struct insn *in)
{
    if (in->op == X86_LOOPE || in->op == X86_LOOPNE)
        return in->prefix & (X86_P_REP | X86_P_REPNE | X86_P_66);
    return g->c->mode == X86_MODE_64 && (in->prefix & X86_P_66) &&
           (x86_form[in->form].class == X86_FLOW || in->op == X86_MOVSXD);
}

static bool uses_fs(const struct insn *in)
{
    return in->seg == SEG_FS && (in->mem || (in->prefix & X86_P_SEG));
}

static bool encode(struct gen *g, unsigned form, bool last, struct bytes *o, struct insn *in)
{
    const struct x86_form *f = &x86_form[form];
    const struct x86_encoding *e = &x86_encoding[form];
    uint8_t modrm = choose_modrm(g, e);
    bool mem = (e->flags & X86_E_MODRM) && modrm < 0xc0;
    uint64_t tail[2] = {fuzz_integer(&g->r), fuzz_integer(&g->r)};

    *o = (struct bytes){.disp_at = -1};
    if (e->map >= X86_MAP_VEX_0F) {
        put_vex_opcode(g, e, mem, o);
    } else {
        put_legacy_prefixes(g, f, e, mem || e->imm == X86_IMM_MOFFS, o);
        put_legacy_opcode(g, e, o);
    }
    if (e->flags & X86_E_MODRM)
        put(o, modrm);
    if (mem)
        put_memory(g, modrm, o);
    memcpy(o->b + o->n, tail, 10);
    if (x86_decode(in, o->b, 15, g->c->mode) != X86_DECODED || in->form != form)
        return false;
    o->n = in->length;
    if (undefined_matters(in, last) || bad_branch(g, in) || makers_differ(g, in))
        return false;
    if (g->c->mode != X86_MODE_64 && (in->seg == SEG_FS || in->seg == SEG_GS))
        return false;
    aim_operands(g, o, in);
    return x86_decode(in, o->b, o->n, g->c->mode) == X86_DECODED && in->form == form &&
           in->length == o->n;
}

bool make_one(struct gen *g, int form, bool last, struct bytes *o, struct insn *in)
{
    for (unsigned tries = 0; tries < 8; tries++) {
        unsigned f = form >= 0 ? (unsigned)form : rng_below(&g->r, x86_form_count);

        if (!(x86_form[f].modes & 1u << g->c->mode) || fuzz_excluded(f))
            continue;
        if (encode(g, f, last, o, in))
            return true;
    }
    return false;
}

/* ---- the case ---- */

void start_registers(struct gen *g)
{
    struct fuzz_case *c = g->c;
    struct fuzz_state *s = &c->start;
    bool low = c->mode != X86_MODE_64;

    for (unsigned i = 0; i < 16; i++)
        s->reg[i] = one_in(&g->r, 3) ? fuzz_address(&g->r, low) : fuzz_integer(&g->r);
    s->reg[4] = (low || one_in(&g->r, 2) ? FUZZ_LOW : FUZZ_HIGH) + PAGE_STACK * 4096 +
                (one_in(&g->r, 8) ? rng_below(&g->r, 8200) : 256 + 8 * rng_below(&g->r, 900));
    s->reg[5] = one_in(&g->r, 2) ? s->reg[4] + 8 * rng_below(&g->r, 16) : s->reg[5];
    s->rflags = 0x202 | (rng_next(&g->r) & (X86_CF | X86_PF | X86_AF | X86_ZF | X86_SF | X86_OF));
    if (one_in(&g->r, 4))
        s->rflags |= X86_DF;
    fuzz_fpu(&g->r, s->xsave);
}

/* Breaks the encoding: a flipped bit, or a missing tail. */
static void mutate(struct gen *g, uint8_t *bytes, unsigned *length)
{
    if (*length > 1 && one_in(&g->r, 3)) {
        unsigned cut = 1 + rng_below(&g->r, *length - 1);

        memmove(bytes + cut, bytes, *length - cut);
        memset(bytes, 0xcc, cut);
        *length -= cut;
    } else {
        unsigned at = rng_below(&g->r, *length < 4 ? *length : 4);

        bytes[at] ^= (uint8_t)(1u << rng_below(&g->r, 8));
    }
}

/* A branch with a 66 prefix whose displacement is cut off: AMD's is shorter, so to it nothing is
 * missing. */
static bool cut_branch(const uint8_t *p, unsigned left)
{
    bool prefix = false;

    for (; left && (*p == 0x66 || *p == 0x67 || *p == 0xf2 || *p == 0xf3 || (*p & 0xf0) == 0x40 ||
                    (*p & 0xe7) == 0x26 || *p == 0x64 || *p == 0x65);
         p++, left--)
        prefix |= *p == 0x66;
    return prefix && left &&
           (*p == 0xe8 || *p == 0xe9 || (*p == 0x0f && left > 1 && (p[1] & 0xf0) == 0x80));
}

bool decode_all(struct gen *g)
{
    struct fuzz_case *c = g->c;

    c->insns = 0;
    for (unsigned at = c->code_from; at < c->code_to;) {
        struct insn *in = &c->insn[c->insns];
        unsigned left = c->code_to - at;
        enum x86_decode_result result;

        if (c->insns == (c->program ? FUZZ_PROGRAM : FUZZ_SEQUENCE))
            return false;
        if (c->insns && x86_form[in[-1].form].flags_undefined)
            return false; /* a mutation may have made such a sequence */
        result = x86_decode(in, c->code + at, left > 15 ? 15 : left, c->mode);
        if (result != X86_DECODED) {
            c->broken = result == X86_INVALID ? FUZZ_BAD_INVALID : FUZZ_BAD_CUT;
            return c->broken == FUZZ_BAD_CUT ? !cut_branch(c->code + at, left) : c->insns == 0;
        }
        if (fuzz_excluded(in->form) || makers_differ(g, in))
            return false;
        c->use_fs |= uses_fs(in);
        c->insns++;
        at += in->length;
    }
    return c->insns > 0; /* nothing of a program may have been fit */
}

bool fuzz_generate(struct fuzz_case *c, int form)
{
    struct gen g = {.c = c};
    unsigned count, at;
    bool straddle;

    rng_seed(&g.r, c->seed);
    memset(c->code + c->code_from, 0xcc, c->code_to - c->code_from);
    c->program = false;
    c->mode = one_in(&g.r, 4) && native_cs32() ? X86_MODE_32 : X86_MODE_64;
    g.high = c->mode == X86_MODE_64 && one_in(&g.r, 2);
    c->base = g.high ? FUZZ_HIGH : FUZZ_LOW;
    c->use_fs = false;
    c->broken = FUZZ_GOOD;
    c->patch_at = PAGE_DATA * 4096;
    start_registers(&g);
    count = form < 0 && one_in(&g.r, 6) ? 2 + rng_below(&g.r, FUZZ_SEQUENCE - 1) : 1;
    straddle = one_in(&g.r, 12);
    at = straddle ? 4096 + 1 + rng_below(&g.r, 6) : 8192;
    c->code_from = c->code_to = at;
    for (unsigned i = 0; i < count; i++) {
        struct bytes o;
        struct insn in;

        g.next = c->base + PAGE_CODE * 4096 + at;
        if (!make_one(&g, form, i == 0, &o, &in))
            return false;
        at -= o.n;
        memcpy(c->code + at, o.b, o.n);
        c->code_from = at;
        g.start[g.starts++] = c->base + PAGE_CODE * 4096 + at;
    }
    if (!straddle && one_in(&g.r, 32)) {
        unsigned length = c->code_to - at;

        mutate(&g, c->code + at, &length);
        c->code_from = c->code_to - length;
    }
    fuzz_bytes(&g.r, c->patch, sizeof c->patch);
    c->start.rip = c->base + PAGE_CODE * 4096 + c->code_from;
    return decode_all(&g);
}
