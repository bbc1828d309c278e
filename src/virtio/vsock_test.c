/* SPDX-License-Identifier: MIT */
/* vsock in user space, with a scripted driver and real sockets: connections from both sides, data
 * against its credit, closing, refusing, and a guest that lies about all of it. */
#include "virtio/devices.h"
#include "virtio/testguest.h"
#include "virtio/vsock.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { CID = 42, HDR = 44, RX_BUFS = 32, RX_LEN = HDR + 4096, BIG = 1 << 20 };

static struct guest g;
static struct device *dev;
static struct virtio_vsock *vs;
static char folder[] = "/tmp/vsock-test-XXXXXX", path[64];
static int dialer;             /* the test is the dialer */
static gpa rx[QUEUE_SIZE_MAX]; /* buffer by chain id */
static unsigned rx_out;        /* receive buffers that the device has */
static uint32_t our_alloc = 256 * 1024, our_fwd;

struct packet {
    struct virtio_vsock_hdr h;
    uint8_t data[64 * 1024];
};

/* ---- the driver ---- */

static void offer(unsigned count)
{
    while (count--) {
        struct guest_buf buf = {guest_alloc(&g, RX_LEN, 16), RX_LEN, true};
        int id = guest_add(&g, 0, &buf, 1);

        if (id < 0)
            break;
        rx[id] = buf.addr;
        rx_out++;
    }
    guest_kick(&g, 0);
    guest_settle(&g);
}

static void reoffer(gpa addr)
{
    struct guest_buf buf = {addr, RX_LEN, true};
    int id = guest_add(&g, 0, &buf, 1);

    if (id >= 0) {
        rx[id] = addr;
        rx_out++;
    }
}

/* The next packet from the device; false: there is none. Gives the buffer back if `again`. */
static bool get(struct packet *p, bool again)
{
    uint32_t len;
    int id;

    guest_settle(&g);
    id = guest_used(&g, 0, &len);
    if (id < 0)
        return false;
    rx_out--;
    memcpy(&p->h, guest_ptr(&g, rx[id], HDR), HDR);
    if (len < HDR || len != HDR + p->h.len || p->h.len > sizeof p->data)
        return ok(false, "a packet of %u bytes says %u", len, p->h.len), false;
    memcpy(p->data, guest_ptr(&g, rx[id] + HDR, p->h.len), p->h.len);
    if (again) {
        reoffer(rx[id]);
        guest_kick(&g, 0);
    }
    return true;
}

static struct packet got;

/* The next packet that is not about credit alone. */
static bool get_op(uint16_t op, uint32_t guest_port)
{
    while (get(&got, true))
        if (got.h.op != VIRTIO_VSOCK_OP_CREDIT_UPDATE)
            return got.h.op == op && got.h.dst_port == guest_port && got.h.src_cid == 2 &&
                   got.h.dst_cid == CID && got.h.type == 1;
    return false;
}

static bool nothing(void) /* but news of credit */
{
    while (get(&got, true))
        if (got.h.op != VIRTIO_VSOCK_OP_CREDIT_UPDATE)
            return false;
    return true;
}

static void raw(const struct virtio_vsock_hdr *h, const void *data, uint32_t len, uint32_t hdr_len)
{
    struct guest_buf buf[2] = {{0, hdr_len, false}, {0, len, false}};
    gpa heap = g.heap;

    buf[0].addr = guest_put(&g, h, HDR);
    if (len)
        buf[1].addr = guest_put(&g, data, len);
    if (guest_request(&g, 1, buf, len ? 2 : 1) < 0)
        ok(false, "a packet is taken");
    g.heap = heap;
}

static struct virtio_vsock_hdr make(uint16_t op, uint32_t guest_port, uint32_t host_port)
{
    return (struct virtio_vsock_hdr){.src_cid = CID,
                                     .dst_cid = 2,
                                     .src_port = guest_port,
                                     .dst_port = host_port,
                                     .type = 1,
                                     .op = op,
                                     .buf_alloc = our_alloc,
                                     .fwd_cnt = our_fwd};
}

