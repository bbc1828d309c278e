/* SPDX-License-Identifier: MIT */
/* Where FXSAVE and the XSAVE family put things, compared with this processor's own image of the
 * same state; what they refuse; and how x87, MMX and control registers interlock. */
#include "engine/soft/testguest.h"
#include "engine/soft/vector.h"
#include "tap.h"

static struct guest g;

#define OSXSAVE  BIT(18)
#define CR0_TASK 8u

static uint8_t *data(unsigned offset)
{
    return mem_at(&g.mem, GUEST_DATA + offset, 4096);
}

/* Runs code with XSAVE and AVX enabled. The vector of the exception that ended it, or -1. */
static int run(const uint8_t *code, const uint8_t *end, uint64_t cr0, uint64_t cr4)
{
    guest_code(&g, code, end);
    g.cpu->cr0 |= cr0;
    g.cpu->cr4 |= cr4;
    g.cpu->xcr0 = 7;
    *(uint64_t *)(void *)(data(0) - 8) = 0xff;
    if (!guest_run(&g))
        return -2;
    return data(0)[-8] == 0xff ? -1 : data(0)[-8];
}

#define RUN(name) run(name, name##_end, 0, OSXSAVE)

/* Something in every part: three x87 registers, XMM and YMM registers with numbers in them. */
#define FILL                                                                                       \
    "fninit; fld1; fldpi; fldl2e; fldcw 1f(%rip); jmp 2f; 1: .word 0x027f; 2:"                     \
    "mov $0x1234567811223344, %rax; movq %rax, %xmm3; movq %rax, %xmm15;"                          \
    "vpbroadcastq %xmm3, %ymm7; pcmpeqd %xmm9, %xmm9; mov $0x200000, %edi;"

GUEST_CODE_BYTES(fxsave, FILL "fxsave64 (%rdi)");

/* The same instructions on the host, for comparison: XMM registers that FILL does not set are 0. */
void host_fill(uint8_t *image);
__asm__(".pushsection .text\nhost_fill:\n mov %rdi, %rsi; vzeroall;" FILL
        "fxsave64 (%rsi); fninit; vzeroupper; ret\n.popsection\n");

static void test_fxsave(void)
{
    uint8_t host[512] __attribute__((aligned(16)));
    uint8_t *image = data(0);

    memset(host, 0, sizeof host);
    memset(image, 0xee, 1024);
    ok(RUN(fxsave) == -1, "FXSAVE runs");
    host_fill(host);
    ok(!memcmp(image, host, 6),
       "control, status and tag words as the host's: %02x%02x %02x%02x %02x", image[1], image[0],
       image[3], image[2], image[4]);
    ok(!memcmp(image + 32, host + 32, 128), "x87 registers in stack order");
    ok(!memcmp(image + 160, host + 160, 256), "XMM registers");
    ok(image[24] == 0x80 && image[25] == 0x1f && image[28] == 0xff && image[29] == 0xff &&
           !image[30],
       "MXCSR and its mask");
    ok(image[416] == 0xee && image[464] == 0xee && image[512] == 0xee,
       "what belongs to software is not touched");
}

GUEST_CODE_BYTES(xsave, FILL
                 "mov $7, %eax; xor %edx, %edx; xsave64 (%rdi); vzeroall; fninit; xrstor64 (%rdi);"
                 "xsave64 0x400(%rdi)");

static void test_xsave(void)
{
    uint8_t *image = data(0);

    memset(image, 0, 0x1000);
    ok(RUN(xsave) == -1, "XSAVE and XRSTOR run");
    ok(image[512] == 7 && !image[520], "header: all three in use, standard format");
    ok(!memcmp(image + 576 + 7 * 16, image + 160 + 7 * 16, 16),
       "high half of YMM7 at 576 + 7 * 16");
    ok(image[160 + 9 * 16] == 0xff && image[576 + 9 * 16] == 0,
       "a legacy instruction leaves the high half");
    ok(!memcmp(image, image + 0x400, 832), "XRSTOR brings all of it back");
}

