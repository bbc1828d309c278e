/* SPDX-License-Identifier: MIT */
/* Several processors: INIT and SIPI, interrupts between them, atomics, memory order,
 * cross-modifying code, translations changed by another processor. */
#include "lib64.h"

#define APIC     0xfee00000ull
#define START_AT 0x8000 /* the start-up page: SIPI vector 8 */
#define CPUS_MAX 8
#define STACK    8192

typedef void job_fn(unsigned cpu);

static volatile unsigned online, ran[CPUS_MAX], hits[CPUS_MAX], nmis[CPUS_MAX];
static job_fn *volatile job;
static volatile unsigned job_number, job_done, cpus = 1;
static uint8_t stacks[CPUS_MAX][STACK] __attribute__((aligned(16)));
uint64_t ap_next __attribute__((used)), ap_stacks __attribute__((used));

static void apic_write(unsigned reg, uint32_t v)
{
    *(volatile uint32_t *)(APIC + reg) = v;
}

static unsigned apic_id(void)
{
    return *(volatile uint32_t *)(APIC + 0x20) >> 24;
}

/* Real mode -> protected -> long mode -> ap_entry; takes the next free stack. */
__asm__(".pushsection .rodata\n"
        "ap_start: .code16\n"
        "cli; cld; mov %cs, %ax; mov %ax, %ds\n"
        "lgdtl ap_gdtr - ap_start\n"
        "mov %cr0, %eax; or $1, %eax; mov %eax, %cr0\n"
        "ljmpl $0x30, $0x8000 + ap_32 - ap_start\n"
        ".balign 4; ap_gdtr: .word 0x100; .long gdt\n"
        "ap_32: .code32\n"
        "mov $0x10, %ax; mov %ax, %ds; mov %ax, %es; mov %ax, %ss\n"
        "mov $1, %eax; lock xadd %eax, ap_next; inc %eax; shl $13, %eax; add ap_stacks, %eax; mov "
        "%eax, %esp\n"
        "mov $long_mode, %eax; call *%eax\n"
        ".code64\n"
        "mov $ap_entry, %eax; jmp *%rax\n"
        "ap_end: .popsection\n");
extern char ap_start[], ap_end[];

static bool on_event(struct frame *f)
{
    unsigned cpu = apic_id();

    if (f->vector == NMI) {
        nmis[cpu]++;
        return true;
    }
    if (f->vector < 32)
        return false;
    hits[cpu]++;
    apic_write(0xb0, 0);
    return true;
}

__attribute__((used)) void ap_entry(void)
{
    extern struct gate64 idt[];
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) p = {256 * 16 - 1, (uint64_t)idt};
    unsigned cpu = apic_id(), seen = 0;

    __asm__ volatile("lidt %0" : : "m"(p));
    apic_write(0xf0, 0x1ff);
    __atomic_fetch_add(&online, 1, __ATOMIC_SEQ_CST);
    for (;;) {
        __asm__ volatile("cli");
        while (job_number == seen)
            __asm__ volatile("sti; hlt; cli" : : : "memory");
        __asm__ volatile("sti");
        seen = job_number;
        if (job)
            job(cpu);
        __atomic_fetch_add(&job_done, 1, __ATOMIC_SEQ_CST);
    }
}

static void delay(unsigned n)
{
    while (n--)
        cpu_pause();
}

static bool wait_for(const volatile unsigned *what, unsigned at_least)
{
    uint64_t until = rdtsc() + 40000000000ull;

    while (*what < at_least)
        if (rdtsc() > until)
            return false;
        else
            cpu_pause();
    return true;
}

static void send(unsigned dest, uint32_t icr)
{
    apic_write(0x310, dest << 24);
    apic_write(0x300, icr);
}

/* The others sleep while they have nothing to do. */
static void begin(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    job_number++;
    send(0, 0xc4041);
}

/* Runs on all processors, the caller included. */
static void everywhere(job_fn *fn)
{
    job = fn;
    job_done = 0;
    begin();
    fn(0);
    wait_for(&job_done, cpus - 1);
}

static void start(void)
{
    ap_stacks = (uint64_t)stacks;
    memcpy((void *)START_AT, ap_start, (size_t)(ap_end - ap_start));
    send(0, 0xc4500); /* INIT to all but self */
    delay(10000);
    send(0, 0xc8500); /* its level de-assert: ignored */
    send(0, 0xc4600 | START_AT >> 12);
    delay(2000000);
    send(0, 0xc4600 | START_AT >> 12); /* a second SIPI changes nothing */
    delay(100000);
    cpus = online + 1;
    ok(cpus > 1, "INIT and SIPI start processors");
}

