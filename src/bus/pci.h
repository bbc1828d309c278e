/* SPDX-License-Identifier: MIT */
/* PCI functions: configuration space, BARs, capabilities, INTx, MSI-X. PCI Local Bus 3.0, PCIe 5.0.
 *
 * A function embeds struct pci_function and describes itself before pci_attach. The root dispatches
 * configuration cycles from ECAM and from ports 0xcf8/0xcfc to functions by bus, device, function.
 * BAR regions are put on and taken off the buses as the guest programs them; a BAR that overlaps
 * something else stays off until the place is free.
 *
 * Configuration cycles and BAR handlers run under the owner's device lock. Lock order: device, root
 * or msix_lock, interrupt controller. */
#ifndef HULL_BUS_PCI_H
#define HULL_BUS_PCI_H

#include "bus/device.h"

#define PCI_BARS       6
#define PCI_CONFIG_LEN 4096
#define PCI_MSIX_MAX   128
#define PCI_BELLS_MAX  66
#define PCI_PIRQS      8 /* PIRQA-H, on GSI 16-23 */
#define PCI_PIRQ_GSI   16

#define PCI_DEVFN(slot, fn) ((slot) << 3 | (fn))

/* Registers of the header and bits that several files need. */
enum {
    PCI_COMMAND = 0x04,
    PCI_STATUS = 0x06,
    PCI_CLASS_REVISION = 0x08,
    PCI_HEADER_TYPE = 0x0e,
    PCI_BAR0 = 0x10,
    PCI_SUBSYSTEM_VENDOR = 0x2c,
    PCI_CAPABILITIES = 0x34,
    PCI_INTERRUPT_LINE = 0x3c,
    PCI_INTERRUPT_PIN = 0x3d,

    PCI_COMMAND_IO = 0x0001,
    PCI_COMMAND_MEMORY = 0x0002,
    PCI_COMMAND_MASTER = 0x0004,
    PCI_COMMAND_INTX_OFF = 0x0400,
    PCI_STATUS_INTX = 0x0008,
    PCI_STATUS_CAPABILITIES = 0x0010,

    PCI_CAP_VENDOR = 0x09,
    PCI_CAP_MSIX = 0x11,
};

struct pci_function;

struct pci_bar {
    struct region region; /* ops, dev, name and lock given by the owner; base is the root's */
    uint64_t size;        /* power of two; 0: no such BAR */
    bool io, is64, prefetch;
    bool wanted, mapped; /* the root's */
};

/* A register whose writes an engine may turn into writes to an eventfd. */
struct pci_bell {
    int fd;          /* -1: none */
    uint32_t offset; /* in the BAR */
    bool on;         /* at `at`, by the engine; else writes reach the BAR's region */
    uint64_t at;
};

/* A non-blocking eventfd by which others (a vhost back end) fire a vector. */
struct pci_msix_line {
    struct list link;
    int fd; /* the owner's */
    uint16_t vector;
    bool on; /* the engine turns writes into messages; else what is written waits */
    struct msi msi;
};

struct pci_function {
    struct device *dev; /* the owner */
    uint8_t devfn, bus;
    uint8_t config[PCI_CONFIG_LEN];
    uint8_t writable[PCI_CONFIG_LEN]; /* mask of bits that the guest may change */
    uint8_t write1clear[PCI_CONFIG_LEN];
    uint8_t initial[PCI_CONFIG_LEN]; /* config as attached: what reset gives back */
    struct pci_bar bar[PCI_BARS];
    uint8_t cap_at, cap_last; /* next free byte and last capability in the list */
    /* After the root applied a write: for registers with a meaning of their own. May be NULL. */
    void (*config_written)(struct pci_function *f, unsigned offset, unsigned size);
    /* Before the root answers a read: to refresh bytes. May be NULL. */
    void (*config_reading)(struct pci_function *f, unsigned offset, unsigned size);
    uint16_t msix_count; /* 0: none */
    uint8_t msix_cap;
    uint8_t msix_bar;
    uint32_t msix_table_at, msix_pba_at; /* offsets in that BAR */
    struct msix_entry {
        uint64_t address;
        uint32_t data, control; /* control bit 0: masked */
    } msix[PCI_MSIX_MAX];
    uint64_t msix_pending[PCI_MSIX_MAX / 64];
    bool msix_on, msix_masked; /* copy of the control register, under msix_lock */
    struct list msix_lines;    /* under msix_lock */
    struct region msix_region; /* stands on the bus for BAR msix_bar */
    pthread_mutex_t msix_lock; /* inside the device's lock */
    bool intx_level; /* what the device asks for, under the root's lock as are both below */
    bool intx_off, intx_driven; /* command bit 10; what the PIRQ line sees */
    struct pci_root *root;      /* NULL: not attached */
    uint8_t bell_bar;
    uint16_t bell_count; /* bells that were ever set; under the root's lock */
    struct pci_bell bell[PCI_BELLS_MAX];
};

