/* SPDX-License-Identifier: MIT */
/* Reading a range of an image from another thread than the loop's. The loop's thread plans: which
 * files, where; any thread then reads. For images that nobody changes meanwhile. */
#ifndef HULL_BLOCK_GATHER_H
#define HULL_BLOCK_GATHER_H

#include "block/block.h"

enum gather_kind {
    GATHER_ZERO,
    GATHER_ABSENT, /* not in the topmost layer, when only that is wanted */
    GATHER_FILE,
    GATHER_PACKED, /* compressed: `host` is the descriptor */
    GATHER_LOOP,   /* by no file of ours: gather_fetch reads it */
};

struct gather_piece {
    uint64_t offset, length; /* in the disk */
    uint64_t host;
    struct block *node;
    int fd;
    enum gather_kind kind;
};

struct gather { /* start it zeroed; used again, it keeps its memory */
    uint64_t offset, length;
    struct gather_piece *piece;
    unsigned count, room;
    bool data; /* some piece has data */
};

/* The range is within the disk. top_only: what lies in backing files is GATHER_ABSENT. */
bool gather_plan(struct gather *g, struct block *b, uint64_t offset, uint64_t length, bool top_only,
                 struct err *err);
/* Pieces that only the loop's thread can read, into `data` (of the whole range). 0 or -errno. */
int gather_fetch(const struct gather *g, struct block *b, uint8_t *data);
/* All others; any thread. `data` has room for the range. What
 * is absent reads as zeroes. 0 or -errno. */
int gather_read(const struct gather *g, uint8_t *data);
void gather_free(struct gather *g);

/* The file that holds the data of an extent of this node, or -1. */
int gather_fd(const struct block *node);

/* pread and pwrite of everything: 0 or -errno; what a file does not have reads as zeroes. */
int read_all(int fd, void *data, uint64_t length, uint64_t offset);
int write_all(int fd, const void *data, uint64_t length, uint64_t offset);
int write_iov(int fd, struct iovec *iov, int count, uint64_t offset); /* changes iov */
bool is_zero(const void *data, uint64_t length);

#endif
