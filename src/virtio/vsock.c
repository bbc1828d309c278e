/* SPDX-License-Identifier: MIT */
/* virtio-vsock in user space (virtio 1.2, 5.10): stream sockets between the guest and programs of
 * the host that use UNIX sockets. This file has the queues and packets.
 *
 *   transmit queue -> vsock_conn.c -> host program's socket       (credit: we promise VSOCK_BUF)
 *   host program's socket -> `ready` list -> receive queue        (credit: the guest's)
 *   vsock_host.c: where those sockets come from
 *
 * Packets for the guest are not stored: a connection remembers what it owes, and the packet is made
 * when the guest offers a buffer. Only refusals of what is no connection are kept, as a pair of
 * ports each; when many wait, transmitting waits too. */
#include "virtio/vsock.h"
#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>

enum { RX, TX, EVENT, QUEUES };
enum { HDR = sizeof(struct virtio_vsock_hdr), F_STREAM = 0 };

/* ---- to the guest ---- */

void vsock_pump(struct virtio_vsock *vs)
{
    loop_post(vs->v.loop, &vs->pump);
}

void vsock_refuse(struct virtio_vsock *vs, uint32_t host_port, uint32_t guest_port)
{
    unsigned at = (vs->reset_at + vs->reset_count) % VSOCK_RESETS;

    if (vs->reset_count == VSOCK_RESETS)
        return; /* see vsock.h: cannot be */
    vs->reset[at] = (struct vsock_reset){host_port, guest_port};
    vs->reset_count++;
    vsock_pump(vs);
}

static struct virtio_vsock_hdr header(const struct virtio_vsock *vs, uint32_t host_port,
                                      uint32_t guest_port, uint16_t op)
{
    return (struct virtio_vsock_hdr){
        .src_cid = VSOCK_HOST_CID,
        .dst_cid = vs->cid,
        .src_port = host_port,
        .dst_port = guest_port,
        .type = VIRTIO_VSOCK_TYPE_STREAM,
        .op = op,
    };
}

/* A buffer too small for a header is not worth an answer, but comes back. */
static struct chain *next_buffer(struct queue *q)
{
    struct chain *c;

    while ((c = queue_next(q)) != NULL && chain_room(c) < HDR)
        chain_finish(c);
    return c;
}

static bool send_reset(struct virtio_vsock *vs, struct queue *q)
{
    const struct vsock_reset *r = &vs->reset[vs->reset_at];
    struct virtio_vsock_hdr h = header(vs, r->host_port, r->guest_port, VIRTIO_VSOCK_OP_RST);
    struct chain *c = next_buffer(q);

    if (!c)
        return false;
    chain_write(c, &h, HDR);
    chain_finish(c);
    vs->reset_at = (vs->reset_at + 1) % VSOCK_RESETS;
    vs->reset_count--;
    return true;
}

static void write_packet(struct vsock_conn *conn, struct chain *c, uint16_t op, size_t len)
{
    struct virtio_vsock_hdr h = header(conn->vs, conn->host_port, conn->guest_port, op);

    h.len = (uint32_t)len;
    h.flags = op == VIRTIO_VSOCK_OP_SHUTDOWN ? conn->host_shut : 0;
    h.buf_alloc = VSOCK_BUF;
    h.fwd_cnt = conn->forwarded;
    conn->told = conn->forwarded;
    conn->owes &= (uint8_t)~OWES_CREDIT; /* every packet tells */
    chain_write(c, &h, HDR);
    chain_write(c, conn->vs->scratch, len);
    chain_finish(c);
}

