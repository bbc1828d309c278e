/* SPDX-License-Identifier: MIT */
/* Threads and state: vCPUs start, pause, resume, reset and close at any moment; what get() says
 * goes back through set() and a saved stream unchanged; impossible states are refused; the local
 * APIC routes. */
#include "base/clock.h"
#include "engine/soft/system.h"
#include "tap.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define RAM (2 * MiB)

struct machine {
    struct vm vm;
    struct mem mem;
    struct bus mmio, pio;
    struct cpu_model model;
    _Atomic unsigned shutdowns;
};

static void on_shutdown(struct vm *vm, struct vcpu *cpu)
{
    atomic_fetch_add(&container_of(vm, struct machine, vm)->shutdowns, 1);
}

static void on_broken(struct vm *vm, struct vcpu *cpu, const struct err *err)
{
}

static const struct vm_events events = {.shutdown = on_shutdown, .broken = on_broken};

static bool machine_open(struct machine *m, unsigned cpus, struct err *err)
{
    memset(m, 0, sizeof *m);
    mem_init(&m->mem);
    bus_init(&m->mmio, BIT(52));
    bus_init(&m->pio, 0x10000);
    vm_init(&m->vm);
    m->vm.events = &events;
    m->vm.mem = &m->mem;
    m->vm.mmio = &m->mmio;
    m->vm.pio = &m->pio;
    m->vm.model = &m->model;
    return cpu_model_parse(&m->model, "", err) && mem_add(&m->mem, "ram", 0, RAM, false, err) &&
           mem_add(&m->mem, "rom", 0xfffff000, 4096, false, err) &&
           vm_open(&m->vm, &soft_engine, cpus, err);
}

static void machine_close(struct machine *m)
{
    vm_close(&m->vm);
    mem_close(&m->mem);
    bus_close(&m->mmio);
    bus_close(&m->pio);
}

/* At the reset vector: incl [0x1000]; jmp to it, in real mode. */
static const uint8_t counting[] = {0x66, 0xff, 0x06, 0x00, 0x10, 0xeb, 0xf9};
static const uint8_t halting[] = {0xf4, 0xeb, 0xfd};

static uint32_t count(struct machine *m)
{
    return *(volatile uint32_t *)mem_at(&m->mem, 0x1000, 4);
}

static bool counts(struct machine *m)
{
    uint32_t before = count(m);

    for (unsigned i = 0; i < 5000; i++) {
        if (count(m) != before)
            return true;
        usleep(1000);
    }
    return false;
}

static bool halts(struct machine *m)
{
    for (unsigned i = 0; i < 400; i++) {
        vm_resume(&m->vm);
        usleep(5000);
        vm_pause(&m->vm);
        if (((struct soft_cpu *)m->vm.cpu[0]->priv)->run == VCPU_HALTED)
            return true;
    }
    return false;
}

static void threads(void)
{
    struct machine m;
    struct err err = {0};
    uint32_t before;

    if (!ok(machine_open(&m, 2, &err), "a machine opens"))
        return;
    mem_load(&m.mem, 0xfffffff0, counting, sizeof counting);
    ok(vm_start(&m.vm, &err), "its threads start");
    usleep(10000);
    ok(count(&m) == 0, "paused to begin with");
    vm_resume(&m.vm);
    ok(counts(&m), "resumed, the guest runs");
    vm_pause(&m.vm);
    before = count(&m);
    usleep(20000);
    ok(count(&m) == before, "paused, it stands still");
    for (unsigned i = 0; i < 50; i++) {
        vm_resume(&m.vm);
        vm_pause(&m.vm);
    }
    vm_resume(&m.vm);
    ok(counts(&m), "fifty pauses later it still runs");
    vm_pause(&m.vm);
    mem_load(&m.mem, 0xfffffff0, halting, sizeof halting);
    ok(vm_reset(&m.vm, &err), "reset");
    ok(halts(&m), "halted, and paused in its sleep");
    vm_resume(&m.vm);
    machine_close(&m);
    ok(true, "closed while asleep");
    if (machine_open(&m, 1, &err)) {
        mem_load(&m.mem, 0xfffffff0, counting, sizeof counting);
        vm_start(&m.vm, &err);
        vm_resume(&m.vm);
        counts(&m);
        machine_close(&m);
    }
    ok(true, "closed while running");
}

