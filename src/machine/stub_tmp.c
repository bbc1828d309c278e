#include "virtio/devices.h"
#include "block/block.h"
#include "net/net.h"
#include "dev/chardev.h"
#include "engine/x86/model.h"
#define W __attribute__((weak))
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
W struct device *virtio_blk_new(const char *id, struct block *b, uint16_t q){return NULL;}
W struct device *virtio_net_new(){return NULL;}
W struct device *virtio_console_new(){return NULL;}
W bool virtio_console_add_port(){return false;}
W void virtio_console_resize(){}
W struct device *virtio_balloon_new(){return NULL;}
W void virtio_balloon_set(){}
W uint64_t virtio_balloon_actual(){return 0;}
