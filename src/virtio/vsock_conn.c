/* SPDX-License-Identifier: MIT */
/* Connections of a vsock in user space: each joins a pair of ports that the guest knows with a UNIX
 * socket of a host program.
 *
 *   guest -> host   straight from the guest's buffer to the socket; what the socket does not take
 *                   waits in `buf`, which the credit that we gave keeps below VSOCK_BUF
 *   host -> guest   bytes stay in the socket until the guest has offered a buffer and has credit
 *
 * A guest that sends more than its credit, or data for a connection that is not open, is reset. */
#include "virtio/vsock.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { IOV_MAX_IN = 20, SHUT_BOTH = VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND };

static void conn_ready(struct watch *w, uint32_t events);

/* ---- being there ---- */

static bool watch_fd(struct vsock_conn *c, int fd)
{
    struct err err;

    c->watch = (struct watch){
        .fd = fd, .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .ready = conn_ready};
    return loop_watch(c->vs->v.loop, &c->watch, &err);
}

static void close_fd(struct vsock_conn *c)
{
    if (c->watch.fd < 0)
        return;
    loop_forget(c->vs->v.loop, &c->watch);
    close(c->watch.fd);
    c->watch.fd = -1;
}

struct vsock_conn *vsock_conn_new(struct virtio_vsock *vs, int fd, enum vsock_phase phase)
{
    struct vsock_conn *c = NULL;

    if (vs->conn_count < VSOCK_CONNS && vsock_has_room(vs))
        c = calloc(1, sizeof *c);
    if (!c) {
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    c->vs = vs;
    c->phase = phase;
    c->watch.fd = -1;
    list_init(&c->bucket);
    list_init(&c->ready);
    list_add(&vs->conns, &c->all);
    vs->conn_count++;
    if (fd < 0 || vsock_conn_adopt(c, fd))
        return c;
    return NULL;
}

bool vsock_conn_adopt(struct vsock_conn *c, int fd)
{
    if (watch_fd(c, fd))
        return true;
    vsock_conn_reset(c); /* closes fd */
    return false;
}

void vsock_conn_free(struct vsock_conn *c)
{
    close_fd(c);
    list_remove(&c->all);
    list_remove(&c->bucket);
    list_remove(&c->ready);
    c->vs->conn_count--;
    free(c->buf);
    free(c);
}

void vsock_conn_reset(struct vsock_conn *c)
{
    bool known = !list_empty(&c->bucket);

    /* A request that the guest has not seen needs no answer. */
    if (known && !(c->owes & OWES_REQUEST))
        vsock_refuse(c->vs, c->host_port, c->guest_port);
    vsock_conn_free(c);
}

static struct list *bucket_of(struct virtio_vsock *vs, uint32_t host_port, uint32_t guest_port)
{
    uint32_t mix = (host_port * 0x9e3779b1u) ^ (guest_port * 0x85ebca6bu);

    return &vs->bucket[mix >> 16 & (VSOCK_BUCKETS - 1)];
}

struct vsock_conn *vsock_conn_find(struct virtio_vsock *vs, uint32_t host_port, uint32_t guest_port)
{
    list_for(l, bucket_of(vs, host_port, guest_port))
    {
        struct vsock_conn *c = container_of(l, struct vsock_conn, bucket);

        if (c->host_port == host_port && c->guest_port == guest_port)
            return c;
    }
    return NULL;
}

void vsock_conn_name(struct vsock_conn *c, uint32_t host_port, uint32_t guest_port)
{
    c->host_port = host_port;
    c->guest_port = guest_port;
    list_add(bucket_of(c->vs, host_port, guest_port), &c->bucket);
}

static void make_ready(struct vsock_conn *c)
{
    if (list_empty(&c->ready))
        list_add(&c->vs->ready, &c->ready);
    vsock_pump(c->vs);
}

void vsock_conn_owe(struct vsock_conn *c, uint8_t what)
{
    c->owes |= what;
    make_ready(c);
}

/* ---- guest to host ---- */

/* The guest thinks it has VSOCK_BUF - (received - told) bytes left: it hears of more in time. */
static void count_forwarded(struct vsock_conn *c, uint32_t len)
{
    c->forwarded += len;
    if (c->forwarded - c->told >= VSOCK_BUF / 2 && c->phase == VSOCK_OPEN)
        vsock_conn_owe(c, OWES_CREDIT);
}

/* How much the socket took; it may be nothing. */
static size_t socket_send(struct vsock_conn *c, struct iovec *iov, int count)
{
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = (size_t)count};
    size_t all = 0;
    ssize_t n;

