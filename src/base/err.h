/* SPDX-License-Identifier: MIT */
/* Errors: a code for programs, a sentence for people. No heap, no global. */
#ifndef HULL_BASE_ERR_H
#define HULL_BASE_ERR_H

#include "base/bits.h"

struct err {
    int code; /* positive errno value */
    char text[256];
};

/* Both return false, so a failing function ends with: return err_set(...); */
bool err_set(struct err *err, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);
bool err_wrap(struct err *err, const char *fmt, ...) PRINTF_LIKE(2, 3); /* puts context in front */

#endif
