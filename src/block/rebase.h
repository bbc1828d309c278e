/* SPDX-License-Identifier: MIT */
/* Changes to the chain of an image at rest: another backing file below it, or its data into a
 * backing file. For tools; running disks have jobs (block/job.h). Everything waits. */
#ifndef HULL_BLOCK_REBASE_H
#define HULL_BLOCK_REBASE_H

#include "block/block.h"

struct block_walk {
    bool (*go_on)(struct block_walk *w, uint64_t done, uint64_t all); /* false: ECANCELED */
};

/* `b`, open for writing over its old backing file, gets the new one (NULL or "": none) and holds
 * what it held. Stopped half-way it still stands on the old one, and holds the same. `format` ""
 * is found by looking. */
bool block_rebase(struct block *b, const char *backing, const char *format, struct block_walk *w,
                  struct err *err);
/* What `b` and the images between have goes into `base`, a file in its chain (NULL: the backing
 * file). `b` holds the same, also when stopped half-way; what is between does not any more. */
bool block_commit(struct block *b, const char *base, struct block_walk *w, struct err *err);
/* An overlay, opened alone: nothing is in it any more. */
bool block_make_empty(struct block *b, struct err *err);

#endif
