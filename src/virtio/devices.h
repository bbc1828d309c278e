/* SPDX-License-Identifier: MIT */
/* The virtio devices: how to make each, and what the machine may ask of it. A device made here is
 * not yet attached: pass it to device_attach. Host sides (blocks, networks, descriptors) stay the
 * caller's and must outlive the device. All calls belong to the thread of the device's loop. */
#ifndef HULL_VIRTIO_DEVICES_H
#define HULL_VIRTIO_DEVICES_H

#include "virtio/virtio.h"

/* Entropy from getrandom(2), or a repeatable stream if `seed` is not 0 (--random-seed). */
struct device *virtio_rng_new(const char *id, uint64_t seed);

/* A disk with `queues` queues (1 to 64; one a vCPU is right). */
struct block;
struct device *virtio_blk_new(const char *id, struct block *block, uint16_t queues);
void virtio_blk_resized(struct device *dev); /* block->size has changed */

extern const struct device_type virtio_rng_type, virtio_blk_type;

#endif
