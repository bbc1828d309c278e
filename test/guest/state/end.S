/* SPDX-License-Identifier: MIT */
/* The end of a case, in 32 or 64 bits: no more interrupts, stacks wiped (they hold what interrupts left
 * there), registers cleared, the exit port, then HLT for ever. Whoever compares takes all RIPs within
 * the 32 bytes of state_stop for the same, and whether that HLT was reached. */
    .globl main, state_end, state_wipe, state_stop, state_park
    .text
main:
#ifdef __x86_64__
    movl %ebx, %edi
#else
    pushl %ebx
#endif
    call state_main

state_end:
    cli
    cld
    call state_wipe
    xorl %eax, %eax
    xorl %ecx, %ecx
    xorl %edx, %edx
    xorl %ebx, %ebx
    xorl %esi, %esi
    xorl %edi, %edi
    xorl %ebp, %ebp
#ifdef __x86_64__
    xorl %r8d, %r8d
    xorl %r9d, %r9d
    xorl %r10d, %r10d
    xorl %r11d, %r11d
    movq $stack_top, %rsp
    movq $state_stop, %rcx
    jmp *%rcx
#else
    movl $stack_top, %esp
    movl $state_stop, %ecx
    jmp *%ecx
#endif

/* Zeroes all stacks but its own return address. */
    .macro wipe start, bytes
#ifdef __x86_64__
    movq $\start, %rdi
#else
    movl $\start, %edi
#endif
    movl $\bytes / 4, %ecx
    rep
    stosl
    .endm

state_wipe:
#ifdef __x86_64__
    popq %rdx
#else
    popl %edx
#endif
    xorl %eax, %eax
    wipe "stack_top - 65536", 65536
    wipe 0x7000, 4096
#ifdef __x86_64__
    wipe user_stack, 16384
    wipe rsp0_stack, 16384
    wipe ist_stack, 16384
    jmp *%rdx
#else
    wipe user_stack, 8192
    wipe ring0_stack, 8192
    jmp *%edx
#endif

    .balign 32
state_stop:
    outb %al, $0xf4
1:  hlt
    jmp 1b
    .balign 32
state_park: /* other processors: say so at (%ecx), without a change of flags, then HLT */
    movb $1, (%ecx)
1:  hlt
    jmp 1b
    .balign 32
    .globl state_halt
state_halt:
1:  hlt
    jmp 1b
    .balign 32
    .section .note.GNU-stack, "", @progbits
