/* SPDX-License-Identifier: MIT */
/* Host ends of byte streams: null, a pair of descriptors, a file, a listening UNIX socket.
 *
 * One struct fdchar serves all that have descriptors. It reads only while the front has room and
 * waits for "writable" only after a short write. Descriptors may be shared with other programs (a
 * terminal), so they are never set to O_NONBLOCK: poll(2) says whether a small piece will go. */
#include "dev/chardev.h"
#include "loop/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define READ_MAX  4096
#define PIECE_MAX 256 /* what a terminal or pipe takes without blocking once poll says POLLOUT */

struct fdchar {
    struct chardev c;
    struct listener listener;
    struct watch in, out;           /* out is unused if both directions share a descriptor */
    struct call poll_in;            /* reads files that epoll refuses */
    bool shared, in_file, out_file; /* one socket; a regular file or the like on either side */
    bool want_out, ended, dead;     /* a write was short; input ended; output failed */
    char path[108];                 /* of the socket, to remove */
};

static struct fdchar *fdchar_of(struct chardev *c)
{
    return container_of(c, struct fdchar, c);
}

static size_t front_room(const struct chardev *c)
{
    return c->front && c->front->ops->room ? c->front->ops->room(c->front) : 0;
}

static void front_writable(struct chardev *c)
{
    if (c->front && c->front->ops->writable)
        c->front->ops->writable(c->front);
}

static void front_connected(struct chardev *c, bool yes)
{
    if (c->front && c->front->ops->connected)
        c->front->ops->connected(c->front, yes);
}

/* ---- what to wait for ---- */

static void fdchar_update(struct fdchar *f)
{
    bool want_in = f->in.fd >= 0 && !f->ended && front_room(&f->c) > 0;
    uint32_t in = want_in ? EPOLLIN : 0;

    if (f->shared)
        in |= f->want_out ? EPOLLOUT : 0;
    if (f->in_file && want_in)
        loop_post(f->c.loop, &f->poll_in);
    if (f->in.active && f->in.events != in)
        loop_rewatch(f->c.loop, &f->in, in);
    if (f->out.active && f->out.events != (f->want_out ? EPOLLOUT : 0u))
        loop_rewatch(f->c.loop, &f->out, f->want_out ? EPOLLOUT : 0);
}

/* No more input. A socket's client has gone: the next may come. Elsewhere output may go on. */
static void fdchar_end(struct fdchar *f)
{
    f->ended = true;
    if (!f->listener.watch.active)
        return;
    loop_forget(f->c.loop, &f->in);
    close(f->in.fd);
    f->in.fd = f->out.fd = -1;
    f->want_out = false;
    listener_resume(&f->listener);
    front_connected(&f->c, false);
    front_writable(&f->c); /* what it holds back is now dropped */
}

/* epoll reports a hangup for ever, so its watch must go. A pipe may still hold bytes: they are read
 * as from a file. */
static void fdchar_hangup(struct fdchar *f)
{
    if (f->shared || f->ended) {
        fdchar_end(f);
        f->dead = f->shared && !f->listener.watch.active;
    } else {
        f->in_file = true;
    }
    loop_forget(f->c.loop, &f->in);
}

/* ---- input ---- */

static void fdchar_read(struct fdchar *f)
{
    uint8_t bytes[READ_MAX];
    size_t room = min_size(front_room(&f->c), sizeof bytes);
    ssize_t got;

    if (!room || f->ended || f->in.fd < 0)
        return;
    got = read(f->in.fd, bytes, room);
    if (got > 0)
        f->c.front->ops->receive(f->c.front, bytes, (size_t)got);
    else if (got == 0 || (errno != EAGAIN && errno != EINTR))
        fdchar_end(f);
}

static void fdchar_poll_in(struct call *call)
{
    struct fdchar *f = container_of(call, struct fdchar, poll_in);

    fdchar_read(f);
    fdchar_update(f);
}

static void fdchar_ready_in(struct watch *w, uint32_t events)
{
    struct fdchar *f = container_of(w, struct fdchar, in);

    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        fdchar_read(f);
    if (w->active && (events & (EPOLLHUP | EPOLLERR)) && (f->ended || !front_room(&f->c)))
        fdchar_hangup(f);
    if ((events & EPOLLOUT) && f->want_out) {
        f->want_out = false;
        front_writable(&f->c);
    }
    fdchar_update(f);
}

