/* SPDX-License-Identifier: MIT */
/* Interrupts from every source there is, each awaited in HLT: PIT, RTC and HPET through PICs and
 * IOAPIC, HPET and virtio by message, the LAPIC's own. */
#include "long.h"

#define APIC_AT   0xfee00000ull
#define IOAPIC_AT 0xfec00000ull
#define HPET_AT   0xfed00000ull

static volatile unsigned hits[256], orders;
static bool x2apic, no_eoi, pic_mode, auto_eoi;
/* Called in the handler of the stop_at-th interrupt: silences its source. Periods are long (15 to
 * 55 ms), so that no second one is on its way by then, on a busy host either. */
static void (*stop)(void);
static unsigned stop_at;

static inline uint8_t inb(uint16_t port)
{
    uint8_t v;

    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

static inline void outl(uint16_t port, uint32_t v)
{
    __asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port));
}

static inline uint32_t inl(uint16_t port)
{
    uint32_t v;

    __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

static uint32_t apic_read(unsigned reg)
{
    return x2apic ? (uint32_t)rdmsr(0x800 + reg / 16) : *(volatile uint32_t *)(APIC_AT + reg);
}

static void apic_write(unsigned reg, uint32_t v)
{
    if (x2apic)
        wrmsr(0x800 + reg / 16, v);
    else
        *(volatile uint32_t *)(APIC_AT + reg) = v;
}

static void ioapic_write(unsigned reg, uint32_t v)
{
    ((volatile uint32_t *)IOAPIC_AT)[0] = reg;
    ((volatile uint32_t *)IOAPIC_AT)[4] = v;
}

static uint32_t ioapic_read(unsigned reg)
{
    ((volatile uint32_t *)IOAPIC_AT)[0] = reg;
    return ((volatile uint32_t *)IOAPIC_AT)[4];
}

static volatile uint64_t *hpet(unsigned reg)
{
    return (volatile uint64_t *)(HPET_AT + reg);
}

static void rtc_write(uint8_t reg, uint8_t v)
{
    outb(0x70, reg);
    outb(0x71, v);
}

static uint8_t rtc_read(uint8_t reg)
{
    outb(0x70, reg);
    return inb(0x71);
}

/* Stops what interrupts again and again, so that the number of interrupts does not depend on time.
 */
static void quiet(unsigned vector)
{
    if (vector == 0x28)
        (void)rtc_read(0x0c); /* the RTC goes on after register C was read */
    if (*hpet(0x20) & 7) {
        *hpet(0x100) &= ~4ull; /* a level stays until its comparator is off and its status clear */
        *hpet(0x20) = 7;
    }
}

static bool on_interrupt(struct frame *f)
{
    unsigned v = (unsigned)f->vector;

    if (v < 32 && v != NMI)
        return false;
    hits[v]++;
    if (orders++ < 16)
        note(v);
    quiet(v);
    if (stop && hits[v] == stop_at)
        stop();
    if (pic_mode && v >= 0x20 && v < 0x30 && !auto_eoi) {
        if (v >= 0x28)
            outb(0xa0, 0x20);
        outb(0x20, 0x20);
    } else if (v != NMI && !pic_mode && !no_eoi) {
        apic_write(0xb0, 0);
    }
    return true;
}

static void wait(unsigned vector, unsigned count)
{
    while (hits[vector] < count)
        __asm__ volatile("sti; hlt; cli" : : : "memory");
}

static void begin(void)
{
    long_set_up();
    trap_hook = on_interrupt;
    apic_write(0xf0, 0x1ff);
}

/* ---- PIC ---- */

static void pic_begin(uint8_t mask1, uint8_t mask2, uint8_t icw4)
{
    begin();
    pic_mode = true;
    auto_eoi = icw4 & 2;
    apic_write(0x350, 0x700); /* LINT0: ExtINT */
    outb(0x20, 0x11), outb(0x21, 0x20), outb(0x21, 4), outb(0x21, icw4);
    outb(0xa0, 0x11), outb(0xa1, 0x28), outb(0xa1, 2), outb(0xa1, icw4);
    outb(0x21, mask1);
    outb(0xa1, mask2);
}

static void pit_start(uint8_t mode, uint16_t count)
{
    outb(0x43, (uint8_t)(0x30 | mode << 1));
    outb(0x40, (uint8_t)count);
    outb(0x40, (uint8_t)(count >> 8));
}

static void pit_stop(void)
{
    outb(0x43, 0x30); /* mode 0 and no count: silent */
}

static void pic_end(void)
{
    outb(0x20, 0x0b), note(inb(0x20)); /* ISR */
    outb(0xa0, 0x0b), note(inb(0xa0));
}

static void pic_pit(uintptr_t mode)
{
    pic_begin(0xfe, 0xff, 1);
    stop = pit_stop;
    stop_at = 1;
    pit_start((uint8_t)mode, 0);
    wait(0x20, 1);
    pic_end();
}

static void pic_auto_eoi(uintptr_t unused)
{
    pic_begin(0xfe, 0xff, 3);
    pit_start(0, 1193);
    wait(0x20, 1);
    pit_stop();
    pic_end();
}

static void rtc_start(void)
{
    rtc_write(0x0a, 0x2a);
    rtc_write(0x0b, 0x42); /* periodic, 64 Hz */
    (void)rtc_read(0x0c);
}

static void rtc_stop(void)
{
    rtc_write(0x0b, 0x02);
    (void)rtc_read(0x0c);
}

static void pic_rtc(uintptr_t unused)
{
    pic_begin(0xfb, 0xfe, 1);
    stop = rtc_stop;
    stop_at = 1;
    rtc_start();
    wait(0x28, 1);
    pic_end();
}

/* Both wait behind a mask; the lower number comes first. Then with rotated priorities. */
static void pic_order(uintptr_t rotate)
{
    pic_begin(0xff, 0xff, 1);
    if (rotate)
        outb(0x20, 0xc0); /* IRQ 0 is lowest */
    pit_start(0, 20);
    rtc_start();
    do
        outb(0x20, 0x0a);
    while (!(inb(0x20) & 1));
    do
        outb(0xa0, 0x0a);
    while (!(inb(0xa0) & 1));
    rtc_write(0x0b,
              0x02); /* no more of them, and the one that waits stays: register C is not read */
    outb(0x21, 0xfa);
    outb(0xa1, 0xfe);
    while (!hits[0x20] || !hits[0x28])
        __asm__ volatile("sti; nop; nop; cli");
    if (rotate)
        outb(0x20, 0xc7);
    pic_end();
}

/* ---- IOAPIC ---- */

static void ioapic_pit(uintptr_t flags)
{
    begin();
    ioapic_write(0x10 + 2 * 2 + 1, 0);
    ioapic_write(0x10 + 2 * 2, 0x60 | (uint32_t)flags);
    pit_start(0, 1193);
    wait(0x60, 1);
    ioapic_write(0x10 + 2 * 2, 0x10060);
    pit_stop();
    note(apic_read(0x100 + 0x30) | apic_read(0x200 + 0x30));
}

/* An edge behind the mask is remembered by no one; a second one comes. */
static void ioapic_masked(uintptr_t unused)
{
    begin();
    ioapic_write(0x14, 0x10061);
    pit_start(0, 20);
    do
        outb(0x43, 0xe2); /* read back status: OUT */
    while (!(inb(0x40) & 0x80));
    ioapic_write(0x14, 0x61);
    pit_start(0, 100);
    wait(0x61, 1);
    ioapic_write(0x14, 0x10061);
    pit_stop();
}

static void ioapic_rtc(uintptr_t unused)
{
    begin();
    ioapic_write(0x10 + 16, 0x28);
    stop = rtc_stop;
    stop_at = 3;
    rtc_start();
    wait(0x28, 3);
    ioapic_write(0x10 + 16, 0x10028);
}

/* Level-triggered: remote IRR until EOI. */
static void ioapic_level(uintptr_t unused)
{
    begin();
    ioapic_write(0x10 + 20 + 1, 0);
    ioapic_write(0x10 + 20, 0x8070); /* pin 10, level */
    *hpet(0x10) = 0;
    *hpet(0xf0) = 0;
    *hpet(0x108) = 1000;
    *hpet(0x100) = 10 << 9 | 4 | 2;
    *hpet(0x10) = 1;
    no_eoi = true;
    wait(0x70, 1);
    note(ioapic_read(0x10 + 20));
    apic_write(0xb0, 0);
    note(ioapic_read(0x10 + 20));
    ioapic_write(0x10 + 20, 0x18070);
    *hpet(0x10) = 0;
}

static void ioapic_regs(uintptr_t unused)
{
    begin();
    for (unsigned i = 0; i < 24; i++) {
        ioapic_write(0x10 + i * 2, 0x10000 | (0x40 + i) | (i & 1) << 13 | (i & 2) << 14);
        ioapic_write(0x11 + i * 2, i << 24);
        note(ioapic_read(0x10 + i * 2));
    }
    note(ioapic_read(1));
}

/* ---- HPET ---- */

static void hpet_begin(unsigned timer, uint64_t flags, uint64_t at)
{
    *hpet(0x10) = 0;
    *hpet(0xf0) = 0;
    *hpet(0x100 + timer * 0x20) = flags;
    *hpet(0x108 + timer * 0x20) = at;
}

static void hpet_legacy(uintptr_t unused)
{
    begin();
    ioapic_write(0x14, 0x62);
    hpet_begin(0, 4, 5000);
    *hpet(0x10) = 3;
    wait(0x62, 1);
    ioapic_write(0x14, 0x10062);
    *hpet(0x10) = 0;
}

static void hpet_stop(void)
{
    *hpet(0x120) = 0;
}

static void hpet_periodic(uintptr_t unused)
{
    begin();
    ioapic_write(0x10 + 22, 0x63);
    hpet_begin(1, 11 << 9 | 4 | 8 | 0x40, 2000000);
    *hpet(0x128) = 2000000;
    stop = hpet_stop;
    stop_at = 3;
    *hpet(0x10) = 1;
    wait(0x63, 3);
    ioapic_write(0x10 + 22, 0x10063);
    *hpet(0x120) = 0;
    *hpet(0x10) = 0;
}

static void hpet_message(uintptr_t timer)
{
    unsigned t = (unsigned)timer;

    begin();
    hpet_begin(t, 1 << 14 | 4, 5000);
    *hpet(0x110 + t * 0x20) = 0xfee0000000000064;
    *hpet(0x10) = 1;
    wait(0x64, 1);
    *hpet(0x100 + t * 0x20) = 0;
    *hpet(0x10) = 0;
}

/* ---- LAPIC ---- */

static void self(uint32_t icr)
{
    if (x2apic)
        wrmsr(0x830, icr);
    else
        apic_write(0x300, icr);
}

static void x2apic_on(void)
{
    wrmsr(0x1b, rdmsr(0x1b) | 0x400);
    x2apic = true;
    apic_write(0xf0, 0x1ff);
}

static void lapic_stop(void)
{
    apic_write(0x380, 0);
}

static void lapic_timer(uintptr_t arg) /* 1: periodic, 2: deadline, 8: x2APIC */
{
    begin();
    if (arg & 8)
        x2apic_on();
    stop = arg & 2 ? NULL : lapic_stop;
    stop_at = arg & 1 ? 3 : 1;
    apic_write(0x3e0, 0xb);
    apic_write(0x320, 0x50 | (uint32_t)(arg & 3) << 17);
    if (arg & 2)
        wrmsr(0x6e0, rdtsc() + 1000000);
    else
        apic_write(0x380, 20000000);
    wait(0x50, arg & 1 ? 3 : 1);
    apic_write(0x320, 0x10050);
    apic_write(0x380, 0);
    note(apic_read(0x320));
    note(rdmsr(0x6e0));
}

static void lapic_masked(uintptr_t unused) /* a masked timer runs out and says nothing */
{
    begin();
    apic_write(0x3e0, 0xb);
    apic_write(0x320, 0x10050);
    apic_write(0x380, 1000);
    while (apic_read(0x390))
        ;
    note(apic_read(0x220));
    __asm__ volatile("sti; nop; nop; cli");
    note(hits[0x50]);
}

static void lapic_self(uintptr_t x2)
{
    begin();
    if (x2)
        x2apic_on();
    for (uint32_t v = 0x41; v < 0x100; v += 0x1f)
        self(0x40000 | v);
    for (unsigned i = 0; i < 8; i++)
        note(apic_read(0x200 + i * 16));
    apic_write(0x80, 0x70);
    __asm__ volatile("sti; nop; nop; cli");
    note(apic_read(0xa0));
    apic_write(0x80, 0);
    __asm__ volatile("sti; nop; nop; cli");
    for (unsigned i = 0; i < 8; i++)
        note(apic_read(0x100 + i * 16) | apic_read(0x200 + i * 16));
}

static void lapic_no_eoi(uintptr_t unused) /* what is in service holds its class and below back */
{
    begin();
    no_eoi = true;
    self(0x40055);
    __asm__ volatile("sti; nop; nop; cli");
    self(0x40051);
    self(0x40066);
    __asm__ volatile("sti; nop; nop; cli");
    note(apic_read(0xa0));
    for (unsigned i = 0; i < 8; i++)
        note(apic_read(0x100 + i * 16) | (uint64_t)apic_read(0x200 + i * 16) << 32);
    apic_write(0xb0, 0);
    apic_write(0xb0, 0);
    __asm__ volatile("sti; nop; nop; cli");
    apic_write(0xb0, 0);
}

static void lapic_nmi(uintptr_t unused)
{
    begin();
    self(0x40400);
    __asm__ volatile("nop; nop");
    note(hits[NMI]);
}

static void lapic_tpr(uintptr_t unused)
{
    begin();
    write_cr8(5);
    note(apic_read(0x80));
    self(0x40055);
    self(0x40061);
    __asm__ volatile("sti; nop; nop; cli");
    note(apic_read(0x220) | apic_read(0x210));
    apic_write(0x80, 0x4f);
    note(read_cr8());
    __asm__ volatile("sti; nop; nop; cli");
    write_cr8(0);
}

static void lapic_off(uintptr_t how) /* 0: by SVR, 1: by the base MSR */
{
    begin();
    apic_write(0x320, 0x20050);
    apic_write(0x350, 0x700);
    if (how == 0) {
        apic_write(0xf0, 0xff);
        note(apic_read(0x320));
        note(apic_read(0x350));
        return;
    }
    wrmsr(0x1b, rdmsr(0x1b) & ~0x800ull);
    note(rdmsr(0x1b));
    wrmsr(0x1b, rdmsr(0x1b) | 0x800);
    note(apic_read(0xf0));
    note(apic_read(0x320));
}

static void lapic_regs(uintptr_t x2)
{
    static const unsigned regs[] = {0x20,  0x30,  0x80,  0xd0,  0xf0,  0x280, 0x320,
                                    0x330, 0x340, 0x350, 0x360, 0x370, 0x3e0};

    begin();
    if (x2)
        x2apic_on();
    for (unsigned r = 0x320; r <= 0x370; r += 16)
        apic_write(r, 0x10000 | (r & 0xf0));
    for (unsigned i = 0; i < ARRAY_SIZE(regs); i++)
        note(apic_read(regs[i]));
}

static void sti_shadow(uintptr_t which)
{
    begin();
    self(0x40055);
    if (which == 0)
        __asm__ volatile("sti; cli; nop");
    else if (which == 1)
        __asm__ volatile("xorl %%eax, %%eax; sti; incl %%eax; incl %%eax; cli; nop" : : : "rax");
    else
        __asm__ volatile("sti; movw %%ss, %%ax; movw %%ax, %%ss; nop; cli" : : : "rax");
    note(hits[0x55]);
    __asm__ volatile("sti; hlt; cli" : : "a"(hits[0x55] ? (self(0x40056), 0) : 0));
}

/* ---- MSI-X: the random number generator ---- */

static uint8_t ring[3][4096] __attribute__((aligned(4096)));

static uint32_t pci_read(unsigned slot, unsigned reg)
{
    outl(0xcf8, 0x80000000 | slot << 11 | (reg & 0xfc));
    return inl(0xcfc);
}

static void pci_write(unsigned slot, unsigned reg, uint32_t v)
{
    outl(0xcf8, 0x80000000 | slot << 11 | (reg & 0xfc));
    outl(0xcfc, v);
}

/* Gives the slot's memory BARs places of our own; returns where BAR n is. */
static uint64_t place_bar(unsigned slot, unsigned n, uint64_t at)
{
    pci_write(slot, 0x10 + n * 4, (uint32_t)at);
    if ((pci_read(slot, 0x10 + n * 4) & 6) == 4)
        pci_write(slot, 0x14 + n * 4, (uint32_t)(at >> 32));
    return at;
}

struct rng {
    unsigned slot;
    volatile uint8_t *common, *notify, *table;
};

static bool rng_find(struct rng *r)
{
    uint64_t base = 0;

    for (r->slot = 0; r->slot < 32 && pci_read(r->slot, 0) != 0x10441af4; r->slot++)
        ;
    if (r->slot == 32)
        return false;
    pci_write(r->slot, 4, pci_read(r->slot, 4) & ~2u);
    for (unsigned at = pci_read(r->slot, 0x34) & 0xfc; at; at = pci_read(r->slot, at) >> 8 & 0xfc) {
        uint32_t head = pci_read(r->slot, at), bar = pci_read(r->slot, at + 4) & 0xff;

        if ((head & 0xff) == 0x11) {
            bar = pci_read(r->slot, at + 4);
            r->table = (uint8_t *)place_bar(r->slot, bar & 7, 0xe0000000 + (bar & 7) * 0x100000) +
                       (bar & ~7u);
            pci_write(r->slot, at, head | 0x80000000);
        } else if ((head & 0xff) == 9 && (head >> 24 == 1 || head >> 24 == 2)) {
            base = place_bar(r->slot, bar, 0xe0000000 + bar * 0x100000) + pci_read(r->slot, at + 8);
            if (head >> 24 == 1)
                r->common = (uint8_t *)base;
            else
                r->notify = (uint8_t *)base;
        }
    }
    pci_write(r->slot, 4, pci_read(r->slot, 4) | 6);
    return r->common && r->notify && r->table;
}

#define REG8(offset)  (*(volatile uint8_t *)(r->common + (offset)))
#define REG16(offset) (*(volatile uint16_t *)(r->common + (offset)))
#define REG32(offset) (*(volatile uint32_t *)(r->common + (offset)))

static void rng_start(struct rng *r)
{
    REG8(20) = 0;
    REG8(20) = 1;
    REG8(20) = 3;
    REG32(8) = 1, REG32(12) = 1; /* VERSION_1 */
    REG8(20) = 11;
    REG16(22) = 0;
    REG16(24) = 8;
    REG16(26) = 1; /* vector 1 */
    note(REG16(26));
    for (unsigned i = 0; i < 3; i++) {
        REG32(32 + i * 8) = (uint32_t)(uint64_t)ring[i];
        REG32(36 + i * 8) = 0;
    }
    REG16(28) = 1;
    REG8(20) = 15;
    note(REG8(20));
}

static void rng_ask(struct rng *r, uint16_t n)
{
    static uint8_t random[64];

    *(volatile uint64_t *)ring[0] = (uint64_t)random;
    *(volatile uint32_t *)(ring[0] + 8) = sizeof random;
    *(volatile uint16_t *)(ring[0] + 12) = 2; /* the device writes */
    *(volatile uint16_t *)(ring[1] + 4 + (n & 7) * 2) = 0;
    *(volatile uint16_t *)(ring[1] + 2) = (uint16_t)(n + 1);
    *(volatile uint16_t *)r->notify = 0;
}

static void msix(uintptr_t mode) /* 0: plain, 1: masked first, 2: to x2APIC, 3: three times */
{
    struct rng rng = {0}, *r = &rng;
    volatile uint32_t *entry;

    begin();
    if (mode == 2)
        x2apic_on();
    note(rng_find(r));
    rng_start(r);
    entry = (volatile uint32_t *)(r->table + 16);
    entry[0] = 0xfee00000;
    entry[1] = 0;
    entry[2] = 0x78;
    entry[3] = mode == 1;
    if (mode == 1) {
        rng_ask(r, 0);
        while (*(volatile uint16_t *)(ring[2] + 2) != 1)
            cpu_pause();
        note(hits[0x78]);
        entry[3] = 0; /* what was pending comes now */
        wait(0x78, 1);
    } else {
        for (uint16_t i = 0; i < (mode == 3 ? 3 : 1); i++) {
            rng_ask(r, i);
            wait(0x78, i + 1u);
        }
    }
    note(*(volatile uint16_t *)(ring[2] + 2));
    note(*(volatile uint32_t *)(ring[2] + 8));
}

const struct state_case cases_interrupts[] = {{"pic_pit_mode0", pic_pit, 0},
                                              {"pic_pit_mode2", pic_pit, 2},
                                              {"pic_pit_mode3", pic_pit, 3},
                                              {"pic_auto_eoi", pic_auto_eoi, 0},
                                              {"pic_rtc", pic_rtc, 0},
                                              {"pic_order", pic_order, 0},
                                              {"pic_rotated", pic_order, 1},
                                              {"ioapic_pit", ioapic_pit, 0},
                                              {"ioapic_lowest", ioapic_pit, 0x100},
                                              {"ioapic_masked", ioapic_masked, 0},
                                              {"ioapic_rtc", ioapic_rtc, 0},
                                              {"ioapic_level", ioapic_level, 0},
                                              {"ioapic_regs", ioapic_regs, 0},
                                              {"hpet_legacy", hpet_legacy, 0},
                                              {"hpet_periodic", hpet_periodic, 0},
                                              {"hpet_message_0", hpet_message, 0},
                                              {"hpet_message_2", hpet_message, 2},
                                              {"lapic_one_shot", lapic_timer, 0},
                                              {"lapic_periodic", lapic_timer, 1},
                                              {"lapic_deadline", lapic_timer, 2},
                                              {"x2apic_one_shot", lapic_timer, 8},
                                              {"x2apic_periodic", lapic_timer, 9},
                                              {"x2apic_deadline", lapic_timer, 10},
                                              {"lapic_masked", lapic_masked, 0},
                                              {"lapic_self", lapic_self, 0},
                                              {"x2apic_self", lapic_self, 1},
                                              {"lapic_no_eoi", lapic_no_eoi, 0},
                                              {"lapic_nmi", lapic_nmi, 0},
                                              {"lapic_tpr", lapic_tpr, 0},
                                              {"lapic_off", lapic_off, 0},
                                              {"lapic_base_off", lapic_off, 1},
                                              {"lapic_regs", lapic_regs, 0},
                                              {"x2apic_regs", lapic_regs, 1},
                                              {"sti_cli", sti_shadow, 0},
                                              {"sti_inc", sti_shadow, 1},
                                              {"sti_mov_ss", sti_shadow, 2},
                                              {"msix", msix, 0},
                                              {"msix_masked", msix, 1},
                                              {"msix_x2apic", msix, 2},
                                              {"msix_again", msix, 3},
                                              {0}};
