/* SPDX-License-Identifier: MIT */
/* hull image build: a bootable disk from Debian's packages, without root and without mounting it.
 *
 *   options -> host's mirrors and proxies -> mmdebstrap into a work folder
 *           -> mke2fs -d into FILE.part
 *           -> kernel, initramfs and command line into FILE.boot.part/ -> rename both
 *
 * Without root all of it runs in a user namespace (unshare --map-auto), where our own id is root
 * and Debian's other users are our subordinate ids, so that every file gets its right owner in the
 * image. The disk has no partitions: the whole of it is the root file system, which grows with the
 * file. */
#include "hull.h"
#include "image.h"
#include <assert.h>
#include <fcntl.h>
#include <ftw.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static const char help[] =
    "Usage: hull image build debian[:RELEASE] -o FILE [options]\n"
    "\n"
    "Makes a bootable disk from Debian's packages, with its kernel beside it in FILE.boot/.\n"
    "Mirrors and proxies are those of this host's apt. Needs no root.\n"
    "\n"
    "  -o, --output FILE     where to put it\n"
    "      --size SIZE       of the disk, not of the file, which has holes (default 4G)\n"
    "      --packages A,B    more packages\n"
    "      --ssh-key FILE    public key that may log in; then no password may over the network\n"
    "      --user NAME       who can log in and use sudo (default debian)\n"
    "      --password TEXT   theirs (default: one is made up and printed)\n"
    "      --hostname NAME   (default hull)\n"
    "      --kernel KIND     cloud (small, default) or generic\n"
    "      --mirror URL      instead of this host's\n"
    "      --force           replace FILE\n"
    "\n"
    "Examples:\n"
    "  hull image build debian -o debian.img\n"
    "  hull image build debian:12 -o web.img --size 20G --packages nginx --ssh-key "
    "~/.ssh/id_ed25519.pub\n"
    "  hull run debian.img\n";

static const struct release {
    const char *number, *codename;
} releases[] = {{"12", "bookworm"}, {"13", "trixie"}};

struct build {
    struct image_options o;
    struct host_apt apt;
    bool root;
    char uuid[37];
    char work[PATH_MAX], part[PATH_MAX], boot[PATH_MAX], boot_part[PATH_MAX];
};

/* ---- options ---- */

static bool set_release(struct image_options *o, const char *text, struct err *err)
{
    const char *wanted = text[6] == ':' ? text + 7 : releases[0].number;

    if (strncmp(text, "debian", 6) != 0 || (text[6] && text[6] != ':'))
        return err_set(err, EINVAL, "%.60s: only debian[:RELEASE] can be built", text);
    for (unsigned i = 0; i < ARRAY_SIZE(releases); i++) {
        if (strcmp(wanted, releases[i].number) == 0 || strcmp(wanted, releases[i].codename) == 0)
            o->codename = releases[i].codename;
    }
    return o->codename ||
           err_set(err, EINVAL, "%.60s: unknown release: 12 (bookworm) and 13 (trixie) are known",
                   text);
}

static bool read_key(struct image_options *o, const char *file, struct err *err)
{
    FILE *in = fopen(file, "re");
    size_t n;

    if (!in)
        return err_set(err, errno, "--ssh-key %s: %s", file, strerror(errno));
    n = fread(o->ssh_key, 1, sizeof o->ssh_key - 1, in);
    fclose(in);
    o->ssh_key[n] = '\0';
    if (strstr(o->ssh_key, "PRIVATE KEY"))
        return err_set(err, EINVAL, "--ssh-key %s: is a private key: give %s.pub", file, file);
    if (strncmp(o->ssh_key, "ssh-", 4) != 0 && strncmp(o->ssh_key, "ecdsa-", 6) != 0 &&
        strncmp(o->ssh_key, "sk-", 3) != 0)
        return err_set(err, EINVAL, "--ssh-key %s: holds no public key: ssh-keygen makes one",
                       file);
    return true;
}

/* Names end up in files, in commands and in DNS. */
static bool check_name(const char *option, const char *text, bool host, struct err *err)
{
    size_t len = strlen(text);
    bool good = len > 0 && len <= (host ? 63 : 32) && text[0] != '-';

    for (size_t i = 0; i < len; i++)
        good &= (text[i] >= 'a' && text[i] <= 'z') || (text[i] >= '0' && text[i] <= '9') ||
                text[i] == '-' || (host && text[i] >= 'A' && text[i] <= 'Z') ||
                (!host && text[i] == '_');
    if (!host && len && text[0] >= '0' && text[0] <= '9')
        good = false;
    return good || err_set(err, EINVAL, "%s %.60s: must be letters, digits and -", option, text);
}

