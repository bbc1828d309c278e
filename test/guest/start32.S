/* SPDX-License-Identifier: MIT */
/* Entry of a 32-bit test guest: Multiboot's flat protected mode, no paging -> main(). Exception stubs,
 * the way back from a fault, and a way through real mode (lib32.h). */
#define MB_MAGIC 0x1badb002
#define MB_FLAGS 0x10003

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
    movb $0xff, %al
    outb %al, $0x21
    outb %al, $0xa1
    movl %cr0, %eax
    orl $0x20, %eax
    movl %eax, %cr0
    lgdt gdt_pointer
    ljmp $0x08, $1f
1:  call load_data
    call main
    pushl %eax
    call guest_exit

load_data:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %fs
    movw %ax, %gs
    movw %ax, %ss
    ret

/* int trap_call(void (*fn)(uint32_t), uint32_t arg) */
    .text
    .globl trap_call
trap_call:
    pushl %ebx
    pushl %ebp
    pushl %esi
    pushl %edi
    pushfl
    movl 24(%esp), %eax
    movl 28(%esp), %ecx
    movl %esp, trap_esp
    pushl %ecx
    call *%eax
    addl $4, %esp
    movl $-1, %eax
trap_back:
    movl $0, trap_esp
    popfl
    popl %edi
    popl %esi
    popl %ebp
    popl %ebx
    ret

    .align 16
    .globl trap_stubs
trap_stubs:
    .set vec, 0
    .rept 256
    .align 16
    .if (vec != 8) && ((vec < 10) || (vec > 14)) && (vec != 17)
    pushl $0
    .endif
    pushl $vec
    jmp common
    .set vec, vec + 1
    .endr

common:
    pushal
    pushl %ds
    pushl %es
    pushl %fs
    pushl %gs
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    cld
    pushl %esp
    call trap_entry
    addl $4, %esp
    testl %eax, %eax
    jnz 1f
    popl %gs
    popl %fs
    popl %es
    popl %ds
    popal
    addl $8, %esp
    iretl
1:  movl $0x10, %eax /* FS and GS stay: tests look through them */
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl trap_esp, %esp
    movl trap_vector, %eax
    jmp trap_back

/* void iret_frame(const uint32_t *words, unsigned count): pushes them in order, then IRET. */
    .globl iret_frame
iret_frame:
    movl 4(%esp), %esi
    movl 8(%esp), %ecx
1:  pushl (%esi)
    addl $4, %esi
    loop 1b
    iretl

/* void real_call(void): calls 0x9000 in real mode with all segments 0 and SP 0x7c00; it ends with a near
 * RET. The way there and back is copied to 0x8000 by the caller. */
    .globl real_call
real_call:
    pushal
    movl %esp, real_esp
    sidt real_idt
    lidt real_ivt
    ljmp $0x38, $(0x8000 + real_in - real_start)
real_out:
    call load_data
    movl real_esp, %esp
    lidt real_idt
    popal
    ret

    .section .real, "awx"
    .globl real_start
    .code16
real_start:
real_in:
    movw $0x40, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw %ax, %fs
    movw %ax, %gs
    movl %cr0, %eax
    andl $~1, %eax
    movl %eax, %cr0
    ljmp $0, $(0x8000 + 1f - real_start)
1:  xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $0x7c00, %esp
    movw $0x9000, %ax
    callw *%ax
    cli
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $0x08, $real_out
    .globl real_end
real_end:

    .data
    .code32
real_ivt:
    .word 0x3ff
    .long 0
real_idt:
    .word 0
    .long 0
real_esp:
    .long 0
    .align 16
    .globl gdt
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff /* 08 code */
    .quad 0x00cf93000000ffff /* 10 data */
    .quad 0x00cffb000000ffff /* 18 user code */
    .quad 0x00cff3000000ffff /* 20 user data */
    .quad 0                  /* 28 TSS */
    .quad 0                  /* 30 another */
    .quad 0x00009b000000ffff /* 38 16-bit code */
    .quad 0x000093000000ffff /* 40 16-bit data */
    .fill 23, 8, 0           /* 48...: the tests' own */
gdt_end:
    .align 4
gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt

    .bss
    .align 4096
    .skip 65536
    .globl stack_top
stack_top:
    .section .note.GNU-stack, "", @progbits
