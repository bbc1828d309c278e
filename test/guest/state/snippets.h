/* SPDX-License-Identifier: MIT */
/* Pieces of code that every mode runs: assembled for 16, 32 and 64 bits, with general registers
 * seeded before and noted after. Memory: 0x6000-0x7000, there in all modes, SNIPPET_AT for what is
 * noted. The second member masks flags that are defined at the end. */
#ifndef HULL_GUEST_SNIPPETS_H
#define HULL_GUEST_SNIPPETS_H

#define SNIPPET_AT 0x6000 /* flags, eax, ecx, edx, ebx, esi, edi, ebp; in 64 bits r8-r15 follow */

#define SNIPPET_SEED                                                                               \
    "movl $0x12345678, %eax; movl $7, %ecx; movl $0x89abcdef, %edx; movl $0xf0e1d2c3, %ebx\n"      \
    "movl $0x6400, %esi; movl $0x6500, %edi; movl $0x13579bdf, %ebp; cld\n"
#define SNIPPET_NOTE                                                                               \
    "movl %eax, 0x6004; movl %ecx, 0x6008; movl %edx, 0x600c; movl %ebx, 0x6010\n"                 \
    "movl %esi, 0x6014; movl %edi, 0x6018; movl %ebp, 0x601c; cld\n"

#define FLAGS_ALL   0xcd5 /* CF PF AF ZF SF DF OF */
#define FLAGS_NO_AF 0xcc5
#define FLAGS_CARRY 0xc01 /* after MUL */
#define FLAGS_CF    0x401
#define FLAGS_ZF    0x440
#define FLAGS_DF    0x400

