/* SPDX-License-Identifier: MIT */
/* Forks clones. What costs time and is the same for all of them was done once, before: programs
 * linked, the snapshot read and checked, the CPU asked what it can do, the system call filter made.
 *
 * This process has one thread and runs no guest, so that a fork is whole and has seen no guest's
 * bytes but those of the snapshot. Each clone builds its fences itself before its guest runs. */
#include "template.h"
#include "base/clock.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define CONFIG_TEXT_MAX (1 * MiB)
#define CLONES_MAX      1024

struct children {
    pid_t pid[CLONES_MAX];
    uint32_t number[CLONES_MAX];
    unsigned count;
};

void template_report(int socket, uint32_t number, enum clone_event event, int32_t value)
{
    struct clone_report r = {.number = number, .event = event, .value = value, .at_ns = now_ns()};

    (void)!send(socket, &r, sizeof r, MSG_NOSIGNAL);
}

struct order {
    struct clone_order head;
    int fd[TEMPLATE_FDS];
    unsigned fds;
};

/* False: hull has gone, or said something that is no order. */
static bool receive_order(int socket, struct order *o)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(TEMPLATE_FDS * sizeof(int))];
    } control;
    struct iovec iov = {&o->head, sizeof o->head};
    struct msghdr h = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = sizeof control};
    struct cmsghdr *c;

    o->fds = 0;
    if (recvmsg(socket, &h, MSG_CMSG_CLOEXEC) != sizeof o->head)
        return false;
    c = CMSG_FIRSTHDR(&h);
    if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
        return false;
    o->fds = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    memcpy(o->fd, CMSG_DATA(c), o->fds * sizeof(int));
    return o->fds > 0;
}

static void close_order(const struct order *o)
{
    for (unsigned i = 0; i < o->fds; i++)
        close(o->fd[i]);
}

/* In the clone: its own config, and the descriptors of its networks. */
static bool take_config(const struct order *o, struct config *config, struct err *err)
{
    char *text = malloc(CONFIG_TEXT_MAX);
    ssize_t len = text ? pread(o->fd[0], text, CONFIG_TEXT_MAX, 0) : -1;
    unsigned used = 1;
    bool good = len > 0 && len < (ssize_t)CONFIG_TEXT_MAX
                    ? config_read_json(config, text, (size_t)len, err) && config_check(config, err)
                    : err_set(err, EINVAL, "a clone's configuration cannot be read");

    free(text);
    close(o->fd[0]);
    for (unsigned i = 0; good && i < config->net_count; i++)
        if (config->net[i].fd)
            config->net[i].fd = used < o->fds ? (uint32_t)o->fd[used++] : 0;
    return good;
}

static void reap(int socket, struct children *c)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        for (unsigned i = 0; i < c->count; i++)
            if (c->pid[i] == pid) {
                template_report(socket, c->number[i], CLONE_ENDED,
                                WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
                c->count--;
                c->pid[i] = c->pid[c->count];
                c->number[i] = c->number[c->count];
                break;
            }
}

/* Asked to end: so are the clones. */
static void end_all(const struct children *c)
{
    for (unsigned i = 0; i < c->count; i++)
        kill(c->pid[i], SIGTERM);
}

static int open_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* True in the clone. */
static bool fork_clone(int socket, const struct order *o, struct children *c)
{
    pid_t parent = getpid(), pid = c->count < CLONES_MAX ? fork() : -1;

    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
        return true;
    }
    if (pid > 0) {
        c->pid[c->count] = pid;
        c->number[c->count++] = o->head.number;
        template_report(socket, o->head.number, CLONE_FORKED, pid);
    } else
        template_report(socket, o->head.number, CLONE_ENDED, 1);
    close_order(o);
    return false;
}

int template_serve(int socket, struct config *config, bool *is_clone, uint32_t *number,
                   struct err *err)
{
    static struct children children;
    int signals = open_signals();
    bool open = true;

    *is_clone = false;
    while (open || children.count) {
        struct pollfd p[] = {{.fd = open ? socket : -1, .events = POLLIN},
                             {.fd = signals, .events = POLLIN}};
        struct signalfd_siginfo info;
        struct order o;

        if (poll(p, 2, -1) < 0 && errno != EINTR)
            break;
        if (p[1].revents && read(signals, &info, sizeof info) == sizeof info) {
            if (info.ssi_signo != SIGCHLD)
                end_all(&children);
            reap(socket, &children);
            if (info.ssi_signo != SIGCHLD)
                open = false;
        }
        if (!p[0].revents)
            continue;
        open = receive_order(socket, &o);
        if (open && fork_clone(socket, &o, &children)) {
            close(signals);
            *is_clone = true;
            *number = o.head.number;
            return take_config(&o, config, err) ? 0 : 1;
        }
        if (!open)
            close_order(&o);
    }
    close(signals);
    return 0;
}
