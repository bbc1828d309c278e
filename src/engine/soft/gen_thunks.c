/* SPDX-License-Identifier: MIT */
/* Writes the thunks of thunk.h as assembly: one per vector form, vector length and W bit, 256 where
 * the form has an immediate byte. Every encoding is decoded again and must give the same form. Also
 * writes the lines of soft_op[] for all instructions that the vector half of the engine handles.
 *
 *   gen_thunks thunks.S soft_vec_ops.inc */
#include "engine/x86/form.h"
#include "engine/x86/insn.h"
#include "engine/x86/table.h"
#include "engine/soft/thunk.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RAX = 0, RDI = 7 };

static FILE *out;

struct code {
    uint8_t byte[16];
    unsigned length;
};

static bool starts_with_any(const char *name, const char *const *list)
{
    for (; *list; list++)
        if (!strncmp(name, *list, strlen(*list)))
            return true;
    return false;
}

/* Instructions that compute in floating point, by mnemonic without the leading v. */
static bool is_fp(const char *name)
{
    static const char *const prefixes[] = {
        "addp",   "adds",   "subp",  "subs",   "mulp",   "muls",     "divp",     "divs",
        "sqrtp",  "sqrts",  "minp",  "mins",   "maxp",   "maxs",     "cmpp",     "cmps",
        "comis",  "ucomis", "cvt",   "haddp",  "hsubp",  "addsubp",  "dpp",      "roundp",
        "rounds", "fmadd",  "fmsub", "fnmadd", "fnmsub", "fmaddsub", "fmsubadd", NULL};
    static const char *const integer[] = {"cmpsb", "cmpsw", "cmpsq", NULL};

    if (*name == 'v')
        name++;
    return starts_with_any(name, prefixes) && !starts_with_any(name, integer);
}

static unsigned place_of(const struct x86_form *f, unsigned i)
{
    return x86_operand_kind[f->operand[i]].place;
}

static bool is_vector_place(unsigned place)
{
    return (place >= X86_AT_XREG && place <= X86_AT_XMM0) ||
           (place >= X86_AT_MREG && place <= X86_AT_MRMREG);
}

static bool wants_thunk(const struct x86_form *f)
{
    bool vector = false;

    if (f->class != X86_COPY ||
        (f->gate != X86_GATE_SSE && f->gate != X86_GATE_AVX && f->gate != X86_GATE_MMX))
        return false;
    for (unsigned i = 0; i < 4; i++) {
        unsigned place = place_of(f, i);

        if (place == X86_AT_VSIB || place == X86_AT_DST)
            return false;
        vector |= is_vector_place(place);
    }
    return vector;
}

static bool has_imm(const struct x86_form *f)
{
    for (unsigned i = 0; i < 4; i++)
        if (place_of(f, i) == X86_AT_IMM)
            return true;
    return false;
}

static bool sized_by_w(const struct x86_form *f)
{
    for (unsigned i = 0; i < 4; i++)
        if (x86_operand_kind[f->operand[i]].size == X86_SZ_Y)
            return true;
    return false;
}

/* Register number for the operand in ModRM.reg, ModRM.rm, VEX.vvvv or is4; mem_only forms use
 * [RDI]. */
static int operand_register(const struct x86_form *f, const uint8_t *places)
{
    for (unsigned i = 0; i < 4; i++)
        for (const uint8_t *p = places; *p; p++)
            if (place_of(f, i) == *p)
                return *p == X86_AT_REG || *p == X86_AT_RM || *p == X86_AT_RMREG ? RAX : (int)i + 1;
    return -1;
}

static uint8_t modrm_of(const struct x86_form *f, const struct x86_encoding *e, bool *mem)
{
    static const uint8_t in_reg[] = {X86_AT_REG, X86_AT_XREG, X86_AT_MREG, 0};
    static const uint8_t in_rm[] = {X86_AT_RM,  X86_AT_RMREG,  X86_AT_XRM, X86_AT_XRMREG,
                                    X86_AT_MRM, X86_AT_MRMREG, 0};
    int reg = operand_register(f, in_reg), rm = operand_register(f, in_rm);
    bool mem_only = (e->mask & X86_K_MOD3) && !(e->key & X86_K_MOD3);

    *mem = rm < 0 || mem_only;
    if (reg < 0)
        reg = (e->key >> 3) & 7;
    return *mem ? (uint8_t)(reg << 3 | RDI) : (uint8_t)(0xc0 | reg << 3 | rm);
}

