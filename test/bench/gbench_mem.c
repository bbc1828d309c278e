/* SPDX-License-Identifier: MIT */
/* gbench: rows that move data: strings, streams, dependent loads, atomics. */
#include "gbench.h"
#include <emmintrin.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define BLOCK 16384

static uint8_t *from, *to;

static bool blocks_prepare(void)
{
    if (from == NULL) {
        from = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
        if (from == MAP_FAILED)
            return false;
        to = from + (1 << 19) + BLOCK * 3;
        memset(from, 1, BLOCK);
        memset(to, 2, BLOCK);
    }
    return true;
}

static void copy_c(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        memcpy(to, from, BLOCK);
        __asm__ volatile("" ::: "memory");
    }
}

static void set_c(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        memset(to, (int)i, BLOCK);
        __asm__ volatile("" ::: "memory");
    }
}

static void rep_movsb(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        void *d = to, *s = from;
        size_t c = BLOCK;

        __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(c)::"memory");
    }
}

static void rep_stosq(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        void *d = to;
        size_t c = 4096 / 8;

        __asm__ volatile("rep stosq" : "+D"(d), "+c"(c) : "a"(i) : "memory");
    }
}

static void sse_copy(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        for (unsigned k = 0; k < BLOCK; k += 16) {
            __m128i v = _mm_loadu_si128((const __m128i *)(const void *)(from + k));

            _mm_storeu_si128((__m128i *)(void *)(to + k), v);
            __asm__ volatile("" ::: "memory");
        }
}

static void strings(uint64_t n)
{
    uint64_t sum = 0;

    from[1000] = 0;
    for (uint64_t i = 0; i < n; i++) {
        sum += strlen((const char *)from);
        __asm__ volatile("" ::: "memory");
    }
    from[1000] = 1;
    gbench_sink = sum;
}

/* A byte at a time, as parsers do. */
static void scan(uint64_t n)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < n; i++)
        for (unsigned k = 0; k < 4096; k++) {
            sum += from[k] == 7;
            __asm__ volatile("" : "+r"(sum));
        }
    gbench_sink = sum;
}

static void load_store(volatile uint64_t *a, volatile uint64_t *b, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        uint64_t k = i & 511;

        b[k] = a[k] + 1;
    }
}

static void ldst(uint64_t n)
{
    load_store((uint64_t *)(void *)from, (uint64_t *)(void *)to, n);
}

/* 32 MiB apart: a direct-mapped software TLB may use one entry for both. */
static uint8_t *big;

static bool big_prepare(void)
{
    if (big == NULL) {
        big = mmap(NULL, 64 << 20, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
        if (big == MAP_FAILED)
            return false;
    }
    return true;
}

static void ldst_alias(uint64_t n)
{
    load_store((uint64_t *)(void *)big, (uint64_t *)(void *)(big + (32 << 20)), n);
}

/* ---- dependent loads: one pointer a cache line, in random order ---- */

static void **chain;

static bool chase_prepare(size_t bytes)
{
    size_t lines = bytes / 64;
    uint64_t seed = 88172645463325252ull;

    if (!big_prepare())
        return false;
    for (size_t i = 0; i < lines; i++)
        *(void **)(void *)(big + i * 64) = big + i * 64;
    for (size_t i = lines - 1; i > 0; i--) { /* Sattolo: one cycle through all */
        void **a = (void **)(void *)(big + i * 64), **b, *t;

        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        b = (void **)(void *)(big + (seed % i) * 64);
        t = *a, *a = *b, *b = t;
    }
    chain = (void **)(void *)big;
    return true;
}

static bool chase16k_prepare(void)
{
    return chase_prepare(16 << 10);
}
static bool chase512k_prepare(void)
{
    return chase_prepare(512 << 10);
}
static bool chase64m_prepare(void)
{
    return chase_prepare(64 << 20);
}

static void chase(uint64_t n)
{
    void **p = chain;

    for (uint64_t i = 0; i < n; i++)
        p = *p;
    chain = p;
    gbench_sink = (uint64_t)(uintptr_t)p;
}

static void atomic_add(uint64_t n)
{
    static atomic_ullong counter;

    for (uint64_t i = 0; i < n; i++)
        atomic_fetch_add(&counter, 1);
}

static void atomic_cas(uint64_t n)
{
    static atomic_ullong value;
    unsigned long long v = 0;

    for (uint64_t i = 0; i < n; i++)
        if (atomic_compare_exchange_strong(&value, &v, v + 1))
            v++;
    gbench_sink = v;
}

const struct row gbench_mem[] = {
    {"memcpy16K", "memory", copy_c, blocks_prepare},
    {"memset16K", "memory", set_c, blocks_prepare},
    {"repmovsb16K", "memory", rep_movsb, blocks_prepare},
    {"repstosq4K", "memory", rep_stosq, blocks_prepare},
    {"ssecopy16K", "memory", sse_copy, blocks_prepare},
    {"strlen1000", "memory", strings, blocks_prepare},
    {"scan4K", "memory", scan, blocks_prepare},
    {"ldst", "memory", ldst, blocks_prepare},
    {"ldst_alias32M", "memory", ldst_alias, big_prepare},
    {"chase16K", "memory", chase, chase16k_prepare},
    {"chase512K", "memory", chase, chase512k_prepare},
    {"chase64M", "memory", chase, chase64m_prepare},
    {"atomic_add", "memory", atomic_add, NULL},
    {"atomic_cas", "memory", atomic_cas, NULL},
    {NULL, NULL, NULL, NULL},
};
