/* SPDX-License-Identifier: MIT */
/* What bus/pci.c calls in bus/msix.c; devices use bus/pci.h. */
#ifndef HULL_BUS_MSIX_H
#define HULL_BUS_MSIX_H

#include "bus/pci.h"

extern const struct field msix_entry_state[];

void msix_control_update(struct pci_function *f); /* after the control word changed */
void msix_reset(struct pci_function *f);
bool msix_restored(struct pci_function *f, struct err *err);

#endif
