/* SPDX-License-Identifier: MIT */
/* virtio-net between the test guest and a backend that records: both kinds of backend, merged
 * buffers, back-pressure both ways, filter, control queue, many pairs, hostile frames. */
#include "virtio/net_card.h"
#include "virtio/testguest.h"
#include <errno.h>
#include <linux/if_tun.h>
#include <stdlib.h>

#define ALL    (~0ULL)
#define PAIRS  2
#define FRAMES 128

struct recorder {
    struct net net;
    unsigned count, resumes, offload;
    bool full;
    size_t len[FRAMES];
    uint8_t frame[FRAMES][2048];
};

static struct guest g;
static struct recorder peer[PAIRS];
static struct device *dev;
static struct virtio_net *card;
static gpa out_at, in_at;
static const uint8_t mac[6] = {0x52, 0x54, 0, 1, 2, 3};

static int recorder_send(struct net *n, const struct iovec *iov, int count)
{
    struct recorder *r = container_of(n, struct recorder, net);
    size_t len = 0;

    if (r->full || r->count == FRAMES)
        return -EAGAIN;
    for (int i = 0; i < count; i++) {
        size_t part =
            min_size(iov[i].iov_len, sizeof r->frame[0] - min_size(len, sizeof r->frame[0]));

        memcpy(r->frame[r->count] + min_size(len, sizeof r->frame[0]), iov[i].iov_base, part);
        len += iov[i].iov_len;
    }
    r->len[r->count++] = len;
    return 0;
}

static void recorder_offload(struct net *n, unsigned features)
{
    container_of(n, struct recorder, net)->offload = features;
}

static void recorder_resume(struct net *n)
{
    container_of(n, struct recorder, net)->resumes++;
}

static const struct net_ops recorder_ops = {
    .send = recorder_send, .offload = recorder_offload, .resume = recorder_resume};

static struct device *card_new(const char *id, bool vnet_hdr, uint16_t pairs)
{
    struct net *backend[PAIRS];

    for (unsigned i = 0; i < PAIRS; i++) {
        memset(&peer[i], 0, sizeof peer[i]);
        peer[i].net.ops = &recorder_ops;
        peer[i].net.vnet_hdr = vnet_hdr;
        backend[i] = &peer[i].net;
    }
    return virtio_net_new(id, backend, pairs, mac, 1400);
}

/* ---- the guest's side ---- */

static struct virtio_net_hdr_v1 header;

static int send_frame(unsigned pair, const uint8_t *frame, uint32_t len)
{
    struct guest_buf buf[3];

    memcpy(guest_ptr(&g, out_at, 12), &header, 12);
    memcpy(guest_ptr(&g, out_at + 4096, len), frame, len);
    buf[0] = (struct guest_buf){out_at, 12, false};
    buf[1] = (struct guest_buf){out_at + 4096, 20, false};
    buf[2] = (struct guest_buf){out_at + 4096 + 20, len - 20, false};
    return guest_add(&g, 2 * pair + 1, buf, 3);
}

static void give_buffers(unsigned pair, unsigned count, uint32_t len)
{
    for (unsigned i = 0; i < count; i++) {
        struct guest_buf buf = {in_at + i * 4096, len, true};
        guest_add(&g, 2 * pair, &buf, 1);
    }
}

static bool receive_frame(unsigned pair, const uint8_t *frame, size_t len)
{
    struct iovec iov[2] = {{(void *)(uintptr_t)frame, 10},
                           {(void *)(uintptr_t)(frame + 10), len - 10}};
    bool taken = peer[pair].net.sink->receive(peer[pair].net.sink, iov, 2);

    guest_settle(&g);
    return taken;
}

static int command(uint8_t class, uint8_t cmd, const void *data, uint32_t len)
{
    gpa heap = g.heap, at = guest_alloc(&g, 2048, 16);
    struct guest_buf buf[3] = {{at, 2, false}, {at + 16, len, false}, {at + 8, 1, true}};
    uint8_t *p = guest_ptr(&g, at, 2048);
    bool got;

    p[0] = class;
    p[1] = cmd;
    p[8] = 0xee;
    memcpy(p + 16, data, len);
    got = guest_request(&g, card->pair_count > 1 ? 2u * card->pair_count : 2, buf, 3) == 1;
    g.heap = heap;
    return got ? p[8] : -1;
}

