/* SPDX-License-Identifier: MIT */
/* Images that QMP commands open and make: below disks, or waiting for one (blockdev-add). */
#ifndef HULL_MACHINE_NODES_H
#define HULL_MACHINE_NODES_H

#include "block/image.h"
#include "machine/machine.h"

struct node_options {
    const char *file, *format, *name; /* format "": look; name "": one is made */
    bool readonly, alone;             /* alone: what its header names is not opened */
    const struct block_config *like;  /* cache and aio; or NULL */
};

/* The image is the caller's. Errors say how the sandbox may allow the file. */
struct block *node_open(struct machine *m, const struct node_options *o, struct err *err);
bool node_create(struct machine *m, struct block_create *c, struct err *err);
bool node_name_free(struct machine *m, const char *name, struct err *err);

/* A free node by name; NULL with an error. */
struct block *node_find(struct machine *m, const char *name, struct err *err);
/* Takes it for a disk or a job; node_release gives it back, or closes what blockdev-add did not
 * open. */
struct block *node_take(struct machine *m, const char *name, struct err *err);
/* A disk has it now, for good. */
void node_forget(struct machine *m, struct block *b);
void node_release(struct machine *m, struct block *b);
void nodes_close(struct machine *m);

#endif
