/* SPDX-License-Identifier: MIT */
/* Where things lie in the guest's physical address space. One place says it for loaders, ACPI
 * tables, the host bridge and the E820 map; the numbers follow Intel Q35 boards.
 *
 *           0  conventional memory
 *       9fc00  reserved to 1 MiB: EBDA, the VGA hole a0000-bffff (no RAM), ACPI and SMBIOS tables
 *      100000  low RAM, to low_end: at most 2 GiB if there is more than 2.75 GiB in all
 *    b0000000  ECAM (MMCONFIG) of 256 buses
 *    c0000000  32-bit PCI window, to fec00000
 *    fec00000  IOAPIC; fed00000 HPET; fee00000 local APICs; firmware flash below 4 GiB
 *   100000000  high RAM, to high_end
 * mmio64_base  64-bit PCI window */
#ifndef HULL_BOOT_LAYOUT_H
#define HULL_BOOT_LAYOUT_H

#include "mem/mem.h"

#define LAYOUT_CONVENTIONAL_END 0x9fc00ULL
#define LAYOUT_VGA_BASE         0xa0000ULL
#define LAYOUT_VGA_END          0xc0000ULL
/* The machine puts RSDP and tables here; kernels that scan for them find them. */
#define LAYOUT_ACPI_BASE 0xe0000ULL
#define LAYOUT_ACPI_SIZE 0xf000ULL
/* The 16 bytes that tell a guest which copy of itself it is; a page of their own. */
#define LAYOUT_VMGENID     0xef000ULL
#define LAYOUT_SMBIOS_BASE 0xf0000ULL
#define LAYOUT_SMBIOS_SIZE 0x10000ULL
#define LAYOUT_ECAM_BASE   0xb0000000ULL
#define LAYOUT_ECAM_SIZE   0x10000000ULL
/* Buses that there are: Linux asks for every slot of each bus that MCFG names. */
#define LAYOUT_PCI_BUSES   1
#define LAYOUT_MMIO32_BASE 0xc0000000ULL
#define LAYOUT_MMIO32_END  0xfec00000ULL
#define LAYOUT_IOAPIC_BASE 0xfec00000ULL
#define LAYOUT_HPET_BASE   0xfed00000ULL
#define LAYOUT_LAPIC_BASE  0xfee00000ULL
#define LAYOUT_HIGH_BASE   0x100000000ULL
#define LAYOUT_MMIO64_SIZE (64 * GiB)
#define LAYOUT_MEMORY_MIN  (1 * MiB)
#define LAYOUT_MEMORY_MAX  (512 * GiB) /* so that RAM and the window fit in 40 address bits */

struct layout {
    uint64_t memory;   /* bytes of RAM that the user asked for */
    uint64_t low_end;  /* end of RAM below 4 GiB */
    uint64_t high_end; /* end of RAM above 4 GiB; 4 GiB if there is none */
    uint64_t mmio64_base;
};

enum e820_type { E820_RAM = 1, E820_RESERVED = 2, E820_ACPI = 3 };

struct e820_entry {
    uint64_t base, size;
    uint32_t type; /* enum e820_type */
};

#define LAYOUT_E820_MAX 8

/* Errors name the size and what is allowed: [1 MiB, 512 GiB], whole pages. */
bool layout_init(struct layout *l, uint64_t memory, struct err *err);
/* Adds the RAM regions to `m`, with the VGA hole left out. */
bool layout_add_ram(const struct layout *l, struct mem *m, struct err *err);
/* Fills the memory map, sorted; returns how many entries. */
unsigned layout_e820(const struct layout *l, struct e820_entry map[LAYOUT_E820_MAX]);

#endif
