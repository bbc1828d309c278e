/* SPDX-License-Identifier: MIT */
/* A device and the board it sits on.
 *
 * The board is what a device may reach: memory, the two buses, the PCI root, interrupt lines and the
 * loop that its host side runs on. Calls upward (interrupts, power) go through `struct board_ops`,
 * filled by the machine; tests fill it with their own. */
#ifndef HULL_BUS_DEVICE_H
#define HULL_BUS_DEVICE_H

#include "base/err.h"
#include "base/list.h"
#include "base/log.h"
#include "bus/bus.h"
#include "field/field.h"
#include "mem/mem.h"

struct loop;
struct pci_root;
struct board;
struct device;

struct msi { /* the message a device writes: PCI 3.0, 6.8 and Intel SDM 3, 11.11 */
    uint64_t address;
    uint32_t data;
};

enum power_event { POWER_OFF, POWER_RESET, POWER_SUSPEND, POWER_PANIC, POWER_DEBUG_EXIT };

struct board_ops {
    /* Level of global system interrupt 0-23: to the IOAPIC and, below 16, the PICs. Any thread. */
    void (*irq)(struct board *b, unsigned gsi, bool level);
    /* A message-signalled interrupt. Any thread. */
    void (*msi)(struct board *b, const struct msi *msi);
    /* What the guest asked of its power; `code` for POWER_DEBUG_EXIT. Any thread; returns at once. */
    void (*power)(struct board *b, enum power_event what, uint32_t code);
};

struct board {
    const struct board_ops *ops;
    struct mem *mem;
    struct bus *mmio, *pio;
    struct pci_root *pci; /* NULL until the host bridge is attached */
    struct loop *loop;    /* the main loop */
    struct list devices;  /* struct device.link, in order of attachment */
    uint32_t cpu_count;
};

struct device_type {
    const char *name;
    size_t size;                /* of the struct that embeds struct device first */
    const struct field *config; /* what the user may set; NULL: nothing */
    const struct field *state;  /* what snapshot and migration carry; NULL: nothing */
    uint16_t state_version;
    bool (*attach)(struct device *dev, struct board *board, struct err *err);
    void (*reset)(struct device *dev);
    void (*pause)(struct device *dev); /* returns when no host I/O is in flight */
    void (*resume)(struct device *dev);
    bool (*restored)(struct device *dev, struct err *err);
    void (*detach)(struct device *dev); /* accepts a half-attached device */
};

struct device {
    const struct device_type *type;
    struct board *board;
    struct list link;
    char id[32]; /* unique on the board: "uart0", "disk0" */
    pthread_mutex_t lock;
    struct log_limit limit;
    bool attached;
};

/* A zeroed device of `type->size` bytes, not yet attached: fill its config, then device_attach. */
struct device *device_new(const struct device_type *type, const char *id);
/* On failure the device is freed. On success the board owns it. */
bool device_attach(struct board *board, struct device *dev, struct err *err);
void device_free(struct device *dev); /* detaches, unlinks and frees */
void board_init(struct board *board, const struct board_ops *ops);
void board_reset(struct board *board);
void board_close(struct board *board); /* frees devices, last attached first */
struct device *board_device(struct board *board, const char *id);

static inline void board_irq(struct board *b, unsigned gsi, bool level)
{
    b->ops->irq(b, gsi, level);
}

static inline void board_msi(struct board *b, const struct msi *msi)
{
    b->ops->msi(b, msi);
}

static inline void board_power(struct board *b, enum power_event what, uint32_t code)
{
    b->ops->power(b, what, code);
}

#endif
