/* SPDX-License-Identifier: MIT */
/* Segmentation and checksums against a slow, obvious implementation, and against frames that lie.
 */
#include "virtio/net_offload.h"
#include "tap.h"
#include <stdlib.h>

static uint8_t frame[NET_FRAME_MAX], original[NET_FRAME_MAX];

static uint64_t seed = 99;

static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    return seed ^= seed << 17;
}

/* RFC 1071 as it is written: 16-bit words, big-endian, carry after each. */
static uint32_t slow_sum(const uint8_t *p, size_t len, uint32_t sum)
{
    for (size_t i = 0; i < len; i++) {
        sum += i & 1 ? p[i] : (uint32_t)p[i] << 8;
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return sum;
}

static unsigned get16(const uint8_t *p)
{
    return (unsigned)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static void set16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

/* An Ethernet frame with TCP over IP: offsets of the IP and TCP headers come back. */
static size_t make_tcp(bool v6, bool vlan, size_t options, size_t payload, size_t *l3, size_t *l4)
{
    size_t len;
    size_t fill = min_size(sizeof frame, 160 + options + payload + 3000);

    for (size_t i = 0; i < fill; i++)
        frame[i] = (uint8_t)rnd();
    *l3 = vlan ? 18 : 14;
    if (vlan)
        set16(frame + 12, 0x8100);
    set16(frame + *l3 - 2, v6 ? 0x86dd : 0x0800);
    *l4 = *l3 + (v6 ? 40 : 20);
    len = *l4 + 20 + options + payload;
    if (v6) {
        frame[*l3] = 0x60;
        set16(frame + *l3 + 4, (unsigned)(len - *l4));
        frame[*l3 + 6] = 6;
    } else {
        frame[*l3] = 0x45;
        set16(frame + *l3 + 2, (unsigned)(len - *l3));
        set16(frame + *l3 + 6, 0x4000);
        frame[*l3 + 9] = 6;
    }
    frame[*l4 + 12] = (uint8_t)((20 + options) / 4 << 4);
    frame[*l4 + 13] = 0x99; /* CWR, ACK, PSH, FIN */
    memcpy(original, frame, fill);
    return len;
}

static bool slow_good(const uint8_t *f, size_t len, size_t l3, size_t l4, bool v6)
{
    uint8_t pseudo[40] = {0};
    uint32_t l4_len = (uint32_t)(len - l4);

    if (!v6 && (slow_sum(f + l3, l4 - l3, 0) != 0xffff || get16(f + l3 + 2) != len - l3))
        return false;
    if (v6 && get16(f + l3 + 4) != l4_len)
        return false;
    memcpy(pseudo, v6 ? f + l3 + 8 : f + l3 + 12, v6 ? 32 : 8);
    set16(pseudo + (v6 ? 34 : 8), l4_len);
    pseudo[v6 ? 39 : 11] = 6;
    return slow_sum(f + l4, l4_len, slow_sum(pseudo, v6 ? 40 : 12, 0)) == 0xffff;
}

static void test_split(bool v6, bool vlan, size_t options, size_t payload, uint16_t mss)
{
    struct virtio_net_hdr_v1 h = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                  .gso_type =
                                      v6 ? VIRTIO_NET_HDR_GSO_TCPV6
                                         : VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN,
                                  .gso_size = mss};
    size_t l3, l4, len = make_tcp(v6, vlan, options, payload, &l3, &l4), at = 0, count = 0;
    struct net_split s;
    struct iovec iov[2];
    bool good = net_split_begin(&s, frame, len, &h, 1500);

    while (good && net_split_next(&s, iov)) {
        static uint8_t out[2000];
        size_t head = l4 + 20 + options, part = iov[1].iov_len, n = head + part;
        unsigned flags;

        if (rnd() % 3 == 0)
            continue; /* the backend was full: offered again */
        memcpy(out, iov[0].iov_base, iov[0].iov_len);
        memcpy(out + iov[0].iov_len, iov[1].iov_base, part);
        flags = out[l4 + 13];
        good = iov[0].iov_len == head && n - l3 <= 1500 && part <= mss &&
               slow_good(out, n, l3, l4, v6);
        good = good && net_checksums_good(out, n) &&
               !memcmp(out + head, original + head + at, part) && !memcmp(out, original, l3);
        good = good && get32(out + l4 + 4) == (uint32_t)(get32(original + l4 + 4) + at);
        good = good && !!(flags & 0x80) == (at == 0) && !!(flags & 9) == (at + part == payload) &&
               flags & 0x10;
        good = good && (v6 || get16(out + l3 + 4) == (uint16_t)(get16(original + l3 + 4) + count));
        at += part;
        count++;
        net_split_sent(&s);
    }
    ok(good && at == payload, "IPv%d%s, %zu bytes options, %zu bytes in %zu segments", v6 ? 6 : 4,
       vlan ? ", VLAN" : "", options, payload, count);
}

static void test_unsplit(bool v6)
{
    struct virtio_net_hdr_v1 h = {
        .gso_type = v6 ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 1448};
    size_t l3, l4, len = make_tcp(v6, false, 12, 60000, &l3, &l4);
    struct net_split s;
    struct iovec iov[2];

    ok(net_split_begin(&s, frame, len, &h, 65521) && net_split_next(&s, iov) &&
           iov[0].iov_len == len && slow_good(frame, len, l3, l4, v6) &&
           !memcmp(frame + l4 + 32, original + l4 + 32, 60000),
       "IPv%d: a backend with a large MTU gets one packet", v6 ? 6 : 4);
    net_split_sent(&s);
    ok(!net_split_next(&s, iov), "and no more");
}

static void test_checksum(void)
{
    size_t l3, l4, len = make_tcp(false, false, 0, 701, &l3, &l4);
    struct virtio_net_hdr_v1 h = {
        .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = (uint16_t)l4, .csum_offset = 16};
    uint8_t pseudo[12] = {0};
    struct net_split s;
    struct iovec iov[2];

    memcpy(pseudo, frame + l3 + 12, 8);
    pseudo[9] = 6;
    set16(pseudo + 10, (unsigned)(len - l4));
    set16(frame + l4 + 16, slow_sum(pseudo, 12, 0)); /* as drivers leave it */
    set16(frame + l3 + 10, 0);
    set16(frame + l3 + 10, ~slow_sum(frame + l3, 20, 0) & 0xffff);
    ok(!net_checksums_good(frame, len), "an incomplete checksum is not good");
    ok(net_split_begin(&s, frame, len, &h, 1500) && net_split_next(&s, iov) &&
           slow_good(frame, len, l3, l4, false) && net_checksums_good(frame, len),
       "completed");
    frame[100] ^= 1;
    ok(!net_checksums_good(frame, len), "a flipped bit is noticed");
    frame[100] ^= 1;
    ok(net_checksums_good(frame, len + 0) && net_checksums_good(frame, 1000),
       "padding is not summed");
    h.csum_start = (uint16_t)len;
    ok(!net_split_begin(&s, frame, len, &h, 1500), "start beyond the frame");
    h.csum_start = 60;
    h.csum_offset = (uint16_t)(len - 61);
    ok(!net_split_begin(&s, frame, len, &h, 1500), "field beyond the frame");
    h.csum_offset = 0xffff;
    ok(!net_split_begin(&s, frame, len, &h, 1500), "field far beyond");
}

static void test_lies(void)
{
    struct virtio_net_hdr_v1 h = {.gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 1448};
    size_t l3, l4, len = make_tcp(false, false, 0, 9000, &l3, &l4);
    struct net_split s;

    h.gso_size = 0;
    ok(!net_split_begin(&s, frame, len, &h, 1500), "segments of nothing");
    h.gso_size = 2;
    ok(!net_split_begin(&s, frame, len, &h, 1500), "thousands of segments");
    h.gso_size = 1448;
    h.gso_type = VIRTIO_NET_HDR_GSO_TCPV6;
    ok(!net_split_begin(&s, frame, len, &h, 1500), "IPv4 said to be IPv6");
    h.gso_type = VIRTIO_NET_HDR_GSO_UDP;
    ok(!net_split_begin(&s, frame, len, &h, 1500), "UFO, which is not offered");
    h.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
    frame[l4 + 12] = 0x40;
    ok(!net_split_begin(&s, frame, len, &h, 1500), "TCP header too short");
    frame[l4 + 12] = 0xf0;
    ok(!net_split_begin(&s, frame, l4 + 40, &h, 20), "TCP header beyond the frame");
    frame[l4 + 12] = 0x50;
    frame[l3] = 0x4f;
    ok(!net_split_begin(&s, frame, l3 + 40, &h, 1500), "IP header beyond the frame");
    frame[l3] = 0x45;
    set16(frame + l3 + 6, 0x2000);
    ok(!net_split_begin(&s, frame, len, &h, 1500), "a fragment");
    set16(frame + l3 + 6, 0);
    set16(frame + l3 + 2, 9999);
    ok(!net_split_begin(&s, frame, len, &h, 1500), "longer than the frame");
    ok(!net_split_begin(&s, frame, 13, &h, 1500), "no Ethernet header");
}

/* Random headers over random frames of every length: it must end, within bounds (ASan watches). */
static void test_random(void)
{
    unsigned begun = 0;

    for (unsigned i = 0; i < 30000; i++) {
        size_t l3, l4, len = make_tcp(rnd() & 1, rnd() & 1, 4 * (rnd() % 11), 0, &l3, &l4);
        size_t cut = rnd() & 1 ? rnd() % 200 : len + rnd() % 3000;
        uint8_t *copy = malloc(cut + 1); /* so that ASan sees the end */
        struct virtio_net_hdr_v1 h = {
            .flags = (uint8_t)(rnd() & 3),
            .gso_type = (uint8_t)(rnd() & 0x85),
            .gso_size = (uint16_t)(rnd() % 3000),
            .csum_start = (uint16_t)(rnd() % 300),
            .csum_offset = (uint16_t)(rnd() % 40),
        };
        struct net_split s;
        struct iovec iov[2];

        if (l4 + 20 < cut && rnd() & 1)
            set16(frame + l3 + (frame[l3] == 0x60 ? 4 : 2),
                  (unsigned)(cut - (frame[l3] == 0x60 ? l4 : l3)));
        for (unsigned k = rnd() % 4; k; k--)
            frame[rnd() % 80] = (uint8_t)rnd();
        memcpy(copy, frame, cut);
        (void)net_checksums_good(copy, cut);
        if (net_split_begin(&s, copy, cut, &h, (uint32_t)(rnd() % 2000))) {
            unsigned n = 0;

            for (begun++; net_split_next(&s, iov) && n < 5000; n++)
                net_split_sent(&s);
            if (n == 5000)
                ok(false, "a split without end");
        }
        free(copy);
    }
    ok(begun > 1000, "30000 random frames, %u accepted", begun);
}

int main(void)
{
    uint8_t bytes[64];
    bool good = true;

    for (unsigned len = 0; len < 64; len++) {
        for (unsigned i = 0; i < len; i++)
            bytes[i] = (uint8_t)rnd();
        uint16_t fold = net_sum_fold(net_sum(bytes, len, 0)),
                 slow = (uint16_t)~slow_sum(bytes, len, 0);
        good = good && fold == (uint16_t)(slow >> 8 | slow << 8);
    }
    ok(good, "sums of every length");
    memset(frame, 0xff, sizeof frame);
    ok(net_sum_fold(net_sum(frame, 65536, 0xffff)) == 0, "the largest sum folds");
    for (int i = 0; i < 4; i++) {
        test_split(i & 1, i & 2, 12, 65000, 1448);
        test_split(i & 1, i & 2, 40, 4097, 536);
    }
    test_split(false, false, 0, 1461, 9000); /* larger than the MTU allows: cut to fit */
    test_split(true, false, 0, 30001, 101);
    test_unsplit(false);
    test_unsplit(true);
    test_checksum();
    test_lies();
    test_random();
    return tap_done();
}