/* LIDT with limit 0 would need memory: in real mode a limit of 0 is enough to triple-fault on UD2.
 */
static void triple_fault(void)
{
    static const uint8_t ud2[] = {0x0f, 0x0b};
    struct vcpu_state *s = malloc(sizeof *s);
    struct machine m;
    struct err err = {0};

    if (!s || !machine_open(&m, 1, &err)) {
        free(s);
        return;
    }
    mem_load(&m.mem, 0xfffffff0, ud2, sizeof ud2);
    soft_engine.get(m.vm.cpu[0], s);
    s->idt.limit = 0;
    ok(soft_engine.set(m.vm.cpu[0], s, &err), "an IDT without entries");
    vm_start(&m.vm, &err);
    vm_resume(&m.vm);
    for (unsigned i = 0; i < 5000 && !atomic_load(&m.shutdowns); i++)
        usleep(1000);
    usleep(20000);
    ok(atomic_load(&m.shutdowns) == 1, "a triple fault is told once");
    vm_pause(&m.vm);
    mem_load(&m.mem, 0xfffffff0, counting, sizeof counting);
    ok(vm_reset(&m.vm, &err), "reset after it");
    vm_resume(&m.vm);
    ok(counts(&m), "and the guest runs again");
    machine_close(&m);
    free(s);
}

static void fill(struct vcpu_state *s)
{
    for (unsigned i = 0; i < 16; i++)
        s->reg[i] = 0x1111111111111111ull * i;
    s->rflags = 0x10ad7;
    s->cr0 = 0x80000031;
    s->cr4 = 0x20;
    s->cr3 = 0x5000;
    s->efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
    s->seg[SEG_CS] = (struct x86_seg){.limit = 0xffffffff, .sel = 0x33, .attr = 0xa0fb};
    s->seg[SEG_SS] = (struct x86_seg){.limit = 0xffffffff, .sel = 0x2b, .attr = 0xc0f3};
    s->seg[SEG_FS].base = 0x7fffdeadbeef;
    s->lstar = 0xffffffff81000000;
    s->dr[0] = 0x1234;
    s->dr7 = 0x401;
    s->kernel_gs_base = 0xffff888000000000;
    s->tsc_aux = 7;
    s->nmi_blocked = true;
    s->shadow_sti = true;
    put_le32(s->lapic.regs + 0xf0, 0x1ff);
    put_le32(s->lapic.regs + 0x210, 0x10000);
    put_le32(s->lapic.regs + 0x320, 0x200ec);
    put_le32(s->lapic.regs + 0x380, 0x100000);
}

/* What time moves is not compared. */
static bool same(struct vcpu_state *a, struct vcpu_state *b)
{
    a->tsc = b->tsc = 0;
    a->lapic.timer_left_ns = b->lapic.timer_left_ns = 0;
    return memcmp(a, b, sizeof *a) == 0;
}

static void round_trip(void)
{
    static struct vcpu_state first, second, third;
    struct stream stream = {0};
    struct machine m;
    struct err err = {0};
    bool saved;

    if (!machine_open(&m, 2, &err))
        return;
    soft_engine.get(m.vm.cpu[0], &first);
    fill(&first);
    ok(soft_engine.set(m.vm.cpu[0], &first, &err), "a 64-bit user state is accepted");
    soft_engine.get(m.vm.cpu[0], &first);
    ok(((struct soft_cpu *)m.vm.cpu[0]->priv)->cpl == 3, "CPL comes from SS");
    saved = field_save(vcpu_state_fields, &first, &stream, &err);
    stream.at = 0;
    ok(saved && field_restore(vcpu_state_fields, &second, &stream, &err),
       "it is saved and restored");
    stream_free(&stream);
    third = first;
    ok(same(&third, &second), "the saved state is the same");
    ok(soft_engine.set(m.vm.cpu[0], &second, &err), "and goes in again");
    soft_engine.get(m.vm.cpu[0], &third);
    ok(same(&third, &first), "and comes out the same");
    machine_close(&m);
}