static void put(uint16_t op, uint32_t guest_port, uint32_t host_port, const void *data,
                uint32_t len)
{
    struct virtio_vsock_hdr h = make(op, guest_port, host_port);

    h.len = len;
    h.flags = op == VIRTIO_VSOCK_OP_SHUTDOWN ? 3 : 0;
    raw(&h, data, len, HDR);
}

static void begin(unsigned buffers)
{
    g.heap = 0x10000;
    rx_out = 0;
    our_alloc = 256 * 1024;
    our_fwd = 0;
    if (!guest_begin(&g, ~0ULL, 3, 64))
        ok(false, "the driver cannot begin");
    offer(buffers);
}

/* ---- the host ---- */

static int client(const char *greeting)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    strcpy(to.sun_path, path);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) != 0)
        ok(false, "a program of the host connects");
    if (write(fd, greeting, strlen(greeting)) < 0)
        ok(false, "and greets");
    guest_settle(&g);
    return fd;
}

static bool reads(int fd, const char *text)
{
    char bytes[256];
    size_t want = strlen(text), have = 0;

    for (int i = 0; i < 100 && have < want; i++) {
        ssize_t n = read(fd, bytes + have, want - have);

        if (n > 0)
            have += (size_t)n;
        guest_settle(&g);
    }
    return have == want && !memcmp(bytes, text, want);
}

static bool at_end(int fd)
{
    char byte;
    ssize_t n;

    guest_settle(&g);
    n = read(fd, &byte, 1);
    return !n || (n < 0 && errno != EAGAIN);
}

/* Answers the next question to the dialer; gives our end, or -1. */
static int answer(uint32_t port, uint32_t error)
{
    struct vsock_dial d;
    int pair[2] = {-1, -1};
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec iov = {&d, sizeof d};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

    guest_settle(&g);
    if (recv(dialer, &d, sizeof d, MSG_DONTWAIT) != sizeof d || d.value != port)
        return -1;
    d.value = error;
    if (!error && !socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair)) {
        m.msg_control = control;
        m.msg_controllen = sizeof control;
        CMSG_FIRSTHDR(&m)->cmsg_level = SOL_SOCKET;
        CMSG_FIRSTHDR(&m)->cmsg_type = SCM_RIGHTS;
        CMSG_FIRSTHDR(&m)->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)), &pair[1], sizeof(int));
    }
    if (sendmsg(dialer, &m, 0) != sizeof d)
        ok(false, "the dialer answers");
    if (pair[1] >= 0)
        close(pair[1]);
    guest_settle(&g);
    return pair[0];
}

/* An open connection from guest port `port` to host port 1000. */
static int dialed(uint32_t port)
{
    int fd;

    put(VIRTIO_VSOCK_OP_REQUEST, port, 1000, NULL, 0);
    fd = answer(1000, 0);
    if (fd < 0 || !get_op(VIRTIO_VSOCK_OP_RESPONSE, port))
        ok(false, "the guest connects");
    return fd;
}

/* ---- tests ---- */

static void test_from_host(void)
{
    uint32_t port;
    char text[32];
    int fd;

    begin(RX_BUFS);
    fd = client("CONN");
    ok(nothing(), "half a greeting");
    ok(write(fd, "ECT 52\nhello", 12) == 12 && get_op(VIRTIO_VSOCK_OP_REQUEST, 52) && !got.h.len,
       "CONNECT becomes a request");
    port = got.h.src_port;
    ok(port >= 1u << 30 && got.h.buf_alloc == VSOCK_BUF, "from a port of its own, with credit");
    ok(nothing(), "and nothing more until it is answered");
    put(VIRTIO_VSOCK_OP_RESPONSE, 52, port, NULL, 0);
    snprintf(text, sizeof text, "OK %u\n", port);
    ok(reads(fd, text), "OK and the port");
    ok(get_op(VIRTIO_VSOCK_OP_RW, 52) && got.h.len == 5 && !memcmp(got.data, "hello", 5),
       "bytes after the greeting follow");
    put(VIRTIO_VSOCK_OP_RW, 52, port, "world", 5);
    ok(reads(fd, "world"), "the guest's bytes");
    put(VIRTIO_VSOCK_OP_SHUTDOWN, 52, port, NULL, 0);
    ok(get_op(VIRTIO_VSOCK_OP_RST, 52) && at_end(fd) && !vs->conn_count, "the guest closes");
    close(fd);
}

