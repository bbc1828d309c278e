/* SPDX-License-Identifier: MIT */
/* Calls from the socket to the server, answers back: one call per slot, as many at once as there
 * are slots, all in one thread. */
#include "remote.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

struct server;

struct slot {
    struct server *server;
    bool busy;
    struct remote_answer answer;
};

struct server {
    struct nbd_handle *nbd;
    uint64_t size;
    uint32_t can;
    uint8_t *memory;
    bool over; /* the other end is gone, or says nonsense */
    struct slot slot[REMOTE_SLOTS + 1];
};

static bool of_connection(int error)
{
    return error < 0 || error == ENOTCONN || error == ECONNRESET || error == EPIPE ||
           error == ESHUTDOWN;
}

/* A lost connection is an I/O error to a guest. */
static void answer(struct slot *s, int error)
{
    s->answer.error = of_connection(error) ? EIO : error;
    s->busy = false;
    if (send(HELPER_SOCKET_FD, &s->answer, sizeof s->answer, MSG_NOSIGNAL) != sizeof s->answer)
        s->server->over = true;
}

static int completed(void *data, int *error)
{
    answer(data, *error);
    return 1;
}

/* The first extent is what was asked for. */
static int got_extents(void *data, const char *context, uint64_t offset, uint32_t *entries,
                       size_t count, int *error)
{
    struct slot *s = data;

    (void)context, (void)offset, (void)error;
    if (count >= 2) {
        s->answer.length = entries[0];
        s->answer.state = entries[1] & (REMOTE_IS_HOLE | REMOTE_IS_ZERO);
    }
    return 0;
}

/* Hostile calls end here: a slot in use or unknown, a length that leaves its slot or the disk. */
static bool allowed(const struct server *v, const struct remote_call *c)
{
    bool data = c->op == REMOTE_READ || c->op == REMOTE_WRITE;
    uint32_t needs = c->op == REMOTE_READ || c->op == REMOTE_STATUS ? 0 : REMOTE_CAN_WRITE;

    needs |= c->op == REMOTE_FLUSH ? REMOTE_CAN_FLUSH : c->op == REMOTE_TRIM ? REMOTE_CAN_TRIM : 0;
    needs |= c->op == REMOTE_ZERO || c->op == REMOTE_ZERO_KEEP ? REMOTE_CAN_ZERO : 0;
    if (c->op > REMOTE_STATUS || c->slot > REMOTE_STATUS_SLOT || v->slot[c->slot].busy ||
        (data && c->slot == REMOTE_STATUS_SLOT) || (v->can & needs) != needs)
        return false;
    if (c->op == REMOTE_READ)
        return c->length <= REMOTE_SLOT_SIZE && c->offset <= INT64_MAX - c->length;
    return c->length <= (data ? REMOTE_SLOT_SIZE : REMOTE_SPAN) && c->offset <= v->size &&
           c->length <= v->size - c->offset;
}

/* Behind the end are zeroes. */
static int64_t start_read(struct server *v, const struct remote_call *c, uint8_t *memory,
                          nbd_completion_callback done)
{
    uint64_t there = c->offset < v->size ? min_u64(c->length, v->size - c->offset) : 0;

    memset(memory + there, 0, c->length - there);
    if (there)
        return nbd_aio_pread(v->nbd, memory, there, c->offset, done, 0);
    answer(&v->slot[c->slot], 0);
    return 0;
}

static int64_t start_call(struct server *v, const struct remote_call *c)
{
    struct slot *s = &v->slot[c->slot];
    uint8_t *memory = v->memory + (size_t)(c->slot % REMOTE_SLOTS) * REMOTE_SLOT_SIZE;
    nbd_completion_callback done = {.callback = completed, .user_data = s};
    nbd_extent_callback extents = {.callback = got_extents, .user_data = s};

    switch ((enum remote_op)c->op) {
    case REMOTE_READ: return start_read(v, c, memory, done);
    case REMOTE_WRITE: return nbd_aio_pwrite(v->nbd, memory, c->length, c->offset, done, 0);
    case REMOTE_FLUSH: return nbd_aio_flush(v->nbd, done, 0);
    case REMOTE_TRIM: return nbd_aio_trim(v->nbd, c->length, c->offset, done, 0);
    case REMOTE_ZERO: return nbd_aio_zero(v->nbd, c->length, c->offset, done, 0);
    case REMOTE_ZERO_KEEP:
        return nbd_aio_zero(v->nbd, c->length, c->offset, done, LIBNBD_CMD_FLAG_NO_HOLE);
    case REMOTE_STATUS: break;
    }
    /* Until the server says otherwise, all is data. */
    s->answer.length = c->length;
    if (nbd_can_meta_context(v->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1)
        return nbd_aio_block_status(v->nbd, c->length, c->offset, extents, done, 0);
    answer(s, 0);
    return 0;
}

static void take_calls(struct server *v)
{
    struct remote_call c;
    ssize_t n;

    while (!v->over && (n = recv(HELPER_SOCKET_FD, &c, sizeof c, MSG_DONTWAIT)) != -1) {
        struct slot *s;

        if (n != sizeof c || !allowed(v, &c)) {
            v->over = true;
            return;
        }
        s = &v->slot[c.slot];
        s->busy = true;
        s->answer = (struct remote_answer){.slot = c.slot};
        if (start_call(v, &c) < 0 && s->busy)
            answer(s, EIO);
    }
}

static short events_of(const struct server *v)
{
    unsigned direction = nbd_aio_get_direction(v->nbd);

    return (short)((direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
                   (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
}

bool serve(struct nbd_handle *nbd, uint64_t size, uint32_t can, uint8_t *memory, struct err *err)
{
    struct server v = {.nbd = nbd, .size = size, .can = can, .memory = memory};

    for (unsigned i = 0; i <= REMOTE_SLOTS; i++)
        v.slot[i].server = &v;
    while (!v.over) {
        struct pollfd p[2] = {{.fd = HELPER_SOCKET_FD, .events = POLLIN},
                              {.fd = nbd_aio_get_fd(nbd), .events = events_of(&v)}};

        if (nbd_aio_is_dead(nbd) || nbd_aio_is_closed(nbd))
            return err_set(err, EIO, "the server is gone");
        if (poll(p, 2, -1) < 0 && errno != EINTR)
            return err_set(err, errno, "poll: %s", strerror(errno));
        if (p[1].revents & (POLLIN | POLLHUP | POLLERR))
            nbd_aio_notify_read(nbd);
        else if (p[1].revents & POLLOUT)
            nbd_aio_notify_write(nbd);
        if (p[0].revents)
            take_calls(&v);
    }
    return true;
}
