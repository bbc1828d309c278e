/* SPDX-License-Identifier: MIT */
/* The dialer: a guest that connects to port P of the host by vsock reaches the socket PATH_P, and
 * nothing else.
 *
 * A machine's own process may not connect to anything: seccomp cannot look at an address, and one
 * UNIX socket of this user is as good as another (a desktop bus, a container daemon). So a child
 * does it, forked before there is guest memory, behind a filter of its own. It knows one path and
 * takes one number; even a hijacked machine gets no further than PATH_number. */
#include "machine/dialer.h"
#include "machine/machine.h"
#include "virtio/devices.h"
#include <errno.h>
#include <linux/close_range.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

/* A connected descriptor, or -1 with errno. A full backlog is a refusal: nobody waits here. */
static int connect_port(const char *path, uint32_t port)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), code;

    snprintf(to.sun_path, sizeof to.sun_path, "%s_%u", path, port);
    if (fd < 0 || !connect(fd, (struct sockaddr *)&to, sizeof to))
        return fd;
    code = errno;
    close(fd);
    errno = code;
    return -1;
}

static bool answer(int socket, struct vsock_dial *d, int fd)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof fd)];
    } control = {.head = {
                     .cmsg_len = CMSG_LEN(sizeof fd),
                     .cmsg_level = SOL_SOCKET,
                     .cmsg_type = SCM_RIGHTS,
                 }};
    struct iovec iov = {d, sizeof *d};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

    if (fd >= 0) {
        memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
        m.msg_control = &control;
        m.msg_controllen = sizeof control;
    }
    return sendmsg(socket, &m, MSG_NOSIGNAL) == sizeof *d;
}

static void serve(int socket, const char *path)
{
    struct vsock_dial d;
    bool going = true;

    while (going && recv(socket, &d, sizeof d, 0) == sizeof d) {
        int fd = connect_port(path, d.value);

        d.value = fd < 0 ? (uint32_t)errno : 0;
        going = answer(socket, &d, fd);
        if (fd >= 0)
            close(fd);
    }
}

/* All that it keeps is its end of the pair, as descriptor 0. It says nothing: who asked is told. */
static void child(int socket, const char *path, bool sandbox)
{
    struct err err;

    if (dup2(socket, 0) || syscall(SYS_close_range, 1, ~0u, 0))
        _exit(1);
    prctl(PR_SET_NAME, "hull-dialer");
    if (!sandbox || sandbox_dialer(&err))
        serve(0, path);
    for (;;) /* the call itself: sanitizers wrap _exit in calls that the filter refuses */
        syscall(SYS_exit_group, 0);
}

int dialer_start(const char *path, bool sandbox, struct err *err)
{
    int pair[2];
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) {
        err_set(err, errno, "vsock: cannot make a socket pair: %s", strerror(errno));
        return -1;
    }
    pid = fork();
    if (!pid)
        child(pair[1], path, sandbox);
    close(pair[1]);
    if (pid > 0)
        return pair[0];
    err_set(err, errno, "vsock: cannot start its dialer: %s", strerror(errno));
    close(pair[0]);
    return -1;
}
