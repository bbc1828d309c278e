/* SPDX-License-Identifier: MIT */
/* The software TLB's slow half: filling, flushing, dropping. Layout and fast path are in tlb.h. */
#include "engine/soft/tlb.h"
#include "engine/soft/access.h"
#include "engine/soft/block.h"
#include "engine/soft/page.h"

#define CR0_AM      BIT(18)
#define FETCH_EMPTY 1 /* never equal to a page's address */

/* The page 0 belongs into slot 0 and so is never found in another; slot 0 has page 1 instead. */
static void empty_slot(struct tlb_table *t, unsigned slot)
{
    t->entry[slot].tag = slot ? 0 : PAGE_SIZE;
    t->flags[slot] = 0;
}

/* Fresh memory is empty but for the first slots: what is not used is not touched. */
void soft_tlb_init(struct soft_tlb *tlb)
{
    empty_slot(&tlb->none, 0);
    for (unsigned user = 0; user < 2; user++) {
        empty_slot(&tlb->read[user], 0);
        empty_slot(&tlb->write[user], 0);
        tlb->fetch[user][0].tag = FETCH_EMPTY;
    }
}

/* While alignment is checked (CR0.AM, RFLAGS.AC, ring 3) nothing is found in the fast tables, so
 * that every access passes access.c. */
void soft_tlb_class(struct soft_cpu *cpu)
{
    cpu->align_check = cpu->cpl == 3 && (cpu->cr0 & CR0_AM) && (cpu->rflags & FL_AC);
    cpu->rd = cpu->align_check ? &cpu->tlb->none : &cpu->tlb->read[soft_user(cpu)];
    cpu->wr = cpu->align_check ? &cpu->tlb->none : &cpu->tlb->write[soft_user(cpu)];
}

static void table_flush(struct tlb_table *t, bool keep_global)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < t->count; i++) {
        unsigned slot = t->filled[i];

        if (keep_global && (t->flags[slot] & TLB_F_GLOBAL))
            t->filled[kept++] = (uint16_t)slot;
        else
            empty_slot(t, slot);
    }
    t->count = kept;
}

/* ---- which pages the jump cache may lead to, by half of the address space ---- */

static unsigned half_of(uint64_t linear)
{
    return linear >> 63;
}

static uint64_t *seen_word(struct soft_tlb *tlb, uint64_t linear, uint64_t *bit)
{
    uint64_t h = (linear >> PAGE_SHIFT) * 0x9e3779b97f4a7c15ULL >> 56;

    *bit = BIT(h & 63);
    return &tlb->exec_seen[half_of(linear)][h >> 6];
}

static void forget_half(struct soft_cpu *cpu, unsigned half)
{
    memset(cpu->tlb->exec_seen[half], 0, sizeof cpu->tlb->exec_seen[half]);
    cpu->tlb->exec_local[half] = false;
    soft_blocks_forget_jumps(cpu, half);
}

void soft_tlb_flush(struct soft_cpu *cpu, bool global)
{
    struct soft_tlb *tlb = cpu->tlb;

    tlb->flushes++;
    for (unsigned user = 0; user < 2; user++) {
        table_flush(&tlb->read[user], !global);
        table_flush(&tlb->write[user], !global);
        for (unsigned i = 0; i < FETCH_SLOTS; i++) {
            if (global || !(tlb->fetch_flags[user][i] & TLB_F_GLOBAL))
                tlb->fetch[user][i].tag = FETCH_EMPTY;
        }
    }
    if (global)
        tlb->large_seen = 0;
    for (unsigned half = 0; half < 2; half++) {
        if (global || tlb->exec_local[half])
            forget_half(cpu, half);
    }
}

void soft_tlb_drop_writes(struct soft_cpu *cpu)
{
    table_flush(&cpu->tlb->write[0], false);
    table_flush(&cpu->tlb->write[1], false);
}

void soft_tlb_drop_page(struct soft_cpu *cpu, const uint8_t *page)
{
    for (unsigned user = 0; user < 2; user++) {
        struct tlb_table *t = &cpu->tlb->write[user];

        for (unsigned i = 0; i < t->count; i++) {
            unsigned slot = t->filled[i];

            if ((t->flags[slot] & TLB_F_USED) && t->entry[slot].page == page)
                empty_slot(t, slot);
        }
    }
}

static uint64_t large_bit(uint64_t linear)
{
    return BIT((linear >> 30 ^ linear >> 36) & 63);
}

static bool same_gib(uint64_t a, uint64_t b)
{
    return a >> 30 == b >> 30;
}

static void table_invlpg(struct tlb_table *t, uint64_t linear, bool large)
{
    unsigned slot = tlb_slot(linear);

    if ((t->entry[slot].tag ^ linear) < PAGE_SIZE)
        empty_slot(t, slot);
    for (unsigned i = 0; large && i < t->count; i++) {
        slot = t->filled[i];
        if ((t->flags[slot] & TLB_F_LARGE) && same_gib(t->entry[slot].tag, linear))
            empty_slot(t, slot);
    }
}

