/* SPDX-License-Identifier: MIT */
/* The byte buffer under save and restore. Lengths from a stream are compared with what is left. */
#include "field/field.h"
#include <errno.h>
#include <stdlib.h>

bool stream_put(struct stream *s, const void *bytes, size_t len, struct err *err)
{
    if (len > SIZE_MAX / 4 - s->size)
        return err_set(err, EOVERFLOW, "the state is too large");
    if (s->size + len > s->capacity) {
        size_t capacity = (s->size + len) * 2 + 256;
        uint8_t *data = realloc(s->data, capacity);

        if (data == NULL)
            return err_set(err, ENOMEM, "no memory for %zu bytes of state", capacity);
        s->data = data;
        s->capacity = capacity;
    }
    if (len > 0)
        memcpy(s->data + s->size, bytes, len);
    s->size += len;
    return true;
}

bool stream_get(struct stream *s, void *bytes, size_t len, struct err *err)
{
    if (len > s->size - s->at)
        return err_set(err, EINVAL, "the state ends at byte %zu where %zu more are needed", s->at,
                       len);
    if (len > 0)
        memcpy(bytes, s->data + s->at, len);
    s->at += len;
    return true;
}

void stream_free(struct stream *s)
{
    free(s->data);
    memset(s, 0, sizeof *s);
}
