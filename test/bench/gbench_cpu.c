/* SPDX-License-Identifier: MIT */
/* gbench: rows that compute in user mode. */
#include "gbench.h"
#include <emmintrin.h>
#include <stdlib.h>
#include <string.h>

#define HIDDEN __attribute__((noinline, noclone, noipa))

/* ---- plain integers ---- */

static void alu(uint64_t n)
{
    uint64_t a = gbench_sink | 1, b = 3, c = 7;

    for (uint64_t i = 0; i < n; i++) {
        a = a * 5 + b;
        b ^= a >> 7;
        c += b << 3;
        a -= c ^ i;
    }
    gbench_sink = a ^ b ^ c;
}

/* Lists, a small matrix and a table-driven state machine with a CRC: the mix of embedded code. */
static struct node {
    struct node *next;
    int32_t key;
} nodes[64];
static int16_t matrix[3][16][16];
static char text[128];

static bool core_prepare(void)
{
    for (unsigned i = 0; i < 64; i++)
        nodes[i] = (struct node){&nodes[(i * 37 + 11) % 64], (int32_t)(i * 7 % 31)};
    for (unsigned i = 0; i < 256; i++)
        matrix[0][i / 16][i % 16] = matrix[1][i % 16][i / 16] = (int16_t)(i * 13);
    for (unsigned i = 0; i < sizeof text; i++)
        text[i] = "0123456789+-.eE,"[i * 7 % 16];
    return true;
}

HIDDEN static uint32_t crc16(uint32_t crc, uint32_t v)
{
    for (unsigned i = 0; i < 16; i++, v >>= 1)
        crc = (crc ^ v) & 1 ? crc >> 1 ^ 0xa001 : crc >> 1;
    return crc;
}

HIDDEN static uint32_t core_list(uint32_t seed)
{
    struct node *p = &nodes[seed % 64];
    uint32_t sum = 0;

    for (unsigned i = 0; i < 64; i++, p = p->next)
        sum += p->key > 15 ? (uint32_t)p->key : sum >> 3;
    return sum;
}

HIDDEN static uint32_t core_matrix(uint32_t seed)
{
    uint32_t sum = seed;

    for (unsigned i = 0; i < 16; i += 4)
        for (unsigned j = 0; j < 16; j++) {
            int32_t v = 0;

            for (unsigned k = 0; k < 16; k++)
                v += matrix[0][i][k] * matrix[1][k][j];
            matrix[2][i][j] = (int16_t)v;
            sum += (uint32_t)v;
        }
    return sum;
}

HIDDEN static uint32_t core_states(uint32_t seed)
{
    unsigned state = 0, count[8] = {0};

    for (unsigned i = 0; i < sizeof text; i++) {
        switch (text[(i + seed) % sizeof text]) {
        case '0' ... '9': state = state < 4 ? state + 1 : 4; break;
        case '+':
        case '-': state = state == 0 || state == 6 ? 1 : 7; break;
        case '.': state = 5; break;
        case 'e':
        case 'E': state = 6; break;
        default: state = 0; break;
        }
        count[state]++;
    }
    return count[0] + count[4] * 3 + count[7] * 5;
}

static void core(uint64_t n)
{
    uint32_t crc = 0;

    for (uint64_t i = 0; i < n; i++) {
        crc = crc16(crc, core_list((uint32_t)i));
        crc = crc16(crc, core_matrix(crc));
        crc = crc16(crc, core_states((uint32_t)i));
    }
    gbench_sink = crc;
}

/* ---- calls ---- */

