/* SPDX-License-Identifier: MIT */
/* hull snapshot: tells a running machine to save itself, and gives it the files to do so.
 *
 *   DIR.part is made -> its files go to the machine as descriptors -> the machine's job, watched
 *   -> disks are copied while the machine stands still -> all is synced -> DIR.part becomes DIR
 *
 * So DIR is either whole or not there. */
#include "copy.h"
#include "hull.h"
#include "layers.h"
#include "machine/saved.h"
#include "machine/sums.h"
#include "qmp_client.h"
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/stat.h>
#include <unistd.h>

#define POLL_NS 20000000

struct snapshot_options {
    const char *qmp, *dir, *base, *flatten;
    bool stop, copy_disks, json, verify;
};

static void print_help(void)
{
    printf(
        "Usage: hull snapshot --qmp SOCKET DIR [options]\n"
        "       hull snapshot --verify DIR\n"
        "       hull snapshot --flatten PARTIAL DIR\n\n"
        "Saves a running machine to the new directory DIR: state, memory and, on request, disks.\n"
        "The machine runs while its memory is written and stands still only for the end.\n\n"
        "Options:\n"
        "  --qmp SOCKET        the machine's control socket (hull run --qmp SOCKET)\n"
        "  --base OTHER        write only what changed since the machine's last snapshot, OTHER\n"
        "  --copy-disks        copy its disks too, so that it can go on writing to its own\n"
        "  --stop              end the machine once it is saved; its disks stay as they are\n"
        "  --verify            read DIR and its bases, and compare them with their checksums\n"
        "  --flatten PARTIAL   make DIR of a snapshot that was taken with --base: whole, without "
        "it\n"
        "  --progress json     one JSON object a line instead of a progress bar\n"
        "\nA machine with writable disks needs --copy-disks or --stop.\n"
        "\nExamples:\n"
        "  hull snapshot --qmp m.sock before-upgrade --copy-disks\n"
        "  hull snapshot --flatten later whole\n"
        "  hull snapshot --qmp m.sock saved --stop && hull restore saved\n");
}

/* ---- options ---- */

static bool read_value(int argc, char **argv, int *i, const char *name, const char **to,
                       struct err *err)
{
    if (*i + 1 == argc)
        return err_set(err, EINVAL, "%s needs a value", name);
    *to = argv[++*i];
    return true;
}

static bool read_option(struct snapshot_options *o, int argc, char **argv, int *i, struct err *err)
{
    const char *arg = argv[*i], *progress = "";

    if (!strcmp(arg, "--qmp"))
        return read_value(argc, argv, i, arg, &o->qmp, err);
    if (!strcmp(arg, "--base"))
        return read_value(argc, argv, i, arg, &o->base, err);
    if (!strcmp(arg, "--flatten"))
        return read_value(argc, argv, i, arg, &o->flatten, err);
    if (!strcmp(arg, "--verify"))
        o->verify = true;
    else if (!strcmp(arg, "--stop"))
        o->stop = true;
    else if (!strcmp(arg, "--copy-disks"))
        o->copy_disks = true;
    else if (!strcmp(arg, "--progress")) {
        if (!read_value(argc, argv, i, arg, &progress, err))
            return false;
        o->json = !strcmp(progress, "json");
        return o->json || err_set(err, EINVAL, "--progress %s: only json is known", progress);
    } else
        return err_set(err, EINVAL, "%s: no such option", arg);
    return true;
}

static bool read_options(struct snapshot_options *o, int argc, char **argv, struct err *err)
{
    for (int i = 0; i < argc; i++) {
        if (argv[i][0] == '-') {
            if (!read_option(o, argc, argv, &i, err))
                return false;
        } else if (o->dir)
            return err_set(err, EINVAL, "%s: one directory is enough", argv[i]);
        else
            o->dir = argv[i];
    }
    if ((o->verify || o->flatten) && o->dir && *o->dir)
        return (!o->qmp && !o->base && !o->stop && !o->copy_disks && !(o->verify && o->flatten)) ||
               err_set(err, EINVAL, "%s: is about files, and goes with no other option",
                       o->verify ? "--verify" : "--flatten");
    if (!o->qmp || !o->dir || !*o->dir)
        return err_set(err, EINVAL, "expected --qmp SOCKET and a directory to make");
    return true;
}

