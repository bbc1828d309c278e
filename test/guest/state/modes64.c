/* SPDX-License-Identifier: MIT */
/* Snippets and faults in 64-bit mode, ring 0 and 3, and in compatibility mode. */
#include "../lib64.h"
#include "long.h"
#include "snippets.h"

/* clang-format off */
#define TEXT(x) TEXT_(x)
#define TEXT_(x) #x
#define SEED64 "movabs $0x123456789abcdef0, %r8; movabs $0xfedcba9876543210, %r9; lea 5(%r8), %r10; mov %r9, %r11; bswap %r11\n"
/* What only 64-bit mode has, around each snippet. */
#define MORE64 "addq %r8, %r9; imulq %r9, %r10; shlq $3, %r11; movslq %eax, %r8; xorl %r10d, %r8d; rolq $17, %r9; bsrq %r10, %r11\n"
#define NOTE64(mask) "pushfq; popq 0x6000; andl $" TEXT(mask) ", 0x6000\n" SNIPPET_NOTE \
    "movq %r8, 0x6020; movq %r9, 0x6028; movq %r10, 0x6030; movq %r11, 0x6038\n"
#define NOTE32(mask) "pushfl; popl 0x6000; andl $" TEXT(mask) ", 0x6000\n" SNIPPET_NOTE
#define PIECE(code, prefix, name, text) \
    __asm__(".pushsection .user, \"ax\"\n.code" #code "\n.globl " #prefix #name "\n" #prefix #name ":\n" SNIPPET_SEED text \
            "ret\n.code64\n.popsection"); \
    extern const char prefix##name[];
#define SNIPPET64(name, mask, text) PIECE(64, s64_, name, SEED64 MORE64 text NOTE64(mask))
#define SNIPPET32(name, mask, text) PIECE(32, s32_, name, text NOTE32(mask))
#define FAULT64(name, text) PIECE(64, f64_, name, text)
#define FAULT32(name, text) PIECE(32, f32_, name, text)
SNIPPETS(SNIPPET64)
FAULTS(FAULT64)
SNIPPETS(SNIPPET32)
SNIPPETS_NOT64(SNIPPET32)
FAULTS(FAULT32)
FAULTS_NOT64(FAULT32)
/* clang-format on */

void long_set_up(void)
{
    tables_load();
    boot_user_pages();
    for (unsigned i = 6; i < 8; i++) /* what snippets note */
        ((uint64_t *)(boot_pd[0] & ~0xfffull))[i] |= 4;
    write_cr3(read_cr3());
    write_cr0((read_cr0() & ~4ull) | 0x22);
    tss.iomap = sizeof tss;
    __asm__ volatile("fninit");
}

void note_trap(int vector)
{
    SNIPPET_NOTES(note);
    note((uint32_t)vector);
    if (vector < 0)
        return;
    note(trap.code);
    note(trap.cs);
    note(trap.rip);
    trap.rflags &= ~0x10010ull; /* TCG pushes no RF; AF is often undefined */
    note(trap.rflags);
    note(trap.ss);
    if (trap.cs & 3)
        note(trap.rsp);
    if (vector == PF)
        note(trap_cr2);
    if (vector == DB)
        note(read_dr6());
    trap.rsp = 0;
}

static void call64(uint64_t code)
{
    __asm__ volatile("pushq %%rbx; pushq %%rbp; call *%0; popq %%rbp; popq %%rbx"
                     :
                     : "r"(code)
                     : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
                       "r14", "r15", "memory", "cc");
}

static void kernel(uintptr_t code)
{
    long_set_up();
    note_trap(trap_call(call64, code));
}

__asm__(".pushsection .user, \"ax\"\nuser_stub: call *%rax; int $0x80\n"
        ".code32\ncompat_stub: call *%eax; int $0x80\n.code64\n.popsection");
extern char user_stub[], compat_stub[];

static uint64_t stub, stub_cs;

static void call_user(uint64_t code)
{
    __asm__ volatile("pushq %0; pushq %1; pushq $0x3002; pushq %2; pushq %3; iretq"
                     :
                     : "r"((uint64_t)USER_DATA), "r"((uint64_t)user_stack + sizeof user_stack),
                       "r"(stub_cs), "r"(stub), "a"(code)
                     : "memory");
}

static void user(uintptr_t code)
{
    long_set_up();
    stub = (uint64_t)user_stub;
    stub_cs = USER_CODE64;
    note_trap(trap_call(call_user, code));
}

static void compat(uintptr_t code)
{
    long_set_up();
    stub = (uint64_t)compat_stub;
    stub_cs = USER_CODE32;
    __asm__ volatile("movw %w0, %%ds; movw %w0, %%es" : : "r"(USER_DATA));
    note_trap(trap_call(call_user, code));
}

/* clang-format off */
#define S_LONG(name, mask, text) {"long_" #name, kernel, (uintptr_t)s64_##name},
#define F_LONG(name, text) {"long_" #name, kernel, (uintptr_t)f64_##name},
#define S_USER(name, mask, text) {"user64_" #name, user, (uintptr_t)s64_##name},
#define F_USER(name, text) {"user64_" #name, user, (uintptr_t)f64_##name},
#define S_COMPAT(name, mask, text) {"compat_" #name, compat, (uintptr_t)s32_##name},
#define F_COMPAT(name, text) {"compat_" #name, compat, (uintptr_t)f32_##name},
const struct state_case cases_modes[] = {
    SNIPPETS(S_LONG) FAULTS(F_LONG)
    SNIPPETS(S_USER) FAULTS(F_USER)
    SNIPPETS(S_COMPAT) SNIPPETS_NOT64(S_COMPAT) FAULTS(F_COMPAT) FAULTS_NOT64(F_COMPAT)
    {0}};
/* clang-format on */
