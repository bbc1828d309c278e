/* SPDX-License-Identifier: MIT */
/* SMBIOS 3.0 tables: what dmidecode and /sys/class/dmi show. DMTF DSP0134. */
#ifndef HULL_BOOT_SMBIOS_H
#define HULL_BOOT_SMBIOS_H

#include "boot/layout.h"
#include "field/field.h"

struct smbios_config {
    const char *version; /* hull's */
    const char *serial;  /* system serial number; NULL: none */
    uint8_t uuid[16];    /* in RFC 4122 order; all zero: none */
    unsigned cpus;
    const char *cpu_name;
    const struct layout *layout;
};

/* Appends the structures, without the entry point. */
bool smbios_make(struct stream *out, const struct smbios_config *c, struct err *err);
/* The 64-bit entry point for `len` bytes of structures at `tables`. */
void smbios_entry(uint8_t entry[24], gpa tables, size_t len);
/* Puts entry point and structures at LAYOUT_SMBIOS_BASE, where kernels scan for them. */
bool smbios_load(const struct smbios_config *c, struct mem *m, struct err *err);

#endif
