/* SPDX-License-Identifier: MIT */
/* hull-vmm: one running machine. Reads its config as JSON, builds the machine, fences itself in,
 * runs.
 *
 * It is started by hull and hulld, which own terminals, networks and names; run by hand it needs a
 * JSON file: hull-vmm --config machine.json. */
#include "base/log.h"
#include "machine/machine.h"
#include "machine/snapshot.h"
#include "template.h"
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define CONFIG_BYTES_MAX (1 * MiB)

static struct machine machine;
static struct config configs[2]; /* what was read; a clone's own, untouched until then */
static struct config *config = &configs[0];
/* A clone's: who wants to hear of it, which one it is, and what it goes on from. */
static int report_fd = -1;
static uint32_t clone_number;
static struct restore *saved;

static void print_help(void)
{
    printf("Usage: hull-vmm --config FILE | --config-fd N\n\n"
           "Runs one machine from its JSON description. hull run makes that from options; see man "
           "hull-vmm.\n\n"
           "Example:\n  hull-vmm --config machine.json\n");
}

static int open_config(int argc, char **argv, struct err *err)
{
    int fd;

    if (argc == 5 && !strcmp(argv[3], "--template-fd"))
        report_fd = atoi(argv[4]);
    if ((argc == 3 || report_fd >= 0) && !strcmp(argv[1], "--config-fd"))
        return atoi(argv[2]);
    if (argc != 3 || strcmp(argv[1], "--config")) {
        err_set(err, EINVAL, "expected --config FILE; see hull-vmm --help");
        return -1;
    }
    fd = open(argv[2], O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        err_set(err, errno, "%s: %s", argv[2], strerror(errno));
    return fd;
}

static bool read_config(int argc, char **argv, struct err *err)
{
    int fd = open_config(argc, argv, err);
    char *text = malloc(CONFIG_BYTES_MAX);
    size_t len = 0;
    ssize_t got = -1;
    bool good = fd >= 0 && text;

    while (good && len < CONFIG_BYTES_MAX &&
           (got = read(fd, text + len, CONFIG_BYTES_MAX - len)) > 0)
        len += (size_t)got;
    if (good && got)
        good = err_set(err, EINVAL, "the configuration cannot be read, or is over 1 MiB");
    if (fd >= 0)
        close(fd);
    good = good && config_read_json(config, text, len, err) && config_check(config, err);
    free(text);
    return good;
}

/* ---- signals: as events of the loop ---- */

static void signalled(struct watch *w, uint32_t events)
{
    struct signalfd_siginfo info;

    if (read(w->fd, &info, sizeof info) == sizeof info)
        machine_quit(&machine, 128 + (int)info.ssi_signo, "host-signal");
}

static struct watch signals = {.events = EPOLLIN, .ready = signalled};

/* Before any thread starts: threads inherit the mask. */
static void block_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGQUIT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signals.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    signal(SIGPIPE, SIG_IGN);
}

static int failed(const struct err *err)
{
    log_error("%s", err->text);
    return MACHINE_FAILED;
}

static void report_start(void)
{
    if (report_fd < 0)
        return;
    template_report(report_fd, clone_number, CLONE_RUNS, 0);
    close(report_fd);
    report_fd = -1;
}

static int start(void)
{
    struct err err = {0};
    int status;

    if (config->user[0] && !sandbox_drop_user(config->user, &err))
        return failed(&err);
    /* Changing the user has undone what hull set: a machine of hull's dies with it. Had it died
     * before this line, the control connection would be at its end. */
    if (config->user[0] && (config->control_fd || report_fd >= 0))
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!machine_open_saved(&machine, config, saved, &err))
        return failed(&err);
    mallopt(M_MMAP_THRESHOLD, 128 << 10); /* what comes and goes with I/O comes from the heap */
    if (loop_watch(machine.loop, &signals, &err) && machine_start(&machine, &err)) {
        if (machine.engine_note[0])
            log_warn("the soft engine runs this machine, not KVM: %s; --quiet hides this",
                     machine.engine_note);
        report_start();
        status = machine_run(&machine);
    } else
        status = failed(&err);
    loop_forget(machine.loop, &signals);
    machine_close(&machine);
    return status;
}

/* The template returns here when all is over, and each clone when it begins. */
static int serve(void)
{
    struct err err = {0};
    bool is_clone;
    int status;

    /* Copies touch little of what they map: a huge page for a few bytes would be theirs alone. */
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
    saved = restore_read(config->restore, &err);
    if (!saved || !machine_prepare(config, &err))
        return failed(&err);
    status = template_serve(report_fd, &configs[1], &is_clone, &clone_number, &err);
    if (!is_clone)
        return status;
    config = &configs[1];
    if (status)
        return failed(&err);
    block_signals();
    if (config->name[0])
        prctl(PR_SET_NAME, config->name);
    return start();
}

int main(int argc, char **argv)
{
    struct err err = {0};
    int status = MACHINE_USAGE;

    /* Tables that are mostly never used (devices, queues) get fresh pages. Left alone, malloc takes
     * them from its heap once a large piece was freed, and clears, so touches, them. */
    mallopt(M_MMAP_THRESHOLD, 16 << 10);
    log_setup("hull", LOG_WARN);
    if (argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        print_help();
        return MACHINE_OFF;
    }
    if (argc < 5) /* a template has its own, its clones come to this later */
        block_signals();
    if (read_config(argc, argv, &err)) {
        if (config->name[0])
            prctl(PR_SET_NAME, config->name);
        status = report_fd >= 0 ? serve() : start();
    } else
        log_error("%s", err.text);
    return status;
}
