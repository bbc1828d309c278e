/* SPDX-License-Identifier: MIT */
/* jit-fuzz: two vCPUs run random programs in the same pages while those change under them.
 *
 * The pages are writable and executable for the guest, so it modifies its own code and that of the
 * other vCPU; the main thread writes new programs, lines and bytes into them as a device would.
 * Ring 3 mostly, ring 0 at times. An exception ends in a handler that halts; the vCPU then begins
 * anew with random registers, as it does when it was kicked out of a loop. Every block is
 * translated when it is first entered, and verified. Wrong is: a fault of the host, emitted code
 * that the verifier rejects, a vCPU that does not come back. */
#include "generate.h"
#include "bus/bus.h"
#include "engine/engine.h"
#include "engine/soft/block.h"
#include "engine/soft/jit/jit.h"
#include "engine/soft/tlb.h"
#include "engine/soft/vector.h"
#include "engine/x86/model.h"
#include "tap.h"
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define CPUS     2
#define RAM      (2 * MiB)
#define KERNEL   0xffff800000000000ull /* maps RAM, supervisor only */
#define GDT      0xa000
#define IDT      0xc000
#define HANDLERS 0xd000
#define TSS      0xe000 /* a page for each vCPU */
#define STACKS   0x20000
#define PAGES    0x100000 /* the test's */

/* Unlike the CPU fuzzer's these may all be written and run. */
const uint8_t fuzz_perm[FUZZ_PAGES] = {
    [PAGE_CODE] = 7, [PAGE_CODE + 1] = 7, [PAGE_DATA] = 7,  [PAGE_DATA + 1] = 7, [PAGE_RO] = 5,
    [PAGE_RW] = 7,   [PAGE_RO2] = 5,      [PAGE_STACK] = 7, [PAGE_STACK + 1] = 7};

uint16_t native_cs32(void)
{
    return 0;
}

static struct machine {
    struct mem mem;
    struct bus mmio, pio;
    struct vm vm;
    struct cpu_model model;
    uint8_t *ram;
    _Atomic bool over;
    _Atomic uint64_t begun[CPUS]; /* runs */
    struct rng rng[CPUS];
    _Atomic uint64_t entry; /* of the newest program */
} m;

static uint64_t *table(uint64_t phys)
{
    return (uint64_t *)(void *)(m.ram + phys);
}

static void map_pages(uint64_t base, uint64_t tables)
{
    table(0x1000)[base >> 39 & 511] = tables | 7;
    table(tables)[base >> 30 & 511] = (tables + 0x1000) | 7;
    table(tables + 0x1000)[base >> 21 & 511] = (tables + 0x2000) | 7;
    for (unsigned i = 0; i < FUZZ_PAGES; i++)
        table(tables + 0x2000)[(base >> 12 & 511) + i] =
            fuzz_perm[i] ? PAGES + i * 4096 + (fuzz_perm[i] & PERM_WRITE ? 7 : 5) : 0;
}

/* Again and again, for ring 0 may overwrite them. Other vCPUs are running: that is meant. */
static void put_tables(void)
{
    map_pages(FUZZ_LOW, 0x2000);
    map_pages(FUZZ_HIGH, 0x5000);
    table(0x1000)[256] = 0x8003;
    table(0x8000)[0] = 0x9003;
    table(0x9000)[0] = 0x83;
    table(GDT)[2] = 0x00af9b000000ffffull;
    table(GDT)[3] = 0x00cf93000000ffffull;
    table(GDT)[FUZZ_CS64 >> 3] = 0x00affb000000ffffull;
    table(GDT)[FUZZ_DS >> 3] = 0x00cff3000000ffffull;
    for (unsigned v = 0; v < 256; v++) {
        uint64_t at = KERNEL + HANDLERS + v * 16;

        table(IDT)[2 * v] =
            (at & 0xffff) | 0x10ull << 16 | 0x8e00ull << 32 | (at >> 16 & 0xffff) << 48;
        table(IDT)[2 * v + 1] = at >> 32;
        m.ram[HANDLERS + v * 16] = 0xf4;
    }
    for (unsigned i = 0; i < CPUS; i++)
        *(uint64_t *)(void *)(m.ram + TSS + i * 4096 + 4) = KERNEL + STACKS + (i + 1) * 4096;
}

