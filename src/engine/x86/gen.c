/* SPDX-License-Identifier: MIT */
/* Build-time generator: opcode_*.def -> x86_ops.h (enum x86_op) and x86_table.c (forms, encodings
 * and the decoder's tables). The rows' notation is explained at the top of opcode_int.def. A
 * mistake in a row stops the build with its file and line. */
#include "engine/x86/feature.h"
#include "engine/x86/operand.h"
#include "engine/x86/table.h"
#include <ctype.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROWS_MAX 2400
#define OPS_MAX  1400

/* Copies of what form.h defines: that header needs this program's output. */
enum { CLASS_COPY, CLASS_FLOW, CLASS_STRING, CLASS_STATE, CLASS_UNDEF };
enum { GATE_NONE, GATE_X87, GATE_MMX, GATE_SSE, GATE_AVX, GATE_FN, GATE_FWAIT };

struct row {
    unsigned op;
    uint8_t operand[4], access[4];
    unsigned operands;
    unsigned read, written, undefined;
    unsigned implicit_read, implicit_written;
    unsigned feature, feature256, modes, class, gate;
    bool lock, cpl0, unaligned, aligned, plus_r;
    unsigned thunk;
    bool lx;     /* VEX with both lengths: becomes two rows */
    bool vector; /* 256-bit */
    unsigned w;  /* W constraint: 0 none, 1: w0, 2: w1 */
    struct x86_encoding e;
};

static struct row rows[ROWS_MAX], defaults;
static unsigned row_count, thunk_count;
static char op_name[OPS_MAX][32];
static unsigned op_count;
static const char *file_name;
static unsigned line_number;

static const char *const operand_name[] = {"",
#define X(name, place, size) #name,
                                           X86_OPERANDS(X)
#undef X
};
static const struct x86_operand_kind kind[] = {{0, 0},
#define X(name, place, size) {X86_AT_##place, size},
                                               X86_OPERANDS(X)
#undef X
};
static const char *const feature_name[] = {"",
#define X(name, text, leaf, sub, reg, bit, how) text,
                                           X86_FEATURES(X)
#undef X
};

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *fmt, ...)
{
    va_list ap;

    fprintf(stderr, "%s:%u: ", file_name, line_number);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(1);
}

static unsigned find_name(const char *const *names, unsigned count, const char *text)
{
    for (unsigned i = 1; i < count; i++)
        if (!strcmp(names[i], text))
            return i;
    return 0;
}

static unsigned op_number(const char *name)
{
    for (unsigned i = 0; i < op_count; i++)
        if (!strcmp(op_name[i], name))
            return i;
    if (op_count == OPS_MAX || strlen(name) >= sizeof op_name[0])
        fail("too many mnemonics, or one too long: %s", name);
    strcpy(op_name[op_count], name);
    return op_count++;
}

static unsigned parse_flags(const char *text)
{
    static const struct {
        char letter;
        unsigned bit;
    } flags[] = {{'o', 0x800}, {'d', 0x400}, {'s', 0x80}, {'z', 0x40},
                 {'a', 0x10},  {'p', 4},     {'c', 1}};
    unsigned mask = 0;

    for (; *text; text++) {
        unsigned i = 0;

        while (i < 7 && flags[i].letter != *text)
            i++;
        if (i == 7)
            fail("unknown flag '%c'", *text);
        mask |= flags[i].bit;
    }
    return mask;
}

/* a, c, d, b, sp, bp, si, di, r11 with commas. */
static unsigned parse_registers(const char *text)
{
    static const char *const names[] = {"a",  "c",  "d", "b", "sp", "bp",
                                        "si", "di", "",  "",  "",   "r11"};
    unsigned mask = 0;

    while (*text) {
        size_t len = strcspn(text, ",");
        unsigned i = 0;

        while (i < 12 && (strlen(names[i]) != len || strncmp(names[i], text, len)))
            i++;
        if (i == 12)
            fail("unknown register in '%s'", text);
        mask |= 1u << i;
        text += len + (text[len] == ',');
    }
    return mask;
}

static bool parse_class(struct row *r, const char *word)
{
    static const char *const classes[] = {"copy", "flow", "string", "state", "undef"};

    for (unsigned i = 0; i < 5; i++)
        if (!strcmp(word, classes[i])) {
            r->class = i;
            return true;
        }
    return false;
}

