/* SPDX-License-Identifier: MIT */
/* PCI functions: configuration space, BARs, capabilities, INTx, MSI-X. PCI Local Bus 3.0, PCIe 5.0.
 *
 * A function embeds struct pci_function and describes itself before pci_attach. The root dispatches
 * configuration cycles from ECAM and from ports 0xcf8/0xcfc to functions by bus, device, function.
 * BAR regions are put on and taken off the buses as the guest programs them. */
#ifndef HULL_BUS_PCI_H
#define HULL_BUS_PCI_H

#include "bus/device.h"

#define PCI_BARS       6
#define PCI_CONFIG_LEN 4096
#define PCI_MSIX_MAX   128

struct pci_function;

struct pci_bar {
    struct region region; /* ops and dev given by the owner; base is the root's */
    uint64_t size;        /* power of two; 0: no such BAR */
    bool io, is64, prefetch;
    bool mapped; /* the root's */
};

struct pci_function {
    struct device *dev; /* the owner */
    uint8_t devfn, bus;
    uint8_t config[PCI_CONFIG_LEN];
    uint8_t writable[PCI_CONFIG_LEN]; /* mask of bits that the guest may change */
    uint8_t write1clear[PCI_CONFIG_LEN];
    struct pci_bar bar[PCI_BARS];
    uint8_t cap_at, cap_last; /* next free byte and last capability in the list */
    /* After the root applied a write: for registers with a meaning of their own. May be NULL. */
    void (*config_written)(struct pci_function *f, unsigned offset, unsigned size);
    /* Before the root answers a read: to refresh bytes. May be NULL. */
    void (*config_reading)(struct pci_function *f, unsigned offset, unsigned size);
    uint16_t msix_count; /* 0: none */
    uint8_t msix_cap;
    uint8_t msix_bar;
    struct msix_entry {
        uint64_t address;
        uint32_t data, control; /* control bit 0: masked */
    } msix[PCI_MSIX_MAX];
    uint64_t msix_pending[PCI_MSIX_MAX / 64];
    struct region msix_table, msix_pba;
    pthread_mutex_t msix_lock; /* inside the device's lock */
    bool intx_level;
    struct pci_root *root;
};

struct pci_root; /* bus/pci.c; the host bridge device owns it */

struct pci_root *pci_root_new(struct board *board);
void pci_root_free(struct pci_root *root);
/* One configuration access, size 1, 2 or 4 within a dword. Absent functions read all ones. */
uint32_t pci_config_read(struct pci_root *root, uint16_t bdf, unsigned offset, unsigned size);
void pci_config_write(struct pci_root *root, uint16_t bdf, unsigned offset, uint32_t value, unsigned size);

/* Fills the type 0 header: ids, class (24 bits), revision, subsystem, interrupt pin (0: none). */
void pci_header(struct pci_function *f, uint16_t vendor, uint16_t device, uint32_t class_code,
                uint8_t revision, uint16_t subsystem_vendor, uint16_t subsystem, uint8_t pin);
/* Appends a capability of `len` bytes (its id and next pointer included); offset in config space. */
uint8_t pci_add_capability(struct pci_function *f, uint8_t id, uint8_t len);
/* Declares BAR `n`; fill f->bar[n].region.ops, dev, name and lock first. 64-bit takes n and n + 1. */
void pci_add_bar(struct pci_function *f, unsigned n, uint64_t size, bool is64, bool prefetch, bool io);
/* MSI-X with its table and PBA in BAR `bar` at `table_offset`, `pba_offset`. That BAR's other bytes
 * belong to its own ops; the table's are handled here. */
void pci_add_msix(struct pci_function *f, uint16_t count, unsigned bar, uint32_t table_offset, uint32_t pba_offset);

/* Puts the function on bus 0 at the first free device, or at `devfn` if not negative. */
bool pci_attach(struct board *board, struct pci_function *f, int devfn, struct err *err);
void pci_detach(struct pci_function *f); /* idempotent */
void pci_function_reset(struct pci_function *f);

bool pci_msix_enabled(struct pci_function *f);
void pci_msix_fire(struct pci_function *f, uint16_t vector); /* or sets pending if masked; any thread */
void pci_intx(struct pci_function *f, bool level);           /* via the LPC's PIRQ routing */

extern const struct field pci_function_state[]; /* for device state tables: FIELD_TABLE */

#endif
