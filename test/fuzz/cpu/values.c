/* SPDX-License-Identifier: MIT */
/* Start states: registers, vectors, x87 and memory with values where instructions have their
 * corners. */
#include "generate.h"
#include <string.h>

uint64_t fuzz_integer(struct rng *r)
{
    static const uint64_t corner[] = {0,
                                      1,
                                      2,
                                      7,
                                      8,
                                      15,
                                      16,
                                      31,
                                      32,
                                      63,
                                      64,
                                      0x7f,
                                      0x80,
                                      0xff,
                                      0x7fff,
                                      0x8000,
                                      0xffff,
                                      0x7fffffff,
                                      0x80000000,
                                      0xffffffff,
                                      0x100000000,
                                      0x7fffffffffffffff,
                                      0x8000000000000000,
                                      0xffffffffffffffff,
                                      0xfffffffffffffffe,
                                      0xffffffff80000000,
                                      0x5555555555555555,
                                      0xaaaaaaaaaaaaaaaa};

    switch (rng_below(r, 8)) {
    case 0:
    case 1: return corner[rng_below(r, sizeof corner / sizeof corner[0])];
    case 2: return rng_below(r, 256);
    case 3: return 1ull << rng_below(r, 64);
    case 4: return (uint64_t)(int64_t)(int32_t)rng_next(r);
    case 5: return rng_next(r) >> rng_below(r, 64);
    default: return rng_next(r);
    }
}

uint64_t fuzz_address(struct rng *r, bool low)
{
    static const uint8_t page[] = {PAGE_DATA,  PAGE_DATA + 1,  PAGE_RW,
                                   PAGE_STACK, PAGE_STACK + 1, PAGE_DATA};
    static const uint8_t end[] = {PAGE_DATA, PAGE_DATA, PAGE_DATA + 1,  PAGE_DATA + 2, PAGE_RO,
                                  PAGE_RW,   PAGE_RO2,  PAGE_STACK + 1, PAGE_STACK + 2};
    uint64_t base = low || one_in(r, 2) ? FUZZ_LOW : FUZZ_HIGH;

    switch (rng_below(r, 16)) {
    case 0: /* around the edge of a page */
    case 1: return base + end[rng_below(r, sizeof end)] * 4096 - rng_below(r, 40);
    case 2: return base + (PAGE_RO + 2 * rng_below(r, 2)) * 4096 + rng_below(r, 4064);
    case 3:
    case 4:
    case 5: return base + page[rng_below(r, sizeof page)] * 4096 + rng_below(r, 4032);
    default: return base + page[rng_below(r, sizeof page)] * 4096 + 64 * (1 + rng_below(r, 62));
    }
}

static uint32_t float_value(struct rng *r)
{
    static const uint32_t corner[] = {0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000,
                                      0xff800000, 0x7fc00000, 0x7fa00000, 0xffc00001, 0x00000001,
                                      0x807fffff, 0x00800000, 0x7f7fffff, 0x4f000000, 0xcf000000,
                                      0x5f000000, 0x3f000000, 0x3fc00000, 0x4b000000};

    if (one_in(r, 3))
        return corner[rng_below(r, sizeof corner / sizeof corner[0])];
    if (one_in(r, 4))
        return (uint32_t)rng_next(r);
    return (uint32_t)(rng_next(r) & 0x807fffff) | (96 + rng_below(r, 64)) << 23;
}

static uint64_t double_value(struct rng *r)
{
    static const uint64_t corner[] = {0,
                                      0x8000000000000000,
                                      0x3ff0000000000000,
                                      0x7ff0000000000000,
                                      0xfff0000000000000,
                                      0x7ff8000000000000,
                                      0x7ff4000000000000,
                                      1,
                                      0x800fffffffffffff,
                                      0x0010000000000000,
                                      0x7fefffffffffffff,
                                      0x43e0000000000000,
                                      0xc3e0000000000000,
                                      0x41e0000000000000,
                                      0x41dfffffffc00000,
                                      0x3fe0000000000000,
                                      0x36a0000000000000,
                                      0x380fffffffffffff};

    if (one_in(r, 3))
        return corner[rng_below(r, sizeof corner / sizeof corner[0])];
    if (one_in(r, 4))
        return rng_next(r);
    return (rng_next(r) & 0x800fffffffffffff) | (uint64_t)(960 + rng_below(r, 128)) << 52;
}