GUEST_CODE_BYTES(xsave_init,
                 "mov $0x200000, %edi; mov $7, %eax; xor %edx, %edx; xrstor64 0xc00(%rdi);"
                 "xsave64 (%rdi); xsaveopt64 0x400(%rdi); pcmpeqd %xmm1, %xmm1;"
                 "xsavec64 0x800(%rdi); mov $1, %ecx; xgetbv");

static void test_init(void)
{
    uint8_t *image = data(0);

    memset(image, 0, 0x1000);
    memcpy(image + 0xc00 + 24, "\x80\x1f", 2);
    memset(image + 0x400 + 160, 0x55, 256);
    memset(image + 0x800 + 576, 0x55, 256);
    ok(RUN(xsave_init) == -1, "XSAVE of the initial state runs");
    ok(image[512] == 0, "nothing is in use: %x", image[512]);
    ok(image[0x400 + 160] == 0x55 && image[0x400 + 512] == 0,
       "XSAVEOPT writes only what is in use");
    ok(image[0x800 + 512] == 2 && image[0x800 + 520] == 7 && image[0x800 + 527] == 0x80,
       "XSAVEC: compacted header");
    ok(image[0x800 + 576] == 0x55 && image[0x800 + 160 + 16] == 0xff,
       "XSAVEC writes only what is in use");
    ok(g.cpu->reg[0] == 2 && g.cpu->reg[2] == 0, "XGETBV 1: components in use");
}

GUEST_CODE_BYTES(restore_part,
                 FILL "mov $7, %eax; xor %edx, %edx; xsave64 (%rdi); movq $0, 512(%rdi);"
                      "mov $2, %eax; xrstor64 (%rdi); fst %st(5)");

static void test_partial(void)
{
    memset(data(0), 0, 0x1000);
    ok(RUN(restore_part) == -1, "XRSTOR of one component runs");
    ok(soft_xmm(g.cpu, 3)[0] == 0, "a component that the header lacks becomes initial");
    ok(soft_ymm_high(g.cpu, 7)[0] == 0x44, "one that was not asked for stays");
    ok(g.cpu->xsave[4] != 0, "and so does the x87 stack");
}

/* ---- refusals ---- */

#define AT "mov $0x200000, %edi; mov $7, %eax; xor %edx, %edx;"
GUEST_CODE_BYTES(odd_fxsave, AT "fxsave 8(%rdi)");
GUEST_CODE_BYTES(odd_xsave, AT "xsave 32(%rdi)");
GUEST_CODE_BYTES(bad_bv, AT "movq $8, 512(%rdi); xrstor (%rdi)");
GUEST_CODE_BYTES(bad_compact, AT "movq $0, 512(%rdi); movq $1, 520(%rdi); xrstor (%rdi)");
GUEST_CODE_BYTES(bad_mxcsr, AT "movq $0, 520(%rdi); movl $0x10000, 24(%rdi); xrstor (%rdi)");
GUEST_CODE_BYTES(bad_ldmxcsr, AT "movl $0x10000, (%rdi); ldmxcsr (%rdi)");
GUEST_CODE_BYTES(bad_xcr, AT "xor %ecx, %ecx; mov $5, %eax; xsetbv");
GUEST_CODE_BYTES(no_x87, AT "xor %ecx, %ecx; mov $6, %eax; xsetbv");
GUEST_CODE_BYTES(good_xcr, AT "xor %ecx, %ecx; mov $3, %eax; xsetbv; vpxor %xmm0, %xmm0, %xmm0");
GUEST_CODE_BYTES(plain_xsave, AT "xsave (%rdi)");
GUEST_CODE_BYTES(plain_sse, "pxor %xmm0, %xmm0");
GUEST_CODE_BYTES(plain_mmx, "pxor %mm0, %mm0");
GUEST_CODE_BYTES(plain_x87, "fld1");
GUEST_CODE_BYTES(odd_movaps, AT "movaps 8(%rdi), %xmm0");

