/* SPDX-License-Identifier: MIT */
/* A board for tests: real buses and devices, a clock wound by hand, and a record of what the
 * devices ask for. One per test program. */
#ifndef HULL_DEV_TESTBOARD_H
#define HULL_DEV_TESTBOARD_H

#include "bus/pci.h"
#include "dev/irqchip.h"
#include "dev/timer.h"
#include "dev/types.h"

struct testboard {
    struct board board;
    struct bus mmio, pio;
    uint64_t host_ns, wall_ns;
    bool line[GSI_COUNT];
    unsigned rises[GSI_COUNT];
    struct msi msi; /* the last */
    unsigned msis;
    bool intr; /* the PICs' output */
    unsigned powers;
    enum power_event power; /* the last */
    uint32_t power_code;
};

extern struct testboard tb;

void tb_open(struct loop *loop); /* an empty board */
void tb_full(struct loop *loop,
             struct chardev *uart); /* all devices; COM1 and debugcon on `uart` */
void tb_close(void);
void tb_pass(uint64_t ns); /* lets board time pass, firing each timer at its moment */
struct device *tb_add(const struct device_type *type);

/* Port and memory accesses as a vCPU makes them. */
static inline uint8_t inb(uint16_t port)
{
    return (uint8_t)bus_read(&tb.pio, port, 1);
}

static inline void outb(uint16_t port, uint8_t value)
{
    bus_write(&tb.pio, port, value, 1);
}

static inline uint32_t rd32(uint64_t addr)
{
    return (uint32_t)bus_read(&tb.mmio, addr, 4);
}

static inline void wr32(uint64_t addr, uint32_t value)
{
    bus_write(&tb.mmio, addr, value, 4);
}

#endif
