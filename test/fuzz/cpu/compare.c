/* SPDX-License-Identifier: MIT */
/* What both sides left, compared; differences in words. */
#include "compare.h"
#include "engine/x86/table.h"
#include <stdio.h>
#include <string.h>

static const char *const reg_names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                          "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

/* Flags that are left undefined by the last instruction, if it completed. */
static uint64_t flag_mask(const struct fuzz_case *c, const struct fuzz_state *n, bool loose)
{
    uint64_t mask = X86_CF | X86_PF | X86_AF | X86_ZF | X86_SF | X86_OF | X86_DF | 0x247300;
    bool completed = n->rip == c->base + PAGE_CODE * 4096 + c->code_to ||
                     n->rip == c->base + PAGE_CODE * 4096 + c->code_to + 1;

    if (loose && !completed)
        mask &= ~(uint64_t)(X86_CF | X86_PF | X86_AF | X86_ZF | X86_SF | X86_OF);
    if (c->insns && completed)
        mask &= ~(uint64_t)x86_form[c->insn[c->insns - 1].form].flags_undefined;
    return mask;
}

struct report {
    char *text;
    size_t size, used;
    unsigned count;
};

static void differ(struct report *r, const char *what, uint64_t host, uint64_t soft)
{
    int n = 0;

    if (r->used < r->size)
        n = snprintf(r->text + r->used, r->size - r->used, "#   %-8s host %016llx  soft %016llx\n",
                     what, (unsigned long long)host, (unsigned long long)soft);
    r->used += n > 0 ? (size_t)n : 0;
    r->count++;
}

static void compare_bytes(struct report *r, const char *name, unsigned number, const uint8_t *host,
                          const uint8_t *soft, unsigned length)
{
    if (!memcmp(host, soft, length))
        return;
    for (unsigned i = 0; i < length; i += 8) {
        uint64_t a = 0, b = 0;
        unsigned n = length - i < 8 ? length - i : 8;
        char what[32];

        memcpy(&a, host + i, n);
        memcpy(&b, soft + i, n);
        snprintf(what, sizeof what, "%s%u[%u]", name, number, i);
        if (a != b)
            differ(r, what, a, b);
    }
}

static void compare_fpu(struct report *r, const uint8_t *host, const uint8_t *soft, uint32_t mask)
{
    uint32_t host_mxcsr, soft_mxcsr;

    compare_bytes(r, "fcw", 0, host, soft, 2);
    compare_bytes(r, "fsw", 0, host + 2, soft + 2, 2);
    compare_bytes(r, "ftw", 0, host + 4, soft + 4, 1);
    memcpy(&host_mxcsr, host + 24, 4);
    memcpy(&soft_mxcsr, soft + 24, 4);
    if ((host_mxcsr ^ soft_mxcsr) & mask)
        differ(r, "mxcsr", host_mxcsr, soft_mxcsr);
    for (unsigned i = 0; i < 8; i++)
        compare_bytes(r, "st", i, host + 32 + 16 * i, soft + 32 + 16 * i, 10);
    for (unsigned i = 0; i < 16; i++) {
        compare_bytes(r, "xmm", i, host + 160 + 16 * i, soft + 160 + 16 * i, 16);
        compare_bytes(r, "ymmh", i, host + 576 + 16 * i, soft + 576 + 16 * i, 16);
    }
}

static void compare_page(struct report *r, unsigned page, const uint8_t *host, const uint8_t *soft)
{
    unsigned shown = 0;

    if (!memcmp(host + page * 4096, soft + page * 4096, 4096))
        return;
    for (unsigned i = page * 4096; i < page * 4096 + 4096 && shown < 6; i += 8) {
        char what[32];
        uint64_t a, b;

        memcpy(&a, host + i, 8);
        memcpy(&b, soft + i, 8);
        snprintf(what, sizeof what, "mem%x", i);
        if (a != b) {
            differ(r, what, a, b);
            shown++;
        }
    }
}

