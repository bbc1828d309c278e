/* SPDX-License-Identifier: MIT */
/* The post-emission verifier: decodes what was emitted and refuses what no translation may contain,
 * whatever went wrong in the translator (doc/jit.md, "What may be emitted"). */
#include "base/log.h"
#include "engine/soft/jit/jit_int.h"
#include "engine/x86/form.h"

/* Instructions that run without harm with the guest's registers. */
static bool allowed_op(const struct insn *in, const struct x86_form *f)
{
    switch (f->class) {
    case X86_COPY: return true;
    case X86_FLOW:
        return (f->op >= X86_JO && f->op <= X86_JG) || f->op == X86_JMP || f->op == X86_CALL ||
               f->op == X86_JCXZ;
    case X86_STATE:
        return f->op == X86_RDTSC || f->op == X86_LFENCE || f->op == X86_MFENCE ||
               f->op == X86_SFENCE;
    case X86_UNDEF: return f->op == X86_UD2;
    default: return false;
    }
}

static bool writes_sp(const struct insn *in, const struct x86_form *f)
{
    if (f->implicit_written & BIT(RSP))
        return f->op != X86_CALL;
    for (unsigned k = 0; k < 4 && f->operand[k]; k++) {
        unsigned place = x86_operand_kind[f->operand[k]].place;
        bool at_rm = place == X86_AT_RMREG || (place == X86_AT_RM && !in->mem);

        if (!(f->access[k] & 2))
            continue;
        if ((place == X86_AT_REG || place == X86_AT_OPREG) && in->reg == RSP)
            return true;
        if (at_rm && in->rm == RSP)
            return true;
    }
    return false;
}

/* Slots of the vCPU and tables through GS; guest memory through T0 and T1; LEA reads nothing. */
static bool allowed_memory(const struct insn *in, const struct x86_form *f)
{
    if (!in->mem || f->op == X86_LEA)
        return true;
    if (in->adsize != 8)
        return false;
    if (in->seg == SEG_GS)
        return in->base == X86_NO_REG && (in->index == X86_NO_REG || in->index == T1);
    if (in->prefix & X86_P_SEG)
        return false;
    if (in->base == T1)
        return (in->index == T0 && in->disp == 0) ||
               (in->index == X86_NO_REG && in->disp >= 0 && in->disp < (int32_t)PAGE_SIZE);
    return in->base == T0 && in->index == X86_NO_REG && in->disp == 0;
}

bool jit_verify(struct jit *j, const uint8_t *from, const uint8_t *to)
{
    while (from < to) {
        struct insn in;
        const struct x86_form *f;

        if (x86_decode(&in, from, (size_t)(to - from), X86_MODE_64) != X86_DECODED) {
            log_error("JIT: emitted bytes that are no instruction");
            return false;
        }
        f = &x86_form[in.form];
        if (f->cpl0 || !allowed_op(&in, f) || !allowed_memory(&in, f) ||
            (writes_sp(&in, f) && !(f->op == X86_LEA && in.reg != RSP))) {
            char text[80];

            x86_format(&in, 0, text, sizeof text);
            log_error("JIT: emitted '%s', which is not allowed", text);
            return false;
        }
        from += in.length;
    }
    (void)j;
    return true;
}
