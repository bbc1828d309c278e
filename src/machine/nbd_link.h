/* SPDX-License-Identifier: MIT */
/* What a machine and its hull-nbd say to each other.
 *
 * hull-nbd speaks NBD with clients; the machine has the disks. Between them are a SOCK_SEQPACKET
 * pair for these messages and memory with a slot per connection, which holds one request's data at
 * a time. Each side checks what the other says: a client may have taken over the one, a guest the
 * other. */
#ifndef HULL_MACHINE_NBD_LINK_H
#define HULL_MACHINE_NBD_LINK_H

#include <stdint.h>

enum {
    NBD_SLOTS = 16, /* connections at once */
    NBD_SLOT_SIZE = 1 << 20,
    NBD_EXPORTS = 32,
    NBD_NAME = 256,
    NBD_EXTENTS = 64, /* in an answer about status */
};

enum nbd_word_kind {
    NBD_START,  /* name: path, or host; text: port, or "" for a path */
    NBD_ADD,    /* export, size, flags, name, text: the name of its bitmap's context, or "" */
    NBD_RESIZE, /* export, size */
    NBD_DEL,    /* export; its clients are sent away */
    NBD_STOP,
    NBD_DONE, /* slot, error, count */
};

enum { NBD_WRITABLE = 1 };

struct nbd_word { /* from the machine */
    uint32_t kind, slot, export, flags;
    int32_t error; /* positive errno value */
    uint32_t count;
    uint64_t size;
    char name[NBD_NAME], text[NBD_NAME];
};

enum nbd_op {
    NBD_OP_READ,
    NBD_OP_WRITE,
    NBD_OP_FLUSH,
    NBD_OP_TRIM,
    NBD_OP_ZERO,
    NBD_OP_STATUS,  /* answer: `count` struct nbd_extent in the slot */
    NBD_OP_BITMAP,  /* the same, of the bitmap */
    NBD_OP_STARTED, /* the answer to NBD_START: `error` */
};

enum { NBD_OP_FUA = 1, NBD_OP_NO_HOLE = 2 };

struct nbd_call { /* from hull-nbd */
    uint32_t slot, op, export, flags;
    uint64_t offset, length;
    int32_t error;
    uint32_t unused;
};

struct nbd_extent {
    uint32_t length, flags;
};

#endif
