/* SPDX-License-Identifier: MIT */
/* Checksums and TCP segmentation in software: RFC 1071, 791, 8200, 9293; see net_offload.h.
 *
 * The guest trusts its card with frames of up to 64 KiB; cutting them here costs one pass over the
 * bytes on the host, far less than the guest's own work for each small packet would. */
#include "virtio/net_offload.h"
#include <arpa/inet.h>
#include <netinet/in.h>

enum {
    ETH_LEN = 14,
    ETHERTYPE_VLAN = 0x8100,
    ETHERTYPE_IP4 = 0x0800,
    ETHERTYPE_IP6 = 0x86dd,
    IP4_LEN = 20,
    IP6_LEN = 40,
    TCP_LEN = 20,
    UDP_LEN = 8,
    TCP_FIN_PSH = 0x09,
    TCP_CWR = 0x80,
};

uint32_t net_sum(const void *bytes, size_t len, uint32_t sum)
{
    const uint8_t *p = bytes;
    unsigned __int128 wide = sum; /* one add with carry for eight bytes */
    uint64_t total;

    for (; len >= 8; p += 8, len -= 8)
        wide += le64(p);
    if (len & 4) {
        wide += le32(p);
        p += 4;
    }
    if (len & 2) {
        wide += le16(p);
        p += 2;
    }
    if (len & 1)
        wide += *p;
    total = (uint64_t)wide;
    total = (total >> 32) + (total & UINT32_MAX) + (uint64_t)(wide >> 64);
    total = (total >> 32) + (total & UINT32_MAX);
    total = (total >> 16) + (total & 0xffff);
    return (uint32_t)((total >> 16) + (total & 0xffff));
}

uint16_t net_sum_fold(uint32_t sum)
{
    sum = (sum >> 16) + (sum & 0xffff);
    sum += sum >> 16;
    return (uint16_t)~sum;
}

/* ---- headers ---- */

struct packet {
    uint32_t l3, l4, end; /* offsets: IP header, what it carries, the packet's end */
    uint8_t protocol;
    bool v6, fragment;
};

static bool parse_ip4(const uint8_t *frame, size_t len, struct packet *p)
{
    const uint8_t *ip = frame + p->l3;
    uint32_t head, total;

    if (len - p->l3 < IP4_LEN || ip[0] >> 4 != 4)
        return false;
    head = 4u * (ip[0] & 15);
    total = be16(ip + 2);
    if (head < IP4_LEN || total < head || total > len - p->l3)
        return false;
    p->l4 = p->l3 + head;
    p->end = p->l3 + total;
    p->protocol = ip[9];
    p->fragment = be16(ip + 6) & 0x3fff; /* more fragments, or an offset */
    return true;
}

/* Extension headers are not followed: what carries them is left alone. */
static bool parse_ip6(const uint8_t *frame, size_t len, struct packet *p)
{
    const uint8_t *ip = frame + p->l3;
    uint32_t payload;

    if (len - p->l3 < IP6_LEN || ip[0] >> 4 != 6)
        return false;
    payload = be16(ip + 4);
    if (payload > len - p->l3 - IP6_LEN)
        return false;
    p->l4 = p->l3 + IP6_LEN;
    p->end = p->l4 + payload;
    p->protocol = ip[6];
    p->v6 = true;
    return true;
}

static bool parse(const uint8_t *frame, size_t len, struct packet *p)
{
    uint16_t type;

    memset(p, 0, sizeof *p);
    p->l3 = ETH_LEN;
    if (len < ETH_LEN + 4)
        return false;
    type = be16(frame + 12);
    if (type == ETHERTYPE_VLAN) {
        type = be16(frame + 16);
        p->l3 += 4;
    }
    if (type == ETHERTYPE_IP4)
        return parse_ip4(frame, len, p);
    return type == ETHERTYPE_IP6 && parse_ip6(frame, len, p);
}

/* The sum over addresses, protocol and length that TCP and UDP include. `ip` is the IP header. */
static uint32_t pseudo_sum(const uint8_t *ip, bool v6, uint8_t protocol, uint32_t len)
{
    uint8_t tail[8] = {0};

    put_be32(tail, len);
    tail[7] = protocol;
    return net_sum(tail, 8, v6 ? net_sum(ip + 8, 32, 0) : net_sum(ip + 12, 8, 0));
}

bool net_checksums_good(const uint8_t *frame, size_t len)
{
    struct packet p;
    uint32_t l4_len;

    if (!parse(frame, len, &p) || p.fragment)
        return false;
    if (!p.v6 && net_sum_fold(net_sum(frame + p.l3, p.l4 - p.l3, 0)) != 0)
        return false;
    l4_len = p.end - p.l4;
    if (p.protocol == IPPROTO_UDP) {
        if (l4_len < UDP_LEN || be16(frame + p.l4 + 4) != l4_len)
            return false;
        if (!p.v6 && be16(frame + p.l4 + 6) == 0)
            return false; /* there is none */
    } else if (p.protocol != IPPROTO_TCP || l4_len < TCP_LEN) {
        return false;
    }
    return net_sum_fold(net_sum(frame + p.l4, l4_len,
                                pseudo_sum(frame + p.l3, p.v6, p.protocol, l4_len))) == 0;
}

/* ---- out ---- */

/* The sum from csum_start to the end, into the field that held the pseudo header's sum. */
static bool complete_checksum(uint8_t *frame, size_t len, const struct virtio_net_hdr_v1 *h)
{
    size_t field = (size_t)h->csum_start + h->csum_offset;
    uint16_t sum;

    if (h->csum_start >= len || field + 2 > len)
        return false;
    sum = net_sum_fold(net_sum(frame + h->csum_start, len - h->csum_start, 0));
    put_le16(frame + field, sum ? sum : 0xffff); /* 0 would say "none" to UDP; equal for others */
    return true;
}

