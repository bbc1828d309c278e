/* SPDX-License-Identifier: MIT */
/* Errors are built in place, in the caller's struct: each layer that passes one on may put its own
 * context in front, so that the user reads "disk0: cannot open 'a.qcow2': Permission denied". */
#include "base/err.h"
#include <stdarg.h>
#include <stdio.h>

bool err_set(struct err *err, int code, const char *fmt, ...)
{
    char text[sizeof err->text]; /* the arguments may point into err */
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    err->code = code;
    memcpy(err->text, text, sizeof text);
    return false;
}

bool err_wrap(struct err *err, const char *fmt, ...)
{
    char text[sizeof err->text];
    size_t used, room;
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    used = strlen(text);
    room = sizeof text - used;
    if (room > 3) { /* the context wins over the tail of the cause */
        size_t keep = min_size(strlen(err->text), room - 3);

        memcpy(text + used, ": ", 2);
        memcpy(text + used + 2, err->text, keep);
        text[used + 2 + keep] = '\0';
    }
    memcpy(err->text, text, strlen(text) + 1);
    return false;
}
