/* SPDX-License-Identifier: MIT */
/* The soft engine's sides: guests in ring 3 that map the test's pages at the same linear
 * addresses.
 *
 * Exceptions are delivered through a real IDT to handlers that halt, so the vector is where it
 * halted and the rest is on the kernel stack: delivery itself is tested too. Physical memory, 1
 * MiB: 1000 PML4   2000 PDPT, 3000 PD, 4000 PT of LOW   5000, 6000, 7000 of HIGH   8000, 9000 of
 * the kernel a000 GDT   b000 LDT   c000 IDT   d000 handlers   e000 TSS   f000 stack (grows down)
 * 10000 test pages */
#include "fuzz.h"
#include "bus/bus.h"
#include "engine/engine.h"
#include "engine/soft/jit/jit.h"
#include "engine/soft/soft.h"
#include "engine/soft/vector.h"
#include "engine/x86/model.h"
#include <setjmp.h>
#include <signal.h>
#include <string.h>

#define KERNEL   0xffff800000000000ull /* maps physical 0 to 2 MiB, supervisor only */
#define GDT      0xa000
#define LDT      0xb000
#define IDT      0xc000
#define HANDLERS 0xd000
#define TSS      0xe000
#define STACK    0xf000 /* top; the page below it is the TSS's, which is far away */
#define PAGES    0x10000

enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_PS = 0x80 };
#define PTE_NX BIT(63)

static struct guest {
    struct mem mem;
    struct bus mmio, pio;
    struct vm vm;
    struct cpu_model model;
    struct soft_cpu *cpu;
    uint8_t *ram;
    uint16_t cs32;
    bool open;
} guests[SIDES];

static sigjmp_buf died;
static volatile sig_atomic_t may_die;

const char *const fuzz_side_name[SIDES] = {"soft", "jit", "jit-precise"};
static const char *const jit_options[SIDES] = {"off", "force,verify", "force,precise,verify"};

static uint64_t *table_at(const struct guest *g, uint64_t phys)
{
    return (uint64_t *)(void *)(g->ram + phys);
}

static void map_test_pages(struct guest *g, uint64_t base, uint64_t tables)
{
    unsigned dirty_accessed = 0x60;

    table_at(g, 0x1000)[(base >> 39) & 511] = tables | PTE_P | PTE_W | PTE_U;
    table_at(g, tables)[(base >> 30) & 511] = (tables + 0x1000) | PTE_P | PTE_W | PTE_U;
    table_at(g, tables + 0x1000)[(base >> 21) & 511] = (tables + 0x2000) | PTE_P | PTE_W | PTE_U;
    for (unsigned i = 0; i < FUZZ_PAGES; i++) {
        uint64_t e = PAGES + i * 4096 + PTE_P + PTE_U + dirty_accessed;

        if (!fuzz_perm[i])
            continue;
        e |= fuzz_perm[i] & PERM_WRITE ? PTE_W : 0;
        e |= fuzz_perm[i] & PERM_EXEC ? 0 : PTE_NX;
        table_at(g, tables + 0x2000)[((base >> 12) & 511) + i] = e;
    }
}

static void put_tables(struct guest *g)
{
    static const uint64_t user_data = 0x00cff3000000ffffull, code32 = 0x00cffb000000ffffull,
                          code64 = 0x00affb000000ffffull, kernel_code = 0x00af9b000000ffffull,
                          kernel_data = 0x00cf93000000ffffull;

    map_test_pages(g, FUZZ_LOW, 0x2000);
    map_test_pages(g, FUZZ_HIGH, 0x5000);
    table_at(g, 0x1000)[256] = 0x8000 | PTE_P | PTE_W;
    table_at(g, 0x8000)[0] = 0x9000 | PTE_P | PTE_W;
    table_at(g, 0x9000)[0] = PTE_P | PTE_W | PTE_PS;
    table_at(g, GDT)[2] = kernel_code;
    table_at(g, GDT)[3] = kernel_data;
    table_at(g, GDT)[FUZZ_CS32 >> 3] = code32;
    table_at(g, GDT)[FUZZ_DS >> 3] = user_data;
    table_at(g, GDT)[FUZZ_CS64 >> 3] = code64;
    table_at(g, LDT)[FUZZ_CS32_LDT >> 3] = code32;
    for (unsigned v = 0; v < 256; v++) {
        uint64_t at = KERNEL + HANDLERS + v * 16, dpl = v == 3 || v == 4 ? 0x6000 : 0;

        table_at(g, IDT)[2 * v] =
            (at & 0xffff) | 0x10ull << 16 | (0x8e00ull | dpl) << 32 | (at >> 16 & 0xffff) << 48;
        table_at(g, IDT)[2 * v + 1] = at >> 32;
        g->ram[HANDLERS + v * 16] = 0xf4;
    }
    *(uint64_t *)(void *)(g->ram + TSS + 4) = KERNEL + STACK;
    *(uint16_t *)(void *)(g->ram + TSS + 102) = 104; /* no I/O bitmap */
}

