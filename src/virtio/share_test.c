/* SPDX-License-Identifier: MIT */
/* virtio-9p and virtio-fs with a scripted driver, and the test as their servers: requests and
 * replies, more requests than slots, a server that ends, a server that lies. */
#include "virtio/9p_link.h"
#include "virtio/devices.h"
#include "virtio/testguest.h"
#include "virtio/vhost_user_wire.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_ring.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static struct guest g;

/* A request of `len` bytes with a number in it, and room for a reply. */
static gpa put_request(struct guest_buf buf[2], uint32_t len, uint16_t tag, uint32_t room)
{
    gpa at = guest_alloc(&g, len, 16), answer = guest_alloc(&g, room ? room : 1, 16);
    uint8_t *p = guest_ptr(&g, at, len);

    memset(p, 0, len);
    put_le32(p, len);
    if (len >= 7)
        put_le16(p + 5, tag);
    buf[0] = (struct guest_buf){at, len, false};
    buf[1] = (struct guest_buf){answer, room, true};
    return answer;
}

/* ---- 9p ---- */

static int helper; /* the test is hull-9p */
static uint8_t *area;

static struct device *new_9p(const char *id)
{
    int pair[2], fd = memfd_create("test", MFD_CLOEXEC);

    if (fd < 0 || ftruncate(fd, P9_LINK_BYTES) ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        exit(1);
    area = mmap(NULL, P9_LINK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    helper = pair[0];
    return virtio_9p_new(id, "work", pair[1], fd);
}

static bool take_9p(struct p9_link_message *m)
{
    guest_settle(&g);
    return recv(helper, m, sizeof *m, MSG_DONTWAIT) == sizeof *m;
}

/* The reply is the request's tag, `len` times. */
static void answer_9p(struct p9_link_message m, uint32_t len)
{
    uint8_t *slot = area + (size_t)m.slot * P9_LINK_SLOT;

    memset(slot + P9_LINK_HALF, slot[5], min_size(len, P9_LINK_HALF));
    m.len = len;
    m.room = 0;
    if (send(helper, &m, sizeof m, MSG_NOSIGNAL) != sizeof m)
        ok(false, "a reply is sent");
}

static void test_requests(void)
{
    struct guest_buf buf[2];
    struct p9_link_message m;
    gpa reply = put_request(buf, 100, 0x55, 500);
    uint32_t len = 0;

    ok(guest_config(&g, 0, 2) == 4 && guest_config(&g, 2, 1) == 'w', "the tag is told");
    guest_add(&g, 0, buf, 2);
    guest_kick(&g, 0);
    ok(take_9p(&m) && m.len == 100 && m.room == 500 &&
           le32(area + (size_t)m.slot * P9_LINK_SLOT) == 100,
       "a request arrives");
    answer_9p(m, 300);
    ok(guest_wait(&g, 0, &len) >= 0 && len == 300 &&
           *(uint8_t *)guest_ptr(&g, reply + 299, 1) == 0x55,
       "and its reply");
    put_request(buf, 3, 1, 500);
    ok(guest_request(&g, 0, buf, 2) == 0 && !take_9p(&m), "one without a header is given back");
    put_request(buf, P9_LINK_HALF + 1, 1, 500);
    ok(guest_request(&g, 0, buf, 2) == 0 && !take_9p(&m), "so is one that is too long");
    put_request(buf, 100, 1, 50);
    guest_add(&g, 0, buf, 2);
    guest_kick(&g, 0);
    take_9p(&m);
    answer_9p(m, 51);
    ok(guest_wait(&g, 0, &len) >= 0 && !len, "a reply that has no room is none");
}

static void test_many(void)
{
    enum { COUNT = 100 };
    struct p9_link_message m[P9_LINK_SLOTS + 1];
    struct guest_buf buf[2];
    unsigned done = 0, batches = 0;
    gpa reply[COUNT];

    for (unsigned i = 0; i < COUNT; i++) {
        reply[i] = put_request(buf, 20, (uint16_t)i, 20);
        guest_add(&g, 0, buf, 2);
    }
    guest_kick(&g, 0);
    while (done < COUNT && batches++ < COUNT) {
        unsigned n = 0;

        while (n <= P9_LINK_SLOTS && take_9p(&m[n]))
            n++;
        if (!ok(n && n <= P9_LINK_SLOTS, "%u at a time", n))
            return;
        while (n)
            answer_9p(m[--n], 20); /* in another order */
        while (guest_settle(&g), guest_used(&g, 0, NULL) >= 0)
            done++;
    }
    for (unsigned i = 0; i < COUNT; i++)
        done -= *(uint8_t *)guest_ptr(&g, reply[i], 1) != i;
    ok(done == COUNT, "%u requests, each with its reply", done);
}

static bool is_error(gpa reply)
{
    const uint8_t *p = guest_ptr(&g, reply, 11);

    return le32(p) == 11 && p[4] == 7 && le16(p + 5) == 9 && le32(p + 7) == EIO;
}

/* Waits with a request under way until the device notices what `spoil` did. */
static void test_lost(const char *what, void (*spoil)(struct p9_link_message m))
{
    struct guest_buf buf[2];
    struct p9_link_message m = {0};
    uint32_t len = 0;
    gpa reply;

    g.heap = 0x10000;
    guest_attach(&g, new_9p("share0"));
    guest_probe(&g, guest_slot(board_device(&g.board, "share0")));
    guest_begin(&g, ~0ULL, 1, 64);
    reply = put_request(buf, 20, 9, 20);
    guest_add(&g, 0, buf, 2);
    guest_kick(&g, 0);
    take_9p(&m);
    spoil(m);
    ok(guest_wait(&g, 0, &len) >= 0 && len == 11 && is_error(reply), "%s: EIO", what);
    reply = put_request(buf, 20, 9, 20);
    ok(guest_request(&g, 0, buf, 2) == 11 && is_error(reply), "and from then on");
    guest_close(&g);
    guest_open(&g);
}

static void spoil_end(struct p9_link_message m)
{
    close(helper);
}

static void spoil_slot(struct p9_link_message m)
{
    m.slot = (m.slot + 1) % P9_LINK_SLOTS;
    answer_9p(m, 11);
}

static void spoil_far_slot(struct p9_link_message m)
{
    struct p9_link_message bad = {.slot = UINT32_MAX, .len = 11};

    (void)!send(helper, &bad, sizeof bad, 0);
}

static void spoil_len(struct p9_link_message m)
{
    m.len = P9_LINK_HALF + 1;
    (void)!send(helper, &m, sizeof m, 0);
}

static void spoil_short(struct p9_link_message m)
{
    (void)!send(helper, &m, 5, 0);
}

static void test_9p(void)
{
    struct device *dev = guest_attach(&g, new_9p("share0")), *fresh;

    if (!dev || !ok(guest_probe(&g, guest_slot(dev)) && guest_begin(&g, ~0ULL, 1, 256), "9p runs"))
        return;
    test_requests();
    test_many();
    fresh = guest_attach(&g, new_9p("share1"));
    ok(guest_check_state(&g, dev, fresh), "save, restore, save gives equal bytes");
    ok(guest_check_registers(&g, dev, 1, 2000), "random register accesses do no harm");
    guest_close(&g);
    guest_open(&g);
    test_lost("a server that ends", spoil_end);
    test_lost("a reply to nobody", spoil_slot);
    test_lost("a slot that is none", spoil_far_slot);
    test_lost("a reply without end", spoil_len);
    test_lost("half a message", spoil_short);
}

/* ---- virtio-fs: a back end of a few lines ---- */

struct back {
    int socket, kick[2], call[2];
    struct vhost_user_memory memory;
    uint8_t *map[VHOST_USER_MEM_REGIONS];
    struct vhost_user_addr addr[2];
    uint64_t features;
    unsigned enabled;
    uint16_t seen[2];
};

static struct back back;

static uint8_t *from_guest(uint64_t at, size_t len)
{
    for (unsigned i = 0; i < back.memory.count; i++) {
        const struct vhost_user_region *r = &back.memory.region[i];

        if (at >= r->gpa && at - r->gpa < r->size && len <= r->size - (at - r->gpa))
            return back.map[i] + (at - r->gpa);
    }
    return NULL;
}

static uint8_t *from_user(uint64_t at)
{
    for (unsigned i = 0; i < back.memory.count; i++)
        if (at >= back.memory.region[i].user &&
            at - back.memory.region[i].user < back.memory.region[i].size)
            return back.map[i] + (at - back.memory.region[i].user);
    return NULL;
}

static void map_memory(const int *fd)
{
    for (unsigned i = 0; i < back.memory.count; i++) {
        const struct vhost_user_region *r = &back.memory.region[i];

        back.map[i] =
            mmap(NULL, r->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd[i], (off_t)r->offset);
        close(fd[i]);
    }
}

static void handle(const struct vhost_user_head *h, const uint8_t *body, const int *fd)
{
    struct vhost_user_addr a;

    switch (h->request) {
    case VHOST_USER_SET_FEATURES: back.features = le64(body); break;
    case VHOST_USER_SET_MEM_TABLE:
        memcpy(&back.memory, body, h->size);
        map_memory(fd);
        break;
    case VHOST_USER_SET_VRING_ADDR:
        memcpy(&a, body, sizeof a);
        back.addr[a.index] = a;
        break;
    case VHOST_USER_SET_VRING_KICK: back.kick[le64(body)] = fd[0]; break;
    case VHOST_USER_SET_VRING_CALL: back.call[le64(body)] = fd[0]; break;
    case VHOST_USER_SET_VRING_ENABLE: back.enabled++; break;
    default: break;
    }
}

/* Answers until both rings are enabled. */
static void *serve(void *arg)
{
    while (back.enabled < 2) {
        struct vhost_user_head h;
        uint8_t body[512];
        int fd[8] = {-1};
        char control[CMSG_SPACE(sizeof fd)];
        struct iovec iov = {&h, sizeof h};
        struct msghdr m = {.msg_iov = &iov,
                           .msg_iovlen = 1,
                           .msg_control = control,
                           .msg_controllen = sizeof control};
        struct {
            struct vhost_user_head h;
            uint8_t value[8];
        } reply = {.value = {0}};

        if (recvmsg(back.socket, &m, MSG_WAITALL) != sizeof h || h.size > sizeof body ||
            (h.size && recv(back.socket, body, h.size, MSG_WAITALL) != (ssize_t)h.size))
            break;
        if (CMSG_FIRSTHDR(&m))
            memcpy(fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), CMSG_FIRSTHDR(&m)->cmsg_len - CMSG_LEN(0));
        handle(&h, body, fd);
        if (h.request == VHOST_USER_GET_FEATURES)
            put_le64(reply.value, BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_INDIRECT_DESC) |
                                      BIT(VHOST_USER_F_PROTOCOL_FEATURES));
        if (h.request == VHOST_USER_GET_PROTOCOL_FEATURES)
            put_le64(reply.value, BIT(VHOST_USER_PROTOCOL_F_REPLY_ACK));
        reply.h = (struct vhost_user_head){h.request, VHOST_USER_VERSION | VHOST_USER_REPLY, 8};
        if (h.request == VHOST_USER_GET_FEATURES || h.request == VHOST_USER_GET_PROTOCOL_FEATURES ||
            h.flags & VHOST_USER_NEED_REPLY)
            (void)!send(back.socket, &reply, sizeof reply, MSG_NOSIGNAL);
    }
    return NULL;
}