void fuzz_bytes(struct rng *r, uint8_t *to, unsigned length)
{
    unsigned kind = rng_below(r, 6);

    for (unsigned i = 0; i + 8 <= length; i += 8) {
        uint64_t v;

        switch (kind) {
        case 0: v = float_value(r) | (uint64_t)float_value(r) << 32; break;
        case 1: v = double_value(r); break;
        case 2: v = fuzz_integer(r); break;
        case 3: v = rng_below(r, 2) ? ~0ull : 0; break;
        case 4: v = rng_next(r) & 0x8080ffff0f0f0101; break;
        default: v = rng_next(r); break;
        }
        memcpy(to + i, &v, 8);
    }
}

static void x87_register(struct rng *r, uint8_t *to)
{
    uint64_t mantissa = rng_next(r) | 1ull << 63;
    uint16_t exponent = (uint16_t)(0x3fff - 40 + rng_below(r, 80));

    switch (rng_below(r, 12)) {
    case 0: mantissa = 0, exponent = 0; break;
    case 1: mantissa = 1ull << 63, exponent = 0x7fff; break;
    case 2: mantissa |= 1ull << 62, exponent = 0x7fff; break;
    case 3: mantissa &= ~(1ull << 62), exponent = 0x7fff; break;
    case 4: exponent = 0, mantissa >>= 1 + rng_below(r, 40); break;
    case 5: mantissa = rng_next(r), exponent = (uint16_t)rng_next(r); break;
    case 6: mantissa = 1ull << 63, exponent = (uint16_t)(0x3fff + rng_below(r, 4) - 1); break;
    case 7: exponent = (uint16_t)rng_below(r, 0x7fff); break;
    case 8: mantissa = rng_next(r), exponent = 0xffff; break;
    case 9: mantissa &= ~0ull << rng_below(r, 63); break;
    default: break;
    }
    if (one_in(r, 2))
        exponent ^= 0x8000;
    memcpy(to, &mantissa, 8);
    memcpy(to + 8, &exponent, 2);
}

static void put16(uint8_t *p, unsigned value)
{
    uint16_t v = (uint16_t)value;

    memcpy(p, &v, 2);
}

void fuzz_fpu(struct rng *r, uint8_t *xsave)
{
    unsigned fcw = 0x37f, fsw = rng_below(r, 8) << 11,
             tags = one_in(r, 2)   ? rng_below(r, 256)
                    : one_in(r, 3) ? 0
                                   : 0xff;
    uint32_t mxcsr = 0x1f80;

    if (one_in(r, 3))
        fcw = 0x40 | 0x3f | rng_below(r, 16) << 8;
    if (one_in(r, 12))
        fcw = (fcw & ~0x3fu) | rng_below(r, 64);
    if (one_in(r, 3))
        fsw |= (rng_below(r, 8) << 8) | rng_below(r, 2) << 14;
    if (one_in(r, 12))
        fsw |= rng_below(r, 128);
    if (one_in(r, 3))
        mxcsr |= rng_below(r, 4) << 13;
    if (one_in(r, 6))
        mxcsr |= 0x40;
    if (one_in(r, 6))
        mxcsr |= 0x8000;
    if (one_in(r, 4))
        mxcsr |= rng_below(r, 64);
    if (one_in(r, 10))
        mxcsr ^= rng_below(r, 64) << 7;
    memset(xsave, 0, 832);
    put16(xsave, fcw);
    put16(xsave + 2, fsw);
    xsave[4] = (uint8_t)tags;
    memcpy(xsave + 24, &mxcsr, 4);
    for (unsigned i = 0; i < 8; i++)
        x87_register(r, xsave + 32 + 16 * i);
    for (unsigned i = 0; i < 16; i++) {
        fuzz_bytes(r, xsave + 160 + 16 * i, 16);
        fuzz_bytes(r, xsave + 576 + 16 * i, 16);
    }
    xsave[512] = 7;
}

/* What every page holds before each case; the case then adds its own bytes near its operands. */
void fuzz_golden(uint8_t *pages)
{
    struct rng r;

    rng_seed(&r, 0x676f6c64);
    for (unsigned i = 0; i < FUZZ_PAGES; i++) {
        if (!fuzz_perm[i])
            memset(pages + i * 4096, 0, 4096);
        else if (fuzz_perm[i] & PERM_EXEC)
            memset(pages + i * 4096, 0xcc, 4096);
        else
            for (unsigned j = 0; j < 4096; j += 64) {
                uint64_t pointer = one_in(&r, 2)
                                       ? fuzz_address(&r, one_in(&r, 2))
                                       : FUZZ_LOW + PAGE_CODE * 4096 + rng_below(&r, 8192);

                fuzz_bytes(&r, pages + i * 4096 + j, 64);
                memcpy(pages + i * 4096 + j + 8 * rng_below(&r, 8), &pointer, 8);
            }
    }
}
