/* SPDX-License-Identifier: MIT */
/* Disk images: submit and complete. Formats stack: qcow2 submits to file, file submits to the loop.
 * Everything runs in the thread of the loop that the block was opened on. */
#ifndef HULL_BLOCK_H
#define HULL_BLOCK_H

#include "base/err.h"
#include "loop/loop.h"
#include <sys/uio.h>

enum block_op { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_WRITE_ZEROES };

enum { BLOCK_REQ_UNMAP = 1, BLOCK_REQ_FUA = 2 }; /* flags */

struct block_req { /* the submitter's memory, lent until done() */
    enum block_op op;
    unsigned flags;
    uint64_t offset, length; /* bytes */
    struct iovec *iov;
    int iov_count;
    void (*done)(struct block_req *req,
                 int result); /* 0 or -errno; once, from the loop, never inside submit */
    struct list link;         /* the block's */
    int result;               /* the block's, until done() */
    uint64_t scratch[24];     /* the block's: embeds its file_req and progress */
};

struct block;
struct image_file;

struct block_ops {
    const char *name;
    bool (*probe)(const void *head, size_t len);
    bool (*open)(struct block *b, struct err *err);
    void (*submit)(struct block *b, struct block_req *req);
    void (*close)(struct block *b); /* only when nothing is in flight */
};

enum block_cache { CACHE_WRITEBACK, CACHE_NONE, CACHE_UNSAFE, CACHE_WRITETHROUGH };

enum block_aio { AIO_URING, AIO_THREADS };

struct block_config { /* from struct config_disk */
    char file[4096];
    char format[16]; /* "raw", "qcow2", or "" to probe */
    char serial[21];
    bool readonly;
    bool discard; /* default on */
    enum block_cache cache;
    enum block_aio aio; /* the machine calls loop_forbid_uring for AIO_THREADS */
};

struct block {
    const struct block_ops *ops;
    struct loop *loop;
    struct block_config config;
    uint64_t size;          /* bytes, a multiple of sector_size */
    uint32_t sector_size;   /* logical, 512 */
    uint32_t physical_size; /* preferred, 4096 */
    uint32_t discard_align; /* bytes */
    bool readonly, can_discard, can_zero, rotational;
    unsigned in_flight;
    uint64_t reads, writes, flushes, bytes_read, bytes_written, errors; /* query-blockstats */
    struct image_file *file;                                            /* block's: see format.h */
    void *priv;                                                         /* the format's */
    struct list ready; /* requests whose result is known already: finished from the loop */
    struct call finish;
};

/* "writeback", "none", "unsafe", "writethrough"; "" is writeback. */
bool block_cache_parse(enum block_cache *cache, const char *word, struct err *err);

/* Opens, locks (OFD lock: shared if readonly, else exclusive) and probes. Errors name the file and
 * the fix ("is in use by another machine", "is not a multiple of 512 bytes", ...). NULL on error.
 */
struct block *block_open(struct loop *loop, const struct block_config *config, struct err *err);
/* Checks range, alignment and readonly once, counts, then passes on: -EINVAL, -EROFS arrive in
 * done(). */
void block_submit(struct block *b, struct block_req *req);
void block_close(
    struct block *b); /* accepts NULL; waits by turning the loop until in_flight is 0 */
/* True if nothing is in flight; for device pause. */
bool block_idle(const struct block *b);

#endif