static void parse_gate(struct row *r, const char *word)
{
    static const char *const gates[] = {"none", "x87", "mmx", "sse", "avx", "fn", "fwait"};

    for (unsigned i = 0; i < 7; i++)
        if (!strcmp(word, gates[i])) {
            r->gate = i;
            return;
        }
    fail("unknown gate '%s'", word);
}

static bool parse_switch(struct row *r, const char *word)
{
    if (!strcmp(word, "i64"))
        r->modes &= 3;
    else if (!strcmp(word, "o64"))
        r->modes &= 4;
    else if (!strcmp(word, "no16"))
        r->modes &= 6;
    else if (!strcmp(word, "d64"))
        r->e.flags |= X86_E_D64;
    else if (!strcmp(word, "f64"))
        r->e.flags |= X86_E_F64;
    else if (!strcmp(word, "anymod"))
        r->e.flags |= X86_E_ANY_MOD;
    else if (!strcmp(word, "lock"))
        r->lock = true;
    else if (!strcmp(word, "cpl0"))
        r->cpl0 = true;
    else if (!strcmp(word, "unaligned"))
        r->unaligned = true;
    else if (!strcmp(word, "aligned"))
        r->aligned = true;
    else if (!strcmp(word, "v"))
        r->e.fixed = 0xff; /* operand size by prefixes although no operand says so */
    else
        return false;
    return true;
}

static void parse_attributes(struct row *r, char *text)
{
    for (char *word = strtok(text, " \t\n"); word; word = strtok(NULL, " \t\n")) {
        if (!strncmp(word, "r=", 2))
            r->read = parse_flags(word + 2);
        else if (!strncmp(word, "w=", 2))
            r->written = parse_flags(word + 2);
        else if (!strncmp(word, "u=", 2))
            r->undefined = parse_flags(word + 2);
        else if (!strncmp(word, "ri=", 3))
            r->implicit_read = parse_registers(word + 3);
        else if (!strncmp(word, "wi=", 3))
            r->implicit_written = parse_registers(word + 3);
        else if (!strncmp(word, "gate=", 5))
            parse_gate(r, word + 5);
        else if (!strncmp(word, "256=", 4)) {
            r->feature256 = find_name(feature_name, X86_F_COUNT, word + 4);
        } else if (!parse_switch(r, word) && !parse_class(r, word)) {
            r->feature = find_name(feature_name, X86_F_COUNT, word);
            if (!r->feature)
                fail("unknown attribute '%s'", word);
        }
    }
    if (r->written & r->undefined)
        fail("a flag is both written and undefined");
}

static void need(struct row *r, unsigned mask, unsigned key)
{
    r->e.mask |= mask;
    r->e.key = (r->e.key & ~mask) | key;
}

static void need_prefix(struct row *r, const char *name)
{
    static const char *const names[] = {"np", "66", "f3", "f2"};

    if (!strcmp(name, "nr")) {
        need(r, X86_K_REP, 0);
        return;
    }
    for (unsigned i = 0; i < 4; i++)
        if (!strcmp(name, names[i])) {
            need(r, X86_K_PREFIX, i << X86_K_PREFIX_SHIFT);
            return;
        }
    fail("unknown prefix '%s'", name);
}

/* vex.L.PP.MAP[.W] */
static void parse_vex(struct row *r, char *word)
{
    char *part[5] = {0};
    unsigned n = 0;

    for (char *p = word; p && n < 5; n++) {
        part[n] = p;
        p = strchr(p, '.');
        if (p)
            *p++ = 0;
    }
    if (n < 4)
        fail("vex.L.PP.MAP");
    need_prefix(r, part[2]);
    if (!strcmp(part[1], "128") || !strcmp(part[1], "lz"))
        need(r, X86_K_L, 0);
    else if (!strcmp(part[1], "256"))
        need(r, X86_K_L, X86_K_L), r->vector = true;
    else if (!strcmp(part[1], "lx"))
        r->lx = true;
    else if (strcmp(part[1], "lig"))
        fail("VEX length '%s'", part[1]);
    r->e.map = !strcmp(part[3], "0f")     ? X86_MAP_VEX_0F
               : !strcmp(part[3], "0f38") ? X86_MAP_VEX_0F38
               : !strcmp(part[3], "0f3a") ? X86_MAP_VEX_0F3A
                                          : (fail("VEX map '%s'", part[3]), 0);
    if (n == 5)
        r->w = part[4][1] == '1' ? 2 : 1;
}