static bool check_packages(const char *text, struct err *err)
{
    return text[strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789+-.:,")] == '\0' ||
           err_set(err, EINVAL, "--packages %.60s: names and commas only", text);
}

/* Without look-alikes: it is read from one screen and typed on another. */
static bool make_password(struct image_options *o, struct err *err)
{
    static const char letters[32] = "abcdefghijkmnpqrstuvwxyz23456789";
    uint8_t random[12];

    if (getrandom(random, sizeof random, 0) != sizeof random)
        return err_set(err, errno, "no random numbers: %s", strerror(errno));
    for (unsigned i = 0; i < sizeof random; i++)
        o->password[i] = letters[random[i] % 32];
    o->password_made = true;
    return true;
}

static bool set_password(struct image_options *o, const char *text, struct err *err)
{
    if (!*text || strlen(text) >= sizeof o->password || strpbrk(text, "\n\r"))
        return err_set(err, EINVAL, "--password: 1 to %zu characters on one line",
                       sizeof o->password - 1);
    strcpy(o->password, text);
    return true;
}

static bool set_option(struct image_options *o, int option, const char *value, struct err *err)
{
    switch (option) {
    case 'o': o->output = value; return true;
    case 's': return size_parse(value, &o->size, err) || err_wrap(err, "--size");
    case 'p': o->packages = value; return check_packages(value, err);
    case 'k': return read_key(o, value, err);
    case 'u': o->user = value; return check_name("--user", value, false, err);
    case 'w': return set_password(o, value, err);
    case 'n': o->hostname = value; return check_name("--hostname", value, true, err);
    case 'm': o->mirror = value; return true;
    case 'f': o->force = true; return true;
    case 'K':
        o->kernel = value;
        return strcmp(value, "cloud") == 0 || strcmp(value, "generic") == 0 ||
               err_set(err, EINVAL, "--kernel %.60s: cloud and generic are known", value);
    }
    return false;
}

static const struct option longs[] = {
    {"output", required_argument, NULL, 'o'},
    {"size", required_argument, NULL, 's'},
    {"packages", required_argument, NULL, 'p'},
    {"ssh-key", required_argument, NULL, 'k'},
    {"user", required_argument, NULL, 'u'},
    {"password", required_argument, NULL, 'w'},
    {"hostname", required_argument, NULL, 'n'},
    {"mirror", required_argument, NULL, 'm'},
    {"kernel", required_argument, NULL, 'K'},
    {"force", no_argument, NULL, 'f'},
    {0},
};

static bool say_unknown(const char *text, int code, struct err *err)
{
    const char *words[ARRAY_SIZE(longs)] = {0}, *near;

    if (code == ':')
        return err_set(err, EINVAL, "%s needs a value", text);
    for (unsigned i = 0; longs[i].name; i++)
        words[i] = longs[i].name;
    near = strncmp(text, "--", 2) == 0 ? nearest_word(text + 2, words) : NULL;
    return err_set(err, EINVAL, "%.60s: unknown option%s%s%s", text,
                   near ? ": did you mean --" : "", near ? near : "", near ? "?" : "");
}

/* argv[0] is "build". */
static bool parse(struct image_options *o, int argc, char **argv, struct err *err)
{
    int c;

    *o = (struct image_options){.packages = "",
                                .kernel = "cloud",
                                .user = "debian",
                                .hostname = "hull",
                                .mirror = "",
                                .size = 4 * GiB};
    optind = 0;
    opterr = 0;
    while ((c = getopt_long(argc, argv, ":o:", longs, NULL)) != -1) {
        if (c == '?' || c == ':')
            return say_unknown(argv[optind - 1], c, err);
        if (!set_option(o, c, optarg, err))
            return false;
    }
    if (optind == argc)
        return err_set(err, EINVAL, "what to build is missing: debian[:RELEASE]");
    if (!set_release(o, argv[optind++], err))
        return false;
    if (optind < argc)
        return err_set(err, EINVAL, "%.60s: one argument too many", argv[optind]);
    if (!o->output || !*o->output)
        return err_set(err, EINVAL, "-o FILE is missing");
    if (o->size < 1 * GiB || o->size % 4096)
        return err_set(err, EINVAL, "--size: at least 1G, in steps of 4K");
    return o->password[0] || make_password(o, err);
}

/* ---- the build ---- */

/* Runs in namespaces of its own, so what it mounts and starts ends with it. Arguments: root
 * directory, MiB of memory for it or 0, disk, its size, its UUID, folder for the kernel; then the
 * command that fills the root directory. In memory the thousands of small files cost nothing to
 * write and nothing to remove. */
static const char script[] =
    "set -eu\n"
    "root=$1 memory=$2 disk=$3 size=$4 uuid=$5 boot=$6\n"
    "shift 6\n"
    "trap 'rm -rf --one-file-system \"$root\" 2>/dev/null || :' EXIT\n"
    "trap 'exit 143' TERM\n"
    "mkdir \"$root\"\n"
    "[ \"$memory\" = 0 ] || mount -t tmpfs -o \"size=${memory}m,mode=755\" none \"$root\" || :\n"
    "\"$@\"\n"
    "echo 'I: writing the file system...'\n"
    /* A new file reads as zeroes: neither mke2fs nor the guest's first minutes need to clear
       tables. */
    "make() { mke2fs -qF -t ext4 -L hull-root -m 1 -E \"nodiscard,$1\" -U \"$uuid\" -d \"$root\" "
    "\"$disk\" \"$size\"; }\n"
    "make assume_storage_prezeroed=1 || make lazy_itable_init=0\n"
    "echo 'I: keeping the kernel...'\n"
    "cp \"$root/boot/vmlinuz\" \"$boot/vmlinuz\"\n"
    "cp \"$root/boot/initrd.img\" \"$boot/initrd\"\n"
    "chmod 644 \"$boot/initrd\"\n"
    "echo \"root=UUID=$uuid ro console=ttyS0\" >\"$boot/cmdline\"\n";

/* MiB that the root directory may take of the host's memory; 0: it goes to disk. */
static unsigned memory_for_root(void)
{
    unsigned long long available = 0;
    char line[128];
    FILE *in = fopen("/proc/meminfo", "re");

    while (in && fgets(line, sizeof line, in))
        sscanf(line, "MemAvailable: %llu kB", &available);
    if (in)
        fclose(in);
    return available < 6 * MiB || getenv("TMPDIR") ? 0 : (unsigned)(available / 1024 * 7 / 10);
}

struct words { /* an argument vector and the room for what must be put together */
    const char *argv[64];
    unsigned count;
    char text[16384];
    size_t used;
};

static void add(struct words *w, const char *word)
{
    assert(w->count + 1 < ARRAY_SIZE(w->argv));
    w->argv[w->count++] = word;
    w->argv[w->count] = NULL;
}

static void add_all(struct words *w, const char *const *list)
{
    for (; *list; list++)
        add(w, *list);
}

PRINTF_LIKE(2, 3) static void add_text(struct words *w, const char *fmt, ...)
{
    size_t room = sizeof w->text - w->used;
    va_list ap;
    int len;

    va_start(ap, fmt);
    len = vsnprintf(w->text + w->used, room, fmt, ap);
    va_end(ap);
    assert(len >= 0 && (size_t)len < room);
    add(w, w->text + w->used);
    w->used += (size_t)len + 1;
}

static void add_mmdebstrap(struct words *w, const struct build *b)
{
    /* The disk is thrown away if the build fails, so nothing needs to be safe while it runs. */
    static const char *const fixed[] = {
        "mmdebstrap",
        "--mode=root",
        "--variant=apt",
        "--format=directory",
        "--dpkgopt=force-unsafe-io",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        NULL,
    };
    char packages[4096];

    guest_packages(&b->o, packages, sizeof packages);
    add_all(w, fixed);
    add_text(w, "--aptopt=%s/aptconf", b->work);
    add_text(w, "--setup-hook=%s/early-hook", b->work);
    add_text(w, "--customize-hook=%s/late-hook", b->work);
    add_text(w, "--include=%s", packages);
    add(w, b->o.codename);
    add_text(w, "%s/root", b->work);
    add_text(w, "%s/build.sources", b->work);
}

static bool make_disk(const struct build *b, struct err *err)
{
    static const char *const unshare[] = {"unshare", "--mount",      "--pid",
                                          "--fork",  "--kill-child", NULL};
    /* Our own id is root inside, Debian's other users are our subordinate ids. */
    static const char *const user[] = {"--map-root-user", "--map-auto", NULL};
    static struct words w; /* large */

    w.count = 0;
    w.used = 0;
    add_all(&w, unshare);
    if (!b->root)
        add_all(&w, user);
    add(&w, "sh");
    add(&w, "-c");
    add(&w, script);
    add(&w, "hull");
    add_text(&w, "%s/root", b->work);
    add_text(&w, "%u", memory_for_root());
    add(&w, b->part);
    add_text(&w, "%lluk", (unsigned long long)(b->o.size / KiB));
    add(&w, b->uuid);
    add(&w, b->boot_part);
    add_mmdebstrap(&w, b);
    return image_run((char **)w.argv, err);
}

/* ---- the folder to work in ---- */

static void make_uuid(char text[37])
{
    uint8_t r[16];

    if (getrandom(r, sizeof r, 0) != sizeof r)
        abort();                 /* Linux promises up to 256 bytes whole */
    r[6] = (r[6] & 0x0f) | 0x40; /* version 4: random */
    r[8] = (r[8] & 0x3f) | 0x80;
    snprintf(text, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", r[0],
             r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9], r[10], r[11], r[12], r[13],
             r[14], r[15]);
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st;
    (void)kind;
    (void)ftw;
    return remove(path);
}

