/* SPDX-License-Identifier: MIT */
/* hull disk convert: a copy of a disk in another format, or packed. The copy is made under the name
 * TARGET.part and gets its own name when it is whole: an error or Ctrl-C leaves nothing, and a
 * TARGET that was there stays as it was until then. */
#include "disk.h"
#include "block/bulk.h"
#include "block/format.h"
#include "block/gather.h"
#include "field/field.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct convert {
    struct block_copy copy;
    struct disk_args *a;
    struct block_create create;
    char target[PATH_MAX], made[PATH_MAX + 8]; /* made: target.part, or target if in place */
    bool in_place, existed, data_file_new, sync;
    mode_t mode;
};

static void on_progress(struct block_copy *c, uint64_t done, uint64_t all)
{
    struct convert *v = container_of(c, struct convert, copy);

    disk_progress(v->a, v->a->file[1], done, all);
}

/* ---- what goes where ---- */

static bool is_in_chain(const struct block *b, const struct stat *st)
{
    struct stat own;

    for (; b; b = b->backing) {
        const struct block *part[] = {b->under ? b->under : b, b->data};

        for (unsigned i = 0; i < ARRAY_SIZE(part); i++)
            if (part[i] && part[i]->file && !fstat(part[i]->file->fd, &own) &&
                own.st_dev == st->st_dev && own.st_ino == st->st_ino)
                return true;
    }
    return false;
}

/* A target that is there: a device is written in place; a file is replaced, if nobody uses it. */
static bool look_at_target(struct convert *v, struct err *err)
{
    const char *name = v->a->file[1];
    struct block_config raw = {0};
    struct block *b;
    struct stat st;

    if (!realpath(name, v->target))
        snprintf(v->target, sizeof v->target, "%s", name);
    v->in_place = v->a->no_create;
    if (stat(v->target, &st) == 0) {
        if (is_in_chain(v->copy.from, &st))
            return err_set(err, EINVAL, "%s: is what is to be copied", name);
        b = disk_open(v->a, v->target, "raw", false, &raw, err);
        if (!b)
            return false;
        block_close(b);
        v->existed = true;
        v->in_place |= S_ISBLK(st.st_mode);
        v->mode = st.st_mode & 07777;
    }
    snprintf(v->made, sizeof v->made, "%s%s", v->target, v->in_place ? "" : ".part");
    return true;
}

/* Only then may what the source has from its backing file be left out. */
static bool same_backing(const struct convert *v)
{
    const struct block *below = v->copy.from->backing;
    char path[PATH_MAX];
    struct stat st;

    if (!v->create.backing || !below)
        return false;
    if (!block_relative(path, sizeof path, v->target, v->create.backing) || stat(path, &st))
        return false;
    below = below->under ? below->under : below;
    return below->file && below->file->dev == st.st_dev && below->file->ino == st.st_ino &&
           (!v->copy.from->config.snapshot[0]);
}

static bool make_target(struct convert *v, struct err *err)
{
    char data[PATH_MAX];

    v->create.file = v->made;
    v->create.size = v->copy.from->size;
    v->create.stopped = disk_stopped;
    if (v->create.data_file && block_relative(data, sizeof data, v->made, v->create.data_file))
        v->data_file_new = access(data, F_OK) != 0;
    return block_create(v->a->loop, &v->create, err);
}

static void unmake_target(struct convert *v)
{
    char data[PATH_MAX];

    if (v->in_place)
        return;
    unlink(v->made);
    if (v->data_file_new && block_relative(data, sizeof data, v->made, v->create.data_file))
        unlink(data);
}

static bool check_options(struct convert *v, struct err *err)
{
    struct disk_args *a = v->a;
    bool raw = !strcmp(v->create.format, "raw");

    if (a->compress && (raw || v->create.data_file))
        return err_set(err, EINVAL, "--compress: %s cannot hold compressed data",
                       raw ? "a raw image" : "an image with a data file");
    if (a->compress && v->create.preallocation)
        return err_set(err, EINVAL, "--compress and preallocation: one or the other");
    if (a->target_is_zero && !a->no_create)
        return err_set(err, EINVAL, "--target-is-zero is for --no-create");
    v->copy.sparse = 4096;
    if (a->sparse && !size_parse(a->sparse, &v->copy.sparse, err))
        return err_wrap(err, "-S");
    v->sync = a->sync || (a->cache && strcmp(a->cache, "unsafe") != 0);
    v->copy.compress = a->compress;
    v->copy.workers = (unsigned)min_u64(a->workers, 16);
    return true;
}

