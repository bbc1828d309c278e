/* SPDX-License-Identifier: MIT */
/* The machine of testguest.h. An exception without a test's own handler ends in a stub that stores
 * its vector at GUEST_DATA - 8 and writes the exit port. */
#include "engine/soft/testguest.h"
#include <errno.h>
#include <stdlib.h>

static void exit_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct guest *g = dev;

    __atomic_store_n(&g->exited, true, __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < g->vm.cpu_count; i++)
        soft_pend(g->cpus[i], PEND_KICK);
}

static uint64_t exit_read(void *dev, uint64_t offset, unsigned size)
{
    return 0;
}

static uint64_t device_read(void *dev, uint64_t offset, unsigned size)
{
    struct guest *g = dev;

    g->device_reads++;
    return g->device_value >> (offset & 7) * 8;
}

static void device_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct guest *g = dev;

    g->device_writes++;
    g->device_value = value;
}

static const struct region_ops exit_ops = {exit_read, exit_write, 1, 4};
static const struct region_ops device_ops = {device_read, device_write, 1, 8};

static void put_tables(struct guest *g)
{
    uint64_t *pml4 = mem_at(&g->mem, GUEST_PML4, 0x10000), *pdpt = pml4 + 512, *pd = pml4 + 1024;
    uint64_t *pt = pml4 + (GUEST_PT - GUEST_PML4) / 8, *high = pt + 512;

    pml4[0] = (GUEST_PML4 + 0x1000) | 7;
    pdpt[0] = (GUEST_PML4 + 0x2000) | 7;
    pdpt[1] = (GUEST_PML4 + 0x4000) | 7;
    for (unsigned i = 0; i < 512; i++)
        pd[i] = (uint64_t)i * 2 * MiB | 0x87;
    high[0] = GUEST_PT | 7;
    (void)pt;
}

static void put_idt(struct guest *g)
{
    for (unsigned v = 0; v < 32; v++) {
        uint64_t at = GUEST_STUBS + v * 16;
        uint64_t gate[2] = {(at & 0xffff) | 8ULL << 16 | 0x8e00ULL << 32 | (at >> 16) << 48, 0};
        /* movb $v, GUEST_DATA - 8; out %al, $0xf4 */
        uint8_t stub[] = {0xc6, 0x04, 0x25, 0xf8, 0xff, 0x1f, 0x00, (uint8_t)v, 0xe6, EXIT_PORT};

        mem_write(&g->mem, GUEST_IDT + v * 16, gate, sizeof gate);
        mem_write(&g->mem, at, stub, sizeof stub);
    }
}

static void put_state(struct soft_cpu *cpu)
{
    for (unsigned i = 0; i < 6; i++)
        cpu->seg[i] = (struct x86_seg){.limit = 0xffffffff, .sel = 16, .attr = 0xc093};
    cpu->seg[SEG_CS] = (struct x86_seg){.limit = 0xffffffff, .sel = 8, .attr = 0xa09b};
    cpu->tr = (struct x86_seg){.limit = 0x67, .attr = 0x8b};
    cpu->gdt = (struct x86_table){GUEST_GDT, 0x17};
    cpu->idt = (struct x86_table){GUEST_IDT, 0x1ff};
    cpu->cr0 = 0x80010033;
    cpu->cr3 = GUEST_PML4;
    cpu->cr4 = 0x6a0;
    cpu->efer = 0xd00;
    cpu->xcr0 = 1;
    cpu->dr6 = 0xffff0ff0;
    cpu->dr7 = 0x400;
    cpu->mxcsr = 0x1f80;
}

static bool open_cpu(struct guest *g, unsigned n, struct err *err)
{
    struct vcpu *v = &g->vcpu[n];
    struct soft_cpu *cpu = aligned_alloc(64, align_up(sizeof *cpu, 64));

    if (cpu == NULL)
        return err_set(err, ENOMEM, "no memory");
    memset(cpu, 0, sizeof *cpu);
    v->vm = &g->vm;
    v->id = n;
    v->priv = g->cpus[n] = cpu;
    g->vm.cpu[n] = v;
    cpu->vcpu = v;
    cpu->vm = &g->vm;
    cpu->soft = g->soft;
    cpu->msr = &g->msr;
    put_state(cpu);
    return soft_cpu_open(cpu, err);
}

bool guest_open_smp(struct guest *g, unsigned cpus, struct err *err)
{
    static const uint64_t gdt[3] = {0, 0x00af9b000000ffffULL, 0x00cf93000000ffffULL};

    memset(g, 0, sizeof *g);
    mem_init(&g->mem);
    bus_init(&g->mmio, ~0ULL);
    bus_init(&g->pio, 0x10000);
    g->exit_port =
        (struct region){.name = "exit", .base = EXIT_PORT, .size = 4, .ops = &exit_ops, .dev = g};
    g->device = (struct region){
        .name = "device", .base = GUEST_DEVICE, .size = 64 * KiB, .ops = &device_ops, .dev = g};
    g->vm = (struct vm){.mem = &g->mem, .mmio = &g->mmio, .pio = &g->pio, .cpu_count = cpus};
    if (!mem_add(&g->mem, "ram", 0, GUEST_RAM, false, err) ||
        !bus_add(&g->pio, &g->exit_port, err) || !bus_add(&g->mmio, &g->device, err) ||
        !soft_core_open(&g->vm, &g->soft, err))
        return false;
    put_tables(g);
    put_idt(g);
    mem_write(&g->mem, GUEST_GDT, gdt, sizeof gdt);
    for (unsigned i = 0; i < cpus; i++) {
        if (!open_cpu(g, i, err))
            return false;
    }
    g->cpu = g->cpus[0];
    return true;
}

bool guest_open(struct guest *g, struct err *err)
{
    return guest_open_smp(g, 1, err);
}

void guest_close(struct guest *g)
{
    for (unsigned i = 0; i < GUEST_CPUS; i++) {
        if (g->cpus[i])
            soft_cpu_close(g->cpus[i]);
        free(g->cpus[i]);
    }
    soft_core_close(&g->vm, g->soft);
    bus_close(&g->mmio);
    bus_close(&g->pio);
    mem_close(&g->mem);
}

void guest_code_on(struct guest *g, unsigned n, uint64_t at, const uint8_t *code,
                   const uint8_t *end)
{
    struct soft_cpu *cpu = g->cpus[n];

    mem_write(&g->mem, at, code, (size_t)(end - code));
    memset(cpu->reg, 0, sizeof cpu->reg);
    put_state(cpu);
    cpu->reg[4] = GUEST_STACK - n * 0x10000;
    cpu->rip = cpu->next_rip = at;
    cpu->cpl = 0;
    cpu->arith = 0x200;
    cpu->rflags = FL_FIXED;
    cpu->pending = 0;
    soft_tlb_flush(cpu, true);
    soft_mode_changed(cpu);
}

void guest_code(struct guest *g, const uint8_t *code, const uint8_t *end)
{
    guest_code_on(g, 0, GUEST_CODE, code, end);
}

bool guest_run(struct guest *g)
{
    g->exited = false;
    while (!g->exited) {
        if (soft_run(&g->vcpu[0]) != VCPU_KICKED)
            return false;
    }
    return true;
}
