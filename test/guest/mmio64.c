/* SPDX-License-Identifier: MIT */
/* Device memory reached by every kind of instruction: KVM's emulator does not know all of them, and
 * the engine has to complete those. guest-run's page at SCRATCH keeps what is written. */
#include "lib64.h"

#define SCRATCH 0x10000000ull

static uint8_t want[64], got[64] __attribute__((aligned(64)));

static void fill(volatile uint8_t *at, uint8_t seed)
{
    for (unsigned i = 0; i < 64; i++)
        at[i] = (uint8_t)(seed + 7 * i);
}

static bool same(const volatile uint8_t *a, const volatile uint8_t *b, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (a[i] != b[i])
            return false;
    return true;
}

static volatile uint8_t *const device = (volatile uint8_t *)SCRATCH;

/* ---- plain instructions ---- */

static void plain(void)
{
    volatile uint32_t *d32 = (volatile uint32_t *)SCRATCH;
    uint64_t old = 5;
    uint8_t set;

    fill(device, 1);
    fill(want, 1);
    ok(same(device, want, 64), "bytes");
    *d32 = 0x12345678;
    __asm__ volatile("addl $0x11, (%0)" : : "r"(d32) : "memory");
    is(*d32, 0x12345689, "read, modified and written");
    __asm__ volatile("lock xaddq %0, (%1)" : "+r"(old) : "r"(d32) : "memory");
    is((uint32_t)old, 0x12345689, "LOCK XADD gives the old value");
    is(*d32, 0x1234568e, "and adds");
    __asm__ volatile("lock btsl $4, (%1); setc %0" : "=r"(set) : "r"(d32) : "memory");
    ok(!set && *d32 == 0x1234569e, "LOCK BTS");
    __asm__ volatile("lock cmpxchgl %1, (%2)" : : "a"(0x1234569e), "r"(99), "r"(d32) : "memory");
    is(*d32, 99, "LOCK CMPXCHG");
}

static void strings(void)
{
    const void *from = want;
    volatile void *to = device + 0x100;
    uint64_t n = 64;

    fill(want, 3);
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    ok(same(device + 0x100, want, 64) && n == 0, "REP MOVSB to a device");
    from = (const void *)(SCRATCH + 0x100);
    to = got;
    n = 8;
    __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    ok(same(got, want, 64), "REP MOVSQ from a device");
}

/* ---- vectors ---- */

static void sse(void)
{
    fill(want, 11);
    __asm__ volatile("movdqu (%0), %%xmm1; movdqu %%xmm1, (%1)"
                     :
                     : "r"(want), "r"(device + 0x200)
                     : "memory");
    ok(same(device + 0x200, want, 16), "MOVDQU to a device");
    __asm__ volatile("movaps (%0), %%xmm2; movups %%xmm2, (%1)"
                     :
                     : "r"(device + 0x200), "r"(got)
                     : "memory");
    ok(same(got, want, 16), "MOVAPS from a device");
    __asm__ volatile("pxor %%xmm3, %%xmm3; paddb (%0), %%xmm3; movdqu %%xmm3, (%1)"
                     :
                     : "r"(device + 0x200), "r"(got)
                     : "memory");
    ok(same(got, want, 16), "PADDB from a device");
    __asm__ volatile("movq (%0), %%mm0; movq %%mm0, (%1); emms"
                     :
                     : "r"(want + 8), "r"(device + 0x210)
                     : "memory");
    ok(same(device + 0x210, want + 8, 8), "MMX MOVQ to a device");
    __asm__ volatile("movdqu (%0), %%xmm4; movntdq %%xmm4, (%1)"
                     :
                     : "r"(want + 16), "r"(device + 0x220)
                     : "memory");
    ok(same(device + 0x220, want + 16, 16), "MOVNTDQ to a device");
    __asm__ volatile("movd (%0), %%xmm5; pinsrw $2, 4(%0), %%xmm5; movq %%xmm5, (%1)"
                     :
                     : "r"(device + 0x200), "r"(got)
                     : "memory");
    ok(same(got, want, 6), "PINSRW from a device");
}

