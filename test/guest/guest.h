/* SPDX-License-Identifier: MIT */
/* What every test guest has: TAP on the debug port 0x402, the exit port 0xf4, and the processor's
 * instructions as functions. Works in 32- and 64-bit guests. */
#ifndef HULL_GUEST_H
#define HULL_GUEST_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void print(const char *fmt, ...)
    __attribute__((format(printf, 1, 2))); /* %d %u %x %llx %s %c, no widths */
bool ok(bool pass, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* ok, and says what came instead. */
bool is(uint64_t got, uint64_t want, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
bool tcg(void); /* under QEMU's TCG, which crashes guests where it misses a check */
void todo(const char *name, const char *why); /* a check that is known to fail */
void skip(const char *name, const char *why);
int done(void); /* prints the plan; main's return value */
_Noreturn void guest_exit(int code);
void *memset(void *to, int byte, size_t n);
void *memcpy(void *to, const void *from, size_t n);

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

static inline void outb(uint16_t port, uint8_t v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static inline uint64_t rdmsr(uint32_t i)
{
    uint32_t lo, hi;
    __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(i));
    return lo | (uint64_t)hi << 32;
}

static inline void wrmsr(uint32_t i, uint64_t v)
{
    __asm__ volatile("wrmsr" : : "c"(i), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory");
}

static inline uint64_t rdtsc(void)
{
    uint32_t lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return lo | (uint64_t)hi << 32;
}

static inline void cpuid(uint32_t leaf, uint32_t sub, uint32_t out[4])
{
    __asm__ volatile("cpuid"
                     : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
                     : "a"(leaf), "c"(sub));
}

#define READ_REG(name)                                                                             \
    static inline uintptr_t read_##name(void)                                                      \
    {                                                                                              \
        uintptr_t v;                                                                               \
        __asm__ volatile("mov %%" #name ", %0" : "=r"(v) : : "memory");                            \
        return v;                                                                                  \
    }                                                                                              \
    static inline void write_##name(uintptr_t v)                                                   \
    {                                                                                              \
        __asm__ volatile("mov %0, %%" #name : : "r"(v) : "memory");                                \
    }
READ_REG(cr0)
READ_REG(cr2)
READ_REG(cr3)
READ_REG(cr4)
READ_REG(dr0)
READ_REG(dr1)
READ_REG(dr2)
READ_REG(dr3)
READ_REG(dr6)
READ_REG(dr7)

#ifdef __x86_64__
READ_REG(cr8)
#endif

static inline void invlpg(uintptr_t at)
{
    __asm__ volatile("invlpg (%0)" : : "r"(at) : "memory");
}

static inline uintptr_t flags(void)
{
    uintptr_t f;
    __asm__ volatile("pushf; pop %0" : "=r"(f));
    return f;
}

static inline void cpu_pause(void)
{
    __asm__ volatile("pause" : : : "memory");
}

enum {
    RING0_CODE = 0x08,
    RING0_DATA = 0x10,
    USER_CODE32 = 0x1b,
    USER_DATA = 0x23,
    USER_CODE64 = 0x2b
};
enum { DE, DB, NMI, BP, OF, BR, UD, NM, DF, TS = 10, NP, SS, GP, PF, MF = 16, AC, MC, XM };

#endif
