/* SPDX-License-Identifier: MIT */
/* The terminal of a running machine: raw mode, Ctrl-A commands, signals, and waiting for the end.
 *
 *   terminal -> escape -> console socket -> hull-vmm's serial port
 *   terminal <----------- console socket <-
 *
 * This process only relays, so that the terminal is restored whatever happens to the machine. */
#include "hull.h"
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define CTRL_A      1
#define RELAY_BYTES 65536
#define INPUT_PIECE 4096
#define INPUT_BYTES 65536 /* kept for a guest that does not read */

static struct termios saved_terminal;
static bool terminal_raw;

static void restore_terminal(void)
{
    if (terminal_raw)
        tcsetattr(STDIN_FILENO, TCSADRAIN, &saved_terminal);
    terminal_raw = false;
    log_raw_terminal(false);
}

static void make_terminal_raw(void)
{
    struct termios raw;

    if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &saved_terminal))
        return;
    raw = saved_terminal;
    cfmakeraw(&raw);
    if (isatty(STDOUT_FILENO) && !tcsetattr(STDIN_FILENO, TCSADRAIN, &raw)) {
        terminal_raw = true;
        log_raw_terminal(true);
        atexit(restore_terminal);
    }
}

struct relay {
    int console, control, signals, child_fd;
    pid_t child;
    bool escape;    /* Ctrl-A was the last key */
    bool input_end; /* stdin is at its end */
    bool output_bad;
    int ended_by; /* signal or 0 */
    size_t pending;
    char input[INPUT_BYTES]; /* what the machine does not take yet */
};

static void say(const char *text)
{
    const char *end = terminal_raw ? "\r\n" : "\n";

    dprintf(STDERR_FILENO, "%s%s%s", end, text, end);
}

static void command(const struct relay *r, const char *name)
{
    if (r->control >= 0 && dprintf(r->control, "{\"execute\": \"%s\"}\n", name) < 0)
        say("hull: the machine does not answer");
}

static void tell_size(const struct relay *r)
{
    struct winsize size;

    if (r->control >= 0 && !ioctl(STDOUT_FILENO, TIOCGWINSZ, &size))
        dprintf(r->control,
                "{\"execute\": \"x-hull-console-size\", \"arguments\": {\"columns\": %u, \"rows\": "
                "%u}}\n",
                size.ws_col, size.ws_row);
}

static void help(void)
{
    const char *end = terminal_raw ? "\r\n" : "\n";

    dprintf(STDERR_FILENO,
            "%sCtrl-A h  this help%sCtrl-A x  end the machine at once%s"
            "Ctrl-A p  press its power button%sCtrl-A r  reset it%s"
            "Ctrl-A s  stop it, Ctrl-A c  go on%sCtrl-A Ctrl-A  send Ctrl-A%s",
            end, end, end, end, end, end, end);
}

/* The key after Ctrl-A. True if it is to be sent to the guest. */
static bool escape_key(struct relay *r, char key)
{
    switch (key) {
    case CTRL_A:
    case 'a': return true;
    case 'x': command(r, "quit"); break;
    case 'p': command(r, "system_powerdown"); break;
    case 'r': command(r, "system_reset"); break;
    case 's': command(r, "stop"); break;
    case 'c': command(r, "cont"); break;
    case 'h':
    case '?': help(); break;
    default: say("hull: no such command; Ctrl-A h helps"); break;
    }
    return false;
}

/* Takes the commands out of `bytes`; returns how many are left to send. Only a terminal has them.
 */
static size_t filter_escapes(struct relay *r, char *bytes, size_t len)
{
    size_t kept = 0;

    if (!terminal_raw)
        return len;
    for (size_t i = 0; i < len; i++) {
        if (r->escape) {
            r->escape = false;
            if (escape_key(r, bytes[i]))
                bytes[kept++] = CTRL_A;
        } else if (bytes[i] == CTRL_A)
            r->escape = true;
        else
            bytes[kept++] = bytes[i];
    }
    return kept;
}