static void avx(void)
{
    static const char *const name[] = {"VMOVDQU to a device", "VMOVDQU from a device"};
    uint32_t c[4];

    cpuid(1, 0, c);
    if (!(c[2] >> 28 & 1) || !(c[2] >> 26 & 1)) {
        skip(name[0], "no AVX");
        skip(name[1], "no AVX");
        return;
    }
    write_cr4(read_cr4() | 0x40000);
    __asm__ volatile("xsetbv" : : "a"(7), "d"(0), "c"(0));
    fill(want, 77);
    __asm__ volatile("vmovdqu (%0), %%ymm6; vmovdqu %%ymm6, (%1)"
                     :
                     : "r"(want), "r"(device + 0x300)
                     : "memory");
    ok(same(device + 0x300, want, 32), name[0]);
    __asm__ volatile("vmovdqu (%0), %%ymm7; vmovdqu %%ymm7, (%1); vzeroupper"
                     :
                     : "r"(device + 0x300), "r"(got)
                     : "memory");
    ok(same(got, want, 32), name[1]);
}

/* ---- x87, and what goes wrong ---- */

static void x87(void)
{
    double a = 1.5, b = 0;

    for (unsigned i = 0; i < 8; i++)
        device[0x400 + i] = ((uint8_t *)&a)[i];
    __asm__ volatile("fninit; fldl (%0); faddl (%0); fstpl (%1); fwait"
                     :
                     : "r"(device + 0x400), "r"(device + 0x408)
                     : "memory");
    for (unsigned i = 0; i < 8; i++)
        ((uint8_t *)&b)[i] = device[0x408 + i];
    is(*(uint64_t *)&b, 0x4008000000000000, "FLD, FADD and FSTP of a device: 1.5 + 1.5");
}

static void unaligned(uint64_t at)
{
    __asm__ volatile("movaps %%xmm0, (%0)" : : "r"(at) : "memory");
}

static void over_the_end(uint64_t at)
{
    __asm__ volatile("paddb (%0), %%xmm0" : : "r"(at) : "memory");
}

static void faults(void)
{
    uint64_t hole = SCRATCH + 0x1000;

    is((uint64_t)trap_call(unaligned, SCRATCH + 1), GP, "an unaligned MOVAPS to a device faults");
    boot_pd[SCRATCH / 0x200000 + 1] = 0; /* what follows the device's 2 MiB is not mapped */
    write_cr3(read_cr3());
    hole = SCRATCH + 0x200000;
    is((uint64_t)trap_call(over_the_end, hole - 0x10), (uint64_t)-1,
       "the last 16 bytes of a mapping");
    is((uint64_t)trap_call(over_the_end, hole), PF, "the first after it");
    is(trap_cr2, hole, "CR2 says so");
}

/* Many in a row: registers, flags and the stack are the guest's all the time. */
static void often(void)
{
    uint64_t sum = 0;

    fill(want, 0);
    for (unsigned i = 0; i < 16; i++)
        device[0x500 + i] = 1;
    __asm__ volatile("pxor %xmm0, %xmm0");
    for (unsigned i = 0; i < 200; i++) {
        __asm__ volatile("paddb (%0), %%xmm0" : : "r"(device + 0x500) : "memory");
        sum += i;
    }
    __asm__ volatile("movdqu %%xmm0, (%0)" : : "r"(got) : "memory");
    ok(got[0] == 200 && got[15] == 200 && sum == 19900, "two hundred in a row");
}

int main(void)
{
    tables_load();
    write_cr4(read_cr4() | 0x600); /* SSE */
    plain();
    strings();
    sse();
    avx();
    x87();
    faults();
    often();
    return done();
}