static void parse_modrm(struct row *r, const char *digits)
{
    unsigned value = (unsigned)strtoul(digits, NULL, 16);

    r->e.flags |= X86_E_MODRM;
    if (strlen(digits) == 2)
        need(r, X86_K_MODRM | X86_K_MOD3, value | X86_K_MOD3);
    else
        need(r, 0x38, value << 3);
}

/* What follows the opcode: /digit, m, r, w0, o16, b0. */
static void parse_constraint(struct row *r, const char *word)
{
    if (*word == '/')
        parse_modrm(r, word + 1);
    else if (!strcmp(word, "m") || !strcmp(word, "r")) {
        r->e.flags |= X86_E_MODRM;
        need(r, X86_K_MOD3, *word == 'r' ? X86_K_MOD3 : 0);
    } else if (!strcmp(word, "w0") || !strcmp(word, "w1"))
        r->w = word[1] == '1' ? 2 : 1;
    else if (!strcmp(word, "b0"))
        need(r, X86_K_REXB, 0);
    else if (!strcmp(word, "o16"))
        need(r, X86_K_OPSIZE, 0);
    else if (!strcmp(word, "o32"))
        need(r, X86_K_OPSIZE, 1 << X86_K_OPSIZE_SHIFT);
    else if (!strcmp(word, "o64"))
        need(r, X86_K_OPSIZE, 2 << X86_K_OPSIZE_SHIFT);
    else
        fail("unknown constraint '%s'", word);
}

static void parse_encoding(struct row *r, char *text)
{
    char *word = strtok(text, " \t\n");

    if (!strncmp(word, "vex.", 4)) {
        char vex[64], *rest = strtok(NULL, "");

        snprintf(vex, sizeof vex, "%s", word);
        parse_vex(r, vex);
        word = strtok(rest, " \t\n");
    } else {
        if (!strcmp(word, "np") || !strcmp(word, "nr") || !strcmp(word, "66") ||
            !strcmp(word, "f3") || !strcmp(word, "f2")) {
            need_prefix(r, word);
            word = strtok(NULL, " \t\n");
        }
        if (word && !strcmp(word, "0f")) {
            r->e.map = X86_MAP_0F;
            word = strtok(NULL, " \t\n");
            if (word && (!strcmp(word, "38") || !strcmp(word, "3a"))) {
                r->e.map = word[1] == '8' ? X86_MAP_0F38 : X86_MAP_0F3A;
                word = strtok(NULL, " \t\n");
            }
        }
    }
    if (!word)
        fail("no opcode");
    r->e.opcode = (uint8_t)strtoul(word, NULL, 16);
    r->plus_r = strstr(word, "+r") != NULL;
    while ((word = strtok(NULL, " \t\n")) != NULL)
        parse_constraint(r, word);
}

static void parse_operation(struct row *r, char *text)
{
    char *name = strtok(text, " \t\n"), *list = strtok(NULL, " \t\n");

    if (!name)
        fail("no mnemonic");
    r->op = op_number(name);
    for (char *o = list ? strtok(list, ",") : NULL; o; o = strtok(NULL, ",")) {
        unsigned access = *o == '=' ? 2 : *o == '+' ? 3 : 1;

        if (r->operands == 4)
            fail("too many operands");
        r->access[r->operands] = (uint8_t)access;
        r->operand[r->operands] =
            (uint8_t)find_name(operand_name, X86_O_COUNT, access == 1 ? o : o + 1);
        if (!r->operand[r->operands++])
            fail("unknown operand '%s'", o);
    }
}

static bool general_place(unsigned place)
{
    return place == X86_AT_REG || place == X86_AT_RM || place == X86_AT_RMREG ||
           place == X86_AT_MEM || place == X86_AT_VVVV;
}

static bool vector_place(unsigned place)
{
    return place >= X86_AT_XREG && place <= X86_AT_VSIB;
}

