/* SPDX-License-Identifier: MIT */
/* The debug console: bytes written to port 0x402 go to a chardev. Firmware logs there; a read of
 * 0xe9 tells it that somebody listens. */
#include "dev/types.h"

#define PORT  0x402
#define MAGIC 0xe9

struct debugcon {
    struct device dev;
    struct region port;
    struct chardev_front front;
    struct chardev_out out;
};

static struct debugcon *debugcon_of(struct device *dev)
{
    return container_of(dev, struct debugcon, dev);
}

static uint64_t debugcon_read(void *dev, uint64_t offset, unsigned size)
{
    return MAGIC;
}

/* There is no way to make the guest wait: what a slow host cannot take is lost. */
static void debugcon_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    chardev_out_put(&((struct debugcon *)dev)->out, (uint8_t)value);
}

static const struct region_ops debugcon_ops = {debugcon_read, debugcon_write, 1, 1};

static void debugcon_writable(struct chardev_front *f)
{
    chardev_out_writable(&container_of(f, struct debugcon, front)->out);
}

static const struct chardev_front_ops front_ops = {.writable = debugcon_writable};

struct device *debugcon_new(struct chardev *chardev)
{
    struct device *dev = device_new(&debugcon_type, "debugcon");

    if (dev)
        debugcon_of(dev)->out.chardev = chardev;
    return dev;
}

static bool debugcon_attach(struct device *dev, struct board *board, struct err *err)
{
    struct debugcon *d = debugcon_of(dev);

    d->front.ops = &front_ops;
    d->out.loop = board->loop;
    d->out.lock = &dev->lock;
    chardev_out_open(&d->out);
    d->port = (struct region){"debugcon", PORT, 1, &debugcon_ops, d, &dev->lock};
    if (!bus_add(board->pio, &d->port, err))
        return false;
    if (d->out.chardev)
        chardev_set_front(d->out.chardev, &d->front);
    return true;
}

static void debugcon_detach(struct device *dev)
{
    struct debugcon *d = debugcon_of(dev);

    bus_remove(dev->board->pio, &d->port);
    if (!d->out.chardev)
        return;
    chardev_out_close(&d->out);
    if (d->out.chardev->front == &d->front)
        chardev_set_front(d->out.chardev, NULL);
}

const struct device_type debugcon_type = {
    .name = "debugcon",
    .size = sizeof(struct debugcon),
    .attach = debugcon_attach,
    .detach = debugcon_detach,
};
