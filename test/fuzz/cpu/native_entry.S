/* SPDX-License-Identifier: MIT
 * Into a test's state and back. native_enter loads everything and leaves by IRETQ; the way back is a
 * signal, whose handler calls native_leave: that returns from native_enter on its old stack. The
 * signal frame is simply abandoned (SA_NODEFER, and the alternate stack is free again once RSP left). */
        .text
        .globl  native_enter
        .hidden native_enter
        .type   native_enter, @function
/* void native_enter(const struct native_entry *regs, const void *xsave) */
native_enter:
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        mov     %rsp, native_stack(%rip)
        mov     $0x2b, %ecx
        mov     %ecx, %ds
        mov     %ecx, %es
        mov     $7, %eax
        xor     %edx, %edx
        xrstor64 (%rsi)
        mov     %rdi, %rsp
        pop     %rax
        pop     %rcx
        pop     %rdx
        pop     %rbx
        pop     %rbp
        pop     %rsi
        pop     %rdi
        pop     %r8
        pop     %r9
        pop     %r10
        pop     %r11
        pop     %r12
        pop     %r13
        pop     %r14
        pop     %r15
        iretq
        .size   native_enter, . - native_enter

        .globl  native_leave
        .hidden native_leave
        .type   native_leave, @function
native_leave:
        mov     native_stack(%rip), %rsp
        cld
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        ret
        .size   native_leave, . - native_leave

/* Signals come here: a test may have set EFLAGS.AC, and the kernel leaves it set. */
        .globl  native_signal
        .hidden native_signal
        .type   native_signal, @function
native_signal:
        pushq   $0x202
        popfq
        jmp     native_on_signal
        .size   native_signal, . - native_signal

/* Code that runs off the end of its pages comes here through a jump in the page behind them: the whole
 * state is stored, the program's own is put back, native_landed() copies it. Cheaper than a signal. */
        .globl  native_landing
        .hidden native_landing
        .type   native_landing, @function
native_landing:
        mov     %rsp, native_landing_regs+16*8(%rip)
        lea     native_landing_regs+16*8(%rip), %rsp
        push    %r15
        push    %r14
        push    %r13
        push    %r12
        push    %r11
        push    %r10
        push    %r9
        push    %r8
        push    %rdi
        push    %rsi
        push    %rbp
        push    %rbx
        push    %rdx
        push    %rcx
        push    %rax
        pushfq
        pushq   $0x202
        popfq
        mov     $7, %eax
        xor     %edx, %edx
        xsave64 native_landing_xsave(%rip)
        xrstor64 native_clean_xsave(%rip)
        mov     native_stack(%rip), %rsp
        sub     $8, %rsp
        call    native_landed
        jmp     native_leave
        .size   native_landing, . - native_landing

        .section .rodata
        .balign 64
native_clean_xsave:
        .zero   24
        .long   0x1f80
        .zero   832 - 28

        .bss
        .balign 64
        .globl  native_landing_xsave, native_landing_regs
        .hidden native_landing_xsave, native_landing_regs
native_landing_xsave:
        .zero   832
native_stack:
        .zero   8
        .zero   64                      /* the flags that are loaded pass through here */
native_landing_regs:                    /* flags, the registers in the order of the pops above, RSP */
        .zero   17 * 8
        .section .note.GNU-stack, "", @progbits
