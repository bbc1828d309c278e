/* SPDX-License-Identifier: MIT */
/* What a format (raw.c, later qcow2.c) needs from block.c. Not for devices. */
#ifndef HULL_BLOCK_FORMAT_H
#define HULL_BLOCK_FORMAT_H

#include "block/block.h"

extern const struct block_ops raw_ops;

/* The file or block device behind an image, opened, checked and locked. */
struct image_file {
    int fd;
    bool is_device, readonly;
    uint64_t size;
    uint32_t block_size;   /* the file system's or the device's preferred */
    uint32_t direct_align; /* of offset, length and memory under O_DIRECT; 0 without O_DIRECT */
    uint32_t discard_align;
    bool rotational;
};

/* Errors name the file and the fix. The lock goes with the descriptor. */
bool image_file_open(struct image_file *f, const struct block_config *c, struct err *err);
void image_file_close(struct image_file *f);

/* Ends a request that the format has in hand: counts it and calls done(). From the loop only. */
void block_done(struct block *b, struct block_req *req, int result);
/* The same from inside submit: done() comes in the loop's next turn. */
void block_done_later(struct block *b, struct block_req *req, int result);

#endif
