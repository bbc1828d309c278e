/* SPDX-License-Identifier: MIT */
/* What a format (raw.c, qcow2/) needs from block.c. Not for devices. */
#ifndef HULL_BLOCK_FORMAT_H
#define HULL_BLOCK_FORMAT_H

#include "block/block.h"

extern const struct block_ops raw_ops, qcow2_ops, remote_ops;

/* remote.c: one that only other programs can read (vmdk, vdi, vhdx, vpc)? */
bool remote_format(const char *format);

/* Opens the file that an image's header names (backing file, data file), relative to the image's
 * own directory, with `config` as far as the new node shares it. Refuses a file that is in the
 * chain already, a chain that is too deep, and formats that were guessed where a guess is unsafe.
 */
struct block *block_open_named(struct block *b, const char *name, const char *format, bool readonly,
                               bool growable, struct err *err);
/* `name` as seen from the image: joined with the image's directory unless absolute. */
bool block_relative(char *path, size_t size, const char *image, const char *name);

/* Bytes that the file below a growable node holds now. */
uint64_t block_end(struct block *b);

/* Would these first bytes of a raw disk be taken for another format the next time? */
bool block_head_is_format(const void *head, size_t len);

/* A node without driver, file or neighbours yet; NULL: out of memory. block_free undoes it, and
 * closes the nodes below, without calling the driver. */
struct block *block_new(struct loop *loop, const struct block_config *config);
void block_free(struct block *b);

/* The file or block device behind an image, opened, checked and locked. */
struct image_file {
    int fd;
    bool is_device, readonly;
    dev_t dev; /* who it is, whatever its name */
    ino_t ino;
    uint64_t size;
    uint32_t block_size;   /* the file system's or the device's preferred */
    uint32_t direct_align; /* of offset, length and memory under O_DIRECT; 0 without O_DIRECT */
    uint32_t discard_align;
    bool rotational;
};

/* Errors name the file and the fix. The lock goes with the descriptor. */
bool image_file_open(struct image_file *f, const struct block_config *c, struct err *err);
void image_file_close(struct image_file *f);
enum image_lock { IMAGE_FREE, IMAGE_SHARED, IMAGE_EXCLUSIVE };
/* Changes the lock; -1 and errno. */
int image_file_lock(int fd, enum image_lock kind);

/* Ends a request that the format has in hand: counts it and calls done(). From the loop only. */
void block_done(struct block *b, struct block_req *req, int result);
/* Submits without the checks of block_submit: from one node to another, in-range by construction.
 */
static inline void block_pass(struct block *b, struct block_req *req)
{
    b->in_flight++;
    b->ops->submit(b, req);
}
/* Like block_done, from inside submit: done() comes in the loop's next turn. */
void block_done_later(struct block *b, struct block_req *req, int result);

#endif
