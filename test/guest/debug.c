/* SPDX-License-Identifier: MIT */
/* Debug registers, single-step, interrupt shadows: what comes between two instructions. */
#include "lib64.h"

#define KERNEL(name, text)                                                                         \
    __attribute__((naked)) static void name(uint64_t arg)                                          \
    {                                                                                              \
        __asm__ volatile(text);                                                                    \
    }
#define USER(name, text)                                                                           \
    __attribute__((naked, section(".user"), aligned(16))) static void name(void)                   \
    {                                                                                              \
        __asm__ volatile(text);                                                                    \
    }

static uint64_t steps[32], count, dr6_seen[32];
static volatile uint32_t word[4] __attribute__((aligned(16)));

/* Records every #DB, and goes on. */
static bool record(struct frame *f)
{
    if (f->vector != DB)
        return false;
    if (count < ARRAY_SIZE(steps)) {
        steps[count] = f->rip;
        dr6_seen[count] = read_dr6();
    }
    count++;
    write_dr6(0);
    return true;
}

static void watch(unsigned n, const volatile void *at, unsigned type, unsigned len)
{
    uint64_t dr7 =
        0x400 | 2ull << (2 * n) | (uint64_t)type << (16 + 4 * n) | (uint64_t)len << (18 + 4 * n);

    switch (n) {
    case 0: write_dr0((uint64_t)at); break;
    case 1: write_dr1((uint64_t)at); break;
    case 2: write_dr2((uint64_t)at); break;
    default: write_dr3((uint64_t)at); break;
    }
    count = 0;
    write_dr6(0);
    write_dr7(dr7);
}

KERNEL(step_three, "pushfq; orq $0x100, (%rsp); popfq\n.globl step_a\nstep_a: nop; nop; pushfq; "
                   "andq $~0x100, (%rsp); popfq; nop; ret")
KERNEL(step_ss, "mov %ss, %eax; pushfq; orq $0x100, (%rsp); popfq\n.globl ss_a\nss_a: mov %eax, "
                "%ss; nop; nop; pushfq; andq $~0x100, (%rsp); popfq; ret")
KERNEL(
    step_rep,
    "lea word(%rip), %rdi; mov $3, %ecx; xor %eax, %eax; pushfq; orq $0x100, (%rsp); popfq\n"
    ".globl rep_a\nrep_a: rep stosb\n.globl rep_b\nrep_b: pushfq; andq $~0x100, (%rsp); popfq; ret")
KERNEL(step_int, "pushfq; orq $0x100, (%rsp); popfq; int $0x82\n.globl int_a\nint_a: nop; pushfq; "
                 "andq $~0x100, (%rsp); popfq; ret")
extern char step_a[], ss_a[], rep_a[], rep_b[], int_a[];

static bool resume_82(struct frame *f)
{
    return f->vector == 0x82 || record(f);
}

static void single_step(void)
{
    trap_hook = record;
    count = 0;
    trap_call(step_three, 0);
    ok(count >= 3 && steps[0] == (uint64_t)step_a + 1,
       "TF: the first trap comes after the instruction behind POPF");
    ok(steps[1] == (uint64_t)step_a + 2, "and then after each");
    ok((dr6_seen[0] & 0xe00f) == 0x4000, "DR6.BS");
    is(count, 5, "the POPF that clears TF still traps");
    count = 0;
    trap_call(step_ss, 0);
    is(steps[0], (uint64_t)ss_a + 3, "no trap between MOV SS and the next instruction");
    count = 0;
    trap_call(step_rep, 0);
    ok(steps[0] == (uint64_t)rep_a && steps[1] == (uint64_t)rep_a && steps[2] == (uint64_t)rep_b,
       "REP STOSB traps after each iteration");
    trap_hook = resume_82;
    count = 0;
    trap_call(step_int, 0);
    ok(count >= 1 && steps[0] == (uint64_t)int_a + 1, "INT clears TF, IRET sets it again");
    trap_hook = NULL;
}

