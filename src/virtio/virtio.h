/* SPDX-License-Identifier: MIT */
/* What all virtio devices share: feature negotiation, status, queues and their start and stop.
 *
 * Two sides meet here. Register handlers run in vCPU threads under the device's lock and only
 * change what the driver sees (struct virtio_regs, struct virtio_queue). The device itself, its
 * queues and its host side live in one loop's thread. A change that matters is handed over by
 * posting `sync` to the loop, a notification by writing the queue's eventfd. So a driver that
 * resets the device while I/O is in flight reads its old status until the loop has wound everything
 * down, and then 0.
 *
 *          sync: DRIVER_OK            sync: status was written 0
 *   IDLE ------------------> RUNNING ---------------------------> STOPPING
 *    ^   ops->start, kicks             ops->stop, queues stop         |
 *    +----------------------------------------------------------------+
 *                          sync: no chain is open
 *
 * A device embeds struct virtio first, fills `offered`, `queue_count` and `config`, and attaches
 * with virtio_pci_attach. device_type callbacks are the virtio_* functions below, or wrap them. */
#ifndef HULL_VIRTIO_H
#define HULL_VIRTIO_H

#include "bus/pci.h"
#include "loop/loop.h"
#include "virtio/queue.h"

#define VIRTIO_QUEUES_MAX 66 /* 32 pairs and a control queue, with one to spare */
#define VIRTIO_CONFIG_MAX 64
#define VIRTIO_NO_VECTOR  0xffff

enum { /* device status, virtio 1.2, 2.1 */
       VIRTIO_ACKNOWLEDGE = 1,
       VIRTIO_DRIVER = 2,
       VIRTIO_DRIVER_OK = 4,
       VIRTIO_FEATURES_OK = 8,
       VIRTIO_NEEDS_RESET = 64,
       VIRTIO_FAILED = 128,
};

enum { VIRTIO_ISR_QUEUE = 1, VIRTIO_ISR_CONFIG = 2 };

struct virtio;

struct virtio_ops {
    uint16_t id;         /* virtio 1.2, 5 */
    uint16_t queue_size; /* the largest that a driver may choose; default 256 */
    uint32_t class_code; /* PCI */
    /* In the loop's thread. Queues are live when start runs and each is kicked after it. */
    bool (*start)(struct virtio *v, uint64_t features, struct err *err);
    void (*kick)(struct virtio *v, struct queue *q);
    /* No more chains come. Finish or put back those that wait for something other than host I/O. */
    void (*stop)(struct virtio *v);
    void (*queue_stop)(struct virtio *v, struct queue *q); /* the same for one queue; may be NULL */
    void (*pause)(struct virtio *v);                       /* the same, for all; may be NULL */
    /* Is all that is in flight held back until the machine goes on? Then a pause does not wait for
     * it. May be NULL. */
    bool (*parked)(struct virtio *v);
    void (*resume)(struct virtio *v); /* before the kicks; may be NULL */
    /* A driver's write to device configuration, in a vCPU thread under the lock. NULL: read-only.
     */
    void (*config_write)(struct virtio *v, unsigned offset, uint32_t value, unsigned size);
};

struct virtio_transport {
    /* From the loop's thread, without the device's lock. */
    void (*interrupt)(struct virtio *v, uint16_t vector, uint8_t cause);
    /* The driver's view was reset; under the device's lock. */
    void (*reset)(struct virtio *v);
    /* Notifications of live queues may go to kick.fd without us; or of none any more. May be NULL.
     */
    void (*bells)(struct virtio *v, bool on);
};

struct virtio_queue {
    /* What the driver programmed: under the device's lock. Fixed while enabled. */
    uint16_t size, vector; /* vector is read with an atomic load by the loop */
    bool enabled, resetting;
    uint64_t desc, driver, device;
    uint16_t avail, used; /* as in struct queue_setup: where a paused ring stands */
    /* The loop's. */
    struct queue_setup setup; /* copied from the above under the lock */
    struct queue q;
    struct watch kick;
    struct virtio *v;
    bool kicked; /* atomic: the eventfd was written and not yet read */
    bool lent;   /* atomic: somebody else reads the eventfd and serves the queue */
};

enum virtio_life { VIRTIO_IDLE, VIRTIO_RUNNING, VIRTIO_STOPPING };

struct virtio {
    struct device dev;
    struct pci_function pci;
    const struct virtio_ops *ops;
    const struct virtio_transport *transport;
    struct loop *loop;
    /* Given by the device before it attaches. */
    uint64_t offered;
    uint16_t queue_count, config_len;
    bool split_only; /* do not offer packed rings, nor to reset a single queue */
    /* Under dev.lock. */
    uint8_t config[VIRTIO_CONFIG_MAX];
    uint64_t features; /* written by the driver */
    uint32_t offered_select, driver_select;
    uint16_t config_vector, queue_select;
    uint8_t status, generation, isr;
    uint8_t old_status; /* shown until `resetting` ends */
    bool resetting;
    struct virtio_queue queue[VIRTIO_QUEUES_MAX];
    /* The loop's; `life` changes under dev.lock too. */
    enum virtio_life life;
    bool paused;
    uint64_t agreed; /* features of this run */
    struct call sync;
};

/* Completes `v` (offered, queues) for a transport. On failure call virtio_close, as after success.
 */
bool virtio_open(struct virtio *v, struct board *board, const struct virtio_ops *ops,
                 const struct virtio_transport *transport, struct err *err);
void virtio_close(struct virtio *v); /* waits for I/O in flight; idempotent */

/* virtio_open and a PCI function at the first free slot, or at `devfn` if not negative. */
bool virtio_pci_attach(struct virtio *v, struct board *board, const struct virtio_ops *ops,
                       int devfn, struct err *err);

/* For struct device_type. */
void virtio_reset(struct device *dev);
void virtio_pause(struct device *dev);
void virtio_resume(struct device *dev);
bool virtio_restored(struct device *dev, struct err *err);
void virtio_detach(struct device *dev);
extern const struct field virtio_state[]; /* FIELD_TABLE in each device's own table, version 1 */

static inline bool virtio_has(const struct virtio *v, unsigned feature)
{
    return v->agreed & BIT(feature);
}

/* Runs the queue's kick now, if it is live: for a host side that has work for the queue. */
void virtio_kick(struct virtio *v, unsigned queue);
/* Changes device configuration from the loop's thread; `interrupt` tells the driver. */
void virtio_config_set(struct virtio *v, unsigned offset, const void *src, size_t len,
                       bool interrupt);
/* A live queue that somebody else (the kernel's vhost) serves: its notifications go to kick.fd
 * alone and ops->kick is not called. Where its ring stands is in q.avail and q.used before and
 * after. Each change leaves one notification in kick.fd, so that none is missed. */
void virtio_queue_lend(struct virtio *v, unsigned queue, bool on);
/* The device cannot go on until the driver resets it. */
void virtio_needs_reset(struct virtio *v, const char *why);

/* For transports, in vCPU threads under dev.lock. */
uint8_t virtio_status(const struct virtio *v);
void virtio_set_status(struct virtio *v, uint8_t status);
void virtio_set_features(struct virtio *v, uint32_t select, uint32_t bits);
void virtio_queue_enable(struct virtio *v, uint16_t queue);
void virtio_queue_reset(struct virtio *v, uint16_t queue);
void virtio_notify(struct virtio *v, uint32_t queue); /* any thread, with or without the lock */

#endif