static void make_frame(uint8_t *frame, size_t len, const uint8_t to[6])
{
    for (size_t i = 0; i < len; i++)
        frame[i] = (uint8_t)(i * 31 + len);
    memcpy(frame, to, 6);
}

static void begin(uint64_t features)
{
    g.heap = 0x10000;
    out_at = guest_alloc(&g, 128 * KiB, 4096);
    in_at = guest_alloc(&g, 64 * 4096, 4096);
    for (unsigned i = 0; i < PAIRS; i++)
        peer[i].count = peer[i].resumes = peer[i].full = 0;
    memset(&header, 0, sizeof header);
    if (!guest_begin(&g, features, card->v.queue_count, 64))
        ok(false, "the driver cannot begin");
}

/* ---- tests ---- */

static void test_basic(uint64_t features, const char *name)
{
    uint8_t frame[1514];
    const uint8_t *got;
    uint32_t len = 0;

    begin(features);
    make_frame(frame, sizeof frame, mac);
    send_frame(0, frame, 1514);
    send_frame(0, frame, 60);
    guest_kick(&g, 1);
    guest_settle(&g);
    ok(peer[0].count == 2 && peer[0].len[0] == 1514 && peer[0].len[1] == 60 &&
           !memcmp(peer[0].frame[0], frame, 1514),
       "%s: two frames out", name);
    ok(guest_used(&g, 1, NULL) >= 0 && guest_used(&g, 1, NULL) >= 0, "and given back");
    ok(!receive_frame(0, frame, 100), "no buffers: wait");
    give_buffers(0, 4, 2048);
    guest_kick(&g, 0);
    guest_settle(&g);
    ok(peer[0].resumes == 1, "buffers: go on");
    ok(receive_frame(0, frame, 1514) && guest_used(&g, 0, &len) >= 0 && len == 1526, "a frame in");
    got = guest_ptr(&g, in_at, 2048);
    ok(got[0] == 0 && le16(got + 10) == 1 && !memcmp(got + 12, frame, 1514), "with its header");
}

static void test_batch(void)
{
    uint8_t frame[100];
    struct iovec iov = {frame, sizeof frame};
    unsigned irqs;

    begin(ALL);
    give_buffers(0, 8, 2048);
    make_frame(frame, sizeof frame, mac);
    irqs = g.msis[1];
    for (int i = 0; i < 5; i++)
        peer[0].net.sink->receive(peer[0].net.sink, &iov, 1);
    ok(guest_used(&g, 0, NULL) < 0 && g.msis[1] == irqs, "frames of one turn wait for its end");
    guest_settle(&g);
    for (int i = 0; i < 5; i++)
        guest_used(&g, 0, NULL);
    ok(g.msis[1] == irqs + 1 && guest_used(&g, 0, NULL) < 0, "then one interrupt for all");
}

static void test_merge(void)
{
    static uint8_t frame[9014];
    const uint8_t *got = guest_ptr(&g, in_at, 64 * 4096);
    uint32_t len, total = 0;
    bool same = true;
    int buffers = 0;

    begin(ALL);
    make_frame(frame, sizeof frame, mac);
    give_buffers(0, 3, 1500);
    guest_kick(&g, 0);
    ok(!receive_frame(0, frame, sizeof frame) && guest_used(&g, 0, NULL) < 0,
       "too few buffers: none is taken");
    for (unsigned i = 3; i < 10; i++) {
        struct guest_buf buf = {in_at + i * 4096, 1500, true};
        guest_add(&g, 0, &buf, 1);
    }
    ok(receive_frame(0, frame, sizeof frame), "ten buffers");
    while (guest_used(&g, 0, &len) >= 0) {
        uint32_t skip = buffers ? 0 : 12;

        same = same && !memcmp(got + buffers * 4096 + skip, frame + total, len - skip);
        total += len - skip;
        buffers++;
    }
    ok(buffers == 7 && total == 9014 && same && le16(got + 10) == 7, "seven are merged, in order");
    begin(ALL & ~BIT(VIRTIO_NET_F_MRG_RXBUF));
    give_buffers(0, 2, 1500);
    ok(receive_frame(0, frame, sizeof frame) && guest_used(&g, 0, NULL) < 0,
       "without merging a long frame is dropped");
    ok(receive_frame(0, frame, 1000) && guest_used(&g, 0, NULL) >= 0, "and a short one is not");
}