static void refused(struct machine *m, const struct vcpu_state *s, const char *what)
{
    struct err err = {0};

    ok(!soft_engine.set(m->vm.cpu[0], s, &err) && err.code, "refused: %s (%s)", what, err.text);
}

static void hostile(void)
{
    static struct vcpu_state good, s;
    struct machine m;
    struct err err = {0};

    if (!machine_open(&m, 1, &err))
        return;
    soft_engine.get(m.vm.cpu[0], &good);
#define REFUSE(change, what)                                                                       \
    do {                                                                                           \
        s = good;                                                                                  \
        change;                                                                                    \
        refused(&m, &s, what);                                                                     \
    } while (0)
    REFUSE(s.cr0 = 0x80000010, "paging without protection");
    REFUSE(s.cr0 |= BIT(40), "CR0 above 32 bits");
    REFUSE(s.cr4 = BIT(12), "CR4 with LA57");
    REFUSE(s.efer = EFER_LMA, "LMA without LME and paging");
    REFUSE(s.cr3 = BIT(60), "CR3 beyond memory");
    REFUSE(s.xcr0 = 0, "XCR0 without x87");
    REFUSE(s.xcr0 = 0xff, "XCR0 beyond the model");
    REFUSE(s.lstar = BIT(50), "LSTAR not canonical");
    REFUSE(s.seg[SEG_DS].base = BIT(40), "a data segment above 4 GiB");
    REFUSE(s.run = 9, "an unknown run state");
    REFUSE(put_le32(s.xsave + 24, 0x10000), "reserved bits of MXCSR");
    REFUSE(put_le64(s.xsave + 520, BIT(63)), "a compacted XSAVE area");
    REFUSE(s.lapic.base_msr = 0xfee00400, "x2APIC while disabled");
    REFUSE(put_le32(s.lapic.regs + 0x200, 1), "a request for vector 0");
    REFUSE(s.pdpte[2] = 0x1e7, "a PDPTE with reserved bits");
    ok(soft_engine.set(m.vm.cpu[0], &good, &err), "the good state still goes in");
    machine_close(&m);
}

/* ---- routing ---- */
static unsigned requested(struct machine *m, unsigned vector)
{
    static struct vcpu_state s;
    unsigned who = 0;

    for (unsigned i = 0; i < m->vm.cpu_count; i++) {
        soft_engine.get(m->vm.cpu[i], &s);
        if (le32(s.lapic.regs + 0x200 + vector / 32 * 16) >> (vector & 31) & 1)
            who |= 1u << i;
    }
    return who;
}

static unsigned send(struct machine *m, uint32_t dest, uint32_t low, uint32_t data)
{
    struct msi msi = {.address = 0xfee00000 | dest << 12 | low, .data = data};

    soft_apic_msi(&m->vm, &msi);
    return requested(m, data & 0xff);
}

