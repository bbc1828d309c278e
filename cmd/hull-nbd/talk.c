/* SPDX-License-Identifier: MIT */
/* NBD's transmission phase, one request after the other: a client that wants several under way
 * opens several connections, which this server allows. Data passes through the connection's slot,
 * a slot's worth at a time. */
#include "nbd.h"
#include "protocol.h"
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

struct request {
    uint16_t flags, type;
    uint8_t cookie[8];
    uint64_t offset;
    uint32_t length;
};

bool talk_read(int fd, void *to, size_t len)
{
    uint8_t *p = to;

    while (len) {
        ssize_t n = recv(fd, p, len, 0);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        p += n;
        len -= (size_t)n;
    }
    return true;
}

bool talk_write(int fd, const void *from, size_t len)
{
    const uint8_t *p = from;

    while (len) {
        ssize_t n = send(fd, p, len, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        p += n;
        len -= (size_t)n;
    }
    return true;
}

/* The errors that the protocol knows have Linux's numbers. */
static uint32_t wire_error(int error)
{
    switch (error) {
    case 0:
    case EPERM:
    case EIO:
    case ENOMEM:
    case EINVAL:
    case ENOSPC:
    case EOVERFLOW:
    case EOPNOTSUPP:
    case ESHUTDOWN: return (uint32_t)error;
    case EROFS: return EPERM;
    default: return EIO;
    }
}

static bool simple(struct connection *c, const struct request *r, int error)
{
    uint8_t head[16];

    put_be32(head, NBD_SIMPLE_MAGIC);
    put_be32(head + 4, wire_error(error));
    memcpy(head + 8, r->cookie, 8);
    return talk_write(c->fd, head, sizeof head);
}

static bool chunk(struct connection *c, const struct request *r, unsigned flags, unsigned type,
                  uint32_t length)
{
    uint8_t head[20];

    put_be32(head, NBD_STRUCTURED_MAGIC);
    put_be16(head + 4, (uint16_t)flags);
    put_be16(head + 6, (uint16_t)type);
    memcpy(head + 8, r->cookie, 8);
    put_be32(head + 16, length);
    return talk_write(c->fd, head, sizeof head);
}

static bool error_reply(struct connection *c, const struct request *r, int error)
{
    uint8_t data[6] = {0};

    if (!c->structured || !error)
        return simple(c, r, error);
    put_be32(data, wire_error(error));
    return chunk(c, r, NBD_CHUNK_DONE, NBD_CHUNK_ERROR, sizeof data) &&
           talk_write(c->fd, data, sizeof data);
}

static bool send_piece(struct server *s, struct connection *c, const struct request *r,
                       uint64_t done, uint32_t n)
{
    uint8_t offset[8];

    if (!c->structured)
        return (done || simple(c, r, 0)) && talk_write(c->fd, slot_of(s, c), n);
    put_be64(offset, r->offset + done);
    return chunk(c, r, done + n == r->length ? NBD_CHUNK_DONE : 0, NBD_CHUNK_DATA, 8 + n) &&
           talk_write(c->fd, offset, 8) && talk_write(c->fd, slot_of(s, c), n);
}

static bool do_read(struct server *s, struct connection *c, const struct request *r)
{
    for (uint64_t done = 0; done < r->length;) {
        uint32_t n = (uint32_t)min_u64(NBD_SLOT_SIZE, r->length - done);
        int error = link_ask(s, c, NBD_OP_READ, 0, r->offset + done, n);

        if (error) /* after data, a simple reply has no place for an error */
            return (c->structured || !done) && error_reply(c, r, error);
        if (!send_piece(s, c, r, done, n))
            return false;
        done += n;
    }
    return true;
}

static bool do_write(struct server *s, struct connection *c, const struct request *r, int error)
{
    unsigned flags = r->flags & NBD_CMD_FLAG_FUA ? NBD_OP_FUA : 0;

    for (uint64_t done = 0; done < r->length;) {
        uint32_t n = (uint32_t)min_u64(NBD_SLOT_SIZE, r->length - done);

        if (!talk_read(c->fd, slot_of(s, c), n))
            return false;
        if (!error)
            error = link_ask(s, c, NBD_OP_WRITE, flags, r->offset + done, n);
        done += n;
    }
    return error_reply(c, r, error);
}

static bool status_of(struct server *s, struct connection *c, const struct request *r, bool bitmap,
                      bool last)
{
    const struct nbd_extent *e = (const void *)slot_of(s, c);
    uint8_t data[4 + NBD_EXTENTS * 8];
    int error = link_ask(s, c, bitmap ? NBD_OP_BITMAP : NBD_OP_STATUS, 0, r->offset, r->length);
    uint32_t count = (uint32_t)min_u64(c->count, r->flags & NBD_CMD_FLAG_ONE ? 1 : NBD_EXTENTS);

    if (error || !count)
        return error_reply(c, r, error ? error : EIO);
    put_be32(data, bitmap ? NBD_ID_BITMAP : NBD_ID_ALLOCATION);
    for (uint32_t i = 0; i < count; i++) {
        put_be32(data + 4 + (size_t)i * 8, e[i].length);
        put_be32(data + 8 + (size_t)i * 8, e[i].flags);
    }
    return chunk(c, r, last ? NBD_CHUNK_DONE : 0, NBD_CHUNK_STATUS, 4 + count * 8) &&
           talk_write(c->fd, data, 4 + (size_t)count * 8);
}

static bool do_status(struct server *s, struct connection *c, const struct request *r)
{
    if (!c->structured || (!c->allocation && !c->dirty))
        return error_reply(c, r, EINVAL);
    return (!c->allocation || status_of(s, c, r, false, !c->dirty)) &&
           (!c->dirty || status_of(s, c, r, true, true));
}

static int check(struct server *s, struct connection *c, const struct request *r)
{
    bool writes = r->type == NBD_CMD_WRITE || r->type == NBD_CMD_TRIM || r->type == NBD_CMD_ZEROES;
    struct export e;

    pthread_mutex_lock(&s->lock);
    e = s->export[c->export];
    pthread_mutex_unlock(&s->lock);
    if (!e.used)
        return ESHUTDOWN;
    if (writes && !e.writable)
        return EPERM;
    if (r->type == NBD_CMD_FLUSH)
        return 0;
    if (r->offset > e.size || r->length > e.size - r->offset)
        return r->type == NBD_CMD_WRITE ? ENOSPC : EINVAL;
    return !r->length || (r->offset | r->length) % 512 ? EINVAL : 0;
}

static bool obey(struct server *s, struct connection *c, const struct request *r)
{
    unsigned flags = (r->flags & NBD_CMD_FLAG_FUA ? NBD_OP_FUA : 0u) |
                     (r->flags & NBD_CMD_FLAG_NO_HOLE ? NBD_OP_NO_HOLE : 0u);
    int error = check(s, c, r);

    if (r->type == NBD_CMD_WRITE)
        return r->length <= NBD_REQUEST_MAX && do_write(s, c, r, error);
    if (r->type == NBD_CMD_READ && r->length > NBD_REQUEST_MAX)
        error = EINVAL;
    if (error)
        return error_reply(c, r, error);
    switch (r->type) {
    case NBD_CMD_READ: return do_read(s, c, r);
    case NBD_CMD_STATUS: return do_status(s, c, r);
    case NBD_CMD_FLUSH: return error_reply(c, r, link_ask(s, c, NBD_OP_FLUSH, 0, 0, 0));
    case NBD_CMD_TRIM:
        return error_reply(c, r, link_ask(s, c, NBD_OP_TRIM, flags, r->offset, r->length));
    case NBD_CMD_ZEROES:
        return error_reply(c, r, link_ask(s, c, NBD_OP_ZERO, flags, r->offset, r->length));
    default: return error_reply(c, r, EINVAL);
    }
}

static bool next(struct connection *c, struct request *r)
{
    uint8_t head[28];

    if (!talk_read(c->fd, head, sizeof head) || be32(head) != NBD_REQUEST_MAGIC)
        return false;
    *r = (struct request){.flags = be16(head + 4),
                          .type = be16(head + 6),
                          .offset = be64(head + 16),
                          .length = be32(head + 24)};
    memcpy(r->cookie, head + 8, 8);
    return r->type != NBD_CMD_DISC;
}

void talk(struct server *s, struct connection *c)
{
    struct request r;

    if (!negotiate(s, c))
        return;
    while (next(c, &r) && obey(s, c, &r))
        ;
}
