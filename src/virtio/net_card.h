/* SPDX-License-Identifier: MIT */
/* Inside virtio-net: what the data path (net.c) and the control queue (net_control.c) share. */
#ifndef HULL_VIRTIO_NET_CARD_H
#define HULL_VIRTIO_NET_CARD_H

#include "net/net.h"
#include "virtio/devices.h"
#include "virtio/net_offload.h"

#define NET_PAIRS_MAX 32
#define NET_MACS_MAX  64

struct virtio_net;
struct vhost;
struct vhost_ops;

struct net_pair { /* one backend with its receive and transmit queue */
    struct virtio_net *card;
    struct net *backend;
    struct net_sink sink;
    struct call again;   /* more to transmit than one turn should */
    struct call publish; /* ends the hold on the receive queue, once a turn */
    bool held;           /* the receive queue is held until `publish` */
    bool starved;        /* receive() gave false: resume() is owed */
    bool blocked;        /* the backend is full: writable() will come */
    bool splitting;      /* `split` has segments left */
    struct net_split split;
    struct vhost *vhost; /* the kernel serves the queues, or NULL */
    uint8_t *frame;      /* NET_FRAME_MAX bytes for it; NULL if the backend offloads by itself */
};

struct net_filter { /* which frames the guest wants; 5.1.6.5.1 */
    bool promisc, allmulti, alluni, nomulti, nouni, nobcast;
    bool uni_overflow, multi_overflow; /* the table was too long: all of that kind */
    uint32_t uni_count, multi_count;
    uint8_t uni[6 * NET_MACS_MAX], multi[6 * NET_MACS_MAX];
};

struct virtio_net {
    struct virtio v;
    uint16_t pair_count, mtu;
    uint8_t mac[6], permanent_mac[6];
    uint16_t link; /* VIRTIO_NET_S_*: what configuration shows */
    uint16_t active_pairs;
    const char *vhost_path;            /* NULL: queues are served here */
    const struct vhost_ops *vhost_ops; /* NULL: the kernel */
    struct net_filter filter;
    struct net_pair pair[NET_PAIRS_MAX];
};

static inline struct virtio_net *net_of(struct virtio *v)
{
    return container_of(v, struct virtio_net, v);
}

void net_control_kick(struct virtio_net *n, struct queue *q);
void net_control_reset(struct virtio_net *n);
bool net_filter_accepts(const struct virtio_net *n, const uint8_t destination[6]);
void net_link_update(struct virtio_net *n, uint16_t link, bool interrupt);
extern const struct field net_filter_state[];

/* ---- net_vhost.c; all do nothing for a card without vhost ---- */
bool net_vhost_open(struct virtio_net *n, struct err *err);   /* before the features are offered */
bool net_vhost_attach(struct virtio_net *n, struct err *err); /* once there are queues */
/* Gives the kernel what it may have now, takes back the rest. refresh: an error breaks the device.
 */
bool net_vhost_update(struct virtio_net *n, struct err *err);
void net_vhost_refresh(struct virtio_net *n);
void net_vhost_stop(struct virtio_net *n); /* takes all back */
void net_vhost_close(struct virtio_net *n);

#endif