static void routing(void)
{
    static struct vcpu_state s;
    struct machine m;
    struct err err = {0};

    if (!machine_open(&m, 4, &err))
        return;
    for (unsigned i = 0; i < 4; i++) {
        soft_engine.get(m.vm.cpu[i], &s);
        put_le32(s.lapic.regs + 0xf0, i == 3 ? 0xff : 0x1ff);
        put_le32(s.lapic.regs + 0xd0, 1u << (24 + i));
        put_le32(s.lapic.regs + 0x80, i == 0 ? 0x40 : 0);
        soft_engine.set(m.vm.cpu[i], &s, &err);
    }
    ok(send(&m, 2, 0, 0x41) == 4, "physical");
    ok(send(&m, 0xff, 0, 0x42) == 7, "broadcast, but not to a disabled APIC");
    ok(send(&m, 6, 4, 0x43) == 6, "logical, flat");
    ok(send(&m, 7, 12, 0x144) == 2, "lowest priority takes one, the least busy");
    ok(send(&m, 3, 0, 0x45) == 0, "software-disabled");
    ok(send(&m, 9, 0, 0x46) == 0, "nobody there");
    for (unsigned i = 0; i < 4; i++) {
        soft_engine.get(m.vm.cpu[i], &s);
        put_le32(s.lapic.regs + 0xe0, 0x0fffffff);
        put_le32(s.lapic.regs + 0xd0, (i / 2 << 4 | 1u << i % 2) << 24);
        soft_engine.set(m.vm.cpu[i], &s, &err);
    }
    ok(send(&m, 0x03, 4, 0x50) == 3, "logical, cluster 0");
    ok(send(&m, 0x11, 4, 0x51) == 4, "logical, cluster 1");
    for (unsigned i = 0; i < 4; i++) {
        soft_engine.get(m.vm.cpu[i], &s);
        s.lapic.base_msr |= 0x400;
        put_le32(s.lapic.regs + 0xf0, 0x1ff);
        soft_engine.set(m.vm.cpu[i], &s, &err);
    }
    ok(send(&m, 0x0a, 4, 0x60) == 10, "x2APIC logical");
    machine_close(&m);
}

/* INIT and SIPI that were sent to a stopped vCPU are in its state. */
static void in_flight(void)
{
    static struct vcpu_state s;
    struct machine m;
    struct err err = {0};

    if (!machine_open(&m, 2, &err))
        return;
    soft_engine.get(m.vm.cpu[1], &s);
    ok(s.run == VCPU_WAIT_SIPI, "the second waits for SIPI");
    send(&m, 1, 0, 0x69a); /* SIPI, vector 0x9a */
    soft_engine.get(m.vm.cpu[1], &s);
    ok(s.run == VCPU_RUNNABLE && s.seg[SEG_CS].base == 0x9a000 && s.rip == 0,
       "SIPI on its way: %u, %llx", s.run, (unsigned long long)s.seg[SEG_CS].base);
    s.cr2 = 1;
    ok(soft_engine.set(m.vm.cpu[1], &s, &err), "set %s", err.text);
    send(&m, 1, 0, 0x500); /* INIT */
    soft_engine.get(m.vm.cpu[1], &s);
    ok(s.run == VCPU_WAIT_SIPI && s.cr2 == 0, "INIT on its way");
    machine_close(&m);
}

static void *sleeper(void *vcpu)
{
    soft_sleep(vcpu);
    return NULL;
}

/* An interrupt that waits does not keep a vCPU awake that is not started. */
static void parked(void)
{
    struct machine m;
    struct err err = {0};
    struct soft_cpu *cpu;
    pthread_t t;
    struct timespec until;

    if (!machine_open(&m, 2, &err))
        return;
    cpu = m.vm.cpu[1]->priv;
    atomic_store(&cpu->pending, PEND_INTR | PEND_NMI);
    pthread_create(&t, NULL, sleeper, m.vm.cpu[1]);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 100000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    ok(pthread_timedjoin_np(t, NULL, &until) == ETIMEDOUT, "it sleeps on");
    soft_pend(cpu, PEND_SIPI);
    ok(pthread_join(t, NULL) == 0, "SIPI wakes it");
    machine_close(&m);
}

int main(void)
{
    in_flight();
    parked();
    threads();
    triple_fault();
    round_trip();
    hostile();
    routing();
    return tap_done();
}
