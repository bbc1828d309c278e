/* SPDX-License-Identifier: MIT */
/* Starts the user-mode network of one interface: hull-usernet on one end of a socket pair. */
#include "hull.h"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* hull-usernet writes one byte when its ports are bound, or dies having said why. */
static bool wait_ready(int ready, pid_t pid, struct err *err)
{
    char byte;
    ssize_t got;

    do
        got = read(ready, &byte, 1);
    while (got < 0 && errno == EINTR);
    if (got == 1)
        return true;
    waitpid(pid, NULL, 0);
    err->text[0] = 0; /* hull-usernet has said why */
    return false;
}

static bool start_on(int machine, int helper, const int ready[2], const char *text, pid_t *pid,
                     struct err *err)
{
    char path[4096], fd[16], ready_fd[16];
    char *argv[] = {path, "--fd", fd, "--ready-fd", ready_fd, "--net", (char *)text, NULL};
    int keep[] = {helper, ready[1], -1};

    if (!program_find("hull-usernet", path, sizeof path, err))
        return false;
    snprintf(fd, sizeof fd, "%d", helper);
    snprintf(ready_fd, sizeof ready_fd, "%d", ready[1]);
    *pid = program_start(argv, keep, err);
    return *pid > 0;
}

bool usernet_start(const char *text, pid_t *pid, int *fd, struct err *err)
{
    int pair[2], ready[2];
    bool good;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
        return err_set(err, errno, "cannot make a socket pair: %s", strerror(errno));
    if (pipe2(ready, O_CLOEXEC)) {
        close(pair[0]);
        close(pair[1]);
        return err_set(err, errno, "cannot make a pipe: %s", strerror(errno));
    }
    good = start_on(pair[0], pair[1], ready, text, pid, err);
    close(pair[1]);
    close(ready[1]);
    good = good && wait_ready(ready[0], *pid, err);
    close(ready[0]);
    if (good)
        *fd = pair[0];
    else
        close(pair[0]);
    return good;
}