/* ---- atomics ---- */
#define ROUNDS 8000
static volatile uint64_t counter, xadd_sum, cas_counter, plain, locked;
static volatile unsigned lock;
static unsigned __int128 wide __attribute__((aligned(16)));

static void count(unsigned cpu)
{
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t one = 1, old;

        __asm__ volatile("lock incq %0" : "+m"(counter));
        __asm__ volatile("lock xaddq %0, %1" : "+r"(one), "+m"(xadd_sum));
        do {
            old = cas_counter;
        } while (!__sync_bool_compare_and_swap(&cas_counter, old, old + 3));
        while (__sync_lock_test_and_set(&lock, 1))
            cpu_pause();
        locked = locked + 1;
        __sync_lock_release(&lock);
    }
}

static void count_wide(unsigned cpu)
{
    for (unsigned i = 0; i < ROUNDS / 4; i++) {
        uint64_t lo, hi;
        bool done;

        do {
            lo = ((volatile uint64_t *)&wide)[0];
            hi = ((volatile uint64_t *)&wide)[1];
            __asm__ volatile("lock cmpxchg16b %1"
                             : "=@ccz"(done), "+m"(wide), "+a"(lo), "+d"(hi)
                             : "b"(lo + 1), "c"(hi + 2));
        } while (!done);
    }
}

static uint32_t bits[CPUS_MAX * 16];

/* Every processor sets its own bits of shared bytes. */
static void set_bits(unsigned cpu)
{
    for (unsigned i = 0; i < sizeof bits * 8; i++)
        if (i % cpus == cpu)
            __asm__ volatile("lock btsl %1, %0" : "+m"(bits[0]) : "r"(i) : "memory");
}

static void atomics(void)
{
    bool all = true;

    everywhere(count);
    is(counter, (uint64_t)ROUNDS * cpus, "LOCK INC");
    is(xadd_sum, (uint64_t)ROUNDS * cpus, "LOCK XADD");
    is(cas_counter, 3ull * ROUNDS * cpus, "LOCK CMPXCHG");
    is(locked, (uint64_t)ROUNDS * cpus, "a spin lock by XCHG");
    everywhere(count_wide);
    ok((uint64_t)wide == (uint64_t)(ROUNDS / 4) * cpus &&
           (uint64_t)(wide >> 64) == 2ull * (ROUNDS / 4) * cpus,
       "LOCK CMPXCHG16B");
    everywhere(set_bits);
    for (unsigned i = 0; i < ARRAY_SIZE(bits); i++)
        all &= bits[i] == 0xffffffff;
    ok(all, "LOCK BTS");
}

/* A counter that straddles two pages: locked all the same. */
static uint8_t pages[8192] __attribute__((aligned(4096)));

static void count_split(unsigned cpu)
{
    uint32_t *p = (uint32_t *)(pages + 4094);

    for (unsigned i = 0; i < 2000; i++)
        __asm__ volatile("lock addl $0x10001, %0" : "+m"(*p));
}

static void split_lock(void)
{
    everywhere(count_split);
    is(*(volatile uint32_t *)(pages + 4094), (uint32_t)(0x10001u * 2000 * cpus),
       "LOCK ADD over a page end");
}

/* ---- order ---- */
static volatile uint64_t data, flag, stale, mp_go;

static void message(unsigned cpu)
{
    if (cpu > 1)
        return;
    for (uint64_t i = 1; i <= 3000; i++) {
        if (cpu == 0) {
            data = i;
            flag = i;
            while (mp_go != i)
                cpu_pause();
        } else {
            while (flag != i)
                cpu_pause();
            if (data != i)
                stale++;
            mp_go = i;
        }
    }
}

static volatile uint64_t x, y, rx, ry, both_zero, round_a, round_b;

/* Store buffering with MFENCE between store and load: both loads cannot be 0. */
static void buffering(unsigned cpu)
{
    if (cpu > 1)
        return;
    for (uint64_t i = 1; i <= 1000; i++) {
        if (cpu == 0) {
            x = y = 0;
            __atomic_thread_fence(__ATOMIC_SEQ_CST);
            round_a = i;
            x = 1;
            __asm__ volatile("mfence" : : : "memory");
            rx = y;
            while (round_b != i)
                cpu_pause();
            if (!rx && !ry)
                both_zero++;
        } else {
            while (round_a != i)
                cpu_pause();
            y = 1;
            __asm__ volatile("mfence" : : : "memory");
            ry = x;
            round_b = i;
        }
    }
}

static void order(void)
{
    everywhere(message);
    is(stale, 0, "stores are seen in order");
    everywhere(buffering);
    is(both_zero, 0, "MFENCE orders a store before a load");
}