static void test_refusals(void)
{
    memset(data(0), 0, 0x1000);
    ok(RUN(odd_fxsave) == VEC_GP && RUN(odd_xsave) == VEC_GP && RUN(odd_movaps) == VEC_GP,
       "unaligned: #GP");
    ok(RUN(bad_bv) == VEC_GP, "XRSTOR with an unknown component: #GP");
    memset(data(0), 0, 0x1000);
    ok(RUN(bad_compact) == VEC_GP, "XRSTOR with a bad header: #GP");
    memset(data(0), 0, 0x1000);
    ok(RUN(bad_mxcsr) == VEC_GP && RUN(bad_ldmxcsr) == VEC_GP, "reserved bits of MXCSR: #GP");
    ok(RUN(bad_xcr) == VEC_GP && RUN(no_x87) == VEC_GP,
       "XCR0 with AVX but not SSE, or without x87: #GP");
    ok(RUN(good_xcr) == VEC_UD && g.cpu->xcr0 == 3, "without AVX in XCR0, VEX is #UD");
    ok(run(plain_xsave, plain_xsave_end, 0, 0) == VEC_UD, "XSAVE without CR4.OSXSAVE: #UD");
    ok(run(plain_xsave, plain_xsave_end, CR0_TASK, OSXSAVE) == VEC_NM &&
           run(plain_sse, plain_sse_end, CR0_TASK, 0) == VEC_NM &&
           run(plain_mmx, plain_mmx_end, CR0_TASK, 0) == VEC_NM &&
           run(plain_x87, plain_x87_end, CR0_TASK, 0) == VEC_NM,
       "CR0.TS: #NM");
    ok(run(plain_sse, plain_sse_end, 4, 0) == VEC_UD &&
           run(plain_mmx, plain_mmx_end, 4, 0) == VEC_UD &&
           run(plain_x87, plain_x87_end, 4, 0) == VEC_NM,
       "CR0.EM: #UD, for x87 #NM");
}

/* ---- x87 exceptions, MMX ---- */

GUEST_CODE_BYTES(
    pending, "fninit; fldcw 1f(%rip); jmp 2f; 1: .word 0x37b; 2: fld1; fldz; fdivrp; fnstsw %ax;"
             "fnclex; fld1; fldz; fdivrp; lea 3f(%rip), %rbx; 3: fldz");
GUEST_CODE_BYTES(
    mmx, "fninit; fld1; mov $0x1122334455667788, %rax; movq %rax, %mm2; fnsave 0x200000; fwait");
GUEST_CODE_BYTES(
    simd, "movl $0x1d80, 0x200000; ldmxcsr 0x200000; xorps %xmm0, %xmm0; pcmpeqd %xmm1, %xmm1;"
          "mov $1, %eax; cvtsi2ss %eax, %xmm1;"
          "movaps %xmm1, %xmm2; divss %xmm0, %xmm2");

static void test_exceptions(void)
{
    static const uint8_t value[8] = {0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11};
    uint8_t *env = data(0);
    unsigned empty = 0;

    ok(RUN(pending) == VEC_MF, "an unmasked division by zero: #MF at the next waiting instruction");
    ok((g.cpu->reg[0] & 0x84) == 0x84, "which FNSTSW is not: %llx",
       (unsigned long long)g.cpu->reg[0]);
    memset(env, 0, 256);
    ok(RUN(mmx) == -1, "MMX and FNSAVE run");
    for (unsigned r = 0; r < 8; r++)
        empty += ((env[8] | env[9] << 8) >> 2 * r & 3) == 3;
    ok(!(env[5] & 0x38) && !empty, "MMX: TOP 0, no tag says empty");
    ok(!memcmp(env + 28 + 2 * 10, value, 8) && env[28 + 2 * 10 + 8] == 0xff &&
           env[28 + 2 * 10 + 9] == 0xff,
       "MM2 is register 2, its exponent all ones");
    ok(RUN(simd) == VEC_XM, "an unmasked SIMD exception: #XM");
    ok((g.cpu->mxcsr & 4) && soft_xmm(g.cpu, 2)[3] == 0x3f, "flag set, result not stored: mxcsr %x",
       g.cpu->mxcsr);
}

int main(void)
{
    struct err err;

    if (!__builtin_cpu_supports("avx2")) {
        tap_skip("xsave", "the host has no AVX2");
        return tap_done();
    }
    if (!ok(guest_open(&g, &err), "guest opens"))
        return tap_done();
    test_fxsave();
    test_xsave();
    test_init();
    test_partial();
    test_refusals();
    test_exceptions();
    guest_close(&g);
    return tap_done();
}
