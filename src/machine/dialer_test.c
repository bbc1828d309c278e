/* SPDX-License-Identifier: MIT */
/* The dialer in its sandbox: reaches its own sockets, reports what it cannot reach, ends with its
 * machine. */
#include "machine/dialer.h"
#include "tap.h"
#include "virtio/devices.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[] = "/tmp/dialer-test-XXXXXX";

static int listen_at(const char *path)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    strcpy(at.sun_path, path);
    return bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 4) ? -1 : fd;
}

/* Asks and waits: the errno, or 0 and a descriptor. */
static uint32_t dial(int dialer, uint32_t port, int *fd)
{
    struct vsock_dial d = {.id = port ^ 0x5555, .value = port};
    char control[CMSG_SPACE(sizeof(int))];
    struct iovec iov = {&d, sizeof d};
    struct msghdr m = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};

    *fd = -1;
    if (send(dialer, &d, sizeof d, MSG_NOSIGNAL) != sizeof d ||
        recvmsg(dialer, &m, MSG_CMSG_CLOEXEC) != sizeof d || d.id != (port ^ 0x5555))
        return UINT32_MAX;
    if (CMSG_FIRSTHDR(&m))
        memcpy(fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof *fd);
    return d.value;
}

int main(void)
{
    char prefix[64], path[80], byte = 0;
    struct err err = {0};
    int dialer, server, ours, theirs, status;

    if (!mkdtemp(folder))
        return 1;
    snprintf(prefix, sizeof prefix, "%s/v", folder);
    snprintf(path, sizeof path, "%s_4294967295", prefix);
    server = listen_at(path);
    dialer = dialer_start(prefix, true, &err);
    ok(server >= 0 && dialer >= 0, "started %s", err.text);
    ok(dial(dialer, UINT32_MAX, &ours) == 0 && ours >= 0, "a port that listens");
    theirs = accept(server, NULL, NULL);
    ok(write(ours, "x", 1) == 1 && read(theirs, &byte, 1) == 1 && byte == 'x', "connected to it");
    close(ours);
    ok(read(theirs, &byte, 1) == 0, "nobody else holds it");
    close(theirs);
    ok(dial(dialer, 5, &ours) == ENOENT && ours < 0, "a port without a socket");
    close(server);
    ok(dial(dialer, UINT32_MAX, &ours) == ECONNREFUSED && ours < 0, "nobody listens");
    close(dialer);
    ok(wait(&status) > 0 && WIFEXITED(status) && !WEXITSTATUS(status), "ends with its machine");
    unlink(path);
    rmdir(folder);
    return tap_done();
}
