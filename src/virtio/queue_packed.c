/* SPDX-License-Identifier: MIT */
/* The packed ring (virtio 1.2, 2.8): one ring of descriptors that driver and device both write. Two
 * flag bits, compared with a wrap counter that flips on each round, tell whose a descriptor is.
 *
 * Barriers, and whom each one meets in the driver:
 * D. The flags of a chain's first descriptor are loaded with acquire. Partner: the driver's write
 * barrier before it stores those flags, which it does last. E. The flags of a used descriptor are
 * stored with release; for the first of a batch they are exchanged, a full barrier, after which the
 * driver's event area is read. Partners: the driver's read barrier after it sees the flags; its
 * full barrier between writing the event area and looking again. F. Our event area is written
 * (offset first, flags exchanged), then the ring is looked at again. Partner: the driver's full
 * barrier between storing flags and reading our event area. */
#include "virtio/ring.h"
#include <assert.h>
#include <errno.h>

#define AVAIL BIT(VRING_PACKED_DESC_F_AVAIL)
#define USED  BIT(VRING_PACKED_DESC_F_USED)
#define WRAP  BIT(VRING_PACKED_EVENT_F_WRAP_CTR)

int packed_start(struct queue *q)
{
    const struct queue_setup *s = &q->setup;
    uint16_t mask = (uint16_t)~WRAP;

    if (s->desc % 16 || s->driver % 4 || s->device % 4)
        return -EINVAL;
    if ((s->avail & mask) >= s->size || (s->used & mask) >= s->size)
        return -EINVAL;
    q->packed = mem_at_writable(q->mem, s->desc, 16 * (size_t)s->size);
    q->driver_event = mem_at(q->mem, s->driver, 4);
    q->device_event = mem_at_writable(q->mem, s->device, 4);
    if (!q->packed || !q->driver_event || !q->device_event)
        return -EFAULT;
    q->avail = s->avail & mask;
    q->avail_wrap = s->avail & WRAP;
    q->used = s->used & mask;
    q->used_wrap = s->used & WRAP;
    return 0;
}

static void packed_advance(const struct queue *q, uint16_t *at, bool *wrap, uint16_t by)
{
    *at = (uint16_t)(*at + by);
    if (*at >= q->setup.size) {
        *at = (uint16_t)(*at - q->setup.size);
        *wrap = !*wrap;
    }
}

static bool packed_available(struct queue *q)
{
    uint16_t flags = __atomic_load_n(&q->packed[q->avail].flags, __ATOMIC_ACQUIRE); /* D */

    return !!(flags & AVAIL) == q->avail_wrap && !!(flags & USED) != q->avail_wrap;
}

static void packed_arm(struct queue *q, bool on)
{
    uint16_t flags = on ? VRING_PACKED_EVENT_FLAG_ENABLE : VRING_PACKED_EVENT_FLAG_DISABLE;

    q->armed = on;
    if (on && q->setup.event_idx) {
        flags = VRING_PACKED_EVENT_FLAG_DESC;
        __atomic_store_n(&q->device_event->off_wrap, (uint16_t)(q->avail | q->avail_wrap << 15),
                         __ATOMIC_RELAXED);
    }
    __atomic_exchange_n(&q->device_event->flags, flags, __ATOMIC_SEQ_CST); /* F */
    mem_dirty(q->mem, q->setup.device, 4);
}

static bool packed_ready(struct queue *q)
{
    if (!packed_available(q)) {
        if (q->armed)
            return false;
        packed_arm(q, true);
        if (!packed_available(q))
            return false;
    }
    if (q->armed)
        packed_arm(q, false);
    return true;
}

static bool packed_indirect(struct chain *c, const struct descriptor *d)
{
    uint32_t count;
    const void *table = indirect_table(c->q, d->addr, d->len, &count);

    for (uint32_t i = 0; table && i < count; i++) {
        struct descriptor e = descriptor_load(table, i);

        if (e.high & VRING_DESC_F_INDIRECT)
            return queue_break(c->q, "indirect descriptor where none may be"), false;
        if (!chain_add(c, e.addr, e.len, e.high & VRING_DESC_F_WRITE))
            return false;
    }
    return table != NULL;
}

