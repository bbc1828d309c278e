/* SPDX-License-Identifier: MIT */
/* Software TLB: linear page to host pointer, per vCPU, separate tables for reads and for writes,
 * for supervisor and for user. One compare decides: `linear ^ tag` is the offset in the page when
 * the entry matches and huge when it does not.
 *
 * An entry exists only when an access needs nothing else: RAM, permission checked, accessed (and,
 * to write, dirty) bit set, no watchpoint; to write, also no decoded code in the page, not ROM, and
 * the page in the dirty log. Everything else misses and takes the slow path. An empty slot's tag
 * has a wrong slot number, so nothing can match it. */
#ifndef HULL_SOFT_TLB_H
#define HULL_SOFT_TLB_H

#include "engine/soft/soft.h"

#define TLB_BITS    10
#define TLB_SLOTS   (1u << TLB_BITS)
#define FETCH_SLOTS 256u

struct tlb_entry {
    uint64_t tag;  /* linear address of the page */
    uint8_t *page; /* host address of the page */
};

struct tlb_table {
    struct tlb_entry entry[TLB_SLOTS];
    uint16_t filled[TLB_SLOTS]; /* slots in use, so that a flush costs what was filled */
    uint32_t count;
    uint8_t flags[TLB_SLOTS]; /* TLB_F_* */
};

enum { TLB_F_USED = 1, TLB_F_GLOBAL = 2, TLB_F_LARGE = 4 };

struct fetch_entry { /* translations for instruction fetch, by class */
    uint64_t tag;
    uint64_t phys; /* of the page */
};

struct soft_tlb {
    struct tlb_table read[2], write[2]; /* [0] supervisor, [1] user */
    struct tlb_table none;              /* always empty */
    struct fetch_entry fetch[2][FETCH_SLOTS];
    uint8_t fetch_flags[2][FETCH_SLOTS];
    uint64_t large_seen;      /* bit per hashed GiB with entries made from large pages */
    uint64_t exec_seen[2][4]; /* bit per hashed page that code was fetched from, by address half */
    bool exec_local[2];       /* one of them was not global */
    uint8_t beside[256];      /* slow stores, by hashed page: page.c */
    uint64_t misses, flushes, fills; /* counters */
};

static inline unsigned tlb_slot(uint64_t linear)
{
    return (linear >> PAGE_SHIFT) & (TLB_SLOTS - 1);
}

/* Host address of `size` (1 to 4096) bytes at a linear address if the TLB has them, else NULL. */
static inline void *tlb_peek(const struct tlb_table *t, uint64_t linear, unsigned size)
{
    const struct tlb_entry *e = &t->entry[tlb_slot(linear)];
    uint64_t offset = linear ^ e->tag;

    return likely(offset <= PAGE_SIZE - size) ? e->page + offset : NULL;
}

static inline bool soft_user(const struct soft_cpu *cpu)
{
    return cpu->cpl == 3;
}

/* At the current CPL. NULL: call soft_load or soft_load_bytes. */
static inline const void *soft_tlb_read(const struct soft_cpu *cpu, uint64_t linear, unsigned size)
{
    return tlb_peek(&cpu->tlb->read[soft_user(cpu)], linear, size);
}

/* NULL: call soft_store or soft_store_bytes. */
static inline void *soft_tlb_write(const struct soft_cpu *cpu, uint64_t linear, unsigned size)
{
    return tlb_peek(&cpu->tlb->write[soft_user(cpu)], linear, size);
}

/* Drops all write entries, or those of one host page (both classes). */
void soft_tlb_drop_writes(struct soft_cpu *cpu);
void soft_tlb_drop_page(struct soft_cpu *cpu, const uint8_t *page);
/* Physical page that holds code at a linear address, at the current CPL; #PF if it may not run. */
uint64_t soft_fetch_page(struct soft_cpu *cpu, uint64_t linear);
/* Ends stores made through soft_host_ptr to pages with code: blocks made from them become invalid.
 */
void soft_code_stored(struct soft_cpu *cpu);
/* rd and wr for the current CPL. */
void soft_tlb_class(struct soft_cpu *cpu);
void soft_tlb_init(struct soft_tlb *tlb); /* of zeroes */

/* A translation, as the walker found it. */
struct soft_page {
    uint64_t phys;          /* of the 4 KiB page, A20 mask applied */
    bool write, user, exec; /* what the page tables permit, all levels together */
    bool dirty;             /* the leaf's dirty bit is set */
    bool global, large;
};

/* Walks for one access, sets accessed and dirty bits. 0, or the error code of the page fault (P, W,
 * U, RSVD, I bits) with bit 31 set so that it is never 0. */
uint32_t soft_walk(struct soft_cpu *cpu, uint64_t linear, enum mem_access access, bool user,
                   struct soft_page *page);
#define WALK_FAULT 0x80000000u

#endif
