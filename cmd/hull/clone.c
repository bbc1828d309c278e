/* SPDX-License-Identifier: MIT */
/* hull clone: many copies of one saved machine.
 *
 *   hull -> one hull-vmm, the template, which reads the snapshot once
 *        -> for each copy: its config and networks as descriptors -> the template forks it
 *        <- forked, running, ended
 *
 * Copies share the snapshot's memory and disks and keep what they write to themselves. "%d" in an
 * option is the number of the copy. */
#include "../hull-vmm/template.h"
#include "base/clock.h"
#include "hull.h"
#include "saved_config.h"
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define COUNT_MAX 1000

struct clone {
    struct config config; /* of the template; a copy's is made from it */
    struct saved_options options;
    unsigned count;
    bool json;
    int socket, signals;
    pid_t template;
    pid_t helper[COUNT_MAX][CONFIG_NETS];
    uint64_t ordered_ns[COUNT_MAX];
    unsigned running, ended, failed;
};

static void print_help(void)
{
    printf("Usage: hull clone DIR [--count N] [options]\n\n"
           "Runs N copies of the machine that hull snapshot saved in DIR, until all have ended.\n"
           "They share its memory and disks; what a copy writes is its own and ends with it.\n"
           "Each gets a new VM generation ID, on which its kernel reseeds its random numbers, and\n"
           "new addresses for its network cards.\n\n"
           "Options:\n"
           "  --count N           how many (default 1)\n"
           "  --verify            first compare all of the saved memory with its checksums\n"
           "  --json              one JSON object a line for what happens to each\n"
           "  --qmp, --serial, --console, --net, --name, --engine, --timeout, --user,\n"
           "  --exit-on-panic, --no-sandbox      as of hull run; %%d is the copy's number, from 0\n"
           "\nThe serial port goes nowhere unless --serial says otherwise.\n"
           "\nExamples:\n"
           "  hull clone saved --count 10 --qmp /run/vm%%d.sock --serial file:/var/log/vm%%d.log\n"
           "  hull clone saved --count 3 --net user,forward=tcp:220%%d:22\n");
}

/* ---- options ---- */

static bool read_count(struct clone *c, const char *text, struct err *err)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);

    if (!*text || *end || n < 1 || n > COUNT_MAX)
        return err_set(err, EINVAL, "--count %s: must be 1 to %d", text, COUNT_MAX);
    c->count = (unsigned)n;
    return true;
}

/* Takes our own options out; the others are those of hull restore. */
static bool read_options(struct clone *c, int argc, char **argv, struct err *err)
{
    char **rest = calloc((size_t)argc + 1, sizeof *rest);
    int kept = 0;
    bool good = rest || err_set(err, ENOMEM, "no memory for options");

    c->count = 1;
    for (int i = 0; good && i < argc; i++) {
        if (!strcmp(argv[i], "--json"))
            c->json = true;
        else if (!strcmp(argv[i], "--count"))
            good = i + 1 < argc ? read_count(c, argv[++i], err)
                                : err_set(err, EINVAL, "--count needs a value");
        else
            rest[kept++] = argv[i];
    }
    good = good && saved_options_read(&c->options, kept, rest, err);
    c->options.temporary = true;
    free(rest);
    return good;
}

/* ---- one copy's config ---- */

/* "%d" becomes the number. */
static bool number_text(char *text, size_t size, unsigned number, struct err *err)
{
    char digits[12], *at;
    int len = snprintf(digits, sizeof digits, "%u", number);

    while ((at = strstr(text, "%d")) != NULL) {
        if (strlen(text) + (size_t)len - 2 >= size)
            return err_set(err, ENAMETOOLONG, "%s: too long with its number", text);
        memmove(at + len, at + 2, strlen(at + 2) + 1);
        memcpy(at, digits, (size_t)len);
    }
    return true;
}

