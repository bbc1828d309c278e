/* SPDX-License-Identifier: MIT */
/* The rows of opcode_*.def against the host's processor: each form that is mere computation runs on
 * it with random registers and flags. Registers and flags that the row does not name must not
 * change, flags must depend only on those it reads, memory must change only where and if it says.
 */
#include "engine/x86/encode.h"
#include "engine/x86/model.h"
#include "tap.h"
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#define ARITH (X86_CF | X86_PF | X86_AF | X86_ZF | X86_SF | X86_OF)
#define FLAGS ARITH

struct context { /* at a 32-bit address: the code reaches it without a register */
    uint64_t in[16], out[16], flags_in, flags_out;
    uint8_t memory[256] __attribute__((aligned(64)));
};

static struct context *context;
static uint8_t *code;
static sigjmp_buf fault;

static void on_signal(int number)
{
    siglongjmp(fault, number);
}

static uint8_t *emit(uint8_t *p, const void *bytes, size_t len)
{
    memcpy(p, bytes, len);
    return p + len;
}

/* mov reg,[address] (0x8b) or mov [address],reg (0x89) */
static uint8_t *emit_move(uint8_t *p, uint8_t opcode, unsigned reg, const uint64_t *address)
{
    uint8_t bytes[8] = {(uint8_t)(0x48 | reg >> 3 << 2), opcode, (uint8_t)(4 | (reg & 7) << 3),
                        0x25};

    put_le32(bytes + 4, (uint32_t)(uintptr_t)address);
    return emit(p, bytes, 8);
}

/* push qword [address] (/6 of ff) or pop qword [address] (/0 of 8f) */
static uint8_t *emit_stack(uint8_t *p, uint8_t opcode, unsigned digit, const uint64_t *address)
{
    uint8_t bytes[7] = {opcode, (uint8_t)(4 | digit << 3), 0x25};

    put_le32(bytes + 3, (uint32_t)(uintptr_t)address);
    return emit(p, bytes, 7);
}

static void build(const uint8_t *insn, unsigned len)
{
    static const uint8_t save[] = {0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57};
    static const uint8_t restore[] = {0xfc, 0x41, 0x5f, 0x41, 0x5e, 0x41,
                                      0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3};
    static const uint8_t fninit[] = {0xdb, 0xe3}, popfq = 0x9d, pushfq = 0x9c;
    uint8_t *p = emit(code, save, sizeof save);

    p = emit(p, fninit, sizeof fninit);
    p = emit_stack(p, 0xff, 6, &context->flags_in);
    p = emit(p, &popfq, 1);
    for (unsigned i = 0; i < 16; i++)
        if (i != 4)
            p = emit_move(p, 0x8b, i, &context->in[i]);
    p = emit(p, insn, len);
    for (unsigned i = 0; i < 16; i++)
        if (i != 4)
            p = emit_move(p, 0x89, i, &context->out[i]);
    p = emit(p, &pushfq, 1);
    p = emit_stack(p, 0x8f, 0, &context->flags_out);
    p = emit(p, fninit, sizeof fninit);
    emit(p, restore, sizeof restore);
}

/* False: it raised an exception (#DE, or a feature that the host lacks after all). */
static bool run(uint64_t flags)
{
    void (*fn)(void) = (void (*)(void))(uintptr_t)code;

    context->flags_in = flags | 2;
    if (sigsetjmp(fault, 1)) {
        __asm__ volatile("fninit; cld");
        return false;
    }
    fn();
    context->flags_out &= FLAGS | X86_DF;
    return true;
}

/* Computation only, and nothing that moves RSP or reaches memory that no operand names. */
static bool suitable(const struct x86_form *f)
{
    static const uint16_t no[] = {X86_XLAT, X86_FLDENV, X86_FRSTOR, X86_FLDCW,  X86_STD,
                                  X86_SALC, X86_FENI,   X86_FDISI,  X86_FNSETPM};

    if (f->class != X86_COPY || f->cpl0 || !(f->modes >> X86_MODE_64 & 1) ||
        !host_features()[f->feature ? f->feature : X86_F_BASE])
        return false;
    if ((f->implicit_read | f->implicit_written) & 1 << 4)
        return false;
    for (unsigned i = 0; i < ARRAY_SIZE(no); i++)
        if (f->op == no[i])
            return false;
    for (unsigned i = 0; i < 4; i++) {
        unsigned place = x86_operand_kind[f->operand[i]].place;

        if (place == X86_AT_VSIB || place == X86_AT_MOFFS)
            return false;
    }
    return true;
}

