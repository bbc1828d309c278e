/* SPDX-License-Identifier: MIT */
/* x2APIC: its MSRs, what they refuse, and the ways between the modes. */
#include "lib64.h"

static volatile unsigned hits[256];

static void clear_hits(void)
{
    memset((void *)hits, 0, sizeof hits);
}

static void sti_nop(void)
{
    __asm__ volatile("sti; nop; nop; cli" : : : "memory");
}

static void read_msr(uint64_t i)
{
    rdmsr((uint32_t)i);
}

static void write_eoi_1(uint64_t i)
{
    wrmsr((uint32_t)i, 1);
}

static bool count_x2(struct frame *f)
{
    if (f->vector < 32)
        return false;
    hits[f->vector]++;
    wrmsr(0x80b, 0);
    return true;
}

static void base_to(uint64_t v)
{
    wrmsr(0x1b, v);
}

int main(void)
{
    uint64_t base = rdmsr(0x1b);
    uint32_t id[4];

    tables_load();
    cpuid(1, 0, id);
    ok(base & 0x100, "the boot processor says so");
    if (!(id[2] >> 21 & 1)) {
        skip("x2APIC", "not there");
        return done();
    }
    trap_hook = NULL;
    ok(trap_call(read_msr, 0x802) == GP, "x2APIC MSRs are #GP in xAPIC mode");
    wrmsr(0x1b, base | 0x400);
    wrmsr(0x80f, 0x1ff);
    is(rdmsr(0x802), 0, "x2APIC id");
    is(rdmsr(0x80d), 1, "x2APIC logical id");
    ok(trap_call(read_msr, 0x80e) == GP, "no DFR");
    ok(trap_call(read_msr, 0x831) == GP, "no second ICR");
    ok(trap_call(write_eoi_1, 0x80b) == GP, "EOI takes only 0");
    ok(trap_call(write_eoi_1, 0x802) == GP, "the id is read-only");
    ok(trap_call(base_to, base) == GP, "no way back to xAPIC");
    trap_hook = count_x2;
    clear_hits();
    wrmsr(0x83f, 0x44);
    sti_nop();
    is(hits[0x44], 1, "self IPI register");
    wrmsr(0x830, 0x45);
    sti_nop();
    is(hits[0x45], 1, "ICR to id 0");
    wrmsr(0x830, 1ull << 32 | 0x800 | 0x46);
    sti_nop();
    is(hits[0x46], 1, "ICR to logical id 1");
    wrmsr(0x830, 0xffffffffull << 32 | 0x47);
    sti_nop();
    is(hits[0x47], 1, "ICR broadcast");
    trap_hook = NULL;
    wrmsr(0x1b, base & ~0xc00ull);
    ok(trap_call(base_to, base | 0x400) == GP, "disabled straight to x2APIC");
    wrmsr(0x1b, base);
    ok(!(*(volatile uint32_t *)0xfee000f0 & 0x100), "and back through disabled to xAPIC");
    return done();
}
