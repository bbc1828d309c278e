/* SPDX-License-Identifier: MIT */
/* hull disk snapshot: those inside a qcow2 image. */
#include "disk.h"
#include <errno.h>
#include <stdlib.h>

static int list_snapshots(struct disk_args *a)
{
    struct block_snapshot *list = NULL;
    struct block_config how = {.alone = true};
    unsigned count = 0;
    struct err err;
    struct block *b = disk_open(a, a->file[0], a->format, true, &how, &err);
    bool good = b && block_snapshot_list(b, &list, &count, &err);

    if (good && a->json)
        disk_print_json(disk_snapshots_json(list, count));
    else if (good && count)
        disk_print_snapshots(list, count);
    free(list);
    block_close(b);
    return good ? EXIT_DONE : disk_failed(&err);
}

static int snapshot_run(struct disk_args *a)
{
    unsigned what = !!a->create + !!a->apply + !!a->remove_name + a->list;
    struct block_config how = {.discard = true, .alone = true};
    struct block *b;
    struct err err;
    bool good;

    if (what > 1) {
        err_set(&err, EINVAL, "one of --list, --create, --apply and --delete at a time");
        return disk_usage(a, &err);
    }
    if (!what || a->list)
        return list_snapshots(a);
    b = disk_open(a, a->file[0], a->format, false, &how, &err);
    if (!b)
        return disk_failed(&err);
    if (a->create)
        good = block_snapshot_create(b, a->create, &err);
    else if (a->apply)
        good = block_snapshot_apply(b, a->apply, &err);
    else
        good = block_snapshot_delete(b, a->remove_name, &err);
    block_close(b);
    return good ? EXIT_DONE : disk_failed(&err);
}

static const struct disk_opt opts[] = {
    DISK_OPT('l', "list", OPT_FLAG, list, NULL, "list them; so does no option at all"),
    DISK_OPT('c', "create", OPT_TEXT, create, "NAME", "take one"),
    DISK_OPT('a', "apply", OPT_TEXT, apply, "NAME", "the disk becomes what it was then"),
    DISK_OPT('d', "delete", OPT_TEXT, remove_name, "NAME", "forget one"),
    DISK_OPT('f', "format", OPT_TEXT, format, "FMT", "its format; default: found by looking"),
    DISK_OPT('U', "force-share", OPT_FLAG, share, NULL, "although a machine is writing to it"),
    {0},
};

const struct disk_verb disk_snapshot = {
    .name = "snapshot",
    .summary = "snapshots inside an image: list, create, apply, delete",
    .usage = "FILE",
    .about =
        "A snapshot inside a qcow2 image costs nothing when it is taken, and the space of what\n"
        "is written over later. The disk must not be in use. NAME may be a snapshot's number.\n",
    .examples = "  hull disk snapshot --create before-upgrade disk.qcow2\n"
                "  hull disk snapshot --list disk.qcow2\n"
                "  hull disk snapshot --apply before-upgrade disk.qcow2\n",
    .opts = opts,
    .files_min = 1,
    .files_max = 1,
    .run = snapshot_run,
};