static void fdchar_ready_out(struct watch *w, uint32_t events)
{
    struct fdchar *f = container_of(w, struct fdchar, out);

    if (events & (EPOLLHUP | EPOLLERR)) {
        f->dead = true;
        loop_forget(f->c.loop, w);
    }
    f->want_out = false;
    front_writable(&f->c);
    fdchar_update(f);
}

/* ---- output ---- */

/* One piece: bytes written, 0: not now, -1: never again. */
static ssize_t fdchar_write_piece(struct fdchar *f, const uint8_t *bytes, size_t len)
{
    struct pollfd p = {.fd = f->out.fd, .events = POLLOUT};
    ssize_t n;

    if (f->shared) {
        n = send(f->out.fd, bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    } else {
        if (!f->out_file && poll(&p, 1, 0) == 1 && (p.revents & (POLLERR | POLLNVAL)))
            return -1;
        if (!f->out_file && !(p.revents & POLLOUT))
            return 0;
        n = write(f->out.fd, bytes, f->out_file ? len : min_size(len, PIECE_MAX));
    }
    if (n >= 0)
        return n;
    return errno == EAGAIN || errno == EINTR ? 0 : -1;
}

static size_t fdchar_write(struct chardev *c, const uint8_t *bytes, size_t len)
{
    struct fdchar *f = fdchar_of(c);
    size_t done = 0;

    if (f->out.fd < 0 || f->dead)
        return len;
    while (done < len) {
        ssize_t n = fdchar_write_piece(f, bytes + done, len - done);

        if (n < 0) {
            f->dead = !f->listener.watch.active; /* a client's hangup comes through its watch */
            return len;
        }
        if (n == 0)
            break;
        done += (size_t)n;
    }
    if (done < len) {
        f->want_out = true;
        fdchar_update(f);
    }
    return done;
}

static void fdchar_wanted(struct chardev *c)
{
    fdchar_update(fdchar_of(c));
}

/* ---- opening and closing ---- */

static void fdchar_close(struct chardev *c)
{
    struct fdchar *f = fdchar_of(c);

    loop_forget(c->loop, &f->in);
    loop_forget(c->loop, &f->out);
    listener_close(&f->listener);
    c->front = NULL;
    loop_unpost(c->loop, &f->poll_in);
    if (f->in.fd > STDERR_FILENO)
        close(f->in.fd);
    if (f->out.fd > STDERR_FILENO && f->out.fd != f->in.fd)
        close(f->out.fd);
    if (f->path[0])
        unlink(f->path);
    free(f);
}

static const struct chardev_ops fdchar_ops = {fdchar_write, fdchar_wanted, fdchar_close};

static struct fdchar *fdchar_new(struct loop *loop, struct err *err)
{
    struct fdchar *f = calloc(1, sizeof *f);

    if (!f) {
        err_set(err, ENOMEM, "no memory for a character device");
        return NULL;
    }
    f->c.ops = &fdchar_ops;
    f->c.loop = loop;
    f->in.fd = f->out.fd = -1;
    f->in.ready = fdchar_ready_in;
    f->out.ready = fdchar_ready_out;
    f->poll_in.run = fdchar_poll_in;
    return f;
}

static bool is_socket(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode);
}

/* Watches `w`, or finds that it is a file that epoll refuses because it never makes anyone wait. */
static bool fdchar_watch(struct fdchar *f, struct watch *w, bool *file, struct err *err)
{
    w->events = 0;
    if (w->fd < 0 || loop_watch(f->c.loop, w, err))
        return true;
    *file = err->code == EPERM;
    return *file;
}

struct chardev *chardev_open_fd(struct loop *loop, int in, int out, struct err *err)
{
    struct fdchar *f = fdchar_new(loop, err);

    if (!f)
        return NULL;
    f->in.fd = in;
    f->out.fd = out;
    f->shared = in >= 0 && in == out && is_socket(in);
    if (!fdchar_watch(f, &f->in, &f->in_file, err))
        goto close;
    /* A terminal opened once: epoll takes a descriptor once. */
    if (in >= 0 && in == out && !f->shared) {
        f->out.fd = fcntl(out, F_DUPFD_CLOEXEC, 3);
        if (f->out.fd < 0) {
            err_set(err, errno, "dup: %s", strerror(errno));
            goto close;
        }
    }
    if (!f->shared && !fdchar_watch(f, &f->out, &f->out_file, err))
        goto close;
    return &f->c;
close:
    fdchar_close(&f->c);
    return NULL;
}