    for (int i = 0; i < count; i++)
        all += iov[i].iov_len;
    if (c->discard || c->watch.fd < 0)
        return all;
    do {
        n = sendmsg(c->watch.fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n >= 0)
        return (size_t)n;
    if (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM)
        return 0;
    c->discard = true; /* nobody reads there any more; what it wrote before may still be read */
    return all;
}

/* The ring's bytes in order, as one or two pieces. */
static int buf_pieces(const struct vsock_conn *c, struct iovec iov[2])
{
    size_t first = min_size(c->buf_len, VSOCK_BUF - c->buf_at);

    iov[0] = (struct iovec){c->buf + c->buf_at, first};
    iov[1] = (struct iovec){c->buf, c->buf_len - first};
    return iov[1].iov_len ? 2 : 1;
}

static void buf_put(struct vsock_conn *c, const uint8_t *bytes, size_t len)
{
    uint32_t end = (c->buf_at + c->buf_len) % VSOCK_BUF;
    size_t first = min_size(len, VSOCK_BUF - end);

    memcpy(c->buf + end, bytes, first);
    memcpy(c->buf, bytes + first, len - first);
    c->buf_len += (uint32_t)len;
}

/* What the guest closed is closed towards the host program, once that has all the bytes. True if
 * the connection is freed. */
static bool finish_sending(struct vsock_conn *c)
{
    if (c->buf_len)
        return false;
    free(c->buf);
    c->buf = NULL;
    if (c->phase == VSOCK_DRAINING) {
        vsock_conn_free(c);
        return true;
    }
    if (c->phase == VSOCK_OPEN && c->guest_shut == SHUT_BOTH) {
        vsock_conn_reset(c); /* how a close is confirmed: 5.10.6.5 */
        return true;
    }
    if (c->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND && !c->shut_write && c->watch.fd >= 0) {
        shutdown(c->watch.fd, SHUT_WR);
        c->shut_write = true;
    }
    return false;
}

/* True if the connection is freed. */
static bool flush(struct vsock_conn *c)
{
    struct iovec iov[2];
    size_t n;

    while (c->buf_len) {
        n = socket_send(c, iov, buf_pieces(c, iov));
        if (!n)
            return false;
        c->buf_at = (uint32_t)((c->buf_at + n) % VSOCK_BUF);
        c->buf_len -= (uint32_t)n;
        count_forwarded(c, (uint32_t)n);
    }
    return finish_sending(c);
}

/* `len` bytes from the chain that are within the credit, so the ring has room for them. */
static bool take_payload(struct vsock_conn *c, struct chain *chain, uint32_t len)
{
    struct iovec iov[IOV_MAX_IN];
    int count = chain_read_iov(chain, len, iov, IOV_MAX_IN);
    size_t sent = 0;

    if (count < 0) { /* in too many pieces */
        iov[0] = (struct iovec){c->vs->scratch, len};
        count = 1;
        if (len > sizeof c->vs->scratch || !chain_read(chain, c->vs->scratch, len))
            return false;
    }
    c->received += len;
    if (!c->buf_len) {
        sent = socket_send(c, iov, count);
        count_forwarded(c, (uint32_t)sent);
    }
    if (sent == len)
        return true;
    if (!c->buf)
        c->buf = malloc(VSOCK_BUF);
    for (int i = 0; c->buf && i < count; i++) {
        size_t skip = min_size(sent, iov[i].iov_len);

        buf_put(c, (const uint8_t *)iov[i].iov_base + skip, iov[i].iov_len - skip);
        sent -= skip;
    }
    return c->buf;
}

static void packet_data(struct vsock_conn *c, const struct virtio_vsock_hdr *h, struct chain *chain)
{
    if (!h->len)
        return;
    if (c->phase != VSOCK_OPEN || c->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND ||
        h->len > VSOCK_BUF - (c->received - c->forwarded) || !take_payload(c, chain, h->len))
        vsock_conn_reset(c);
}

static void packet_response(struct vsock_conn *c)
{
    if (c->phase != VSOCK_REQUESTED || c->owes & OWES_REQUEST || !vsock_host_welcome(c)) {
        vsock_conn_reset(c);
        return;
    }
    c->phase = VSOCK_OPEN;
    make_ready(c);
}

static void packet_shutdown(struct vsock_conn *c, uint32_t flags)
{
    if (c->phase != VSOCK_OPEN) {
        vsock_conn_reset(c);
        return;
    }
    c->guest_shut |= flags & SHUT_BOTH;
    if (c->guest_shut & VIRTIO_VSOCK_SHUTDOWN_RCV && c->watch.fd >= 0)
        shutdown(c->watch.fd, SHUT_RD);
    finish_sending(c);
}

static void packet_rst(struct vsock_conn *c)
{
    if (c->buf_len && c->watch.fd >= 0 && c->guest_shut == SHUT_BOTH) {
        /* It closed, and did not wait until a slow host program had read all. */
        list_remove(&c->bucket);
        list_remove(&c->ready);
        c->owes = 0;
        c->phase = VSOCK_DRAINING;
        return;
    }
    vsock_conn_free(c);
}

void vsock_conn_packet(struct vsock_conn *c, const struct virtio_vsock_hdr *h, struct chain *chain)
{
    c->peer_alloc = h->buf_alloc;
    c->peer_fwd = h->fwd_cnt;
    c->asked = false;
    if (vsock_conn_can_read(c))
        make_ready(c);
    switch (h->op) {
    case VIRTIO_VSOCK_OP_RESPONSE: packet_response(c); break;
    case VIRTIO_VSOCK_OP_RST: packet_rst(c); break;
    case VIRTIO_VSOCK_OP_SHUTDOWN: packet_shutdown(c, h->flags); break;
    case VIRTIO_VSOCK_OP_RW: packet_data(c, h, chain); break;
    case VIRTIO_VSOCK_OP_CREDIT_UPDATE: break;
    case VIRTIO_VSOCK_OP_CREDIT_REQUEST: vsock_conn_owe(c, OWES_CREDIT); break;
    default: vsock_conn_reset(c); /* a second REQUEST, or no operation at all */
    }
}

/* ---- host to guest ---- */

static uint32_t credit(const struct vsock_conn *c)
{
    uint32_t in_flight = c->sent - c->peer_fwd;

    return in_flight < c->peer_alloc ? c->peer_alloc - in_flight : 0; /* whatever the guest says */
}

bool vsock_conn_can_read(const struct vsock_conn *c)
{
    return c->phase == VSOCK_OPEN && c->readable && c->watch.fd >= 0 &&
           !(c->guest_shut & VIRTIO_VSOCK_SHUTDOWN_RCV) &&
           !(c->host_shut & VIRTIO_VSOCK_SHUTDOWN_SEND);
}

/* The host program will not write any more; if it is gone it will not read either. */
static void host_ended(struct vsock_conn *c)
{
    c->readable = false;
    c->host_shut |= VIRTIO_VSOCK_SHUTDOWN_SEND;
    if (c->host_closed) {
        c->host_shut |= VIRTIO_VSOCK_SHUTDOWN_RCV;
        c->discard = true;
        count_forwarded(c, c->buf_len);
        c->buf_len = 0;
        close_fd(c);
    }
    vsock_conn_owe(c, OWES_SHUTDOWN);
}

size_t vsock_conn_read(struct vsock_conn *c, size_t max)
{
    ssize_t n;

    max = min_size(min_size(max, credit(c)), sizeof c->vs->scratch);
    if (!max) {
        if (!c->asked)
            c->owes |= OWES_CREDIT_REQUEST;
        c->asked = true;
        return 0;
    }
    do {
        n = recv(c->watch.fd, c->vs->scratch, max, MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n > 0) {
        c->sent += (uint32_t)n;
        return (size_t)n;
    }
    if (n < 0 && errno == EAGAIN) {
        c->readable = false;
    } else {
        c->host_closed = c->host_closed || n < 0;
        host_ended(c);
    }
    return 0;
}

static void open_ready(struct vsock_conn *c, uint32_t events)
{
    if (events & (EPOLLHUP | EPOLLERR))
        c->host_closed = true;
    if (events & EPOLLOUT && c->buf_len && flush(c))
        return;
    if (c->host_closed && !(c->host_shut & VIRTIO_VSOCK_SHUTDOWN_RCV) &&
        (c->host_shut & VIRTIO_VSOCK_SHUTDOWN_SEND || c->guest_shut & VIRTIO_VSOCK_SHUTDOWN_RCV)) {
        host_ended(c); /* there is nothing to read first */
        return;
    }
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
        c->readable = true;
        make_ready(c);
    }
}

static void conn_ready(struct watch *w, uint32_t events)
{
    struct vsock_conn *c = container_of(w, struct vsock_conn, watch);

    switch (c->phase) {
    case VSOCK_GREET: vsock_host_greeting(c, events); break;
    case VSOCK_REQUESTED:
        c->readable = true; /* bytes after the greeting wait */
        if (events & (EPOLLHUP | EPOLLERR))
            vsock_conn_reset(c);
        break;
    case VSOCK_DRAINING: flush(c); break;
    case VSOCK_DIALING: /* has no descriptor */
    case VSOCK_OPEN: open_ready(c, events); break;
    }
}