/* Walks from the first descriptor to the one that holds the buffer id; at most one round. */
static bool packed_walk(struct chain *c, uint16_t *id, uint16_t *steps)
{
    struct queue *q = c->q;
    uint16_t at = q->avail;
    bool wrap = q->avail_wrap;

    for (*steps = 0;;) {
        struct descriptor d = descriptor_load(q->packed, at);

        ++*steps;
        *id = d.low;
        if (d.high & VRING_DESC_F_INDIRECT) {
            if (*steps > 1 || d.high & VRING_DESC_F_NEXT)
                return queue_break(q, "indirect descriptor where none may be"), false;
            return packed_indirect(c, &d);
        }
        if (!chain_add(c, d.addr, d.len, d.high & VRING_DESC_F_WRITE))
            return false;
        if (!(d.high & VRING_DESC_F_NEXT))
            return true;
        if (*steps == q->setup.size)
            return queue_break(q, "descriptors form a loop"), false;
        packed_advance(q, &at, &wrap, 1);
    }
}

struct chain *packed_next(struct queue *q)
{
    struct chain *c;
    uint16_t id, steps;

    if (!packed_ready(q))
        return NULL;
    c = chain_begin(q);
    if (!c || !packed_walk(c, &id, &steps))
        return NULL;
    if (id >= q->setup.size)
        return queue_break(q, "buffer id beyond the ring"), NULL;
    if (!chain_open(c, id, steps))
        return NULL;
    packed_advance(q, &q->avail, &q->avail_wrap, steps);
    return c;
}

/* The used descriptor of a chain; then as many are skipped as the chain took. The first one of a
 * batch gets its flags only when the batch is published: until then the driver sees nothing of it.
 */
void packed_used(struct queue *q, const struct chain *c)
{
    struct vring_packed_desc *d = &q->packed[q->used];
    uint16_t flags = q->used_wrap ? (uint16_t)(AVAIL | USED) : 0;

    if (c->written)
        flags |= VRING_DESC_F_WRITE;
    d->id = c->head;
    d->len = c->written;
    if (!q->unpublished) {
        q->held_at = q->used;
        q->held_flags = flags;
    } else {
        __atomic_store_n(&d->flags, flags, __ATOMIC_RELEASE); /* E */
    }
    q->unpublished = (uint16_t)(q->unpublished + c->ring_count);
    packed_advance(q, &q->used, &q->used_wrap, c->ring_count);
}

void packed_publish(struct queue *q)
{
    __atomic_exchange_n(&q->packed[q->held_at].flags, q->held_flags, __ATOMIC_SEQ_CST); /* E */
    mem_dirty(q->mem, q->setup.desc, 16 * (size_t)q->setup.size);
    q->unsignalled = (uint16_t)(q->unsignalled + q->unpublished);
    q->unpublished = 0;
}

/* 2.8.10: positions count from the start of the current round; the driver's event may lie in the
 * one before, or in the next. */
bool packed_wants_interrupt(struct queue *q)
{
    uint16_t flags = __atomic_load_n(&q->driver_event->flags, __ATOMIC_ACQUIRE) & 3;
    uint16_t event = __atomic_load_n(&q->driver_event->off_wrap, __ATOMIC_RELAXED);
    uint16_t old = (uint16_t)(q->used - q->unsignalled);

    q->unsignalled = 0;
    if (flags != VRING_PACKED_EVENT_FLAG_DESC || !q->setup.event_idx)
        return flags != VRING_PACKED_EVENT_FLAG_DISABLE;
    if (!!(event & WRAP) != q->used_wrap)
        event = (uint16_t)((event & ~WRAP) - q->setup.size);
    else
        event = (uint16_t)(event & ~WRAP);
    return event_passed(event, q->used, old);
}

void packed_putback(struct queue *q, const struct chain *c)
{
    uint16_t back = (uint16_t)(q->setup.size - c->ring_count);

    if (c->ring_count != q->setup.size)
        packed_advance(q, &q->avail, &q->avail_wrap, back);
    q->avail_wrap = !q->avail_wrap; /* forward by size - n is a whole round less than back by n */
    assert(q->avail == c->at);
}
