/* SPDX-License-Identifier: MIT */
/* Frames to and from the host: two small tables, one per direction, and back-pressure in both.
 * Everything runs in the thread of the loop that the backend was opened on. */
#ifndef HULL_NET_H
#define HULL_NET_H

#include "base/err.h"
#include "loop/loop.h"
#include <sys/uio.h>

struct net;
struct net_sink;

/* Every frame is preceded by the 12-byte struct virtio_net_hdr_v1 if the backend has vnet_hdr, and
 * by nothing otherwise (the device then does checksums and segmentation itself or does not offer
 * them). */
struct net_ops { /* guest to host; the backend fills it. 0: taken; -EAGAIN: wait for writable();
                  * other errors: the frame is lost, as frames may be */
    int (*send)(struct net *n, const struct iovec *iov, int count);
    void (*close)(struct net *n);
    /* What the guest accepts: TUN_F_* bits; only for vnet_hdr backends. May be NULL. */
    void (*offload)(struct net *n, unsigned tun_features);
    /* The sink has room again after receive() gave false. */
    void (*resume)(struct net *n);
};

struct net_sink { /* host to guest; the device fills it; false means no room yet */
    bool (*receive)(struct net_sink *s, const struct iovec *iov, int count);
    void (*writable)(struct net_sink *s);
};

struct net { /* embedded first in each backend */
    const struct net_ops *ops;
    struct net_sink *sink;
    bool vnet_hdr;
    uint32_t mtu; /* 0: 1500 */
};

#define NET_FORWARDS_MAX 64

struct net_config { /* --net user,forward=tcp:2222:22 | tap,name=T | none */
    enum net_kind { NET_NONE, NET_USER, NET_TAP, NET_VHOST_USER } kind;
    struct net_forward {
        bool udp;
        char host[16];      /* IPv4 address to bind, "" for 127.0.0.1 */
        uint16_t host_port; /* 0: any free one; hull-usernet tells which */
        uint16_t guest_port;
    } forward[NET_FORWARDS_MAX];
    unsigned forward_count;
    char name[16];     /* tap */
    char socket[108];  /* vhost-user, or a passt/usernet socket to join */
    char mac[18];      /* "" to make one up */
    uint16_t queues;   /* pairs, default 1 */
    char hostname[64]; /* given by DHCP */
    bool restricted;   /* user: no way out but the forwards */
    uint16_t mtu;      /* 0: 1500, or the tap's own */
    bool vhost;        /* tap: the kernel moves the frames */
};

/* `kind`'s text after "--net ": parses "user,forward=tcp:2222:22,forward=..." */
bool net_config_parse(struct net_config *c, const char *text, struct err *err);

/* "tcp:[ADDRESS:]HOSTPORT:GUESTPORT"; errors name the text. */
bool net_forward_parse(struct net_forward *f, const char *text, struct err *err);

/* 52:54:00 and three bytes: the same for the same name and index, random for a NULL name. */
void net_mac_make(uint8_t mac[6], const char *name, unsigned index);
/* "52:54:00:12:34:56"; refuses group addresses. */
bool net_mac_parse(uint8_t mac[6], const char *text, struct err *err);

/* A tap of that name (made if missing and allowed), with vnet_hdr. One per queue pair. */
struct net *net_tap_open(struct loop *l, const struct net_config *c, struct err *err);
/* For somebody else (vhost-net) who moves a tap's frames from now on: its descriptor, still the
 * tap's. */
int net_tap_lend(struct net *n);
void net_tap_enable(struct net *n,
                    bool on); /* of a tap with several queues: whether it has frames */
/* Frames over a connected stream socket with 4-byte big-endian lengths: hull-usernet, passt, QEMU.
 * Owns fd, on errors too. When the peer goes, frames are dropped from then on and the log says so.
 */
struct net *net_stream_open(struct loop *l, int fd, struct err *err);

#endif