static bool open_machine(struct err *err)
{
    mem_init(&m.mem);
    bus_init(&m.mmio, UINT64_MAX);
    bus_init(&m.pio, 0x10000);
    vm_init(&m.vm);
    m.vm.mem = &m.mem;
    m.vm.mmio = &m.mmio;
    m.vm.pio = &m.pio;
    m.vm.model = &m.model;
    memset(m.model.feature, 1, sizeof m.model.feature);
    m.model.phys_bits = 40;
    m.model.linear_bits = 48;
    m.model.tsc_khz = 2000000;
    m.model.xcr0_mask = 7;
    if (!soft_jit_setup("force,verify", err) || !mem_add(&m.mem, "ram", 0, RAM, false, err) ||
        !vm_open(&m.vm, &soft_engine, CPUS, err))
        return false;
    m.ram = mem_at(&m.mem, 0, RAM);
    put_tables();
    fuzz_golden(m.ram + PAGES);
    return true;
}

/* ---- a vCPU's run ---- */

static uint64_t start_address(struct rng *r)
{
    uint64_t base = one_in(r, 2) ? FUZZ_LOW : FUZZ_HIGH;

    if (!one_in(r, 3))
        return atomic_load(&m.entry);
    return base + PAGE_CODE * 4096 + rng_below(r, 8192);
}

static void put_segments(struct soft_cpu *cpu, bool user)
{
    unsigned dpl = user ? 0x60 : 0;

    for (unsigned i = 0; i < 6; i++)
        cpu->seg[i] = (struct x86_seg){
            .limit = 0xffffffff, .sel = user ? FUZZ_DS : 0x18, .attr = (uint16_t)(0xc093 | dpl)};
    cpu->seg[SEG_CS] = (struct x86_seg){
        .limit = 0xffffffff, .sel = user ? FUZZ_CS64 : 0x10, .attr = (uint16_t)(0xa09b | dpl)};
    cpu->seg[SEG_FS] = (struct x86_seg){.base = FUZZ_FS_BASE};
    cpu->seg[SEG_GS] = (struct x86_seg){.base = FUZZ_GS_BASE};
}

/* The vCPU begins anew; its thread is outside run(). */
static void begin(struct soft_cpu *cpu, struct rng *r)
{
    unsigned id = cpu->vcpu->id;
    bool user = !one_in(r, 6);

    put_tables();
    for (unsigned i = 0; i < 16; i++)
        cpu->reg[i] = one_in(r, 3)   ? fuzz_integer(r)
                      : one_in(r, 6) ? start_address(r)
                                     : fuzz_address(r, false);
    cpu->reg[4] = FUZZ_LOW + PAGE_STACK * 4096 + 256 + 8 * rng_below(r, 900);
    cpu->gdt = (struct x86_table){KERNEL + GDT, 0x7f};
    cpu->idt = (struct x86_table){KERNEL + IDT, 0xfff};
    cpu->ldt = (struct x86_seg){0};
    cpu->tr = (struct x86_seg){
        .base = KERNEL + TSS + id * 4096ull, .limit = 103, .sel = 0x40, .attr = 0x8b};
    cpu->cr0 = 0x80050033;
    cpu->cr3 = 0x1000;
    cpu->cr4 = 0x50620 | BIT(7);
    cpu->efer = 0xd01;
    cpu->xcr0 = 7;
    cpu->dr6 = 0xffff0ff0;
    cpu->dr7 = 0x400;
    cpu->rip = cpu->next_rip = cpu->rf_rip = cpu->shadow_rip = start_address(r);
    cpu->cpl = user ? 3 : 0;
    cpu->run = VCPU_RUNNABLE;
    cpu->delivering = cpu->stepping = cpu->nmi_blocked = false;
    cpu->ext = 0;
    put_segments(cpu, user);
    fuzz_fpu(r, cpu->xsave);
    memcpy(&cpu->mxcsr, cpu->xsave + 24, 4);
    soft_fpu_normalise(cpu);
    cpu->fpu_live = false;
    atomic_fetch_and(&cpu->pending, PEND_CODE | PEND_REQUEST | PEND_KICK);
    soft_set_rflags(cpu, 2 | (rng_next(r) & (FL_ARITH | FL_DF)));
    soft_tlb_flush(cpu, true);
    soft_mode_changed(cpu);
    if (one_in(r, 200))
        soft_jit_flush(cpu);
    atomic_fetch_add(&m.begun[id], 1);
}

static void *vcpu_thread(void *arg)
{
    struct vcpu *v = arg;
    struct rng *r = &m.rng[v->id];

    while (!atomic_load(&m.over)) {
        begin(v->priv, r);
        for (unsigned kicks = 0; kicks < 2 && soft_run(v) == VCPU_KICKED; kicks++)
            ;
    }
    return NULL;
}

/* ---- changing code ---- */

static void new_program(struct fuzz_case *c, struct rng *r)
{
    c->seed = rng_next(r);
    if (!fuzz_program(c))
        return;
    mem_write(&m.mem, PAGES + PAGE_CODE * 4096 + c->code_from, c->code + c->code_from,
              c->code_to - c->code_from);
    mem_write(&m.mem, PAGES + PAGE_DATA * 4096, c->patch, sizeof c->patch);
    atomic_store(&m.entry, c->start.rip);
}

