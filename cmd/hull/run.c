/* SPDX-License-Identifier: MIT */
/* hull run: one machine in the foreground.
 *
 *   arguments -> config -> network helpers -> hull-vmm (config as JSON in a memfd) -> console until
 * the end
 *
 * hull keeps the terminal and the helpers; the machine itself is hull-vmm's alone. */
#include "hull.h"
#include "block/block.h"
#include "engine/x86/model.h"
#include "net/net.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

struct run {
    struct config *config;
    pid_t helper[CONFIG_NETS + CONFIG_SHARES];
    int keep[CONFIG_NETS + 2 * CONFIG_SHARES + 8],
        keep_count;       /* descriptors that hull-vmm inherits */
    int console, control; /* our ends, -1: none */
};

static void print_help(void)
{
    printf("Usage: hull run [IMAGE] [options]\n\n"
           "Runs a machine in the foreground with its console on this terminal. Ctrl-A x ends it, "
           "Ctrl-A h helps.\n"
           "An IMAGE made by hull image build boots the kernel kept in IMAGE.boot/.\n\nOptions:\n");
    config_print_options(stdout);
    printf(
        "\nThe guest mounts a share by its TAG (the directory's name if none is given), with one "
        "of\n"
        "  mount -t virtiofs TAG /mnt\n"
        "  mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 TAG /mnt\n"
        "as hull says when it starts. virtiofs needs virtiofsd on the host.\n"
        "\nExamples:\n"
        "  hull run debian.img --share ~/src:src\n"
        "  hull run debian.img --memory 1G --cpus 2 --net user,forward=tcp:2222:22\n"
        "  hull run --kernel vmlinuz --initrd initrd.img --append console=ttyS0 --net none\n"
        "  hull run --kernel xen --initrd 'vmlinuz dom0 console=hvc0,initrd.img' --append "
        "com1=115200\n"
        "\nExit status: 0 the guest powered off, 1 error before start, 2 wrong usage, 3 the guest "
        "crashed,\n"
        "124 --timeout passed, 128+N ended by signal N; with --debug-exit the guest's own code.\n");
}

/* Reads a small text file whole, without its last newline. */
static bool read_text(const char *path, char *to, size_t size, struct err *err)
{
    FILE *f = fopen(path, "re");
    size_t len;

    if (!f)
        return err_set(err, errno, "%s: %s", path, strerror(errno));
    len = fread(to, 1, size - 1, f);
    fclose(f);
    to[len] = 0;
    to[strcspn(to, "\n")] = 0;
    return true;
}

/* The kernel kept beside an image: IMAGE.boot/vmlinuz, initrd, cmdline. */
static bool use_boot_folder(struct config *c, struct err *err)
{
    char dir[CONFIG_PATH + 8], file[CONFIG_PATH + 32], append[CONFIG_PATH];
    struct stat st;

    if (c->kernel[0] || !c->disk_count)
        return true;
    snprintf(dir, sizeof dir, "%s.boot", c->disk[0].file);
    if (stat(dir, &st))
        return true;
    snprintf(file, sizeof file, "%s/vmlinuz", dir);
    if (strlen(file) >= sizeof c->kernel - 1)
        return err_set(err, ENAMETOOLONG, "%s: the path is too long", dir);
    snprintf(c->kernel, sizeof c->kernel, "%.*s", CONFIG_PATH - 1, file);
    snprintf(file, sizeof file, "%s/initrd", dir);
    if (!access(file, R_OK))
        snprintf(c->initrd, sizeof c->initrd, "%.*s", CONFIG_PATH - 1, file);
    snprintf(file, sizeof file, "%s/cmdline", dir);
    if (!c->append[0] && !read_text(file, append, sizeof append, err))
        return false;
    if (!c->append[0])
        strcpy(c->append, append);
    return true;
}

/* What the command line says in words of other layers: wrong ones are wrong usage. */
static bool check_words(const struct config *c, struct err *err)
{
    struct net_config net;

    if (!cpu_model_check(c->cpu, err))
        return err_wrap(err, "--cpu %s", c->cpu);
    for (unsigned i = 0; i < c->net_count; i++)
        if (!net_config_parse(&net, c->net[i].text, err))
            return false;
    return true;
}

static bool finish_config(struct config *c, struct err *err)
{
    struct stat st;

    if (c->disk_count && !block_is_address(c->disk[0].file) && stat(c->disk[0].file, &st))
        return err_set(err, errno, "%s: %s; hull image build debian -o %s makes one",
                       c->disk[0].file, strerror(errno), c->disk[0].file);
    if (!use_boot_folder(c, err))
        return false;
    if (!c->kernel[0] && c->disk_count)
        return err_set(err, EINVAL,
                       "%s has no %s.boot folder and booting from firmware is not in this version: "
                       "give --kernel FILE",
                       c->disk[0].file, c->disk[0].file);
    if (!c->kernel[0])
        return err_set(err, EINVAL,
                       "nothing to boot: give an IMAGE made by hull image build, or --kernel FILE");
    if (!c->net_count) {
        strcpy(c->net[0].text, "user");
        c->net_count = 1;
    }
    return true;
}

static void keep(struct run *r, int fd)
{
    r->keep[r->keep_count++] = fd;
    r->keep[r->keep_count] = -1;
}

static bool start_networks(struct run *r, struct err *err)
{
    for (unsigned i = 0; i < r->config->net_count; i++) {
        struct config_net *n = &r->config->net[i];
        int fd;

        if (strncmp(n->text, "user", 4) || (n->text[4] && n->text[4] != ','))
            continue;
        if (!usernet_start(n->text, &r->helper[i], &fd, err))
            return false;
        n->fd = (uint32_t)fd;
        keep(r, fd);
    }
    return true;
}

