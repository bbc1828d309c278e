/* SPDX-License-Identifier: MIT */
/* The decoder's lengths against the host's processor: an instruction is laid so that its last byte,
 * or none, is missing before an inaccessible page, and started. The processor must ask for that
 * byte exactly when the decoder says that it is there. Prefixes in any order and number, 64-bit
 * mode. */
#include "engine/x86/encode.h"
#include "engine/x86/model.h"
#include "tap.h"
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

enum { FETCH = 0x10, TRAP_FLAG = 0x100 }; /* page-fault error code, RFLAGS */
#define WILD 0x8000000000000000           /* not canonical: no memory operand reaches anything */

static struct {
    uint8_t *page, *stack; /* `page` is followed by one without access */
    uint64_t start;
    volatile int signal; /* how the instruction ended */
    volatile uint64_t address, error;
    gregset_t before;
} probe;

static void launch(int number, siginfo_t *info, void *p)
{
    ucontext_t *u = p;
    greg_t *reg = u->uc_mcontext.gregs;

    memcpy(&probe.before, &u->uc_mcontext.gregs, sizeof probe.before);
    for (int i = REG_R8; i <= REG_RCX; i++)
        reg[i] = (greg_t)WILD;
    reg[REG_RSP] = (greg_t)(uintptr_t)(probe.stack + PAGE_SIZE / 2);
    reg[REG_RIP] = (greg_t)probe.start;
    reg[REG_EFL] = TRAP_FLAG | 2;
}

static void land(int number, siginfo_t *info, void *p)
{
    ucontext_t *u = p;

    probe.signal = number;
    probe.address = (uintptr_t)info->si_addr;
    probe.error = (uint64_t)u->uc_mcontext.gregs[REG_ERR];
    memcpy(&u->uc_mcontext.gregs, &probe.before, sizeof probe.before);
}

/* Whether the processor asks for more than these bytes. */
static bool asks_for_more(const uint8_t *bytes, unsigned len)
{
    memcpy(probe.page + PAGE_SIZE - len, bytes, len);
    probe.start = (uintptr_t)probe.page + PAGE_SIZE - len;
    raise(SIGUSR1);
    return probe.signal == SIGSEGV && probe.error & FETCH &&
           probe.address == (uintptr_t)probe.page + PAGE_SIZE;
}

/* Forms whose length makers disagree on, or that raise #UD before all is fetched. */
static bool settled(const struct insn *in)
{
    const struct x86_form *f = &x86_form[in->form];

    return f->class != X86_UNDEF && !(f->class == X86_FLOW && in->prefix & X86_P_66) &&
           host_features()[f->feature];
}

/* May run whole: computes, and touches no memory but through wild registers. */
static bool harmless(const struct insn *in)
{
    return x86_form[in->form].class == X86_COPY && !(in->prefix & X86_P_SEG) &&
           in->op != X86_XLAT &&
           (!in->mem || (in->adsize == 8 && in->base < 16 && in->index == X86_NO_REG)) &&
           !((x86_form[in->form].implicit_read | x86_form[in->form].implicit_written) >> 4 & 1) &&
           x86_operand_kind[x86_form[in->form].operand[0]].place != X86_AT_MOFFS &&
           x86_operand_kind[x86_form[in->form].operand[1]].place != X86_AT_MOFFS;
}

static void random_bytes(struct x86_rng *rng, uint8_t bytes[16])
{
    static const uint8_t start[] = {0x66, 0xf2, 0xf3, 0x0f, 0x0f, 0x48, 0x41, 0xc4,
                                    0xc5, 0x67, 0x2e, 0x64, 0xf0, 0x4c, 0x66, 0x0f};
    uint64_t dice = x86_rng_next(rng);

    put_le64(bytes, x86_rng_next(rng));
    put_le64(bytes + 8, x86_rng_next(rng));
    for (unsigned i = 0; i < (dice >> 56) % 6; i++)
        bytes[i] = start[dice >> 8 * i & 15];
    if (dice >> 50 & 1 && bytes[0] == 0xc4)
        bytes[1] = (uint8_t)((bytes[1] & 0xe0) | (1 + (bytes[1] & 0x1f) % 3));
}

static void complain(const char *what, const struct insn *in, const uint8_t *bytes)
{
    char text[100];

    x86_format(in, 0, text, sizeof text);
    printf("# %s:", what);
    for (unsigned i = 0; i < in->length; i++)
        printf(" %02x", bytes[i]);
    printf(" %s\n", text);
}

static void test_lengths(unsigned count)
{
    struct x86_rng rng = {20261124};
    unsigned tried = 0, whole = 0, bad = 0;

    for (unsigned i = 0; i < count; i++) {
        uint8_t bytes[16];
        struct insn in;

        random_bytes(&rng, bytes);
        if (x86_decode(&in, bytes, X86_INSN_MAX, X86_MODE_64) != X86_DECODED || !settled(&in))
            continue;
        tried++;
        if (in.length > 1 && !asks_for_more(bytes, in.length - 1u)) {
            if (bad++ < 20)
                complain("shorter", &in, bytes);
        } else if (harmless(&in)) {
            whole++;
            if (asks_for_more(bytes, in.length) && bad++ < 20)
                complain("longer", &in, bytes);
            else if (probe.signal == SIGILL && bad++ < 20)
                complain("invalid", &in, bytes);
        }
    }
    ok(tried > count / 4 && whole > count / 16 && !bad,
       "%u instructions, %u of them run whole: %u lengths differ", tried, whole, bad);
}

int main(void)
{
    static const int ends[] = {SIGSEGV, SIGILL, SIGTRAP, SIGBUS, SIGFPE};
    static uint8_t signal_stack[65536];
    stack_t stack = {.ss_sp = signal_stack, .ss_size = sizeof signal_stack};
    struct sigaction action = {.sa_sigaction = launch, .sa_flags = SA_SIGINFO | SA_ONSTACK};

    probe.page = mmap(NULL, 3 * PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (probe.page == MAP_FAILED) {
        tap_skip("lengths against the host's processor", "no writable and executable memory here");
        return tap_done();
    }
    mprotect(probe.page + PAGE_SIZE, PAGE_SIZE, PROT_NONE);
    probe.stack = probe.page + 2 * PAGE_SIZE;
    sigaltstack(&stack, NULL);
    sigaction(SIGUSR1, &action, NULL);
    action.sa_sigaction = land;
    for (unsigned i = 0; i < ARRAY_SIZE(ends); i++)
        sigaction(ends[i], &action, NULL);
    test_lengths(60000);
    return tap_done();
}