/* X(name, defined flags, text); all but those of SNIPPETS_NOT64 run in 64-bit mode too. */
/* clang-format off */
#define SNIPPETS(X) \
    X(add, FLAGS_ALL, "addl %edx, %eax; adcl %ebx, %edx; sbbl %eax, %ebx; setc 0x6100; subw %cx, %bp; seto 0x6101; " \
        "addb %ah, %bl; lahf; movb %ah, 0x6102; negl %esi; incl %edi; decb %dh; cmpl %eax, %edx\n") \
    X(logic, FLAGS_NO_AF, "andl %edx, %eax; orw %bx, %dx; xorb %cl, %bh; notl %ebp; testl %ebp, %ebx; setp 0x6100; " \
        "sets 0x6101; xorl $-1, 0x6104; orb $0x81, 0x6108; andl %ebx, 0x6104; testb $0x80, %dl\n") \
    X(mul, FLAGS_CARRY, "mull %ebx; movl %edx, 0x6100; imull $1234567, %eax, %ebp; imulw %bx, %cx; mulb %bl; " \
        "movl %eax, 0x6104; movl $-5, %eax; imull %edx; imulb %cl; imull %ebx, %ecx\n") \
    X(div, FLAGS_DF, "xorl %edx, %edx; divl %ecx; movl %eax, 0x6100; movl %edx, 0x6104; movl $-1000, %eax; cltd; " \
        "idivl %ecx; movw $0x1234, %ax; movb $0x7f, %bl; divb %bl; movl %eax, 0x6108; movw $-77, %ax; cwtd; idivw %cx\n") \
    X(shift, FLAGS_DF, "shll %cl, %eax; shrl $3, %edx; sarl %cl, %ebx; setc 0x6100; roll $5, %ebp; rorw $3, %bp; " \
        "rcll %cl, %edx; rcrb $2, %al; shldl %cl, %eax, %edx; shrdl $9, %ebx, %eax; shll $1, %esi; seto 0x6101; " \
        "rolb $9, 0x6104; stc; rclw $1, 0x6106\n") \
    X(bits, FLAGS_CF, "btl %ecx, %eax; setc 0x6100; btsl $40, %edx; btrl $3, %ebx; btcl $31, %ebp; bsfl %ebx, %esi; " \
        "bsrl %edx, %edi; popcntl %eax, %eax; bswapl %edx; btsl %ecx, 0x6104; btcl $5, 0x6108; btl $0, %eax\n") \
    X(string, FLAGS_ALL, "movl $0x6400, %edi; movl $0x20, %ecx; rep; stosl; movl $0x6400, %esi; movl $0x6520, %edi; " \
        "movl $0x11, %ecx; rep; movsw; movl $0x6480, %edi; movb $0x99, (%edi); movl $0x6400, %edi; movl $0x78, %eax; " \
        "movl $0x100, %ecx; repne; scasb; movl $0x6400, %esi; movl $0x6520, %edi; movl $0x40, %ecx; repe; cmpsb; " \
        "std; lodsl; stosb; movsl; cld\n") \
    X(exchange, FLAGS_ALL, "movl %eax, 0x6100; xchgl %edx, 0x6100; lock; xaddl %ebx, 0x6100; cmpxchgl %ebp, 0x6100; " \
        "setz 0x6104; movl 0x6100, %eax; lock; cmpxchgl %ebp, 0x6100; xchgw %ax, %cx; xaddb %al, %ah; " \
        "movl $0x6110, %edi; lock; cmpxchg8b (%edi); xchgb %bh, 0x6108; lock; incl 0x610c; lock; subl $3, 0x610c\n") \
    X(branch, FLAGS_DF, "1: addl %ecx, %eax; loop 1b; movl $3, %ecx; 2: decl %ecx; jnz 2b; jecxz 3f; incl %ebx; " \
        "3: call 4f; incl %edx; jmp 6f; 4: incl %esi; cmpl $0x6405, %esi; je 5f; call 4b; 5: ret; " \
        "6: cmpl $1, %eax; cmovgl %ebp, %edx; jbe 7f; setnle 0x6100; 7: movl $2, %ecx; 8: incl %edi; loopne 8b\n") \
    X(narrow, FLAGS_DF, "movzbl %ah, %esi; movsbl %dl, %edi; movswl %bx, %ebp; cbtw; cwtl; movb %dh, %al; " \
        "movw $0x8001, 0x6100; movzwl 0x6100, %ecx; movsbw 0x6101, %dx; movb $0x5a, %bh; xchgb %ah, %al; cltd\n") \
    X(stack, FLAGS_DF, "pushw %ax; pushw $0x1234; popw %cx; popw %dx; pushw %bp; pushfw; popw %ax; andw $0x4d5, %ax; " \
        "popw %bp; movl %esp, %esi; pushw $-3; popw 0x6100; subl %esp, %esi; enter $16, $0; movb $1, -1(%esp); leave\n") \
    X(flags, FLAGS_ALL, "stc; cmc; setc 0x6100; cmc; pushfw; popw %ax; andw $0xcd5, %ax; movw %ax, 0x6102; movb $0xd5, %ah; " \
        "sahf; lahf; movb %ah, 0x6104; std; pushfw; popw %bx; andw $0xcd5, %bx; cld; clc; cmpb %al, %al; salb $1, %ah; stc; " \
        "movl $5, %edx; incl %edx\n") \
    X(x87, FLAGS_ZF, "fninit; fldpi; fldl2e; fmulp; fsqrt; fstl 0x6100; fld1; faddp; fistl 0x6108; fldz; fcomip; " \
        "fnstsw %ax; andw $0x7f00, %ax; fnstcw 0x610c; fildl 0x6108; fscale; fstpt 0x6110; fchs; fbstp 0x6120; " \
        "fninit; xorl %ebx, %ebx\n") \
    X(sse, FLAGS_ZF, "movd %eax, %xmm0; movd %edx, %xmm1; punpckldq %xmm1, %xmm0; pshufd $0x1b, %xmm0, %xmm2; " \
        "paddd %xmm0, %xmm2; pmuludq %xmm2, %xmm1; cvtdq2ps %xmm2, %xmm3; sqrtps %xmm3, %xmm4; mulps %xmm3, %xmm4; " \
        "cvtps2pd %xmm4, %xmm5; divpd %xmm5, %xmm5; movdqu %xmm2, 0x6100; movups %xmm4, 0x6110; pmovmskb %xmm2, %ebx; " \
        "psadbw %xmm0, %xmm2; cvttss2si %xmm3, %ecx; comiss %xmm3, %xmm4\n") \
    X(sse4, FLAGS_CF, "movd %eax, %xmm0; movd %edx, %xmm6; pshufb %xmm6, %xmm0; pinsrd $1, %ebx, %xmm0; pblendw $0x55, %xmm0, %xmm6; " \
        "phaddd %xmm0, %xmm6; pmulld %xmm6, %xmm0; roundps $1, %xmm0, %xmm7; pextrb $3, %xmm6, 0x6100; crc32l %edx, %ebx; " \
        "crc32b %al, %ebx; pcmpeqq %xmm0, %xmm6; packusdw %xmm0, %xmm6; ptest %xmm0, %xmm6\n") \
    X(ports, FLAGS_DF, "movb $0x50, %al; outb %al, $0x70; movb $0x5c, %al; outb %al, $0x71; movb $0x51, %al; outb %al, $0x70; " \
        "movb $0xa3, %al; outb %al, $0x71; movb $0x50, %al; outb %al, $0x70; inb $0x71, %al; movb %al, 0x6100; " \
        "movl $0x61, %edx; inb %dx, %al; andb $0x0c, %al; movb $0x51, 0x6400; movw $0x70, %dx; movl $0x6400, %esi; outsb; " \
        "movw $0x71, %dx; movl $0x6500, %edi; insb; movw $0x80, %dx; outl %eax, %dx; outw %ax, $0x80\n")