static bool start_shares(struct run *r, struct err *err)
{
    for (unsigned i = 0; i < r->config->share_count; i++) {
        struct config_share *s = &r->config->share[i];

        if (!share_start(s, r->config->user, &r->helper[CONFIG_NETS + i], err))
            return false;
        keep(r, (int)s->fd);
        if (s->area_fd)
            keep(r, (int)s->area_fd);
        if (!r->config->quiet)
            share_say(s);
    }
    return true;
}

/* A socket pair: one end is kept for the machine, the other is ours. */
static bool open_pair(struct run *r, int *ours, int *theirs, struct err *err)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
        return err_set(err, errno, "cannot make a socket pair: %s", strerror(errno));
    *ours = pair[0];
    *theirs = pair[1];
    keep(r, pair[1]);
    return true;
}

static bool open_console(struct run *r, struct err *err)
{
    bool serial = !strcmp(r->config->serial, "stdio"),
         console = !strcmp(r->config->console, "stdio");
    int fd = -1;

    if (console && serial)
        serial = !strcpy(r->config->serial, "none");
    if (!serial && !console)
        return true;
    if (!open_pair(r, &r->console, &fd, err))
        return false;
    snprintf(serial ? r->config->serial : r->config->console, CONFIG_PATH, "fd:%d", fd);
    return true;
}

static int config_file(struct run *r, struct err *err)
{
    char *text = config_to_json(r->config);
    int fd = memfd_create("hull-config", MFD_CLOEXEC);
    size_t len = text ? strlen(text) : 0;

    if (!text) { /* the only thing that JSON cannot say */
        err_set(err, EINVAL, "a file name or other text is not UTF-8: rename it");
        if (fd >= 0)
            close(fd);
        return -1;
    }
    if (fd < 0 || write(fd, text, len) != (ssize_t)len || lseek(fd, 0, SEEK_SET)) {
        err_set(err, ENOMEM, "cannot hand the configuration to hull-vmm: %s", strerror(errno));
        if (fd >= 0)
            close(fd);
        fd = -1;
    }
    free(text);
    return fd;
}

static pid_t start_machine(struct run *r, struct err *err)
{
    char path[4096], number[16];
    char *argv[] = {path, "--config-fd", number, NULL};
    int control = -1, fd = -1;

    if (!helper_find("hull-vmm", path, sizeof path, err) || !open_console(r, err) ||
        !open_pair(r, &r->control, &control, err))
        return -1;
    r->config->control_fd = (uint32_t)control;
    fd = config_file(r, err);
    if (fd < 0)
        return -1;
    keep(r, fd);
    snprintf(number, sizeof number, "%d", fd);
    return program_start(argv, r->keep, err);
}

static void close_kept(struct run *r)
{
    for (int i = 0; i < r->keep_count; i++)
        close(r->keep[i]);
    r->keep_count = 0;
}

/* Helpers end by themselves when the machine's end of their socket closes; this collects them. */
static void reap_helpers(struct run *r)
{
    for (unsigned i = 0; i < ARRAY_SIZE(r->helper); i++)
        if (r->helper[i] > 0) {
            kill(r->helper[i], SIGTERM);
            waitpid(r->helper[i], NULL, 0);
        }
}

static int exit_status(int status)
{
    if (WIFEXITED(status))
        return WEXITSTATUS(status);
    log_error("the machine's process was ended by signal %d (%s)", WTERMSIG(status),
              strsignal(WTERMSIG(status)));
    return 128 + WTERMSIG(status);
}

/* A machine that was killed could not remove its socket. One that somebody listens on is another's:
 * perhaps that was the reason why ours did not start. */
static void unlink_dead(const char *path)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    struct stat st;
    int fd;

    if (!*path || strlen(path) >= sizeof to.sun_path || lstat(path, &st) || !S_ISSOCK(st.st_mode))
        return;
    strcpy(to.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) && errno == ECONNREFUSED)
        unlink(path);
    close(fd);
}

static void unlink_sockets(const struct config *c)
{
    unlink_dead(c->qmp);
    if (!strncmp(c->serial, "unix:", 5))
        unlink_dead(c->serial + 5);
    if (!strncmp(c->console, "unix:", 5))
        unlink_dead(c->console + 5);
    for (unsigned i = 0; i < c->port_count; i++)
        unlink_dead(c->port[i].socket);
}

static int run(struct run *r, struct err *err)
{
    pid_t machine;
    int status, signal;

    if (!start_networks(r, err) || !start_shares(r, err))
        return EXIT_FAILED;
    machine = start_machine(r, err);
    close_kept(r);
    if (machine < 0 || !console_run(r->console, r->control, machine, &status, &signal, err))
        return EXIT_FAILED;
    err->text[0] = 0;
    unlink_sockets(r->config);
    return signal ? 128 + signal : exit_status(status);
}

int run_machine(struct config *config)
{
    static struct run r = {.console = -1, .control = -1};
    struct err err = {0};
    int status;

    r.config = config;
    status = run(&r, &err);
    if (err.text[0])
        log_error("%s", err.text);
    close_kept(&r);
    reap_helpers(&r);
    return status;
}

int cmd_run(int argc, char **argv)
{
    static struct config config;
    struct err err = {0};

    for (int i = 0; i < argc; i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            print_help();
            return EXIT_DONE;
        }
    config_defaults_zeroed(&config);
    if (!config_parse_args(&config, argc, argv, &err) || !check_words(&config, &err))
        return usage_error("run", &err);
    if (!finish_config(&config, &err)) {
        log_error("%s", err.text);
        return err.code == EINVAL ? EXIT_USAGE : EXIT_FAILED;
    }
    return run_machine(&config);
}
