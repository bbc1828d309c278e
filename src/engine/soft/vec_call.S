/* SPDX-License-Identifier: MIT
 * Calls a thunk with registers from a struct vec_args (thunk.h), and stores what it changed. */
        .text

        .macro  finish
        mov     %rax, 160(%rbx)
        mov     %rcx, 168(%rbx)
        lahf
        seto    %al
        mov     %ax, 192(%rbx)
        pop     %rbx
        ret
        .endm

        .macro  begin
        push    %rbx
        mov     %rdi, %rbx
        mov     %rsi, %r11
        mov     160(%rbx), %rax
        mov     176(%rbx), %rdx
        mov     184(%rbx), %rdi
        .endm

        .globl  soft_vec_call128
        .hidden soft_vec_call128
        .type   soft_vec_call128, @function
        .balign 64
soft_vec_call128:
        begin
        movaps  (%rbx), %xmm0
        movaps  32(%rbx), %xmm1
        movaps  64(%rbx), %xmm2
        movaps  96(%rbx), %xmm3
        movaps  128(%rbx), %xmm4
        call    *%r11
        movaps  %xmm0, (%rbx)
        movaps  %xmm1, 32(%rbx)
        movaps  %xmm2, 64(%rbx)
        finish
        .size   soft_vec_call128, . - soft_vec_call128

        .globl  soft_vec_call256
        .hidden soft_vec_call256
        .type   soft_vec_call256, @function
        .balign 64
soft_vec_call256:
        begin
        vmovaps (%rbx), %ymm0
        vmovaps 32(%rbx), %ymm1
        vmovaps 64(%rbx), %ymm2
        vmovaps 96(%rbx), %ymm3
        vmovaps 128(%rbx), %ymm4
        call    *%r11
        vmovaps %ymm0, (%rbx)
        vmovaps %ymm1, 32(%rbx)
        vmovaps %ymm2, 64(%rbx)
        vzeroupper
        finish
        .size   soft_vec_call256, . - soft_vec_call256

/* MMX forms also take and give XMM registers (CVTPI2PS, MOVQ2DQ), so both kinds are loaded; MM1 comes
 * back in the place of XMM0. EMMS leaves an empty x87 stack to C code. */
        .globl  soft_mmx_call
        .hidden soft_mmx_call
        .type   soft_mmx_call, @function
        .balign 64
soft_mmx_call:
        begin
        movaps  32(%rbx), %xmm1
        movaps  64(%rbx), %xmm2
        movq    32(%rbx), %mm1
        movq    64(%rbx), %mm2
        movq    96(%rbx), %mm3
        call    *%r11
        movaps  %xmm1, 32(%rbx)
        movq    %mm1, (%rbx)
        emms
        finish
        .size   soft_mmx_call, . - soft_mmx_call

/* soft_plain...(dst, src..., thunk). Thunks of such forms touch no general register. */
        .macro  plain name
        .globl  \name
        .hidden \name
        .type   \name, @function
        .balign 32
\name:
        .endm

        plain   soft_plain2_128
        movaps  (%rdi), %xmm1
        movups  (%rsi), %xmm2
        call    *%rdx
        movaps  %xmm1, (%rdi)
        ret
        .size   soft_plain2_128, . - soft_plain2_128

        plain   soft_plain3_128
        movaps  (%rdi), %xmm1
        movaps  (%rsi), %xmm2
        movups  (%rdx), %xmm3
        call    *%rcx
        movaps  %xmm1, (%rdi)
        ret
        .size   soft_plain3_128, . - soft_plain3_128

        plain   soft_plain2_256
        vmovaps (%rdi), %xmm1
        vinsertf128 $1, 416(%rdi), %ymm1, %ymm1
        vmovaps (%rsi), %xmm2
        vinsertf128 $1, 416(%rsi), %ymm2, %ymm2
        call    *%rdx
        vmovaps %xmm1, (%rdi)
        vextractf128 $1, %ymm1, 416(%rdi)
        vzeroupper
        ret
        .size   soft_plain2_256, . - soft_plain2_256

        plain   soft_plain3_256
        vmovaps (%rdi), %xmm1
        vinsertf128 $1, 416(%rdi), %ymm1, %ymm1
        vmovaps (%rsi), %xmm2
        vinsertf128 $1, 416(%rsi), %ymm2, %ymm2
        vmovaps (%rdx), %xmm3
        vinsertf128 $1, 416(%rdx), %ymm3, %ymm3
        call    *%rcx
        vmovaps %xmm1, (%rdi)
        vextractf128 $1, %ymm1, 416(%rdi)
        vzeroupper
        ret
        .size   soft_plain3_256, . - soft_plain3_256

        .section .note.GNU-stack, "", @progbits