static void test_refused(void)
{
    static const char *const bad[] = {"GET / HTTP/1.1\r\n",
                                      "CONNECT x\n",
                                      "CONNECT 4294967296\n",
                                      "CONNECT 1 2\n",
                                      "CONNECT -1\n",
                                      "\n",
                                      "CONNECT 11111111111111111111111111111111111111"};
    int fd;

    begin(RX_BUFS);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        fd = client(bad[i]);
        ok(at_end(fd) && nothing() && !vs->conn_count, "greeting %u is none", i);
        close(fd);
    }
    close(client("CONNECT 5"));
    guest_settle(&g);
    ok(!vs->conn_count, "a client that leaves before its greeting ends");
    fd = client("CONNECT 77\n");
    ok(get_op(VIRTIO_VSOCK_OP_REQUEST, 77), "asked");
    put(VIRTIO_VSOCK_OP_RST, 77, got.h.src_port, NULL, 0);
    ok(at_end(fd) && !vs->conn_count, "refused by the guest");
    close(fd);
    fd = client("CONNECT 78\n");
    get_op(VIRTIO_VSOCK_OP_REQUEST, 78);
    close(fd);
    ok(get_op(VIRTIO_VSOCK_OP_RST, 78) && !vs->conn_count, "a client that does not wait");
    put(VIRTIO_VSOCK_OP_REQUEST, 9, 1001, NULL, 0);
    ok(answer(1001, ECONNREFUSED) < 0 && get_op(VIRTIO_VSOCK_OP_RST, 9) && got.h.src_port == 1001,
       "nobody listens on the host");
    put(VIRTIO_VSOCK_OP_REQUEST, 9, 1002, NULL, 0);
    put(VIRTIO_VSOCK_OP_RST, 9, 1002, NULL, 0);
    fd = answer(1002, 0);
    ok(at_end(fd) && nothing() && !vs->conn_count, "a guest that does not wait");
    close(fd);
}

static uint8_t big[BIG], back[BIG];

static void test_to_host(void)
{
    uint32_t sent = 0, room = 0, fwd = 0;
    size_t have = 0;
    int fd;

    begin(RX_BUFS);
    fd = dialed(2000);
    for (unsigned i = 0; i < 2000 && have < BIG; i++) {
        ssize_t n;

        room = VSOCK_BUF - (sent - fwd);
        if (room && sent < BIG) {
            uint32_t part = (uint32_t)min_size(min_size(room, BIG - sent), 60000);

            put(VIRTIO_VSOCK_OP_RW, 2000, 1000, big + sent, part);
            sent += part;
        } else {
            /* as slow as can be: only once the guest has no credit left */
            while ((n = read(fd, back + have, min_size(BIG - have, 10000))) > 0)
                have += (size_t)n;
        }
        while (get(&got, true)) {
            if (got.h.op != VIRTIO_VSOCK_OP_CREDIT_UPDATE)
                ok(false, "only credit comes, not %u", got.h.op);
            fwd = got.h.fwd_cnt;
        }
    }
    ok(have == BIG && !memcmp(big, back, BIG), "a MiB to a slow program, all by credit");
    put(VIRTIO_VSOCK_OP_RW, 2000, 1000, "end", 3);
    put(VIRTIO_VSOCK_OP_SHUTDOWN, 2000, 1000, NULL, 0);
    ok(reads(fd, "end") && get_op(VIRTIO_VSOCK_OP_RST, 2000) && at_end(fd), "closed");
    close(fd);
}

