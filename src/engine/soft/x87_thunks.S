/* SPDX-License-Identifier: MIT
 * Every x87 register form and, with the operand at [RDI], every memory form: the instruction and RET, 4
 * bytes apart, in opcode order D8 to DF. Only those in the opcode table are ever called. */
        .text
        .balign 64
        .globl  soft_x87_reg_thunk
        .hidden soft_x87_reg_thunk
soft_x87_reg_thunk:
        .set    op, 0xd8
        .rept   8
        .set    modrm, 0xc0
        .rept   64
        .byte   op, modrm, 0xc3, 0xcc
        .set    modrm, modrm + 1
        .endr
        .set    op, op + 1
        .endr

        .globl  soft_x87_mem_thunk
        .hidden soft_x87_mem_thunk
soft_x87_mem_thunk:
        .set    op, 0xd8
        .rept   8
        .set    modrm, 0x07
        .rept   8
        .byte   op, modrm, 0xc3, 0xcc
        .set    modrm, modrm + 8
        .endr
        .set    op, op + 1
        .endr

/* void soft_x87_call(struct vec_args *args, const void *thunk): FCMOV reads the flags, FCOMI writes
 * them, FNSTSW writes AX. The x87 registers are the guest's and stay in place. */
        .globl  soft_x87_call
        .hidden soft_x87_call
        .type   soft_x87_call, @function
        .balign 64
soft_x87_call:
        push    %rbx
        mov     %rdi, %rbx
        mov     %rsi, %r11
        mov     192(%rbx), %ax
        mov     184(%rbx), %rdi
        sahf
        mov     160(%rbx), %rax
        call    *%r11
        mov     %rax, 160(%rbx)
        lahf
        seto    %al
        mov     %ax, 192(%rbx)
        pop     %rbx
        ret
        .size   soft_x87_call, . - soft_x87_call
        .section .note.GNU-stack, "", @progbits