static void test_full(void)
{
    uint8_t frame[1000];

    begin(ALL);
    make_frame(frame, sizeof frame, mac);
    peer[0].full = true;
    for (int i = 0; i < 5; i++)
        send_frame(0, frame, 500);
    guest_kick(&g, 1);
    guest_settle(&g);
    ok(peer[0].count == 0 && guest_used(&g, 1, NULL) < 0,
       "the backend is full: the ring keeps frames");
    dev->type->pause(dev);
    peer[0].full = false;
    peer[0].net.sink->writable(peer[0].net.sink);
    guest_settle(&g);
    ok(peer[0].count == 0, "paused: nothing is sent");
    ok(!receive_frame(0, frame, 100), "nor received");
    dev->type->resume(dev);
    guest_settle(&g);
    ok(peer[0].count == 5 && peer[0].resumes == 1, "resumed: all of it");
}

static void test_tso(void)
{
    static uint8_t frame[20000];
    unsigned seen = 0;

    begin(ALL);
    make_frame(frame, sizeof frame, mac);
    memcpy(frame + 12, (uint8_t[]){8, 0, 0x45, 0}, 4);
    frame[16] = (20000 - 14) >> 8;
    frame[17] = (uint8_t)(20000 - 14);
    memset(frame + 20, 0, 2);
    frame[23] = 6;
    frame[46] = 0x50;
    header = (struct virtio_net_hdr_v1){.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                        .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
                                        .gso_size = 1460,
                                        .hdr_len = 54,
                                        .csum_start = 34,
                                        .csum_offset = 16};
    send_frame(0, frame, 20000);
    peer[0].count = FRAMES - 5; /* room for five, then full */
    guest_kick(&g, 1);
    guest_settle(&g);
    ok(peer[0].count == FRAMES && guest_used(&g, 1, NULL) >= 0, "a large send is cut, until full");
    for (unsigned i = FRAMES - 5; i < FRAMES; i++)
        seen += net_checksums_good(peer[0].frame[i], peer[0].len[i]);
    peer[0].count = 0;
    peer[0].net.sink->writable(peer[0].net.sink);
    guest_settle(&g);
    for (unsigned i = 0; i < peer[0].count; i++)
        seen += net_checksums_good(peer[0].frame[i], peer[0].len[i]);
    ok(peer[0].count == 9 && seen == 14, "the rest follows: 14 good segments");
    give_buffers(0, 2, 2048);
    peer[0].net.sink->receive(peer[0].net.sink, &(struct iovec){peer[0].frame[0], peer[0].len[0]},
                              1);
    guest_settle(&g);
    ok(*(uint8_t *)guest_ptr(&g, in_at, 1) == VIRTIO_NET_HDR_F_DATA_VALID,
       "what was checked is marked so");
    header.gso_size = 0;
    send_frame(0, frame, 20000);
    peer[0].count = 0;
    guest_kick(&g, 1);
    ok(guest_wait(&g, 1, NULL) >= 0 && peer[0].count == 0, "nonsense is dropped");
}