/* ---- the copy ---- */

static struct block *open_target(struct convert *v, struct err *err)
{
    struct block_config how = {.discard = true, .cache = CACHE_UNSAFE};
    const char *format = v->a->no_create && !v->a->out_format ? NULL : v->create.format;

    if (v->create.backing)
        how.cache = CACHE_UNSAFE;
    return disk_open(v->a, v->made, format, false, &how, err);
}

static bool to_disk(struct convert *v, struct block *to, struct err *err)
{
    int failed = block_run(to, BLOCK_FLUSH, 0, 0, NULL, 0);
    const struct block *low = to->under ? to->under : to;

    if (!failed && (v->sync || (v->existed && !v->in_place))) {
        if ((to->data && fsync(gather_fd(to))) || (low->file && fsync(low->file->fd)))
            failed = -errno;
    }
    return !failed || err_set(err, -failed, "cannot be written: %s", strerror(-failed));
}

static bool fill_target(struct convert *v, struct err *err)
{
    struct block *to = open_target(v, err);
    bool device, good;

    if (!to)
        return false;
    device = to->file && to->file->is_device;
    v->copy.to = to;
    v->copy.fresh = !v->a->no_create && !device && (!v->create.preallocation || !to->cluster_size);
    v->copy.is_zero = (!v->a->no_create && !device && !v->create.backing) || v->a->target_is_zero;
    v->copy.top_only = !v->a->no_create && same_backing(v);
    v->copy.stopped = disk_stopped;
    v->copy.progress = on_progress;
    if (to->size < v->copy.from->size)
        good = err_set(err, ENOSPC, "has %llu bytes, %llu are needed", (unsigned long long)to->size,
                       (unsigned long long)v->copy.from->size);
    else
        good = block_copy(&v->copy, err) && to_disk(v, to, err);
    if (good)
        block_close(to);
    else
        block_abandon(to);
    return good;
}

static bool name_target(struct convert *v, struct err *err)
{
    if (v->in_place)
        return true;
    if (v->existed && chmod(v->made, v->mode))
        return err_set(err, errno, "%s", strerror(errno));
    if (rename(v->made, v->target))
        return err_set(err, errno, "cannot be put in place: %s", strerror(errno));
    return true;
}

/* Errors are about the target as the user named it, not about TARGET.part. */
static void name_error(const struct convert *v, struct err *err)
{
    const char *user = v->a->file[1];
    size_t made = strlen(v->made);
    char rest[sizeof err->text];

    if (made && strncmp(err->text, v->made, made) == 0) {
        snprintf(rest, sizeof rest, "%s", err->text + made);
        snprintf(err->text, sizeof err->text, "%.120s%.130s", user, rest);
    } else if (strncmp(err->text, user, strlen(user)) != 0 &&
               strncmp(err->text, v->a->file[0], strlen(v->a->file[0])) != 0) {
        err_wrap(err, "%s", user);
    }
}

static int convert_opened(struct convert *v)
{
    struct disk_args *a = v->a;
    bool good, making = false;
    struct err err;

    good = look_at_target(v, &err);
    if (good && !a->no_create)
        good = making = make_target(v, &err);
    good = good && fill_target(v, &err) && name_target(v, &err);
    disk_progress_end(a, a->file[1], good);
    if (good)
        return EXIT_DONE;
    if (making)
        unmake_target(v);
    if (disk_stopped())
        return disk_stopped_status();
    name_error(v, &err);
    return disk_failed(&err);
}

