/* SPDX-License-Identifier: MIT */
/* A device whose queues are served by another process that speaks vhost-user (virtiofsd, a user
 * space switch): the front end's half of QEMU's docs/interop/vhost-user.
 *
 * The back end never sees the guest's rings. queue_next takes and checks a chain as for a device
 * of our own, then its addresses go into a ring that is ours and the back end's, and when that says
 * it is used, chain_finish marks the pages and tells the guest. Data is not copied: the back end
 * maps guest memory. So dirty pages and engines that cache code hold with every back end, the
 * guest may use what rings it likes, and a guest's reset does not concern the back end at all.
 *
 *   guest's ring -> queue_next -> our ring, eventfd -> back end
 *   guest's ring <- chain_finish <- our ring, eventfd <-
 *
 * Guest memory must be in files: mem_use_files before it is added. */
#ifndef HULL_VIRTIO_VHOST_USER_H
#define HULL_VIRTIO_VHOST_USER_H

#include "virtio/virtio.h"

enum { VHOST_USER_RINGS = 4, VHOST_USER_RING_SIZE = 128 };

struct vhost_user;

struct vhost_user_ring {
    struct vhost_user *owner;
    unsigned queue;      /* of the device */
    int kick;            /* eventfd: we have added chains */
    struct watch called; /* the back end has used some */
    uint8_t *memory;     /* the ring, then the tables of descriptors: see vhost_user.c */
    struct chain *chain[VHOST_USER_RING_SIZE]; /* NULL: the slot is free */
    uint16_t free_slot[VHOST_USER_RING_SIZE], free_count;
    uint16_t avail, used;
    bool starved; /* a chain may be waiting for a slot */
};

struct vhost_user {
    struct virtio *v;
    const char *what;    /* for messages: "--share /srv,type=virtiofs" */
    struct watch socket; /* fd -1: the back end is gone */
    uint64_t features, protocol;
    unsigned ring_count;
    struct vhost_user_ring ring[VHOST_USER_RINGS];
    int memory_fd; /* of the rings */
    uint8_t *memory;
    gpa memory_at; /* where the back end finds them: above all of the guest's */
    /* A chain that gets no answer: the back end is gone. It is to be finished. */
    void (*fail)(struct vhost_user *u, struct chain *c);
};

/* Talks to the back end behind the connected socket u->socket.fd: what it can, where memory and
 * `rings` rings are, for queues 0.. of `v`. `features` of its own kind are wanted too: all or an
 * error. Call it before the sandbox; it waits for answers. */
bool vhost_user_open(struct vhost_user *u, struct virtio *v, unsigned rings, uint64_t features,
                     struct err *err);
/* What ops->kick is for these queues. */
void vhost_user_kick(struct vhost_user *u, struct queue *q);
void vhost_user_close(struct vhost_user *u); /* after virtio_close; half-open ones too */

#endif
