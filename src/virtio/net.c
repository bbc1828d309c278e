/* SPDX-License-Identifier: MIT */
/* virtio-net (virtio 1.2, 5.1): frames between the guest's queues and struct net.
 *
 *   transmit  kick -> chain -> backend->send in place           full: chain put back, until
 * writable() offload, backend cannot -> copied, split -> send  full: the rest waits in `split`
 *   receive   backend -> receive -> chains (merged if need be)  no buffers: false, resume() on the
 * next kick
 *
 * A backend with vnet_hdr passes the guest's headers on, so the kernel or a peer does the offloads.
 * For one without, the card does them: it completes checksums, cuts large sends to the backend's
 * MTU, and marks what it received as checked after checking it, which spares a slow guest the work.
 *
 * Frames received in one turn of the loop are published together at its end. */
#include "virtio/net_card.h"
#include <errno.h>
#include <linux/if_tun.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>

enum {
    HDR = sizeof(struct virtio_net_hdr_v1),
    TURN_FRAMES = 256, /* transmitted before other watches of the loop get their turn */
    MERGE_MAX = 64,    /* buffers for one received frame */
    IOV_MAX_OUT = CHAIN_LONG,
};

static struct queue *rx_queue(struct net_pair *p)
{
    return &p->card->v.queue[2 * (p - p->card->pair)].q;
}

static unsigned tx_index(const struct net_pair *p)
{
    return (unsigned)(2 * (p - p->card->pair) + 1);
}

/* Without multi-queue the control queue follows the only pair (5.1.2). */
static unsigned control_index(const struct virtio_net *n)
{
    return virtio_has(&n->v, VIRTIO_NET_F_MQ) ? 2u * n->pair_count : 2;
}

/* ---- transmit ---- */

/* Sends the segments that are left. False: the backend is full. */
static bool split_send(struct net_pair *p)
{
    struct iovec iov[2];

    while (p->splitting && net_split_next(&p->split, iov)) {
        if (p->backend->ops->send(p->backend, iov, iov[1].iov_len ? 2 : 1) == -EAGAIN) {
            p->blocked = true;
            return false;
        }
        net_split_sent(&p->split);
    }
    p->splitting = false;
    return true;
}

/* False: the backend is full and the chain is back in the queue. */
static bool send_in_place(struct net_pair *p, struct chain *c)
{
    struct iovec iov[IOV_MAX_OUT];
    size_t len = chain_left(c), least = p->backend->vnet_hdr ? HDR + 14 : 14;
    int count = -EINVAL;

    if (len >= least && len <= HDR + NET_FRAME_MAX)
        count = chain_read_iov(c, len, iov, IOV_MAX_OUT);
    if (count > 0 && p->backend->ops->send(p->backend, iov, count) == -EAGAIN) {
        chain_putback(c);
        p->blocked = true;
        return false;
    }
    chain_finish(c);
    return true;
}

/* Once copied, the frame is the card's and the chain is done with, sent or dropped. */
static bool send_offloaded(struct net_pair *p, struct chain *c, const struct virtio_net_hdr_v1 *h)
{
    size_t len = chain_left(c);
    uint32_t mtu = p->backend->mtu ? p->backend->mtu : 1500;

    if (len <= NET_FRAME_MAX && chain_read(c, p->frame, len))
        p->splitting = net_split_begin(&p->split, p->frame, len, h, mtu);
    chain_finish(c);
    return split_send(p);
}

static bool transmit(struct net_pair *p, struct chain *c)
{
    struct virtio_net_hdr_v1 h;

    if (!(p->card->link & VIRTIO_NET_S_LINK_UP)) {
        chain_finish(c);
        return true;
    }
    if (p->backend->vnet_hdr)
        return send_in_place(p, c);
    if (!chain_read(c, &h, HDR)) {
        chain_finish(c);
        return true;
    }
    if (h.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM || h.gso_type != VIRTIO_NET_HDR_GSO_NONE)
        return send_offloaded(p, c, &h);
    return send_in_place(p, c);
}

static void transmit_kick(struct net_pair *p, struct queue *q)
{
    if (p->blocked || !split_send(p))
        return;
    for (unsigned i = 0; i < TURN_FRAMES; i++) {
        struct chain *c = queue_next(q);

        if (!c || !transmit(p, c))
            return;
    }
    loop_post(p->card->v.loop, &p->again);
}

static void transmit_again(struct call *call)
{
    struct net_pair *p = container_of(call, struct net_pair, again);

    virtio_kick(&p->card->v, tx_index(p));
}

static void sink_writable(struct net_sink *s)
{
    struct net_pair *p = container_of(s, struct net_pair, sink);

    p->blocked = false;
    virtio_kick(&p->card->v, tx_index(p));
}

/* ---- receive ---- */

