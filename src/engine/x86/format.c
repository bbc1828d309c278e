/* SPDX-License-Identifier: MIT */
/* struct insn -> Intel syntax, in the style of binutils (`mov DWORD PTR [rax+rcx*4+0x10],0x5`), so
 * that a trace can be laid beside objdump's output; format_test.c does. */
#include "engine/x86/form.h"
#include <stdarg.h>
#include <stdio.h>

struct text {
    char *at;
    size_t left; /* with room for the final NUL */
};

static void say(struct text *t, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void say(struct text *t, const char *fmt, ...)
{
    va_list ap;
    int n;

    if (!t->left)
        return;
    va_start(ap, fmt);
    n = vsnprintf(t->at, t->left, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= t->left) {
        t->left = 0; /* vsnprintf has put the NUL */
        return;
    }
    t->at += n;
    t->left -= (size_t)n;
}

static const char *const segment_name[] = {"es", "cs", "ss", "ds", "fs", "gs", "?", "?"};

static void say_register(struct text *t, unsigned n, unsigned size)
{
    static const char *const legacy[] = {"ax", "cx", "dx", "bx", "sp", "bp", "si", "di"};
    static const char *const low[] = {"al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil"};
    static const char *const high[] = {"ah", "ch", "dh", "bh"};

    if (n >= X86_HIGH)
        say(t, "%s", n < X86_HIGH + 4 ? high[n - X86_HIGH] : "?");
    else if (n >= 8)
        say(t, "r%u%s", n, size == 8 ? "" : size == 4 ? "d" : size == 2 ? "w" : "b");
    else if (size == 1)
        say(t, "%s", low[n]);
    else
        say(t, "%s%s", size == 8 ? "r" : size == 4 ? "e" : "", legacy[n]);
}

static void say_vector(struct text *t, unsigned n, unsigned size)
{
    say(t, "%cmm%u", size == 32 ? 'y' : 'x', n & 15);
}

static const char *pointer_name(unsigned rule, unsigned size, unsigned op)
{
    if (rule == X86_SZ_P)
        return size == 4 ? "DWORD PTR " : "FWORD PTR ";
    if (rule == X86_SZ_S)
        return "";
    if (rule == X86_SZ_LINE)
        return op == X86_LEA ? "" : "BYTE PTR ";
    switch (size) {
    case 1: return "BYTE PTR ";
    case 2: return "WORD PTR ";
    case 4: return "DWORD PTR ";
    case 6: return "FWORD PTR ";
    case 8: return "QWORD PTR ";
    case 10: return "TBYTE PTR ";
    case 16: return "XMMWORD PTR ";
    case 32: return "YMMWORD PTR ";
    default: return "";
    }
}

static void say_disp(struct text *t, const struct insn *in, bool sign)
{
    if (!sign)
        say(t, "0x%llx",
            in->adsize == 8   ? (unsigned long long)(int64_t)in->disp
            : in->adsize == 4 ? (uint32_t)in->disp
                              : (uint16_t)in->disp);
    else if (in->disp < 0)
        say(t, "-0x%x", 0u - (uint32_t)in->disp);
    else
        say(t, "+0x%x", (uint32_t)in->disp);
}

static unsigned index_size(const struct insn *in, unsigned operand)
{
    return operand == X86_O_VXq
               ? 16
               : in->opsize; /* vector index: by VEX.L, but XMM for qword elements by dword index */
}

static void say_memory(struct text *t, const struct insn *in, unsigned i)
{
    unsigned operand = x86_form[in->form].operand[i], size = x86_operand_size(in, i);
    bool vsib = x86_operand_kind[operand].place == X86_AT_VSIB, first = true;

    say(t, "%s", pointer_name(x86_operand_kind[operand].size, size, in->op));
    if (in->prefix & X86_P_SEG || (in->base == X86_NO_REG && in->index == X86_NO_REG))
        say(t, "%s:", segment_name[in->seg & 7]);
    if (in->base == X86_NO_REG && in->index == X86_NO_REG) {
        say_disp(t, in, false);
        return;
    }
    say(t, "[");
    if (in->base == X86_RIP)
        say(t, in->adsize == 4 ? "eip" : "rip");
    else if (in->base != X86_NO_REG)
        say_register(t, in->base, in->adsize);
    first = in->base == X86_NO_REG;
    if (in->index != X86_NO_REG) {
        say(t, "%s", first ? "" : "+");
        if (vsib)
            say_vector(t, in->index, index_size(in, operand));
        else
            say_register(t, in->index, in->adsize);
        if (in->adsize != 2)
            say(t, "*%u", 1u << in->scale);
    }
    if (in->disp || in->base == X86_RIP || first || in->modrm >> 6) /* a 0 that is there */
        say_disp(t, in, true);
    say(t, "]");
}

static uint64_t cut(uint64_t value, unsigned size)
{
    return size >= 8 ? value : value & (BIT(8 * size) - 1);
}

/* Sign-extended immediates are shown at the operand size, as the instruction uses them. */
static void say_immediate(struct text *t, const struct insn *in, unsigned operand)
{
    unsigned size = x86_operand_kind[operand].size;

    if (in->op == X86_ENTER)
        say(t, "0x%llx",
            operand == X86_O_Iw ? (unsigned long long)(in->imm & 0xffff) : in->imm >> 16);
    else if (size == 1 && operand == X86_O_Ib)
        say(t, "0x%llx", (unsigned long long)(in->imm & 0xff));
    else
        say(t, "0x%llx", (unsigned long long)cut(in->imm, size == 2 ? 2 : in->opsize));
}

static void say_target(struct text *t, const struct insn *in, uint64_t rip)
{
    say(t, "0x%llx", (unsigned long long)cut(rip + in->length + in->imm, in->opsize));
}

static void say_string(struct text *t, const struct insn *in, unsigned i, bool source)
{
    say(t, "%s%s:[", pointer_name(0, x86_operand_size(in, i), in->op),
        source ? segment_name[in->seg & 7] : "es");
    say_register(t, source ? 6 : 7, in->adsize);
    say(t, "]");
}

static void say_fixed(struct text *t, const struct insn *in, unsigned i, unsigned place)
{
    switch (place) {
    case X86_AT_ACC: say_register(t, 0, x86_operand_size(in, i)); break;
    case X86_AT_CL: say(t, "cl"); break;
    case X86_AT_DX: say(t, "dx"); break;
    case X86_AT_ONE: say(t, "1"); break;
    case X86_AT_ST0: say(t, "st"); break;
    case X86_AT_STI: say(t, "st(%u)", in->rm & 7); break;
    case X86_AT_XMM0: say(t, "xmm0"); break;
    case X86_AT_FIXSEG:
        say(t, "%s",
            segment_name[x86_operand_kind[x86_form[in->form].operand[i]].size - X86_SZ_SEG0]);
        break;
    default: break;
    }
}

static void say_operand(struct text *t, const struct insn *in, unsigned i, uint64_t rip)
{
    unsigned operand = x86_form[in->form].operand[i], place = x86_operand_kind[operand].place,
             size = x86_operand_size(in, i);

    if (in->mem && (int)i == x86_mem_operand(in) && place != X86_AT_MOFFS) {
        say_memory(t, in, i);
        return;
    }
    switch (place) {
    case X86_AT_REG:
    case X86_AT_OPREG: say_register(t, in->reg, size); break;
    case X86_AT_RM:
    case X86_AT_RMREG: say_register(t, in->rm, size); break;
    case X86_AT_VVVV: say_register(t, in->vvvv, size); break;
    case X86_AT_XREG: say_vector(t, in->reg, size); break;
    case X86_AT_XRM:
    case X86_AT_XRMREG: say_vector(t, in->rm, size); break;
    case X86_AT_XVVVV: say_vector(t, in->vvvv, size); break;
    case X86_AT_XIS4: say_vector(t, in->imm >> 4 & 15, size); break;
    case X86_AT_MREG: say(t, "mm%u", in->reg & 7); break;
    case X86_AT_MRM:
    case X86_AT_MRMREG: say(t, "mm%u", in->rm & 7); break;
    case X86_AT_SEG: say(t, "%s", segment_name[in->reg & 7]); break;
    case X86_AT_CR: say(t, "cr%u", in->reg); break;
    case X86_AT_DR: say(t, "dr%u", in->reg); break;
    case X86_AT_IMM: say_immediate(t, in, operand); break;
    case X86_AT_REL: say_target(t, in, rip); break;
    case X86_AT_FAR:
        say(t, "0x%x:0x%x", (unsigned)(in->imm >> 32 & 0xffff), (unsigned)in->imm);
        break;
    case X86_AT_MOFFS:
        say(t, "%s:0x%llx", segment_name[in->seg & 7], (unsigned long long)in->imm);
        break;
    case X86_AT_SRC: say_string(t, in, i, true); break;
    case X86_AT_DST: say_string(t, in, i, false); break;
    default: say_fixed(t, in, i, place); break;
    }
}

/* Where no operand shows it, an unusual operand size shows in the mnemonic. */
static const char *size_suffix(const struct insn *in)
{
    return !(in->prefix & X86_P_66) || in->opsize == 8 ? "" : in->opsize == 2 ? "w" : "d";
}

static void say_mnemonic(struct text *t, const struct insn *in)
{
    const struct x86_form *f = &x86_form[in->form];
    const char *name = x86_op_name[in->op], *suffix = "";

    if (in->prefix & X86_P_LOCK)
        say(t, "lock ");
    if (f->class == X86_STRING && in->prefix & (X86_P_REP | X86_P_REPNE)) {
        bool compares = in->op == X86_CMPS || in->op == X86_SCAS;

        say(t, in->prefix & X86_P_REPNE ? "repnz " : compares ? "repz " : "rep ");
    }
    switch (in->op) {
    case X86_IRET:
    case X86_RETF: suffix = in->w64 ? "q" : size_suffix(in); break;
    case X86_SYSRET:
    case X86_SYSEXIT: suffix = in->w64 ? "q" : "d"; break;
    case X86_PUSH:
        suffix =
            in->mem || x86_operand_kind[f->operand[0]].place != X86_AT_IMM ? "" : size_suffix(in);
        break;
    case X86_PUSHF:
    case X86_POPF:
    case X86_PUSHA:
    case X86_POPA:
    case X86_PUSH_SEG:
    case X86_POP_SEG:
    case X86_ENTER:
    case X86_LEAVE:
    case X86_FLDENV:
    case X86_FNSTENV:
    case X86_FNSAVE:
    case X86_FRSTOR: suffix = size_suffix(in); break;
    case X86_JCXZ: name = in->adsize == 8 ? "jrcxz" : in->adsize == 4 ? "jecxz" : "jcxz"; break;
    case X86_FXSAVE:
    case X86_FXRSTOR:
    case X86_XSAVE:
    case X86_XRSTOR:
    case X86_XSAVEOPT:
    case X86_XSAVEC: suffix = in->w64 ? "64" : ""; break;
    default: break;
    }
    say(t, "%s%s", name, suffix);
}

void x86_format(const struct insn *in, uint64_t rip, char *text, size_t size)
{
    struct text t = {text, size};
    const struct x86_form *f = &x86_form[in->form];

    if (size)
        *text = 0;
    say_mnemonic(&t, in);
    for (unsigned i = 0; i < 4 && f->operand[i]; i++) {
        say(&t, i ? "," : " ");
        say_operand(&t, in, i, rip);
    }
    if (in->op == X86_XLAT) {
        say(&t, " BYTE PTR %s:[", segment_name[in->seg & 7]);
        say_register(&t, 3, in->adsize);
        say(&t, "]");
    }
}