void soft_tlb_invlpg(struct soft_cpu *cpu, uint64_t linear)
{
    struct soft_tlb *tlb = cpu->tlb;
    bool large = tlb->large_seen & large_bit(linear);
    uint64_t *seen, bit;

    for (unsigned user = 0; user < 2; user++) {
        table_invlpg(&tlb->read[user], linear, large);
        table_invlpg(&tlb->write[user], linear, large);
        for (unsigned i = 0; i < FETCH_SLOTS; i++) {
            struct fetch_entry *f = &tlb->fetch[user][i];

            if (f->tag == (linear & PAGE_MASK) ||
                ((tlb->fetch_flags[user][i] & TLB_F_LARGE) && same_gib(f->tag, linear)))
                f->tag = FETCH_EMPTY;
        }
    }
    seen = seen_word(tlb, linear, &bit);
    if (large || (*seen & bit))
        forget_half(cpu, half_of(linear));
}

/* An empty slot goes on the list of filled ones. A slot emptied singly stays listed, so the list is
 * swept when it is full. */
static void list_slot(struct tlb_table *t, unsigned slot)
{
    if (t->count == TLB_SLOTS) {
        unsigned kept = 0;

        for (unsigned i = 0; i < TLB_SLOTS; i++) {
            if (t->flags[i] & TLB_F_USED)
                t->filled[kept++] = (uint16_t)i;
        }
        t->count = kept;
    }
    t->filled[t->count++] = (uint16_t)slot;
}

static void install(struct soft_tlb *tlb, struct tlb_table *t, uint64_t linear, uint8_t *page,
                    const struct soft_page *p)
{
    unsigned slot = tlb_slot(linear);

    if (!(t->flags[slot] & TLB_F_USED))
        list_slot(t, slot);
    t->entry[slot].tag = linear & PAGE_MASK;
    t->entry[slot].page = page;
    t->flags[slot] =
        (uint8_t)(TLB_F_USED | (p->global ? TLB_F_GLOBAL : 0) | (p->large ? TLB_F_LARGE : 0));
    if (p->large)
        tlb->large_seen |= large_bit(linear);
    tlb->fills++;
}

/* A data breakpoint lies in the page: every access must be looked at. */
static bool page_watched(const struct soft_cpu *cpu, uint64_t linear)
{
    for (unsigned i = 0; (cpu->dr7 & 0xff) && i < 4; i++) {
        if ((cpu->dr7 >> (2 * i) & 3) && (cpu->dr7 >> (16 + 4 * i) & 1) &&
            (cpu->dr[i] ^ linear) < PAGE_SIZE)
            return true;
    }
    return false;
}

_Noreturn static void page_fault(struct soft_cpu *cpu, uint64_t linear, uint32_t code)
{
    cpu->cr2 = linear;
    soft_raise(cpu, VEC_PF, code & ~WALK_FAULT);
}

void soft_resolve(struct soft_cpu *cpu, uint64_t linear, enum mem_access access, bool user,
                  struct soft_target *t)
{
    struct soft_tlb *tlb = cpu->tlb;
    struct soft_page page;
    uint32_t code = soft_walk(cpu, linear, access, user, &page);

    tlb->misses++;
    if (code != 0)
        page_fault(cpu, linear, code);
    t->phys = page.phys | (linear & ~PAGE_MASK);
    t->host = NULL;
    if (!soft_ram_at(cpu->soft, t->phys, &t->ram))
        return;
    t->host = t->ram.host;
    if (page_watched(cpu, linear & PAGE_MASK) || (page.user && !user && (cpu->cr4 & (1u << 21))))
        return; /* SMAP: what holds for user pages changes with RFLAGS.AC */
    if (access == ACCESS_READ)
        install(tlb, &tlb->read[user], linear, t->host - (linear & ~PAGE_MASK), &page);
    else if (!t->ram.region->readonly && soft_may_cache_write(cpu, &t->ram))
        install(tlb, &tlb->write[user], linear, t->host - (linear & ~PAGE_MASK), &page);
}

static void note_fetch(struct soft_tlb *tlb, uint64_t linear, bool global)
{
    uint64_t bit, *seen = seen_word(tlb, linear, &bit);

    *seen |= bit;
    tlb->exec_local[half_of(linear)] |= !global;
}

uint64_t soft_fetch_page(struct soft_cpu *cpu, uint64_t linear)
{
    bool user = soft_user(cpu);
    struct soft_tlb *tlb = cpu->tlb;
    unsigned slot = (linear >> PAGE_SHIFT) % FETCH_SLOTS;
    struct fetch_entry *f = &tlb->fetch[user][slot];
    struct soft_page page;
    uint32_t code;

    if (likely(f->tag == (linear & PAGE_MASK))) {
        note_fetch(tlb, linear, tlb->fetch_flags[user][slot] & TLB_F_GLOBAL);
        return f->phys;
    }
    code = soft_walk(cpu, linear, ACCESS_FETCH, user, &page);
    if (code != 0)
        page_fault(cpu, linear, code);
    f->tag = linear & PAGE_MASK;
    f->phys = page.phys;
    tlb->fetch_flags[user][slot] =
        (uint8_t)((page.global ? TLB_F_GLOBAL : 0) | (page.large ? TLB_F_LARGE : 0));
    if (page.large)
        tlb->large_seen |= large_bit(linear);
    note_fetch(tlb, linear, page.global);
    return page.phys;
}
