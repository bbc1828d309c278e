/* SPDX-License-Identifier: MIT */
/* Frames over a stream socket, each after its length in four bytes, big-endian.
 *
 *   send    -> out buffer -> (posted, once a turn) one sendmsg     full: -EAGAIN, later writable()
 *   ready   -> one read of many frames -> in buffer -> sink        refused: reading stops until
 * resume()
 *
 * So a busy link costs one system call per direction and turn, not one per frame. The peer is a
 * helper process that reads guest frames all day and may have been taken over: a length that cannot
 * be a frame's ends the link. */
#include "net/net.h"
#include "base/log.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    HEADER = 4,
    FRAME_MIN = 14,         /* an Ethernet header */
    FRAME_MAX = 65536 + 18, /* the largest IP packet with a VLAN tag */
    BUFFER = 256 << 10,     /* several of the largest frames */
};

struct stream_net {
    struct net net;
    struct loop *loop;
    struct watch watch;
    struct call flush;
    bool blocked;           /* send() gave -EAGAIN: writable() is owed */
    bool paused;            /* the sink refused: nothing is read until resume() */
    bool closed;            /* no peer any more */
    bool in_sink;           /* inside receive(): resume() need not deliver itself */
    size_t out_at, out_end; /* bytes [at, end) of `out` wait for the socket */
    size_t in_at, in_end;   /* bytes [at, end) of `in` wait for the sink */
    uint8_t out[BUFFER], in[BUFFER];
};

static struct stream_net *of(struct net *n)
{
    return container_of(n, struct stream_net, net);
}

static void update_events(struct stream_net *s)
{
    if (!s->closed)
        loop_rewatch(s->loop, &s->watch,
                     (s->paused ? 0 : (uint32_t)EPOLLIN) |
                         (s->out_at < s->out_end ? (uint32_t)EPOLLOUT : 0));
}

static void link_lost(struct stream_net *s, const char *why)
{
    if (s->closed)
        return;
    log_error("network: the link to the helper is lost (%s): the guest has no network from now on",
              why);
    s->closed = true;
    s->out_at = s->out_end = 0;
    loop_forget(s->loop, &s->watch);
    if (s->blocked)
        loop_post(s->loop, &s->flush); /* the device must not wait for ever */
}

/* Gives the socket what it takes. Errors end the link. */
static void flush_out(struct stream_net *s)
{
    while (!s->closed && s->out_at < s->out_end) {
        ssize_t n = send(s->watch.fd, s->out + s->out_at, s->out_end - s->out_at,
                         MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n >= 0)
            s->out_at += (size_t)n;
        else if (errno == EAGAIN)
            break;
        else if (errno != EINTR)
            link_lost(s, strerror(errno));
    }
    if (s->out_at == s->out_end)
        s->out_at = s->out_end = 0;
}

static void unblock(struct stream_net *s)
{
    if (!s->blocked)
        return;
    s->blocked = false;
    if (s->net.sink)
        s->net.sink->writable(s->net.sink);
}

static void flush_call(struct call *c)
{
    struct stream_net *s = container_of(c, struct stream_net, flush);

    flush_out(s);
    update_events(s);
    if (s->closed)
        unblock(s);
}

static bool make_room(struct stream_net *s, size_t need)
{
    if (BUFFER - s->out_end >= need)
        return true;
    flush_out(s);
    if (s->out_at) {
        memmove(s->out, s->out + s->out_at, s->out_end - s->out_at);
        s->out_end -= s->out_at;
        s->out_at = 0;
    }
    return BUFFER - s->out_end >= need;
}

