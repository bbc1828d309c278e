/* SPDX-License-Identifier: MIT */
/* The local APIC of one processor: registers, self-interrupts, priorities, the timer in its modes,
 * NMI, HLT and the shadow of STI. */
#include "lib64.h"

#define APIC 0xfee00000ull

static volatile unsigned hits[256], order[64], order_count;
static uint64_t hit_rip;

static uint32_t apic_read(unsigned reg)
{
    return *(volatile uint32_t *)(APIC + reg);
}

static void apic_write(unsigned reg, uint32_t v)
{
    *(volatile uint32_t *)(APIC + reg) = v;
}

static bool count_hit(struct frame *f)
{
    if (f->vector < 32 && f->vector != NMI)
        return false;
    hits[f->vector]++;
    hit_rip = f->rip;
    if (order_count < ARRAY_SIZE(order))
        order[order_count++] = (unsigned)f->vector;
    if (f->vector != NMI && f->vector != 0xff)
        apic_write(0xb0, 0);
    return true;
}

static void clear_hits(void)
{
    memset((void *)hits, 0, sizeof hits);
    order_count = 0;
}

static void self(unsigned vector)
{
    apic_write(0x300, 0x40000 | vector);
}

static void sti_nop(void)
{
    __asm__ volatile("sti; nop; nop; cli" : : : "memory");
}

static void registers(void)
{
    apic_write(0xf0, 0x1ff);
    is(apic_read(0x20) >> 24, 0, "APIC id");
    ok((apic_read(0x30) & 0xff) >= 0x10 && (apic_read(0x30) >> 16 & 0xff) >= 4, "version");
    apic_write(0x80, 0x50);
    is(apic_read(0x80), 0x50, "TPR");
    is(read_cr8(), 5, "CR8 is TPR's upper half");
    write_cr8(0);
    is(apic_read(0x80), 0, "and writes it");
    apic_write(0xd0, 0x01000000);
    is(apic_read(0xd0), 0x01000000, "LDR");
    is(apic_read(0xe0), 0xffffffff, "DFR: flat");
    if (tcg()) {
        skip("ESR: vector below 16", "TCG delivers it");
        return;
    }
    apic_write(0x280, 0);
    self(3);
    apic_write(0x280, 0);
    ok(apic_read(0x280) & 0x60, "ESR: vector below 16");
    apic_write(0x280, 0);
}

static void self_interrupts(void)
{
    clear_hits();
    self(0x40);
    is(hits[0x40], 0, "IF clear holds an interrupt back");
    ok(apic_read(0x220) & 1, "it waits in IRR");
    sti_nop();
    is(hits[0x40], 1, "and comes with IF");
    ok(!(apic_read(0x220) & 1) && !(apic_read(0x120) & 1), "IRR and ISR are clear after EOI");
    clear_hits();
    self(0x51);
    self(0x93);
    self(0x52);
    sti_nop();
    ok(order_count == 3 && order[0] == 0x93 && order[1] == 0x52 && order[2] == 0x51,
       "highest vector first");
    clear_hits();
    apic_write(0x80, 0x60);
    self(0x5f);
    sti_nop();
    is(hits[0x5f], 0, "TPR holds back its class and below");
    self(0x71);
    sti_nop();
    is(hits[0x71], 1, "not what is above");
    apic_write(0x80, 0);
    sti_nop();
    is(hits[0x5f], 1, "lowering TPR lets it in");
    clear_hits();
    write_cr8(15);
    self(0xe0);
    __asm__ volatile("sti");
    is(hits[0xe0], 0, "CR8 15 holds back all");
    write_cr8(0);
    __asm__ volatile("nop; cli");
    is(hits[0xe0], 1, "CR8 0 lets it in at once");
}

static bool nested(struct frame *f)
{
    if (f->vector == 0x41) {
        self(0x42); /* the same class: waits */
        self(0x60); /* a higher one: comes now */
        order[order_count++] = 0x41;
        is(apic_read(0xa0), 0x40, "PPR in a handler");
        __asm__ volatile("sti; nop; nop; cli");
        order[order_count++] = 0x141;
        apic_write(0xb0, 0);
        return true;
    }
    return count_hit(f);
}

static void nesting(void)
{
    clear_hits();
    trap_hook = nested;
    self(0x41);
    sti_nop();
    trap_hook = count_hit;
    ok(order_count == 4 && order[0] == 0x41 && order[1] == 0x60 && order[2] == 0x141 &&
           order[3] == 0x42,
       "a higher class interrupts a handler, its own class does not");
}

