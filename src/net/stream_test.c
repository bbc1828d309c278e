/* SPDX-License-Identifier: MIT */
/* The stream backend against a socket pair whose other end the test plays: framing over odd cuts,
 * back-pressure both ways, hostile lengths, a peer that goes. */
#include "net/net.h"
#include "base/log.h"
#include "tap.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static struct loop *loop;

struct sink {
    struct net_sink sink;
    struct net *net;
    unsigned frames, room, writable, bad, resume_inside;
    size_t bytes;
};

static bool receive(struct net_sink *n, const struct iovec *iov, int count)
{
    struct sink *s = container_of(n, struct sink, sink);
    const uint8_t *p = iov[0].iov_base;

    if (!s->room)
        return false;
    s->room--;
    for (size_t i = 0; i < iov[0].iov_len; i++)
        s->bad += p[i] != (uint8_t)(s->frames + i);
    s->bad += count != 1;
    s->frames++;
    s->bytes += iov[0].iov_len;
    return true;
}

static void writable(struct net_sink *n)
{
    container_of(n, struct sink, sink)->writable++;
}

/* A backend whose peer is `*peer`. */
static struct sink *open_pair(int *peer)
{
    struct sink *s = calloc(1, sizeof *s);
    struct err err = {0};
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0)
        printf("Bail out! socketpair\n");
    *peer = fds[1];
    fcntl(fds[1], F_SETFL, O_NONBLOCK);
    s->room = 1000000;
    s->sink = (struct net_sink){receive, writable};
    s->net = net_stream_open(loop, fds[0], &err);
    s->net->sink = &s->sink;
    return s;
}

static void close_pair(struct sink *s, int peer)
{
    s->net->ops->close(s->net);
    close(peer);
    free(s);
}

static void turns(int n)
{
    while (n--)
        loop_turn(loop, 1000000);
}

static size_t put_frame(uint8_t *at, unsigned number, size_t len)
{
    uint32_t header = htonl((uint32_t)len);

    memcpy(at, &header, 4);
    for (size_t i = 0; i < len; i++)
        at[4 + i] = (uint8_t)(number + i);
    return 4 + len;
}

static void test_receive(void)
{
    static uint8_t bytes[300000];
    static const size_t lengths[] = {14, 60, 1514, 65554, 15, 9000, 64};
    size_t len = 0, at = 0, step = 1;
    int peer;
    struct sink *s = open_pair(&peer);

    for (unsigned i = 0; i < 7; i++)
        len += put_frame(bytes + len, i, lengths[i]);
    while (at < len) { /* cuts in every place of a header, and large pieces */
        ssize_t n = send(peer, bytes + at, min_size(step, len - at), MSG_NOSIGNAL);

        at += n > 0 ? (size_t)n : 0;
        step = at < 200 ? 1 : 5003;
        turns(1);
    }
    turns(3);
    ok(s->frames == 7 && s->bad == 0, "frames arrive whole over odd cuts: %u, %u wrong", s->frames,
       s->bad);
    close_pair(s, peer);
}

static void test_receive_pressure(void)
{
    static uint8_t bytes[1514 + 4];
    unsigned sent = 0, taken, rounds = 0;
    size_t part = 0, len = 0;
    int peer;
    struct sink *s = open_pair(&peer);

    s->room = 3;
    for (int idle = 0; idle < 5;) { /* until the peer is blocked for good */
        ssize_t n;

        if (part == len) {
            len = put_frame(bytes, sent, 1514);
            part = 0;
        }
        n = send(peer, bytes + part, len - part, MSG_NOSIGNAL);
        turns(1);
        if (n <= 0) {
            idle++;
            continue;
        }
        part += (size_t)n;
        sent += part == len;
    }
    ok(s->frames == 3, "a sink without room gets no more");
    ok(sent < 1000, "and the peer is held back after %u frames", sent);
    taken = s->frames;
    while (s->frames < sent && rounds++ < 1000) {
        s->room = 5;
        s->net->ops->resume(s->net);
        turns(1);
    }
    ok(s->frames > taken && s->frames == sent && s->bad == 0, "resume brings them all, in order");
    close_pair(s, peer);
}

