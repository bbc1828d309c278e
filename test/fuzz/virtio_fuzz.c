/* SPDX-License-Identifier: MIT */
/* A hostile guest driver for each virtio device: the input is a program of register accesses, raw
 * ring and descriptor writes, well-formed chains, notifications, host-side events, pauses and
 * resets. DEVICE (a word: queue, rng, blk, net, console, balloon, vsock, 9p) picks the device;
 * "queue" is rng with nothing but rings, for depth. */
#include "block/block.h"
#include "dev/chardev.h"
#include "net/net.h"
#include "virtio/9p_link.h"
#include "virtio/devices.h"
#include "virtio/testguest.h"
#include <errno.h>
#include <linux/virtio_vsock.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { VSOCK_FIRST_PORT = 1 << 30 }; /* of the ports that the device gives to clients */

#define TEXT_(x) #x
#define TEXT(x)  TEXT_(x)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct guest g;
static struct device *dev;
static const uint8_t *input;
static size_t input_left;
static gpa area; /* data that chains point at */

static uint64_t take(unsigned bytes)
{
    uint64_t value = 0;

    bytes = (unsigned)min_size(bytes, input_left);
    memcpy(&value, input, bytes);
    input += bytes;
    input_left -= bytes;
    return value;
}

/* ---- host sides ---- */

static uint8_t disk[64 * KiB];
static struct list disk_queue;

static void disk_submit(struct block *b, struct block_req *req)
{
    list_add(&disk_queue, &req->link);
}

static void disk_do(struct block_req *req)
{
    uint8_t *at = disk + req->offset;

    for (int i = 0; i < req->iov_count; i++) {
        if (req->op == BLOCK_READ)
            memcpy(req->iov[i].iov_base, at, req->iov[i].iov_len);
        else
            memcpy(at, req->iov[i].iov_base, req->iov[i].iov_len);
        at += req->iov[i].iov_len;
    }
    if (req->op == BLOCK_WRITE_ZEROES || req->op == BLOCK_DISCARD)
        memset(disk + req->offset, 0, req->length);
}

/* Ends up to `count` requests: what block.c would do from the loop. */
static void disk_finish(struct block *b, unsigned count)
{
    while (count-- && !list_empty(&disk_queue)) {
        struct block_req *req = container_of(disk_queue.next, struct block_req, link);

        list_remove(&req->link);
        disk_do(req);
        b->in_flight--;
        req->done(req, count % 7 == 6 ? -EIO : 0);
    }
}

static struct block block;

static void disk_ready(struct call *call)
{
    while (!list_empty(&block.ready)) {
        struct block_req *req = container_of(block.ready.next, struct block_req, link);

        list_remove(&req->link);
        block.in_flight--;
        req->done(req, req->result);
    }
}

static int wire_send(struct net *n, const struct iovec *iov, int count)
{
    static unsigned sent;

    for (int i = 0; i < count; i++)
        for (size_t k = 0; k < iov[i].iov_len; k++)
            __asm__ volatile("" : : "r"(((const uint8_t *)iov[i].iov_base)[k])); /* ASan sees it */
    return ++sent % 64 == 0 ? -EAGAIN : 0;
}

static const struct net_ops wire_ops = {.send = wire_send};
static struct net wire[2] = {{.ops = &wire_ops}, {.ops = &wire_ops}};
static size_t stream_room;

static size_t stream_write(struct chardev *c, const uint8_t *bytes, size_t len)
{
    size_t part = min_size(len, stream_room);

    stream_room -= part;
    return part;
}

static void stream_wanted(struct chardev *c)
{
}

static const struct chardev_ops stream_ops = {stream_write, stream_wanted, NULL};
static struct chardev stream[2] = {{.ops = &stream_ops}, {.ops = &stream_ops}};

/* ---- vsock: a listener without a name, and the fuzzer as the dialer ---- */

static int vsock_server, vsock_dialer, vsock_client[16];
static struct sockaddr_un vsock_name = {.sun_family = AF_UNIX};
static socklen_t vsock_name_len = sizeof vsock_name;

static struct device *make_vsock(void)
{
    int pair[2];

    vsock_server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (bind(vsock_server, (struct sockaddr *)&vsock_name, sizeof(sa_family_t)) ||
        listen(vsock_server, 16) ||
        getsockname(vsock_server, (struct sockaddr *)&vsock_name, &vsock_name_len) ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair))
        abort();
    signal(SIGPIPE, SIG_IGN); /* clients write to whoever hung up */
    vsock_dialer = pair[0];
    memset(vsock_client, -1, sizeof vsock_client);
    return virtio_vsock_new("dev", 3, vsock_server, pair[1]);
}

static void vsock_take(int slot, int fd)
{
    if (vsock_client[slot] >= 0)
        close(vsock_client[slot]);
    vsock_client[slot] = fd;
}

