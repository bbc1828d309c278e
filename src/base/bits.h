/* SPDX-License-Identifier: MIT */
/* Small arithmetic and layout helpers that every layer uses. */
#ifndef HULL_BASE_BITS_H
#define HULL_BASE_BITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>

#define PRINTF_LIKE(fmt, args)          __attribute__((format(printf, fmt, args)))
#define likely(x)                       __builtin_expect(!!(x), 1)
#define unlikely(x)                     __builtin_expect(!!(x), 0)
#define BIT(n)                          (1ULL << (n))
#define ARRAY_SIZE(a)                   (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

#define KiB (1ULL << 10)
#define MiB (1ULL << 20)
#define GiB (1ULL << 30)

#define PAGE_SHIFT 12
#define PAGE_SIZE  4096ULL
#define PAGE_MASK  (~(PAGE_SIZE - 1))

static inline size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static inline bool is_power_of_2(uint64_t x)
{
    return x && !(x & (x - 1));
}

/* `to` is a power of two. align_up wraps to 0 past the last multiple: check first where it matters.
 */
static inline uint64_t align_down(uint64_t x, uint64_t to)
{
    return x & ~(to - 1);
}

static inline uint64_t align_up(uint64_t x, uint64_t to)
{
    return align_down(x + to - 1, to);
}

/* Little-endian values at any alignment. hull runs on x86-64 hosts only, so these are plain moves.
 */
static inline uint16_t le16(const void *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint32_t le32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint64_t le64(const void *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void put_le16(void *p, uint16_t v)
{
    memcpy(p, &v, sizeof v);
}

static inline void put_le32(void *p, uint32_t v)
{
    memcpy(p, &v, sizeof v);
}

static inline void put_le64(void *p, uint64_t v)
{
    memcpy(p, &v, sizeof v);
}

/* Big-endian ones, of networks and qcow2. */
static inline uint16_t be16(const void *p)
{
    return __builtin_bswap16(le16(p));
}

static inline uint32_t be32(const void *p)
{
    return __builtin_bswap32(le32(p));
}

static inline uint64_t be64(const void *p)
{
    return __builtin_bswap64(le64(p));
}

static inline void put_be16(void *p, uint16_t v)
{
    v = __builtin_bswap16(v);
    memcpy(p, &v, sizeof v);
}

static inline void put_be32(void *p, uint32_t v)
{
    v = __builtin_bswap32(v);
    memcpy(p, &v, sizeof v);
}

static inline void put_be64(void *p, uint64_t v)
{
    v = __builtin_bswap64(v);
    memcpy(p, &v, sizeof v);
}

#endif