static bool begin_whole(struct net_split *s, const struct virtio_net_hdr_v1 *h)
{
    s->whole = true;
    s->mss = s->len;
    s->sent = s->len;
    return !(h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) || complete_checksum(s->frame, s->len, h);
}

/* TCP's checksum of the whole packet anew: what the guest left in the field of a large send
 * differs. */
static bool begin_unsplit(struct net_split *s)
{
    uint8_t *tcp = s->frame + s->l4;
    uint32_t len = s->len - s->l4;

    put_le16(tcp + 16, 0);
    put_le16(tcp + 16, net_sum_fold(net_sum(
                           tcp, len, pseudo_sum(s->frame + s->l3, s->v6, IPPROTO_TCP, len))));
    if (!s->v6) {
        put_be16(s->frame + s->l3 + 2, s->len - s->l3);
        put_le16(s->frame + s->l3 + 10, 0);
        put_le16(s->frame + s->l3 + 10, net_sum_fold(net_sum(s->frame + s->l3, s->l4 - s->l3, 0)));
    } else {
        put_be16(s->frame + s->l3 + 4, s->len - s->l4);
    }
    s->whole = true;
    s->sent = s->len;
    return true;
}

static bool begin_tcp(struct net_split *s, const struct virtio_net_hdr_v1 *h, uint32_t mtu)
{
    uint8_t type = h->gso_type & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;
    struct packet p;
    uint32_t head, tcp_head;

    if (!parse(s->frame, s->len, &p) || p.protocol != IPPROTO_TCP || p.fragment ||
        p.v6 != (type == VIRTIO_NET_HDR_GSO_TCPV6) || s->len - p.l4 < TCP_LEN)
        return false;
    tcp_head = 4u * (s->frame[p.l4 + 12] >> 4);
    if (tcp_head < TCP_LEN || tcp_head > s->len - p.l4)
        return false;
    s->len = p.end; /* no padding after the packet */
    s->l3 = p.l3;
    s->l4 = p.l4;
    s->v6 = p.v6;
    s->payload = p.l4 + tcp_head;
    if (s->payload > s->len)
        return false;
    head = s->payload - s->l3;
    if (s->len - s->l3 <= mtu)
        return begin_unsplit(s);
    if (mtu <= head || !h->gso_size)
        return false;
    s->mss = (uint32_t)min_size(h->gso_size, mtu - head);
    if ((s->len - s->payload) / s->mss >= NET_SPLIT_MAX)
        return false;
    memcpy(s->head, s->frame, s->payload);
    s->at = s->payload;
    s->sent = s->payload;
    return true;
}

bool net_split_begin(struct net_split *s, uint8_t *frame, size_t len,
                     const struct virtio_net_hdr_v1 *h, uint32_t mtu)
{
    memset(s, 0, offsetof(struct net_split, head));
    s->frame = frame;
    s->len = (uint32_t)len;
    if (len < ETH_LEN || len > NET_FRAME_MAX)
        return false;
    switch (h->gso_type & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN) {
    case VIRTIO_NET_HDR_GSO_NONE: return begin_whole(s, h);
    case VIRTIO_NET_HDR_GSO_TCPV4:
    case VIRTIO_NET_HDR_GSO_TCPV6: return begin_tcp(s, h, mtu);
    default: return false; /* not offered */
    }
}

/* Headers of the segment [at, sent): lengths, identification, sequence, flags, checksums. */
static void segment_headers(struct net_split *s)
{
    uint8_t *ip = s->head + s->l3, *tcp = s->head + s->l4;
    const uint8_t *first_ip = s->frame + s->l3, *first_tcp = s->frame + s->l4;
    uint32_t part = s->sent - s->at, l4_len = s->payload - s->l4 + part;
    uint8_t flags = first_tcp[13];

    if (s->v6) {
        put_be16(ip + 4, l4_len);
    } else {
        put_be16(ip + 2, s->l4 - s->l3 + l4_len);
        put_be16(ip + 4, be16(first_ip + 4) + s->index);
        put_le16(ip + 10, 0);
        put_le16(ip + 10, net_sum_fold(net_sum(ip, s->l4 - s->l3, 0)));
    }
    put_be32(tcp + 4, be32(first_tcp + 4) + (s->at - s->payload));
    if (s->sent < s->len)
        flags &= (uint8_t)~TCP_FIN_PSH;
    if (s->index)
        flags &= (uint8_t)~TCP_CWR;
    tcp[13] = flags;
    put_le16(tcp + 16, 0);
    put_le16(tcp + 16, net_sum_fold(net_sum(s->frame + s->at, part,
                                            net_sum(tcp, s->payload - s->l4,
                                                    pseudo_sum(ip, s->v6, IPPROTO_TCP, l4_len)))));
}

bool net_split_next(struct net_split *s, struct iovec iov[2])
{
    if (s->at >= s->len)
        return false;
    if (s->whole) {
        iov[0] = (struct iovec){s->frame, s->len};
        iov[1] = (struct iovec){s->frame, 0};
        return true;
    }
    if (s->sent == s->at) { /* not made yet: an offer that was refused is ready already */
        s->sent = s->at + (uint32_t)min_size(s->mss, s->len - s->at);
        segment_headers(s);
    }
    iov[0] = (struct iovec){s->head, s->payload};
    iov[1] = (struct iovec){s->frame + s->at, s->sent - s->at};
    return true;
}

void net_split_sent(struct net_split *s)
{
    s->at = s->sent;
    s->index++;
}
