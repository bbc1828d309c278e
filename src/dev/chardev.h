/* SPDX-License-Identifier: MIT */
/* A stream of bytes between a device (the front: a UART, a virtio port) and the host: terminal,
 * file, socket. Back-pressure in both directions; nothing is lost, nothing grows without bound.
 *
 * A chardev and its front belong to the main loop. Devices whose registers run in vCPU threads use
 * struct chardev_out, which takes bytes under the device's lock and writes them from the loop. */
#ifndef HULL_DEV_CHARDEV_H
#define HULL_DEV_CHARDEV_H

#include "base/err.h"
#include "loop/loop.h"
#include <pthread.h>

struct chardev;
struct chardev_front;

struct chardev_ops {
    /* Takes what it can and returns how much; if that is less than `len`, writable() follows later.
     */
    size_t (*write)(struct chardev *c, const uint8_t *bytes, size_t len);
    void (*wanted)(struct chardev *c); /* the front has room again: read on */
    void (*close)(struct chardev *c);  /* frees it */
};

struct chardev {
    const struct chardev_ops *ops;
    struct loop *loop;
    struct chardev_front *front; /* NULL: nobody listens, nothing is read */
};

struct chardev_front_ops {                   /* called from the loop; any may be NULL */
    size_t (*room)(struct chardev_front *f); /* bytes that receive() will take */
    void (*receive)(struct chardev_front *f, const uint8_t *bytes, size_t len); /* len <= room() */
    void (*writable)(struct chardev_front *f);
    void (*connected)(struct chardev_front *f, bool yes); /* the other side came or went */
};

struct chardev_front {
    const struct chardev_front_ops *ops;
};

/* NULL on error. The chardev owns descriptors and paths it is given or makes. */
struct chardev *chardev_open_null(struct loop *loop, struct err *err);
/* `in` or `out` may be -1, or the same socket. Regular files and /dev/null are fine too. */
struct chardev *chardev_open_fd(struct loop *loop, int in, int out, struct err *err);
struct chardev *chardev_open_file(struct loop *loop, const char *path,
                                  struct err *err); /* output, truncated */
/* Listens on `path`, one client at a time; while there is none, output is dropped. A stale socket
 * is replaced, a live one is an error. close removes the path. */
struct chardev *chardev_open_unix(struct loop *loop, const char *path, struct err *err);
/* "none", "stdio", "file:F", "unix:S" or "fd:N". */
struct chardev *chardev_open(struct loop *loop, const char *spec, struct err *err);

static inline size_t chardev_write(struct chardev *c, const uint8_t *bytes, size_t len)
{
    return c->ops->write(c, bytes, len);
}

static inline void chardev_wanted(struct chardev *c)
{
    c->ops->wanted(c);
}

/* `front` NULL takes it off. It must outlive its place here. */
static inline void chardev_set_front(struct chardev *c, struct chardev_front *front)
{
    c->front = front;
    if (front)
        chardev_wanted(c);
}

static inline void chardev_close(struct chardev *c) /* accepts NULL */
{
    if (c)
        c->ops->close(c);
}

/* ---- output from vCPU threads ---- */

#define CHARDEV_OUT_MAX 8192

struct chardev_out {
    struct chardev *chardev; /* NULL: bytes vanish */
    struct loop *loop;
    pthread_mutex_t *lock; /* the device's: held by the callers of put, taken by the loop's side */
    void (*drained)(struct chardev_out *o); /* under the lock, after room came back; may be NULL */
    struct call flush;
    uint32_t head, count; /* in `ring` */
    uint8_t ring[CHARDEV_OUT_MAX];
};

/* Set chardev, loop, lock and drained, then open. close waits for nothing: bytes left are tried
 * once. */
void chardev_out_open(struct chardev_out *o);
void chardev_out_close(struct chardev_out *o); /* accepts one that was never opened */
bool chardev_out_full(const struct chardev_out *o);
void chardev_out_put(struct chardev_out *o, uint8_t byte); /* dropped if full */
void chardev_out_writable(struct chardev_out *o);          /* from the front's writable() */

#endif
