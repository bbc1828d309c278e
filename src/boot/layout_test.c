/* SPDX-License-Identifier: MIT */
/* RAM is split round the hole, nothing overlaps, and E820 tells exactly what is RAM. */
#include "boot/layout.h"
#include "tap.h"

static struct err e;

static void test_size(uint64_t memory, uint64_t low_end)
{
    struct layout l;
    struct mem m;
    struct e820_entry map[LAYOUT_E820_MAX];
    uint64_t ram = 0, end = 0;
    bool sorted = true, backed = true;
    unsigned n;

    mem_init(&m);
    if (!ok(layout_init(&l, memory, &e) && layout_add_ram(&l, &m, &e), "%llu MiB",
            (unsigned long long)(memory / MiB)))
        return;
    n = layout_e820(&l, map);
    for (unsigned i = 0; i < n; i++) {
        sorted &= map[i].base >= end;
        end = map[i].base + map[i].size;
        if (map[i].type == E820_RAM) {
            ram += map[i].size;
            backed &= mem_at(&m, map[i].base, map[i].size) != NULL;
        }
    }
    ok(l.low_end == low_end, "low RAM ends at 0x%llx", (unsigned long long)l.low_end);
    ok(sorted && backed, "the map is sorted and its RAM exists");
    ok(ram == memory - (1 * MiB - LAYOUT_CONVENTIONAL_END),
       "it tells all RAM but the first megabyte's top");
    ok(l.mmio64_base >= l.high_end && l.mmio64_base + LAYOUT_MMIO64_SIZE <= 1ULL << 40,
       "64-bit window");
    ok(mem_at(&m, LAYOUT_VGA_BASE, 1) == NULL &&
           mem_at(&m, LAYOUT_ACPI_BASE, LAYOUT_ACPI_SIZE) != NULL,
       "VGA hole");
    mem_close(&m);
}

static void refused(uint64_t memory)
{
    struct layout l;

    ok(!layout_init(&l, memory, &e) && strstr(e.text, "--memory"), "%s", e.text);
}

int main(void)
{
    test_size(1 * MiB, 1 * MiB);
    test_size(128 * MiB, 128 * MiB);
    test_size(LAYOUT_ECAM_BASE, LAYOUT_ECAM_BASE);
    test_size(LAYOUT_ECAM_BASE + PAGE_SIZE, 2 * GiB);
    test_size(8 * GiB, 2 * GiB);
    test_size(512 * GiB, 2 * GiB);
    refused(0);
    refused(512 * KiB);
    refused(64 * MiB + 1);
    refused(1024 * GiB);
    return tap_done();
}
