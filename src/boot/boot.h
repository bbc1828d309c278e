/* SPDX-License-Identifier: MIT */
/* Starting a kernel without firmware: bzImage, vmlinux (PVH or the 64-bit protocol), Multiboot 1
 * and 2.
 *
 * boot_open runs before the sandbox: it opens the files, finds out what the kernel is and refuses
 * what it cannot be. boot_load runs at power-on and at every reset: it reads the open files
 * straight into guest memory and sets the boot CPU. The files are hostile: every field is checked.
 */
#ifndef HULL_BOOT_H
#define HULL_BOOT_H

#include "boot/layout.h"
#include "engine/state.h"

struct boot_config {
    const char *kernel; /* may be gzip-compressed */
    /* "FILE[,FILE]...", a comma in a name written ",,"; NULL or "": none. Linux gets them as one
     * initrd; for Multiboot each is a module and may be "FILE text for the module". */
    const char *initrd;
    const char *append; /* command line; NULL: empty */
};

struct boot;

struct boot *boot_open(const struct boot_config *config, struct err *err); /* NULL on error */
/* `acpi_rsdp` is the guest address of the RSDP, 0 if there are no tables; they must be in place,
 * since Multiboot 2 gets a copy. `cpu` comes from vcpu_state_reset and is changed to enter the
 * kernel. */
bool boot_load(struct boot *boot, struct mem *mem, const struct layout *layout, gpa acpi_rsdp,
               struct vcpu_state *cpu, struct err *err);
const char *boot_kind(const struct boot *boot); /* "bzImage", "ELF", ...: for people */
void boot_close(struct boot *boot);             /* accepts NULL */

#endif
