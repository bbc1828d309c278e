/* SPDX-License-Identifier: MIT */
/* Other processors: started by INIT and SIPI, interrupted in HLT, sent back to wait for a SIPI.
 * Each ends in state_park with its registers cleared. */
#include "long.h"

#define APIC_AT  0xfee00000ull
#define START_AT 0x8000
#define OTHERS   3u

uint64_t ap_next __attribute__((used)), ap_stacks __attribute__((used));
static uint8_t stacks[OTHERS + 1][8192] __attribute__((aligned(16)));
static volatile uint32_t ready, hits[OTHERS + 1], wanted;
static volatile uint8_t parked[OTHERS + 1];

static void apic_write(unsigned reg, uint32_t v)
{
    *(volatile uint32_t *)(APIC_AT + reg) = v;
}

static unsigned apic_id(void)
{
    return *(volatile uint32_t *)(APIC_AT + 0x20) >> 24;
}

/* As in smp.c: real mode -> protected -> long mode -> ap_entry. */
__asm__(".pushsection .rodata\n"
        "ap_start: .code16\n"
        "cli; cld; mov %cs, %ax; mov %ax, %ds; lgdtl ap_gdtr - ap_start\n"
        "mov %cr0, %eax; or $1, %eax; mov %eax, %cr0; ljmpl $0x30, $0x8000 + ap_32 - ap_start\n"
        ".balign 4; ap_gdtr: .word 0x100; .long gdt\n"
        "ap_32: .code32\n"
        "mov $0x10, %ax; mov %ax, %ds; mov %ax, %es; mov %ax, %ss\n"
        "mov 0xfee00020, %eax; shr $24, %eax; inc %eax; shl $13, %eax; add ap_stacks, %eax; mov "
        "%eax, %esp\n"
        "mov $long_mode, %eax; call *%eax\n"
        ".code64\nmov $ap_entry, %eax; jmp *%rax\nap_end: .popsection\n");
extern char ap_start[], ap_end[];

static bool on_event(struct frame *f)
{
    if (f->vector < 32 && f->vector != NMI)
        return false;
    __atomic_fetch_add(&hits[apic_id()], 1, __ATOMIC_SEQ_CST);
    if (f->vector != NMI)
        apic_write(0xb0, 0);
    return true;
}

__attribute__((used)) void ap_entry(void)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) p = {256 * 16 - 1, (uint64_t)idt};
    unsigned cpu = apic_id();

    __asm__ volatile("lidt %0" : : "m"(p));
    apic_write(0xf0, 0x1ff);
    __atomic_fetch_add(&ready, 1, __ATOMIC_SEQ_CST);
    while (hits[cpu] < wanted)
        __asm__ volatile("sti; hlt; cli" : : : "memory");
    __asm__ volatile("xorl %%eax, %%eax; xorl %%edx, %%edx; xorl %%ebx, %%ebx; xorl %%esi, %%esi; "
                     "xorl %%edi, %%edi\n"
                     "xorl %%ebp, %%ebp; xorl %%r8d, %%r8d; xorl %%r9d, %%r9d; xorl %%r10d, "
                     "%%r10d; xorl %%r11d, %%r11d\n"
                     "xorl %%r12d, %%r12d; xorl %%r13d, %%r13d; xorl %%r14d, %%r14d; xorl %%r15d, "
                     "%%r15d; jmp state_park"
                     :
                     : "c"(&parked[cpu])
                     : "memory");
    __builtin_unreachable();
}

static void send(unsigned dest, uint32_t icr)
{
    apic_write(0x310, dest << 24);
    apic_write(0x300, icr);
}

static void all_parked(void)
{
    for (unsigned cpu = 1; cpu <= OTHERS; cpu++)
        while (!parked[cpu])
            cpu_pause();
}

static void until(const volatile uint32_t *what, uint32_t n)
{
    while (*what < n)
        cpu_pause();
}

static void start(unsigned interrupts)
{
    long_set_up();
    trap_hook = on_event;
    apic_write(0xf0, 0x1ff);
    wanted = interrupts;
    ap_stacks = (uint64_t)stacks;
    memcpy((void *)START_AT, ap_start, (size_t)(ap_end - ap_start));
    send(0, 0xc4500);
    send(0, 0xc4600 | START_AT >> 12);
    until(&ready, OTHERS);
}

static void smp_start(uintptr_t unused)
{
    start(0);
    all_parked();
}

static void smp_interrupt(uintptr_t how) /* 0: each, 1: all but self, 3: NMI */
{
    start(1);
    apic_write(0xd0, 0);
    for (unsigned cpu = 1; cpu <= OTHERS; cpu++) {
        if (how == 0)
            send(cpu, 0x4071);
        else if (how == 3)
            send(cpu, 0x4400);
    }
    if (how == 1)
        send(0, 0xc4071);
    all_parked();
    for (unsigned cpu = 0; cpu <= OTHERS; cpu++)
        note(hits[cpu]);
}

static void smp_init(uintptr_t unused) /* INIT stops them; one is started again */
{
    start(0);
    all_parked();
    parked[2] = 0;
    send(0, 0xc4500);
    send(2, 0x4600 | START_AT >> 12);
    all_parked();
    for (uint64_t end = rdtsc() + 500000000;
         rdtsc() < end;) /* the others take their INIT meanwhile */
        cpu_pause();
    note(ready);
}

static const struct state_case cases_smp[] = {
    {"smp_start", smp_start, 0},   {"smp_each", smp_interrupt, 0}, {"smp_all", smp_interrupt, 1},
    {"smp_nmi", smp_interrupt, 3}, {"smp_init", smp_init, 0},      {0}};
const struct state_case *const state_lists[] = {cases_smp, NULL};