static void remove_tree(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

static bool has_space(const char *dir, uint64_t bytes, struct err *err)
{
    struct statvfs v;

    if (statvfs(dir, &v) != 0)
        return err_set(err, errno, "%s: %s", dir, strerror(errno));
    if ((uint64_t)v.f_bavail * v.f_frsize < bytes)
        return err_set(err, ENOSPC,
                       "%s: %llu MiB are free, about %llu are needed: set TMPDIR to another folder",
                       dir, (unsigned long long)((uint64_t)v.f_bavail * v.f_frsize / MiB),
                       (unsigned long long)(bytes / MiB));
    return true;
}

static bool prepare(struct build *b, struct err *err)
{
    const char *tmp = getenv("TMPDIR");
    char full[PATH_MAX];
    int fd;

    if (!b->o.force && access(b->o.output, F_OK) == 0)
        return err_set(err, EEXIST, "%s: is there already: --force replaces it", b->o.output);
    if (!host_tools_check(b->root, err) || !host_apt_read(&b->apt, &b->o, err))
        return false;
    if (!tmp || !*tmp)
        tmp = "/var/tmp"; /* /tmp is memory on many systems */
    if (!realpath(tmp, full))
        return err_set(err, errno, "%s: %s", tmp, strerror(errno));
    if (!has_space(full, 1500 * MiB, err))
        return false;
    snprintf(b->part, sizeof b->part, "%.4000s.part", b->o.output);
    snprintf(b->boot, sizeof b->boot, "%.4000s.boot", b->o.output);
    snprintf(b->boot_part, sizeof b->boot_part, "%.4000s.boot.part", b->o.output);
    snprintf(b->work, sizeof b->work, "%.4000s/hull-image-XXXXXX", full);
    fd = open(b->part, O_WRONLY | O_CREAT | O_CLOEXEC, 0644); /* better now than after minutes */
    if (fd < 0)
        return err_set(err, errno, "%s: %s", b->part, strerror(errno));
    close(fd);
    if (!mkdtemp(b->work)) {
        err_set(err, errno, "%s: %s", b->work, strerror(errno));
        b->work[0] = '\0';
        return false;
    }
    chmod(b->work, 0711); /* apt's own user reads its lists inside */
    remove_tree(b->boot_part);
    if (mkdir(b->boot_part, 0755) != 0)
        return err_set(err, errno, "%s: %s", b->boot_part, strerror(errno));
    make_uuid(b->uuid);
    return true;
}

static void clean_up(const struct build *b)
{
    if (b->part[0]) {
        unlink(b->part);
        remove_tree(b->boot_part);
    }
    if (b->work[0])
        remove_tree(b->work);
}

static bool put_in_place(const struct build *b, struct err *err)
{
    if (image_interrupted())
        return err_set(err, EINTR, "interrupted");
    remove_tree(b->boot);
    if (rename(b->boot_part, b->boot) != 0)
        return err_set(err, errno, "%s: %s", b->boot, strerror(errno));
    if (rename(b->part, b->o.output) != 0)
        return err_set(err, errno, "%s: %s", b->o.output, strerror(errno));
    return true;
}

static bool build(struct build *b, struct err *err)
{
    image_catch_signals();
    return prepare(b, err) && guest_write(b->work, &b->o, &b->apt, b->uuid, err) &&
           make_disk(b, err) && put_in_place(b, err);
}

static void say_done(const struct build *b)
{
    struct stat st = {0};

    stat(b->o.output, &st);
    image_progress("%s is ready: %llu MiB on disk", b->o.output,
                   (unsigned long long)st.st_blocks / 2048);
    if (b->o.password_made)
        printf("user %s, password %s\n", b->o.user, b->o.password);
}

int cmd_image(int argc, char **argv)
{
    static struct build b; /* large */
    struct err err;
    bool built;

    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(help, stdout);
            return EXIT_DONE;
        }
    }
    if (argc < 1 || strcmp(argv[0], "build") != 0) {
        err_set(&err, EINVAL, "image %s: unknown: build is known", argc ? argv[0] : "needs a verb");
        return usage_error("image", &err);
    }
    if (!parse(&b.o, argc, argv, &err))
        return usage_error("image", &err);
    b.root = geteuid() == 0;
    built = build(&b, &err);
    if (built)
        b.part[0] = '\0'; /* nothing of it is left */
    else
        log_error("%s", err.text);
    clean_up(&b);
    if (built)
        say_done(&b);
    return built ? EXIT_DONE : err.code == EINTR ? 130 : EXIT_FAILED;
}
