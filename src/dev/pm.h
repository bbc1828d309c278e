/* SPDX-License-Identifier: MIT */
/* What the LPC bridge does with the power management block. */
#ifndef HULL_DEV_PM_H
#define HULL_DEV_PM_H

#include "bus/device.h"

#define PM_BASE 0x600 /* where direct boot and the ACPI tables expect it */

void pm_map(struct device *pm, uint16_t base, bool on); /* PMBASE moved */
void pm_acpi_mode(struct device *pm, bool on);          /* SCI_EN, through port 0xb2 */

#endif