static bool uses_rsp(const struct insn *in)
{
    for (unsigned i = 0; i < 4; i++)
        switch (x86_operand_kind[x86_form[in->form].operand[i]].place) {
        case X86_AT_REG:
        case X86_AT_OPREG:
            if (in->reg == 4)
                return true;
            break;
        case X86_AT_RM:
        case X86_AT_RMREG:
            if (!in->mem && in->rm == 4)
                return true;
            break;
        case X86_AT_VVVV:
            if (in->vvvv == 4)
                return true;
            break;
        default: break;
        }
    return false;
}

static bool bit_string(const struct insn *in) /* reaches memory by a register's value */
{
    return (in->op == X86_BT || in->op == X86_BTS || in->op == X86_BTR || in->op == X86_BTC) &&
           x86_form[in->form].operand[1] == X86_O_Gv;
}

static unsigned gpr(unsigned n)
{
    return n >= X86_HIGH ? n - X86_HIGH : n;
}

/* Bit per general register that the row says may change. */
static unsigned written_registers(const struct insn *in)
{
    const struct x86_form *f = &x86_form[in->form];
    unsigned mask = f->implicit_written;

    for (unsigned i = 0; i < 4; i++) {
        if (!(f->access[i] & 2))
            continue;
        switch (x86_operand_kind[f->operand[i]].place) {
        case X86_AT_REG:
        case X86_AT_OPREG: mask |= 1u << gpr(in->reg); break;
        case X86_AT_RM:
        case X86_AT_RMREG: mask |= in->mem ? 0 : 1u << gpr(in->rm); break;
        case X86_AT_VVVV: mask |= 1u << in->vvvv; break;
        case X86_AT_ACC: mask |= 1; break;
        default: break;
        }
    }
    return mask;
}

static unsigned read_registers(const struct insn *in)
{
    const struct x86_form *f = &x86_form[in->form];
    unsigned mask = f->implicit_read | (in->opsize < 4 ? f->implicit_written : 0);

    for (unsigned i = 0; i < 4; i++) {
        bool partial = x86_operand_size(in, i) < 4; /* a write of 1 or 2 bytes keeps the others */

        if (!(f->access[i] & 1) && !partial)
            continue;
        switch (x86_operand_kind[f->operand[i]].place) {
        case X86_AT_REG:
        case X86_AT_OPREG: mask |= 1u << gpr(in->reg); break;
        case X86_AT_RM:
        case X86_AT_RMREG: mask |= in->mem ? 0 : 1u << gpr(in->rm); break;
        case X86_AT_VVVV: mask |= 1u << in->vvvv; break;
        case X86_AT_ACC: mask |= 1; break;
        case X86_AT_CL: mask |= 2; break;
        default: break;
        }
    }
    return in->mem ? mask | 1u << in->base : mask;
}

static const char *verdict(const struct insn *in, uint64_t flags, const uint8_t *before)
{
    const struct x86_form *f = &x86_form[in->form];
    unsigned may = written_registers(in), size = x86_mem_size(in);
    unsigned keep = ARITH & ~(f->flags_written | f->flags_undefined);

    for (unsigned i = 0; i < 16; i++)
        if (i != 4 && !(may >> i & 1) && context->in[i] != context->out[i])
            return "a register changed";
    if ((context->flags_out ^ flags) & keep)
        return "a flag changed";
    if (memcmp(context->memory, before, 64) ||
        memcmp(context->memory + 64 + size, before + 64 + size, 256 - 64 - size))
        return "memory changed beside the operand";
    if (!(x86_mem_access(in) & 2) && memcmp(context->memory, before, 256))
        return "memory changed";
    return NULL;
}

/* Same inputs, but other flags and registers that the row does not read: the same results. */
static const char *verdict_again(const struct insn *in, uint64_t flags, const uint8_t *before,
                                 struct x86_rng *rng)
{
    const struct x86_form *f = &x86_form[in->form];
    uint64_t first[16], first_flags = context->flags_out;
    unsigned read = read_registers(in), written = written_registers(in);