static void test_filter(void)
{
    static const uint8_t other[6] = {0x52, 1, 1, 1, 1, 1}, multi[6] = {0x33, 0x33, 0, 0, 0, 1},
                         all[6] = {255, 255, 255, 255, 255, 255}, mine[6] = {0x52, 9, 9, 9, 9, 9};
    uint8_t frame[100], off = 0, table[4 + 4 + 6] = {0};

    begin(ALL);
    give_buffers(0, 60, 2048);
    make_frame(frame, 100, other);
    ok(receive_frame(0, frame, 100) && guest_used(&g, 0, NULL) >= 0, "promiscuous at first");
    ok(command(VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &off, 1) == 0, "filter on");
    receive_frame(0, frame, 100);
    ok(guest_used(&g, 0, NULL) < 0, "another's address");
    make_frame(frame, 100, multi);
    receive_frame(0, frame, 100);
    ok(guest_used(&g, 0, NULL) < 0, "a group not joined");
    put_le32(table + 4, 1);
    memcpy(table + 8, multi, 6);
    ok(command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, table, sizeof table) == 0,
       "join it");
    receive_frame(0, frame, 100);
    ok(guest_used(&g, 0, NULL) >= 0, "a group joined");
    make_frame(frame, 100, all);
    receive_frame(0, frame, 100);
    ok(guest_used(&g, 0, NULL) >= 0, "broadcast");
    ok(command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, mine, 6) == 0 &&
           guest_config(&g, 0, 4) == 0x09090952,
       "a new address");
    make_frame(frame, 100, mine);
    receive_frame(0, frame, 100);
    ok(guest_used(&g, 0, NULL) >= 0, "is ours");
    put_le32(table, 0x7fffffff);
    ok(command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, table, sizeof table) == 1,
       "a table longer than its command");
    ok(command(99, 0, table, 4) == 1 && command(VIRTIO_NET_CTRL_RX, 99, &off, 1) == 1 &&
           command(VIRTIO_NET_CTRL_RX, 0, table, 2) == 1,
       "unknown commands");
    guest_begin(&g, ALL, 3, 64);
    ok(guest_config(&g, 0, 4) == 0x01005452, "after a reset the address is the old one");
}

static void test_pairs(void)
{
    uint16_t pairs = 2, bad = 3;
    uint8_t frame[100];

    begin(ALL);
    ok(guest_config(&g, 8, 2) == PAIRS && guest_config(&g, 10, 2) == 1400, "pairs, MTU");
    make_frame(frame, 100, mac);
    give_buffers(0, 4, 2048);
    give_buffers(1, 4, 2048);
    receive_frame(1, frame, 100);
    ok(guest_used(&g, 0, NULL) >= 0, "one pair in use: the second backend's frames go there");
    ok(command(VIRTIO_NET_CTRL_MQ, 0, &bad, 2) == 1 &&
           command(VIRTIO_NET_CTRL_MQ, 0, &pairs, 2) == 0,
       "two pairs");
    receive_frame(1, frame, 100);
    ok(guest_used(&g, 2, NULL) >= 0, "now to the second");
    send_frame(1, frame, 100);
    guest_kick(&g, 3);
    guest_settle(&g);
    ok(peer[1].count == 1 && peer[0].count == 0, "and out there");
}

static void test_link(void)
{
    uint8_t frame[100];
    unsigned irqs;

    begin(ALL);
    irqs = g.msis[0];
    virtio_net_link(dev, false);
    ok(g.msis[0] == irqs + 1 && !(guest_config(&g, 6, 2) & 1), "link down, with an interrupt");
    make_frame(frame, 100, mac);
    give_buffers(0, 1, 2048);
    ok(receive_frame(0, frame, 100) && guest_used(&g, 0, NULL) < 0, "frames vanish");
    virtio_net_link(dev, true);
    virtio_net_announce(dev);
    ok(guest_config(&g, 6, 2) == 3, "announce");
    ok(command(VIRTIO_NET_CTRL_ANNOUNCE, 0, frame, 0) == 0 && guest_config(&g, 6, 2) == 1,
       "acknowledged");
}