HIDDEN static unsigned fib(unsigned n)
{
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static void fib20(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        gbench_sink += fib(20);
}

HIDDEN static uint64_t leaf_add(uint64_t a, uint64_t b)
{
    return a + b;
}
HIDDEN static uint64_t leaf_xor(uint64_t a, uint64_t b)
{
    return a ^ b * 3;
}
HIDDEN static uint64_t leaf_sub(uint64_t a, uint64_t b)
{
    return a - b;
}
HIDDEN static uint64_t leaf_mul(uint64_t a, uint64_t b)
{
    return a * 5 + b;
}

static void calls(uint64_t n)
{
    uint64_t a = gbench_sink;

    for (uint64_t i = 0; i < n; i++)
        a = leaf_add(leaf_xor(a, i), 3);
    gbench_sink = a;
}

static uint64_t (*volatile const leaves[4])(uint64_t, uint64_t) = {leaf_add, leaf_xor, leaf_sub,
                                                                   leaf_mul};

static void indirect(uint64_t n)
{
    uint64_t a = 1;

    for (uint64_t i = 0; i < n; i++)
        a = leaves[i & 3](a, i);
    gbench_sink = a;
}

/* A bytecode interpreter with computed goto. */
static const uint8_t program[] = {0, 1, 2, 3, 4, 1, 0, 5, 2, 4, 3, 0, 1, 5, 2, 6};

static void interp(uint64_t n)
{
    static const void *const to[] = {&&inc, &&add, &&rotate, &&cross, &&push, &&pop, &&again};
    const uint8_t *pc = program;
    uint64_t a = gbench_sink, b = 1, stack[8] = {0};
    unsigned sp = 0;

#define NEXT_OP goto *to[*pc++]
    NEXT_OP;
inc:
    a++;
    NEXT_OP;
add:
    a += b;
    NEXT_OP;
rotate:
    b = b << 5 | b >> 59;
    NEXT_OP;
cross:
    b ^= a;
    NEXT_OP;
push:
    stack[sp++ & 7] = a;
    NEXT_OP;
pop:
    b += stack[--sp & 7];
    NEXT_OP;
again:
    pc = program;
    if (--n)
        NEXT_OP;
    gbench_sink = a ^ b;
#undef NEXT_OP
}

/* ---- library work ---- */

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

static void qsort4096(uint64_t n)
{
    static uint32_t data[4096];

    for (uint64_t i = 0; i < n; i++) {
        uint32_t v = (uint32_t)i + 1;

        for (unsigned k = 0; k < 4096; k++)
            data[k] = v = v * 1664525 + 1013904223;
        qsort(data, 4096, 4, compare);
        gbench_sink += data[0];
    }
}

static uint32_t sha_k[64];
static uint8_t sha_data[1024];

static bool sha_prepare(void)
{
    uint32_t v = 0x428a2f98;

    for (unsigned i = 0; i < 64; i++) /* the round's cost is what counts, not its constants */
        sha_k[i] = v = v * 1664525 + 1013904223;
    memset(sha_data, 0x5a, sizeof sha_data);
    return true;
}

static uint32_t ror(uint32_t x, unsigned n)
{
    return x >> n | x << (32 - n);
}

HIDDEN static void sha_block(uint32_t h[8], const uint8_t *p)
{
    uint32_t w[64], s[8];

    for (unsigned i = 0; i < 16; i++) {
        memcpy(&w[i], p + 4 * i, 4);
        w[i] = __builtin_bswap32(w[i]);
    }
    for (unsigned i = 16; i < 64; i++)
        w[i] = w[i - 16] + (ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 7] +
               (ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(s, h, sizeof s);
    for (unsigned i = 0; i < 64; i++) {
        uint32_t t1 = s[7] + (ror(s[4], 6) ^ ror(s[4], 11) ^ ror(s[4], 25)) +
                      ((s[4] & s[5]) ^ (~s[4] & s[6])) + sha_k[i] + w[i];
        uint32_t t2 = (ror(s[0], 2) ^ ror(s[0], 13) ^ ror(s[0], 22)) +
                      ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));

        memmove(s + 1, s, 28);
        s[4] += t1;
        s[0] = t1 + t2;
    }
    for (unsigned i = 0; i < 8; i++)
        h[i] += s[i];
}

static void sha256(uint64_t n)
{
    uint32_t h[8] = {1, 2, 3, 4, 5, 6, 7, 8};

    for (uint64_t i = 0; i < n; i++)
        for (unsigned k = 0; k < sizeof sha_data; k += 64)
            sha_block(h, sha_data + k);
    gbench_sink = h[0];
}

/* ---- floating point and vectors ---- */

static void fp_scalar(uint64_t n)
{
    double x = 1.0, y = 0.5;

    for (uint64_t i = 0; i < n; i++) {
        x = x * 0.9999999 + y;
        y = y / 1.0000001 + x * 1e-9;
    }
    gbench_sink = (uint64_t)x;
}

static void x87(uint64_t n)
{
    volatile long double start = 1.0L;
    long double x = start, y = 0.5L;

    for (uint64_t i = 0; i < n; i++) {
        x = x * 0.9999999L + y;
        y = y * 0.999L + 0.001L;
    }
    gbench_sink = (uint64_t)x;
}

static void fp_sse2(uint64_t n)
{
    static float a[256], b[256];
    __m128 k = _mm_set1_ps(0.999f), one = _mm_set1_ps(1.0f);

    for (uint64_t i = 0; i < n; i++)
        for (unsigned j = 0; j < 256; j += 4) {
            __m128 x = _mm_loadu_ps(a + j), y = _mm_loadu_ps(b + j);

            x = _mm_add_ps(_mm_mul_ps(x, k), one);
            y = _mm_max_ps(_mm_sub_ps(y, x), x);
            _mm_storeu_ps(a + j, x);
            _mm_storeu_ps(b + j, y);
        }
    gbench_sink = (uint64_t)a[0];
}

static void int_sse2(uint64_t n)
{
    static uint8_t a[1024], b[1024];
    __m128i sum = _mm_setzero_si128();

    for (uint64_t i = 0; i < n; i++)
        for (unsigned j = 0; j < 1024; j += 16) {
            __m128i x = _mm_loadu_si128((const __m128i *)(const void *)(a + j));
            __m128i y = _mm_loadu_si128((const __m128i *)(const void *)(b + j));

            x = _mm_add_epi8(_mm_xor_si128(x, y), _mm_cmpgt_epi8(y, x));
            sum = _mm_add_epi64(sum, _mm_sad_epu8(x, y));
            _mm_storeu_si128((__m128i *)(void *)(a + j), x);
        }
    gbench_sink = (uint64_t)_mm_cvtsi128_si64(sum);
}

const struct row gbench_cpu[] = {
    {"alu", "compute", alu, NULL},
    {"core", "compute", core, core_prepare},
    {"fib20", "compute", fib20, NULL},
    {"calls", "compute", calls, NULL},
    {"indirect", "compute", indirect, NULL},
    {"interp", "compute", interp, NULL},
    {"qsort4096", "compute", qsort4096, NULL},
    {"sha256_1K", "compute", sha256, sha_prepare},
    {"fp_scalar", "compute", fp_scalar, NULL},
    {"x87", "compute", x87, NULL},
    {"fp_sse2", "compute", fp_sse2, NULL},
    {"int_sse2", "compute", int_sse2, NULL},
    {NULL, NULL, NULL, NULL},
};
