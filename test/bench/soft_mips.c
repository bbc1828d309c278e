/* SPDX-License-Identifier: MIT */
/* Speed of the soft engine on small loops: millions of guest instructions a second, best of five.
 */
#include "base/clock.h"
#include "engine/soft/testguest.h"
#include <stdio.h>

/* Mixed register arithmetic. */
GUEST_CODE_BYTES(
    alu, "mov $3000000, %ecx; mov $0x9e3779b97f4a7c15, %r8; 1: mov %rax, %rdx; shr $7, %rdx; xor "
         "%rdx, %rax;"
         "add %r8, %rax; lea 3(%rax,%rcx,4), %rbx; and $0xffff, %ebx; add %ebx, %esi; sub $1, %ecx;"
         "jnz 1b");
/* Copy by 64-bit loads and stores. */
GUEST_CODE_BYTES(
    copy,
    "mov $1500, %r9d; 2: mov $0x200000, %esi; mov $0x210000, %edi; mov $512, %ecx;"
    "1: mov (%rsi), %rax; mov 8(%rsi), %rdx; mov %rax, (%rdi); mov %rdx, 8(%rdi); add $16, %rsi;"
    "add $16, %rdi; dec %ecx; jnz 1b; dec %r9d; jnz 2b");
/* Recursive Fibonacci: calls, returns, stack. */
GUEST_CODE_BYTES(fib,
                 "mov $27, %edi; call 1f; jmp 3f; 1: cmp $2, %edi; jb 2f; push %rbx; push %rdi; "
                 "dec %edi; call 1b;"
                 "mov %eax, %ebx; pop %rdi; sub $2, %edi; call 1b; add %ebx, %eax; pop %rbx; ret;"
                 "2: mov %edi, %eax; ret; 3:");
/* Sieve of Eratosthenes on bytes. */
GUEST_CODE_BYTES(
    sieve,
    "mov $20, %r9d; 5: mov $0x200000, %ebx; mov %ebx, %edi; mov $65536, %ecx; xor %eax, %eax;"
    "rep stosb; mov $2, %esi; 1: cmpb $0, (%rbx,%rsi); jne 3f; lea (%rsi,%rsi), %edi;"
    "2: cmp $65536, %edi; jae 3f; movb $1, (%rbx,%rdi); add %esi, %edi; jmp 2b;"
    "3: inc %esi; cmp $256, %esi; jb 1b; dec %r9d; jnz 5b");
/* String hash with a table lookup, indirect calls through a table every 8 bytes. */
GUEST_CODE_BYTES(
    indirect,
    "lea 4f(%rip), %rax; mov %rax, 0x200000; lea 5f(%rip), %rax; mov %rax, 0x200008;"
    "mov $1000000, %ecx; 1: imul $31, %edx, %edx; add %ecx, %edx; mov %edx, %ebx; shr $5, %ebx;"
    "and $1, %ebx; call *0x200000(,%rbx,8); dec %ecx; jne 1b; jmp 6f;"
    "4: movzbl %dl, %eax; add %rax, %rsi; ret; 5: xor %rdx, %rsi; bt $3, %edx; adc $0, %rsi; ret; "
    "6:");

static double run(struct guest *g, const char *name, const uint8_t *code, const uint8_t *end)
{
    double best = 0;

    for (unsigned i = 0; i < 5; i++) {
        uint64_t t, n;
        double mips;

        guest_code(g, code, end);
        n = g->cpu->instructions;
        t = now_ns();
        if (!guest_run(g))
            printf("%s: shut down\n", name);
        t = now_ns() - t;
        n = g->cpu->instructions - n;
        mips = (double)n * 1e3 / (double)t;
        if (mips > best)
            best = mips;
    }
    printf("soft_%s %.0f MIPS\n", name, best);
    return best;
}

int main(void)
{
    static struct guest g;
    struct err err;

    if (!guest_open(&g, &err)) {
        fprintf(stderr, "soft-mips: %s\n", err.text);
        return 1;
    }
    run(&g, "alu", alu, alu_end);
    run(&g, "copy", copy, copy_end);
    run(&g, "fib", fib, fib_end);
    run(&g, "sieve", sieve, sieve_end);
    run(&g, "indirect", indirect, indirect_end);
    guest_close(&g);
    return 0;
}