static unsigned drain(int peer, uint8_t *buffer, size_t size, size_t *have, unsigned *bad,
                      unsigned from)
{
    unsigned frames = 0;
    ssize_t n = recv(peer, buffer + *have, size - *have, 0);

    *have += n > 0 ? (size_t)n : 0;
    for (;;) {
        uint32_t len;

        if (*have < 4)
            return frames;
        memcpy(&len, buffer, 4);
        len = ntohl(len);
        if (*have < 4 + len)
            return frames;
        for (uint32_t i = 0; i < len; i++)
            *bad += buffer[4 + i] != (uint8_t)(from + frames + i);
        frames++;
        memmove(buffer, buffer + 4 + len, *have - 4 - len);
        *have -= 4 + len;
    }
}

static void test_send_pressure(void)
{
    static uint8_t frame[4 + 9014], buffer[1 << 20];
    unsigned sent = 0, got = 0, bad = 0;
    size_t have = 0;
    int peer, result = 0;
    struct sink *s = open_pair(&peer);

    for (int turn = 0; turn < 1000 && result == 0; turn++) {
        struct iovec iov[2] = {{frame + 4, 14}, {frame + 18, 9000}};

        put_frame(frame, sent, 9014);
        result = s->net->ops->send(s->net, iov, 2);
        sent += result == 0;
        if (turn % 16 == 0)
            turns(1);
    }
    ok(result == -EAGAIN && s->writable == 0, "a peer that does not read: -EAGAIN after %u", sent);
    for (int turn = 0; turn < 2000 && got < sent; turn++) {
        got += drain(peer, buffer, sizeof buffer, &have, &bad, got);
        turns(1);
    }
    ok(s->writable == 1, "writable once it reads");
    ok(got == sent && bad == 0, "all %u of %u frames are there", got, sent);
    close_pair(s, peer);
}

static void test_send_limits(void)
{
    static uint8_t frame[70000];
    int peer;
    struct sink *s = open_pair(&peer);
    struct iovec iov = {frame, 13};

    ok(s->net->ops->send(s->net, &iov, 1) == -EMSGSIZE, "shorter than an Ethernet header");
    iov.iov_len = sizeof frame;
    ok(s->net->ops->send(s->net, &iov, 1) == -EMSGSIZE, "longer than any frame");
    close_pair(s, peer);
}

static void test_hostile(uint32_t length)
{
    uint8_t bytes[64] = {0};
    struct iovec iov = {bytes, 60};
    int peer;
    struct sink *s = open_pair(&peer);

    length = htonl(length);
    memcpy(bytes, &length, 4);
    send(peer, bytes, sizeof bytes, 0);
    turns(3);
    ok(s->frames == 0 && s->net->ops->send(s->net, &iov, 1) == -ENOTCONN, "length %u ends the link",
       ntohl(length));
    s->net->ops->resume(s->net);
    close_pair(s, peer);
}

static void test_peer_goes(void)
{
    static uint8_t frame[9014];
    struct iovec iov = {frame, sizeof frame};
    int peer;
    struct sink *s = open_pair(&peer);

    while (s->net->ops->send(s->net, &iov, 1) == 0)
        turns(1);
    close(peer);
    turns(3);
    ok(s->writable == 1, "a blocked device is let go when the peer ends");
    ok(s->net->ops->send(s->net, &iov, 1) == -ENOTCONN, "and its frames are dropped");
    close_pair(s, -1);
    s = open_pair(&peer);
    put_frame(frame, 0, 60);
    s->room = 0;
    send(peer, frame, 64, 0);
    turns(2);
    close(peer);
    turns(3);
    s->room = 1;
    s->net->ops->resume(s->net);
    ok(s->frames == 1, "what was received before is delivered after");
    close_pair(s, -1);
}

int main(void)
{
    struct err err = {0};

    log_setup("stream_test", LOG_ERROR);
    loop = loop_open(&err);
    test_receive();
    test_receive_pressure();
    test_send_pressure();
    test_send_limits();
    test_hostile(0);
    test_hostile(13);
    test_hostile(65555);
    test_hostile(0xffffffff);
    test_peer_goes();
    loop_close(loop);
    return tap_done();
}