static void test_vnet_hdr(void)
{
    struct device *tap = guest_attach(&g, card_new("tap", true, 1)), *old = dev;
    struct virtio_net *old_card = card;
    uint8_t frame[112];
    unsigned slot = g.slot;

    dev = tap;
    card = container_of(tap, struct virtio_net, v.dev);
    guest_probe(&g, guest_slot(tap));
    begin(ALL);
    ok(peer[0].offload == (TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN),
       "offloads are told");
    header.gso_size = 1234;
    make_frame(frame, sizeof frame, mac);
    send_frame(0, frame, 100);
    guest_kick(&g, 1);
    guest_settle(&g);
    ok(peer[0].count == 1 && peer[0].len[0] == 112 && le16(peer[0].frame[0] + 4) == 1234,
       "the guest's header goes out");
    give_buffers(0, 1, 2048);
    make_frame(frame + 12, 100, mac);
    memset(frame, 7, 12);
    receive_frame(0, frame, 112);
    ok(*(uint8_t *)guest_ptr(&g, in_at + 1, 1) == 7 && le16(guest_ptr(&g, in_at + 10, 2)) == 1,
       "the backend's comes in, with the count set");
    guest_reset(&g);
    ok(peer[0].offload == 0, "reset: no offloads");
    device_free(tap);
    dev = old;
    card = old_card;
    guest_probe(&g, slot);
}

static void test_random(void)
{
    uint64_t random = 31;
    unsigned resets = 0;
    uint8_t frame[2048];

    begin(ALL);
    for (unsigned i = 0; i < 4000; i++) {
        struct guest_buf buf[4];
        unsigned n = 1 + guest_random(&random) % 4, queue = guest_random(&random) % 5;
        uint8_t *p = guest_ptr(&g, out_at, 8192);

        for (unsigned k = 0; k < 64; k++)
            p[guest_random(&random) % 100] = (uint8_t)guest_random(&random);
        p[0] &= 3;
        p[1] &= 5;
        memcpy(p + 24, (uint8_t[]){8, 0, 0x45, 0}, 4);
        for (unsigned k = 0; k < n; k++)
            buf[k] = (struct guest_buf){k ? out_at + guest_random(&random) % 4096 : out_at,
                                        (uint32_t)(guest_random(&random) % 3000),
                                        queue % 2 == 0 && (queue < 4 || k)};
        if (guest_add(&g, queue, buf, n) < 0 || i % 500 == 499) {
            begin(i & 1 ? ALL : BIT(VIRTIO_NET_F_MRG_RXBUF) | BIT(VIRTIO_NET_F_CSUM));
            resets++;
        }
        guest_kick(&g, queue);
        memcpy(frame, p, sizeof frame);
        peer[i % 2].net.sink->receive(peer[i % 2].net.sink, &(struct iovec){frame, 14 + i % 2000},
                                      1);
        loop_turn(g.loop, 0);
        while (guest_used(&g, queue, NULL) >= 0)
            ;
        peer[0].count = peer[1].count = 0;
        for (unsigned k = 0; k < PAIRS; k++)
            peer[k].net.sink->writable(peer[k].net.sink);
    }
    ok(guest_reset(&g), "4000 random chains, %u resets", resets);
}

int main(void)
{
    struct device *fresh;

    log_setup("test", LOG_ERROR);
    if (!ok(guest_open(&g), "machine"))
        return tap_done();
    dev = guest_attach(&g, card_new("net0", false, PAIRS));
    card = container_of(dev, struct virtio_net, v.dev);
    ok(guest_probe(&g, guest_slot(dev)), "found");
    test_basic(0, "split");
    test_basic(BIT(VIRTIO_F_RING_PACKED), "packed");
    test_basic(ALL, "everything");
    test_batch();
    test_merge();
    test_full();
    test_tso();
    test_filter();
    test_pairs();
    test_link();
    ok(guest_check_registers(&g, dev, 3, 20000), "20000 random register accesses do no harm");
    test_random();
    test_vnet_hdr();
    begin(ALL);
    fresh = guest_attach(&g, card_new("net1", false, PAIRS));
    ok(guest_check_state(&g, dev, fresh),
       "state: saved, restored, saved again; cut streams are refused");
    device_free(dev);
    dev = fresh;
    card = container_of(dev, struct virtio_net, v.dev);
    card->active_pairs = 9;
    card->v.paused = true;
    ok(!dev->type->restored(dev, &(struct err){0}), "more pairs than there are: refused");
    card->active_pairs = 1;
    guest_close(&g);
    return tap_done();
}
