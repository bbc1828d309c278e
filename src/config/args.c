/* SPDX-License-Identifier: MIT */
/* `hull run`'s command line: one table of options, each read into the config by a small function.
 */
#include "config/tables.h"
#include <stdlib.h>

struct option {
    const char *name, *value, *help;
    bool (*read)(struct config *c, const char *value, struct err *err);
    const struct field *field; /* instead of read(): the config field with the option's name */
};

static bool copy_text(char *to, size_t size, const char *option, const char *value, struct err *err)
{
    if (strlen(value) >= size)
        return err_set(err, EINVAL, "%s: longer than %zu characters", option, size - 1);
    strcpy(to, value);
    return true;
}

static bool read_number(const char *option, const char *value, uint64_t max, uint64_t *number,
                        struct err *err)
{
    char *end;

    errno = 0;
    *number = strtoull(value, &end, 0);
    if (errno || end == value || *end || value[0] == '-' || *number > max)
        return err_set(err, EINVAL, "%s %s: must be a whole number up to %llu", option, value,
                       (unsigned long long)max);
    return true;
}

static bool read_cpus(struct config *c, const char *value, struct err *err)
{
    uint64_t n;

    if (!read_number("--cpus", value, CONFIG_CPUS_MAX, &n, err))
        return false;
    c->cpus = (uint32_t)n;
    return true;
}

static bool read_memory(struct config *c, const char *value, struct err *err)
{
    static const struct field fields[] = {FIELD(struct config, hugepages, 1), {0}};
    size_t len = strcspn(value, ",");
    char size[32];

    snprintf(size, sizeof size, "%.*s", (int)len, value);
    return (size_parse(size, &c->memory, err) &&
            (!value[len] || field_parse(fields, c, value + len + 1, err))) ||
           err_wrap(err, "--memory %s", value);
}

/* "FILE,key=value": the file name ends at the first comma that is not doubled. */
static const char *split_file(const char *text, char *file, size_t size)
{
    size_t n = 0;

    while (*text && !(text[0] == ',' && text[1] != ',')) {
        if (text[0] == ',')
            text++;
        if (n + 1 == size)
            return NULL;
        file[n++] = *text++;
    }
    file[n] = 0;
    return *text ? text + 1 : text;
}

static bool read_disk(struct config *c, const char *value, struct err *err)
{
    struct config_disk *d = &c->disk[c->disk_count];
    const char *rest;

    if (c->disk_count == CONFIG_DISKS)
        return err_set(err, EINVAL, "--disk: at most %d disks", CONFIG_DISKS);
    d->discard = true;
    rest = split_file(value, d->file, sizeof d->file);
    if (!rest)
        return err_set(err, EINVAL, "--disk: the file name is longer than %d", CONFIG_PATH - 1);
    c->disk_count++;
    if (!*rest)
        return true;
    return field_parse(config_disk_fields + 1, d, rest, err) || err_wrap(err, "--disk %s", d->file);
}

static bool read_net(struct config *c, const char *value, struct err *err)
{
    if (c->net_count == CONFIG_NETS)
        return err_set(err, EINVAL, "--net: at most %d interfaces", CONFIG_NETS);
    return copy_text(c->net[c->net_count++].text, sizeof c->net[0].text, "--net", value, err);
}

static bool read_port(struct config *c, const char *value, struct err *err)
{
    struct config_port *p = &c->port[c->port_count];
    const char *rest;

    if (c->port_count == CONFIG_PORTS)
        return err_set(err, EINVAL, "--port: at most %d ports", CONFIG_PORTS);
    rest = split_file(value, p->name, sizeof p->name);
    if (!rest || !*rest || !p->name[0])
        return err_set(err, EINVAL, "--port %s: must be NAME,socket=PATH", value);
    c->port_count++;
    return field_parse(config_port_fields + 1, p, rest, err) || err_wrap(err, "--port %s", value);
}

/* "CID[,socket=PATH]" */
static bool read_vsock(struct config *c, const char *value, struct err *err)
{
    static const struct field fields[] = {{.name = "socket",
                                           .kind = FIELD_TEXT_KIND,
                                           .offset = offsetof(struct config, vsock_socket),
                                           .count = sizeof((struct config *)0)->vsock_socket},
                                          {0}};
    char number[24];
    const char *rest = split_file(value, number, sizeof number);
    uint64_t cid;

    if (!rest)
        return err_set(err, EINVAL, "--vsock %s: must be CID[,socket=PATH]", value);
    if (!read_number("--vsock", number, UINT32_MAX, &cid, err))
        return false;
    if (!cid)
        return err_set(err, EINVAL, "--vsock 0: a guest's CID is 3 or more (2 is the host)");
    c->vsock_cid = (uint32_t)cid;
    return !*rest || field_parse(fields, c, rest, err) || err_wrap(err, "--vsock %s", number);
}

