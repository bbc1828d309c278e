/* SPDX-License-Identifier: MIT */
/* Writes guest memory to a file through the loop, while the guest runs or stands still.
 *
 *   memory_want_all | memory_want_dirty -> want: bit per page -> memory_save -> done()
 *
 * Pages that are written while a pass goes over them are dirty again and belong to the next pass,
 * so a torn copy never stays. The file has the layout of mem_file_offset. */
#ifndef HULL_MACHINE_MEMORY_SAVE_H
#define HULL_MACHINE_MEMORY_SAVE_H

#include "engine/engine.h"
#include "field/field.h"
#include "loop/loop.h"
#include "loop/uring.h"

#define MEMORY_CHUNKS 4

struct memory_saver;

struct memory_chunk {
    struct file_req req;
    struct iovec iov;
    struct memory_saver *saver;
    bool busy;
};

struct memory_saver {
    struct vm *vm;
    struct loop *loop;
    int fd;
    void (*done)(struct memory_saver *s); /* a pass is over: see `error` */
    int error;                            /* negative errno of the first failure, 0 */
    uint64_t *want[MEM_REGIONS_MAX];      /* pages of this pass */
    uint64_t *held[MEM_REGIONS_MAX];      /* pages that the file holds */
    uint64_t wanted, saved, bytes;        /* pages, pages of all passes; bytes really written */
    bool fresh; /* nothing was written yet: pages of zeroes may stay holes */
    bool running;
    unsigned in_flight;
    unsigned region;
    uint64_t page;               /* where the pass stands */
    uint64_t data_from, data_to; /* pages known to exist, in `region` */
    struct call again;
    struct memory_chunk chunk[MEMORY_CHUNKS];
};

bool memory_saver_open(struct memory_saver *s, struct vm *vm, struct loop *loop, int fd,
                       struct err *err);
void memory_saver_close(struct memory_saver *s); /* waits for writes in flight; idempotent */
void memory_want_all(struct memory_saver *s);
/* Adds what was written since the last call, by guest and devices; how many pages are wanted now.
 */
uint64_t memory_want_dirty(struct memory_saver *s);
/* Adds what differs from the saved memory that this process maps privately: pages that are not the
 * file's any more. `pagemap` is /proc/self/pagemap; the log runs already. */
bool memory_want_written(struct memory_saver *s, int pagemap, struct err *err);
/* Forgets what was written so far: what is dirty from here on is newer than this call. */
void memory_forget_dirty(struct vm *vm);
void memory_save(struct memory_saver *s); /* one pass over what is wanted */
/* The map of held pages, region after region, as section "pages" has it. */
bool memory_held(const struct memory_saver *s, struct stream *out, struct err *err);

#endif