/* Never waits: while the guest does not read, keys of ours and signals still count. */
static void send_input(struct relay *r)
{
    ssize_t n =
        r->pending ? send(r->console, r->input, r->pending, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;

    if (n > 0) {
        r->pending -= (size_t)n;
        memmove(r->input, r->input + n, r->pending);
    } else if (n < 0 && errno != EAGAIN && errno != EINTR)
        r->pending = 0; /* the machine's end: its process tells */
}

/* A terminal is always read, for Ctrl-A; keys that nobody takes are lost. A file or pipe waits. */
static bool wants_input(const struct relay *r)
{
    return !r->input_end && r->console >= 0 &&
           (terminal_raw || r->pending + INPUT_PIECE <= sizeof r->input);
}

static void relay_input(struct relay *r)
{
    char bytes[INPUT_PIECE];
    ssize_t got = read(STDIN_FILENO, bytes, sizeof bytes);

    if (got > 0) {
        size_t kept = filter_escapes(r, bytes, (size_t)got);

        kept = min_size(kept, sizeof r->input - r->pending);
        memcpy(r->input + r->pending, bytes, kept);
        r->pending += kept;
        send_input(r);
    } else if (got == 0 || (errno != EINTR && errno != EAGAIN))
        r->input_end = true;
}

static void take_signal(struct relay *r);

/* Whoever reads our output may have stopped for good: signals still count meanwhile. False: it is
 * not wanted any more. */
static bool wait_writable(struct relay *r)
{
    struct pollfd p[] = {
        {.fd = STDOUT_FILENO, .events = POLLOUT},
        {.fd = r->signals, .events = POLLIN},
        {.fd = r->ended_by ? r->child_fd : -1, .events = POLLIN},
    };

    if (poll(p, 3, -1) < 0)
        return errno == EINTR;
    if (p[1].revents)
        take_signal(r);
    return p[0].revents || !p[2].revents;
}

/* A pipe that polls writable takes PIPE_BUF bytes without waiting. */
static bool write_output(struct relay *r, const char *bytes, size_t len)
{
    while (len) {
        struct pollfd now = {.fd = STDOUT_FILENO, .events = POLLOUT};
        ssize_t n;

        if (poll(&now, 1, 0) == 0) {
            if (!wait_writable(r))
                return false;
            continue;
        }
        n = write(STDOUT_FILENO, bytes, min_size(len, PIPE_BUF));
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (n <= 0)
            return false;
        bytes += n;
        len -= (size_t)n;
    }
    return true;
}

/* False when the machine closed its end. */
static bool relay_output(struct relay *r)
{
    static char bytes[RELAY_BYTES];
    ssize_t got = read(r->console, bytes, sizeof bytes);

    if (got > 0 && !r->output_bad)
        r->output_bad = !write_output(r, bytes, (size_t)got);
    return got > 0 || (got < 0 && (errno == EINTR || errno == EAGAIN));
}

static void drop_control(struct relay *r)
{
    char bytes[4096];
    /* Greetings, answers and events: read so that the machine never waits for us. */
    ssize_t got = read(r->control, bytes, sizeof bytes);

    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
        r->control = -1;
}

static void take_signal(struct relay *r)
{
    struct signalfd_siginfo info;

    if (read(r->signals, &info, sizeof info) != sizeof info)
        return;
    if (info.ssi_signo == SIGWINCH) {
        tell_size(r);
        return;
    }
    /* The second signal does not wait for the machine's own orderly end. */
    kill(r->child, r->ended_by ? SIGKILL : SIGTERM);
    r->ended_by = (int)info.ssi_signo;
}

static int open_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGQUIT);
    sigaddset(&set, SIGWINCH);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void relay_until_end(struct relay *r)
{
    enum { INPUT, OUTPUT, SIGNALS, CHILD, CONTROL, COUNT };

    for (;;) {
        struct pollfd p[COUNT] = {
            [INPUT] = {.fd = wants_input(r) ? STDIN_FILENO : -1, .events = POLLIN},
            [OUTPUT] = {.fd = r->console, .events = (short)(POLLIN | (r->pending ? POLLOUT : 0))},
            [SIGNALS] = {.fd = r->signals, .events = POLLIN},
            [CHILD] = {.fd = r->child_fd, .events = POLLIN},
            [CONTROL] = {.fd = r->control, .events = POLLIN},
        };

        if (poll(p, COUNT, -1) < 0 && errno != EINTR)
            return;
        if (p[INPUT].revents)
            relay_input(r);
        if (p[OUTPUT].revents & POLLOUT)
            send_input(r);
        if (p[OUTPUT].revents & ~POLLOUT && !relay_output(r))
            r->console = -1;
        if (p[SIGNALS].revents)
            take_signal(r);
        if (p[CONTROL].revents)
            drop_control(r);
        /* What the guest said last is still in the socket: show it, then go. */
        if (p[CHILD].revents && !(p[OUTPUT].revents & ~POLLOUT))
            return;
    }
}

bool console_run(int console, int control, pid_t child, int *status, int *signal, struct err *err)
{
    static struct relay r;

    r.console = console;
    r.control = control;
    r.child = child;
    r.child_fd = pidfd_open(child, 0);
    r.signals = open_signals();
    if (r.child_fd < 0 || r.signals < 0)
        return err_set(err, errno, "cannot watch the machine's process: %s", strerror(errno));
    fcntl(r.child_fd, F_SETFD, FD_CLOEXEC);
    if (console >= 0)
        make_terminal_raw();
    /* One that has ended at once takes it no more; it has said why. */
    if (control >= 0)
        dprintf(control, "{\"execute\": \"qmp_capabilities\"}\n");
    tell_size(&r);
    relay_until_end(&r);
    restore_terminal();
    close(r.child_fd);
    close(r.signals);
    while (waitpid(child, status, 0) < 0 && errno == EINTR)
        ;
    *signal = r.ended_by;
    return true;
}