static void put(struct code *c, unsigned byte)
{
    c->byte[c->length++] = (uint8_t)byte;
}

static void put_vex(struct code *c, const struct x86_form *f, const struct x86_encoding *e, bool l,
                    bool w)
{
    static const uint8_t in_vvvv[] = {X86_AT_XVVVV, 0};
    int vvvv = operand_register(f, in_vvvv);

    put(c, 0xc4);
    put(c, 0xe0 | (e->map - X86_MAP_VEX_0F + 1));
    put(c, (unsigned)w << 7 | (~(unsigned)(vvvv < 0 ? 0 : vvvv) & 15) << 3 | (unsigned)l << 2 |
               (e->key & X86_K_PREFIX) >> X86_K_PREFIX_SHIFT);
}

static void put_legacy(struct code *c, const struct x86_encoding *e, bool w)
{
    static const uint8_t prefix[] = {0, 0x66, 0xf3, 0xf2};
    unsigned p = (e->key & X86_K_PREFIX) >> X86_K_PREFIX_SHIFT;

    if (p)
        put(c, prefix[p]);
    if (w)
        put(c, 0x48);
    put(c, 0x0f);
    if (e->map == X86_MAP_0F38)
        put(c, 0x38);
    if (e->map == X86_MAP_0F3A)
        put(c, 0x3a);
}

/* False: this combination of L and W is not this form. */
static bool encode(unsigned form, bool l, bool w, unsigned imm, struct code *c, bool *mem)
{
    static const uint8_t in_is4[] = {X86_AT_XIS4, 0};
    const struct x86_form *f = &x86_form[form];
    const struct x86_encoding *e = &x86_encoding[form];
    bool vex = e->map >= X86_MAP_VEX_0F;
    int is4 = operand_register(f, in_is4);
    struct insn in;

    *c = (struct code){0};
    if (vex)
        put_vex(c, f, e, l, w);
    else if (l)
        return false;
    else
        put_legacy(c, e, w);
    put(c, e->opcode);
    put(c, modrm_of(f, e, mem));
    if (is4 >= 0)
        put(c, (unsigned)is4 << 4);
    else if (has_imm(f))
        put(c, imm);
    if (x86_decode(&in, c->byte, c->length, X86_MODE_64) != X86_DECODED || in.form != form ||
        in.length != c->length)
        return false;
    if (vex && (in.opsize == 32) != l)
        return false;
    put(c, 0xc3);
    return true;
}

static void emit(const struct code *c, bool imm)
{
    fprintf(out, "\t.byte ");
    for (unsigned i = 0; i < c->length; i++)
        fprintf(out, "%s%u", i ? "," : "", c->byte[i]);
    if (imm)
        for (unsigned i = c->length; i < 8; i++)
            fprintf(out, ",204");
    fputc('\n', out);
}

/* Thunks of one form, L and W at the current position. 0, or the entry for soft_thunk_offset. */
static uint32_t emit_variant(unsigned form, bool l, bool w, uint32_t *at, unsigned *flags)
{
    bool imm = has_imm(&x86_form[form]), mem;
    uint32_t offset = *at;
    struct code c;

    if (!encode(form, l, w, 0, &c, &mem))
        return 0;
    if (mem)
        *flags |= THUNK_MEM;
    if (!imm) {
        emit(&c, false);
        *at += c.length;
        return offset;
    }
    for (unsigned i = 0; i < 256; i++) {
        encode(form, l, w, i, &c, &mem);
        if (c.length > 8) {
            fprintf(stderr, "gen_thunks: %s is longer than 8 bytes\n",
                    x86_op_name[x86_form[form].op]);
            exit(1);
        }
        emit(&c, true);
    }
    *at += 256 * 8;
    return offset | THUNK_IMM;
}

static unsigned fp_flags(const char *name)
{
    static const char *const tiny[] = {"add", "sub",      "mul",      "div", "hadd", "hsub",
                                       "dpp", "cvtsd2ss", "cvtpd2ps", "fm",  "fnm",  NULL};
    size_t n = strlen(name);
    unsigned flags = THUNK_FP;

    if (starts_with_any(*name == 'v' ? name + 1 : name, tiny))
        flags |= THUNK_TINY;
    if (name[n - 1] == 's' || strstr(name, "2ps") || strstr(name, "2ss"))
        flags |= THUNK_SINGLE;
    if (strstr(name, "2ph"))
        flags |= THUNK_HALF | THUNK_TINY;
    if (n > 2 && name[n - 2] == 's')
        flags |= THUNK_SCALAR;
    return flags;
}

