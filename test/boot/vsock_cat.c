/* SPDX-License-Identifier: MIT */
/* For guests of tests: joins a vsock connection with standard input and output, as nc does.
 *
 *   vsock-cat connect PORT [CID]   to the host, or to a guest
 *   vsock-cat listen PORT      one connection; "T: listens PORT" goes to standard error first
 *   vsock-cat echo PORT COUNT  COUNT connections side by side, each gets its own bytes back */
#include <linux/vm_sockets.h>
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

static int copy(int from, int to)
{
    ssize_t n;

    while ((n = read(from, bytes, sizeof bytes)) > 0)
        if (write_all(to, n))
            return fail("write");
    return n ? fail("read") : 0;
}

/* Both directions until both have ended; a side's end is passed on. A process each: one that waits
 * to write must not keep the other from reading. */
static int join(int from, int to, int s)
{
    int bad, status = 0;

    if (s < 0)
        return fail("accept");
    if (!fork()) {
        bad = copy(from, s);
        shutdown(s, SHUT_WR);
        _exit(bad);
    }
    bad = copy(s, to);
    wait(&status);
    return bad || status;
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
    if (!strcmp(argv[1], "connect") && argc > 3)
        a.svm_cid = (unsigned)strtoul(argv[3], NULL, 10);
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
