#include "virtio/devices.h"
#include "block/block.h"
#include "net/net.h"
#include "dev/chardev.h"
#include "engine/x86/model.h"
#define W __attribute__((weak))
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
W struct device *virtio_console_new(const char *id, struct chardev *console)
{
    return NULL;
}
W bool virtio_console_add_port(struct device *dev, const char *name, struct chardev *chardev,
                               struct err *err)
{
    return false;
}
W void virtio_console_resize(struct device *dev, uint16_t columns, uint16_t rows)
{
}
W struct device *virtio_balloon_new(const char *id)
{
    return NULL;
}
W void virtio_balloon_set(struct device *dev, uint64_t bytes)
{
}
W uint64_t virtio_balloon_actual(struct device *dev)
{
    return 0;
}