/* STI's shadow: the instruction behind it runs first. */
static void shadows(void)
{
    uint64_t at;

    clear_hits();
    self(0x40);
    __asm__ volatile("lea 1f(%%rip), %0; sti; nop; 1: nop; cli" : "=r"(at) : : "memory");
    ok(hits[0x40] == 1 && hit_rip == at, "one instruction runs behind STI");
    clear_hits();
    self(0x40);
    __asm__ volatile("sti; cli; nop" : : : "memory");
    is(hits[0x40], 0, "STI, CLI lets nothing in");
    __asm__ volatile(
        "mov %%ss, %%eax; lea 1f(%%rip), %0; pushfq; orq $0x200, (%%rsp); popfq; 1: nop; cli"
        : "=r"(at)
        :
        : "rax", "memory");
    ok(hits[0x40] == 1 && hit_rip == at, "POPF has no shadow");
    clear_hits();
    self(0x40);
    __asm__ volatile("sti; hlt; cli" : : : "memory");
    is(hits[0x40], 1, "STI, HLT wakes up");
}

static void send_nmi(void)
{
    apic_write(0x310, 0);
    apic_write(0x300, 0x400);
    for (volatile int i = 0; i < 100; i++)
        cpu_pause();
}

static void nmi(void)
{
    clear_hits();
    send_nmi();
    is(hits[NMI], 1, "NMI to itself with IF clear");
}

static bool nmi_twice(struct frame *f)
{
    if (f->vector != NMI)
        return count_hit(f);
    if (hits[NMI]++ == 0) {
        send_nmi();
        order[0] = hits[NMI];
    }
    return true;
}

static void nmi_blocking(void)
{
    clear_hits();
    trap_hook = nmi_twice;
    send_nmi();
    trap_hook = count_hit;
    is(order[0], 1, "no NMI inside an NMI handler");
    is(hits[NMI], 2, "it comes after IRET");
}

/* ---- the timer ---- */
static bool wait_hit(unsigned vector, unsigned n)
{
    uint64_t until = rdtsc() + 20000000000ull;

    __asm__ volatile("sti");
    while (hits[vector] < n && rdtsc() < until)
        cpu_pause();
    __asm__ volatile("cli");
    return hits[vector] >= n;
}

static void timer(void)
{
    uint32_t a, b;

    clear_hits();
    apic_write(0x3e0, 0xb); /* divide by 1 */
    apic_write(0x320, 0x10000 | 0x50);
    apic_write(0x380, 0xffffffff);
    a = apic_read(0x390);
    for (volatile int i = 0; i < 1000; i++)
        ;
    b = apic_read(0x390);
    ok(a > b && b > 0, "the current count runs down");
    apic_write(0x320, 0x50);
    apic_write(0x380, 1000000);
    ok(wait_hit(0x50, 1), "one-shot");
    is(apic_read(0x390), 0, "and stops at 0");
    clear_hits();
    apic_write(0x320, 0x20050);
    apic_write(0x380, 500000);
    ok(wait_hit(0x50, 5), "periodic");
    apic_write(0x380, 0);
    apic_write(0x320, 0x10000);
    clear_hits();
    apic_write(0x320, 0x50);
    apic_write(0x380, 2000000);
    __asm__ volatile("sti; hlt; cli" : : : "memory");
    is(hits[0x50], 1, "HLT until the timer");
}

static void deadline(void)
{
    uint32_t id[4];
    uint64_t start, at;

    cpuid(1, 0, id);
    if (!(id[2] >> 24 & 1)) {
        skip("TSC-deadline", "not there");
        skip("not early", "not there");
        skip("a deadline in the past comes at once", "not there");
        skip("and the MSR reads 0", "not there");
        skip("0 disarms", "not there");
        return;
    }
    clear_hits();
    apic_write(0x320, 0x40050);
    start = rdtsc();
    at = start + 3000000;
    wrmsr(0x6e0, at);
    __asm__ volatile("sti; hlt; cli" : : : "memory");
    is(hits[0x50], 1, "TSC-deadline");
    ok(rdtsc() >= at, "not early");
    clear_hits();
    wrmsr(0x6e0, rdtsc() - 1000);
    ok(wait_hit(0x50, 1), "a deadline in the past comes at once");
    is(rdmsr(0x6e0), 0, "and the MSR reads 0");
    clear_hits();
    at = rdtsc() + 200000000; /* not to be reached before the next line, on a slow host either */
    wrmsr(0x6e0, at);
    wrmsr(0x6e0, 0);
    at += 50000000;
    __asm__ volatile("sti");
    while (rdtsc() < at)
        cpu_pause();
    __asm__ volatile("cli");
    is(hits[0x50], 0, "0 disarms");
}

int main(void)
{
    tables_load();
    trap_hook = count_hit;
    registers();
    self_interrupts();
    nesting();
    shadows();
    nmi();
    nmi_blocking();
    timer();
    deadline();
    return done();
}
