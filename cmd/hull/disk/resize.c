/* SPDX-License-Identifier: MIT */
/* hull disk resize: a larger or a smaller disk. */
#include "disk.h"
#include "field/field.h"
#include <errno.h>
#include <stdio.h>

/* "20G", "+5G", "-5G": what the disk's size is to be. */
static bool new_size(const char *text, uint64_t old, uint64_t *size, struct err *err)
{
    uint64_t n;

    if (!size_parse(text + (*text == '+' || *text == '-'), &n, err))
        return false;
    if (*text == '-' && n >= old)
        return err_set(err, EINVAL, "%.40s: the disk has %llu bytes only", text,
                       (unsigned long long)old);
    if (n > INT64_MAX - old - 511)
        return err_set(err, EFBIG, "%.40s: too large", text);
    n = *text == '+' ? old + n : *text == '-' ? old - n : n;
    *size = align_up(n, 512);
    return *size || err_set(err, EINVAL, "%.40s: a disk has at least one sector", text);
}

static int resize_opened(struct disk_args *a, struct block *b, enum block_prealloc prealloc)
{
    uint64_t size = 0, old = b->size;
    char text[32];
    struct err err;

    if (!new_size(a->file[1], old, &size, &err))
        return disk_usage(a, &err);
    if (size < old && !a->shrink) {
        err_set(&err, EINVAL, "%s: %llu bytes at its end would be lost: --shrink if that is meant",
                a->file[0], (unsigned long long)(old - size));
        return disk_failed(&err);
    }
    if (size != old && !block_resize(b, size, prealloc, &err))
        return disk_failed(&err);
    if (!a->quiet)
        printf("%s: %s (%llu bytes)\n", a->file[0], disk_size_text(size, text),
               (unsigned long long)size);
    return EXIT_DONE;
}

static int resize_run(struct disk_args *a)
{
    enum block_prealloc prealloc = PREALLOC_OFF;
    struct block_config how = {.discard = true};
    struct block *b;
    struct err err;
    int status;

    if (a->preallocation && !disk_prealloc_parse(a->preallocation, &prealloc, &err))
        return disk_usage(a, &err);
    b = disk_open(a, a->file[0], a->format, false, &how, &err);
    if (!b)
        return disk_failed(&err);
    status = resize_opened(a, b, prealloc);
    block_close(b);
    return status;
}

static const struct disk_opt opts[] = {
    DISK_OPT('f', "format", OPT_TEXT, format, "FMT", "its format; default: found by looking"),
    DISK_OPT(0, "shrink", OPT_FLAG, shrink, NULL, "may become smaller: what is cut off is lost"),
    DISK_OPT(0, "preallocation", OPT_TEXT, preallocation, "MODE",
             "of what is added: off, metadata, falloc or full"),
    {0},
};

const struct disk_verb disk_resize = {
    .name = "resize",
    .summary = "make a disk larger, or smaller",
    .usage = "FILE [+|-]SIZE",
    .no_json = true,
    .about =
        "Sets the size of the disk, or changes it by SIZE. The guest's partitions and file "
        "systems\nare not touched: grow those in the guest afterwards, and shrink them before.\n",
    .examples = "  hull disk resize disk.qcow2 +10G\n"
                "  hull disk resize --shrink disk.qcow2 20G\n",
    .opts = opts,
    .files_min = 2,
    .files_max = 2,
    .run = resize_run,
};
