/* SPDX-License-Identifier: MIT */
/* What can be done to a snapshot on disk, with the snapshots that it is based on. */
#ifndef HULL_LAYERS_H
#define HULL_LAYERS_H

#include "base/err.h"

/* Compares state and memory, of the bases too, with their checksums. */
bool layers_verify(const char *dir, struct err *err);
/* Fills the folder `part` with a whole snapshot that equals the partial one in `dir`. */
bool layers_flatten(const char *dir, const char *part, struct err *err);

#endif
