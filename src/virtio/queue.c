/* SPDX-License-Identifier: MIT */
/* The part of a virtqueue that does not depend on the ring's format: slots, building a chain from
 * checked descriptors, the two cursors through it, giving it back. See queue.h for the rules.
 *
 * Invariants:
 * 1. A chain's segments were translated by mem_at with their full length, so cursors need no checks
 * of addresses, only of lengths.
 * 2. open + slots on the stack == max_size; a bit in `busy` is set for each open chain's head.
 * 3. A live ring's host pointers cover all of setup.size entries. */
#include "virtio/ring.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

bool queue_open(struct queue *q, const struct queue_ops *ops, struct mem *mem, uint16_t index,
                uint16_t max_size, struct err *err)
{
    assert(max_size && max_size <= QUEUE_SIZE_MAX);
    memset(q, 0, sizeof *q);
    q->ops = ops;
    q->mem = mem;
    q->index = index;
    q->max_size = max_size;
    q->budget = QUEUE_NO_BUDGET;
    q->slot = calloc(max_size, sizeof *q->slot);
    q->free_slot = calloc(max_size, sizeof *q->free_slot);
    q->long_seg = calloc((size_t)max_size * CHAIN_LONG, sizeof *q->long_seg);
    if (!q->slot || !q->free_slot || !q->long_seg) {
        queue_close(q);
        return err_set(err, ENOMEM, "no memory for a queue of %u entries", max_size);
    }
    for (unsigned i = 0; i < max_size; i++)
        q->free_slot[i] = (uint16_t)(max_size - 1 - i);
    return true;
}

void queue_close(struct queue *q)
{
    free(q->slot);
    free(q->free_slot);
    free(q->long_seg);
    q->slot = NULL;
    q->free_slot = NULL;
    q->long_seg = NULL;
    q->live = false;
}

int queue_start(struct queue *q, const struct queue_setup *setup)
{
    int result;

    assert(!q->live && !q->open);
    if (!setup->size || setup->size > q->max_size)
        return -EINVAL;
    q->setup = *setup;
    q->broken = q->stopping = q->armed = false;
    q->unpublished = q->unsignalled = 0;
    result = setup->packed ? packed_start(q) : split_start(q);
    q->live = result == 0;
    return result;
}

bool queue_busy(const struct queue *q)
{
    return q->open || q->hold;
}

bool queue_stop(struct queue *q)
{
    q->stopping = true;
    if (queue_busy(q))
        return false;
    q->live = false;
    return true;
}

void queue_position(const struct queue *q, uint16_t *avail, uint16_t *used)
{
    assert(!q->open && !q->unpublished);
    *avail = q->avail;
    *used = q->used;
    if (q->setup.packed) {
        *avail |= (uint16_t)(q->avail_wrap << 15);
        *used |= (uint16_t)(q->used_wrap << 15);
    }
}

void queue_break(struct queue *q, const char *why)
{
    if (q->broken)
        return;
    q->broken = true;
    q->unpublished = 0; /* the ring is not touched again */
    q->ops->broken(q, why);
}

struct chain *queue_next(struct queue *q)
{
    if (unlikely(!q->live || q->broken || q->stopping || q->paused || !q->budget))
        return NULL;
    q->budget -= q->budget != QUEUE_NO_BUDGET;
    return q->setup.packed ? packed_next(q) : split_next(q);
}

/* Publishes what was finished, then asks whether the driver sleeps. */
static void queue_flush(struct queue *q)
{
    if (!q->unpublished || q->broken)
        return;
    if (q->setup.packed) {
        packed_publish(q);
        if (packed_wants_interrupt(q))
            q->ops->interrupt(q);
    } else {
        split_publish(q);
        if (split_wants_interrupt(q))
            q->ops->interrupt(q);
    }
}

void queue_hold(struct queue *q)
{
    q->hold++;
}

void queue_release(struct queue *q)
{
    assert(q->hold);
    if (--q->hold)
        return;
    queue_flush(q);
    if (q->stopping && !q->open && q->live)
        q->ops->drained(q);
}