static int stream_send(struct net *n, const struct iovec *iov, int count)
{
    struct stream_net *s = of(n);
    size_t len = 0;
    uint32_t header;

    for (int i = 0; i < count; i++)
        len += iov[i].iov_len;
    if (s->closed)
        return -ENOTCONN;
    if (len < FRAME_MIN || len > FRAME_MAX)
        return -EMSGSIZE;
    if (!make_room(s, HEADER + len)) {
        if (s->closed)
            return -ENOTCONN;
        s->blocked = true;
        update_events(s);
        return -EAGAIN;
    }
    header = htonl((uint32_t)len);
    memcpy(s->out + s->out_end, &header, HEADER);
    s->out_end += HEADER;
    for (int i = 0; i < count; i++) {
        memcpy(s->out + s->out_end, iov[i].iov_base, iov[i].iov_len);
        s->out_end += iov[i].iov_len;
    }
    loop_post(s->loop, &s->flush);
    return 0;
}

/* Hands the sink whole frames until it refuses or none is left. */
static void deliver(struct stream_net *s)
{
    s->paused = false;
    s->in_sink = true;
    while (s->in_end - s->in_at >= HEADER) {
        uint32_t len;
        struct iovec frame;

        memcpy(&len, s->in + s->in_at, HEADER);
        len = ntohl(len);
        if (len < FRAME_MIN || len > FRAME_MAX) {
            link_lost(s, "it sent a length that no frame has");
            s->in_at = s->in_end = 0;
            break;
        }
        if (s->in_end - s->in_at - HEADER < len)
            break;
        frame = (struct iovec){s->in + s->in_at + HEADER, len};
        if (s->net.sink && !s->net.sink->receive(s->net.sink, &frame, 1)) {
            s->paused = true;
            break;
        }
        s->in_at += HEADER + len;
    }
    s->in_sink = false;
    memmove(s->in, s->in + s->in_at, s->in_end - s->in_at);
    s->in_end -= s->in_at;
    s->in_at = 0;
}

static void read_in(struct stream_net *s)
{
    ssize_t n = recv(s->watch.fd, s->in + s->in_end, BUFFER - s->in_end, MSG_DONTWAIT);

    if (n > 0)
        s->in_end += (size_t)n;
    else if (n == 0)
        link_lost(s, "it has ended");
    else if (errno != EAGAIN && errno != EINTR)
        link_lost(s, strerror(errno));
    deliver(s);
}

static void stream_ready(struct watch *w, uint32_t events)
{
    struct stream_net *s = container_of(w, struct stream_net, watch);

    if (events & EPOLLOUT) {
        flush_out(s);
        /* Half empty is soon enough: then the device can fill it while the socket drains the rest.
         */
        if (s->out_end - s->out_at <= BUFFER / 2)
            unblock(s);
    }
    if ((events & EPOLLIN) && !s->paused)
        read_in(s);
    else if (events &
             (EPOLLHUP | EPOLLERR)) /* while paused: what is buffered can still be delivered */
        link_lost(s, "it has ended");
    update_events(s);
}

static void stream_resume(struct net *n)
{
    struct stream_net *s = of(n);

    if (s->paused && !s->in_sink) {
        deliver(s);
        update_events(s);
    }
}

static void stream_close(struct net *n)
{
    struct stream_net *s = of(n);

    if (!s->closed) {
        flush_out(s);
        loop_forget(s->loop, &s->watch);
    }
    close(s->watch.fd);
    /* A posted flush may still be queued: it must find its memory. */
    while (s->flush.posted)
        loop_turn(s->loop, 0);
    free(s);
}

static const struct net_ops stream_ops = {
    .send = stream_send,
    .close = stream_close,
    .resume = stream_resume,
};

struct net *net_stream_open(struct loop *l, int fd, struct err *err)
{
    struct stream_net *s = calloc(1, sizeof *s);

    if (!s) {
        err_set(err, ENOMEM, "network: out of memory");
        close(fd);
        return NULL;
    }
    s->net.ops = &stream_ops;
    s->loop = l;
    s->flush.run = flush_call;
    s->watch = (struct watch){.fd = fd, .events = EPOLLIN, .ready = stream_ready};
    if (!loop_watch(l, &s->watch, err)) {
        close(fd);
        free(s);
        return NULL;
    }
    return &s->net;
}
