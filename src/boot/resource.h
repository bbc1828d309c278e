/* SPDX-License-Identifier: MIT */
/* Resource templates: the buffers in _CRS, _PRS and _SRS. ACPI 6.4, 6.4. */
#ifndef HULL_BOOT_RESOURCE_H
#define HULL_BOOT_RESOURCE_H

#include "boot/aml.h"

struct resources {
    uint8_t bytes[512];
    size_t len;
};

enum resource_kind { RESOURCE_MEMORY = 0, RESOURCE_IO = 1, RESOURCE_BUS = 2 };

void resource_io(struct resources *r, uint16_t base, uint8_t len);
void resource_irq(struct resources *r, unsigned irq); /* edge, active high, exclusive */
/* Extended: level, active high, shared, as PIRQ lines reach the 8259s. */
void resource_interrupts(struct resources *r, const uint32_t *irq, uint8_t count);
void resource_memory32(struct resources *r, uint32_t base, uint32_t len);
/* What a bridge passes down, inclusive; 16 bits wide for bus and I/O, else as wide as it must be.
 */
void resource_window(struct resources *r, enum resource_kind kind, uint64_t first, uint64_t last);
void resource_put(struct resources *r, struct aml *a, const char *name); /* Name(name, buffer) */

#endif
