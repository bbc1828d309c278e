/* SPDX-License-Identifier: MIT */
/* Whole disks at once: copying and comparing with several threads, and what formats offer for it.
 * Everything but block_read_packed and block_pack is for the loop's thread. */
#ifndef HULL_BLOCK_BULK_H
#define HULL_BLOCK_BULK_H

#include "block/block.h"

/* ---- copy.c ---- */

struct block_copy {
    struct block *from, *to; /* `to` is at least as large; nobody else uses it */
    unsigned workers;        /* threads; 0: by processors */
    uint64_t sparse;         /* runs of zeroes that long are not written; 0: all is written */
    bool compress;
    bool fresh;    /* `to` was made for this: nothing is allocated in it yet */
    bool is_zero;  /* ... and what is not written reads as zeroes: no backing file, no device */
    bool top_only; /* only what the topmost layer of `from` has: `to` has the same backing file */
    bool (*stopped)(void);                                               /* or NULL */
    void (*progress)(struct block_copy *c, uint64_t done, uint64_t all); /* or NULL */
};

/* False with ECANCELED if stopped. Nothing is synced: flush and close do that. */
bool block_copy(struct block_copy *c, struct err *err);

/* ---- compare.c ---- */

struct block_compare {
    struct block *a, *b;
    unsigned workers;
    bool strict; /* what is allocated where counts too */
    bool (*stopped)(void);
    void (*progress)(struct block_compare *c, uint64_t done, uint64_t all);
    /* results */
    bool same, status_differs; /* status: data are equal there, but not what is allocated */
    uint64_t at;               /* the first difference */
};

/* A shorter disk is compared as if it went on with zeroes. False: could not be read. */
bool block_compare(struct block_compare *c, struct err *err);

/* ---- what formats offer ---- */

struct block_place { /* where in a file a part of a disk lives */
    uint64_t host, length;
    int fd;
    bool virgin; /* the file reads as zeroes there */
};

/* Gives `length` bytes at `offset` (on a cluster, whole clusters or up to the disk's end) a place
 * and makes the disk's tables say so, before anything is written there: for images that are nothing
 * yet. May give less than was asked. filled false: subclusters stay as they are. 0 or -errno:
 * -EEXIST if there is a place already, -ENOTSUP if the format gives none. */
int block_place(struct block *b, uint64_t offset, uint64_t length, bool filled,
                struct block_place *p);
/* The same for one cluster that was packed to `length` bytes. */
int block_place_packed(struct block *b, uint64_t offset, uint64_t length, struct block_place *p);
/* Compresses one cluster: bytes, or -ENOSPC if it does not get smaller. Any thread. */
int block_pack(const struct block *b, const uint8_t *cluster, uint8_t *out, uint64_t room);
/* Unpacks the cluster that a map's extent told of, into `cluster`. Any thread. */
int block_read_packed(const struct block *node, int fd, uint64_t descriptor, uint8_t *cluster);
/* After the last block_place: the file is as long as its clusters. 0 or -errno. */
int block_placed(struct block *b);

#endif