static void rx_release(struct net_pair *p)
{
    if (!p->held)
        return;
    p->held = false;
    loop_unlast(p->card->v.loop, &p->publish);
    queue_release(rx_queue(p));
}

static void rx_publish(struct call *call)
{
    rx_release(container_of(call, struct net_pair, publish));
}

static void rx_hold(struct net_pair *p)
{
    if (p->held)
        return;
    p->held = true;
    queue_hold(rx_queue(p));
    loop_last(p->card->v.loop, &p->publish);
}

/* Takes chains with room for `need` bytes in all: how many. None taken: 0 if more may come, -1 if
 * this frame will never fit. */
static int take_buffers(struct virtio_net *n, struct queue *q, size_t need, struct chain **chain)
{
    int max = virtio_has(&n->v, VIRTIO_NET_F_MRG_RXBUF) ? MERGE_MAX : 1, count = 0;
    size_t room = 0;
    bool never;

    max = (int)min_size((size_t)max, q->setup.size);
    while (room < need && count < max) {
        struct chain *c = queue_next(q);

        if (!c)
            break;
        chain[count++] = c;
        room += chain_room(c);
    }
    if (room >= need)
        return count;
    never = count == max || q->broken;
    while (count > 0)
        chain_putback(chain[--count]);
    return never ? -1 : 0;
}

static void header_make(struct virtio_net *n, const struct iovec *iov, int count,
                        struct virtio_net_hdr_v1 *h)
{
    memset(h, 0, sizeof *h);
    if (count == 1 && virtio_has(&n->v, VIRTIO_NET_F_GUEST_CSUM) &&
        net_checksums_good(iov->iov_base, iov->iov_len))
        h->flags = VIRTIO_NET_HDR_F_DATA_VALID;
}

/* Copies to the chains in order, each but the last filled to the end; gives the one to go on with.
 * take_buffers has counted, so there is always one. */
static struct chain **scatter(struct chain **chain, const void *bytes, size_t len)
{
    const uint8_t *from = bytes;

    while (len) {
        size_t part = min_size(len, chain_room(*chain));

        if (!part) {
            chain++;
            continue;
        }
        chain_write(*chain, from, part);
        from += part;
        len -= part;
    }
    return chain;
}

static void gather(const struct iovec *iov, int count, void *to, size_t from, size_t len)
{
    uint8_t *at = to;

    for (int i = 0; i < count && len; i++) {
        size_t skip = min_size(from, iov[i].iov_len), part = min_size(len, iov[i].iov_len - skip);

        memcpy(at, (const uint8_t *)iov[i].iov_base + skip, part);
        at += part;
        len -= part;
        from -= skip;
    }
}

/* False: no buffers yet. A frame that will never fit is dropped. */
static bool deliver(struct net_pair *p, const struct iovec *iov, int count, size_t len)
{
    struct virtio_net *n = p->card;
    struct queue *q = rx_queue(p);
    struct chain *chain[MERGE_MAX], **at = chain;
    struct virtio_net_hdr_v1 h;
    size_t skip = p->backend->vnet_hdr ? HDR : 0;
    int buffers = take_buffers(n, q, HDR + len - skip, chain);

    if (buffers <= 0)
        return buffers < 0;
    if (skip)
        gather(iov, count, &h, 0, HDR);
    else
        header_make(n, iov, count, &h);
    h.num_buffers = (uint16_t)buffers;
    rx_hold(p);
    at = scatter(at, &h, HDR);
    for (int i = 0; i < count; i++) {
        size_t cut = min_size(skip, iov[i].iov_len);

        at = scatter(at, (const uint8_t *)iov[i].iov_base + cut, iov[i].iov_len - cut);
        skip -= cut;
    }
    for (int i = 0; i < buffers; i++)
        chain_finish(chain[i]);
    return true;
}

/* False: wait. Frames for nobody are dropped: no driver, link down, another's address, no frame at
 * all. */
static bool receive(struct net_pair *p, const struct iovec *iov, int count)
{
    struct virtio_net *n = p->card;
    struct queue *q = rx_queue(p);
    size_t skip = p->backend->vnet_hdr ? HDR : 0, len = 0;
    uint8_t destination[6];

    if (n->v.life != VIRTIO_RUNNING || !q->live || q->broken || q->stopping ||
        !(n->link & VIRTIO_NET_S_LINK_UP))
        return true;
    for (int i = 0; i < count; i++)
        len += iov[i].iov_len;
    if (len < skip + 14 || len > HDR + NET_FRAME_MAX)
        return true;
    gather(iov, count, destination, skip, 6);
    return !net_filter_accepts(n, destination) || deliver(p, iov, count, len);
}

