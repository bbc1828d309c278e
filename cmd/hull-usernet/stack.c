/* SPDX-License-Identifier: MIT */
/* The network that the guest sees: libslirp's TCP/IP, DHCP, DNS and router advertisements,
 * translated to this process's own sockets. One thread, one poll(2): the link, libslirp's sockets,
 * one timer.
 *
 *   10.0.2.0/24   .2 the host (its 127.0.0.1)   .3 DNS   .15 the guest's lease
 *   fec0::/64     ::2 the host                  ::3 DNS  the guest chooses (router advertisement)
 *
 * Back-pressure: while much output waits for the guest, neither sockets nor guest frames are read.
 */
#include "usernet.h"
#include "base/clock.h"
#include "base/log.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FDS_MAX = 4096 };

struct slirp_timer {
    SlirpTimerId id;
    void *cb_opaque;
    int64_t at_ms; /* INT64_MAX: not armed */
};

struct stack {
    Slirp *slirp;
    struct link *link;
    struct slirp_timer timer[SLIRP_TIMER_NUM];
    uint16_t port[NET_FORWARDS_MAX];
    nfds_t fd_count;
    struct pollfd fd[FDS_MAX]; /* [0] is the link */
    struct log_limit guest_limit;
};

static int64_t now_ms(void)
{
    return (int64_t)(now_ns() / 1000000);
}

/* ---- what libslirp calls ---- */

static ssize_t on_send(const void *frame, size_t len, void *opaque)
{
    struct stack *s = opaque;

    link_send(s->link, frame, len);
    return (ssize_t)len;
}

static void on_guest_error(const char *text, void *opaque)
{
    struct stack *s = opaque;

    log_guest(&s->guest_limit, "%s", text);
}

static int64_t on_clock(void *opaque)
{
    (void)opaque;
    return (int64_t)now_ns();
}

static void *on_timer_new(SlirpTimerId id, void *cb_opaque, void *opaque)
{
    struct stack *s = opaque;

    s->timer[id] = (struct slirp_timer){id, cb_opaque, INT64_MAX};
    return &s->timer[id];
}

static void on_timer_free(void *timer, void *opaque)
{
    (void)opaque;
    ((struct slirp_timer *)timer)->at_ms = INT64_MAX;
}

static void on_timer_mod(void *timer, int64_t at_ms, void *opaque)
{
    (void)opaque;
    ((struct slirp_timer *)timer)->at_ms = at_ms;
}

static void on_fd(int fd, void *opaque)
{
    (void)fd;
    (void)opaque;
}

static void on_notify(void *opaque)
{
    (void)opaque; /* one thread: the loop comes round anyway */
}

static const SlirpCb callbacks = {
    .send_packet = on_send,
    .guest_error = on_guest_error,
    .clock_get_ns = on_clock,
    .timer_free = on_timer_free,
    .timer_mod = on_timer_mod,
    .register_poll_fd = on_fd,
    .unregister_poll_fd = on_fd,
    .notify = on_notify,
    .timer_new_opaque = on_timer_new,
};

/* ---- forwards ---- */

static bool say_cannot_bind(const struct net_forward *f, const char *host, int code,
                            struct err *err)
{
    const char *kind = f->udp ? "udp" : "tcp";

    if (code == EADDRINUSE)
        return err_set(err, code, "port %u on %s is in use: choose another with forward=%s:PORT:%u",
                       f->host_port, host, kind, f->guest_port);
    if (code == EACCES || code == EPERM)
        return err_set(err, code,
                       "port %u on %s needs root: choose one above 1023 with forward=%s:PORT:%u",
                       f->host_port, host, kind, f->guest_port);
    if (code == EADDRNOTAVAIL)
        return err_set(err, code,
                       "%s is not an address of this host: forward=%s:%u:%u is for 127.0.0.1", host,
                       kind, f->host_port, f->guest_port);
    return err_set(err, code, "port %u on %s cannot be forwarded: %s", f->host_port, host,
                   strerror(code));
}

/* libslirp lets UDP ports be shared, so that two machines would both seem to get one. */
static bool udp_port_free(const struct in_addr *host, uint16_t port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = *host};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), code;
    bool unused = fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) == 0;

    code = errno;
    if (fd >= 0)
        close(fd);
    errno = code;
    return unused;
}

/* The descriptor that the next socket gets: how a forward's own is found, as libslirp does not
 * tell. */
static int next_fd(const struct stack *s)
{
    int fd = dup(s->link->fd >= 0 ? s->link->fd : STDERR_FILENO);

    close(fd);
    return fd;
}

static bool add_forward(struct stack *s, unsigned i, const struct net_forward *f, struct err *err)
{
    const char *text = f->host[0] ? f->host : "127.0.0.1";
    struct in_addr host, guest = {0}; /* none given: the address that DHCP leases */
    struct sockaddr_in bound = {0};
    socklen_t len = sizeof bound;
    int fd = next_fd(s);

    inet_pton(AF_INET, text, &host);
    if (f->udp && !udp_port_free(&host, f->host_port))
        return say_cannot_bind(f, text, errno, err);
    if (slirp_add_hostfwd(s->slirp, f->udp, host, f->host_port, guest, f->guest_port) != 0)
        return say_cannot_bind(f, text, errno, err);
    if (getsockname(fd, (struct sockaddr *)&bound, &len) == 0)
        s->port[i] = ntohs(bound.sin_port);
    return true;
}

uint16_t stack_bound_port(const struct stack *s, unsigned forward)
{
    return s->port[forward];
}

/* ---- opening and closing ---- */