static struct device *attach_fs(void)
{
    pthread_t thread;
    int pair[2];
    struct device *dev;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
        exit(1);
    memset(&back, 0, sizeof back);
    back.socket = pair[0];
    pthread_create(&thread, NULL, serve, NULL);
    dev = guest_attach(&g, virtio_fs_new("fs0", "tag", pair[1]));
    pthread_join(thread, NULL);
    return dev;
}

static struct vring_used *used_of(unsigned ring)
{
    return (struct vring_used *)from_user(back.addr[ring].used);
}

/* The next chain's slot and table, or NULL. */
static struct vring_desc *next(unsigned ring, uint16_t *slot, unsigned *count)
{
    struct vring_avail *a = (struct vring_avail *)from_user(back.addr[ring].avail);
    struct vring_desc *d = (struct vring_desc *)from_user(back.addr[ring].desc);

    guest_settle(&g);
    if (__atomic_load_n(&a->idx, __ATOMIC_ACQUIRE) == back.seen[ring])
        return NULL;
    *slot = a->ring[back.seen[ring]++ % 128];
    d += *slot;
    *count = d->len / 16;
    return d->flags == VRING_DESC_F_INDIRECT ? (struct vring_desc *)from_guest(d->addr, d->len)
                                             : NULL;
}

static void use(unsigned ring, uint32_t id, uint32_t len)
{
    struct vring_used *u = used_of(ring);
    uint64_t one = 1;

    u->ring[u->idx % 128] = (struct vring_used_elem){id, len};
    __atomic_store_n(&u->idx, u->idx + 1, __ATOMIC_RELEASE);
    (void)!write(back.call[ring], &one, sizeof one);
}