struct pci_root; /* bus/pci.c; the host bridge device owns it */

struct pci_root *pci_root_new(struct board *board); /* becomes board->pci; NULL: no memory */
void pci_root_free(struct pci_root *root);          /* accepts NULL */
/* One configuration access, size 1, 2 or 4 within a dword. Absent functions read all ones. */
uint32_t pci_config_read(struct pci_root *root, uint16_t bdf, unsigned offset, unsigned size);
void pci_config_write(struct pci_root *root, uint16_t bdf, unsigned offset, uint32_t value,
                      unsigned size);

/* Fills the type 0 header: ids, class (24 bits), revision, subsystem, interrupt pin (0: none, 1:
 * INTA). `f` is zeroed but for dev. */
void pci_header(struct pci_function *f, uint16_t vendor, uint16_t device, uint32_t class_code,
                uint8_t revision, uint16_t subsystem_vendor, uint16_t subsystem, uint8_t pin);
/* Appends a capability of `len` bytes (its id and next pointer included); offset in config space.
 */
uint8_t pci_add_capability(struct pci_function *f, uint8_t id, uint8_t len);
/* Declares BAR `n`; fill f->bar[n].region.ops, dev, name and lock first. 64-bit takes n and n + 1.
 */
void pci_add_bar(struct pci_function *f, unsigned n, uint64_t size, bool is64, bool prefetch,
                 bool io);
/* MSI-X with its table and PBA in BAR `bar`, declared before, at `table_offset`, `pba_offset`. That
 * BAR's other bytes belong to its own ops (NULL: they read 0); the table's are handled here. */
void pci_add_msix(struct pci_function *f, uint16_t count, unsigned bar, uint32_t table_offset,
                  uint32_t pba_offset);

/* Puts the function on bus 0 at the first free device, or at `devfn` if not negative. */
bool pci_attach(struct board *board, struct pci_function *f, int devfn, struct err *err);
void pci_detach(struct pci_function *f); /* idempotent */
/* As after power-on: header, BARs unmapped, MSI-X off and masked, INTx low. From
 * device_type.reset; takes the device's lock. */
void pci_function_reset(struct pci_function *f);
/* Call from device_type.restored: refuses changed read-only bits, then rebuilds BAR mappings, MSI-X
 * and INTx from the restored state. Takes the device's lock. */
bool pci_function_restored(struct pci_function *f, struct err *err);

/* Bell `n` of f->bell_bar: while the BAR is mapped, writes to the register at `offset` signal `fd`,
 * if the engine offers that; -1 takes it away, before the eventfd is closed. Any thread, attached.
 */
void pci_bell_set(struct pci_function *f, unsigned n, uint32_t offset, int fd);

/* Each write to line->fd is one pci_msix_fire, without us; masked vectors wait. False: the engine
 * offers no such thing, so the owner reads the eventfd itself. `line` stays the caller's, zeroed
 * but for fd and vector, and in use until it is unbound. Any thread. */
bool pci_msix_bind(struct pci_function *f, struct pci_msix_line *line);
void pci_msix_unbind(struct pci_function *f, struct pci_msix_line *line); /* idempotent */

bool pci_msix_enabled(struct pci_function *f);
void pci_msix_fire(struct pci_function *f,
                   uint16_t vector);               /* or sets pending if masked; any thread */
void pci_intx(struct pci_function *f, bool level); /* any thread */
/* PIRQ line 0-7 (A-H) of a slot's pin (1: INTA): as ICH9 routes it, so that firmware agrees. */
unsigned pci_pirq(unsigned slot, unsigned pin);

extern const struct field pci_function_state[]; /* for device state tables: FIELD_TABLE */

#endif
