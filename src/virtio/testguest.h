/* SPDX-License-Identifier: MIT */
/* For tests: a machine with nothing but memory, buses and PCI, and a small guest driver for virtio.
 * The driver goes the way a real one does (PCI capabilities, BAR, MSI-X, negotiation, rings in
 * guest memory), with split or packed rings, direct or indirect chains. Its parts can be used alone
 * to do it wrong. */
#ifndef HULL_VIRTIO_TESTGUEST_H
#define HULL_VIRTIO_TESTGUEST_H

#include "tap.h"
#include "virtio/virtio.h"
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>

#define GUEST_RAM (64 * MiB)

struct guest_queue {
    uint16_t size;
    gpa desc, driver, device;
    uint16_t avail, used; /* next index, or position in a packed ring */
    bool avail_wrap, used_wrap;
    uint16_t free_count, free_head;
    struct {
        uint16_t next_free, ring_count;
        gpa indirect;
    } id[QUEUE_SIZE_MAX];
};

struct guest {
    struct mem mem;
    struct bus mmio, pio;
    struct board board;
    struct loop *loop;
    gpa heap; /* next free byte of RAM */
    unsigned irqs, msis[PCI_MSIX_MAX];
    int line[24];
    /* The device under test, once guest_probe found it. */
    unsigned slot;
    uint64_t bar;
    uint32_t common, isr, notify, notify_step, config; /* offsets in the BAR */
    uint64_t features;
    bool packed, event_idx, indirect;
    struct guest_queue queue[VIRTIO_QUEUES_MAX];
};

struct guest_buf {
    gpa addr;
    uint32_t len;
    bool writable;
};

bool guest_open(struct guest *g);
void guest_close(struct guest *g);
/* Attaches `dev` (of any type) and gives it, or prints why not. */
struct device *guest_attach(struct guest *g, struct device *dev);
unsigned guest_slot(struct device *dev); /* where its PCI function sits */
/* Finds the virtio function in `slot` by its capabilities and maps its BAR. */
bool guest_probe(struct guest *g, unsigned slot);
/* Reset, negotiate `want` of what is offered, set up `queues` of at most `size`, MSI-X, DRIVER_OK.
 */
bool guest_begin(struct guest *g, uint64_t want, unsigned queues, uint16_t size);
bool guest_reset(struct guest *g); /* status 0, and waits for it */
/* Empty rings in guest memory, not known to the device; and told to it. */
void guest_rings(struct guest *g, unsigned queue, uint16_t size);
void guest_queue_setup(struct guest *g, unsigned queue, uint16_t size);

gpa guest_alloc(struct guest *g, size_t len, size_t align);
void *guest_ptr(struct guest *g, gpa addr, size_t len);
gpa guest_put(struct guest *g, const void *data, size_t len);

uint64_t guest_read(struct guest *g, uint64_t offset, unsigned size); /* in the BAR */
void guest_write(struct guest *g, uint64_t offset, uint64_t value, unsigned size);
uint32_t guest_pci_read(struct guest *g, unsigned offset, unsigned size);
void guest_pci_write(struct guest *g, unsigned offset, uint32_t value, unsigned size);
uint64_t guest_config(struct guest *g, unsigned offset, unsigned size); /* device configuration */

/* Makes a chain available: its id, or -1 if the ring is full. No notification. */
int guest_add(struct guest *g, unsigned queue, const struct guest_buf *buf, unsigned count);
void guest_kick(struct guest *g, unsigned queue);
/* Takes a used buffer: its id, or -1. `len` may be NULL. */
int guest_used(struct guest *g, unsigned queue, uint32_t *len);
/* Turns the loop until a buffer is used or five seconds are over. */
int guest_wait(struct guest *g, unsigned queue, uint32_t *len);
/* Turns the loop while there is something to do. */
void guest_settle(struct guest *g);
/* One whole request: add, kick, wait. Gives the used length, -1 if nothing came back. */
int64_t guest_request(struct guest *g, unsigned queue, const struct guest_buf *buf, unsigned count);

/* The tests that every device passes, from its tables (STYLE.md, 3). The device must be running.
 * False: a line in the output says why. */
bool guest_check_state(struct guest *g, struct device *dev, struct device *fresh);
bool guest_check_registers(struct guest *g, struct device *dev, unsigned seed, unsigned rounds);

uint64_t guest_random(uint64_t *seed);

#endif
