/* SPDX-License-Identifier: MIT */
/* Lowering: decoded instructions to uops. Hot integer instructions get a specialised handler, every
 * other one a uop that calls its instruction handler. */
#include "engine/soft/block.h"
#include "engine/soft/operand.h"
#include "engine/soft/trace.h"

/* STATE instructions after which the block may go on: they change nothing that lowering or event
 * delivery depends on, or set cpu->pending when they do. */
static bool harmless(unsigned op)
{
    switch (op) {
    case X86_RDTSC:
    case X86_RDTSCP:
    case X86_CPUID:
    case X86_RDMSR:
    case X86_PUSHF:
    case X86_CLI:
    case X86_STI:
    case X86_IN:
    case X86_OUT:
    case X86_SWAPGS:
    case X86_LFENCE:
    case X86_MFENCE:
    case X86_SFENCE:
    case X86_CLFLUSH:
    case X86_CLFLUSHOPT:
    case X86_CLWB:
    case X86_RDFSBASE:
    case X86_RDGSBASE:
    case X86_WRFSBASE:
    case X86_WRGSBASE:
    case X86_LDMXCSR:
    case X86_STMXCSR: return true;
    default: return false;
    }
}

bool soft_ends_block(const struct insn *in)
{
    const struct x86_form *form = &x86_form[in->form];

    switch (form->class) {
    case X86_FLOW:
    case X86_UNDEF: return true;
    case X86_STRING: return in->prefix & (X86_P_REP | X86_P_REPNE);
    case X86_STATE: return !harmless(form->op);
    default: return false;
    }
}

unsigned soft_lower(const struct lowering *l, struct uop *out)
{
    unsigned n = 0, at = 0;

    for (unsigned i = 0; i < l->insns; i++) {
        const struct insn *in = &l->insn[i];
        struct uop *u = &out[n++];

        *u = (struct uop){.at = (uint16_t)at, .insn = (uint16_t)(i + 1), .length = in->length};
        u->fn = soft_ends_block(in) ? uop_insn_end : uop_insn_next;
        at += in->length;
    }
    if (out[n - 1].fn != uop_insn_end) {
        out[n] = (struct uop){.fn = uop_fall, .disp = (int32_t)at, .at = (uint16_t)at};
        out[n].imm = (uintptr_t)&out[n + 1];
        out[n + 1] = (struct uop){.fn = uop_find, .at = (uint16_t)at};
        n += 2;
    }
    return n;
}