struct chardev *chardev_open_file(struct loop *loop, const char *path, struct err *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    if (fd < 0) {
        err_set(err, errno, "%s: %s", path, strerror(errno));
        return NULL;
    }
    return chardev_open_fd(loop, -1, fd, err);
}

static void fdchar_accept(struct watch *w, uint32_t events)
{
    struct fdchar *f = container_of(w, struct fdchar, listener.watch);
    int fd = listener_accept(&f->listener);
    struct err err;

    if (fd < 0)
        return;
    f->in.fd = f->out.fd = fd;
    f->shared = true;
    f->ended = f->want_out = false;
    f->in.events = 0;
    if (!loop_watch(f->c.loop, &f->in, &err)) {
        f->in.fd = f->out.fd = -1;
        close(fd);
        return;
    }
    listener_pause(&f->listener); /* the next one waits in the backlog */
    front_connected(&f->c, true);
    fdchar_update(f);
}

struct chardev *chardev_open_unix(struct loop *loop, const char *path, struct err *err)
{
    struct fdchar *f = fdchar_new(loop, err);
    int fd;

    if (!f)
        return NULL;
    fd = listen_unix(path, 1, err);
    if (fd < 0)
        goto close;
    snprintf(f->path, sizeof f->path, "%s", path);
    if (listener_open(&f->listener, loop, fd, fdchar_accept, err))
        return &f->c;
close:
    fdchar_close(&f->c);
    return NULL;
}

struct chardev *chardev_open_null(struct loop *loop, struct err *err)
{
    return chardev_open_fd(loop, -1, -1, err);
}

struct chardev *chardev_open(struct loop *loop, const char *spec, struct err *err)
{
    char *end;
    long fd;

    if (!strcmp(spec, "none") || !*spec)
        return chardev_open_null(loop, err);
    if (!strcmp(spec, "stdio"))
        return chardev_open_fd(loop, STDIN_FILENO, STDOUT_FILENO, err);
    if (!strncmp(spec, "file:", 5))
        return chardev_open_file(loop, spec + 5, err);
    if (!strncmp(spec, "unix:", 5))
        return chardev_open_unix(loop, spec + 5, err);
    if (!strncmp(spec, "fd:", 3)) {
        fd = strtol(spec + 3, &end, 10);
        if (spec[3] && !*end && fd >= 0 && fcntl((int)fd, F_GETFD) >= 0)
            return chardev_open_fd(loop, (int)fd, (int)fd, err);
    }
    err_set(err, EINVAL, "%s: want none, stdio, file:F, unix:S or fd:N", spec);
    return NULL;
}

/* ---- output from vCPU threads ---- */

static void out_flush(struct call *call)
{
    struct chardev_out *o = container_of(call, struct chardev_out, flush);
    uint8_t bytes[CHARDEV_OUT_MAX];
    uint32_t count, done;

    /* Copied under the lock, written without it: a vCPU never waits for the host's write. */
    pthread_mutex_lock(o->lock);
    count = o->count;
    for (uint32_t i = 0; i < count; i++)
        bytes[i] = o->ring[(o->head + i) % CHARDEV_OUT_MAX];
    pthread_mutex_unlock(o->lock);
    done = count ? (uint32_t)chardev_write(o->chardev, bytes, count) : 0;
    pthread_mutex_lock(o->lock);
    o->head = (o->head + done) % CHARDEV_OUT_MAX;
    o->count -= done;
    if (done && o->drained)
        o->drained(o);
    if (o->count && done == count) /* came meanwhile */
        loop_post(o->loop, &o->flush);
    pthread_mutex_unlock(o->lock);
}

void chardev_out_open(struct chardev_out *o)
{
    o->flush.run = out_flush;
}

void chardev_out_close(struct chardev_out *o)
{
    if (!o->flush.run || !o->chardev || !o->loop)
        return;
    loop_unpost(o->loop, &o->flush);
    out_flush(&o->flush);
}

bool chardev_out_full(const struct chardev_out *o)
{
    return o->count == CHARDEV_OUT_MAX;
}

void chardev_out_put(struct chardev_out *o, uint8_t byte)
{
    if (!o->chardev || chardev_out_full(o))
        return;
    o->ring[(o->head + o->count++) % CHARDEV_OUT_MAX] = byte;
    if (o->loop)
        loop_post(o->loop, &o->flush);
}

void chardev_out_writable(struct chardev_out *o)
{
    if (o->loop)
        loop_post(o->loop, &o->flush);
}