/* The instruction at which a run stopped, or NULL. */
static const struct insn *stopped_at(const struct fuzz_case *c, uint64_t rip)
{
    uint64_t at = c->base + PAGE_CODE * 4096 + c->code_from;

    for (unsigned i = 0; i < c->insns; at += c->insn[i++].length)
        if (at == rip)
            return &c->insn[i];
    return NULL;
}

static bool named(const struct insn *in, const char *part)
{
    return in && strstr(x86_op_name[in->op], part);
}

static bool is_byte_mask_move(const struct insn *in)
{
    return in && (in->op == X86_MASKMOVQ || in->op == X86_MASKMOVDQU || in->op == X86_VMASKMOVDQU);
}

/* The page behind the code, at either of its addresses. On the host it is mapped: it holds the jump
 * back. */
static bool behind_code(uint64_t address)
{
    uint64_t offset =
        (address >= FUZZ_HIGH ? address - FUZZ_HIGH : address - FUZZ_LOW) - (PAGE_CODE + 2) * 4096;

    return offset < 4096;
}

static bool met_landing(const struct fuzz_case *c, const struct fuzz_state *soft)
{
    uint64_t end = c->base + (PAGE_CODE + 2) * 4096;

    if (soft->vector != 14 || !behind_code(soft->cr2))
        return false;
    if (!(soft->error & 0x10) || soft->cr2 != end)
        return true;
    return soft->rip != end && c->broken != FUZZ_BAD_CUT; /* jumped into the last instruction */
}

/* A LOOP that jumps to itself a million times or more: this processor may end in the time given to
 * both, an interpreter not. */
static bool loops_long(const struct fuzz_case *c)
{
    if (c->program) /* its counter was overwritten */
        return true;
    for (unsigned i = 0; i < c->insns; i++)
        if (named(&c->insn[i], "loop") && c->start.reg[1] >> 20)
            return true;
    return false;
}

bool fuzz_calls_nowhere(const struct fuzz_case *c, const struct fuzz_state *host)
{
    return host->vector == 13 && named(stopped_at(c, host->rip), "call");
}

bool fuzz_incomparable(const struct fuzz_case *c, const struct fuzz_state *host,
                       const struct fuzz_state *soft)
{
    const struct insn *at = stopped_at(c, host->rip), *soft_at = stopped_at(c, soft->rip);

    if (host->vector >= FUZZ_TIMEOUT) /* it looped, or made a system call */
        return true;
    if (soft->vector == FUZZ_TIMEOUT && loops_long(c))
        return true;
    if (host->vector ==
        17) /* the soft engine has no alignment checks (EFLAGS.AC): no system relies on them */
        return true;
    /* Instructions of the host's that no model has. */
    if (c->broken == FUZZ_BAD_INVALID && (host->vector != 6 || host->rip != soft->rip))
        return true;
    /* How much is fetched before #UD is certain. */
    if (c->broken == FUZZ_BAD_CUT && host->vector == 6 && soft->vector == 14)
        return true;
    if (soft->vector == 6 && !soft_at && c->broken == FUZZ_GOOD)
        return true; /* jumped into an instruction, and that is such a one */
    if (met_landing(c, soft))
        return true;
    /* With nothing enabled in its mask, MASKMOV may or may not fault (SDM); a program may come to
     * it again. */
    if ((host->vector == 14 || host->vector == 13) && is_byte_mask_move(at) &&
        (at != soft_at || c->program))
        return true;
    /* SHA operands in memory: Intel wants them aligned, AMD does not. */
    if (soft->vector == 13 && (at != soft_at || host->vector != 13) && named(soft_at, "sha"))
        return true;
    /* A single-step trap may come between a gather's elements. */
    if (host->vector == 1 && at == soft_at && at && (x86_encoding[at->form].flags & X86_E_VSIB))
        return true;
    /* A large operand that runs out of the canonical addresses, from pages that are not there. */
    if (host->vector == 14 && (soft->vector == 12 || soft->vector == 13) && at == soft_at && at &&
        x86_mem_size(at) > 8 && host->cr2 + 512 >= 0x800000000000 && host->cr2 < 0x800000000000)
        return true;
    /* FS or GS with an offset that is no canonical address while the sum is one. */
    if (host->vector == 13 && soft->vector == 14 && at == soft_at && at && at->seg >= SEG_FS)
        return true;
    /* AMD has a bit more in MXCSR, 17. */
    if (soft->vector == 13 && soft_at &&
        (soft_at->op == X86_LDMXCSR || soft_at->op == X86_VLDMXCSR || soft_at->op == X86_FXRSTOR) &&
        (at != soft_at || host->vector != 13))
        return true;
    /* A call to a non-canonical address with no stack: which fault comes first differs by maker. */
    if ((host->vector == 14 || host->vector == 12) && soft->vector == 13 && at == soft_at &&
        named(at, "call"))
        return true;
    /* DPPS and DPPD compute in steps: an unmasked exception of an early one is not seen in a masked
     * run. */
    return host->vector == 19 && named(at, "dpp");
}

