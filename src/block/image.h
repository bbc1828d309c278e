/* SPDX-License-Identifier: MIT */
/* Images as tools see them: create, map, info, check, resize, internal snapshots, bitmaps. `hull
 * disk` and the machine's block commands build on these. All of them wait, turning the block's
 * loop. */
#ifndef HULL_BLOCK_IMAGE_H
#define HULL_BLOCK_IMAGE_H

#include "block/block.h"

enum block_prealloc { PREALLOC_OFF, PREALLOC_METADATA, PREALLOC_FALLOC, PREALLOC_FULL };

struct block_create {   /* zeroes mean the format's defaults */
    const char *file;   /* made, or emptied if it exists; must not be in use */
    const char *format; /* "raw", "qcow2" */
    uint64_t size;      /* bytes; 0 with a backing file: that one's size */
    const char *backing,
        *backing_format;    /* NULL: none; stored as given, resolved from `file`'s folder */
    bool backing_unchecked; /* do not open the backing file (then size is needed) */
    const char *data_file;  /* qcow2: external data file */
    bool data_file_raw;
    enum block_prealloc preallocation;
    uint32_t cluster_size;  /* qcow2: 512..2M, default 64K */
    uint32_t refcount_bits; /* qcow2: 1..64, default 16 */
    uint32_t version;       /* qcow2: 2 or 3 (compat=0.10, 1.1), default 3 */
    bool lazy_refcounts, extended_l2, zstd;
    bool (*stopped)(void); /* NULL, or asked while much is written: true gives it up */
};

/* Errors leave no half-made file behind (one that existed before stays, emptied). */
bool block_create(struct loop *loop, const struct block_create *c, struct err *err);

struct block_extent { /* part of a disk that is all alike, as `qemu-img map` tells it */
    uint64_t length;
    uint64_t host_offset; /* of the data in `node`'s file, if has_offset */
    bool present;         /* allocated in some layer */
    bool zero;            /* reads as zeroes */
    bool data;            /* has data of its own (also zero-filled holes do not count) */
    bool compressed, has_offset;
    unsigned depth;           /* 0: the image itself, 1: its backing file ... */
    const struct block *node; /* the layer that says so */
};

/* The extent that begins at `offset` (< b->size), through the whole chain. */
bool block_map(struct block *b, uint64_t offset, uint64_t length, struct block_extent *e,
               struct err *err);

struct block_info { /* strings live as long as the block */
    const char *format, *file;
    uint64_t virtual_size, file_end; /* file_end: highest offset in use, for check and measure */
    uint64_t disk_size;              /* bytes that the host's file system spends on it */
    uint32_t cluster_size;
    const char *backing, *backing_format, *backing_path; /* as stored; and resolved. NULL if none */
    const char *data_file;
    bool data_file_raw;
    /* qcow2 */
    uint32_t version, refcount_bits, snapshot_count, bitmap_count;
    bool lazy_refcounts, extended_l2, zstd, dirty, corrupt, encrypted;
};

void block_info(struct block *b, struct block_info *info);

enum { BLOCK_FIX_LEAKS = 1, BLOCK_FIX_ERRORS = 2 };

struct block_check {
    uint64_t corruptions, leaks, errors; /* errors: could not be checked (I/O) */
    uint64_t corruptions_fixed, leaks_fixed;
    uint64_t total_clusters, allocated, fragmented, compressed, image_end;
    void (*say)(struct block_check *c, const char *text);                 /* or NULL; one finding */
    void (*progress)(struct block_check *c, uint64_t done, uint64_t all); /* or NULL */
};

/* `say`, `progress` are the caller's; all else is filled in. False: could not check at all. A raw
 * image has nothing to check: ENOTSUP. */
bool block_check(struct block *b, unsigned fix, struct block_check *result, struct err *err);

/* Grows or shrinks. What is cut off is lost. */
bool block_resize(struct block *b, uint64_t size, enum block_prealloc prealloc, struct err *err);

struct block_snapshot {
    char id[64], name[256];
    uint64_t date_s, date_ns, vm_clock_ns, vm_state_size, disk_size;
    uint64_t icount; /* UINT64_MAX: none */
};

/* *list is the caller's to free(). */
bool block_snapshot_list(struct block *b, struct block_snapshot **list, unsigned *count,
                         struct err *err);
bool block_snapshot_create(struct block *b, const char *name, struct err *err);
bool block_snapshot_apply(struct block *b, const char *id_or_name, struct err *err);
bool block_snapshot_delete(struct block *b, const char *id_or_name, struct err *err);

/* Closes without writing back what is in memory: for an image that is given up and removed. */
void block_abandon(struct block *b);

/* Changes what the header says, not what the disk holds (unsafe rebase). NULL: no backing file. */
bool block_set_backing(struct block *b, const char *file, const char *format, struct err *err);

#endif
