/* SPDX-License-Identifier: MIT */
/* The boot CPU as kernels expect it: flat segments, and for 64-bit entries page tables that map the
 * first 4 GiB to themselves. Linux Documentation/arch/x86/boot.rst wants __BOOT_CS = 0x10,
 * __BOOT_DS = 0x18. */
#include "boot/loader.h"

enum { ES, CS, SS, DS, FS, GS }; /* vcpu_state.seg */
enum { BOOT_CS = 0x10, BOOT_DS = 0x18, BOOT_TR = 0x20 };

#define CODE64 (0x0b | SEG_S | SEG_P | SEG_L | SEG_G) /* execute, read, accessed */
#define CODE32 (0x0b | SEG_S | SEG_P | SEG_DB | SEG_G)
#define DATA32 (0x03 | SEG_S | SEG_P | SEG_DB | SEG_G) /* read, write, accessed */
#define TSS    (0x0b | SEG_P)                          /* busy */

#define CR0_PE   BIT(0)
#define CR0_ET   BIT(4)
#define CR0_PG   BIT(31)
#define CR4_PAE  BIT(5)
#define EFER_LME BIT(8)
#define EFER_LMA BIT(10)

#define PTE_TABLE 0x03 /* present, writable */
#define PTE_LARGE 0x83 /* and 2 MiB */

/* A descriptor with base 0. */
static uint64_t descriptor(uint32_t limit, uint16_t attr)
{
    return (limit & 0xffff) | (uint64_t)(limit >> 16 & 0xf) << 48 | (uint64_t)attr << 40;
}

static void flat_segments(struct vcpu_state *cpu, uint16_t code)
{
    for (unsigned i = ES; i <= GS; i++)
        cpu->seg[i] = (struct x86_seg){.limit = UINT32_MAX, .sel = BOOT_DS, .attr = DATA32};
    cpu->seg[CS].sel = BOOT_CS;
    cpu->seg[CS].attr = code;
    cpu->tr = (struct x86_seg){.limit = 0x67, .sel = BOOT_TR, .attr = TSS};
    cpu->ldt = (struct x86_seg){0};
}

static bool enter(struct load *ld, uint16_t code, uint64_t rip, struct err *err)
{
    struct vcpu_state *cpu = ld->cpu;
    uint64_t gdt[5] = {0, 0, descriptor(0xfffff, code), descriptor(0xfffff, DATA32),
                       descriptor(0x67, TSS)};
    gpa at;

    if (!load_small(ld, gdt, sizeof gdt, "GDT", &at, err))
        return false;
    flat_segments(cpu, code);
    cpu->gdt = (struct x86_table){at, sizeof gdt - 1};
    cpu->idt = (struct x86_table){0, 0};
    memset(cpu->reg, 0, sizeof cpu->reg);
    cpu->rip = rip;
    cpu->rflags = 2; /* the bit that is always one */
    cpu->cr0 = CR0_PE | CR0_ET;
    cpu->cr3 = cpu->cr4 = cpu->efer = 0;
    return true;
}

bool enter_flat(struct load *ld, uint32_t eip, struct err *err)
{
    return enter(ld, CODE32, eip, err);
}

bool enter_long(struct load *ld, uint64_t rip, uint64_t rsi, struct err *err)
{
    static const unsigned pages = 6; /* PML4, PDPT, four page directories */
    uint64_t table[6 * 512] = {0};
    struct vcpu_state *cpu = ld->cpu;
    gpa at;

    if (!enter(ld, CODE64, rip, err) ||
        !load_find_low(ld, sizeof table, PAGE_SIZE, 0x1000, "page tables", &at, err))
        return false;
    table[0] = (at + PAGE_SIZE) | PTE_TABLE;
    for (unsigned i = 0; i < pages - 2; i++)
        table[512 + i] = (at + (2 + i) * PAGE_SIZE) | PTE_TABLE;
    for (uint64_t i = 0; i < (pages - 2) * 512; i++)
        table[2 * 512 + i] = i * 2 * MiB | PTE_LARGE;
    cpu->reg[6] = rsi;
    cpu->cr0 |= CR0_PG;
    cpu->cr3 = at;
    cpu->cr4 = CR4_PAE;
    cpu->efer = EFER_LME | EFER_LMA;
    return load_bytes(ld, at, table, sizeof table, err);
}
