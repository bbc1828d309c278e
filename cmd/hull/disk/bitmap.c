/* SPDX-License-Identifier: MIT */
/* hull disk bitmap: persistent dirty bitmaps of a qcow2 image. */
#include "block/bitmap.h"
#include "disk.h"
#include "field/field.h"
#include <errno.h>

static struct block_bitmap *find(struct block *b, const char *name, struct err *err)
{
    struct block_bitmap *m = block_bitmap_find(b, name);

    if (!m)
        err_set(err, ENOENT, "%s: Dirty bitmap '%.100s' not found", b->config.file, name);
    return m;
}

/* --merge NAME, from this image or another one. */
static bool merge(struct disk_args *a, struct block_bitmap *to, const char *name, struct err *err)
{
    struct block_config how = {.alone = true};
    struct block *other = NULL;
    struct block_bitmap *from;
    bool good;

    if (a->backing) {
        other = disk_open(a, a->backing, a->backing_format, true, &how, err);
        if (!other)
            return false;
    }
    from = find(other ? other : to->b, name, err);
    good = from && block_bitmap_merge(to, from, err);
    block_close(other);
    return good;
}

enum step { OTHER, ADD, CLEAR, ENABLE, DISABLE, MERGE, REMOVE };

static enum step step_of(const struct disk_given *g)
{
    switch (g->to) {
    case offsetof(struct disk_args, add): return ADD;
    case offsetof(struct disk_args, clear): return CLEAR;
    case offsetof(struct disk_args, enable): return ENABLE;
    case offsetof(struct disk_args, disable): return DISABLE;
    case offsetof(struct disk_args, merge): return MERGE;
    case offsetof(struct disk_args, remove): return REMOVE;
    default: return OTHER;
    }
}

static bool change(struct disk_args *a, struct block *b, const struct disk_given *g,
                   uint64_t granularity, struct err *err)
{
    enum step step = step_of(g);
    struct block_bitmap *m;

    if (step == OTHER)
        return true;
    if (step == ADD)
        return block_bitmap_add(b, a->file[1], (uint32_t)granularity, BITMAP_PERSISTENT, err);
    m = find(b, a->file[1], err);
    if (!m)
        return false;
    switch (step) {
    case CLEAR: return block_bitmap_clear(m, err);
    case ENABLE: return block_bitmap_enable(m, true, err);
    case DISABLE: return block_bitmap_enable(m, false, err);
    case MERGE: return merge(a, m, g->value, err);
    default: return block_bitmap_remove(m, err);
    }
}

static int bitmap_run(struct disk_args *a)
{
    struct block_config how = {.discard = true, .alone = true};
    uint64_t granularity = 0;
    struct err err = {0};
    struct block *b;
    bool good;

    if (!(a->add || a->remove || a->clear || a->enable || a->disable || a->merge))
        err_set(&err, EINVAL, "one of --add, --remove, --clear, --enable, --disable, --merge");
    else if (a->granularity && !a->add)
        err_set(&err, EINVAL, "--granularity goes with --add");
    else if (a->backing && !a->merge)
        err_set(&err, EINVAL, "--source-file goes with --merge");
    else if (a->granularity && size_parse(a->granularity, &granularity, &err) &&
             (granularity < 512 || granularity > BIT(31)))
        err_set(&err, EINVAL, "%.20s: a granularity is 512 bytes to 2 GiB", a->granularity);
    if (err.code)
        return disk_usage(a, &err);
    b = disk_open(a, a->file[0], a->format, false, &how, &err);
    if (!b)
        return disk_failed(&err);
    good = true;
    for (unsigned i = 0; i < a->given_count && good; i++)
        good = change(a, b, &a->given[i], granularity, &err);
    block_close(b);
    return good ? EXIT_DONE : disk_failed(&err);
}

static const struct disk_opt opts[] = {
    DISK_OPT(0, "add", OPT_FLAG, add, NULL, "make BITMAP; it records what is written from now on"),
    DISK_OPT('g', "granularity", OPT_TEXT, granularity, "SIZE",
             "with --add: what a bit stands for"),
    DISK_OPT(0, "clear", OPT_FLAG, clear, NULL, "nothing is marked any more"),
    DISK_OPT(0, "enable", OPT_FLAG, enable, NULL, "record from now on"),
    DISK_OPT(0, "disable", OPT_FLAG, disable, NULL, "stand still"),
    DISK_OPT(0, "merge", OPT_TEXT, merge, "NAME", "mark what that bitmap has marked"),
    DISK_OPT('b', "source-file", OPT_TEXT, backing, "FILE", "with --merge: where that one is"),
    DISK_OPT('F', "source-format", OPT_TEXT, backing_format, "FMT", "the format of that file"),
    DISK_OPT(0, "remove", OPT_FLAG, remove, NULL, "forget it; also one that is inconsistent"),
    DISK_OPT('f', "format", OPT_TEXT, format, "FMT", "of FILE; default: found by looking"),
    {0},
};

const struct disk_verb disk_bitmap = {
    .name = "bitmap",
    .summary = "dirty bitmaps of an image, for incremental backups",
    .usage = "FILE BITMAP",
    .no_json = true,
    .about =
        "A dirty bitmap says which parts of the disk were written since it was cleared. It is\n"
        "kept in the image (qcow2, version 3). Several options are done one after the\n"
        "other, as they are given.\n",
    .examples = "  hull disk bitmap --add disk.qcow2 monday\n"
                "  hull disk bitmap --merge monday disk.qcow2 week\n"
                "  hull disk bitmap --remove disk.qcow2 monday\n",
    .opts = opts,
    .files_min = 2,
    .files_max = 2,
    .run = bitmap_run,
};