KERNEL(write_word, "movl $1, word(%rip)\n.globl write_a\nwrite_a: nop; ret")
KERNEL(write_next, "movl $1, word+4(%rip); ret")
KERNEL(write_byte3, "movb $1, word+3(%rip); ret")
KERNEL(read_word, "mov word(%rip), %eax; ret")
KERNEL(write_wide, "movq $1, word-4(%rip); ret")
KERNEL(run_there, "nop\n.globl bp_a\nbp_a: nop; nop; ret")
KERNEL(load_ss_watched, "movl $0x10, %eax; mov word+8(%rip), %ss\n.globl lss_a\nlss_a: nop\n.globl "
                        "lss_b\nlss_b: nop; ret")
KERNEL(read_dr7_gd, "mov %dr7, %rax; ret")
extern char write_a[], bp_a[], lss_a[], lss_b[];

static bool resume_flag(struct frame *f)
{
    if (!record(f))
        return false;
    f->rflags |= 0x10000;
    return true;
}

static void data_breakpoints(void)
{
    trap_hook = record;
    watch(0, word, 1, 3);
    trap_call(write_word, 0);
    ok(count == 1 && steps[0] == (uint64_t)write_a, "data breakpoint: a trap behind the write");
    ok((dr6_seen[0] & 0xf) == 1, "DR6.B0");
    watch(0, word, 1, 3);
    trap_call(write_next, 0);
    is(count, 0, "a write beside it");
    trap_call(write_byte3, 0);
    is(count, 1, "a write of its last byte");
    count = 0;
    trap_call(write_wide, 0);
    is(count, 1, "a wider write that covers it");
    count = 0;
    trap_call(read_word, 0);
    is(count, 0, "a read does not match a write breakpoint");
    watch(1, word, 3, 3);
    trap_call(read_word, 0);
    ok(count == 1 && (dr6_seen[0] & 0xf) == 2, "a read matches a read/write breakpoint, DR6.B1");
    word[2] = 0x10;
    watch(2, word + 2, 3, 3);
    trap_call(load_ss_watched, 0);
    is(steps[0], (uint64_t)lss_b, "a breakpoint met by MOV SS is held for one instruction");
    write_dr7(0x400);
}

static void code_breakpoints(void)
{
    trap_hook = resume_flag;
    watch(3, bp_a, 0, 0);
    trap_call(run_there, 0);
    ok(count == 1 && steps[0] == (uint64_t)bp_a,
       "instruction breakpoint: a fault, and RF lets it pass");
    ok((dr6_seen[0] & 0xf) == 8, "DR6.B3");
    watch(3, bp_a, 0, 0);
    trap_call(run_there, 0);
    is(count, 1, "it fires again the next time");
    write_dr7(0x400);
    count = 0;
    trap_call(run_there, 0);
    is(count, 0, "and not when disabled");
}

static void general_detect(void)
{
    trap_hook = NULL;
    write_dr6(0);
    write_dr7(0x2400);
    ok(trap_call(read_dr7_gd, 0) == DB, "DR7.GD catches MOV DR");
    ok(read_dr6() & 0x2000, "DR6.BD");
    ok(!(read_dr7() & 0x2000), "GD is cleared in the handler");
    write_dr6(0);
}

static void registers(void)
{
    write_dr6(0);
    is(read_dr6(), 0xffff0ff0, "DR6's fixed bits");
    write_dr7(0);
    is(read_dr7(), 0x400, "DR7's fixed bits");
    write_dr3(0x123456789abcdef0);
    is(read_dr3(), 0x123456789abcdef0, "DR3 is 64 bits");
    write_dr3(0);
}

USER(user_dr, "mov %dr0, %rax; int $0x80")
USER(user_tf, "pushfq; orq $0x100, (%rsp); popfq; nop; nop; int $0x80")

int main(void)
{
    tables_load();
    boot_user_pages();
    gate_set(0x82, trap_stubs + 0x82 * 16, RING0_CODE, 14, 3, 0);
    registers();
    single_step();
    data_breakpoints();
    code_breakpoints();
    general_detect();
    ok(user_call((void *)user_dr) == GP, "user: MOV from DR0");
    ok(user_call((void *)user_tf) == DB && trap.rip == (uint64_t)user_tf + 11, "user: TF");
    return done();
}
