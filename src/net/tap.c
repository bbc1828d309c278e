/* SPDX-License-Identifier: MIT */
/* A tap interface of the host: frames with a virtio header in front, so checksums and segmentation
 * pass between guest and kernel without being done.
 *
 *   send  -> writev                               full: -EAGAIN, later writable()
 *   ready -> readv, one frame a call -> sink      refused: that frame is kept and reading stops
 *
 * Making an interface needs CAP_NET_ADMIN. Using one that was made for this user does not:
 *   ip tuntap add dev NAME mode tap user USER [multi_queue] */
#include "net/net.h"
#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    VNET_HDR = 12,
    FRAME_ROOM = VNET_HDR + 65536 + 18, /* a segmentation super-frame with headers */
    TURN_FRAMES = 64,                   /* then other watches get their turn */
};

struct tap {
    struct net net;
    struct loop *loop;
    struct watch watch;
    bool blocked; /* send() gave -EAGAIN */
    size_t kept;  /* length of the frame that the sink refused, or 0 */
    uint8_t frame[FRAME_ROOM];
};

static struct tap *of(struct net *n)
{
    return container_of(n, struct tap, net);
}

static void update_events(struct tap *t)
{
    loop_rewatch(t->loop, &t->watch,
                 (t->kept ? 0 : (uint32_t)EPOLLIN) | (t->blocked ? (uint32_t)EPOLLOUT : 0));
}

static int tap_send(struct net *n, const struct iovec *iov, int count)
{
    struct tap *t = of(n);

    for (;;) {
        if (writev(t->watch.fd, iov, count) >= 0)
            return 0;
        if (errno == EAGAIN) {
            t->blocked = true;
            update_events(t);
        }
        if (errno != EINTR)
            return -errno;
    }
}

static bool give(struct tap *t, size_t len)
{
    struct iovec frame = {t->frame, len};

    return !t->net.sink || t->net.sink->receive(t->net.sink, &frame, 1);
}

static void read_frames(struct tap *t)
{
    for (int i = 0; i < TURN_FRAMES && !t->kept; i++) {
        ssize_t n = read(t->watch.fd, t->frame, sizeof t->frame);

        if (n <= VNET_HDR) {
            if (n < 0 && errno != EAGAIN && errno != EINTR) {
                log_error("tap: reading fails (%s): the guest has no network from now on",
                          strerror(errno));
                loop_forget(t->loop, &t->watch);
            }
            return;
        }
        if (!give(t, (size_t)n))
            t->kept = (size_t)n;
    }
}

static void tap_ready(struct watch *w, uint32_t events)
{
    struct tap *t = container_of(w, struct tap, watch);

    if ((events & EPOLLOUT) && t->blocked) {
        t->blocked = false;
        if (t->net.sink)
            t->net.sink->writable(t->net.sink);
    }
    if (events & (EPOLLIN | EPOLLERR))
        read_frames(t);
    if (t->watch.active)
        update_events(t);
}

static void tap_resume(struct net *n)
{
    struct tap *t = of(n);
    size_t len = t->kept;

    if (!len || !t->watch.active)
        return;
    t->kept = 0;
    if (!give(t, len))
        t->kept = len;
    update_events(t);
}

static void tap_offload(struct net *n, unsigned features)
{
    /* Kernels before 6.2 refuse the USO bits, and all of the others with them. */
    if (ioctl(of(n)->watch.fd, TUNSETOFFLOAD, (unsigned long)features) != 0)
        ioctl(of(n)->watch.fd, TUNSETOFFLOAD,
              (unsigned long)(features &
                              (TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_UFO)));
}

int net_tap_lend(struct net *n)
{
    loop_forget(of(n)->loop, &of(n)->watch);
    return of(n)->watch.fd;
}

void net_tap_enable(struct net *n, bool on)
{
    struct ifreq ifr = {.ifr_flags = on ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE};

    ioctl(of(n)->watch.fd, TUNSETQUEUE, &ifr); /* fails if it is so already */
}

static void tap_close(struct net *n)
{
    struct tap *t = of(n);

    loop_forget(t->loop, &t->watch);
    close(t->watch.fd);
    free(t);
}

static const struct net_ops tap_ops = {
    .send = tap_send,
    .close = tap_close,
    .offload = tap_offload,
    .resume = tap_resume,
};

static bool say_cannot(const char *name, int code, struct err *err)
{
    if (code == EPERM || code == EACCES)
        return err_set(
            err, code,
            "tap %s: not allowed: have it made once with: sudo ip tuntap add dev %s mode tap "
            "user $USER; sudo ip link set %s up",
            name, name, name);
    if (code == EBUSY)
        return err_set(err, code, "tap %s: is in use by another machine", name);
    if (code == EINVAL)
        return err_set(
            err, code,
            "tap %s: is no tap, or was made with another queue mode: multi_queue belongs to "
            "queues= above 1",
            name);
    return err_set(err, code, "tap %s: %s", name, strerror(code));
}

/* An interface that we made is down. One that was made for us is its owner's business, so failing
 * is fine. */
static void bring_up(const char *name, uint32_t *mtu)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq ifr = {0};

    snprintf(ifr.ifr_name, IFNAMSIZ, "%s", name);
    if (ioctl(fd, SIOCGIFFLAGS, &ifr) == 0 && !(ifr.ifr_flags & IFF_UP)) {
        ifr.ifr_flags |= IFF_UP;
        if (ioctl(fd, SIOCSIFFLAGS, &ifr) != 0)
            log_warn("tap %s is down: ip link set %s up", name, name);
    }
    if (ioctl(fd, SIOCGIFMTU, &ifr) == 0)
        *mtu = (uint32_t)ifr.ifr_mtu;
    close(fd);
}

static bool attach(int fd, const struct net_config *c, struct err *err)
{
    struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int header = VNET_HDR;

    if (c->queues > 1)
        ifr.ifr_flags |= IFF_MULTI_QUEUE;
    memcpy(ifr.ifr_name, c->name, strnlen(c->name, IFNAMSIZ - 1));
    if (ioctl(fd, TUNSETIFF, &ifr) != 0)
        return say_cannot(c->name, errno, err);
    if (ioctl(fd, TUNSETVNETHDRSZ, &header) != 0)
        return err_set(err, errno, "tap %s: no virtio header: %s", c->name, strerror(errno));
    return true;
}

struct net *net_tap_open(struct loop *l, const struct net_config *c, struct err *err)
{
    struct tap *t = calloc(1, sizeof *t);
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);

    if (!t) {
        err_set(err, ENOMEM, "tap %s: out of memory", c->name);
        goto close_fd;
    }
    if (fd < 0) {
        err_set(err, errno, "tap %s: /dev/net/tun: %s: modprobe tun", c->name, strerror(errno));
        goto free_tap;
    }
    t->net.ops = &tap_ops;
    t->net.vnet_hdr = true;
    t->loop = l;
    t->watch = (struct watch){.fd = fd, .events = EPOLLIN, .ready = tap_ready};
    if (!attach(fd, c, err))
        goto close_fd;
    bring_up(c->name, &t->net.mtu);
    tap_offload(&t->net, 0);
    if (!loop_watch(l, &t->watch, err))
        goto close_fd;
    return &t->net;
close_fd:
    if (fd >= 0)
        close(fd);
free_tap:
    free(t);
    return NULL;
}