static void put_system_state(struct soft_cpu *cpu)
{
    cpu->gdt = (struct x86_table){KERNEL + GDT, 0x7f};
    cpu->idt = (struct x86_table){KERNEL + IDT, 0xfff};
    cpu->ldt = (struct x86_seg){.base = KERNEL + LDT, .limit = 0x1f, .sel = 0x50, .attr = 0x82};
    cpu->tr = (struct x86_seg){.base = KERNEL + TSS, .limit = 103, .sel = 0x40, .attr = 0x8b};
    cpu->cr0 = 0x80050033; /* PG AM WP NE ET MP PE */
    cpu->cr3 = 0x1000;
    cpu->cr4 = 0x50620 | BIT(7); /* OSXSAVE, FSGSBASE, OSXMMEXCPT, OSFXSR, PAE, PGE */
    cpu->efer = 0xd01;
    cpu->xcr0 = 7;
    cpu->dr6 = 0xffff0ff0;
    cpu->dr7 = 0x400;
}

bool guest_open(enum side side, uint16_t cs32, struct err *err)
{
    struct guest *g = &guests[side];

    if (!soft_jit_setup(jit_options[side], err))
        return false;
    soft_jit_options.precise = side == SIDE_JIT_PRECISE;
    mem_init(&g->mem);
    bus_init(&g->mmio, UINT64_MAX);
    bus_init(&g->pio, 0x10000);
    vm_init(&g->vm);
    g->vm.mem = &g->mem;
    g->vm.mmio = &g->mmio;
    g->vm.pio = &g->pio;
    g->vm.model = &g->model;
    memset(g->model.feature, 1, sizeof g->model.feature);
    g->model.phys_bits = 40;
    g->model.linear_bits = 48;
    g->model.tsc_khz = 2000000;
    g->model.xcr0_mask = 7;
    if (!mem_add(&g->mem, "ram", 0, 1 << 20, false, err) || !vm_open(&g->vm, &soft_engine, 1, err))
        return false;
    g->cpu = g->vm.cpu[0]->priv;
    g->ram = mem_at(&g->mem, 0, 1 << 20);
    g->cs32 = cs32;
    put_tables(g);
    put_system_state(g->cpu);
    soft_tlb_flush(g->cpu, true);
    g->open = true;
    return true;
}

void guest_close(void)
{
    for (unsigned i = 0; i < SIDES; i++) {
        if (!guests[i].open)
            continue;
        guests[i].open = false;
        vm_close(&guests[i].vm);
        mem_close(&guests[i].mem);
    }
}

bool guest_works(enum side side)
{
    return guests[side].open && (side == SIDE_INTERPRETER || soft_jit_active(guests[side].cpu));
}

uint64_t guest_translated(enum side side)
{
    struct soft_jit_counters n;

    return guests[side].open && soft_jit_counters(guests[side].cpu, &n) ? n.instructions : 0;
}

uint8_t *guest_memory(enum side side)
{
    return guests[side].ram + PAGES;
}

void guest_code_written(enum side side, unsigned offset, unsigned length)
{
    mem_dirty(&guests[side].mem, PAGES + PAGE_CODE * 4096 + offset, length);
}