#define SNIPPETS_NOT64(X) \
    X(decimal, FLAGS_DF, "daa; addb $0x49, %al; daa; movb %al, 0x6100; subb $0x27, %al; das; movb $0x37, %al; aaa; aas; " \
        "movl %eax, 0x6104; aam; aad; movb %al, 0x6108\n") \
    X(old, FLAGS_DF, "pushal; popal; pushaw; popaw; pushw %ds; popw %es; movl $0x6108, 0x6100; movw %ds, 0x6104; " \
        "xorl %ebx, %ebx; movb $3, %bl; .byte 0xd6; incl %esi; decw %di; pushw %es; popw 0x6106; xorl %eax, %eax\n")

/* What ends in an exception. X(name, text) */
#define FAULTS(X) \
    X(ud2, "ud2\n") \
    X(de_zero, "xorl %ebx, %ebx; divl %ebx\n") \
    X(de_over, "movl $0x100, %edx; movl $0x10, %ebx; divl %ebx\n") \
    X(int3, "int3\n") \
    X(int_42, "int $0x42\n") \
    X(trap_flag, "pushfw; orw $0x100, (%esp); popfw; incl %eax; incl %eax\n") \
    X(mf, "fninit; movw $0x360, 0x6100; fldcw 0x6100; fld1; fldz; fdivrp; fwait; nop\n") \
    X(xm, "movl $0x1d80, 0x6100; ldmxcsr 0x6100; movl $1, %eax; cvtsi2ss %eax, %xmm0; xorps %xmm1, %xmm1; divss %xmm1, %xmm0\n")

#define FAULTS_NOT64(X) \
    X(into, "movb $0x7f, %al; incb %al; into\n") \
    X(bound, "movl $0x100, 0x6100; movl $0x200, 0x6104; movl $0x201, %eax; movl $0x6100, %ebx; bound %eax, (%ebx)\n")
/* clang-format on */

/* What a snippet left in memory, for the notes: the page's hash alone says little. */
#define SNIPPET_NOTES(note)                                                                        \
    do {                                                                                           \
        for (unsigned i_ = 0; i_ < 0x40; i_ += 4)                                                  \
            note(*(volatile uint32_t *)(uintptr_t)(SNIPPET_AT + i_));                              \
        for (unsigned i_ = 0x100; i_ < 0x140; i_ += 4)                                             \
            note(*(volatile uint32_t *)(uintptr_t)(SNIPPET_AT + i_));                              \
    } while (0)

#endif