/* Answers the guest's next connection: half of them are refused, one answer is to nobody. */
static void vsock_dialed(int slot, bool good)
{
    struct vsock_dial d;
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec iov = {&d, sizeof d};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    int pair[2];

    if (recv(vsock_dialer, &d, sizeof d, 0) != sizeof d)
        return;
    d.value = !good;
    if (!good || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair)) {
        sendmsg(vsock_dialer, &m, MSG_NOSIGNAL);
        return;
    }
    m.msg_control = control;
    m.msg_controllen = sizeof control;
    CMSG_FIRSTHDR(&m)->cmsg_level = SOL_SOCKET;
    CMSG_FIRSTHDR(&m)->cmsg_type = SCM_RIGHTS;
    CMSG_FIRSTHDR(&m)->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)), &pair[1], sizeof(int));
    d.id += slot == 15;
    sendmsg(vsock_dialer, &m, MSG_NOSIGNAL);
    close(pair[1]);
    vsock_take(slot, pair[0]);
}

static void vsock_event(uint64_t r)
{
    static char bytes[65536] = "CONNECT 1\nand more";
    int slot = (int)(r >> 4 & 15), fd = vsock_client[slot];

    switch (r & 7) {
    case 0: vsock_dialed(slot, r >> 8 & 1); break;
    case 1:
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        connect(fd, (struct sockaddr *)&vsock_name, vsock_name_len);
        (void)!write(fd, bytes, r >> 8 & 31);
        vsock_take(slot, fd);
        break;
    case 2: vsock_take(slot, -1); break;
    case 3: shutdown(fd, r >> 8 & 1 ? SHUT_WR : SHUT_RD); break;
    case 4: (void)!read(fd, bytes + 32, (r >> 8 & 0x7fff)); break;
    default: (void)!write(fd, bytes + 8, r >> 8 & 0x7fff);
    }
}

/* ---- 9p: the fuzzer is hull-9p, and answers as soon as the loop turns ---- */

static uint32_t p9_random = 1;

static void p9_ready(struct watch *w, uint32_t events)
{
    struct p9_link_message m;

    while (recv(w->fd, &m, sizeof m, MSG_DONTWAIT) == sizeof m) {
        p9_random = p9_random * 1103515245 + 12345;
        if (m.slot >= P9_LINK_SLOTS || m.len < 7 || m.len > P9_LINK_HALF || m.room > P9_LINK_HALF)
            abort();
        m.len = p9_random >> 16 & 3 ? (uint32_t)min_size(m.room, p9_random >> 18 & 0x1fff)
                                    : p9_random >> 18 & 0x1fff;
        send(w->fd, &m, sizeof m, MSG_NOSIGNAL);
    }
}

static struct watch p9_helper = {.events = EPOLLIN, .ready = p9_ready};

static struct device *make_9p(void)
{
    int pair[2], slots = memfd_create("fuzz", MFD_CLOEXEC);
    struct err err;

    if (slots < 0 || ftruncate(slots, P9_LINK_BYTES) ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        abort();
    p9_helper.fd = pair[0];
    if (!loop_watch(g.loop, &p9_helper, &err))
        abort();
    return virtio_9p_new("dev", "tag", pair[1], slots);
}

static struct device *make(const char *word)
{
    static const struct block_ops disk_ops = {.name = "fuzz", .submit = disk_submit};
    static const uint8_t mac[6] = {2, 0, 0, 0, 0, 1};
    struct net *backend[2] = {&wire[0], &wire[1]};
    struct device *d;
    struct err err;

