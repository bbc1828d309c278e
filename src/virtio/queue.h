/* SPDX-License-Identifier: MIT */
/* A virtqueue as its device sees it: a source of buffer chains, split or packed (virtio 1.2, 2.6
 * to 2.8).
 *
 * queue_next takes what the driver made available: descriptors are copied once, then checked for
 * index, loop, order, size and range, and turned into host pointers. The device reads and writes
 * the chain as a stream and gives it back with chain_finish. A chain lives in the queue's slot for
 * its head (or buffer id), so nothing is allocated while the guest runs. A ring that breaks the
 * rules is never touched again: queue_next yields NULL and ops->broken is told, once.
 *
 * A queue belongs to the thread of its device's loop. Only the rings are shared, with the driver.
 */
#ifndef HULL_VIRTIO_QUEUE_H
#define HULL_VIRTIO_QUEUE_H

#include "mem/mem.h"
#include <sys/uio.h>

#define QUEUE_SIZE_MAX 1024
#define CHAIN_INLINE   8   /* segments kept in the slot itself */
#define CHAIN_LONG     260 /* segments that a longer chain may have */

struct queue;

struct segment { /* guest memory that is one piece in the host too */
    uint8_t *host;
    gpa addr;
    uint32_t len;
};

struct chain {
    struct queue *q;
    struct segment *seg; /* first the readable ones, then the writable ones */
    uint16_t head;       /* descriptor index or buffer id */
    uint16_t at;         /* where the ring stood before this chain was taken */
    uint16_t ring_count; /* packed: descriptors that the chain takes in the ring */
    uint16_t readable, count;
    uint16_t read_seg, write_seg; /* cursors */
    uint32_t read_off, write_off;
    uint32_t left, room; /* bytes */
    uint32_t written;
    bool open;
    struct segment small[CHAIN_INLINE];
};

struct queue_ops { /* upward; called in the loop's thread */
    void (*interrupt)(
        struct queue *q); /* used buffers were published and the driver wants to know */
    void (*broken)(struct queue *q, const char *why); /* once */
    void (*drained)(
        struct queue *q); /* the queue is stopping and its last open chain is finished */
};

/* What the driver programmed, and how far the rings had come when a machine was saved. */
struct queue_setup {
    gpa desc, driver, device;
    uint16_t size; /* a power of two unless packed */
    bool packed, event_idx, indirect;
    /* Split: free-running indices. Packed: ring position with the wrap counter in bit 15. */
    uint16_t avail, used;
};

#define QUEUE_NO_BUDGET UINT32_MAX

struct queue {
    const struct queue_ops *ops;
    struct mem *mem;
    uint16_t index;    /* number of this queue in its device */
    uint16_t max_size; /* slots */
    bool live, broken, stopping, paused;
    struct queue_setup setup;
    union { /* host addresses of the rings, checked when the queue starts */
        struct vring_desc *desc;
        struct vring_packed_desc *packed;
    };
    union {
        struct vring_avail *avail_ring;
        struct vring_packed_desc_event *driver_event;
    };
    union {
        struct vring_used *used_ring;
        struct vring_packed_desc_event *device_event;
    };
    uint16_t avail;                    /* next to take: index, or position in a packed ring */
    uint16_t avail_seen;               /* split: the driver's index when last read */
    uint16_t used;                     /* next to give back, published or not */
    uint16_t signalled;                /* split: `used` at the last decision to interrupt */
    uint16_t unpublished, unsignalled; /* entries in the ring; packed: descriptors */
    uint16_t held_at, held_flags; /* packed: first descriptor of the batch, its flags to come */
    bool avail_wrap, used_wrap;
    bool armed;          /* the driver was asked to notify */
    uint16_t hold;       /* depth of queue_hold */
    uint32_t budget;     /* chains that queue_next may still give; QUEUE_NO_BUDGET: any number */
    uint16_t open;       /* chains taken and not finished */
    uint16_t *free_slot; /* stack of slots not in use: max_size - open of them */
    struct chain *slot;
    struct segment *long_seg; /* CHAIN_LONG for each slot; pages of it exist once touched */
    uint64_t busy[QUEUE_SIZE_MAX / 64]; /* heads of open chains */
};

/* Slots for rings of up to `max_size`. queue_close accepts a zeroed or half-open queue. */
bool queue_open(struct queue *q, const struct queue_ops *ops, struct mem *mem, uint16_t index,
                uint16_t max_size, struct err *err);
void queue_close(struct queue *q);

/* Checks the rings' place and shape and goes live. -EINVAL: wrong size or alignment, -EFAULT: not
 * in RAM. */
int queue_start(struct queue *q, const struct queue_setup *setup);
/* Takes no more chains. When none is open and nobody holds it the queue is dead at once and this
 * gives true; otherwise ops->drained follows when the last one is finished and published, and
 * queue_stop is called again. */
bool queue_stop(struct queue *q);
bool queue_busy(const struct queue *q); /* chains are open, or finished and not yet published */
/* Where the rings stand, in the form of struct queue_setup. No chain may be open. */
void queue_position(const struct queue *q, uint16_t *avail, uint16_t *used);

/* Between these, finished chains are published together. They nest. */
void queue_hold(struct queue *q);
void queue_release(struct queue *q);
/* Marks the ring as broken: for a device that finds a request it cannot even answer. */
void queue_break(struct queue *q, const char *why);

struct chain *queue_next(struct queue *q); /* NULL: nothing to do, or the ring is broken */
size_t chain_left(const struct chain *c);  /* bytes still to read */
size_t chain_room(const struct chain *c);  /* bytes still to write */
bool chain_read(struct chain *c, void *dst, size_t len); /* all or nothing, as is chain_write */
bool chain_write(struct chain *c, const void *src, size_t len);
bool chain_skip(struct chain *c, size_t len); /* as chain_read, to nowhere */
/* `len` bytes in place: count, -EINVAL if there are fewer, -E2BIG if they take more than `max`.
 * What chain_write_iov gave counts as written, so fill it all before chain_finish. */
int chain_read_iov(struct chain *c, size_t len, struct iovec *iov, int max);
int chain_write_iov(struct chain *c, size_t len, struct iovec *iov, int max);
/* The first `len` bytes of the room were written by somebody else, by their addresses. */
bool chain_filled(struct chain *c, size_t len);
void chain_finish(struct chain *c); /* marks dirty pages, sets the used length, may interrupt */
/* Puts the chain taken last back as if never taken. Nothing may have been written to it. */
void chain_putback(struct chain *c);

#endif