/* ModRM, VEX.vvvv, byte registers and immediates follow from the operands. */
static void derive_flags(struct row *r)
{
    static const uint8_t imm[X86_O_COUNT] = {
        [X86_O_Ib] = X86_IMM_B,     [X86_O_Is] = X86_IMM_BS,  [X86_O_Iw] = X86_IMM_W,
        [X86_O_Iz] = X86_IMM_Z,     [X86_O_Iv] = X86_IMM_V,   [X86_O_Jb] = X86_IMM_BS,
        [X86_O_Jz] = X86_IMM_Z,     [X86_O_Ap] = X86_IMM_FAR, [X86_O_Ob] = X86_IMM_MOFFS,
        [X86_O_Ov] = X86_IMM_MOFFS, [X86_O_Ldq] = X86_IMM_B,  [X86_O_Lx] = X86_IMM_B,
    };

    for (unsigned i = 0; i < r->operands; i++) {
        unsigned o = r->operand[i], place = kind[o].place;

        if (imm[o])
            r->e.imm = o == X86_O_Ib && r->e.imm == X86_IMM_W ? X86_IMM_ENTER : imm[o];
        if (place != X86_AT_OPREG && place != X86_AT_VVVV && place != X86_AT_XVVVV &&
            place >= X86_AT_REG && place <= X86_AT_DR && place != X86_AT_XIS4 &&
            place != X86_AT_XMM0)
            r->e.flags |= X86_E_MODRM;
        if (place == X86_AT_VVVV || place == X86_AT_XVVVV)
            r->e.flags |= X86_E_VVVV;
        if (place == X86_AT_MEM || place == X86_AT_VSIB)
            need(r, X86_K_MOD3, 0);
        if (r->e.flags & X86_E_ANY_MOD)
            continue;
        if (place == X86_AT_RMREG || place == X86_AT_XRMREG || place == X86_AT_MRMREG)
            need(r, X86_K_MOD3, X86_K_MOD3);
        if (place == X86_AT_VSIB)
            r->e.flags |= X86_E_VSIB;
        if (o == X86_O_Gb || o == X86_O_Zb)
            r->e.flags |= X86_E_BYTE_REG;
        if (o == X86_O_Eb)
            r->e.flags |= X86_E_BYTE_RM;
    }
    if (r->plus_r)
        r->e.flags |= X86_E_PLUS_R;
}

/* W constrains general registers only in 64-bit mode; elsewhere it is part of the opcode. */
static void derive_w(struct row *r)
{
    unsigned bit = X86_K_W;

    for (unsigned i = 0; i < r->operands; i++)
        if (general_place(kind[r->operand[i]].place) && kind[r->operand[i]].place != X86_AT_MEM)
            bit = X86_K_W64;
    if (r->w)
        need(r, bit, r->w == 2 ? bit : 0);
}

static void derive_opsize(struct row *r)
{
    bool v = r->e.fixed == 0xff || r->operands == 0, z = false, y = false, vector = false,
         mmx = false;
    unsigned fixed = 0;

    for (unsigned i = 0; i < r->operands; i++) {
        unsigned o = r->operand[i], place = kind[o].place, size = kind[o].size;

        vector |= vector_place(place);
        mmx |= place >= X86_AT_MREG && place <= X86_AT_MRMREG;
        v |= size == X86_SZ_V || (size >= X86_SZ_RVMW && size <= X86_SZ_SEG0 + 5);
        y |= size == X86_SZ_Y;
        z |= size == X86_SZ_Z;
        if (size <= 32 && !fixed && place != X86_AT_IMM && place != X86_AT_REL &&
            place != X86_AT_CL && place != X86_AT_DX)
            fixed = size;
    }
    r->e.fixed = 0;
    if (vector || mmx) {
        r->e.opsize = X86_OS_FIX;
        r->e.fixed = r->vector ? 32 : vector ? 16 : 8;
    } else if (v || (r->e.flags & (X86_E_D64 | X86_E_F64) && !y))
        r->e.opsize = X86_OS_V;
    else if (y)
        r->e.opsize = X86_OS_Y;
    else if (z)
        r->e.opsize = X86_OS_Z;
    else if (fixed) {
        r->e.opsize = X86_OS_FIX;
        r->e.fixed = (uint8_t)fixed;
    } else
        r->e.opsize = X86_OS_V;
}