/* Pairs that the driver does not use hand over to those it does. */
static bool sink_receive(struct net_sink *s, const struct iovec *iov, int count)
{
    struct net_pair *p = container_of(s, struct net_pair, sink);
    struct virtio_net *n = p->card;

    p->starved = n->v.paused || !receive(&n->pair[(p - n->pair) % n->active_pairs], iov, count);
    return !p->starved;
}

static void receive_kick(struct net_pair *p)
{
    struct net *b = p->backend;

    if (!p->starved)
        return;
    p->starved = false;
    if (b->ops->resume)
        b->ops->resume(b);
}

/* ---- life ---- */

static void net_kick(struct virtio *v, struct queue *q)
{
    struct virtio_net *n = net_of(v);
    struct net_pair *p = &n->pair[q->index / 2];

    if (q->index == control_index(n)) {
        net_control_kick(n, q);
    } else if (n->vhost_path) {
        /* the kernel's, or the driver does not use it yet */
    } else if (q->index < 2 * n->pair_count) {
        if (q->index % 2)
            transmit_kick(p, q);
        else
            for (unsigned i = 0; i < n->pair_count; i++) /* one that hands over may starve here */
                receive_kick(&n->pair[i]);
    }
}

static unsigned tun_features(const struct virtio_net *n)
{
    unsigned f = 0;

    if (!virtio_has(&n->v, VIRTIO_NET_F_GUEST_CSUM))
        return 0;
    f |= TUN_F_CSUM;
    f |= virtio_has(&n->v, VIRTIO_NET_F_GUEST_TSO4) ? TUN_F_TSO4 : 0;
    f |= virtio_has(&n->v, VIRTIO_NET_F_GUEST_TSO6) ? TUN_F_TSO6 : 0;
    if (f & (TUN_F_TSO4 | TUN_F_TSO6) && virtio_has(&n->v, VIRTIO_NET_F_GUEST_ECN))
        f |= TUN_F_TSO_ECN;
    return f;
}

static void offload_all(struct virtio_net *n, unsigned features)
{
    for (unsigned i = 0; i < n->pair_count; i++) {
        struct net *b = n->pair[i].backend;

        if (b->vnet_hdr && b->ops->offload)
            b->ops->offload(b, features);
    }
}

static bool net_start(struct virtio *v, uint64_t features, struct err *err)
{
    struct virtio_net *n = net_of(v);

    offload_all(n, tun_features(n));
    return net_vhost_update(n, err);
}

static void net_release_all(struct virtio *v)
{
    struct virtio_net *n = net_of(v);

    for (unsigned i = 0; i < n->pair_count; i++)
        rx_release(&n->pair[i]);
}

static void net_pause(struct virtio *v)
{
    net_release_all(v);
    net_vhost_stop(net_of(v));
}

static void net_stop(struct virtio *v)
{
    struct virtio_net *n = net_of(v);

    net_release_all(v);
    net_vhost_stop(n);
    for (unsigned i = 0; i < n->pair_count; i++)
        n->pair[i].splitting = false;
    offload_all(n, 0);
    net_control_reset(n);
    net_link_update(n, n->link & VIRTIO_NET_S_LINK_UP, false);
}

static void net_queue_stop(struct virtio *v, struct queue *q)
{
    net_release_all(v);
}

static void net_resume(struct virtio *v)
{
    struct virtio_net *n = net_of(v);

    for (unsigned i = 0; i < n->pair_count; i++)
        receive_kick(&n->pair[i]);
    net_vhost_refresh(n);
}

static const struct virtio_ops net_ops = {
    .id = VIRTIO_ID_NET,
    .queue_size = 256,
    .class_code = 0x020000,
    .start = net_start,
    .kick = net_kick,
    .stop = net_stop,
    .queue_stop = net_queue_stop,
    .pause = net_pause,
    .resume = net_resume,
};

static uint64_t net_features(const struct virtio_net *n, bool vnet_hdr)
{
    uint64_t f = BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_MAC) |
                 BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_HOST_TSO6) |
                 BIT(VIRTIO_NET_F_HOST_ECN) | BIT(VIRTIO_NET_F_MRG_RXBUF) |
                 BIT(VIRTIO_NET_F_STATUS) | BIT(VIRTIO_NET_F_CTRL_VQ) | BIT(VIRTIO_NET_F_CTRL_RX) |
                 BIT(VIRTIO_NET_F_CTRL_RX_EXTRA) | BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) |
                 BIT(VIRTIO_NET_F_GUEST_ANNOUNCE);

    if (vnet_hdr)
        f |= BIT(VIRTIO_NET_F_GUEST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO6) |
             BIT(VIRTIO_NET_F_GUEST_ECN);
    if (n->pair_count > 1)
        f |= BIT(VIRTIO_NET_F_MQ);
    if (n->mtu)
        f |= BIT(VIRTIO_NET_F_MTU);
    return f;
}

