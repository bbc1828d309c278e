/* SPDX-License-Identifier: MIT */
/* The fuzzer's random numbers: every case depends on its own seed only. */
#ifndef HULL_FUZZ_RANDOM_H
#define HULL_FUZZ_RANDOM_H

#include <stdbool.h>
#include <stdint.h>

struct rng {
    uint64_t s[2];
};

static inline uint64_t rng_mix(uint64_t x) /* splitmix64 */
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

static inline void rng_seed(struct rng *r, uint64_t seed)
{
    r->s[0] = rng_mix(seed);
    r->s[1] = rng_mix(r->s[0] ^ seed);
}

static inline uint64_t rng_next(struct rng *r) /* xoroshiro128+ */
{
    uint64_t a = r->s[0], b = r->s[1], sum = a + b;

    b ^= a;
    r->s[0] = (a << 24 | a >> 40) ^ b ^ b << 16;
    r->s[1] = b << 37 | b >> 27;
    return sum;
}

static inline unsigned rng_below(struct rng *r, unsigned n)
{
    return (unsigned)((rng_next(r) >> 32) * n >> 32);
}

static inline bool one_in(struct rng *r, unsigned n)
{
    return rng_below(r, n) == 0;
}

#endif