/* dst, src [,imm] or dst, src, src [,imm], all whole vector registers but for the last source: the
 * caller has a quick way for those. */
static unsigned plain_flags(const struct x86_form *f, unsigned flags)
{
    unsigned sources = place_of(f, 1) == X86_AT_XVVVV ? 2 : 1;
    unsigned last = place_of(f, sources), after = place_of(f, sources + 1);

    if ((flags & (THUNK_MEM | THUNK_MMX)) || place_of(f, 0) != X86_AT_XREG || !(f->access[0] & 2) ||
        f->flags_written)
        return 0;
    if (last != X86_AT_XRM && last != X86_AT_XRMREG)
        return 0;
    if (after != X86_AT_NONE && after != X86_AT_IMM)
        return 0;
    return sources == 2 ? THUNK_PLAIN3 : THUNK_PLAIN2;
}

static uint32_t emit_form(unsigned form, uint32_t *entry, uint32_t at, unsigned *flags)
{
    const struct x86_form *f = &x86_form[form];
    bool any = false;

    *flags = 0;
    if (!wants_thunk(f))
        return at;
    for (unsigned l = 0; l < 2; l++) { /* a form that ignores W has one thunk for both values */
        uint32_t *e = &entry[2 * l];

        e[0] = emit_variant(form, l, false, &at, flags);
        e[1] = e[0] && !sized_by_w(f) ? e[0] : emit_variant(form, l, true, &at, flags);
        if (!e[0])
            e[0] = e[1];
        any |= e[0] != 0;
    }
    if (!any) {
        fprintf(stderr, "gen_thunks: no encoding found for form %u, %s\n", form,
                x86_op_name[f->op]);
        exit(1);
    }
    for (unsigned i = 0; i < 4; i++)
        if (place_of(f, i) >= X86_AT_MREG && place_of(f, i) <= X86_AT_MRMREG)
            *flags |= THUNK_MMX;
    *flags |= plain_flags(f, *flags);
    if (strstr(x86_op_name[f->op], "insertps"))
        *flags |= THUNK_IMM6;
    if (is_fp(x86_op_name[f->op]))
        *flags |= fp_flags(x86_op_name[f->op]);
    return at;
}

static void emit_symbol(const char *section, const char *name, unsigned align)
{
    fprintf(out, "\t%s\n\t.balign %u\n\t.globl %s\n\t.hidden %s\n%s:\n", section, align, name, name,
            name);
}

static bool write_thunks(uint32_t *entry, unsigned *flags)
{
    uint32_t at = 8;

    fprintf(out, "/* Made by gen_thunks. */\n");
    emit_symbol(".text", "soft_thunk_code", 64);
    fprintf(out, "\t.byte 204,204,204,204,204,204,204,204\n"); /* so that no thunk has offset 0 */
    for (unsigned i = 0; i < x86_form_count; i++)
        at = emit_form(i, &entry[4 * i], at, &flags[i]);
    emit_symbol(".section .rodata", "soft_thunk_offset", 64);
    for (unsigned i = 0; i < x86_form_count; i++)
        fprintf(out, "\t.long %u,%u,%u,%u\n", entry[4 * i], entry[4 * i + 1], entry[4 * i + 2],
                entry[4 * i + 3]);
    emit_symbol(".section .rodata", "soft_thunk_flags", 64);
    for (unsigned i = 0; i < x86_form_count; i++)
        fprintf(out, "\t.short %u\n", flags[i]);
    fprintf(out, "\t.section .note.GNU-stack,\"\",@progbits\n");
    return !ferror(out);
}