static bool pair_open(struct virtio_net *n, struct net_pair *p, struct err *err)
{
    p->card = n;
    p->again.run = transmit_again;
    p->publish.run = rx_publish;
    p->sink.receive = sink_receive;
    p->sink.writable = sink_writable;
    if (!p->backend->vnet_hdr) {
        p->frame = malloc(NET_FRAME_MAX);
        if (!p->frame)
            return err_set(err, ENOMEM, "no memory for a network card's frames");
    }
    return true;
}

static bool net_attach(struct device *dev, struct board *board, struct err *err)
{
    struct virtio_net *n = container_of(dev, struct virtio_net, v.dev);
    struct virtio_net_config *c = (struct virtio_net_config *)n->v.config;
    bool vnet_hdr = n->pair[0].backend->vnet_hdr;

    for (unsigned i = 0; i < n->pair_count; i++) {
        if (n->pair[i].backend->vnet_hdr != vnet_hdr)
            return err_set(err, EINVAL, "a network card's backends must be of one kind");
        if (!pair_open(n, &n->pair[i], err))
            return false;
    }
    memcpy(n->mac, n->permanent_mac, 6);
    memcpy(c->mac, n->mac, 6);
    n->link = VIRTIO_NET_S_LINK_UP;
    c->status = n->link;
    c->max_virtqueue_pairs = n->pair_count;
    c->mtu = n->mtu;
    n->active_pairs = 1;
    n->filter.promisc = true;
    n->v.config_len = offsetof(struct virtio_net_config, speed);
    n->v.queue_count = (uint16_t)(2 * n->pair_count + 1);
    n->v.offered = net_features(n, vnet_hdr);
    n->v.split_only = n->vhost_path;
    if (n->vhost_path && !net_vhost_open(n, err))
        return false;
    if (!virtio_pci_attach(&n->v, board, &net_ops, -1, err))
        return false;
    if (n->vhost_path)
        return net_vhost_attach(n, err);
    for (unsigned i = 0; i < n->pair_count; i++)
        n->pair[i].backend->sink = &n->pair[i].sink;
    return true;
}

static void net_detach(struct device *dev)
{
    struct virtio_net *n = container_of(dev, struct virtio_net, v.dev);

    for (unsigned i = 0; i < n->pair_count; i++) {
        struct net *b = n->pair[i].backend;

        if (b->sink == &n->pair[i].sink)
            b->sink = NULL;
    }
    virtio_detach(dev);
    for (unsigned i = 0; i < n->pair_count; i++) {
        struct net_pair *p = &n->pair[i];

        if (n->v.loop) {
            loop_unpost(n->v.loop, &p->again);
            loop_unlast(n->v.loop, &p->publish);
        }
        free(p->frame);
        p->frame = NULL;
    }
    net_vhost_close(n);
}

static bool net_restored(struct device *dev, struct err *err)
{
    struct virtio_net *n = container_of(dev, struct virtio_net, v.dev);
    struct virtio_net_config *c = (struct virtio_net_config *)n->v.config;

    if (!n->active_pairs || n->active_pairs > n->pair_count)
        return err_set(err, EINVAL, "%u queue pairs of %u", n->active_pairs, n->pair_count);
    memcpy(c->mac, n->mac, 6);
    c->status = n->link;
    return virtio_restored(dev, err);
}

static const struct field net_state[] = {
    FIELD_TABLE(struct virtio_net, v, virtio_state),
    FIELD_BYTES(struct virtio_net, mac),
    FIELD(struct virtio_net, link, 3),
    FIELD(struct virtio_net, active_pairs, NET_PAIRS_MAX),
    FIELD_TABLE(struct virtio_net, filter, net_filter_state),
    FIELD_BYTES(struct virtio_net, permanent_mac), /* version 2 */
    {0},
};

const struct device_type virtio_net_type = {
    .name = "virtio-net",
    .size = sizeof(struct virtio_net),
    .state = net_state,
    .state_version = 2,
    .attach = net_attach,
    .reset = virtio_reset,
    .pause = virtio_pause,
    .resume = virtio_resume,
    .restored = net_restored,
    .detach = net_detach,
};

struct device *virtio_net_new(const char *id, struct net *const *backend, uint16_t pairs,
                              const uint8_t mac[6], uint16_t mtu)
{
    struct device *dev = device_new(&virtio_net_type, id);
    struct virtio_net *n;

    if (!dev)
        return NULL;
    n = container_of(dev, struct virtio_net, v.dev);
    n->pair_count = (uint16_t)min_size(max_u64(pairs, 1), NET_PAIRS_MAX);
    n->mtu = mtu;
    memcpy(n->permanent_mac, mac, 6);
    for (unsigned i = 0; i < n->pair_count; i++)
        n->pair[i].backend = backend[i];
    return dev;
}