struct chain *chain_begin(struct queue *q)
{
    struct chain *c;
    unsigned slot;

    if (q->open == q->max_size) {
        queue_break(q, "more chains than the ring has entries");
        return NULL;
    }
    slot = q->free_slot[q->max_size - q->open - 1];
    c = &q->slot[slot];
    c->q = q;
    c->seg = c->small;
    c->at = q->avail;
    c->readable = c->count = c->read_seg = 0;
    c->read_off = c->write_off = 0;
    c->left = c->room = c->written = 0;
    return c;
}

/* Moves the segments to the long array of the chain's slot once they outgrow the small one. */
static bool chain_grow(struct chain *c)
{
    struct queue *q = c->q;

    if (c->count == CHAIN_INLINE && c->seg == c->small) {
        c->seg = q->long_seg + (size_t)(c - q->slot) * CHAIN_LONG;
        memcpy(c->seg, c->small, sizeof c->small);
    }
    if (c->count < CHAIN_LONG)
        return true;
    queue_break(q, "chain has too many pieces");
    return false;
}

bool chain_add(struct chain *c, uint64_t addr, uint32_t len, bool writable)
{
    struct queue *q = c->q;
    uint32_t *total = writable ? &c->room : &c->left;
    struct segment *last = c->count ? &c->seg[c->count - 1] : NULL;
    uint8_t *host;

    if (!writable && c->count > c->readable)
        return queue_break(q, "readable buffer after a writable one"), false;
    if (!len)
        return true;
    if (len > UINT32_MAX - *total)
        return queue_break(q, "chain longer than 4 GiB"), false;
    host = writable ? mem_at_writable(q->mem, addr, len) : mem_at(q->mem, addr, len);
    if (!host)
        return queue_break(q, "buffer outside of memory"), false;
    *total += len;
    if (last && writable == (c->count > c->readable) && last->addr + last->len == addr &&
        last->host + last->len == host && len <= UINT32_MAX - last->len) {
        last->len += len; /* pages that lie side by side become one piece */
        return true;
    }
    if (c->count >= CHAIN_INLINE && !chain_grow(c))
        return false;
    c->seg[c->count++] = (struct segment){.host = host, .addr = addr, .len = len};
    if (!writable)
        c->readable = c->count;
    return true;
}

bool chain_open(struct chain *c, uint16_t head, uint16_t ring_count)
{
    struct queue *q = c->q;
    uint64_t bit = BIT(head % 64);

    if (q->busy[head / 64] & bit)
        return queue_break(q, "buffer offered again while in use"), false;
    q->busy[head / 64] |= bit;
    q->open++;
    c->head = head;
    c->ring_count = ring_count;
    c->write_seg = c->readable;
    c->open = true;
    return true;
}

static void chain_close(struct chain *c)
{
    struct queue *q = c->q;

    c->open = false;
    q->busy[c->head / 64] &= ~BIT(c->head % 64);
    q->open--;
    q->free_slot[q->max_size - q->open - 1] = (uint16_t)(c - q->slot);
}

const void *indirect_table(struct queue *q, uint64_t addr, uint32_t len, uint32_t *count)
{
    const void *table = NULL;

    if (!q->setup.indirect)
        queue_break(q, "indirect descriptor without the feature");
    else if (!len || len % 16 || len / 16 > QUEUE_SIZE_MAX)
        queue_break(q, "indirect table of a wrong size");
    else if (!(table = mem_at(q->mem, addr, len)))
        queue_break(q, "indirect table outside of memory");
    *count = len / 16;
    return table;
}

size_t chain_left(const struct chain *c)
{
    return c->left;
}

size_t chain_room(const struct chain *c)
{
    return c->room;
}

