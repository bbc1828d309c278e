/* SPDX-License-Identifier: MIT */
/* Dirty bitmaps: which parts of a disk were written since a bitmap was cleared. Any node that users
 * see can have some; those of a qcow2 image may be persistent: loaded when it is opened, stored
 * when it is closed (block/qcow2/bitmap.c).
 *
 *   block_submit ... block_done -> block_bitmap_mark -> each bitmap that records
 *
 * A part is marked when its write has ended (well or not): a job that resets a part and then reads
 * it sees every write either in what it reads or in the bitmap. Everything here belongs to the
 * block's loop. Errors are worded as QEMU's, for programs that look at them. */
#ifndef HULL_BLOCK_BITMAP_H
#define HULL_BLOCK_BITMAP_H

#include "block/block.h"

struct block_bitmap {
    struct list link; /* block.bitmaps */
    struct block *b;
    char name[1024];      /* "": a job's own, not shown to users */
    uint32_t granularity; /* bytes that a bit stands for */
    bool recording;       /* enabled */
    bool persistent;
    bool inconsistent; /* its image was not closed properly: good for removal only */
    bool busy;         /* a job has it: users may not change it */
    /* bitmap.c's own */
    bool changed;          /* since it was loaded */
    uint64_t bits;         /* of the whole disk */
    uint64_t dirty;        /* of them, set */
    uint64_t *bit;         /* NULL: not loaded (a read-only image's); see block_bitmap_load */
    uint64_t *later;       /* frozen: what is written meanwhile */
    uint64_t stored_table; /* qcow2's: where it is in the file, or 0 */
    uint32_t stored_entries;
};

enum { BITMAP_PERSISTENT = 1, BITMAP_DISABLED = 2 };

/* NULL if there is none. Walk them all with list_for(i, &b->bitmaps). */
struct block_bitmap *block_bitmap_find(struct block *b, const char *name);
/* Empty; granularity 0: as large as clusters, 4 to 64 KiB. NULL on error. A name of "" makes one
 * that users cannot find; several may exist. */
struct block_bitmap *block_bitmap_add(struct block *b, const char *name, uint32_t granularity,
                                      unsigned flags, struct err *err);
bool block_bitmap_remove(struct block_bitmap *m, struct err *err);
bool block_bitmap_clear(struct block_bitmap *m, struct err *err);
bool block_bitmap_enable(struct block_bitmap *m, bool on, struct err *err);
/* Sets in `to` what is set in `from`: disks of one size, any granularities, any nodes. */
bool block_bitmap_merge(struct block_bitmap *to, struct block_bitmap *from, struct err *err);

/* May it be used by a job or a merge? Not if busy or inconsistent (the reason is in *err). */
bool block_bitmap_usable(const struct block_bitmap *m, struct err *err);

/* For jobs. Bytes; bits that the range touches in part count as a whole. */
void block_bitmap_set(struct block_bitmap *m, uint64_t offset, uint64_t length);
void block_bitmap_reset(struct block_bitmap *m, uint64_t offset, uint64_t length);
/* The first marked range at or after `offset`, not beyond the disk's end; false: none is left. */
bool block_bitmap_next(const struct block_bitmap *m, uint64_t offset, uint64_t *from,
                       uint64_t *length);
uint64_t block_bitmap_bytes(const struct block_bitmap *m); /* marked, as QEMU's "count" */

/* From freeze to thaw the bits stand still, busy is set, and what is written is noted aside.
 * Thaw: `done` keeps only what was noted (a backup has the rest), else both. */
bool block_bitmap_freeze(struct block_bitmap *m, struct err *err);
void block_bitmap_thaw(struct block_bitmap *m, bool done);

/* block.c and formats. */
void block_bitmap_mark(struct block *b, uint64_t offset, uint64_t length);
bool block_bitmap_load(struct block_bitmap *m, struct err *err);
bool block_bitmap_resize(struct block *b, uint64_t size,
                         struct err *err); /* new parts are marked */
void block_bitmap_free_all(struct block *b);
struct block_bitmap *block_bitmap_new(struct block *b, const char *name, uint32_t granularity,
                                      bool load, struct err *err); /* no checks of the name */
uint64_t block_bitmap_count_bits(const uint64_t *bit, uint64_t bits);

#endif
