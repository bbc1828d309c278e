/* SPDX-License-Identifier: MIT */
/* A device and the board it sits on.
 *
 * The board is what a device may reach: memory, the two buses, the PCI root, interrupt lines, its
 * clock and the loop that its host side runs on. Calls upward (interrupts, power) go through
 * `struct board_ops`, filled by the machine; tests fill it with their own.
 *
 * Who calls what: register handlers run in vCPU threads under the device's lock. attach, reset,
 * pause, resume, restored and detach run in the main thread without it, with all vCPUs parked
 * (attach and detach of a hot-plugged device: with vCPUs running). */
#ifndef HULL_BUS_DEVICE_H
#define HULL_BUS_DEVICE_H

#include "base/err.h"
#include "base/list.h"
#include "base/log.h"
#include "bus/bus.h"
#include "field/field.h"
#include "mem/mem.h"
#include <stdatomic.h>

struct loop;
struct pci_root;
struct irqchip;
struct devclock;
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
    /* What the guest asked of its power; `code` for POWER_DEBUG_EXIT. Any thread; returns at once.
     */
    void (*power)(struct board *b, enum power_event what, uint32_t code);
    /* Output of the 8259 pair, to LINT0 of vCPU 0. Any thread. NULL: the board has no 8259. */
    void (*intr)(struct board *b, bool level);
    /* What IOAPIC pin `pin` now sends if it is level-triggered, NULL if it is not, so that engines
     * know whose EOI is wanted. Any thread, before the message itself. NULL: nobody asks. */
    void (*route)(struct board *b, unsigned pin, const struct msi *msi);
    /* Writes to these bytes, a port's or of memory, only say what later accesses mean: the engine
     * may hold them back until any other access. From attach. NULL: it never does. */
    void (*defer)(struct board *b, bool port, uint64_t addr, unsigned size);
    /* From now on guest writes that begin at `addr` add 1 to the eventfd `fd` instead of reaching
     * the bus; `on` false ends it. False: not offered, they reach the bus. NULL: the same. */
    bool (*bell)(struct board *b, uint64_t addr, int fd, bool on);
    /* From now on whoever writes to the eventfd `fd` sends `msi`; NULL ends it, and what is in the
     * eventfd waits for the next call. False: not offered. NULL: the same. */
    bool (*msi_fd)(struct board *b, int fd, const struct msi *msi);
};

struct board {
    const struct board_ops *ops;
    struct mem *mem;
    struct bus *mmio, *pio;
    struct pci_root *pci;    /* NULL until the host bridge is attached */
    struct irqchip *irqchip; /* dev/irqchip.c's; NULL until it is attached */
    struct devclock *clock;  /* dev/timer.c's; NULL until the first timer */
    struct loop *loop;       /* the main loop */
    struct list devices;     /* struct device.link, in order of attachment */
    uint32_t cpu_count;
    /* Board time: see board_now. Tests may replace the two host clocks before the first device. */
    uint64_t (*host_now)(void); /* CLOCK_MONOTONIC, ns */
    uint64_t (*wall_now)(void); /* ns since 1970 UTC */
    void (*clock_changed)(
        struct board *b);        /* dev/timer.c's: after the clock stopped, ran or was set */
    _Atomic uint64_t clock_base; /* running: host time of board time 0; stopped: the board time */
    _Atomic bool clock_stopped;
    bool clock_driven; /* host_now is virtual: who makes it calls devtimer_run */
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
/* On failure the device is freed. On success the board owns it. NULL is out of memory. */
bool device_attach(struct board *board, struct device *dev, struct err *err);
void device_free(struct device *dev); /* detaches, unlinks and frees */
void board_init(struct board *board, const struct board_ops *ops);
void board_reset(struct board *board);
void board_pause(struct board *board);  /* stops the clock, then pauses devices, last first */
void board_resume(struct board *board); /* resumes devices, then the clock */
void board_close(struct board *board);  /* frees devices, last attached first */
struct device *board_device(struct board *board, const char *id);

/* Nanoseconds that this board has run: starts at 0, stands still while paused, carried in
 * snapshots. Guest-visible counters and deadlines use this clock only. Any thread. */
uint64_t board_now(struct board *board);
/* The CLOCK_MONOTONIC time at which the running board's clock will show `at_ns`. */
uint64_t board_host_time(struct board *board, uint64_t at_ns);
void board_clock_set(struct board *board, uint64_t ns); /* restore: while paused, before resume */

static inline void board_irq(struct board *b, unsigned gsi, bool level)
{
    b->ops->irq(b, gsi, level);
}

static inline void board_msi(struct board *b, const struct msi *msi)
{
    b->ops->msi(b, msi);
}

static inline void board_defer(struct board *b, bool port, uint64_t addr, unsigned size)
{
    if (b->ops->defer)
        b->ops->defer(b, port, addr, size);
}

static inline void board_power(struct board *b, enum power_event what, uint32_t code)
{
    b->ops->power(b, what, code);
}

#endif
