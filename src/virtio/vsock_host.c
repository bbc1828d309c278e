/* SPDX-License-Identifier: MIT */
/* The host's side of a vsock in user space.
 *
 *   host -> guest   a program connects to the listening socket and writes "CONNECT PORT\n"; once
 *                   the guest accepts it reads "OK HOSTPORT\n", and from then on bytes are the
 *                   guest's. A refusal closes the connection.
 *   guest -> host   port P is the socket PATH_P. A machine in its sandbox cannot connect anywhere:
 *                   it sends {id, port} to its dialer and gets {id, error} with the descriptor.
 */
#include "virtio/vsock.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- who connects from the host ---- */

static void listen_ready(struct watch *w, uint32_t events)
{
    struct virtio_vsock *vs = container_of(w, struct virtio_vsock, listener.watch);
    int fd = listener_accept(&vs->listener);

    if (fd < 0)
        return;
    if (vs->v.life != VIRTIO_RUNNING)
        close(fd); /* no driver, so nobody listens */
    else
        vsock_conn_new(vs, fd, VSOCK_GREET);
}

/* "CONNECT 1234\n": the port, or false. */
static bool parse_greeting(const char *line, uint32_t *port)
{
    unsigned long long n;
    char *end;

    if (strncmp(line, "CONNECT ", 8) || line[8] < '0' || line[8] > '9')
        return false;
    n = strtoull(line + 8, &end, 10);
    if ((*end && strcmp(end, "\r")) || n > UINT32_MAX)
        return false;
    *port = (uint32_t)n;
    return true;
}

static uint32_t free_port(struct virtio_vsock *vs, uint32_t guest_port)
{
    uint32_t port;

    do { /* ends: there are fewer connections than ports */
        port = VSOCK_HOST_PORTS + vs->next_port++ % VSOCK_HOST_PORTS;
    } while (vsock_conn_find(vs, port, guest_port));
    return port;
}

/* Looks before it takes, so that what follows the line stays in the socket. 0: the rest may come;
 * -1: it is no greeting. */
static int take_line(int fd, char line[VSOCK_GREETING + 1])
{
    ssize_t n = recv(fd, line, VSOCK_GREETING, MSG_PEEK | MSG_DONTWAIT);
    char *end;

    if (n <= 0)
        return n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
    end = memchr(line, '\n', (size_t)n);
    if (!end)
        return n < VSOCK_GREETING && !memcmp(line, "CONNECT ", min_size((size_t)n, 8)) ? 0 : -1;
    n = end - line + 1;
    if (recv(fd, line, (size_t)n, MSG_DONTWAIT) != n)
        return -1;
    *end = 0;
    return (int)n;
}

void vsock_host_greeting(struct vsock_conn *c, uint32_t events)
{
    char line[VSOCK_GREETING + 1];
    int len = take_line(c->watch.fd, line);
    uint32_t port;

    if (!len && !(events & (EPOLLHUP | EPOLLRDHUP | EPOLLERR)))
        return;
    if (len <= 0 || events & (EPOLLHUP | EPOLLERR) || !parse_greeting(line, &port)) {
        vsock_conn_free(c);
        return;
    }
    vsock_conn_name(c, free_port(c->vs, port), port);
    c->phase = VSOCK_REQUESTED;
    c->readable = true;
    vsock_conn_owe(c, OWES_REQUEST);
}

bool vsock_host_welcome(struct vsock_conn *c)
{
    char line[32];
    int len = snprintf(line, sizeof line, "OK %u\n", c->host_port);

    return send(c->watch.fd, line, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT) == len;
}

/* ---- connecting to the host ---- */

void vsock_host_dial(struct vsock_conn *c)
{
    struct vsock_dial ask = {.id = ++c->vs->next_dial, .value = c->host_port};

    c->dial_id = ask.id;
    if (c->vs->dialer.fd < 0 ||
        send(c->vs->dialer.fd, &ask, sizeof ask, MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof ask)
        vsock_conn_reset(c);
}

static struct vsock_conn *find_dialing(struct virtio_vsock *vs, uint32_t id)
{
    list_for(l, &vs->conns)
    {
        struct vsock_conn *c = container_of(l, struct vsock_conn, all);

        if (c->phase == VSOCK_DIALING && c->dial_id == id)
            return c;
    }
    return NULL;
}

static void dialed(struct virtio_vsock *vs, const struct vsock_dial *answer, int fd)
{
    struct vsock_conn *c = find_dialing(vs, answer->id);

    if (c && !answer->value && fd >= 0) {
        c->phase = VSOCK_OPEN;
        if (vsock_conn_adopt(c, fd))
            vsock_conn_owe(c, OWES_RESPONSE);
        return;
    }
    if (fd >= 0)
        close(fd); /* the guest did not wait for it */
    if (c)
        vsock_conn_reset(c);
}

/* The descriptor in a message, or -1. */
static int descriptor_of(struct msghdr *m)
{
    struct cmsghdr *c = CMSG_FIRSTHDR(m);
    int fd;

    if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS ||
        c->cmsg_len != CMSG_LEN(sizeof fd))
        return -1;
    memcpy(&fd, CMSG_DATA(c), sizeof fd);
    return fd;
}

static void dialer_lost(struct virtio_vsock *vs)
{
    log_error("%s: its dialer is gone: the guest cannot connect to the host any more",
              vs->v.dev.id);
    loop_forget(vs->v.loop, &vs->dialer);
    close(vs->dialer.fd);
    vs->dialer.fd = -1;
    list_for_safe(l, &vs->conns)
    {
        struct vsock_conn *c = container_of(l, struct vsock_conn, all);

        if (c->phase == VSOCK_DIALING)
            vsock_conn_reset(c);
    }
}

static void dialer_ready(struct watch *w, uint32_t events)
{
    struct virtio_vsock *vs = container_of(w, struct virtio_vsock, dialer);
    struct vsock_dial answer;
    char control[CMSG_SPACE(sizeof(int))];
    struct iovec iov = {&answer, sizeof answer};
    struct msghdr m = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(w->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

    if (n == sizeof answer)
        dialed(vs, &answer, descriptor_of(&m));
    else if (n >= 0 || (errno != EAGAIN && errno != EINTR))
        dialer_lost(vs);
}

/* ---- life ---- */

bool vsock_host_open(struct virtio_vsock *vs, struct err *err)
{
    int fd = vs->listener.watch.fd;

    vs->dialer.events = EPOLLIN;
    vs->dialer.ready = dialer_ready;
    return (fd < 0 || listener_open(&vs->listener, vs->v.loop, fd, listen_ready, err)) &&
           (vs->dialer.fd < 0 || loop_watch(vs->v.loop, &vs->dialer, err));
}

void vsock_host_close(struct virtio_vsock *vs)
{
    if (vs->listener.loop)
        listener_close(&vs->listener);
    else if (vs->listener.watch.fd >= 0)
        close(vs->listener.watch.fd);
    vs->listener.watch.fd = -1;
    if (vs->dialer.fd >= 0) {
        if (vs->v.loop)
            loop_forget(vs->v.loop, &vs->dialer);
        close(vs->dialer.fd);
        vs->dialer.fd = -1;
    }
}
