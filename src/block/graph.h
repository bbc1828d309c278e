/* SPDX-License-Identifier: MIT */
/* Changes to the chain of images below a drive, while nothing is under way in it. What is durable
 * comes first: whenever the process is killed, the names in the headers lead to a whole disk. */
#ifndef HULL_BLOCK_GRAPH_H
#define HULL_BLOCK_GRAPH_H

#include "block/drive.h"

/* How far below `root` it is: 0 for itself; -1: not in its chain. */
int graph_depth(const struct block *root, const struct block *node);
/* By node name or file name; NULL if it is not in the chain. */
struct block *graph_find(struct block *root, const char *name);
/* Whose backing image `node` is. */
struct block *graph_above(struct block *root, const struct block *node);

/* Drained. `overlay`, opened alone, takes the guest's writes from now on; what is below it may be
 * read by others. */
bool graph_push(struct drive *d, struct block *overlay, struct err *err);
/* Drained. Closes the images between `over` and `base` (NULL: all below), after the header of
 * `over` names `base` as `name` (NULL: its file). */
bool graph_cut(struct block *over, struct block *base, const char *name, struct err *err);
/* A backing image becomes writable: opened anew if it has to be, so the pointer may change. Nothing
 * may be under way above it. */
bool graph_make_writable(struct block *over, struct block **base, struct err *err);
/* Image locks as file.c has them: an image that is only read may be shared. */
bool graph_lock(const struct block *b, bool exclusive, struct err *err);

#endif