static unsigned mem_size(const struct row *r)
{
    for (unsigned i = 0; i < r->operands; i++) {
        unsigned place = kind[r->operand[i]].place, size = kind[r->operand[i]].size;

        if (place != X86_AT_RM && place != X86_AT_MEM && place != X86_AT_XRM &&
            place != X86_AT_MRM && place != X86_AT_VSIB && place != X86_AT_MOFFS)
            continue;
        if (size == X86_SZ_X)
            return r->vector ? 32 : 16;
        return size == X86_SZ_FXSAVE                        ? 512
               : size == X86_SZ_RDMB                        ? 1
               : size == X86_SZ_RDMW || size == X86_SZ_RVMW ? 2
               : size <= 32                                 ? size
                                                            : 0;
    }
    return 0;
}

static unsigned alignment(const struct row *r)
{
    unsigned size = mem_size(r);
    bool vector = false;

    for (unsigned i = 0; i < r->operands; i++)
        vector |= vector_place(kind[r->operand[i]].place);
    if (r->aligned || (r->e.map < X86_MAP_VEX_0F && vector && size == 16 && !r->unaligned))
        return size;
    if (size == 512)
        return 16;
    return 0;
}

static void finish_row(struct row *r)
{
    derive_flags(r);
    derive_w(r);
    derive_opsize(r);
    if (r->e.mask & r->e.key & X86_K_W64 ||
        (r->e.mask & X86_K_OPSIZE && (r->e.key & X86_K_OPSIZE) == 2 << X86_K_OPSIZE_SHIFT))
        r->modes &= 4;
    r->e.modes = (uint8_t)r->modes;
    if (r->class == CLASS_COPY && r->gate != GATE_NONE)
        r->thunk = ++thunk_count;
}

static void parse_line(char *line)
{
    char *hash = strchr(line, '#'), *operation, *attributes;
    struct row r;

    if (hash)
        *hash = 0;
    line[strcspn(line, "\n")] = 0;
    while (isspace((unsigned char)*line))
        line++;
    if (!*line)
        return;
    if (*line == '@') {
        memset(&defaults, 0, sizeof defaults);
        defaults.modes = 7;
        parse_attributes(&defaults, line + 1);
        return;
    }
    r = defaults;
    operation = strchr(line, ':');
    if (!operation)
        fail("expected ENCODING : MNEMONIC");
    *operation++ = 0;
    attributes = strchr(operation, ':');
    if (attributes) {
        *attributes++ = 0;
        parse_attributes(&r, attributes);
    }
    parse_encoding(&r, line);
    parse_operation(&r, operation);
    if (row_count + 2 > ROWS_MAX)
        fail("too many rows");
    if (r.lx) {
        struct row wide = r;

        need(&r, X86_K_L, 0);
        need(&wide, X86_K_L, X86_K_L);
        wide.vector = true;
        if (wide.feature256)
            wide.feature = wide.feature256;
        finish_row(&wide);
        rows[row_count + 1] = wide;
    }
    finish_row(&r);
    rows[row_count] = r;
    row_count += r.lx ? 2 : 1;
}

static void write_ops(FILE *f)
{
    fprintf(f, "/* Made by gen.c from opcode_*.def. */\n#ifndef HULL_X86_OPS_H\n#define "
               "HULL_X86_OPS_H\n\nenum x86_op {\n");
    for (unsigned i = 0; i < op_count; i++) {
        fprintf(f, "    X86_");
        for (const char *p = op_name[i]; *p; p++)
            fputc(*p == '.' ? '_' : toupper((unsigned char)*p), f);
        fprintf(f, ",\n");
    }
    fprintf(
        f,
        "    X86_OP_COUNT\n};\n\n#define X86_FORM_COUNT %u\n#define X86_THUNK_COUNT %u\n\n#endif\n",
        row_count, thunk_count);
}

