/* SPDX-License-Identifier: MIT */
/* For guests of tests: joins a vsock connection with standard input and output, as nc does.
 *
 *   vsock-cat connect PORT     to the host
 *   vsock-cat listen PORT      one connection; "T: listens PORT" goes to standard error first
 *   vsock-cat echo PORT COUNT  COUNT connections side by side, each gets its own bytes back */
#include <linux/vm_sockets.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static char bytes[65536];

static int fail(const char *what)
{
    perror(what);
    return 1;
}

static int write_all(int fd, ssize_t len)
{
    for (ssize_t at = 0, n; at < len; at += n) {
        n = write(fd, bytes + at, (size_t)(len - at));
        if (n <= 0)
            return -1;
    }
    return 0;
}

/* Both directions until both have ended; a side's end is passed on. */
static int join(int from, int to, int s)
{
    struct pollfd p[2] = {{from, POLLIN, 0}, {s, POLLIN, 0}};

    while (p[0].fd >= 0 || p[1].fd >= 0) {
        if (poll(p, 2, -1) < 0)
            return fail("poll");
        for (int i = 0; i < 2; i++) {
            ssize_t n;

            if (!p[i].revents)
                continue;
            n = read(p[i].fd, bytes, sizeof bytes);
            if (n < 0)
                return fail("read");
            if (n > 0 && write_all(i ? to : s, n))
                return fail("write");
            if (n > 0)
                continue;
            p[i].fd = -1;
            if (!i)
                shutdown(s, SHUT_WR);
        }
    }
    return 0;
}

static int echo(int s)
{
    ssize_t n;

    while ((n = read(s, bytes, sizeof bytes)) > 0)
        if (write_all(s, n))
            return 1;
    return n != 0;
}

static int serve(int s, int count)
{
    int bad = 0, status;

    for (int i = 0; i < count; i++) {
        int c = accept(s, NULL, NULL);

        if (c < 0)
            return fail("accept");
        if (!fork())
            _exit(echo(c));
        close(c);
    }
    while (wait(&status) > 0)
        bad |= status;
    return bad != 0;
}

int main(int argc, char **argv)
{
    struct sockaddr_vm a = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST};
    int s = socket(AF_VSOCK, SOCK_STREAM, 0);

    if (s < 0 || argc < 3)
        return fail("vsock");
    a.svm_port = (unsigned)strtoul(argv[2], NULL, 10);
    if (!strcmp(argv[1], "connect"))
        return connect(s, (struct sockaddr *)&a, sizeof a) ? fail("connect") : join(0, 1, s);
    a.svm_cid = VMADDR_CID_ANY;
    if (bind(s, (struct sockaddr *)&a, sizeof a) || listen(s, 64))
        return fail("listen");
    fprintf(stderr, "T: listens %u\n", a.svm_port);
    if (!strcmp(argv[1], "echo"))
        return serve(s, argc > 3 ? atoi(argv[3]) : 1);
    return join(0, 1, accept(s, NULL, NULL));
}
