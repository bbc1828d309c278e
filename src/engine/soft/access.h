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

/* Guest memory at any alignment, in one access of that type. */
#define ANY_ALIGNMENT __attribute__((aligned(1), may_alias))
typedef uint8_t uint8_t_any;
typedef int8_t int8_t_any;
typedef uint16_t uint16_t_any ANY_ALIGNMENT;
typedef int16_t int16_t_any ANY_ALIGNMENT;
typedef uint32_t uint32_t_any ANY_ALIGNMENT;
typedef int32_t int32_t_any ANY_ALIGNMENT;
typedef uint64_t uint64_t_any ANY_ALIGNMENT;
#define GUEST(type, p) (*(volatile type##_any *)(p))

/* Single accesses of the operand's size, as guests on several vCPUs rely on. */
static inline uint64_t host_read(const void *p, unsigned size)
{
    switch (size) {
    case 1: return GUEST(uint8_t, p);
    case 2: return GUEST(uint16_t, p);
    case 4: return GUEST(uint32_t, p);
    default: return GUEST(uint64_t, p);
    }
}

static inline void host_write(void *p, unsigned size, uint64_t value)
{
    switch (size) {
    case 1: GUEST(uint8_t, p) = (uint8_t)value; break;
    case 2: GUEST(uint16_t, p) = (uint16_t)value; break;
    case 4: GUEST(uint32_t, p) = (uint32_t)value; break;
    default: GUEST(uint64_t, p) = value; break;
    }
}

#endif
