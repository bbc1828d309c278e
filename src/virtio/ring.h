/* SPDX-License-Identifier: MIT */
/* Inside the queue: what queue.c and the two ring formats share. */
#ifndef HULL_VIRTIO_RING_H
#define HULL_VIRTIO_RING_H

#include "virtio/queue.h"
#include <linux/virtio_ring.h>

/* Descriptors are read once, as two words, so that a driver which changes one while the device
 * looks cannot pass a check with one value and be used with another. Tables may lie at any address.
 */
struct descriptor {
    uint64_t addr;
    uint32_t len;
    uint16_t low, high; /* split: flags, next; packed: id, flags */
};

static inline struct descriptor descriptor_load(const void *table, uint32_t index)
{
    typedef volatile uint64_t __attribute__((aligned(1), may_alias)) word;
    const word *p = (const word *)((const uint8_t *)table + 16 * (size_t)index);
    uint64_t addr = p[0], rest = p[1];

    return (struct descriptor){addr, (uint32_t)rest, (uint16_t)(rest >> 32),
                               (uint16_t)(rest >> 48)};
}

/* In queue.c: a chain being put together. A step that fails has marked the ring as broken. The slot
 * is taken off the stack only by chain_open, so a chain given up half-way needs no undoing. */
struct chain *chain_begin(struct queue *q); /* NULL: every slot is open */
bool chain_add(struct chain *c, uint64_t addr, uint32_t len, bool writable);
bool chain_open(struct chain *c, uint16_t head, uint16_t ring_count); /* head in use: false */
/* The host address of an indirect table of `len` bytes with `*count` entries, or NULL. */
const void *indirect_table(struct queue *q, uint64_t addr, uint32_t len, uint32_t *count);

/* The driver asked to hear when `event` is passed; true if that lies in (old, now]. 2.7.10.1 */
static inline bool event_passed(uint16_t event, uint16_t now, uint16_t old)
{
    return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

/* One format each: queue_split.c and queue_packed.c. */
int split_start(struct queue *q);
struct chain *split_next(struct queue *q);
void split_used(struct queue *q, const struct chain *c);
void split_publish(struct queue *q);
bool split_wants_interrupt(struct queue *q);
void split_putback(struct queue *q, const struct chain *c);

int packed_start(struct queue *q);
struct chain *packed_next(struct queue *q);
void packed_used(struct queue *q, const struct chain *c);
void packed_publish(struct queue *q);
bool packed_wants_interrupt(struct queue *q);
void packed_putback(struct queue *q, const struct chain *c);

#endif