/* Of operands that are read or written in parts any byte may be the first that faults. */
static bool same_address(const struct fuzz_case *c, const struct fuzz_state *host, uint64_t soft)
{
    const struct insn *at = stopped_at(c, host->rip);
    uint64_t distance = soft - host->cr2;

    if (distance >> 63)
        distance = -distance;
    if (is_byte_mask_move(at))
        return distance < 16;
    if (at && (x86_mem_size(at) == 14 || x86_mem_size(at) == 28 || x86_mem_size(at) > 32))
        return distance < x86_mem_size(at);
    return distance == 0;
}

/* Above what programs can map the host's own tables answer: whether present is not ours to say. */
static uint32_t error_mask(const struct fuzz_case *c, const struct fuzz_state *host)
{
    if (host->cr2 >= 0x7ffffffff000 || is_byte_mask_move(stopped_at(c, host->rip)))
        return ~1u;
    return ~0u;
}

/* An unmasked underflow or overflow is raised before rounding: whether the result would have been
 * inexact too is not known to our masked run. */
static uint32_t mxcsr_mask(const struct fuzz_state *host)
{
    uint32_t mxcsr;

    memcpy(&mxcsr, host->xsave + 24, 4);
    return host->vector == 19 && (mxcsr & ~(mxcsr >> 7) & 0x18) ? ~0x20u : ~0u;
}

unsigned fuzz_compare(const struct fuzz_case *c, const struct fuzz_state *host,
                      const struct fuzz_state *soft, bool loose, const uint8_t *host_memory,
                      const uint8_t *soft_memory, char *text, size_t size)
{
    struct report r = {.text = text, .size = size};
    uint64_t mask = flag_mask(c, host, loose);
    unsigned registers = c->mode == X86_MODE_64 ? 16 : 8;
    uint64_t wide = c->mode == X86_MODE_64 ? ~0ull : 0xffffffff;

    if (host->vector != soft->vector)
        differ(&r, "vector", host->vector, soft->vector);
    if (host->vector == soft->vector && (host->error ^ soft->error) & error_mask(c, host))
        differ(&r, "error", host->error, soft->error);
    if (host->vector == soft->vector && !same_address(c, host, soft->cr2))
        differ(&r, "cr2", host->cr2, soft->cr2);
    if (host->rip != soft->rip)
        differ(&r, "rip", host->rip, soft->rip);
    if ((host->rflags & mask) != (soft->rflags & mask))
        differ(&r, "rflags", host->rflags & mask, soft->rflags & mask);
    for (unsigned i = 0; i < registers; i++)
        if ((host->reg[i] & wide) != (soft->reg[i] & wide))
            differ(&r, reg_names[i], host->reg[i], soft->reg[i]);
    if (host->cs != soft->cs)
        differ(&r, "cs", host->cs, soft->cs);
    if (host->ss != soft->ss)
        differ(&r, "ss", host->ss, soft->ss);
    compare_fpu(&r, host->xsave, soft->xsave, mxcsr_mask(host));
    for (unsigned i = PAGE_DATA; i < FUZZ_PAGES; i++)
        if (fuzz_perm[i])
            compare_page(&r, i, host_memory, soft_memory);
    return r.count;
}
