/* SPDX-License-Identifier: MIT */
/* pvpanic: the guest's kernel says through port 0x505 that it has panicked (bit 0), or that its
 * crash kernel has taken over and will reset (bit 1). A read gives the bits that are understood. */
#include "dev/types.h"

#define PORT         0x505
#define PANICKED     1
#define CRASH_LOADED 2

struct pvpanic {
    struct device dev;
    struct region port;
};

static uint64_t pvpanic_read(void *dev, uint64_t offset, unsigned size)
{
    return PANICKED | CRASH_LOADED;
}

static void pvpanic_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct pvpanic *p = dev;

    if (value & PANICKED)
        board_power(p->dev.board, POWER_PANIC, (uint32_t)value);
    else if (value & CRASH_LOADED)
        log_guest(&p->dev.limit, "pvpanic: the guest's crash kernel runs");
}

static const struct region_ops pvpanic_ops = {pvpanic_read, pvpanic_write, 1, 1};

static bool pvpanic_attach(struct device *dev, struct board *board, struct err *err)
{
    struct pvpanic *p = container_of(dev, struct pvpanic, dev);

    p->port = (struct region){"pvpanic", PORT, 1, &pvpanic_ops, p, &dev->lock};
    return bus_add(board->pio, &p->port, err);
}

static void pvpanic_detach(struct device *dev)
{
    bus_remove(dev->board->pio, &container_of(dev, struct pvpanic, dev)->port);
}

const struct device_type pvpanic_type = {
    .name = "pvpanic",
    .size = sizeof(struct pvpanic),
    .attach = pvpanic_attach,
    .detach = pvpanic_detach,
};