    list_init(&disk_queue);
    list_init(&block.ready);
    block.ops = &disk_ops;
    block.loop = g.loop;
    block.size = sizeof disk;
    block.sector_size = 512;
    block.can_discard = block.can_zero = true;
    block.finish.run = disk_ready;
    if (!strcmp(word, "blk"))
        return virtio_blk_new("dev", &block, 2);
    if (!strcmp(word, "net"))
        return virtio_net_new("dev", backend, 2, mac, 1500);
    if (!strcmp(word, "balloon"))
        return virtio_balloon_new("dev");
    if (!strcmp(word, "vsock"))
        return make_vsock();
    if (!strcmp(word, "9p"))
        return make_9p();
    if (strcmp(word, "console"))
        return virtio_rng_new("dev", 1);
    d = virtio_console_new("dev", &stream[0]);
    virtio_console_add_port(d, "port", &stream[1], &err);
    return d;
}

static void host_event(void)
{
    uint8_t frame[2048];
    uint64_t r = take(4);
    struct balloon_stats stats;

    disk_finish(&block, r & 7);
    if (wire[r & 1].sink) {
        memset(frame, (int)(r >> 8), sizeof frame);
        for (unsigned i = 0; i < 40; i++)
            frame[i] = (uint8_t)take(1);
        wire[r & 1].sink->receive(wire[r & 1].sink, &(struct iovec){frame, r >> 16 & 2047}, 1);
        wire[r & 1].sink->writable(wire[r & 1].sink);
    }
    if (stream[r & 1].front) {
        struct chardev_front *f = stream[r & 1].front;
        size_t room = f->ops->room(f);

        stream_room = r >> 16;
        f->ops->writable(f);
        f->ops->connected(f, r & 2);
        if (room)
            f->ops->receive(f, frame, min_size(room, sizeof frame));
        virtio_console_resize(dev, (uint16_t)r, 25);
    }
    if (dev->type == &virtio_balloon_type) {
        virtio_balloon_set(dev, r << 12);
        virtio_balloon_stats(dev, &stats);
    }
    if (dev->type == &virtio_vsock_type)
        vsock_event(r);
    if (dev->type == &virtio_net_type)
        virtio_net_announce(dev);
}

/* ---- the guest ---- */

static gpa place(void)
{
    uint64_t r = take(2);

    return r & 0x8000 ? take(8) : area + (r & 0x3fff);
}

static void put_descriptor(struct guest_queue *q)
{
    uint8_t *d = guest_ptr(&g, q->desc + 16 * (take(1) % q->size), 16);

    put_le64(d, place());
    put_le32(d + 8, (uint32_t)take(take(1) & 1 ? 4 : 2));
    put_le32(d + 12, (uint32_t)take(4));
}

static void raw_write(struct guest_queue *q)
{
    gpa at[] = {q->desc, q->driver, q->device, area};
    uint64_t r = take(2);

    *(uint8_t *)guest_ptr(&g, at[r & 3] + (r >> 2 & 63), 1) = (uint8_t)take(1);
}

/* Mostly a header that gets past the first checks, for a few ports. */
static void vsock_packet(gpa at)
{
    uint64_t r = take(8);
    uint32_t port = r & 8 ? VSOCK_FIRST_PORT + (r >> 4 & 3) : (r >> 4 & 3);
    struct virtio_vsock_hdr h = {
        .src_cid = 3,
        .dst_cid = 2,
        .src_port = 1,
        .dst_port = port,
        .len = r >> 8 & 0x1fff,
        .type = 1,
        .op = r & 7,
        .flags = r >> 22 & 3,
        .buf_alloc = r >> 24 & 0xfffff,
        .fwd_cnt = (uint32_t)(r >> 44),
    };

    if (r >> 63)
        memcpy(guest_ptr(&g, at, sizeof h), &h, sizeof h);
}

static void add_chain(unsigned queue)
{
    struct guest_buf buf[8];
    unsigned n = 1 + take(1) % 8, writable = take(1) % 9;

    for (unsigned i = 0; i < n; i++)
        buf[i] = (struct guest_buf){area + take(1) * 16, (uint32_t)take(2) & 0x1fff, i >= writable};
    for (unsigned i = 0; i < 24; i++)
        *(uint8_t *)guest_ptr(&g, buf[0].addr + i, 1) = (uint8_t)take(1);
    if (dev->type == &virtio_vsock_type)
        vsock_packet(buf[0].addr);
    g.heap = area + 64 * KiB;
    guest_add(&g, queue, buf, n);
}

static void begin(void)
{
    g.heap = 0x10000;
    area = guest_alloc(&g, 64 * KiB, 4096);
    guest_begin(&g, take(2) << 28 | take(3), container_of(dev, struct virtio, dev)->queue_count,
                16);
}

static void step(bool registers)
{
    uint8_t op = (uint8_t)take(1);
    unsigned queue = (op >> 4) % container_of(dev, struct virtio, dev)->queue_count;
    struct guest_queue *q = &g.queue[queue];

    switch (op & 15) {
    case 0:
        if (registers)
            guest_write(&g, take(2) & 0x3fff, take(4), 1u << (take(1) & 3));
        break;
    case 1:
        if (registers)
            guest_read(&g, take(2) & 0x7fff, 1u << (take(1) & 3));
        break;
    case 2:
        if (registers)
            guest_pci_write(&g, (unsigned)take(1) & 0xfc, (uint32_t)take(4), 4);
        break;
    case 3: begin(); break;
    case 4:
        dev->type->pause(dev);
        dev->type->resume(dev);
        break;
    case 5:
    case 6: put_descriptor(q); break;
    case 7: raw_write(q); break;
    case 8:
    case 9: add_chain(queue); break;
    case 10:
    case 11: guest_kick(&g, queue); break;
    case 12: host_event(); break;
    default: loop_turn(g.loop, 0);
    }
}

/* The rings may be gone or nonsense after a register write: those begun here are what steps touch.
 */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool registers = strcmp(TEXT(DEVICE), "queue") != 0;

    if (!dev) {
        log_setup("fuzz", LOG_ERROR);
        if (!guest_open(&g))
            abort();
        dev = guest_attach(&g, make(TEXT(DEVICE)));
        if (!dev)
            abort();
    }
    input = data;
    input_left = size;
    disk_finish(&block, UINT32_MAX);
    dev->type->reset(dev);
    if (!guest_probe(&g, guest_slot(dev)))
        abort();
    begin();
    while (input_left)
        step(registers);
    disk_finish(&block, UINT32_MAX);
    guest_settle(&g);
    return 0;
}