/* Instructions with a handler of their own. */
static const struct special {
    const char *name, *handler;
} specials[] = {
    {"fwait", "op_fwait"},
    {"fnstenv", "op_x87_save_env"},
    {"fnsave", "op_x87_save_env"},
    {"fldenv", "op_x87_load_env"},
    {"frstor", "op_x87_load_env"},
    {"fninit", "op_fninit"},
    {"emms", "op_emms"},
    {"maskmovq", "op_maskmovq"},
    {"maskmovdqu", "op_maskmovdqu"},
    {"vmaskmovdqu", "op_maskmovdqu"},
    {"vmaskmovps", "op_vmaskmov"},
    {"vmaskmovpd", "op_vmaskmov"},
    {"vpmaskmovd", "op_vmaskmov"},
    {"vpmaskmovq", "op_vmaskmov"},
    {"vzeroupper", "op_vzero"},
    {"vzeroall", "op_vzero"},
    {"ldmxcsr", "op_ldmxcsr"},
    {"vldmxcsr", "op_ldmxcsr"},
    {"stmxcsr", "op_stmxcsr"},
    {"vstmxcsr", "op_stmxcsr"},
    {"fxsave", "op_fxsave"},
    {"fxrstor", "op_fxrstor"},
    {"xsave", "op_xsave"},
    {"xsaveopt", "op_xsaveopt"},
    {"xsavec", "op_xsavec"},
    {"xrstor", "op_xrstor"},
    {"xgetbv", "op_xgetbv"},
    {"xsetbv", "op_xsetbv"},
    {"pcmpestri", "op_pcmpstr"},
    {"pcmpestrm", "op_pcmpstr"},
    {"pcmpistri", "op_pcmpstr"},
    {"pcmpistrm", "op_pcmpstr"},
    {"vpcmpestri", "op_pcmpstr"},
    {"vpcmpestrm", "op_pcmpstr"},
    {"vpcmpistri", "op_pcmpstr"},
    {"vpcmpistrm", "op_pcmpstr"},
};

/* Moves that have quick handlers; these names with a v in front too. */
static const char *move_handler(const char *name)
{
    static const char *const whole[] = {"movaps",  "movups",  "movapd",   "movupd",
                                        "movdqa",  "movdqu",  "lddqu",    "movntdq",
                                        "movntps", "movntpd", "movntdqa", NULL};
    static const char *const low[] = {"movd", "movq", "movss", "movsd", NULL};

    if (*name == 'v')
        name++;
    for (unsigned i = 0; whole[i]; i++)
        if (!strcmp(name, whole[i]))
            return "op_vec_move";
    for (unsigned i = 0; low[i]; i++)
        if (!strcmp(name, low[i]))
            return "op_vec_move_low";
    return NULL;
}

static const char *handler_of(unsigned form, const uint32_t *entry)
{
    const struct x86_form *f = &x86_form[form];
    const struct x86_encoding *e = &x86_encoding[form];

    for (unsigned i = 0; i < sizeof specials / sizeof specials[0]; i++)
        if (!strcmp(specials[i].name, x86_op_name[f->op]))
            return specials[i].handler;
    for (unsigned i = 0; i < 4; i++)
        if (place_of(f, i) == X86_AT_VSIB)
            return "op_gather";
    if (e->map == X86_MAP_1 && e->opcode >= 0xd8 && e->opcode <= 0xdf)
        return "op_x87";
    if (!entry[4 * form] && !entry[4 * form + 2])
        return NULL;
    return move_handler(x86_op_name[f->op]) ? move_handler(x86_op_name[f->op]) : "op_vec";
}

/* One line per operation. All forms of one must have the same handler. */
static bool write_ops(const uint32_t *entry)
{
    const char **handler = calloc(X86_OP_COUNT, sizeof *handler);
    bool good = handler != NULL;

    for (unsigned i = 0; good && i < x86_form_count; i++) {
        unsigned op = x86_form[i].op;
        const char *h = handler_of(i, entry);

        if (h && handler[op] && strcmp(h, handler[op])) {
            fprintf(stderr, "gen_thunks: %s has two handlers\n", x86_op_name[op]);
            good = false;
        }
        if (h)
            handler[op] = h;
    }
    for (unsigned i = 0; good && i < X86_OP_COUNT; i++)
        if (handler[i])
            fprintf(out, "    [%u] = %s, /* %s */\n", i, handler[i], x86_op_name[i]);
    free(handler);
    return good && !ferror(out);
}

int main(int argc, char **argv)
{
    uint32_t *entry = calloc(x86_form_count, 4 * sizeof *entry);
    unsigned *flags = calloc(x86_form_count, sizeof *flags);
    bool good;

    if (entry == NULL || flags == NULL || argc != 3 || (out = fopen(argv[1], "w")) == NULL)
        return 1;
    good = write_thunks(entry, flags);
    good = !fclose(out) && good && (out = fopen(argv[2], "w")) != NULL;
    good = good && write_ops(entry);
    good = out && !fclose(out) && good;
    free(entry);
    free(flags);
    return !good;
}
