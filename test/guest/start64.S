/* SPDX-License-Identifier: MIT */
/* Entry of a 64-bit test guest: Multiboot's 32-bit protected mode -> long mode with 4 GiB mapped one to
 * one -> main(). Also the exception stubs and the way back from a fault (lib64.h). */
#define MB_MAGIC 0x1badb002
#define MB_FLAGS 0x10003 /* aligned, memory map, address fields */

    .section .multiboot, "ax"
    .code32
    .align 4
header:
    .long MB_MAGIC, MB_FLAGS, -(MB_MAGIC + MB_FLAGS)
    .long header, image_start, image_end, bss_end, start

    .globl start
start:
    cli
    cld
    movl $stack_top, %esp
    movb $0xff, %al /* whatever PIC there is stays silent */
    outb %al, $0x21
    outb %al, $0xa1
    /* 2 MiB pages, user bit set at the upper levels only */
    movl $boot_pd, %edi
    movl $0x83, %eax
    movl $2048, %ecx
1:  movl %eax, (%edi)
    movl $0, 4(%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 1b
    movl $boot_pdpt, %edi
    movl $boot_pd + 7, %eax
    movl $4, %ecx
2:  movl %eax, (%edi)
    addl $0x1000, %eax
    addl $8, %edi
    loop 2b
    movl $boot_pdpt + 7, boot_pml4
    call long_mode
    .code64
    call main
    movl %eax, %edi
    call guest_exit

/* From 32-bit flat protected mode into 64-bit mode; returns there, to the same low address. */
    .code32
    .globl long_mode
long_mode:
    movl %cr4, %eax
    orl $0x6a0, %eax /* PAE, PGE, OSFXSR, OSXMMEXCPT */
    andl $~0x80, %eax
    movl %eax, %cr4
    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x901, %eax /* SCE, LME, NXE */
    wrmsr
    movl %cr0, %eax
    orl $0x80010021, %eax /* PG, WP, NE, PE */
    andl $0x9fffffff, %eax
    movl %eax, %cr0
    lgdt gdt_pointer32
    popl %eax
    movl $0, %edx
    ljmp $0x08, $1f
    .code64
1:  movw $0x10, %dx
    movw %dx, %ds
    movw %dx, %es
    movw %dx, %ss
    xorl %edx, %edx
    movw %dx, %fs
    movw %dx, %gs
    subq $8, %rsp
    movl %eax, %eax
    movq %rax, (%rsp)
    ret

/* int trap_call(void (*fn)(uint64_t), uint64_t arg): the vector that ended fn, or -1. */
    .text
    .globl trap_call
trap_call:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    pushfq
    movq %rsp, trap_rsp(%rip)
    movq %rdi, %rax
    movq %rsi, %rdi
    call *%rax
    movl $-1, %eax
trap_back:
    movq $0, trap_rsp(%rip)
    popfq
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

/* Stubs, 16 bytes apart: error code (or 0), vector, common part. */
    .align 16
    .globl trap_stubs
trap_stubs:
    .set vec, 0
    .rept 256
    .align 16
    .if (vec != 8) && ((vec < 10) || (vec > 14)) && (vec != 17)
    pushq $0
    .endif
    pushq $vec
    jmp common
    .set vec, vec + 1
    .endr

common:
    pushq %rax
    pushq %rcx
    pushq %rdx
    pushq %rbx
    pushq %rbp
    pushq %rsi
    pushq %rdi
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    cld
    movq %rsp, %rdi
    movq %rsp, %rbx
    andq $~15, %rsp
    call trap_entry /* 1: go back to trap_call's caller; 0: resume */
    testl %eax, %eax
    jnz 1f
    movq %rbx, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rdi
    popq %rsi
    popq %rbp
    popq %rbx
    popq %rdx
    popq %rcx
    popq %rax
    addq $16, %rsp
    iretq
1:  movw $0x10, %dx
    movw %dx, %ds
    movw %dx, %es
    movw %dx, %ss
    movq trap_rsp(%rip), %rsp
    movl trap_vector(%rip), %eax
    jmp trap_back

/* void user_enter(uint64_t rip, uint64_t rsp, uint64_t rflags, uint64_t cs, uint64_t ss) */
    .globl user_enter
user_enter:
    pushq %r8
    pushq %rsi
    pushq %rdx
    pushq %rcx
    pushq %rdi
    iretq

    .data
    .align 16
    .globl gdt, gdt_pointer, tss
gdt:
    .quad 0
    .quad 0x00af9b000000ffff /* 08 code 64 */
    .quad 0x00cf93000000ffff /* 10 data */
    .quad 0x00cffb000000ffff /* 18 user code 32, for SYSRET */
    .quad 0x00cff3000000ffff /* 20 user data */
    .quad 0x00affb000000ffff /* 28 user code 64 */
    .quad 0x00cf9b000000ffff /* 30 code 32 */
    .quad 0                  /* 38, 40: TSS */
    .quad 0
    .fill 24, 8, 0           /* 48...: the tests' own */
gdt_end:
    .align 8
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
gdt_pointer32:
    .word gdt_end - gdt - 1
    .long gdt

    .bss
    .align 4096
    .globl boot_pml4, boot_pdpt, boot_pd
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd: .skip 16384
    .globl stack_top
    .skip 65536
stack_top:
    .section .note.GNU-stack, "", @progbits
