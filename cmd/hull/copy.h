/* SPDX-License-Identifier: MIT */
/* Copies of disk images: shared blocks where the file system can, else holes stay holes. */
#ifndef HULL_COPY_H
#define HULL_COPY_H

#include "base/err.h"

/* `to` is made (it must not exist) or, with a descriptor of an empty file, filled. Times are kept.
 */
bool copy_file(const char *from, const char *to, struct err *err);
bool copy_to_fd(const char *from, int to, const char *name, struct err *err);

#endif
