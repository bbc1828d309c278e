/* SPDX-License-Identifier: MIT */
/* What the host's processor offers, and how fast its TSC runs. Everything is asked once, before a
 * guest runs: CPUID takes microseconds where a hypervisor traps it. */
#include "engine/x86/model.h"
#include "base/clock.h"
#include <cpuid.h>
#include <linux/perf_event.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

static uint8_t features[X86_F_COUNT];
static uint32_t tsc_khz;
static pthread_once_t features_once = PTHREAD_ONCE_INIT, tsc_once = PTHREAD_ONCE_INIT;

static uint64_t host_xcr0(void)
{
    uint32_t low, high;

    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low | (uint64_t)high << 32;
}

static void ask_features(void)
{
    static const uint8_t needs_ymm[] = {X86_F_AVX, X86_F_AVX2, X86_F_FMA, X86_F_F16C};
    uint32_t leaf = UINT32_MAX, sub = 0, out[4] = {0};

    for (unsigned i = 1; i < X86_F_COUNT; i++) {
        if (cpuid_bit[i].leaf != leaf || cpuid_bit[i].sub != sub) {
            leaf = cpuid_bit[i].leaf;
            sub = cpuid_bit[i].sub;
            if (!__get_cpuid_count(leaf, sub, &out[0], &out[1], &out[2], &out[3]))
                memset(out, 0, sizeof out);
        }
        features[i] = out[cpuid_bit[i].reg] >> cpuid_bit[i].bit & 1;
    }
    __cpuid(1, out[0], out[1], out[2], out[3]);
    if (!(out[2] & bit_OSXSAVE) || (host_xcr0() & 6) != 6) /* the kernel does not save YMM */
        for (unsigned i = 0; i < sizeof needs_ymm; i++)
            features[needs_ymm[i]] = 0;
    features[X86_F_BASE] = 1;
}

void host_identity(char vendor[13], uint32_t *signature, char brand[49])
{
    uint32_t out[4];

    __cpuid(0, out[0], out[1], out[2], out[3]);
    memset(vendor, 0, 13);
    memcpy(vendor, &out[1], 4);
    memcpy(vendor + 4, &out[3], 4);
    memcpy(vendor + 8, &out[2], 4);
    __cpuid(1, *signature, out[1], out[2], out[3]);
    memset(brand, 0, 49);
    for (unsigned i = 0; i < 3; i++)
        if (__get_cpuid(0x80000002 + i, &out[0], &out[1], &out[2], &out[3]))
            memcpy(brand + 16 * i, out, 16);
    for (size_t len = strlen(brand); len && brand[len - 1] == ' '; len--)
        brand[len - 1] = 0;
}

const uint8_t *host_features(void)
{
    pthread_once(&features_once, ask_features);
    return features;
}

static uint32_t khz_by_cpuid(void)
{
    uint32_t a, b, c, d;

    if (__get_cpuid(0x15, &a, &b, &c, &d) && a && b && c)
        return (uint32_t)mul_div(c, b, (uint64_t)a * 1000);
    __cpuid(1, a, b, c, d);
    if (c >> 31) { /* under a hypervisor, many of which tell the frequency in this leaf */
        __cpuid(0x40000000, a, b, c, d);
        if (a >= 0x40000010 && a < 0x40000100) {
            __cpuid(0x40000010, a, b, c, d);
            return a;
        }
    }
    return 0;
}

/* The kernel maps its own idea of the frequency for self-monitoring: ns = cycles * mult >> shift.
 */
static uint32_t khz_by_kernel(void)
{
    struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE,
                                   .size = sizeof attr,
                                   .config = PERF_COUNT_SW_DUMMY,
                                   .exclude_kernel = 1,
                                   .exclude_hv = 1};
    int fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
    struct perf_event_mmap_page *page;
    uint32_t khz = 0;

    if (fd < 0)
        return 0;
    page = mmap(NULL, PAGE_SIZE, PROT_READ, MAP_SHARED, fd, 0);
    if (page != MAP_FAILED) {
        if (page->cap_user_time && page->time_mult)
            khz = (uint32_t)mul_div(1000000, BIT(page->time_shift), page->time_mult);
        munmap(page, PAGE_SIZE);
    }
    close(fd);
    return khz;
}

/* A pair of both clocks, read close together: the tightest of a few tries. */
static uint64_t clock_pair(uint64_t *tsc)
{
    uint64_t best = UINT64_MAX, ns = 0;

    for (unsigned i = 0; i < 8; i++) {
        struct timespec t;
        uint64_t before = __rdtsc(), after;

        clock_gettime(CLOCK_MONOTONIC_RAW, &t);
        after = __rdtsc();
        if (after - before < best) {
            best = after - before;
            *tsc = before + best / 2;
            ns = (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
        }
    }
    return ns;
}

static uint64_t begun_ns, begun_tsc; /* the measurement's first pair */

void host_tsc_begin(void)
{
    if (!begun_ns)
        begun_ns = clock_pair(&begun_tsc);
}

static uint32_t khz_by_measuring(void)
{
    const uint64_t long_enough = 5000000; /* for 20 parts per million */
    uint64_t tsc = 0, ns;

    host_tsc_begin();
    ns = clock_pair(&tsc);
    if (ns - begun_ns < long_enough) {
        nanosleep(&(struct timespec){.tv_nsec = (long)(long_enough - (ns - begun_ns))}, NULL);
        ns = clock_pair(&tsc);
    }
    return ns > begun_ns ? (uint32_t)mul_div(tsc - begun_tsc, 1000000, ns - begun_ns) : 0;
}

static void ask_tsc(void)
{
    uint32_t (*const ways[])(void) = {khz_by_cpuid, khz_by_kernel, khz_by_measuring};

    for (unsigned i = 0; i < ARRAY_SIZE(ways); i++) {
        uint32_t khz = ways[i]();

        if (khz >= 100000 && khz < 20000000) { /* 0.1 to 20 GHz: anything else is no answer */
            tsc_khz = khz;
            return;
        }
    }
    tsc_khz = 1000000;
}

bool host_tsc_assume(uint32_t khz)
{
    uint32_t here = host_tsc_khz(), apart = here > khz ? here - khz : khz - here;

    if (apart > khz / 4000) /* 250 parts per million */
        return false;
    tsc_khz = khz;
    return true;
}

uint32_t host_tsc_khz(void)
{
    pthread_once(&tsc_once, ask_tsc);
    return tsc_khz;
}
