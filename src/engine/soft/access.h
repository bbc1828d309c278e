/* SPDX-License-Identifier: MIT */
/* What a linear address resolves to, for the slow half of loads and stores. */
#ifndef HULL_SOFT_ACCESS_H
#define HULL_SOFT_ACCESS_H

#include "engine/soft/page.h"
#include "engine/soft/tlb.h"

struct soft_target {
    uint64_t phys;
    uint8_t *host; /* NULL: not RAM */
    struct soft_ram ram;
};

/* Walks, fills the TLB if the page may be cached; raises #PF. */
void soft_resolve(struct soft_cpu *cpu, uint64_t linear, enum mem_access access, bool user,
                  struct soft_target *t);

/* Single accesses of the operand's size, as guests on several vCPUs rely on. */
static inline uint64_t host_read(const void *p, unsigned size)
{
    switch (size) {
    case 1: return *(const volatile uint8_t *)p;
    case 2: return *(const volatile uint16_t *)p;
    case 4: return *(const volatile uint32_t *)p;
    default: return *(const volatile uint64_t *)p;
    }
}

static inline void host_write(void *p, unsigned size, uint64_t value)
{
    switch (size) {
    case 1: *(volatile uint8_t *)p = (uint8_t)value; break;
    case 2: *(volatile uint16_t *)p = (uint16_t)value; break;
    case 4: *(volatile uint32_t *)p = (uint32_t)value; break;
    default: *(volatile uint64_t *)p = value; break;
    }
}

#endif
