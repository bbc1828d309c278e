/* SPDX-License-Identifier: MIT */
/* ACPI tables of the board, for kernels booted directly and, as blobs, for firmware.
 *
 * acpi_make builds them with their pointers open: a list says which field must hold which table's
 * address. acpi_load lays them out in guest memory and fills the pointers; a firmware's table
 * loader does the same with the list. Numbers that must agree with dev/: PM block 0x600, port 0xb2
 * values, PIRQ routing of bus/pci.c, IOAPIC pins of dev/irqchip.c; boot/acpi_test.c and
 * doc/board.md say so. */
#ifndef HULL_BOOT_ACPI_H
#define HULL_BOOT_ACPI_H

#include "boot/layout.h"
#include "field/field.h"

struct acpi_config {
    unsigned cpus; /* APIC ids 0 to cpus - 1 */
    const struct layout *layout;
    uint8_t uarts; /* bit n: COM(n + 1) */
    bool hpet, i8042, pvpanic, vga;
    gpa vmgenid; /* where its 16 bytes lie; 0: none */
};

#define ACPI_GPE_VMGENID 5 /* the event by which the guest hears of a new one */

#define ACPI_TABLES_MAX   12
#define ACPI_POINTERS_MAX 24

struct acpi_table {
    char name[5]; /* "RSDP", "DSDT", ... */
    struct stream blob;
};

struct acpi_pointer { /* `size` bytes at `offset` of table `in` take the address of table `to` */
    uint8_t in, to, size;
    uint32_t offset;
};

struct acpi_tables {
    struct acpi_table table[ACPI_TABLES_MAX]; /* the RSDP is the first */
    unsigned count;
    struct acpi_pointer pointer[ACPI_POINTERS_MAX];
    unsigned pointers;
};

/* Close it in any case. */
bool acpi_make(struct acpi_tables *t, const struct acpi_config *c, struct err *err);
void acpi_close(struct acpi_tables *t);
/* Fills pointers and checksums for tables laid out from `base`; the end in *end. */
void acpi_place(struct acpi_tables *t, gpa base, gpa address[ACPI_TABLES_MAX], gpa *end);
/* Makes the tables and puts them at LAYOUT_ACPI_BASE. The RSDP's address, 0 on error. */
gpa acpi_load(const struct acpi_config *c, struct mem *m, struct err *err);

/* boot/dsdt.c */
bool acpi_make_dsdt(struct stream *blob, const struct acpi_config *c, struct err *err);

#endif