/* Steps over up to `len` bytes of the segment under the cursor: where they are, and how many. */
static uint8_t *chain_step(const struct chain *c, uint16_t *seg, uint32_t *off, size_t len,
                           size_t *got)
{
    const struct segment *s = &c->seg[*seg];
    uint8_t *at = s->host + *off;

    *got = min_size(len, s->len - *off);
    *off += (uint32_t)*got;
    if (*off == s->len) {
        *off = 0;
        ++*seg;
    }
    return at;
}

bool chain_read(struct chain *c, void *dst, size_t len)
{
    uint8_t *to = dst;
    size_t got;

    assert(c->open);
    if (len > c->left)
        return false;
    c->left -= (uint32_t)len;
    for (; len; len -= got, to += got) {
        const uint8_t *from = chain_step(c, &c->read_seg, &c->read_off, len, &got);
        memcpy(to, from, got);
    }
    return true;
}

bool chain_skip(struct chain *c, size_t len)
{
    size_t got;

    assert(c->open);
    if (len > c->left)
        return false;
    c->left -= (uint32_t)len;
    for (; len; len -= got)
        chain_step(c, &c->read_seg, &c->read_off, len, &got);
    return true;
}

bool chain_write(struct chain *c, const void *src, size_t len)
{
    const uint8_t *from = src;
    size_t got;

    assert(c->open);
    if (len > c->room)
        return false;
    c->room -= (uint32_t)len;
    c->written += (uint32_t)len;
    for (; len; len -= got, from += got) {
        uint8_t *to = chain_step(c, &c->write_seg, &c->write_off, len, &got);
        memcpy(to, from, got);
    }
    return true;
}

bool chain_filled(struct chain *c, size_t len)
{
    assert(c->open && !c->written);
    if (len > c->room)
        return false;
    c->room -= (uint32_t)len;
    c->written = (uint32_t)len;
    return true;
}

/* Fills `iov` from the cursor; the cursor moves only if all of it fits. */
static int chain_iov(const struct chain *c, uint16_t *seg, uint32_t *off, size_t len,
                     struct iovec *iov, int max)
{
    uint16_t at_seg = *seg;
    uint32_t at_off = *off;
    size_t got;
    int count = 0;

    for (; len; len -= got, count++) {
        uint8_t *at;

        if (count == max)
            return -E2BIG;
        at = chain_step(c, &at_seg, &at_off, len, &got);
        iov[count] = (struct iovec){at, got};
    }
    *seg = at_seg;
    *off = at_off;
    return count;
}

int chain_read_iov(struct chain *c, size_t len, struct iovec *iov, int max)
{
    int count;

    assert(c->open);
    if (len > c->left)
        return -EINVAL;
    count = chain_iov(c, &c->read_seg, &c->read_off, len, iov, max);
    if (count >= 0)
        c->left -= (uint32_t)len;
    return count;
}

int chain_write_iov(struct chain *c, size_t len, struct iovec *iov, int max)
{
    int count;

    assert(c->open);
    if (len > c->room)
        return -EINVAL;
    count = chain_iov(c, &c->write_seg, &c->write_off, len, iov, max);
    if (count >= 0) {
        c->room -= (uint32_t)len;
        c->written += (uint32_t)len;
    }
    return count;
}

void chain_finish(struct chain *c)
{
    struct queue *q = c->q;
    size_t left = c->written, part;

    assert(c->open);
    for (unsigned i = c->readable; left; i++, left -= part) {
        part = min_size(left, c->seg[i].len);
        mem_dirty(q->mem, c->seg[i].addr, part);
    }
    if (!q->broken) {
        if (q->setup.packed)
            packed_used(q, c);
        else
            split_used(q, c);
    }
    chain_close(c);
    if (q->hold)
        return;
    queue_flush(q);
    if (unlikely(q->stopping && !q->open && q->live))
        q->ops->drained(q);
}

void chain_putback(struct chain *c)
{
    struct queue *q = c->q;

    assert(c->open && !c->written);
    if (q->setup.packed)
        packed_putback(q, c);
    else
        split_putback(q, c);
    chain_close(c);
    if (unlikely(q->stopping && !q->open && q->live && !q->hold))
        q->ops->drained(q);
}
