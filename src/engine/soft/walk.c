/* SPDX-License-Identifier: MIT */
/* The page walker: linear address to physical page, all paging modes, one loop over a level table.
 * Intel SDM volume 3, chapter 4.
 *
 * A walk first reads the entries from top to leaf, each once, and decides; only a walk that grants
 * the access then sets accessed and dirty bits, by compare-and-swap, because other vCPUs write the
 * same entries. When one changed under us the walk starts again. */
#include "engine/soft/page.h"
#include "engine/soft/tlb.h"

enum { /* page table entry */
       PTE_P = 1,
       PTE_W = 2,
       PTE_U = 4,
       PTE_A = 0x20,
       PTE_D = 0x40,
       PTE_PS = 0x80,
       PTE_G = 0x100,
};
#define PTE_NX BIT(63)

enum { /* page fault error code */
       PF_P = 1,
       PF_W = 2,
       PF_U = 4,
       PF_RSVD = 8,
       PF_I = 16,
};

#define CR0_WP   BIT(16)
#define CR0_PG   BIT(31)
#define CR4_PSE  BIT(4)
#define CR4_PAE  BIT(5)
#define CR4_PGE  BIT(7)
#define CR4_SMEP BIT(20)
#define CR4_SMAP BIT(21)
#define EFER_NXE BIT(11)
#define EFER_LMA BIT(10)

struct step {      /* one entry of the path */
    uint8_t *host; /* NULL: not in RAM, or constant (PDPTE) */
    uint64_t phys, value;
};

struct walk {
    struct soft_cpu *cpu;
    uint64_t linear, reserved; /* reserved: bits that must be 0 in every entry */
    unsigned levels, index_bits, entry_size;
    struct step step[4];
    unsigned count; /* steps taken */
    unsigned shift; /* log2 of the page size found */
    bool write, user, nx;
};

static uint64_t read_entry(struct walk *w, struct step *s)
{
    struct soft_ram ram;

    if (!soft_ram_at(w->cpu->soft, s->phys, &ram)) {
        s->host = NULL;
        return bus_read(w->cpu->vm->mmio, s->phys, w->entry_size);
    }
    s->host = ram.region->readonly ? NULL : ram.host;
    if (w->entry_size == 8)
        return __atomic_load_n((uint64_t *)ram.host, __ATOMIC_RELAXED);
    return __atomic_load_n((uint32_t *)ram.host, __ATOMIC_RELAXED);
}

/* Bits that must be 0 in an entry that maps a page of 2^shift bytes. */
static uint64_t large_reserved(const struct walk *w, unsigned shift)
{
    if (w->entry_size == 4) /* PSE-36: bits 20-13 are address bits 39-32 */
        return BIT(21) | (w->cpu->soft->phys_bits < 40
                              ? 0x1fe000 & ~((BIT(w->cpu->soft->phys_bits - 32) - 1) << 13)
                              : 0);
    return (BIT(shift) - 1) & ~0x1fffULL;
}

/* Reads entries down to the leaf. 0 or PF_* bits. */
static uint32_t descend(struct walk *w, uint64_t table)
{
    struct soft_cpu *cpu = w->cpu;
    unsigned shift = PAGE_SHIFT + w->index_bits * (w->levels - 1);

    for (unsigned level = w->levels; level > 0; level--, shift -= w->index_bits) {
        struct step *s = &w->step[w->count++];
        uint64_t index = (w->linear >> shift) & (BIT(w->index_bits) - 1);
        bool may_be_large =
            w->entry_size == 4 ? level == 2 && (cpu->cr4 & CR4_PSE) : level == 2 || level == 3;

        s->phys = ((table & ~0xfffULL) + index * w->entry_size) & cpu->a20_mask;
        s->value = read_entry(w, s);
        if (!(s->value & PTE_P))
            return WALK_FAULT;
        if (s->value & w->reserved)
            return WALK_FAULT | PF_P | PF_RSVD;
        w->write &= (s->value & PTE_W) != 0;
        w->user &= (s->value & PTE_U) != 0;
        w->nx |= w->entry_size == 8 && (s->value & PTE_NX);
        w->shift = shift;
        if (level > 1 && (s->value & PTE_PS)) {
            if (may_be_large)
                return s->value & large_reserved(w, shift) ? WALK_FAULT | PF_P | PF_RSVD : 0;
            if (w->entry_size == 8)
                return WALK_FAULT | PF_P |
                       PF_RSVD; /* PS in a PML4 entry; 32-bit without PSE ignores it */
        }
        table = s->value & (w->entry_size == 8 ? 0x000ffffffffff000ULL : 0xfffff000ULL);
    }
    return 0;
}

static bool permitted(const struct walk *w, enum mem_access access, bool user)
{
    const struct soft_cpu *cpu = w->cpu;

    if (user)
        return w->user && (access != ACCESS_WRITE || w->write) &&
               (access != ACCESS_FETCH || !w->nx);
    if (access == ACCESS_FETCH)
        return !w->nx && !(w->user && (cpu->cr4 & CR4_SMEP));
    if (w->user && (cpu->cr4 & CR4_SMAP) && !((cpu->rflags & FL_AC) && cpu->cpl < 3))
        return false;
    return access != ACCESS_WRITE || w->write || !(cpu->cr0 & CR0_WP);
}