/* Sockets that the saved machine had and nobody has named anew: a copy's end in its number. */
static bool number_socket(char *text, size_t size, unsigned number, struct err *err)
{
    size_t len = strlen(text);

    if (!len || strstr(text, "%d"))
        return number_text(text, size, number, err);
    return (size_t)snprintf(text + len, size - len, ".%u", number) < size - len ||
           err_set(err, ENAMETOOLONG, "%s: too long with its number", text);
}

static bool number_config(struct config *c, unsigned number, struct err *err)
{
    bool good = number_text(c->name, sizeof c->name, number, err) &&
                number_text(c->qmp, sizeof c->qmp, number, err) &&
                number_text(c->serial, sizeof c->serial, number, err) &&
                number_text(c->console, sizeof c->console, number, err) &&
                number_socket(c->vsock_socket, sizeof c->vsock_socket, number, err);

    for (unsigned i = 0; good && i < c->net_count; i++)
        good = number_text(c->net[i].text, sizeof c->net[i].text, number, err);
    for (unsigned i = 0; good && i < c->port_count; i++)
        good = number_socket(c->port[i].socket, sizeof c->port[i].socket, number, err);
    return good;
}

static void mute(char *stream)
{
    if (!strcmp(stream, "stdio"))
        strcpy(stream, "none");
}

static int config_fd(const struct config *c, struct err *err)
{
    char *text = config_to_json(c);
    int fd = text ? memfd_create("hull-config", MFD_CLOEXEC) : -1;

    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text) ||
        lseek(fd, 0, SEEK_SET)) {
        err_set(err, text ? errno : EINVAL, "the configuration cannot be handed over");
        if (fd >= 0)
            close(fd);
        fd = -1;
    }
    free(text);
    return fd;
}

static bool is_user_net(const char *text)
{
    return !strncmp(text, "user", 4) && (!text[4] || text[4] == ',');
}

/* ---- orders ---- */

static bool send_order(struct clone *c, unsigned number, const int *fd, unsigned fds,
                       struct err *err)
{
    struct clone_order order = {.number = number};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(TEMPLATE_FDS * sizeof(int))];
    } control = {0};
    struct iovec iov = {&order, sizeof order};
    struct msghdr h = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = CMSG_SPACE(fds * sizeof *fd)};

    control.align = (struct cmsghdr){
        .cmsg_len = CMSG_LEN(fds * sizeof *fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(&control.align), fd, fds * sizeof *fd);
    c->ordered_ns[number] = now_ns();
    return sendmsg(c->socket, &h, MSG_NOSIGNAL) == sizeof order ||
           err_set(err, errno, "the machines' process has ended");
}

static bool order_clone(struct clone *c, unsigned number, struct err *err)
{
    struct config *config = malloc(sizeof *config);
    int fd[TEMPLATE_FDS];
    unsigned fds = 1;
    bool good = config || err_set(err, ENOMEM, "no memory for a configuration");

    if (!good)
        return false;
    *config = c->config;
    config->fresh_identity = true;
    config->quiet |= number > 0; /* the first says it for all */
    good = number_config(config, number, err);
    for (unsigned i = 0; good && i < config->net_count; i++)
        if (is_user_net(config->net[i].text)) {
            good = usernet_start(config->net[i].text, &c->helper[number][i], &fd[fds], err);
            config->net[i].fd = 1; /* the clone puts its own number here */
            fds += good;
        }
    fd[0] = good ? config_fd(config, err) : -1;
    good = good && fd[0] >= 0 && send_order(c, number, fd, fds, err);
    for (unsigned i = 0; i < fds; i++)
        if (fd[i] >= 0)
            close(fd[i]);
    free(config);
    return good;
}

/* ---- reports ---- */

static void say(const struct clone *c, const struct clone_report *r)
{
    static const char *const event[] = {"forked", "running", "ended"};

    if (c->json && r->event == CLONE_RUNS)
        printf("{\"clone\": %u, \"event\": \"running\", \"us\": %.1f}\n", r->number,
               (double)(r->at_ns - c->ordered_ns[r->number]) / 1000);
    else if (c->json)
        printf("{\"clone\": %u, \"event\": \"%s\", \"%s\": %d}\n", r->number, event[r->event],
               r->event == CLONE_FORKED ? "pid" : "status", r->value);
    else if (r->event == CLONE_ENDED && r->value)
        log_error("copy %u ended with status %d", r->number, r->value);
    fflush(stdout);
}

