/* SPDX-License-Identifier: MIT */
/* Disk images: submit and complete. An image is a graph of nodes, each a struct block with a
 * driver:
 *
 *   qcow2 --under--> raw --> loop (io_uring or threads)      the format over the file that holds it
 *     |----backing--> qcow2 --under--> raw                   what was never written here
 *     |----data-----> raw                                    a qcow2's external data file
 *
 * A raw disk is one node, so its requests go straight to the loop. A node owns the nodes below it.
 * Everything runs in the thread of the loop that the block was opened on. What tools need besides
 * (create, map, check, resize, snapshots) is in block/image.h. */
#ifndef HULL_BLOCK_H
#define HULL_BLOCK_H

#include "base/err.h"
#include "loop/loop.h"
#include <sys/uio.h>

enum block_op { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_WRITE_ZEROES };

/* Flags. COMPRESS: a write of whole clusters (block.cluster_size) that the format should compress.
 */
enum {
    BLOCK_REQ_UNMAP = 1,
    BLOCK_REQ_FUA = 2,
    BLOCK_REQ_COMPRESS = 4,
    BLOCK_REQ_INTERNAL = 8,
    BLOCK_REQ_NO_POLICY = 16 /* a drive reports the error, whatever its policy */
};

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

struct block_extent; /* these are in block/image.h */
struct block_info;
struct block_check;

/* A driver. What comes after close() may be NULL where the format has no such thing; it is called
 * with nothing in flight and may turn the loop while it waits for its own I/O. */
struct block_ops {
    const char *name;
    bool (*probe)(const void *head, size_t len);
    bool (*open)(struct block *b,
                 struct err *err); /* sets size and limits; may set backing, data */
    void (*submit)(struct block *b, struct block_req *req);
    void (*close)(struct block *b); /* only when nothing is in flight; writes back what it keeps */
    bool (*map)(struct block *b, uint64_t offset, struct block_extent *e, struct err *err);
    bool (*resize)(struct block *b, uint64_t size, struct err *err);
    void (*info)(struct block *b, struct block_info *info);
    bool (*check)(struct block *b, unsigned fix, struct block_check *result, struct err *err);
};

enum block_cache { CACHE_WRITEBACK, CACHE_NONE, CACHE_UNSAFE, CACHE_WRITETHROUGH };

enum block_aio { AIO_URING, AIO_THREADS };

struct block_config { /* from struct config_disk */
    char file[4096];  /* or an address: block_is_address */
    char format[16];  /* "raw", "qcow2", vmdk and others to read, or "" to probe */
    char serial[21];
    bool readonly;
    bool discard; /* default on */
    enum block_cache cache;
    enum block_aio aio; /* the machine calls loop_forbid_uring for AIO_THREADS */

    /* For tools; a machine leaves them alone. */
    bool alone;         /* without backing: what is not in this layer reads as zeroes */
    bool no_lock;       /* read although another process writes: info of a running machine's disk */
    bool repairing;     /* open for writing although marked dirty or corrupt: check */
    char snapshot[128]; /* readonly: the disk as this internal snapshot has it */
    char backing[4096]; /* "" or the file to use instead of the backing file that the image names */
    char backing_format[16];
    /* block.c's own */
    bool guessed;   /* the format was found by looking */
    bool growable;  /* raw below a format: no size of its own, reads beyond the end give zeroes */
    unsigned depth; /* in the chain; the image that the user named is 0 */
    const struct block *above;
};

struct block {
    const struct block_ops *ops;
    struct loop *loop;
    char name[32]; /* its node name in QMP, or "" */
    struct block_config config;
    uint64_t size;          /* bytes, a multiple of sector_size */
    uint32_t sector_size;   /* logical, 512 */
    uint32_t physical_size; /* preferred, 4096 */
    uint32_t discard_align; /* bytes */
    uint64_t end;           /* growable: bytes that the file had when last looked at */
    uint32_t cluster_size;  /* what the format allocates at once; 0 if it has no such thing */
    bool readonly, can_discard, can_zero, rotational;
    unsigned in_flight;
    unsigned parked; /* of those: held until the machine goes on (drive.h) */
    uint64_t reads, writes, flushes, bytes_read, bytes_written, errors; /* query-blockstats */
    struct block *under, *backing, *data;                               /* ours to close, or NULL */
    struct image_file *file;                                            /* raw: see format.h */
    void *priv;                                                         /* the format's */
    struct list ready; /* requests whose result is known already: finished from the loop */
    struct call finish;
    struct list bitmaps; /* block/bitmap.h */
};

/* "writeback", "none", "unsafe", "writethrough"; "" is writeback. */
bool block_cache_parse(enum block_cache *cache, const char *word, struct err *err);

/* Is `file` no file but an address: nbd://, http://, nbdkit:... ? (remote.c) */
bool block_is_address(const char *file);

/* Opens, locks (OFD lock: shared if readonly, else exclusive) and probes. Errors name the file and
 * the fix ("is in use by another machine", "is not a multiple of 512 bytes", ...). NULL on error.
 */
struct block *block_open(struct loop *loop, const struct block_config *config, struct err *err);
/* The same over a node that is open already (tests: one in memory, one that records). `under` is
 * the new block's on success, the caller's otherwise. The format must be named. */
struct block *block_open_over(struct block *under, const struct block_config *config,
                              struct err *err);
/* A writable disk over `base`, which was opened readonly and belongs to the new one: writes go to a
 * file without a name (in $TMPDIR or /var/tmp) and end with it. NULL on error, and base is closed.
 */
struct block *block_temporary(struct block *base, struct err *err);
/* Checks range, alignment and readonly once, counts, then passes on: -EINVAL, -EROFS arrive in
 * done(). */
void block_submit(struct block *b, struct block_req *req);
void block_close(
    struct block *b); /* accepts NULL; waits by turning the loop until in_flight is 0 */
/* One request, waited for by turning the loop: 0 or -errno. For tools and set-up, not for devices.
 */
int block_run(struct block *b, enum block_op op, unsigned flags, uint64_t offset, void *data,
              uint64_t length);
/* True if nothing is in flight; for device pause. */
bool block_idle(const struct block *b);

#endif
