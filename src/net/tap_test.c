/* SPDX-License-Identifier: MIT */
/* A tap in a network namespace of its own: the test ARPs the host's end and gets an answer. */
#include "net/net.h"
#include "tap.h"
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

struct sink {
    struct net_sink sink;
    bool refuse;
    unsigned refused, arp_replies;
};

static bool receive(struct net_sink *n, const struct iovec *iov, int count)
{
    struct sink *s = container_of(n, struct sink, sink);
    const uint8_t *p = (const uint8_t *)iov[0].iov_base + 12;

    (void)count;
    if (s->refuse) {
        s->refused++;
        return false;
    }
    if (iov[0].iov_len >= 12 + 42 && p[12] == 8 && p[13] == 6 && p[21] == 2)
        s->arp_replies++;
    return true;
}

static void writable(struct net_sink *n)
{
    (void)n;
}

static bool set_address(const char *name, const char *address)
{
    struct ifreq ifr = {0};
    struct sockaddr_in in = {.sin_family = AF_INET};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    bool set;

    snprintf(ifr.ifr_name, IFNAMSIZ, "%s", name);
    inet_pton(AF_INET, address, &in.sin_addr);
    memcpy(&ifr.ifr_addr, &in, sizeof in);
    set = ioctl(fd, SIOCSIFADDR, &ifr) == 0;
    inet_pton(AF_INET, "255.255.255.0", &in.sin_addr);
    memcpy(&ifr.ifr_addr, &in, sizeof in);
    set &= ioctl(fd, SIOCSIFNETMASK, &ifr) == 0;
    close(fd);
    return set;
}

/* Who has 192.0.2.1, tell 192.0.2.2: with the 12-byte virtio header in front. */
static void arp_request(uint8_t f[12 + 42])
{
    static const uint8_t eth[] = {255, 255, 255, 255, 255, 255, 0x52, 0x54, 0, 1, 2, 3, 8, 6};
    static const uint8_t arp[] = {0,   1, 8, 0, 6, 4, 0, 1, 0x52, 0x54, 0,   1, 2, 3,
                                  192, 0, 2, 2, 0, 0, 0, 0, 0,    0,    192, 0, 2, 1};

    memset(f, 0, 12 + 42);
    memcpy(f + 12, eth, sizeof eth);
    memcpy(f + 26, arp, sizeof arp);
}

static void test_frames(struct loop *loop, struct net *net)
{
    struct sink s = {.sink = {receive, writable}};
    uint8_t frame[12 + 42];
    struct iovec iov[2] = {{frame, 12}, {frame + 12, 42}};

    net->sink = &s.sink;
    ok(net->vnet_hdr && net->mtu == 1500, "header and MTU");
    net->ops->offload(net, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6);
    arp_request(frame);
    ok(net->ops->send(net, iov, 2) == 0, "send");
    for (int i = 0; i < 50 && !s.arp_replies; i++)
        loop_turn(loop, 20000000);
    ok(s.arp_replies == 1, "the host's kernel answers");
    s.refuse = true;
    net->ops->send(net, iov, 2);
    for (int i = 0; i < 50 && !s.refused; i++)
        loop_turn(loop, 20000000);
    loop_turn(loop, 20000000);
    ok(s.refused == 1, "a refused frame is offered once");
    s.refuse = false;
    net->ops->resume(net);
    for (int i = 0; i < 50 && s.arp_replies < 2; i++)
        loop_turn(loop, 20000000);
    ok(s.arp_replies == 2, "and delivered on resume");
}

int main(void)
{
    struct net_config c = {.kind = NET_TAP, .name = "hulltest0", .queues = 1};
    struct err err = {0};
    struct loop *loop = loop_open(&err);
    struct net *net, *second;

    if ((geteuid() != 0 && unshare(CLONE_NEWUSER) != 0) || unshare(CLONE_NEWNET) != 0) {
        tap_skip("tap", "no network namespace here");
        return tap_done();
    }
    net = net_tap_open(loop, &c, &err);
    if (!net) {
        printf("# %s\n", err.text);
        tap_skip("tap", "no tap in this namespace");
        return tap_done();
    }
    ok(set_address(c.name, "192.0.2.1"), "an address for the host's end");
    test_frames(loop, net);
    ok(!net_tap_open(loop, &c, &err) && err.code == EBUSY, "%s", err.text);
    net->ops->close(net);
    c.queues = 2;
    snprintf(c.name, sizeof c.name, "hulltest1");
    net = net_tap_open(loop, &c, &err);
    second = net_tap_open(loop, &c, &err);
    ok(net && second, "two queues of one tap");
    if (net)
        net->ops->close(net);
    if (second)
        second->ops->close(second);
    loop_close(loop);
    return tap_done();
}