static void write_forms(FILE *f)
{
    fprintf(f, "const struct x86_form x86_form[] = {\n");
    for (unsigned i = 0; i < row_count; i++) {
        const struct row *r = &rows[i];

        fprintf(f,
                "    {%u, %u, %u, {%u, %u, %u, %u}, {%u, %u, %u, %u}, 0x%x, 0x%x, 0x%x, %u, %u, "
                "%u, %u, %u, %u, 0x%x, 0x%x, %u}, /* %u %s */\n",
                r->op, r->class, r->gate, r->operand[0], r->operand[1], r->operand[2],
                r->operand[3], r->access[0], r->access[1], r->access[2], r->access[3], r->read,
                r->written, r->undefined, r->feature, r->modes, r->lock, r->cpl0, alignment(r),
                mem_size(r), r->implicit_read, r->implicit_written, r->thunk, i, op_name[r->op]);
    }
    fprintf(f,
            "};\nconst unsigned x86_form_count = %u, x86_thunk_count = %u;\n\nconst struct "
            "x86_encoding x86_encoding[] = {\n",
            row_count, thunk_count);
    for (unsigned i = 0; i < row_count; i++) {
        const struct x86_encoding *e = &rows[i].e;

        fprintf(f, "    {%u, 0x%02x, %u, %u, %u, 0x%x, %u, 0x%x, 0x%x},\n", e->map, e->opcode,
                e->imm, e->opsize, e->fixed, e->flags, e->modes, e->key, e->mask);
    }
    fprintf(f, "};\n\nconst char *const x86_op_name[] = {\n");
    for (unsigned i = 0; i < op_count; i++)
        fprintf(f, "    \"%.*s\",\n", (int)strcspn(op_name[i], "."), op_name[i]);
    fprintf(f, "};\n\n");
}

static void write_slots(FILE *f)
{
    static struct x86_slot slot[X86_MAP_COUNT][256];
    unsigned n = 0;

    fprintf(f, "const struct x86_candidate x86_candidate[] = {\n");
    for (unsigned map = 0; map < X86_MAP_COUNT; map++)
        for (unsigned opcode = 0; opcode < 256; opcode++) {
            struct x86_slot *s = &slot[map][opcode];

            s->first = (uint16_t)n;
            for (unsigned i = 0; i < row_count; i++) {
                const struct row *r = &rows[i];

                if (r->e.map != map || (r->plus_r ? opcode & 0xf8 : opcode) != r->e.opcode)
                    continue;
                s->modrm |= (r->e.flags & X86_E_MODRM) != 0;
                s->count++;
                n++;
                fprintf(f, "    {0x%x, 0x%x, %u, %u},\n", r->e.key, r->e.mask, i, r->e.modes);
            }
        }
    fprintf(f, "};\n\nconst struct x86_slot x86_slot[X86_MAP_COUNT][256] = {\n");
    for (unsigned map = 0; map < X86_MAP_COUNT; map++) {
        fprintf(f, "    {\n");
        for (unsigned i = 0; i < 256; i++)
            fprintf(f, "%s{%u, %u, %u},%s", i % 8 ? " " : "        ", slot[map][i].first,
                    slot[map][i].count, slot[map][i].modrm, i % 8 == 7 ? "\n" : "");
        fprintf(f, "    },\n");
    }
    fprintf(f, "};\n");
}

/* gen x86_ops.h x86_table.c opcode_*.def */
int main(int argc, char **argv)
{
    char line[512];
    FILE *f;

    if (argc < 4)
        return 2;
    for (int i = 3; i < argc; i++) {
        file_name = argv[i];
        line_number = 0;
        defaults = (struct row){.modes = 7};
        f = fopen(argv[i], "r");
        if (!f)
            fail("cannot open");
        while (fgets(line, sizeof line, f)) {
            line_number++;
            parse_line(line);
        }
        fclose(f);
    }
    f = fopen(argv[1], "w");
    if (!f)
        fail("cannot write %s", argv[1]);
    write_ops(f);
    if (fclose(f))
        fail("cannot write %s", argv[1]);
    f = fopen(argv[2], "w");
    if (!f)
        fail("cannot write %s", argv[2]);
    fprintf(f, "/* Made by gen.c from opcode_*.def. */\n#include \"engine/x86/form.h\"\n#include "
               "\"engine/x86/table.h\"\n\n");
    write_forms(f);
    write_slots(f);
    return fclose(f) != 0;
}