static void test_fs_requests(void)
{
    struct guest_buf buf[3];
    gpa reply = put_request(buf, 100, 7, 64);
    struct vring_desc *d;
    unsigned count = 0;
    uint16_t slot = 0;
    uint32_t len = 0;

    ok(guest_config(&g, 0, 4) == 0x676174 && guest_config(&g, 36, 4) == 1, "tag and queues");
    buf[2] = (struct guest_buf){guest_alloc(&g, 5000, 4096), 5000, true};
    guest_add(&g, 1, buf, 3);
    guest_kick(&g, 1);
    d = next(1, &slot, &count);
    ok(d && count == 3 && d[0].len == 100 &&
           d[1].flags == (VRING_DESC_F_NEXT | VRING_DESC_F_WRITE) && d[2].addr == buf[2].addr &&
           d[2].flags == VRING_DESC_F_WRITE,
       "a chain arrives by its addresses");
    memset(from_guest(d[1].addr, 64), 0x33, 64);
    mem_log_start(&g.mem, &(struct err){0});
    use(1, slot, 64 + 4096);
    ok(guest_wait(&g, 1, &len) >= 0 && len == 64 + 4096 &&
           *(uint8_t *)guest_ptr(&g, reply + 63, 1) == 0x33,
       "and comes back with what was written in place");
    ok(g.mem.region[0].dirty[buf[2].addr >> 18] >> (buf[2].addr >> 12 & 63) & 1,
       "whose pages are marked");
    mem_log_stop(&g.mem);
    put_request(buf, 100, 7, 64);
    guest_add(&g, 1, buf, 2);
    guest_kick(&g, 1);
    next(1, &slot, &count);
    use(1, slot, UINT32_MAX);
    ok(guest_wait(&g, 1, &len) >= 0 && len == 64, "a length without end is the room's");
}

