/* SPDX-License-Identifier: MIT */
/* The machine's disks: images behind drives behind virtio-blk, and what drives tell the machine. */
#ifndef HULL_MACHINE_DISKS_H
#define HULL_MACHINE_DISKS_H

#include "block/drive.h"
#include "machine/machine.h"

bool disks_open(struct machine *m, struct err *err); /* and their devices */
/* Absolute, as headers and snapshots should have it. */
bool disk_path(const struct machine *m, char path[CONFIG_PATH], const char *name, struct err *err);
/* By its id ("disk0"); NULL with QEMU's error (ENOENT: DeviceNotFound). */
struct drive *disk_find(struct machine *m, const char *id, struct err *err);

#endif
