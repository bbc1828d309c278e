/* SPDX-License-Identifier: MIT */
/* Queues that the host's kernel serves (vhost-net, vhost-vsock): the device keeps its registers,
 * its features and its other queues, and lends the kernel the rings, the notifications and the
 * interrupts of some.
 *
 *   open     the kernel's device; says which group or module is missing
 *   attach   to the device's queues `first` and the next, before they run
 *   start    with the queues live and the driver's features; stop gives the rings back with their
 *            positions, as for a pause or before a state is saved
 */
#ifndef HULL_VIRTIO_VHOST_H
#define HULL_VIRTIO_VHOST_H

#include "virtio/virtio.h"

enum { VHOST_RINGS = 2 }; /* receive and transmit: what every device has that we lend */

struct vhost;

struct vhost_ops { /* the kernel's side; tests bring their own */
    int (*call)(struct vhost *h, unsigned long request, void *arg); /* 0, or a negative errno */
};

struct vhost_ring {
    struct vhost *owner;
    struct watch called; /* the kernel used buffers; not watched while `line` has it */
    struct pci_msix_line line;
    bool bound;          /* the engine turns that into interrupts without us */
    struct watch broken; /* the kernel found the ring wrong */
    unsigned queue;
};

struct vhost {
    const struct vhost_ops *ops;
    char what[32]; /* for messages */
    int fd;
    uint64_t features; /* that the kernel offers */
    bool running;
    struct virtio *v;
    struct vhost_ring ring[VHOST_RINGS];
    /* Lets the kernel work on the rings, or not: VHOST_NET_SET_BACKEND and the like. */
    bool (*run)(struct vhost *h, bool on, struct err *err);
    int backend; /* for run(): the tap's descriptor */
};

struct vhost_wish {
    const char *what;    /* for messages: "--net tap,vhost=on" */
    const char *path;    /* /dev/vhost-... */
    const char *module;  /* what makes it appear */
    const char *instead; /* what a user may do without it */
};

/* Fails if the engine must see every write to guest memory: what the kernel writes it would miss.
 * On failure nothing is left open. */
bool vhost_open(struct vhost *h, const struct board *board, const struct vhost_wish *wish,
                struct err *err);
bool vhost_attach(struct vhost *h, struct virtio *v, unsigned first, struct err *err);
bool vhost_start(struct vhost *h, struct err *err); /* idempotent; false: the rings are ours */
void vhost_stop(struct vhost *h);                   /* idempotent */
void vhost_close(struct vhost *h);                  /* stopped; accepts a zeroed or half-open one */
bool vhost_call(struct vhost *h, unsigned long request, void *arg, const char *name,
                struct err *err);
/* Features that the rings need the kernel to have, and whatever it may not have. */
bool vhost_check(const struct vhost *h, uint64_t needed, struct err *err);

#endif
