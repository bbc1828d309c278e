/* SPDX-License-Identifier: MIT */
/* Disks exported by NBD: the machine's end of hull-nbd. */
#ifndef HULL_MACHINE_NBD_H
#define HULL_MACHINE_NBD_H

#include "machine/machine.h"

/* Starts hull-nbd if --nbd was given; before there is guest memory. */
bool nbd_open(struct machine *m, struct err *err);
bool nbd_listen(struct machine *m, struct err *err); /* once there is a loop */
void nbd_close(struct machine *m);                   /* accepts none */
void nbd_resized(struct machine *m, const struct drive *d);
/* Its image is another one: bitmaps stay with the old. */
void nbd_replaced(struct machine *m, const struct drive *d);
/* Looks at a chain of images, which may not change meanwhile. */
bool nbd_looks(const struct machine *m);

#endif