static void test_slow_close(void)
{
    uint32_t sent = 0;
    size_t have = 0;
    ssize_t n;
    int fd;

    begin(RX_BUFS);
    fd = dialed(2001);
    while (sent < 400000) { /* until the socket is full and bytes wait here */
        put(VIRTIO_VSOCK_OP_RW, 2001, 1000, big + sent, 50000);
        sent += 50000;
        if (container_of(vs->conns.next, struct vsock_conn, all)->buf_len > 50000)
            break;
    }
    put(VIRTIO_VSOCK_OP_SHUTDOWN, 2001, 1000, NULL, 0);
    put(VIRTIO_VSOCK_OP_RST, 2001, 1000, NULL, 0);
    ok(nothing() && vs->conn_count == 1, "closed while bytes wait");
    put(VIRTIO_VSOCK_OP_RW, 2001, 1000, "x", 1);
    ok(get_op(VIRTIO_VSOCK_OP_RST, 2001), "nothing more is taken");
    for (unsigned i = 0; i < 1000 && have < sent; i++) {
        n = read(fd, back + have, BIG - have);
        have += n > 0 ? (size_t)n : 0;
        guest_settle(&g);
    }
    ok(have == sent && !memcmp(big, back, sent) && at_end(fd) && !vs->conn_count,
       "they still arrive, then the end");
    close(fd);
}

static void test_to_guest(void)
{
    size_t sent = 0, have = 0;
    int fd;

    begin(4);
    fd = dialed(2002);
    for (unsigned i = 0; i < 20000 && have < BIG; i++) {
        ssize_t n = write(fd, big + sent, min_size(BIG - sent, 30000));

        sent += n > 0 ? (size_t)n : 0;
        while (get(&got, true)) {
            if (got.h.op == VIRTIO_VSOCK_OP_RW) {
                memcpy(back + have, got.data, min_size(got.h.len, BIG - have));
                have += got.h.len;
            }
            if (have - our_fwd > our_alloc / 2 || got.h.op == VIRTIO_VSOCK_OP_CREDIT_REQUEST) {
                our_fwd = (uint32_t)have;
                put(VIRTIO_VSOCK_OP_CREDIT_UPDATE, 2002, 1000, NULL, 0);
            }
        }
    }
    ok(have == BIG && !memcmp(big, back, BIG), "a MiB to the guest through four buffers");
    shutdown(fd, SHUT_WR);
    ok(get_op(VIRTIO_VSOCK_OP_SHUTDOWN, 2002) && got.h.flags == VIRTIO_VSOCK_SHUTDOWN_SEND,
       "the host stops writing");
    put(VIRTIO_VSOCK_OP_RW, 2002, 1000, "still", 5);
    ok(reads(fd, "still"), "and still reads");
    close(fd);
    ok(get_op(VIRTIO_VSOCK_OP_SHUTDOWN, 2002) && got.h.flags == 3, "then it is gone");
    put(VIRTIO_VSOCK_OP_RW, 2002, 1000, "late", 4);
    ok(nothing(), "bytes for nobody vanish");
    put(VIRTIO_VSOCK_OP_RST, 2002, 1000, NULL, 0);
    ok(nothing() && !vs->conn_count, "the guest agrees");
}