/* More chains than the ring of the back end has. */
static void test_fs_many(void)
{
    unsigned in = 0, out = 0, most = 0, count;
    struct guest_buf buf[2];
    uint16_t slot[256];

    for (unsigned i = 0; i < 120; i++) {
        put_request(buf, 64, 1, 64);
        in += guest_add(&g, 1, buf, 2) >= 0;
    }
    guest_kick(&g, 1);
    for (unsigned turn = 0; turn < 200 && out < in; turn++) {
        unsigned n = 0;

        while (n < 256 && next(1, &slot[n], &count))
            n++;
        most = n > most ? n : most;
        while (n)
            use(1, slot[--n], 64);
        while (guest_settle(&g), guest_used(&g, 1, NULL) >= 0)
            out++;
    }
    ok(in == 120 && out == in && most <= 128, "%u chains, at most %u at a time", out, most);
}

static void test_fs_lost(const char *what, void (*spoil)(uint16_t slot))
{
    struct guest_buf buf[2];
    uint32_t len = 0;
    unsigned count;
    uint16_t slot = 0;
    gpa reply;

    g.heap = 0x10000;
    guest_probe(&g, guest_slot(attach_fs()));
    guest_begin(&g, ~0ULL, 2, 64);
    reply = put_request(buf, 100, 7, 64);
    put_le64(guest_ptr(&g, buf[0].addr + 8, 8), 4711);
    guest_add(&g, 1, buf, 2);
    guest_kick(&g, 1);
    next(1, &slot, &count);
    spoil(slot);
    ok(guest_wait(&g, 1, &len) >= 0 && len == 16 &&
           le32(guest_ptr(&g, reply + 4, 4)) == (uint32_t)-EIO &&
           le64(guest_ptr(&g, reply + 8, 8)) == 4711,
       "%s: EIO", what);
    put_request(buf, 100, 7, 64);
    ok(guest_request(&g, 1, buf, 2) == 16, "and from then on");
    put_request(buf, 48, 7, 0);
    ok(guest_request(&g, 0, buf, 1) == 0, "where there is room for it");
    close(back.socket);
    guest_close(&g);
    guest_open(&g);
}

static void spoil_socket(uint16_t slot)
{
    shutdown(back.socket, SHUT_RDWR);
}

static void spoil_id(uint16_t slot)
{
    use(1, 128, 0);
}

static void spoil_other(uint16_t slot)
{
    use(1, (slot + 1u) % 128, 0);
}

static void spoil_twice(uint16_t slot)
{
    for (unsigned i = 0; i < 128; i++)
        used_of(1)->ring[i].id = 77;
    used_of(1)->idx += 1000;
    use(1, 3000, 0);
}

static void test_fs(void)
{
    struct device *dev = attach_fs();

    if (!dev || !ok(guest_probe(&g, guest_slot(dev)) && guest_begin(&g, ~0ULL, 2, 256), "fs runs"))
        return;
    ok(back.features == (BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_INDIRECT_DESC) |
                         BIT(VHOST_USER_F_PROTOCOL_FEATURES)),
       "no feature that was not offered, nor one that we cannot");
    test_fs_requests();
    test_fs_many();
    ok(guest_check_registers(&g, dev, 2, 2000), "random register accesses do no harm");
    close(back.socket);
    guest_close(&g);
    guest_open(&g);
    test_fs_lost("a back end that ends", spoil_socket);
    test_fs_lost("a slot that is none", spoil_id);
    test_fs_lost("a slot that is free", spoil_other);
    test_fs_lost("an index that jumps", spoil_twice);
}

int main(void)
{
    log_setup("test", LOG_ERROR);
    if (!guest_open(&g))
        return 1;
    test_9p();
    test_fs();
    guest_close(&g);
    return tap_done();
}
