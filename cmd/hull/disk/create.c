/* SPDX-License-Identifier: MIT */
/* hull disk create: a new, empty image. */
#include "disk.h"
#include "field/field.h"
#include <errno.h>

static int create_run(struct disk_args *a)
{
    struct block_create c = {.file = a->file[0], .backing_unchecked = a->unsafe};
    bool helped;
    struct err err;

    c.format = a->format                   ? a->format
               : a->backing || !a->file[0] ? "qcow2"
                                           : disk_format_for(a->file[0]);
    if (!disk_create_options(a, &c, &helped, &err))
        return disk_usage(a, &err);
    if (helped)
        return EXIT_DONE;
    if (a->files > 1 && !size_parse(a->file[1], &c.size, &err))
        return disk_usage(a, &err);
    if (!c.size && (!c.backing || c.backing_unchecked)) {
        err_set(&err, EINVAL, "%s: how large? add a size, like 10G", a->file[0]);
        return disk_usage(a, &err);
    }
    if (c.size > INT64_MAX - 511) {
        err_set(&err, EFBIG, "%s: the size is too large", a->file[0]);
        return disk_usage(a, &err);
    }
    c.size = align_up(c.size, 512);
    disk_catch_signals();
    c.stopped = disk_stopped;
    if (!block_create(a->loop, &c, &err))
        return disk_stopped() ? disk_stopped_status() : disk_failed(&err);
    return EXIT_DONE;
}

static const struct disk_opt opts[] = {
    DISK_OPT('f', "format", OPT_TEXT, format, "FMT",
             "raw or qcow2; default: by the name's ending, else raw"),
    DISK_OPT('b', "backing", OPT_TEXT, backing, "FILE",
             "what is never written here is read from there"),
    DISK_OPT('F', "backing-format", OPT_TEXT, backing_format, "FMT", "its format"),
    DISK_OPT('u', "unsafe", OPT_FLAG, unsafe, NULL, "do not look at the backing file"),
    DISK_OPT('o', "options", OPT_LIST, options, "K=V,...", "how; -o help lists the keys"),
    DISK_OPT(0, "preallocation", OPT_TEXT, preallocation, "MODE", "off, metadata, falloc or full"),
    {0},
};

const struct disk_verb disk_create = {
    .name = "create",
    .summary = "make an empty image",
    .usage = "FILE [SIZE]",
    .no_json = true,
    .about =
        "Makes FILE, an empty image of SIZE bytes (K, M, G, T: powers of 1024). With a backing "
        "file\nSIZE may be left out. A file that exists is emptied, unless a machine uses it.\n",
    .examples = "  hull disk create disk.qcow2 20G\n"
                "  hull disk create --backing base.qcow2 overlay.qcow2\n"
                "  hull disk create -f qcow2 -o cluster_size=1M,preallocation=falloc disk 20G\n",
    .opts = opts,
    .files_min = 1,
    .files_max = 2,
    .run = create_run,
};
