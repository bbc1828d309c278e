/* SPDX-License-Identifier: MIT */
/* The split ring (virtio 1.2, 2.7): a descriptor table, a ring of heads from the driver, a ring of
 * used heads from the device. Indices run freely and are taken modulo the size, a power of two.
 *
 * Barriers, and whom each one meets in the driver:
 * A. The index of the available ring is loaded with acquire. Partner: the driver's write barrier
 * between filling descriptors and ring and storing the index. B. The used index is exchanged, a
 * full barrier on both sides: entries are visible before it, and the driver's wish for interrupts
 * is read after it. Partners: the driver's read barrier after it sees the index; the driver's full
 * barrier between storing used_event (or its flags) and looking again. C. The wish for
 * notifications is exchanged, then the available index is read again. Partner: the driver's full
 * barrier between storing the index and reading avail_event (or our flags). */
#include "virtio/ring.h"
#include <assert.h>
#include <errno.h>

static uint16_t *avail_event(struct queue *q)
{
    return (uint16_t *)&q->used_ring->ring[q->setup.size];
}

static uint16_t used_event(struct queue *q)
{
    return __atomic_load_n(&q->avail_ring->ring[q->setup.size], __ATOMIC_RELAXED);
}

static size_t used_bytes(const struct queue *q)
{
    return 6 + 8 * (size_t)q->setup.size;
}

int split_start(struct queue *q)
{
    const struct queue_setup *s = &q->setup;
    size_t size = s->size;

    if (!is_power_of_2(size) || s->desc % 16 || s->driver % 2 || s->device % 4)
        return -EINVAL;
    q->desc = mem_at(q->mem, s->desc, 16 * size);
    q->avail_ring = mem_at(q->mem, s->driver, 6 + 2 * size);
    q->used_ring = mem_at_writable(q->mem, s->device, used_bytes(q));
    if (!q->desc || !q->avail_ring || !q->used_ring)
        return -EFAULT;
    q->avail = q->avail_seen = s->avail;
    q->used = q->signalled = s->used;
    return 0;
}

/* Asks for a notification, or asks for none. With the event index there is nothing to do for
 * "none": an index left behind is passed only once in 65536. */
static void split_arm(struct queue *q, bool on)
{
    q->armed = on;
    if (q->setup.event_idx) {
        if (!on)
            return;
        __atomic_exchange_n(avail_event(q), q->avail, __ATOMIC_SEQ_CST); /* C */
    } else {
        __atomic_exchange_n(&q->used_ring->flags, on ? 0 : VRING_USED_F_NO_NOTIFY,
                            __ATOMIC_SEQ_CST); /* C */
    }
    mem_dirty(q->mem, q->setup.device, used_bytes(q));
}

/* True if the driver has made more available than was taken. */
static bool split_look(struct queue *q)
{
    q->avail_seen = __atomic_load_n(&q->avail_ring->idx, __ATOMIC_ACQUIRE); /* A */
    if (unlikely((uint16_t)(q->avail_seen - q->avail) > q->setup.size))
        return queue_break(q, "available index runs ahead of the ring"), false;
    return q->avail_seen != q->avail;
}

static bool split_ready(struct queue *q)
{
    if (q->avail_seen == q->avail && !split_look(q)) {
        if (q->broken)
            return false;
        if (q->armed)
            return false; /* armed before, so the driver will notify */
        split_arm(q, true);
        if (!split_look(q))
            return false;
    }
    if (q->armed)
        split_arm(q, false);
    return true;
}

/* Follows the descriptors from `head`: no more of them than a table has, so a loop ends. */
static bool split_walk(struct chain *c, uint16_t head)
{
    struct queue *q = c->q;
    const void *table = q->desc;
    uint32_t count = q->setup.size, index = head, steps = 0;
    bool indirect = false;

    for (;;) {
        struct descriptor d;

        if (index >= count)
            return queue_break(q, "descriptor index beyond the table"), false;
        if (steps++ >= count)
            return queue_break(q, "descriptors form a loop"), false;
        d = descriptor_load(table, index);
        if (d.low & VRING_DESC_F_INDIRECT) {
            if (indirect || d.low & VRING_DESC_F_NEXT)
                return queue_break(q, "indirect descriptor where none may be"), false;
            table = indirect_table(q, d.addr, d.len, &count);
            if (!table)
                return false;
            indirect = true;
            index = steps = 0;
            continue;
        }
        if (!chain_add(c, d.addr, d.len, d.low & VRING_DESC_F_WRITE))
            return false;
        if (!(d.low & VRING_DESC_F_NEXT))
            return true;
        index = d.high;
    }
}

struct chain *split_next(struct queue *q)
{
    struct chain *c;
    uint16_t head;

    if (!split_ready(q))
        return NULL;
    c = chain_begin(q);
    if (!c)
        return NULL;
    head = __atomic_load_n(&q->avail_ring->ring[q->avail & (q->setup.size - 1)], __ATOMIC_RELAXED);
    if (head >= q->setup.size)
        return queue_break(q, "head beyond the descriptor table"), NULL;
    if (!split_walk(c, head) || !chain_open(c, head, 0))
        return NULL;
    q->avail++;
    return c;
}

void split_used(struct queue *q, const struct chain *c)
{
    struct vring_used_elem *e = (void *)&q->used_ring->ring[q->used & (q->setup.size - 1)];

    e->id = c->head;
    e->len = c->written;
    q->used++;
    q->unpublished++;
}

void split_publish(struct queue *q)
{
    __atomic_exchange_n(&q->used_ring->idx, q->used, __ATOMIC_SEQ_CST); /* B */
    mem_dirty(q->mem, q->setup.device, used_bytes(q));
    q->unpublished = 0;
}

bool split_wants_interrupt(struct queue *q)
{
    uint16_t old = q->signalled;

    if (!q->setup.event_idx)
        return !(__atomic_load_n(&q->avail_ring->flags, __ATOMIC_RELAXED) &
                 VRING_AVAIL_F_NO_INTERRUPT);
    q->signalled = q->used;
    return event_passed(used_event(q), q->used, old);
}

void split_putback(struct queue *q, const struct chain *c)
{
    assert(c->at == (uint16_t)(q->avail - 1));
    q->avail--;
}
