/* SPDX-License-Identifier: MIT */
/* hull-usernet: the user-mode network of one machine, in a process of its own.
 *
 * The machine is at the other end of a stream socket (--fd, or the first to connect to --socket).
 * Order matters: settings, ports, word to the parent, fence, then the first frame. We end when the
 * socket closes or the parent dies, so none of us stays behind. */
#include "usernet.h"
#include "base/helper.h"
#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct options {
    int fd, ready_fd;
    const char *socket, *net;
};

static const char help[] =
    "Usage: hull-usernet --fd N|--socket PATH [--net user,KEY=VALUE...] [--ready-fd N]\n"
    "\n"
    "Gives the machine behind a stream socket a network that needs no rights on the host. Frames "
    "have\n"
    "their length in front, in four bytes, big-endian: what passt and QEMU's -netdev stream "
    "speak.\n"
    "\n"
    "  --fd N        the connected socket is descriptor N\n"
    "  --socket PATH listen there; the first to connect is served\n"
    "  --net TEXT    as hull run's --net: user[,forward=tcp:[ADDRESS:]HOSTPORT:GUESTPORT]...\n"
    "                [,forward=udp:...][,hostname=NAME][,restricted=on][,mtu=N]; host port 0 takes "
    "a free one\n"
    "  --ready-fd N  gets \"forward PROTOCOL HOSTPORT GUESTPORT\" lines and \"ready\" when ports "
    "are bound\n"
    "\n"
    "Example: hull-usernet --socket /tmp/net.sock --net user,forward=tcp:2222:22\n";

static bool parse_options(struct options *o, int argc, char **argv, struct err *err)
{
    static const struct option longs[] = {
        {"fd", required_argument, NULL, 'f'},     {"ready-fd", required_argument, NULL, 'r'},
        {"socket", required_argument, NULL, 's'}, {"net", required_argument, NULL, 'n'},
        {"help", no_argument, NULL, 'h'},         {0},
    };
    int c;

    *o = (struct options){.fd = -1, .ready_fd = -1, .net = "user"};
    opterr = 0;
    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (c) {
        case 'f':
            if (!helper_fd("fd", optarg, &o->fd, err))
                return false;
            break;
        case 'r':
            if (!helper_fd("ready-fd", optarg, &o->ready_fd, err))
                return false;
            break;
        case 's': o->socket = optarg; break;
        case 'n': o->net = optarg; break;
        case 'h': fputs(help, stdout); exit(0);
        default:
            return err_set(err, EINVAL, "%s: unknown, or its value is missing", argv[optind - 1]);
        }
    }
    if (optind < argc)
        return err_set(err, EINVAL, "%s: unknown argument", argv[optind]);
    if ((o->fd < 0) == !o->socket)
        return err_set(err, EINVAL, "one of --fd and --socket is needed");
    return true;
}

static int listen_on(const char *path, struct err *err)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (strlen(path) >= sizeof at.sun_path) {
        err_set(err, ENAMETOOLONG, "--socket %s: longer than %zu bytes", path,
                sizeof at.sun_path - 1);
        goto close_fd;
    }
    strcpy(at.sun_path, path);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) != 0) {
        err_set(err, errno, "--socket %s: %s", path, strerror(errno));
        goto close_fd;
    }
    if (listen(fd, 1) == 0)
        return fd;
    err_set(err, errno, "--socket %s: %s", path, strerror(errno));
    unlink(path);
close_fd:
    close(fd);
    return -1;
}

/* Waits for the machine; the name is gone afterwards, so no second one waits for nothing. */
static bool accept_one(int listener, const char *path, int *fd, struct err *err)
{
    *fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    unlink(path);
    close(listener);
    if (*fd < 0)
        return err_set(err, errno, "--socket %s: %s", path, strerror(errno));
    return true;
}

static void tell_ready(int fd, const struct stack *s, const struct net_config *c)
{
    char text[NET_FORWARDS_MAX * 32 + 16];
    size_t n = 0;

    if (fd < 0)
        return;
    for (unsigned i = 0; i < c->forward_count; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "forward %s %u %u\n",
                              c->forward[i].udp ? "udp" : "tcp", stack_bound_port(s, i),
                              c->forward[i].guest_port);
    n += (size_t)snprintf(text + n, sizeof text - n, "ready\n");
    if (write(fd, text, n) < 0)
        log_info("nobody waits for us to be ready");
    close(fd);
}

static bool serve(struct options *o, const struct net_config *c, struct err *err)
{
    static struct link machine; /* large: not on the stack */
    int listener = o->socket ? listen_on(o->socket, err) : -1;
    struct stack *s;

    if (o->socket && listener < 0)
        return false;
    machine.fd = o->fd;
    s = stack_open(&machine, c, err);
    if (!s) {
        if (o->socket)
            unlink(o->socket);
        return false;
    }
    tell_ready(o->ready_fd, s, c);
    if ((o->socket && !accept_one(listener, o->socket, &machine.fd, err)) || !fence_enter(err)) {
        stack_close(s);
        return false;
    }
    stack_run(s);
    stack_close(s);
    return true;
}

int main(int argc, char **argv)
{
    pid_t parent = getppid();
    struct options o;
    struct net_config c;
    struct err err;

    log_setup("hull-usernet", LOG_WARN);
    signal(SIGPIPE, SIG_IGN);
    if (!parse_options(&o, argc, argv, &err)) {
        log_error("%s", err.text);
        return 2;
    }
    if (o.fd >= 0) { /* started by a machine's program: go when it goes */
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            return 1;
    }
    if (!net_config_parse(&c, o.net, &err)) {
        log_error("%s", err.text);
        return 2;
    }
    if (c.kind != NET_USER) {
        log_error("--net \"%s\": only user networks are made here", o.net);
        return 2;
    }
    if (!serve(&o, &c, &err)) {
        log_error("%s", err.text);
        return 1;
    }
    return 0;
}