static void test_credit(void)
{
    struct virtio_vsock_hdr h;
    size_t have = 0;
    int fd;

    begin(RX_BUFS);
    our_alloc = 100;
    fd = dialed(2003);
    ok(write(fd, big, 1000) == 1000, "more than the guest wants");
    while (get(&got, true) && got.h.op == VIRTIO_VSOCK_OP_RW)
        have += got.h.len;
    ok(have == 100 && got.h.op == VIRTIO_VSOCK_OP_CREDIT_REQUEST && nothing(),
       "it gets its credit, and is asked once for more");
    our_fwd = 5000; /* claims bytes that were never sent */
    put(VIRTIO_VSOCK_OP_CREDIT_UPDATE, 2003, 1000, NULL, 0);
    ok(get_op(VIRTIO_VSOCK_OP_CREDIT_REQUEST, 2003) && nothing(), "a lie gives nothing");
    our_alloc = UINT32_MAX;
    our_fwd = 100;
    put(VIRTIO_VSOCK_OP_CREDIT_UPDATE, 2003, 1000, NULL, 0);
    ok(get_op(VIRTIO_VSOCK_OP_RW, 2003) && got.h.len == 900 && nothing(), "the rest");
    put(VIRTIO_VSOCK_OP_CREDIT_REQUEST, 2003, 1000, NULL, 0);
    ok(get(&got, true) && got.h.op == VIRTIO_VSOCK_OP_CREDIT_UPDATE, "asked for credit");
    for (unsigned i = 0; i < 20; i++) /* nobody reads: 128 KiB and what the socket holds */
        put(VIRTIO_VSOCK_OP_RW, 2003, 1000, big, 60000);
    ok(get_op(VIRTIO_VSOCK_OP_RST, 2003) && !vs->conn_count, "more than its credit: reset");
    while (get(&got, true))
        if (got.h.op != VIRTIO_VSOCK_OP_RST)
            ok(false, "only refusals, not %u", got.h.op);
    close(fd);
    fd = dialed(2004);
    h = make(VIRTIO_VSOCK_OP_RW, 2004, 1000);
    h.len = 1000;
    raw(&h, big, 999, HDR);
    ok(get_op(VIRTIO_VSOCK_OP_RST, 2004) && at_end(fd) && !vs->conn_count,
       "a length beyond the buffer: reset");
    close(fd);
}

static void test_hostile(void)
{
    struct virtio_vsock_hdr h = make(VIRTIO_VSOCK_OP_REQUEST, 1, 1);

    begin(RX_BUFS);
    raw(&h, NULL, 0, 43);
    h.dst_cid = 3;
    raw(&h, NULL, 0, HDR);
    h.dst_cid = 2;
    h.src_cid = 7;
    raw(&h, NULL, 0, HDR);
    ok(nothing() && !vs->conn_count, "cut, for another, from another: dropped");
    h.src_cid = CID;
    h.type = 2;
    raw(&h, NULL, 0, HDR);
    ok(get_op(VIRTIO_VSOCK_OP_RST, 1) && nothing(), "SEQPACKET is refused");
    for (unsigned op = 0; op < 70000; op += op < 10 ? 1 : 9973) {
        if (op == VIRTIO_VSOCK_OP_REQUEST)
            continue;
        put((uint16_t)op, 5, 5, NULL, 0);
        if (op == VIRTIO_VSOCK_OP_RST ? !nothing() : !get_op(VIRTIO_VSOCK_OP_RST, 5))
            ok(false, "operation %u without a connection", op);
    }
    ok(!vs->conn_count, "strays are refused, stray refusals are not");
    close(dialed(6));
    get_op(VIRTIO_VSOCK_OP_SHUTDOWN, 6);
    put(VIRTIO_VSOCK_OP_REQUEST, 6, 1000, NULL, 0);
    ok(get_op(VIRTIO_VSOCK_OP_RST, 6) && !vs->conn_count, "the same ports twice: reset");
}

static void test_many(void)
{
    static int fds[VSOCK_CONNS];
    unsigned refused = 0, accepted = 0;

    begin(RX_BUFS);
    for (unsigned i = 0; i < VSOCK_CONNS + 100; i++) {
        put(VIRTIO_VSOCK_OP_REQUEST, 10000 + i, 1000, NULL, 0);
        if (i < VSOCK_CONNS)
            fds[accepted++] = answer(1000, 0);
        while (get(&got, true))
            refused += got.h.op == VIRTIO_VSOCK_OP_RST;
    }
    ok(vs->conn_count == VSOCK_CONNS && refused == 100, "connections are bounded: %u, %u refused",
       vs->conn_count, refused);
    for (unsigned i = 0; i < accepted; i++)
        close(fds[i]);
    guest_settle(&g);
    begin(0); /* a reset drops them all; this driver offers no buffers */
    ok(!vs->conn_count, "none after a reset");
    for (unsigned i = 0; i < VSOCK_RESETS - VSOCK_CONNS; i++)
        put(VIRTIO_VSOCK_OP_RW, i, 1, NULL, 0);
    guest_add(&g, 1,
              &(struct guest_buf){guest_put(&g, &(struct virtio_vsock_hdr){0}, HDR), HDR, false},
              1);
    guest_kick(&g, 1);
    guest_settle(&g);
    ok(guest_used(&g, 1, NULL) < 0, "a guest that takes no refusals waits");
    ok(at_end(client("CONNECT 3\n")), "and gets no connections");
    offer(RX_BUFS);
    refused = 0;
    while (get(&got, true))
        refused += got.h.op == VIRTIO_VSOCK_OP_RST && got.h.dst_port == refused;
    ok(refused == VSOCK_RESETS - VSOCK_CONNS && guest_used(&g, 1, NULL) >= 0,
       "until it does: %u in order", refused);
}

