/* SPDX-License-Identifier: MIT */
/* hull disk rebase, commit: an image's place in its chain. Both leave the image as it was when they
 * are stopped. */
#include "block/rebase.h"
#include "disk.h"
#include <errno.h>
#include <stdio.h>

struct watch_walk {
    struct block_walk walk;
    const struct disk_args *a;
};

static bool go_on(struct block_walk *w, uint64_t done, uint64_t all)
{
    const struct disk_args *a = container_of(w, struct watch_walk, walk)->a;

    disk_progress(a, a->file[0], done, all);
    return !disk_stopped();
}

/* The end of a verb that may have been stopped. */
static int walk_ended(struct disk_args *a, bool good, const struct err *err)
{
    disk_progress_end(a, a->file[0], good);
    if (good)
        return EXIT_DONE;
    return disk_stopped() ? disk_stopped_status() : disk_failed(err);
}

static int rebase_run(struct disk_args *a)
{
    struct watch_walk w = {{go_on}, a};
    struct block_config how = {.discard = true, .alone = a->unsafe};
    bool none = a->backing && !*a->backing, good;
    struct block *b;
    struct err err = {0};

    if (!a->backing) {
        err_set(&err, EINVAL, "--backing names the new backing file; \"\" is none");
        return disk_usage(a, &err);
    }
    b = disk_open(a, a->file[0], a->format, false, &how, &err);
    if (!b)
        return disk_failed(&err);
    if (a->unsafe) {
        good =
            block_set_backing(b, none ? NULL : a->backing, none ? NULL : a->backing_format, &err);
        block_close(b);
        return good ? EXIT_DONE : disk_failed(&err);
    }
    disk_catch_signals();
    good = block_rebase(b, a->backing, a->backing_format, &w.walk, &err);
    block_close(b);
    return walk_ended(a, good, &err);
}

/* Alone, so that nothing below shows where nothing is left; not to be stopped any more. */
static bool empty(struct disk_args *a, struct err *err)
{
    struct block_config how = {.discard = true, .alone = true};
    struct block *b = disk_open(a, a->file[0], a->format, false, &how, err);
    bool good = b && block_make_empty(b, err);

    block_close(b);
    return good;
}

static int commit_run(struct disk_args *a)
{
    struct watch_walk w = {{go_on}, a};
    struct block_config how = {.discard = true};
    bool keep = a->keep || a->backing, good, left;
    struct err err = {0};
    struct block *b = disk_open(a, a->file[0], a->format, false, &how, &err);

    if (!b)
        return disk_failed(&err);
    disk_catch_signals();
    good = block_commit(b, a->backing, &w.walk, &err);
    block_close(b);
    left = good && !keep && disk_stopped(); /* a signal after the last piece */
    if (good && !keep && !left)
        good = empty(a, &err);
    if (good && !a->quiet && !a->progress_as && !left)
        printf("Image committed.\n");
    if (good && disk_stopped()) {
        disk_progress_end(a, a->file[0], true);
        fprintf(stderr, "hull: %s: all was committed before it could stop%s\n", a->file[0],
                left ? ", but FILE was not emptied" : "");
        return disk_stopped_status();
    }
    return walk_ended(a, good, &err);
}

static const struct disk_opt rebase_opts[] = {
    DISK_OPT('b', "backing", OPT_TEXT, backing, "FILE",
             "the new backing file, seen from the image's folder; \"\": none"),
    DISK_OPT('F', "backing-format", OPT_TEXT, backing_format, "FMT", "its format"),
    DISK_OPT('u', "unsafe", OPT_FLAG, unsafe, NULL,
             "change the name only: the same disk under another name"),
    DISK_OPT('f', "format", OPT_TEXT, format, "FMT", "of FILE; default: found by looking"),
    DISK_OPT('p', NULL, OPT_FLAG, show_progress, NULL, "progress as qemu-img prints it"),
    DISK_OPT(0, "progress", OPT_TEXT, progress_as, "json|none", "progress for programs"),
    DISK_OPT('t', NULL, OPT_SKIP_VALUE, quiet, "CACHE", NULL),
    DISK_OPT('T', NULL, OPT_SKIP_VALUE, quiet, "CACHE", NULL),
    {0},
};

const struct disk_verb disk_rebase = {
    .name = "rebase",
    .summary = "put an image over another backing file, or none",
    .usage = "--backing FILE FILE",
    .no_json = true,
    .about = "The image holds the same afterwards: what the new backing file has otherwise is\n"
             "copied into it first. With --backing \"\" it needs no other file any more. Stopped\n"
             "half-way, it stands on the old backing file as before.\n",
    .examples = "  hull disk rebase -b other.qcow2 -F qcow2 disk.qcow2\n"
                "  hull disk rebase --backing \"\" disk.qcow2\n"
                "  hull disk rebase --unsafe -b ../moved/base.qcow2 -F qcow2 disk.qcow2\n",
    .opts = rebase_opts,
    .files_min = 1,
    .files_max = 1,
    .run = rebase_run,
};

static const struct disk_opt commit_opts[] = {
    DISK_OPT('b', "base", OPT_TEXT, backing, "FILE",
             "a file further down the chain; implies --keep"),
    DISK_OPT('d', "keep", OPT_FLAG, keep, NULL, "do not empty FILE afterwards"),
    DISK_OPT('f', "format", OPT_TEXT, format, "FMT", "of FILE; default: found by looking"),
    DISK_OPT('p', NULL, OPT_FLAG, show_progress, NULL, "progress as qemu-img prints it"),
    DISK_OPT(0, "progress", OPT_TEXT, progress_as, "json|none", "progress for programs"),
    DISK_OPT('t', NULL, OPT_SKIP_VALUE, quiet, "CACHE", NULL),
    DISK_OPT('r', NULL, OPT_SKIP_VALUE, quiet, "RATE", NULL),
    {0},
};

const struct disk_verb disk_commit = {
    .name = "commit",
    .summary = "write what an overlay has into its backing file",
    .usage = "FILE",
    .no_json = true,
    .about =
        "Afterwards the backing file holds what FILE held, and FILE is empty. With --base all\n"
        "images above that one go into it; those between are of no use any more.\n",
    .examples = "  hull disk commit overlay.qcow2\n"
                "  hull disk commit --base base.qcow2 top.qcow2\n",
    .opts = commit_opts,
    .files_min = 1,
    .files_max = 1,
    .run = commit_run,
};