static void put_segments(struct guest *g, struct soft_cpu *cpu, enum x86_mode mode)
{
    static const struct x86_seg data = {.limit = 0xffffffff, .sel = FUZZ_DS, .attr = 0xc0f3};

    for (unsigned i = 0; i < 6; i++)
        cpu->seg[i] = data;
    cpu->seg[SEG_CS] = (struct x86_seg){.limit = 0xffffffff, .sel = FUZZ_CS64, .attr = 0xa0fb};
    if (mode != X86_MODE_64)
        cpu->seg[SEG_CS] = (struct x86_seg){.limit = 0xffffffff, .sel = g->cs32, .attr = 0xc0fb};
    cpu->seg[SEG_FS] = (struct x86_seg){.base = FUZZ_FS_BASE};
    cpu->seg[SEG_GS] = (struct x86_seg){.base = FUZZ_GS_BASE};
}

/* What the handler found: vector from where it halted, the rest from its stack. */
static void read_frame(struct guest *g, struct soft_cpu *cpu, struct fuzz_state *end)
{
    const uint64_t *top = (const uint64_t *)(void *)(g->ram + STACK);

    end->vector = (uint8_t)((cpu->rip - 1 - KERNEL - HANDLERS) / 16);
    end->ss = (uint16_t)top[-1];
    end->reg[4] = top[-2];
    end->rflags = top[-3];
    end->cs = (uint16_t)top[-4];
    end->rip = top[-5];
    end->error = cpu->reg[4] == KERNEL + STACK - 48 ? (uint32_t)top[-6] : 0;
    end->cr2 = end->vector == VEC_PF ? cpu->cr2 : 0;
}

void guest_begin(enum side side)
{
    soft_tlb_flush(guests[side].cpu, true); /* so that some cases meet an empty TLB */
    if (guests[side].cpu->jit)              /* native runs have used GS meanwhile */
        native_set_gs((uint64_t)(uintptr_t)guests[side].cpu);
}

void guest_run(enum side side, const struct fuzz_case *c, struct fuzz_state *end)
{
    struct guest *g = &guests[side];
    struct soft_cpu *cpu = g->cpu;
    const struct fuzz_state *s = &c->start;
    volatile enum vcpu_exit exit;

    memcpy(cpu->reg, s->reg, sizeof cpu->reg);
    cpu->rip = cpu->next_rip = cpu->rf_rip = cpu->shadow_rip = s->rip;
    cpu->cpl = 3;
    cpu->run = VCPU_RUNNABLE;
    cpu->delivering = false;
    cpu->ext = 0;
    cpu->stepping = false;
    put_segments(g, cpu, c->mode);
    memcpy(cpu->xsave, s->xsave, sizeof s->xsave);
    memcpy(&cpu->mxcsr, s->xsave + 24, 4);
    soft_fpu_normalise(cpu);
    cpu->fpu_live = false;
    atomic_fetch_and(&cpu->pending, PEND_CODE); /* the case's code was just written */
    soft_set_rflags(cpu, s->rflags);
    soft_mode_changed(cpu);
    may_die = cpu->jit != NULL;
    exit = sigsetjmp(died, 0) ? VCPU_BROKEN : soft_run(cpu->vcpu);
    for (unsigned i = 0; exit == VCPU_KICKED && i < 8; i++)
        exit = soft_run(cpu->vcpu);
    may_die = false;
    soft_fpu_save(cpu);
    memcpy(end->reg, cpu->reg, sizeof end->reg);
    memcpy(end->xsave, cpu->xsave, sizeof end->xsave);
    memcpy(end->xsave + 24, &cpu->mxcsr, 4);
    if (exit == VCPU_HALT && cpu->cpl == 0)
        read_frame(g, cpu, end);
    else
        end->vector = exit == VCPU_KICKED ? FUZZ_TIMEOUT : FUZZ_LOST;
}

bool guest_died(void)
{
    if (may_die) {
        may_die = false;
        siglongjmp(died, 1);
    }
    return false;
}

void guest_kick(void)
{
    for (unsigned i = 0; i < SIDES; i++)
        if (guests[i].open)
            guests[i].vm.engine->kick(guests[i].cpu->vcpu);
}