/* ---- the directory ---- */

struct snapshot_dir {
    char final[PATH_MAX - 16], part[PATH_MAX];
    int fd, state, memory, sums;
};

static int make_file(struct snapshot_dir *d, const char *name, struct err *err)
{
    int fd = openat(d->fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    if (fd < 0)
        err_set(err, errno, "%s/%s: %s", d->part, name, strerror(errno));
    return fd;
}

/* The empty folder under its temporary name. */
static bool dir_make(struct snapshot_dir *d, const char *dir, struct err *err)
{
    size_t len = strlen(dir);
    struct stat st;

    while (len > 1 && dir[len - 1] == '/')
        len--;
    if (len >= sizeof d->final)
        return err_set(err, ENAMETOOLONG, "%s: the name is too long", dir);
    snprintf(d->final, sizeof d->final, "%.*s", (int)len, dir);
    snprintf(d->part, sizeof d->part, "%s.part", d->final);
    if (!lstat(d->final, &st))
        return err_set(err, EEXIST, "%s: is there already", d->final);
    if (mkdir(d->part, 0700))
        return err_set(err, errno, "%s: %s%s", d->part, strerror(errno),
                       errno == EEXIST ? ": left by a snapshot that was broken off? remove it"
                                       : "");
    d->fd = open(d->part, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (d->fd < 0)
        return err_set(err, errno, "%s: %s", d->part, strerror(errno));
    return true;
}

static bool dir_make_files(struct snapshot_dir *d, struct err *err)
{
    return (d->state = make_file(d, "state", err)) >= 0 &&
           (d->memory = make_file(d, "memory", err)) >= 0 &&
           (d->sums = make_file(d, SUMS_FILE, err)) >= 0;
}

static void dir_close(struct snapshot_dir *d)
{
    if (d->state >= 0)
        close(d->state);
    if (d->memory >= 0)
        close(d->memory);
    if (d->sums >= 0)
        close(d->sums);
    if (d->fd >= 0)
        close(d->fd);
}

static void dir_remove(struct snapshot_dir *d)
{
    char disk[16];

    if (d->fd < 0)
        return;
    unlinkat(d->fd, "state", 0);
    unlinkat(d->fd, "memory", 0);
    unlinkat(d->fd, SUMS_FILE, 0);
    for (unsigned i = 0; i < CONFIG_DISKS; i++) {
        snprintf(disk, sizeof disk, "disk%u", i);
        unlinkat(d->fd, disk, 0);
    }
    rmdir(d->part);
}

static bool sync_parent(const char *path)
{
    char parent[PATH_MAX], *slash;
    int fd, bad;

    snprintf(parent, sizeof parent, "%s", path);
    slash = strrchr(parent, '/');
    if (slash)
        slash[slash == parent] = 0;
    fd = open(slash ? parent : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bad = fd < 0 || fsync(fd);
    if (fd >= 0)
        close(fd);
    return !bad;
}

static bool dir_finish(struct snapshot_dir *d, struct err *err)
{
    if (fsync(d->fd) || rename(d->part, d->final) || !sync_parent(d->final))
        return err_set(err, errno, "%s: cannot be finished: %s", d->final, strerror(errno));
    return true;
}

/* Of a snapshot that the machine has written; it runs on meanwhile. */
static bool dir_sync(struct snapshot_dir *d, struct err *err)
{
    if (!sums_write(d->memory, d->state, d->sums, err))
        return false;
    return (!fsync(d->state) && !fsync(d->memory) && !fsync(d->sums)) ||
           err_set(err, errno, "%s: cannot be written: %s", d->part, strerror(errno));
}

/* ---- the base ---- */

/* Its id, from its state; and how the new snapshot is to name it: relative if they lie side by
 * side, so that both can be moved together. */
static bool read_base(const struct snapshot_options *o, const struct snapshot_dir *d, char hex[33],
                      char *name, size_t size, struct err *err)
{
    char base[PATH_MAX], parent[PATH_MAX], *slash;
    struct saved *saved = saved_open(o->base, err);

    if (!saved)
        return false;
    for (unsigned i = 0; i < 16; i++)
        sprintf(hex + 2 * (size_t)i, "%02x", saved->facts.id[i]);
    saved_close(saved);
    if (!realpath(o->base, base) || !realpath(d->part, parent))
        return err_set(err, errno, "%s: %s", o->base, strerror(errno));
    *strrchr(parent, '/') = 0;
    slash = strrchr(base, '/');
    if (strlen(parent) == (size_t)(slash - base) && !strncmp(parent, base, strlen(parent)))
        snprintf(name, size, "../%s", slash + 1);
    else
        snprintf(name, size, "%s", base);
    return true;
}

/* ---- the job ---- */

static void show_progress(const struct snapshot_options *o, json_t *job, bool last)
{
    double total = (double)json_integer_value(json_object_get(job, "total-progress"));
    double done = (double)json_integer_value(json_object_get(job, "current-progress"));
    double percent = total > 0 ? 100 * done / total : 100;

    if (o->json)
        printf("{\"status\": \"%s\", \"percent\": %.1f, \"pause-us\": %lld}\n",
               last ? "concluded" : "running", last ? 100.0 : percent,
               (long long)json_integer_value(json_object_get(job, "x-hull-pause-us")));
    else if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r%s %5.1f %%%s", o->dir, last ? 100.0 : percent, last ? "\n" : "");
    fflush(stdout);
}

/* Waits for the job's end; how long the machine stood still in *pause_us. */
static bool watch_job(struct qmp_client *q, const struct snapshot_options *o, json_int_t *pause_us,
                      struct err *err)
{
    for (;;) {
        json_t *jobs = qmp_client_call(q, "query-jobs", NULL, err), *job;
        const char *status, *why;
        bool over, good;

        if (!jobs)
            return false;
        job = json_array_get(jobs, 0);
        status = json_string_value(json_object_get(job, "status"));
        why = json_string_value(json_object_get(job, "error"));
        over = !status || !strcmp(status, "concluded");
        good = status && !why;
        if (over && !good)
            err_set(err, EIO, "%s: %s", o->dir, why ? why : "the job is gone");
        *pause_us = json_integer_value(json_object_get(job, "x-hull-pause-us"));
        if (!over || good)
            show_progress(o, job, over);
        json_decref(jobs);
        if (over)
            return good;
        nanosleep(&(struct timespec){.tv_nsec = POLL_NS}, NULL);
    }
}

static bool command(struct qmp_client *q, const char *name, json_t *args, struct err *err)
{
    json_t *result = qmp_client_call(q, name, args, err);

    json_decref(result);
    return result != NULL;
}

static bool start_job(struct qmp_client *q, const struct snapshot_options *o,
                      struct snapshot_dir *d, struct err *err)
{
    char id[33], base[PATH_MAX];
    json_t *args = json_pack("{s:s, s:s, s:s, s:b}", "job-id", "snapshot", "state", "state",
                             "memory", "memory", "stop", o->stop || o->copy_disks);

    if (o->base) {
        if (!read_base(o, d, id, base, sizeof base, err)) {
            json_decref(args);
            return false;
        }
        json_object_set_new(args, "base", json_string(base));
        json_object_set_new(args, "base-id", json_string(id));
    }
    if (qmp_client_give(q, "state", d->state, err) && qmp_client_give(q, "memory", d->memory, err))
        return command(q, "x-hull-snapshot", args, err);
    json_decref(args);
    return false;
}

/* ---- disks ---- */

static bool copy_disks(const struct snapshot_dir *d, json_t *disks, struct err *err)
{
    char to[PATH_MAX + 32];
    json_t *disk;
    size_t i;

    json_array_foreach(disks, i, disk)
    {
        const char *file =
            json_string_value(json_object_get(json_object_get(disk, "inserted"), "file"));

        snprintf(to, sizeof to, "%s/disk%zu", d->part, i);
        if (!file || !copy_file(file, to, err))
            return file ? false : err_set(err, EPROTO, "the machine does not name its disks");
    }
    return true;
}

static bool any_writable(json_t *disks)
{
    json_t *disk;
    size_t i;

    json_array_foreach(disks, i,
                       disk) if (!json_is_true(json_object_get(json_object_get(disk, "inserted"),
                                                               "ro"))) return true;
    return false;
}

static bool take(struct qmp_client *q, const struct snapshot_options *o, struct snapshot_dir *d,
                 json_t *disks, struct err *err)
{
    json_int_t pause_us = 0;
    json_t *status;
    bool good, ran;

    status = qmp_client_call(q, "query-status", NULL, err);
    ran = json_is_true(json_object_get(status, "running"));
    json_decref(status);
    good = start_job(q, o, d, err) && watch_job(q, o, &pause_us, err);
    if (good && o->copy_disks) {
        struct err ignored;

        good = copy_disks(d, disks, err);
        if (ran && (!o->stop || !good))
            command(q, "cont", NULL, &ignored);
    }
    if (!good || !dir_sync(d, err) || !dir_finish(d, err))
        return false;
    if (!o->json && isatty(STDERR_FILENO))
        fprintf(stderr, "%s: saved; the machine stood still for %.1f ms\n", d->final,
                (double)pause_us / 1000);
    return !o->stop || command(q, "quit", NULL, err);
}

static int snapshot(const struct snapshot_options *o, struct err *err)
{
    struct snapshot_dir d = {.fd = -1, .state = -1, .memory = -1, .sums = -1};
    struct qmp_client q;
    json_t *disks = NULL;
    bool good = qmp_client_open(&q, o->qmp, err);

    if (good)
        disks = qmp_client_call(&q, "query-block", NULL, err);
    good = good && disks;
    if (good && !o->stop && !o->copy_disks && any_writable(disks))
        good = err_set(err, EINVAL,
                       "the machine goes on writing to its disks, and the snapshot would not fit "
                       "them any more: add --copy-disks or --stop");
    good =
        good && dir_make(&d, o->dir, err) && dir_make_files(&d, err) && take(&q, o, &d, disks, err);
    if (!good)
        dir_remove(&d);
    dir_close(&d);
    json_decref(disks);
    qmp_client_close(&q);
    return good ? EXIT_DONE : EXIT_FAILED;
}

/* Of files alone, without a machine. */
static int verify(const struct snapshot_options *o, struct err *err)
{
    if (!layers_verify(o->dir, err))
        return EXIT_FAILED;
    if (o->json)
        printf("{\"status\": \"concluded\"}\n");
    else
        printf("%s: as it was saved\n", o->dir);
    return EXIT_DONE;
}

static int flatten(const struct snapshot_options *o, struct err *err)
{
    struct snapshot_dir d = {.fd = -1, .state = -1, .memory = -1, .sums = -1};
    bool good =
        dir_make(&d, o->dir, err) && layers_flatten(o->flatten, d.part, err) && dir_finish(&d, err);

    if (!good)
        dir_remove(&d);
    dir_close(&d);
    return good ? EXIT_DONE : EXIT_FAILED;
}

int cmd_snapshot(int argc, char **argv)
{
    struct snapshot_options o = {0};
    struct err err = {0};
    int status;

    for (int i = 0; i < argc; i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            print_help();
            return EXIT_DONE;
        }
    if (!read_options(&o, argc, argv, &err))
        return usage_error("snapshot", &err);
    status = o.verify ? verify(&o, &err) : o.flatten ? flatten(&o, &err) : snapshot(&o, &err);
    if (status)
        log_error("%s", err.text);
    return status;
}