static void end_networks(struct clone *c, unsigned number)
{
    for (unsigned i = 0; i < CONFIG_NETS; i++)
        if (c->helper[number][i] > 0) {
            kill(c->helper[number][i], SIGTERM);
            waitpid(c->helper[number][i], NULL, 0);
            c->helper[number][i] = 0;
        }
}

/* False: the template has gone. */
static bool take_report(struct clone *c)
{
    struct clone_report r;

    if (recv(c->socket, &r, sizeof r, 0) != sizeof r)
        return false;
    if (r.number >= c->count || r.event > CLONE_ENDED)
        return true;
    say(c, &r);
    c->running += r.event == CLONE_RUNS;
    if (r.event == CLONE_ENDED) {
        c->ended++;
        c->failed += r.value != 0;
        end_networks(c, r.number);
    }
    return true;
}

static int watch_all(struct clone *c)
{
    int signal = 0;

    while (c->ended < c->count) {
        struct pollfd p[] = {{.fd = c->socket, .events = POLLIN},
                             {.fd = c->signals, .events = POLLIN}};
        struct signalfd_siginfo info;

        if (poll(p, 2, -1) < 0 && errno != EINTR)
            break;
        if (p[1].revents && read(c->signals, &info, sizeof info) == sizeof info) {
            kill(c->template, signal ? SIGKILL : SIGTERM);
            signal = (int)info.ssi_signo;
        }
        if (p[0].revents && !take_report(c))
            break;
    }
    return signal;
}

static int open_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static bool start_template(struct clone *c, struct err *err)
{
    char path[4096], config[16], socket[16];
    char *argv[] = {path, "--config-fd", config, "--template-fd", socket, NULL};
    int pair[2], keep[3] = {-1, -1, -1};

    if (!helper_find("hull-vmm", path, sizeof path, err))
        return false;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        return err_set(err, errno, "cannot make a socket pair: %s", strerror(errno));
    c->socket = pair[0];
    keep[0] = config_fd(&c->config, err);
    keep[1] = pair[1];
    snprintf(config, sizeof config, "%d", keep[0]);
    snprintf(socket, sizeof socket, "%d", keep[1]);
    c->template = keep[0] >= 0 ? program_start(argv, keep, err) : -1;
    close(pair[1]);
    if (keep[0] >= 0)
        close(keep[0]);
    return c->template > 0;
}

static int clone_all(struct clone *c, struct err *err)
{
    int signal, status = 0;
    unsigned ordered = 0;

    c->signals = open_signals();
    if (!start_template(c, err))
        return EXIT_FAILED;
    while (ordered < c->count && order_clone(c, ordered, err))
        ordered++;
    if (ordered < c->count)
        kill(c->template, SIGTERM);
    c->count = ordered;
    signal = watch_all(c);
    close(c->socket);
    waitpid(c->template, &status, 0);
    for (unsigned i = 0; i < COUNT_MAX; i++)
        end_networks(c, i);
    if (signal)
        return 128 + signal;
    if (err->text[0] || c->ended < c->count || c->failed)
        return EXIT_FAILED;
    return EXIT_DONE;
}

int cmd_clone(int argc, char **argv)
{
    static struct clone c = {.socket = -1};
    struct err err = {0};
    int status;

    for (int i = 0; i < argc; i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            print_help();
            return EXIT_DONE;
        }
    if (!read_options(&c, argc, argv, &err))
        return usage_error("clone", &err);
    if (!saved_options_apply(&c.options, &c.config, &err)) {
        log_error("%s", err.text);
        return EXIT_FAILED;
    }
    mute(c.config.serial);
    mute(c.config.console);
    status = clone_all(&c, &err);
    if (err.text[0])
        log_error("%s", err.text);
    free(c.options.rest);
    return status;
}
