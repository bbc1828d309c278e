/* SPDX-License-Identifier: MIT */
/* The address map of a machine, computed once from its memory size. */
#include "boot/layout.h"
#include <errno.h>

#define LOW_SPLIT (2 * GiB) /* low RAM when not all fits below ECAM */

bool layout_init(struct layout *l, uint64_t memory, struct err *err)
{
    if (memory < LAYOUT_MEMORY_MIN || memory > LAYOUT_MEMORY_MAX)
        return err_set(err, EINVAL, "memory of %llu bytes: give --memory between 1M and %lluG",
                       (unsigned long long)memory, LAYOUT_MEMORY_MAX / GiB);
    if (memory & ~PAGE_MASK)
        return err_set(
            err, EINVAL, "memory of %llu bytes is not a multiple of 4K: use --memory %lluK",
            (unsigned long long)memory, (unsigned long long)(align_up(memory, PAGE_SIZE) / KiB));
    l->memory = memory;
    l->low_end = memory <= LAYOUT_ECAM_BASE ? memory : LOW_SPLIT;
    l->high_end = LAYOUT_HIGH_BASE + (memory - l->low_end);
    l->mmio64_base = align_up(l->high_end, LAYOUT_MMIO64_SIZE);
    return true;
}

bool layout_add_ram(const struct layout *l, struct mem *m, struct err *err)
{
    return mem_add(m, "ram-conventional", 0, LAYOUT_VGA_BASE, false, err) &&
           mem_add(m, "ram-low", LAYOUT_VGA_END, l->low_end - LAYOUT_VGA_END, false, err) &&
           (l->high_end == LAYOUT_HIGH_BASE ||
            mem_add(m, "ram-high", LAYOUT_HIGH_BASE, l->high_end - LAYOUT_HIGH_BASE, false, err));
}

static void add(struct e820_entry *map, unsigned *count, uint64_t base, uint64_t end, uint32_t type)
{
    if (end > base)
        map[(*count)++] = (struct e820_entry){base, end - base, type};
}

unsigned layout_e820(const struct layout *l, struct e820_entry map[LAYOUT_E820_MAX])
{
    unsigned n = 0;

    add(map, &n, 0, LAYOUT_CONVENTIONAL_END, E820_RAM);
    add(map, &n, LAYOUT_CONVENTIONAL_END, LAYOUT_VGA_BASE, E820_RESERVED);
    add(map, &n, LAYOUT_ACPI_BASE, 1 * MiB, E820_RESERVED);
    add(map, &n, 1 * MiB, l->low_end, E820_RAM);
    add(map, &n, LAYOUT_ECAM_BASE, LAYOUT_ECAM_BASE + LAYOUT_ECAM_SIZE, E820_RESERVED);
    add(map, &n, LAYOUT_HIGH_BASE, l->high_end, E820_RAM);
    return n;
}