static int convert_run(struct disk_args *a)
{
    struct convert *v = calloc(1, sizeof *v);
    struct block_config how = {0};
    bool helped = false;
    struct err err;
    int status;

    if (!v)
        return EXIT_FAILED;
    v->a = a;
    v->create.format = a->out_format  ? a->out_format
                       : a->files < 2 ? "qcow2"
                                      : disk_format_for(a->file[1]);
    if (!disk_create_options(a, &v->create, &helped, &err) ||
        (!helped && !check_options(v, &err))) {
        status = disk_usage(a, &err);
    } else if (helped) {
        status = EXIT_DONE;
    } else {
        if (a->snapshot)
            snprintf(how.snapshot, sizeof how.snapshot, "%s", disk_snapshot_name(a->snapshot));
        v->copy.from = disk_open(a, a->file[0], a->format, true, &how, &err);
        disk_catch_signals();
        status = v->copy.from ? convert_opened(v) : disk_failed(&err);
        block_close(v->copy.from);
    }
    free(v);
    return status;
}

static const struct disk_opt opts[] = {
    DISK_OPT('O', "format", OPT_TEXT, out_format, "FMT",
             "of TARGET: raw or qcow2; default: by its name's ending, else raw"),
    DISK_OPT('f', "from", OPT_TEXT, format, "FMT", "of SOURCE; default: found by looking"),
    DISK_OPT('c', "compress", OPT_FLAG, compress, NULL, "compress the data"),
    DISK_OPT('o', "options", OPT_LIST, options, "K=V,...", "how TARGET is made; -o help lists"),
    DISK_OPT('B', "backing", OPT_TEXT, backing, "FILE",
             "TARGET's backing file: what is the same there is left out"),
    DISK_OPT('b', NULL, OPT_TEXT, backing, "FILE", NULL),
    DISK_OPT('F', "backing-format", OPT_TEXT, backing_format, "FMT", "its format"),
    DISK_OPT('l', "snapshot", OPT_TEXT, snapshot, "NAME",
             "the disk as that internal snapshot has it"),
    DISK_OPT('n', "no-create", OPT_FLAG, no_create, NULL,
             "write to a TARGET that is there already"),
    DISK_OPT(0, "target-is-zero", OPT_FLAG, target_is_zero, NULL, "... and reads as zeroes"),
    DISK_OPT('S', "sparse", OPT_TEXT, sparse, "SIZE",
             "zeroes that long are not written; 0: all is; default 4K"),
    DISK_OPT(0, "sync", OPT_FLAG, sync, NULL, "end when the copy is safe from a power cut"),
    DISK_OPT('U', "force-share", OPT_FLAG, share, NULL, "although a machine is writing to SOURCE"),
    DISK_OPT('m', "workers", OPT_NUMBER, workers, "N", "threads; default: by processors"),
    DISK_OPT('p', NULL, OPT_FLAG, show_progress, NULL, "progress as qemu-img prints it"),
    DISK_OPT(0, "progress", OPT_TEXT, progress_as, "json|none", "progress for programs"),
    DISK_OPT('t', NULL, OPT_TEXT, cache, "CACHE", NULL),
    DISK_OPT('T', NULL, OPT_SKIP_VALUE, quiet, "CACHE", NULL),
    DISK_OPT('W', NULL, OPT_SKIP, quiet, NULL, NULL),
    {0},
};

const struct disk_verb disk_convert = {
    .name = "convert",
    .summary = "copy a disk into a new image",
    .usage = "SOURCE TARGET",
    .about = "Copies the disk that SOURCE holds into TARGET, with several threads; zeroes take no "
             "space.\nTARGET appears, or is replaced, when it is complete. SOURCE is only read.\n",
    .examples = "  hull disk convert disk.raw disk.qcow2\n"
                "  hull disk convert --compress -o compression_type=zstd disk.qcow2 small.qcow2\n"
                "  hull disk convert --backing base.qcow2 overlay.qcow2 new.qcow2\n"
                "  hull disk convert -f qcow2 -O raw -n disk.qcow2 /dev/vg/disk\n",
    .opts = opts,
    .files_min = 2,
    .files_max = 2,
    .run = convert_run,
};
