/* SPDX-License-Identifier: MIT */
/* Starts the user-mode network of one interface: hull-usernet on one end of a socket pair. */
#include "hull.h"
#include "net/net.h"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* True if `text` names that host port among its forwards: a free one was asked for otherwise. */
static bool asked_for(const struct net_config *c, const char *protocol, unsigned host,
                      unsigned guest)
{
    for (unsigned i = 0; i < c->forward_count; i++)
        if (c->forward[i].udp == !strcmp(protocol, "udp") && c->forward[i].host_port == host &&
            c->forward[i].guest_port == guest)
            return true;
    return false;
}

static void say_forward(const struct net_config *c, const char *line)
{
    unsigned host, guest;
    char protocol[4];

    if (sscanf(line, "forward %3s %u %u", protocol, &host, &guest) == 3 &&
        !asked_for(c, protocol, host, guest))
        fprintf(stderr, "hull: %s port %u of this host leads to port %u of the guest\n", protocol,
                host, guest);
}

/* hull-usernet says where its ports are bound and then "ready", or dies having said why not. */
static bool wait_ready(int fd, const char *text, pid_t pid, struct err *err)
{
    FILE *in = fdopen(fd, "r");
    struct net_config c;
    char line[64];
    bool ready = false;

    if (in && net_config_parse(&c, text, err))
        while (!ready && fgets(line, sizeof line, in)) {
            ready = !strcmp(line, "ready\n");
            say_forward(&c, line);
        }
    if (in)
        fclose(in);
    else
        close(fd);
    if (ready)
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

    if (!helper_find("hull-usernet", path, sizeof path, err))
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
    if (!good)
        close(ready[0]);
    good = good && wait_ready(ready[0], text, *pid, err);
    if (good)
        *fd = pair[0];
    else {
        close(pair[0]);
        *pid = 0; /* collected already */
    }
    return good;
}