static void test_pause(void)
{
    int fd;

    begin(RX_BUFS);
    fd = dialed(2005);
    dev->type->pause(dev);
    ok(write(fd, "one", 3) == 3 && nothing(), "paused: nothing moves");
    dev->type->resume(dev);
    ok(get_op(VIRTIO_VSOCK_OP_RW, 2005) && got.h.len == 3, "resumed: it goes on");
    close(fd);
}

static struct device *fresh(struct guest *to)
{
    return guest_attach(to, virtio_vsock_new("vsock0", CID, -1, -1));
}

static void test_restore(void)
{
    struct guest other;
    struct device *copy;
    struct stream s = {0};
    struct err err;
    gpa event;
    struct guest_buf buf;

    begin(RX_BUFS);
    event = guest_alloc(&g, 64, 16);
    buf = (struct guest_buf){event, 4, true};
    put_le32(guest_ptr(&g, event, 4), 77);
    guest_add(&g, 2, &buf, 1);
    guest_kick(&g, 2);
    guest_settle(&g);
    ok(guest_used(&g, 2, NULL) < 0, "no events while all is well");
    dev->type->pause(dev);
    ok(field_save(dev->type->state, dev, &s, &err), "saved");
    dev->type->resume(dev);
    guest_open(&other);
    copy = fresh(&other);
    memcpy(other.mem.region[0].host, g.mem.region[0].host, g.heap);
    s.size = s.at ? s.at : s.size;
    s.at = 0;
    ok(field_restore(copy->type->state, copy, &s, &err) && copy->type->restored(copy, &err),
       "restored elsewhere");
    guest_settle(&other);
    ok(le32(guest_ptr(&other, event, 4)) == VIRTIO_VSOCK_EVENT_TRANSPORT_RESET,
       "the guest hears that its connections are gone");
    stream_free(&s);
    guest_close(&other);
}

static bool open_device(void)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int pair[2], fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (!mkdtemp(folder) || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        return false;
    snprintf(path, sizeof path, "%s/v", folder);
    strcpy(at.sun_path, path);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 16))
        return false;
    dialer = pair[0];
    dev = guest_attach(&g, virtio_vsock_new("vsock0", CID, fd, pair[1]));
    if (!dev || !guest_probe(&g, guest_slot(dev)))
        return false;
    vs = container_of(dev, struct virtio_vsock, v.dev);
    return true;
}

int main(void)
{
    uint64_t seed = 1;
    struct guest other;

    for (unsigned i = 0; i < BIG; i += 8)
        put_le64(big + i, guest_random(&seed));
    log_setup("test", LOG_ERROR);
    if (!guest_open(&g) || !open_device())
        return 1;
    ok(guest_config(&g, 0, 8) == CID, "the CID");
    test_from_host();
    test_refused();
    test_to_host();
    test_slow_close();
    test_to_guest();
    test_credit();
    test_hostile();
    test_many();
    test_pause();
    test_restore();
    ok(guest_check_registers(&g, dev, 5, 20000), "20000 random register accesses do no harm");
    begin(RX_BUFS);
    guest_open(&other);
    ok(guest_check_state(&g, dev, fresh(&other)), "state: saved, restored, saved again");
    guest_close(&other);
    close(dialer);
    guest_close(&g);
    unlink(path);
    rmdir(folder);
    return tap_done();
}
