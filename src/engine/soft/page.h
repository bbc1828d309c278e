/* SPDX-License-Identifier: MIT */
/* Per-machine facts about RAM pages: which hold decoded code, who may hold write entries for them,
 * which were written.
 *
 * Invariants
 *  1. While `lines` of a page is not 0, no vCPU's write TLB holds the page, so every store to it
 * takes the slow path and compares itself with `lines`.
 *  2. A block is valid only while its page's generation is what it was before its bytes were read.
 *  3. Installing a write entry sets the vCPU's bit in `writers` and then looks at `lines` again;
 * new code sets `lines` and then looks at `writers`: one of them sees the other.
 *  4. A write to code changes the bytes first, then clears `lines`, then raises the generation. */
#ifndef HULL_SOFT_PAGE_H
#define HULL_SOFT_PAGE_H

#include "engine/soft/soft.h"

#define CODE_LINE 128u /* bytes per bit of `lines` */

struct code_page {
    _Atomic uint32_t generation;
    _Atomic uint32_t lines;   /* bit per 128 bytes that hold decoded code */
    _Atomic uint64_t writers; /* bit per vCPU that may hold a write entry */
};

struct soft_region { /* beside one struct mem_region */
    struct mem_region *region;
    struct code_page *page;    /* one per page; mapped, so untouched parts cost nothing */
    _Atomic uint64_t *written; /* bit per page that a vCPU may have written since soft_dirty */
    uint64_t pages;
};

enum code_cause { CODE_BY_GUEST, CODE_BY_DEVICE, CODE_BESIDE, CODE_CAUSES };

struct soft_vm {
    struct vm *vm;
    struct soft_region region[MEM_REGIONS_MAX];
    unsigned count;
    unsigned phys_bits;        /* MAXPHYADDR */
    pthread_mutex_t split;     /* LOCKed operands that no single host instruction can reach */
    pthread_mutex_t drop;      /* one vCPU at a time makes others drop write entries */
    _Atomic uint32_t dropping; /* and this is not 0 while it waits for them */
    struct mem_watcher watcher;
    bool stepper; /* step.c's: no clock thread, no JIT */
    _Atomic uint64_t invalidations, code_written[CODE_CAUSES]; /* counters */
};

struct soft_ram { /* where a physical address lies */
    struct mem_region *region;
    struct code_page *code;
    uint8_t *host;  /* of the address itself */
    uint64_t index; /* page number in the region */
    struct soft_region *beside;
};

/* False: not RAM. */
bool soft_ram_at(struct soft_vm *soft, uint64_t phys, struct soft_ram *ram);
/* After a store of `len` bytes (not crossing a page) to RAM that went around the write TLB. */
void soft_ram_written(struct soft_cpu *cpu, uint64_t phys, unsigned len);
void soft_code_written(struct soft_vm *soft, struct code_page *page, unsigned offset, size_t len,
                       enum code_cause cause);
/* Decoded code will cover these lines: no vCPU holds a write entry when it returns. */
void soft_code_added(struct soft_cpu *cpu, struct soft_ram *ram, uint32_t lines);
/* True: this vCPU may install a write entry for the page. */
bool soft_may_cache_write(struct soft_cpu *cpu, struct soft_ram *ram);
/* Other vCPUs' requests to drop write entries. */
void soft_serve(struct soft_cpu *cpu);
/* engine_ops.dirty: adds the pages written since the last call to r->dirty. */
void soft_dirty(struct vm *vm, struct mem_region *r);

static inline uint32_t code_lines(unsigned offset, size_t len)
{
    unsigned first = offset / CODE_LINE, last = (offset + (unsigned)len - 1) / CODE_LINE;

    return (uint32_t)((BIT(last + 1) - 1) & ~(BIT(first) - 1));
}

#endif