/* ---- interrupts ---- */
static void interrupts(void)
{
    for (unsigned i = 1; i < cpus; i++) {
        hits[i] = 0;
        send(i, 0x4050);
    }
    ok(wait_for(&hits[cpus - 1], 1) && wait_for(&hits[1], 1), "interrupts to each");
    for (unsigned i = 0; i < cpus; i++)
        hits[i] = 0;
    send(0, 0xc4051);
    for (unsigned i = 1; i < cpus; i++)
        ok(wait_for(&hits[i], 1), "broadcast reaches processor %u", i);
    is(hits[0], 0, "and not the sender");
    send(1, 0x4400);
    ok(wait_for(&nmis[1], 1), "NMI to processor 1");
}

static volatile unsigned halted, woken;

static void halt(unsigned cpu)
{
    if (cpu != 1)
        return;
    __asm__ volatile("cli");
    halted = 1;
    __asm__ volatile("sti; hlt");
    woken = 1;
}

static void wake(void)
{
    job = halt;
    job_done = 0;
    begin();
    wait_for(&halted, 1);
    delay(100000);
    is(woken, 0, "processor 1 sleeps in HLT");
    send(1, 0x4052);
    ok(wait_for(&woken, 1), "an interrupt wakes it");
    wait_for(&job_done, cpus - 1);
}

/* ---- code changed by another processor ---- */
static uint8_t code[4096] __attribute__((aligned(4096)));
static volatile unsigned patch, patched_ack[CPUS_MAX], code_bad;

static int call_code(void)
{
    int v;

    __asm__ volatile("call *%1" : "=a"(v) : "r"(code) : "memory");
    return v;
}

static void serialize(void)
{
    uint32_t id[4];

    cpuid(0, 0, id);
}

/* Each round: processor 0 writes new code and says so; the others serialise, then must see it. */
static void modify(unsigned cpu)
{
    for (unsigned i = 1; i <= 100; i++) {
        if (cpu == 0) {
            *(volatile uint32_t *)(code + 1) = i;
            __atomic_store_n(&patch, i, __ATOMIC_SEQ_CST);
            for (unsigned other = 1; other < cpus; other++)
                while (patched_ack[other] != i)
                    cpu_pause();
        } else {
            while (__atomic_load_n(&patch, __ATOMIC_SEQ_CST) != i)
                if (call_code() > (int)i)
                    code_bad++;
            serialize();
            if (call_code() != (int)i)
                code_bad++;
            patched_ack[cpu] = i;
        }
    }
}

static void cross_modify(void)
{
    static const uint8_t text[] = {0xb8, 0, 0, 0, 0, 0xc3}; /* mov $n, %eax; ret */

    memcpy(code, text, sizeof text);
    everywhere(modify);
    is(code_bad, 0, "cross-modified code is seen after a serialising instruction");
}

/* ---- translations changed by another processor ---- */
#define WINDOW 0x8000000000ull
static uint64_t pdpt[512] __attribute__((aligned(4096))), pd[512] __attribute__((aligned(4096)));
static uint64_t pt[512] __attribute__((aligned(4096)));
static uint32_t frames[2][1024] __attribute__((aligned(4096)));
static volatile unsigned remap, remap_ack[CPUS_MAX], remap_bad;

static void follow(unsigned cpu)
{
    for (unsigned i = 1; i <= 100; i++) {
        if (cpu == 0) {
            pt[0] = (uint64_t)frames[i & 1] | 3;
            __atomic_store_n(&remap, i, __ATOMIC_SEQ_CST);
            for (unsigned other = 1; other < cpus; other++)
                while (remap_ack[other] != i)
                    cpu_pause();
        } else {
            while (__atomic_load_n(&remap, __ATOMIC_SEQ_CST) != i)
                cpu_pause();
            invlpg(WINDOW);
            if (*(volatile uint32_t *)WINDOW != 100 + (i & 1))
                remap_bad++;
            remap_ack[cpu] = i;
        }
    }
}

static void translations(void)
{
    frames[0][0] = 100;
    frames[1][0] = 101;
    boot_pml4[1] = (uint64_t)pdpt | 3;
    pdpt[0] = (uint64_t)pd | 3;
    pd[0] = (uint64_t)pt | 3;
    everywhere(follow);
    is(remap_bad, 0, "INVLPG sees what another processor wrote to a page table");
}

static void restart(void)
{
    unsigned before = online;

    send(1, 0x4500);
    delay(100000);
    send(1, 0x4600 | START_AT >> 12);
    ok(wait_for(&online, before + 1), "INIT and SIPI restart a processor");
}

int main(void)
{
    tables_load();
    trap_hook = on_event;
    apic_write(0xf0, 0x1ff);
    start();
    if (cpus > 1) {
        atomics();
        split_lock();
        order();
        interrupts();
        wake();
        cross_modify();
        translations();
        restart();
    }
    return done();
}