    memcpy(first, context->out, sizeof first);
    memcpy(context->memory, before, 256);
    for (unsigned i = 0; i < 16; i++)
        if (!(read >> i & 1))
            context->in[i] = x86_rng_next(rng);
    if (!run(flags ^ (ARITH & ~f->flags_read)))
        return "an exception came from what the row does not read";
    if ((first_flags ^ context->flags_out) & f->flags_written & ARITH)
        return "a flag depends on what the row does not read";
    for (unsigned i = 0; i < 16; i++)
        if (i != 4 && written >> i & 1 && first[i] != context->out[i] &&
            !(f->flags_undefined == (ARITH & ~X86_ZF) && f->flags_written == X86_ZF))
            return "a register depends on what the row does not read";
    return NULL;
}

/* A vector form faults on an odd address if, and only if, its row has an alignment. */
static const char *verdict_odd(const struct insn *in)
{
    const struct x86_form *f = &x86_form[in->form];
    bool faults;

    if (!in->mem || f->gate < X86_GATE_MMX || f->gate > X86_GATE_AVX)
        return NULL;
    if (f->feature ==
        X86_F_SHA) /* Intel asks for alignment, AMD's Zen does not; rows follow Intel */
        return NULL;
    context->in[13] = (uintptr_t)context->memory + 65;
    faults = !run(0);
    return faults == (f->align != 0) ? NULL : "alignment is not as the row says";
}

static const char *try_one(struct insn *in, struct x86_rng *rng, bool *ran)
{
    uint8_t bytes[X86_INSN_MAX], before[256];
    uint64_t flags = x86_rng_next(rng) & ARITH;
    const char *problem;
    unsigned len;

    if (in->mem)
        x86_set_mem(in, 13, X86_NO_REG, 0, 0);
    len = x86_encode(in, X86_MODE_64, bytes);
    if (!len)
        return NULL;
    for (unsigned i = 0; i < 16; i++)
        context->in[i] = x86_rng_next(rng) >> (x86_rng_next(rng) & 1 ? 0 : x86_rng_next(rng) & 63);
    for (unsigned i = 0; i < 256; i += 8)
        put_le64(context->memory + i, x86_rng_next(rng));
    memcpy(before, context->memory, 256);
    if (in->mem)
        context->in[13] = (uintptr_t)context->memory + 64;
    build(bytes, len);
    if (!run(flags))
        return NULL;
    *ran = true;
    problem = verdict(in, flags, before);
    if (problem)
        return problem;
    if (x86_form[in->form].gate != X86_GATE_NONE)
        return verdict_odd(in);
    return verdict_again(in, flags, before, rng);
}

static void test_form(unsigned form, struct x86_rng *rng, unsigned *ran, unsigned *bad)
{
    bool any = false;

    for (unsigned i = 0; i < 60; i++) {
        uint8_t bytes[X86_INSN_MAX];
        unsigned len = x86_random(form, rng, X86_MODE_64, X86_WISH_PLAIN, bytes);
        const char *problem;
        struct insn in;

        if (!len)
            break;
        x86_decode(&in, bytes, len, X86_MODE_64);
        if (uses_rsp(&in) || (in.mem && bit_string(&in)))
            continue;
        problem = try_one(&in, rng, &any);
        if (problem && (*bad)++ < 20) {
            char text[100];

            x86_format(&in, 0, text, sizeof text);
            printf("# form %u, %s: %s\n", form, text, problem);
            return;
        }
    }
    *ran += any;
    if (!any)
        printf("# form %u, %s: not run\n", form, x86_op_name[x86_form[form].op]);
}

int main(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_NODEFER};
    struct x86_rng rng = {20261124};
    unsigned ran = 0, bad = 0, tried = 0;

    code = mmap(NULL, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (code == MAP_FAILED) {
        tap_skip("rows against the host's processor", "no writable and executable memory here");
        return tap_done();
    }
    context = (struct context *)(code + PAGE_SIZE);
    sigaction(SIGFPE, &action, NULL);
    sigaction(SIGILL, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
    for (unsigned form = 0; form < x86_form_count; form++)
        if (suitable(&x86_form[form])) {
            tried++;
            test_form(form, &rng, &ran, &bad);
        }
    ok(!bad, "%u forms ran on the host as their rows say (%u did not)", ran, bad);
    ok(ran + 10 >= tried && ran > 300, "%u of %u suitable forms ran", ran, tried);
    return tap_done();
}
