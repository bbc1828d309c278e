/* SPDX-License-Identifier: MIT */
/* CPUID: every leaf as a line "# cpuid LEAF SUB EAX EBX ECX EDX" (hexadecimal), for comparing
 * engines; what belongs to the platform (doc/cpu.md) as "# platform ...". And the hypervisor's
 * registers: those that CPUID offers work, the others are #GP. */
#include "lib64.h"

static uint8_t page[4096] __attribute__((aligned(4096)));

static void show(const char *kind, uint32_t leaf, uint32_t sub, const uint32_t out[4])
{
    print("# %s %x %x %x %x %x %x\n", kind, leaf, sub, out[0], out[1], out[2], out[3]);
}

static bool is_platform(uint32_t leaf)
{
    return leaf == 0x15 || leaf == 0x16 || leaf == 0x40000001 || leaf == 0x40000010;
}

static void show_leaf(uint32_t leaf, uint32_t sub)
{
    uint32_t out[4], rest[4] = {0};

    cpuid(leaf, sub, out);
    if (leaf == 1) { /* the TSC deadline timer */
        rest[2] = out[2] & 1u << 24;
        out[2] &= ~(1u << 24);
        show("platform", leaf, sub, rest);
    } else if (leaf == 7 && sub == 0) { /* the processor's bugs */
        rest[3] = out[3];
        out[3] = 0;
        show("platform", leaf, sub, rest);
    }
    show(is_platform(leaf) ? "platform" : "cpuid", leaf, sub, out);
}

static uint32_t limit_of(uint32_t first)
{
    uint32_t out[4];

    cpuid(first, 0, out);
    return out[0];
}

static void show_range(uint32_t first)
{
    uint32_t last = limit_of(first);

    if (!ok(last >= first && last < first + 0x40, "leaf %x names its highest leaf: %x", first,
            last))
        return;
    for (uint32_t leaf = first; leaf <= last; leaf++) {
        unsigned subs = leaf == 4 ? 5 : leaf == 7 || leaf == 0xb || leaf == 0xd ? 3 : 1;

        for (uint32_t sub = 0; sub < subs; sub++)
            show_leaf(leaf, sub);
    }
}

static void read_msr(uint64_t i)
{
    rdmsr((uint32_t)i);
}

static bool there(uint32_t msr)
{
    return trap_call(read_msr, msr) != GP;
}

/* ---- KVM's ---- */

static void test_kvm(void)
{
    static const struct {
        uint32_t msr;
        uint8_t bit;
    } paravirtual[] = {{0x4b564d01, 3}, {0x4b564d02, 4},  {0x4b564d03, 5},
                       {0x4b564d04, 6}, {0x4b564d05, 12}, {0x4b564d06, 14}};
    uint32_t out[4];

    cpuid(0x40000001, 0, out);
    for (unsigned i = 0; i < ARRAY_SIZE(paravirtual); i++)
        ok(there(paravirtual[i].msr) == (out[0] >> paravirtual[i].bit & 1),
           "MSR %x follows feature bit %d", paravirtual[i].msr, paravirtual[i].bit);
    ok(!there(0x40000000), "no Hyper-V's");
    if (!(out[0] >> 3 & 1))
        return;
    wrmsr(0x4b564d01, (uintptr_t)page | 1);
    ok(*(volatile uint32_t *)(page + 24) != 0, "kvmclock's page tells the clock's rate");
    wrmsr(0x4b564d01, 0);
}

/* ---- Hyper-V's ---- */

static uint64_t hypercall(uint64_t code)
{
    uint64_t status = 0, none = 0;

    __asm__ volatile("xorl %%r8d, %%r8d\n call *%3"
                     : "=a"(status), "+c"(code), "+d"(none)
                     : "r"(page)
                     : "r8", "r9", "r10", "r11", "memory");
    return status;
}

static void test_hypercalls(void)
{
    wrmsr(0x40000001, (uintptr_t)page | 1);
    ok(!(rdmsr(0x40000001) & 1), "no hypercalls for who does not say who it is");
    wrmsr(0x40000000, 0x8100000000000001);
    is(rdmsr(0x40000000), 0x8100000000000001, "guest id");
    wrmsr(0x40000001, (uintptr_t)page | 1);
    is(rdmsr(0x40000001), (uintptr_t)page | 1, "hypercall page");
    is(hypercall(0xffff) & 0xffff, 2, "an unknown hypercall has an invalid code");
    wrmsr(0x40000000, 0);
    ok(!(rdmsr(0x40000001) & 1), "no longer");
}

static uint64_t page_time(void)
{
    const volatile uint64_t *p = (const volatile uint64_t *)page;
    unsigned __int128 product = (unsigned __int128)rdtsc() * p[1];

    return (uint64_t)(product >> 64) + p[2];
}

static void test_time(void)
{
    uint64_t a = rdmsr(0x40000020), b, t, hz = rdmsr(0x40000022), tsc = rdtsc();

    while (rdtsc() - tsc < hz / 100) /* 10 ms: 100000 units of 100 ns */
        cpu_pause();
    b = rdmsr(0x40000020);
    ok(b - a >= 90000 && b - a < 50000000, "the reference counter runs: %llx",
       (unsigned long long)(b - a));
    ok(hz > 100000000 && hz < 20000000000, "TSC at %llx Hz", (unsigned long long)hz);
    ok(rdmsr(0x40000023) >= 1000000, "the APIC timer has a frequency");
    wrmsr(0x40000021, (uintptr_t)page | 1);
    ok(*(volatile uint32_t *)page != 0, "the TSC page is valid");
    a = rdmsr(0x40000020);
    t = page_time();
    b = rdmsr(0x40000020);
    /* KVM's page may be some units behind its counter. */
    ok(t + 10000 >= a && t <= b + 10000, "it tells the counter's time: %llx, %llx, %llx",
       (unsigned long long)a, (unsigned long long)t, (unsigned long long)b);
    wrmsr(0x40000021, 0);
}

static void test_hyperv(void)
{
    uint32_t rights[4];

    cpuid(0x40000001, 0, rights);
    is(rights[0], 0x31237648, "interface Hv#1");
    cpuid(0x40000003, 0, rights);
    ok((rights[0] & 0xa62) == 0xa62, "counter, TSC page, hypercalls, index, frequencies: %x",
       rights[0]);
    test_hypercalls();
    is(rdmsr(0x40000002), 0, "the first processor's index");
    test_time();
    if (rights[0] >> 4 & 1) {
        wrmsr(0x40000072, 0x50);
        is(read_cr8(), 5, "task priority by MSR");
        wrmsr(0x40000072, 0);
    }
    ok(there(0x40000080) == (rights[0] >> 2 & 1), "SynIC as offered");
    ok(there(0x400000b0) == (rights[0] >> 3 & 1), "timers as offered");
    ok(!there(0x40000003), "no reset register");
    ok(!there(0x4b564d01), "no kvmclock");
}

int main(void)
{
    uint32_t out[4];

    tables_load();
    trap_hook = NULL;
    show_range(0);
    show_range(0x80000000);
    cpuid(1, 0, out);
    if (!(out[2] >> 31)) {
        skip("hypervisor", "none is told");
        return done();
    }
    show_range(0x40000000);
    cpuid(0x40000000, 0, out);
    if (out[1] == 0x7263694d) /* "Micr" */
        test_hyperv();
    else if (ok(out[1] == 0x4b4d564b, "KVM's leaves"))
        test_kvm();
    return done();
}