/* The last component of a path, which is what a share is called by itself. */
static bool default_tag(struct config_share *s, struct err *err)
{
    size_t end = strlen(s->dir), start;

    while (end > 1 && s->dir[end - 1] == '/')
        end--;
    for (start = end; start && s->dir[start - 1] != '/';)
        start--;
    if (start == end || end - start >= sizeof s->tag || s->dir[end - 1] == '.')
        return err_set(err, EINVAL, "--share %s: give it a name for the guest: --share %s:TAG",
                       s->dir, s->dir);
    memcpy(s->tag, s->dir + start, end - start);
    return true;
}

/* "DIR[:TAG][,type=T][,readonly=on]" */
static bool read_share(struct config *c, const char *value, struct err *err)
{
    static const struct field fields[] = {
        FIELD_TEXT(struct config_share, type), FIELD(struct config_share, readonly, 1), {0}};
    struct config_share *s = &c->share[c->share_count];
    const char *rest;
    char *tag;

    if (c->share_count == CONFIG_SHARES)
        return err_set(err, EINVAL, "--share: at most %d shares", CONFIG_SHARES);
    rest = split_file(value, s->dir, sizeof s->dir);
    if (!rest || !s->dir[0])
        return err_set(err, EINVAL, "--share %s: must be DIR[:TAG][,type=T][,readonly=on]", value);
    tag = strrchr(s->dir, ':');
    if (tag && !strchr(tag, '/')) {
        if (!copy_text(s->tag, sizeof s->tag, "--share DIR:TAG", tag + 1, err))
            return false;
        memset(tag, 0, strlen(tag));
    } else if (!default_tag(s, err))
        return false;
    c->share_count++;
    return !*rest || field_parse(fields, s, rest, err) || err_wrap(err, "--share %s", s->dir);
}

static bool read_seed(struct config *c, const char *value, struct err *err)
{
    c->has_random_seed = true;
    return read_number("--random-seed", value, INT64_MAX, &c->random_seed, err);
}

static bool read_timeout(struct config *c, const char *value, struct err *err)
{
    uint64_t n;

    if (!read_number("--timeout", value, 31536000, &n, err))
        return false;
    if (!n)
        return err_set(err, EINVAL, "--timeout 0: must be at least 1 second");
    c->timeout_s = (uint32_t)n;
    return true;
}

static bool read_deterministic(struct config *c, const char *value, struct err *err)
{
    c->deterministic = true;
    return true;
}

static bool read_panic(struct config *c, const char *value, struct err *err)
{
    c->exit_on_panic = true;
    return true;
}

static bool read_debug_exit(struct config *c, const char *value, struct err *err)
{
    c->debug_exit = true;
    return true;
}

static bool read_no_sandbox(struct config *c, const char *value, struct err *err)
{
    c->sandbox = false;
    return true;
}

static bool read_quiet(struct config *c, const char *value, struct err *err)
{
    c->quiet = true;
    return true;
}

static bool read_nbd(struct config *c, const char *value, struct err *err)
{
    c->nbd = true;
    return true;
}

static bool read_no_balloon(struct config *c, const char *value, struct err *err)
{
    c->balloon = false;
    return true;
}

/* Options of DESIGN.md section 9 that arrive with later work: a clear error beats "unknown". */
static bool read_later(struct config *c, const char *value, struct err *err)
{
    return err_set(err, EINVAL,
                   "not in this version of hull: boot with --kernel, or from a disk "
                   "made by hull image build");
}