/* Sets bits in one entry. False: it changed meanwhile. */
static bool set_bits(struct walk *w, struct step *s, uint64_t bits)
{
    if (s->host == NULL || (s->value & bits) == bits)
        return true;
    if (w->entry_size == 8) {
        if (!__atomic_compare_exchange_n((uint64_t *)s->host, &s->value, s->value | bits, false,
                                         __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
            return false;
    } else {
        uint32_t old = (uint32_t)s->value;

        if (!__atomic_compare_exchange_n((uint32_t *)s->host, &old, old | (uint32_t)bits, false,
                                         __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
            return false;
    }
    soft_ram_written(w->cpu, s->phys, w->entry_size);
    return true;
}

static bool set_accessed(struct walk *w, enum mem_access access)
{
    for (unsigned i = 0; i < w->count; i++) {
        uint64_t bits = PTE_A | (access == ACCESS_WRITE && i == w->count - 1 ? PTE_D : 0);

        if (!set_bits(w, &w->step[i], bits))
            return false;
    }
    return true;
}

/* The mode's level table and root. False: a PAE PDPTE is not present. */
static bool prepare(struct walk *w, uint64_t *table)
{
    struct soft_cpu *cpu = w->cpu;
    uint64_t high = ~(BIT(cpu->soft->phys_bits) - 1) & 0x000fffffffffffffULL;

    *w = (struct walk){.cpu = cpu, .linear = w->linear, .write = true, .user = true};
    if (!(cpu->cr4 & CR4_PAE)) {
        w->levels = 2, w->index_bits = 10, w->entry_size = 4;
        *table = cpu->cr3 & 0xfffff000;
        return true;
    }
    w->index_bits = 9, w->entry_size = 8;
    w->reserved = high | (cpu->efer & EFER_NXE ? 0 : PTE_NX);
    if (cpu->efer & EFER_LMA) {
        w->levels = 4;
        *table = cpu->cr3 & 0x000ffffffffff000ULL;
        return true;
    }
    w->levels = 2;
    w->reserved |= 0x7ff0000000000000ULL;
    *table = cpu->pdpte[(w->linear >> 30) & 3];
    return *table & PTE_P;
}

static void fill_page(const struct walk *w, struct soft_page *page)
{
    const struct soft_cpu *cpu = w->cpu;
    uint64_t leaf = w->step[w->count - 1].value, phys;
    uint64_t in_page = w->linear & (BIT(w->shift) - 1) & PAGE_MASK;

    if (w->entry_size == 8)
        phys = leaf & 0x000ffffffffff000ULL;
    else
        phys = w->shift == PAGE_SHIFT ? leaf & 0xfffff000
                                      : (leaf & 0xffc00000) | (leaf & 0x1fe000) << 19;
    page->phys = ((phys & ~(BIT(w->shift) - 1)) | in_page) & cpu->a20_mask;
    page->write = w->write;
    page->user = w->user;
    page->exec = !w->nx;
    page->global = (leaf & PTE_G) && (cpu->cr4 & CR4_PGE);
    page->large = w->shift != PAGE_SHIFT;
}

static uint32_t fault_code(const struct soft_cpu *cpu, uint32_t code, enum mem_access access,
                           bool user)
{
    if (access == ACCESS_WRITE)
        code |= PF_W;
    if (access == ACCESS_FETCH &&
        (((cpu->cr4 & CR4_PAE) && (cpu->efer & EFER_NXE)) || (cpu->cr4 & CR4_SMEP)))
        code |= PF_I;
    return code | (user ? PF_U : 0);
}

uint32_t soft_walk(struct soft_cpu *cpu, uint64_t linear, enum mem_access access, bool user,
                   struct soft_page *page)
{
    struct walk w = {.cpu = cpu, .linear = linear};
    uint64_t table;
    uint32_t code;

    if (!(cpu->cr0 & CR0_PG)) {
        *page = (struct soft_page){.phys = linear & 0xfffff000 & cpu->a20_mask,
                                   .write = true,
                                   .user = true,
                                   .exec = true,
                                   .dirty = true};
        return 0;
    }
    do {
        if (!prepare(&w, &table))
            return fault_code(cpu, WALK_FAULT, access, user);
        code = descend(&w, table);
        if (code != 0)
            return fault_code(cpu, code, access, user);
        if (!permitted(&w, access, user))
            return fault_code(cpu, WALK_FAULT | PF_P, access, user);
    } while (!set_accessed(&w, access));
    fill_page(&w, page);
    page->dirty = access == ACCESS_WRITE || (w.step[w.count - 1].value & PTE_D);
    return 0;
}

bool soft_translate(struct soft_cpu *cpu, uint64_t linear, uint64_t *physical)
{
    struct walk w = {.cpu = cpu, .linear = linear};
    struct soft_page page;
    uint64_t table;

    if (!(cpu->cr0 & CR0_PG)) {
        *physical = linear & 0xffffffff & cpu->a20_mask;
        return true;
    }
    if (!prepare(&w, &table) || descend(&w, table) != 0)
        return false;
    fill_page(&w, &page);
    *physical = page.phys | (linear & ~PAGE_MASK);
    return true;
}