static SlirpConfig slirp_config(const struct net_config *c)
{
    SlirpConfig sc = {
        .version = 4,
        .restricted = c->restricted,
        .in_enabled = true,
        .in6_enabled = true,
        .vprefix_len = 64,
        .vhostname = c->hostname[0] ? c->hostname : NULL,
        .if_mtu = c->mtu ? c->mtu : 1500,
        .if_mru = c->mtu ? c->mtu : 1500,
    };

    inet_pton(AF_INET, "10.0.2.0", &sc.vnetwork);
    inet_pton(AF_INET, "255.255.255.0", &sc.vnetmask);
    inet_pton(AF_INET, "10.0.2.2", &sc.vhost);
    inet_pton(AF_INET, "10.0.2.3", &sc.vnameserver);
    inet_pton(AF_INET, "10.0.2.15", &sc.vdhcp_start);
    inet_pton(AF_INET6, "fec0::", &sc.vprefix_addr6);
    inet_pton(AF_INET6, "fec0::2", &sc.vhost6);
    inet_pton(AF_INET6, "fec0::3", &sc.vnameserver6);
    return sc;
}

struct stack *stack_open(struct link *l, const struct net_config *c, struct err *err)
{
    struct stack *s = calloc(1, sizeof *s);
    SlirpConfig sc = slirp_config(c);

    if (!s) {
        err_set(err, ENOMEM, "out of memory");
        return NULL;
    }
    s->link = l;
    for (int i = 0; i < SLIRP_TIMER_NUM; i++)
        s->timer[i].at_ms = INT64_MAX;
    s->slirp = slirp_new(&sc, &callbacks, s);
    if (!s->slirp) {
        err_set(err, EINVAL, "libslirp refuses these settings");
        goto free_stack;
    }
    for (unsigned i = 0; i < c->forward_count; i++) {
        if (!add_forward(s, i, &c->forward[i], err))
            goto close_slirp;
    }
    return s;
close_slirp:
    slirp_cleanup(s->slirp);
free_stack:
    free(s);
    return NULL;
}

void stack_close(struct stack *s)
{
    slirp_cleanup(s->slirp);
    free(s);
}

/* ---- the loop ---- */

static int on_add_poll(int fd, int events, void *opaque)
{
    struct stack *s = opaque;
    short want = 0;

    if (s->fd_count == FDS_MAX)
        return -1;
    want |= events & SLIRP_POLL_IN ? POLLIN : 0;
    want |= events & SLIRP_POLL_OUT ? POLLOUT : 0;
    want |= events & SLIRP_POLL_PRI ? POLLPRI : 0;
    s->fd[s->fd_count] = (struct pollfd){.fd = fd, .events = want};
    return (int)s->fd_count++;
}

static int on_get_revents(int index, void *opaque)
{
    struct stack *s = opaque;
    int events = 0;
    short got;

    if (index < 0)
        return 0;
    got = s->fd[index].revents;
    events |= got & POLLIN ? SLIRP_POLL_IN : 0;
    events |= got & POLLOUT ? SLIRP_POLL_OUT : 0;
    events |= got & POLLPRI ? SLIRP_POLL_PRI : 0;
    events |= got & POLLERR ? SLIRP_POLL_ERR : 0;
    events |= got & POLLHUP ? SLIRP_POLL_HUP : 0;
    return events;
}

static void take_frame(void *to, const uint8_t *frame, size_t len)
{
    struct stack *s = to;

    slirp_input(s->slirp, frame, (int)len);
}

static uint32_t until_timer(const struct stack *s, uint32_t timeout)
{
    for (int i = 0; i < SLIRP_TIMER_NUM; i++) {
        int64_t wait = s->timer[i].at_ms - now_ms();

        if (s->timer[i].at_ms == INT64_MAX)
            continue;
        if (wait < 0)
            wait = 0;
        if (wait < timeout)
            timeout = (uint32_t)wait;
    }
    return timeout;
}

static void fire_timers(struct stack *s)
{
    for (int i = 0; i < SLIRP_TIMER_NUM; i++) {
        struct slirp_timer *t = &s->timer[i];

        if (t->at_ms > now_ms())
            continue;
        t->at_ms = INT64_MAX;
        slirp_handle_timer(s->slirp, t->id, t->cb_opaque);
    }
}

/* One turn of the loop. `full` is what the link was when its waiting began: libslirp must see poll
 * results for exactly the sockets that it listed. */
static void turn(struct stack *s)
{
    bool full = link_full(s->link);
    uint32_t timeout = UINT32_MAX;
    int n;

    s->fd_count = 1;
    s->fd[0] = (struct pollfd){.fd = s->link->fd, .events = full ? 0 : POLLIN};
    if (s->link->out_at < s->link->out_end)
        s->fd[0].events |= POLLOUT;
    if (!full)
        slirp_pollfds_fill(s->slirp, &timeout, on_add_poll, s);
    timeout = until_timer(s, timeout);
    n = poll(s->fd, s->fd_count, timeout > INT32_MAX ? -1 : (int)timeout);
    if (n < 0 && errno != EINTR)
        log_error("poll: %s", strerror(errno));
    if (!full)
        slirp_pollfds_poll(s->slirp, n < 0, on_get_revents, s);
    if (n > 0 && (s->fd[0].revents & POLLIN))
        link_read(s->link, take_frame, s);
    else if (n > 0 && (s->fd[0].revents & (POLLHUP | POLLERR)))
        s->link->ended = true;
    fire_timers(s);
    link_flush(s->link);
}

void stack_run(struct stack *s)
{
    while (!s->link->ended)
        turn(s);
}