/* The first packet that the connection owes, and no longer does. */
static uint16_t pay(struct vsock_conn *conn)
{
    static const struct {
        uint8_t owes;
        uint16_t op;
    } order[] = {
        {OWES_REQUEST, VIRTIO_VSOCK_OP_REQUEST},
        {OWES_RESPONSE, VIRTIO_VSOCK_OP_RESPONSE},
        {OWES_CREDIT, VIRTIO_VSOCK_OP_CREDIT_UPDATE},
        {OWES_CREDIT_REQUEST, VIRTIO_VSOCK_OP_CREDIT_REQUEST},
        {OWES_SHUTDOWN, VIRTIO_VSOCK_OP_SHUTDOWN},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
        if (conn->owes & order[i].owes) {
            conn->owes &= (uint8_t)~order[i].owes;
            return order[i].op;
        }
    return VIRTIO_VSOCK_OP_INVALID;
}

/* One packet of the connection that is first in line. False: no buffers. */
static bool send_first(struct virtio_vsock *vs, struct queue *q)
{
    struct vsock_conn *conn = container_of(vs->ready.next, struct vsock_conn, ready);
    struct chain *c;
    size_t len = 0;
    uint16_t op;

    list_remove(&conn->ready);
    if (!conn->owes && !vsock_conn_can_read(conn))
        return true;
    list_add(&vs->ready, &conn->ready); /* to the end: everyone has a turn */
    c = next_buffer(q);
    if (!c)
        return false;
    if (!conn->owes) {
        len = vsock_conn_read(conn, chain_room(c) - HDR);
        if (!len && !conn->owes) {
            chain_putback(c);
            list_remove(&conn->ready);
            return true;
        }
    }
    op = len ? VIRTIO_VSOCK_OP_RW : pay(conn);
    write_packet(conn, c, op, len);
    return true;
}

static void receive_kick(struct virtio_vsock *vs, struct queue *q)
{
    while (vs->reset_count)
        if (!send_reset(vs, q))
            return;
    while (!list_empty(&vs->ready))
        if (!send_first(vs, q))
            return;
}

static void pump_run(struct call *call)
{
    struct virtio_vsock *vs = container_of(call, struct virtio_vsock, pump);

    virtio_kick(&vs->v, RX);
    if (vs->tx_waits && vsock_has_room(vs)) {
        vs->tx_waits = false;
        virtio_kick(&vs->v, TX);
    }
}

/* ---- from the guest ---- */

static void connect_host(struct virtio_vsock *vs, const struct virtio_vsock_hdr *h)
{
    struct vsock_conn *c = vsock_conn_new(vs, -1, VSOCK_DIALING);

    if (!c) {
        vsock_refuse(vs, h->dst_port, h->src_port);
        return;
    }
    c->peer_alloc = h->buf_alloc;
    c->peer_fwd = h->fwd_cnt;
    vsock_conn_name(c, h->dst_port, h->src_port);
    vsock_host_dial(c);
}

/* What is not for us is dropped; what belongs to no connection is refused. */
static void packet(struct virtio_vsock *vs, struct chain *chain)
{
    struct virtio_vsock_hdr h;
    struct vsock_conn *c;

    if (!chain_read(chain, &h, HDR) || h.dst_cid != VSOCK_HOST_CID || h.src_cid != vs->cid)
        return;
    c = vsock_conn_find(vs, h.dst_port, h.src_port);
    if (h.type != VIRTIO_VSOCK_TYPE_STREAM || h.len > chain_left(chain)) {
        if (h.op != VIRTIO_VSOCK_OP_RST)
            vsock_refuse(vs, h.dst_port, h.src_port);
        if (c)
            vsock_conn_free(c);
    } else if (c) {
        vsock_conn_packet(c, &h, chain);
    } else if (h.op == VIRTIO_VSOCK_OP_REQUEST) {
        connect_host(vs, &h);
    } else if (h.op != VIRTIO_VSOCK_OP_RST) {
        vsock_refuse(vs, h.dst_port, h.src_port);
    }
}

static void transmit_kick(struct virtio_vsock *vs, struct queue *q)
{
    struct chain *c;

    while ((vs->tx_waits = !vsock_has_room(vs)) == false && (c = queue_next(q)) != NULL) {
        packet(vs, c);
        chain_finish(c);
    }
}

/* ---- events ---- */

/* After a restore the guest's connections are gone, and its CID may be another (5.10.6.7). */
static void event_kick(struct virtio_vsock *vs, struct queue *q)
{
    struct virtio_vsock_event event = {VIRTIO_VSOCK_EVENT_TRANSPORT_RESET};
    struct chain *c;

    while (vs->tell_reset && (c = queue_next(q)) != NULL) {
        vs->tell_reset = !chain_write(c, &event, sizeof event);
        chain_finish(c);
    }
}

/* ---- life ---- */

static void vsock_kick(struct virtio *v, struct queue *q)
{
    struct virtio_vsock *vs = vsock_of(v);

    if (vs->by_kernel && q->index != EVENT)
        return; /* lent, or not yet */
    switch (q->index) {
    case RX:
        receive_kick(vs, q);
        if (vs->tx_waits && vsock_has_room(vs))
            vsock_pump(vs);
        break;
    case TX: transmit_kick(vs, q); break;
    case EVENT: event_kick(vs, q); break;
    default: break;
    }
}

static bool vsock_start(struct virtio *v, uint64_t features, struct err *err)
{
    return vsock_vhost_start(vsock_of(v), err);
}

static void vsock_pause(struct virtio *v)
{
    vhost_stop(&vsock_of(v)->vhost);
}

static void vsock_resume(struct virtio *v)
{
    struct err err;

    if (!vsock_vhost_start(vsock_of(v), &err))
        virtio_needs_reset(v, err.text);
}

static void forget_all(struct virtio_vsock *vs)
{
    list_for_safe(l, &vs->conns) vsock_conn_free(container_of(l, struct vsock_conn, all));
    vs->reset_count = 0;
    vs->tx_waits = false;
}

static void vsock_stop(struct virtio *v)
{
    struct virtio_vsock *vs = vsock_of(v);

    vhost_stop(&vs->vhost);
    forget_all(vs);
    vs->tell_reset = false; /* a driver that starts anew has no connections */
}

static const struct virtio_ops vsock_ops = {
    .id = VIRTIO_ID_VSOCK,
    .queue_size = 256,
    .class_code = 0x078000,
    .start = vsock_start,
    .kick = vsock_kick,
    .stop = vsock_stop,
    .pause = vsock_pause,
    .resume = vsock_resume,
};

static bool vsock_attach(struct device *dev, struct board *board, struct err *err)
{
    struct virtio_vsock *vs = container_of(dev, struct virtio_vsock, v.dev);

    vs->pump.run = pump_run;
    vs->v.queue_count = QUEUES;
    vs->v.config_len = sizeof(struct virtio_vsock_config);
    vs->v.offered = BIT(F_STREAM);
    put_le64(vs->v.config, vs->cid);
    vs->v.split_only = vs->by_kernel;
    if (vs->by_kernel && !vsock_vhost_open(vs, err))
        return false;
    return virtio_pci_attach(&vs->v, board, &vsock_ops, -1, err) &&
           (vs->by_kernel ? vhost_attach(&vs->vhost, &vs->v, RX, err) : vsock_host_open(vs, err));
}

static void vsock_detach(struct device *dev)
{
    struct virtio_vsock *vs = container_of(dev, struct virtio_vsock, v.dev);

    virtio_detach(dev);
    if (vs->v.loop) {
        forget_all(vs);
        loop_unpost(vs->v.loop, &vs->pump);
    }
    vsock_host_close(vs);
    vhost_close(&vs->vhost);
}

static bool vsock_restored(struct device *dev, struct err *err)
{
    struct virtio_vsock *vs = container_of(dev, struct virtio_vsock, v.dev);

    vs->tell_reset = vs->v.status & VIRTIO_DRIVER_OK;
    return virtio_restored(dev, err);
}

static const struct field vsock_state[] = {
    FIELD_TABLE(struct virtio_vsock, v, virtio_state),
    {0},
};

const struct device_type virtio_vsock_type = {
    .name = "virtio-vsock",
    .size = sizeof(struct virtio_vsock),
    .state = vsock_state,
    .state_version = 1,
    .attach = vsock_attach,
    .reset = virtio_reset,
    .pause = virtio_pause,
    .resume = virtio_resume,
    .restored = vsock_restored,
    .detach = vsock_detach,
};

struct device *virtio_vsock_new(const char *id, uint32_t cid, int listen_fd, int dial_fd)
{
    struct device *dev = device_new(&virtio_vsock_type, id);
    struct virtio_vsock *vs;

    if (!dev)
        return NULL;
    vs = container_of(dev, struct virtio_vsock, v.dev);
    vs->cid = cid;
    vs->listener.watch.fd = listen_fd;
    vs->dialer.fd = dial_fd;
    list_init(&vs->conns);
    list_init(&vs->ready);
    for (unsigned i = 0; i < VSOCK_BUCKETS; i++)
        list_init(&vs->bucket[i]);
    return dev;
}