static void change(struct fuzz_case *c, struct rng *r)
{
    uint8_t bytes[128], *code = m.ram + PAGES + PAGE_CODE * 4096;
    unsigned at = rng_below(r, 8192 - 128), other = rng_below(r, 8192 - 128);

    switch (rng_below(r, 8)) {
    case 0: /* noise */
        fuzz_bytes(r, bytes, 16);
        mem_write(&m.mem, PAGES + PAGE_CODE * 4096 + at, bytes, 1 + rng_below(r, 16));
        break;
    case 1: /* code moves */
        memcpy(bytes, code + other, sizeof bytes);
        mem_write(&m.mem, PAGES + PAGE_CODE * 4096 + at, bytes, sizeof bytes);
        break;
    case 2: /* written again as it is */
        memcpy(bytes, code + at, sizeof bytes);
        mem_write(&m.mem, PAGES + PAGE_CODE * 4096 + at, bytes, sizeof bytes);
        break;
    case 3: /* one byte of the newest program */
        at = c->code_from + rng_below(r, c->code_to - c->code_from + 1);
        bytes[0] = (uint8_t)rng_next(r);
        if (at < 8192)
            mem_write(&m.mem, PAGES + PAGE_CODE * 4096 + at, bytes, 1);
        break;
    default: new_program(c, r);
    }
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* False: a vCPU has not begun anew for a long time. */
static bool fuzz(uint64_t seed, double seconds, uint64_t *changes)
{
    static struct fuzz_case c;
    double end = now() + seconds, seen_at[CPUS] = {0};
    uint64_t seen[CPUS] = {0};
    struct rng r;

    rng_seed(&r, seed);
    memset(c.code, 0xcc, sizeof c.code);
    while (now() < end) {
        for (unsigned i = 0, n = 1 + rng_below(&r, 20); i < n; i++, ++*changes)
            change(&c, &r);
        usleep(rng_below(&r, 400));
        for (unsigned i = 0; i < CPUS; i++) {
            uint64_t begun = atomic_load(&m.begun[i]);

            if (begun != seen[i])
                seen_at[i] = now();
            else if (seen_at[i] > 0 && now() - seen_at[i] > 60)
                return false;
            seen[i] = begun;
            if (one_in(&r, 4))
                m.vm.engine->kick(m.vm.cpu[i]);
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    uint64_t seed = (uint64_t)time(NULL), changes = 0;
    double seconds = 10;
    struct err err = {0};
    pthread_t thread[CPUS];
    bool alive;

    unsetenv("HULL_JIT");
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--seconds"))
            seconds = atof(argv[i + 1]);
        else if (!strcmp(argv[i], "--seed"))
            seed = strtoull(argv[i + 1], NULL, 0);
    }
    printf("# seed %llu\n", (unsigned long long)seed);
    fflush(stdout);
    if (!ok(open_machine(&err), "the machine opens %s", err.text))
        return tap_done();
    if (!soft_jit_active(m.vm.cpu[0]->priv)) {
        printf("ok 2 # skip no JIT on this host\n1..2\n");
        return 0;
    }
    for (unsigned i = 0; i < CPUS; i++) {
        rng_seed(&m.rng[i], seed ^ (i + 1) * 0x9e3779b97f4a7c15ull);
        atomic_store(&m.entry, FUZZ_LOW + PAGE_CODE * 4096);
        pthread_create(&thread[i], NULL, vcpu_thread, m.vm.cpu[i]);
    }
    alive = fuzz(seed, seconds, &changes);
    ok(alive, "%llu changes of code, no vCPU is stuck", (unsigned long long)changes);
    atomic_store(&m.over, true);
    for (unsigned i = 0; alive && i < CPUS; i++) {
        for (unsigned k = 0; k < 2; k++, usleep(20000))
            m.vm.engine->kick(m.vm.cpu[i]);
        pthread_join(thread[i], NULL);
    }
    for (unsigned i = 0; i < CPUS; i++) {
        struct soft_jit_counters n;

        soft_jit_counters(m.vm.cpu[i]->priv, &n);
        ok(n.translated && n.killed && !n.rejected,
           "vCPU %u: %llu runs, %llu blocks translated, %llu dropped, %llu rejected by the "
           "verifier",
           i, (unsigned long long)m.begun[i], (unsigned long long)n.translated,
           (unsigned long long)n.killed, (unsigned long long)n.rejected);
    }
    if (alive) {
        vm_close(&m.vm);
        mem_close(&m.mem);
    }
    return tap_done();
}
