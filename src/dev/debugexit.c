/* SPDX-License-Identifier: MIT */
/* The debug-exit device: a write to port 0xf4 ends the machine with the value as its code. For test
 * guests; attached only on request. */
#include "dev/types.h"

struct debugexit {
    struct device dev;
    struct region port;
};

static uint64_t debugexit_read(void *dev, uint64_t offset, unsigned size)
{
    return 0;
}

static void debugexit_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    board_power(((struct debugexit *)dev)->dev.board, POWER_DEBUG_EXIT, (uint32_t)value);
}

static const struct region_ops debugexit_ops = {debugexit_read, debugexit_write, 1, 4};

static bool debugexit_attach(struct device *dev, struct board *board, struct err *err)
{
    struct debugexit *d = container_of(dev, struct debugexit, dev);

    d->port = (struct region){"debug-exit", 0xf4, 4, &debugexit_ops, d, &dev->lock};
    return bus_add(board->pio, &d->port, err);
}

static void debugexit_detach(struct device *dev)
{
    bus_remove(dev->board->pio, &container_of(dev, struct debugexit, dev)->port);
}

const struct device_type debugexit_type = {
    .name = "debugexit",
    .size = sizeof(struct debugexit),
    .attach = debugexit_attach,
    .detach = debugexit_detach,
};
