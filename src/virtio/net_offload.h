/* SPDX-License-Identifier: MIT */
/* What a network card's hardware would do with a frame, for backends that cannot: complete a
 * checksum, cut a large TCP send into segments, check what came in. Frames are hostile: every
 * header is checked against the frame's length, and a frame that is not what its header says is
 * dropped. */
#ifndef HULL_VIRTIO_NET_OFFLOAD_H
#define HULL_VIRTIO_NET_OFFLOAD_H

#include "base/bits.h"
#include <linux/virtio_net.h>
#include <sys/uio.h>

#define NET_FRAME_MAX                                                                              \
    (65535 + 18) /* the largest IP packet, with Ethernet header and a VLAN tag                     \
                  */
#define NET_HEADERS_MAX (18 + 60 + 60)
#define NET_SPLIT_MAX   2048 /* segments of one send: 32 bytes each at least */

/* One frame's way out, as one piece or as segments. It borrows the frame until net_split_next gives
 * false. A segment not taken (the backend is full) is offered again. */
struct net_split {
    uint8_t *frame;
    uint32_t len;
    uint32_t l3, l4, payload; /* offsets in the frame */
    uint32_t mss, at, sent;   /* payload bytes: at most each time, begin and end of this segment */
    uint32_t index;           /* of this segment */
    bool v6, whole;
    uint8_t head[NET_HEADERS_MAX];
};

/* The ones' complement sum of `len` bytes, added to `sum`; network order when stored as it lies. */
uint32_t net_sum(const void *bytes, size_t len, uint32_t sum);
/* Folds to what a checksum field holds. */
uint16_t net_sum_fold(uint32_t sum);

/* Prepares `frame` as `h` asks. Packets up to `mtu` bytes leave in one piece. False: drop it. */
bool net_split_begin(struct net_split *s, uint8_t *frame, size_t len,
                     const struct virtio_net_hdr_v1 *h, uint32_t mtu);
/* The segment now due; false: all are sent. net_split_sent goes on to the next. */
bool net_split_next(struct net_split *s, struct iovec iov[2]);
void net_split_sent(struct net_split *s);

/* True if the frame is TCP or UDP over IP, not a fragment, and its checksums are right. */
bool net_checksums_good(const uint8_t *frame, size_t len);

#endif
