/* SPDX-License-Identifier: MIT */
/* hull disk compare: do two images hold the same disk? */
#include "disk.h"
#include "block/bulk.h"
#include <errno.h>
#include <stdio.h>

/* qemu-img's exit statuses, which scripts know. */
enum { COMPARE_DIFFERS = 1, COMPARE_NOT_OPENED = 2, COMPARE_FAILED = 4 };

struct comparing {
    struct block_compare compare;
    struct disk_args *a;
};

static void on_progress(struct block_compare *c, uint64_t done, uint64_t all)
{
    struct comparing *k = container_of(c, struct comparing, compare);

    disk_progress(k->a, "comparing", done, all);
}

static int answer(struct disk_args *a, const struct block_compare *c, bool sizes_differ)
{
    if (a->strict && sizes_differ) {
        if (!a->quiet)
            printf("Strict mode: Image size mismatch!\n");
        return COMPARE_DIFFERS;
    }
    if (!a->quiet) {
        if (sizes_differ)
            fprintf(stderr, "Warning: Image size mismatch!\n");
        if (c->same)
            printf("Images are identical.\n");
        else if (c->status_differs)
            printf("Strict mode: Offset %llu block status mismatch!\n", (unsigned long long)c->at);
        else
            printf("Content mismatch at offset %llu!\n", (unsigned long long)c->at);
    }
    return c->same ? EXIT_DONE : COMPARE_DIFFERS;
}

static int compare_opened(struct disk_args *a, struct block *x, struct block *y)
{
    struct comparing k = {.a = a,
                          .compare = {.a = x,
                                      .b = y,
                                      .strict = a->strict,
                                      .workers = (unsigned)min_u64(a->workers, 16),
                                      .progress = on_progress,
                                      .stopped = disk_stopped}};
    bool sizes_differ = x->size != y->size;
    struct err err;

    if (a->strict && sizes_differ)
        return answer(a, &k.compare, true);
    if (!block_compare(&k.compare, &err)) {
        disk_progress_end(a, "comparing", false);
        if (disk_stopped())
            return disk_stopped_status();
        disk_failed(&err);
        return COMPARE_FAILED;
    }
    disk_progress_end(a, "comparing", true);
    return answer(a, &k.compare, sizes_differ);
}

static int compare_run(struct disk_args *a)
{
    struct block *x, *y;
    struct err err;
    int status;

    x = disk_open(a, a->file[0], a->format, true, NULL, &err);
    y = x ? disk_open(a, a->file[1], a->second_format, true, NULL, &err) : NULL;
    if (!y) {
        block_close(x);
        disk_failed(&err);
        return COMPARE_NOT_OPENED;
    }
    disk_catch_signals();
    status = compare_opened(a, x, y);
    block_close(y);
    block_close(x);
    return status;
}

static const struct disk_opt opts[] = {
    DISK_OPT('f', "format", OPT_TEXT, format, "FMT", "of the first; default: found by looking"),
    DISK_OPT('F', "second-format", OPT_TEXT, second_format, "FMT", "of the second"),
    DISK_OPT('s', "strict", OPT_FLAG, strict, NULL,
             "sizes, and what is allocated where, must be the same too"),
    DISK_OPT('U', "force-share", OPT_FLAG, share, NULL, "although a machine is writing to them"),
    DISK_OPT('m', "workers", OPT_NUMBER, workers, "N", "threads; default: by processors"),
    DISK_OPT('p', NULL, OPT_FLAG, show_progress, NULL, "progress as qemu-img prints it"),
    DISK_OPT(0, "progress", OPT_TEXT, progress_as, "json|none", "progress for programs"),
    DISK_OPT('T', NULL, OPT_SKIP_VALUE, quiet, "CACHE", NULL),
    {0},
};

const struct disk_verb disk_compare = {
    .name = "compare",
    .summary = "do two images hold the same disk?",
    .usage = "FILE1 FILE2",
    .about =
        "Compares what guests would read from two images, of whatever formats. A shorter disk is\n"
        "taken to go on with zeroes. Exit status: 0 the same, 1 different, 2 or more: could not "
        "be\ncompared.\n",
    .examples = "  hull disk compare disk.qcow2 copy.raw\n"
                "  hull disk compare --strict -f raw a.img -F raw b.img\n",
    .opts = opts,
    .files_min = 2,
    .files_max = 2,
    .usage_status = COMPARE_NOT_OPENED,
    .run = compare_run,
};