/* clang-format off */
#define TEXT(member) .field = &(const struct field)FIELD_TEXT(struct config, member)
static const struct option options[] = {
    {"--name", "NAME", "what the machine is called in lists, logs and its process title", TEXT(name)},
    {"--engine", "auto|kvm|soft[,jit=off|,perf=on]", "what runs the guest's code; auto measures (default)", TEXT(engine)},
    {"--cpu", "MODEL[,+feature,-feature][,hyperv=on]", "x86-64-v2 (default), x86-64-v3, host, ...: hull info --cpu lists them", TEXT(cpu)},
    {"--cpus", "N", "virtual CPUs (default 1)", .read = read_cpus},
    {"--memory", "SIZE", "guest memory, K, M, G (default 512M); SIZE,hugepages=on: of reserved huge pages",
     .read = read_memory},
    {"--kernel", "FILE", "boot this kernel: bzImage, vmlinux (PVH), Multiboot 1 or 2", TEXT(kernel)},
    {"--initrd", "FILE[,FILE...]", "initial RAM disk, or Multiboot modules", TEXT(initrd)},
    {"--append", "TEXT", "the kernel's command line", TEXT(append)},
    {"--firmware", "bios|uefi|FILE", "boot from firmware (a later version)", .read = read_later},
    {"--disk", "FILE[,format=F][,readonly=on][,serial=S][,cache=C][,discard=off][,temporary=on][,queues=N][,werror=P][,rerror=P][,iops=N][,bps=N]", "a virtio disk: a file, or nbd://, http:// ...; repeatable", .read = read_disk},
    {"--cdrom", "FILE", "a CD-ROM image (a later version)", .read = read_later},
    {"--net", "none|user[,forward=tcp:HOST:GUEST]...|tap,name=T[,vhost=on]", "a network interface; repeatable; default user", .read = read_net},
    {"--serial", "stdio|none|file:F|unix:S", "the first serial port (default stdio)", TEXT(serial)},
    {"--console", "none|stdio|file:F|unix:S", "the virtio console hvc0 (default none)", TEXT(console)},
    {"--port", "NAME,socket=PATH", "a named virtio-serial port on a UNIX socket; repeatable", .read = read_port},
    {"--share", "DIR[:TAG][,type=9p|virtiofs][,readonly=on]", "a directory for the guest: see below; repeatable", .read = read_share},
    {"--vsock", "CID[,socket=PATH]", "sockets between guest and host: by /dev/vhost-vsock, or over UNIX sockets at PATH", .read = read_vsock},
    {"--qmp", "SOCKET", "a QMP control socket", TEXT(qmp)},
    {"--gdb", "ADDRESS", "a debugger's socket (a later version)", .read = read_later},
    {"--display", "none|vnc[=ADDRESS]", "a screen (a later version)", .read = read_later},
    {"--random-seed", "N", "seed what the machine itself makes up (MAC, UUID)", .read = read_seed},
    {"--deterministic", NULL, "the same run every time: virtual time, one vCPU at a time (soft engine)", .read = read_deterministic},
    {"--timeout", "SECONDS", "end the machine after that time, status 124", .read = read_timeout},
    {"--exit-on-panic", NULL, "end with status 3 when the guest reports a panic", .read = read_panic},
    {"--debug-exit", NULL, "add the isa-debug-exit port 0xf4: the guest chooses the exit status", .read = read_debug_exit},
    {"--no-balloon", NULL, "leave the memory balloon out", .read = read_no_balloon},
    {"--quiet", NULL, "do not say why the soft engine runs where KVM was wanted", .read = read_quiet},
    {"--image-dir", "DIR", "block commands of QMP may open and make image files below this folder", TEXT(image_dir)},
    {"--nbd", NULL, "nbd-server-start of QMP may export disks (starts hull-nbd)", .read = read_nbd},
    {"--user", "NAME", "when root: run the machine as this user", TEXT(user)},
    {"--no-sandbox", NULL, "no seccomp filter and no file fence: for debugging hull itself", .read = read_no_sandbox},
};
/* clang-format on */

const char *const *config_option_names(void)
{
    static const char *names[ARRAY_SIZE(options) + 1];

    for (unsigned i = 0; i < ARRAY_SIZE(options); i++)
        names[i] = options[i].name;
    return names;
}

void config_print_options(FILE *out)
{
    for (unsigned i = 0; i < ARRAY_SIZE(options); i++) {
        const struct option *o = &options[i];
        int width =
            fprintf(out, "  %s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");

        if (width > 33)
            fprintf(out, "\n%34s", "");
        fprintf(out, "%*s%s\n", width > 33 ? 0 : 34 - width, "", o->help);
    }
}

static const struct option *find_option(const char *name, size_t len)
{
    for (unsigned i = 0; i < ARRAY_SIZE(options); i++)
        if (strlen(options[i].name) == len && !memcmp(options[i].name, name, len))
            return &options[i];
    return NULL;
}

static bool unknown_option(const char *arg, struct err *err)
{
    const char *near = nearest_word(arg, config_option_names());

    if (near)
        return err_set(err, EINVAL, "%s: no such option, did you mean %s?", arg, near);
    return err_set(err, EINVAL, "%s: no such option, see hull run --help", arg);
}

/* Takes "--name value" or "--name=value" at argv[*at]; moves *at to the last argument used. */
static bool read_option(struct config *c, int argc, char **argv, int *at, struct err *err)
{
    const char *arg = argv[*at], *equals = strchr(arg, '='), *value = equals ? equals + 1 : NULL;
    const struct option *o = find_option(arg, equals ? (size_t)(equals - arg) : strlen(arg));

    if (!o)
        return unknown_option(arg, err);
    if (!o->value && value)
        return err_set(err, EINVAL, "%s takes no value", o->name);
    if (o->value && !value) {
        if (*at + 1 == argc)
            return err_set(err, EINVAL, "%s needs a value: %s %s", o->name, o->name, o->value);
        value = argv[++*at];
    }
    if (o->read)
        return o->read(c, value, err) || (o->read == read_later && err_wrap(err, "%s", o->name));
    return copy_text((char *)c + o->field->offset, o->field->count, o->name, value, err);
}

bool config_parse_args(struct config *c, int argc, char **argv, struct err *err)
{
    bool only_files = false;

    for (int i = 0; i < argc; i++) {
        if (!only_files && !strcmp(argv[i], "--"))
            only_files = true;
        else if (!only_files && argv[i][0] == '-' && argv[i][1]) {
            if (!read_option(c, argc, argv, &i, err))
                return false;
        } else if (!read_disk(c, argv[i], err))
            return false;
    }
    return config_check(c, err);
}
