/* SPDX-License-Identifier: MIT */
/* Real mode: interrupts through the vector table, segment limits, 32-bit operands and addresses,
 * "big real" segments that protected mode left behind. Results lie at 0x6000 for main to check. */
#include "lib32.h"

#define RESULT ((volatile uint32_t *)0x6000)

/* All offsets are from 0x9000; the handlers' frames are IP, CS, FLAGS. */
__asm__(
    ".pushsection .data\n.code16\n"
    ".globl real_code\nreal_code:\n"
    /* INT through the vector table: frame as pushed */
    "movw $0x9000 + h_int - real_code, 0x40*4; movw $0, 0x40*4+2\n"
    "movw %sp, %bx; stc; sti; int $0x40\n"
    "after_int: pushfw; popw 0x6014; movw %sp, %cx; subw %bx, %cx; movw %cx, 0x6010\n"
    /* divide error: IP of the instruction */
    "movw $0x9000 + h_de - real_code, 0; movw $0, 2\n"
    "xorw %cx, %cx; movw $1, %ax; xorw %dx, %dx\n"
    "do_div: divw %cx\n"
    "after_div:\n"
    /* a word over the end of a segment: #GP without an error code */
    "movw $0x9000 + h_gp - real_code, 13*4; movw $0, 13*4+2\n"
    "movw $0x9000 + h_gp - real_code, 12*4; movw $0, 12*4+2\n"
    "movw $0xffff, %di; movw $0, 0x6020\n"
    "do_over: movw (%di), %ax\n"
    "after_over: movw %sp, 0x602c\n"
    /* 32-bit address above 64 KiB through FS, first with a normal limit, then with the big one */
    "movw $0, 0x6030; movl $0x100000, %ebx\n"
    "xorw %ax, %ax; movw %ax, %fs\n"
    "movl %fs:(%ebx), %eax\n"
    "after_small: movw 0x6020, %ax; movw %ax, 0x6030\n"
    "lgdtl 0x9000 + big_gdtr - real_code; movl %cr0, %eax; orl $1, %eax; movl %eax, %cr0; movw $8, "
    "%cx; movw %cx, %fs\n"
    "andl $~1, %eax; movl %eax, %cr0; xorw %cx, %cx; movw %cx, %fs\n"
    "movl %fs:(%ebx), %eax; movl %eax, 0x6034\n"
    "movw $0x1000, %cx; movw %cx, %fs; movl $0xf0000, %ebx; movl %fs:(%ebx), %eax; movl %eax, "
    "0x6038\n"
    "lgdtl gdt_pointer_copy - real_code + 0x9000\n"
    /* stack: SP wraps from 0 to 0xfffe; 32-bit pushes */
    "movw %sp, %bp; xorw %sp, %sp; movw $0xbeef, %ax; pushw %ax; movw %sp, 0x6040; movw %bp, %sp\n"
    "movw %sp, %bx; pushl $0x12345678; popl 0x6044; subw %sp, %bx; movw %bx, 0x6048\n"
    /* far call and return */
    "lcall $0x900, $far_fn - real_code\n"
    "movw %ax, 0x6050\n"
    /* MOV CR0 reads PE clear; SMSW */
    "smsww 0x6060\n"
    /* 16-bit address arithmetic wraps */
    "movw $0xffff, %bx; movw $0x1357, 0x0ffe; movw 0xfff(%bx), %ax; movw %ax, 0x6064\n"
    /* protected-mode instructions are undefined */
    "movw $0x9000 + h_ud - real_code, 6*4; movw $0, 6*4+2; movw $0, 0x6068\n"
    "strw %ax\n"
    "ret\n"
    "far_fn: movw %cs, %ax; lretw\n"
    "h_int: pushw %bp; movw %sp, %bp; movw 2(%bp), %ax; movw %ax, 0x6000; movw 4(%bp), %ax; movw "
    "%ax, 0x6004\n"
    "movw 6(%bp), %ax; movw %ax, 0x6008; pushfw; popw 0x600c; popw %bp; iretw\n"
    "h_de: pushw %bp; movw %sp, %bp; movw 2(%bp), %ax; movw %ax, 0x6018; movw $0x9000 + after_div "
    "- real_code, 2(%bp); popw %bp; iretw\n"
    "h_gp: pushw %bp; movw %sp, %bp; incw 0x6020; movw 2(%bp), %ax; movw %ax, 0x6024; movw %bp, "
    "0x6028\n"
    "cmpw $0x9000 + do_over - real_code, %ax; movw $0x9000 + after_over - real_code, %ax; je 1f; "
    "movw $0x9000 + after_small - real_code, %ax\n"
    "1: movw %ax, 2(%bp); popw %bp; iretw\n"
    "h_ud: pushw %bp; movw %sp, %bp; incw 0x6068; addw $3, 2(%bp); popw %bp; iretw\n"
    ".balign 8; big_gdt: .quad 0, 0x00cf93000000ffff\n"
    "big_gdtr: .word 15; .long 0x9000 + big_gdt - real_code\n"
    "gdt_pointer_copy: .word 0xff; .long gdt\n"
    "real_code_end:\n"
    ".globl off_int, off_div\n off_int: .word 0x9000 + after_int - real_code\n off_div: .word "
    "0x9000 + do_div - real_code\n"
    ".code32\n.popsection\n");
extern char real_code[], real_code_end[];
extern uint16_t off_int, off_div;

int main(void)
{
    tables_load();
    memset((void *)0x6000, 0, 0x100);
    *(volatile uint32_t *)0x100000 = *(volatile uint32_t *)0x100000;
    real_run(real_code, (size_t)(real_code_end - real_code));
    is(RESULT[0], off_int, "INT pushes the next IP");
    is(RESULT[1], 0, "and CS");
    ok((RESULT[2] & 0x203) == 0x203, "and FLAGS as they were");
    ok(!(RESULT[3] & 0x300), "IF and TF are clear in the handler");
    is(RESULT[4] & 0xffff, 0, "IRET takes three words");
    ok((RESULT[5] & 0x201) == 0x201, "and gives FLAGS back");
    is(RESULT[6], off_div, "divide error: IP of DIV");
    is(RESULT[12] & 0xffff, 2, "a word over the end, and an address over 64 KiB: #GP");
    is(RESULT[13], *(volatile uint32_t *)0x100000, "big real mode: 4 GiB limit stays");
    is(RESULT[14], *(volatile uint32_t *)0x100000, "and the base is a paragraph again");
    is(RESULT[16], 0xfffe, "SP wraps");
    is(RESULT[17], 0x12345678, "32-bit push and pop");
    is(RESULT[18] & 0xffff, 0, "balanced");
    is(RESULT[20] & 0xffff, 0x900, "far call and return");
    ok(!(RESULT[24] & 1), "SMSW: PE is clear");
    is(RESULT[25] & 0xffff, 0x1357, "16-bit addresses wrap");
    is(RESULT[26] & 0xffff, 1, "STR is undefined");
    return done();
}
