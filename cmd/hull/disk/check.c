/* SPDX-License-Identifier: MIT */
/* hull disk check: is an image's metadata whole? Mends it on request. */
#include "disk.h"
#include <errno.h>
#include <stdio.h>

/* qemu-img's exit statuses, which scripts know. */
enum { CHECK_FAILED = 1, CHECK_CORRUPT = 2, CHECK_LEAKS = 3, CHECK_NOT_SUPPORTED = 63 };

struct checking {
    struct block_check check;
    struct disk_args *a;
};

static void on_finding(struct block_check *c, const char *text)
{
    struct checking *k = container_of(c, struct checking, check);

    if (!k->a->json && !k->a->quiet)
        printf("%s\n", text);
}

static void on_progress(struct block_check *c, uint64_t done, uint64_t all)
{
    struct checking *k = container_of(c, struct checking, check);

    disk_progress(k->a, k->a->file[0], done, all);
}

static void add(json_t *j, const char *key, uint64_t value)
{
    json_object_set_new(j, key, json_integer((json_int_t)value));
}

static void print_json(const struct disk_args *a, const struct block_check *c, const char *format)
{
    json_t *j = json_object();
    const struct {
        const char *key;
        uint64_t value;
    } some[] = {
        {"image-end-offset", c->image_end},
        {"total-clusters", c->total_clusters},
        {"allocated-clusters", c->allocated},
        {"fragmented-clusters", c->fragmented},
        {"compressed-clusters", c->compressed},
        {"corruptions", c->corruptions},
        {"leaks", c->leaks},
        {"corruptions-fixed", c->corruptions_fixed},
        {"leaks-fixed", c->leaks_fixed},
    };

    json_object_set_new(j, "filename", json_string(a->file[0]));
    json_object_set_new(j, "format", json_string(format));
    add(j, "check-errors", c->errors);
    for (unsigned i = 0; i < ARRAY_SIZE(some); i++)
        if (some[i].value)
            add(j, some[i].key, some[i].value);
    disk_print_json(j);
}

static void print_words(const struct block_check *c)
{
    if (c->leaks_fixed || c->corruptions_fixed)
        printf("Repaired: %llu leaked clusters, %llu errors.\n", (unsigned long long)c->leaks_fixed,
               (unsigned long long)c->corruptions_fixed);
    if (!c->corruptions && !c->leaks && !c->errors)
        printf("No errors were found on the image.\n");
    if (c->corruptions)
        printf("%llu errors were found on the image.\nData may be corrupted, and writing to it may "
               "make it worse: hull disk check --repair all mends what can be mended.\n",
               (unsigned long long)c->corruptions);
    if (c->leaks)
        printf("%llu leaked clusters were found on the image.\nThey waste space and do no harm: "
               "hull disk check --repair leaks gives it back.\n",
               (unsigned long long)c->leaks);
    if (c->total_clusters && c->allocated)
        printf("%llu/%llu = %.2f%% allocated, %.2f%% fragmented, %.2f%% compressed clusters\n",
               (unsigned long long)c->allocated, (unsigned long long)c->total_clusters,
               100.0 * (double)c->allocated / (double)c->total_clusters,
               100.0 * (double)c->fragmented / (double)c->allocated,
               100.0 * (double)c->compressed / (double)c->allocated);
    if (c->image_end)
        printf("Image end offset: %llu\n", (unsigned long long)c->image_end);
}

static bool repair_parse(const char *word, unsigned *fix, struct err *err)
{
    if (!word)
        return true;
    if (!strcmp(word, "leaks"))
        *fix = BLOCK_FIX_LEAKS;
    else if (!strcmp(word, "all"))
        *fix = BLOCK_FIX_LEAKS | BLOCK_FIX_ERRORS;
    else
        return err_set(err, EINVAL, "--repair %.40s: leaks or all", word);
    return true;
}

static int check_run(struct disk_args *a)
{
    struct checking k = {.a = a, .check = {.say = on_finding, .progress = on_progress}};
    struct block_config how = {.alone = true, .discard = true};
    const char *format;
    unsigned fix = 0;
    struct block *b;
    struct err err;
    bool good;

    if (!repair_parse(a->repair, &fix, &err))
        return disk_usage(a, &err);
    how.repairing = fix != 0;
    b = disk_open(a, a->file[0], a->format, fix == 0, &how, &err);
    if (!b)
        return disk_failed(&err);
    format = b->ops->name;
    good = block_check(b, fix, &k.check, &err);
    block_close(b);
    disk_progress_end(a, a->file[0], good);
    if (!good) {
        disk_failed(&err);
        return err.code == ENOTSUP ? CHECK_NOT_SUPPORTED : CHECK_FAILED;
    }
    if (a->json)
        print_json(a, &k.check, format);
    else if (!a->quiet)
        print_words(&k.check);
    return k.check.corruptions ? CHECK_CORRUPT
           : k.check.errors    ? CHECK_FAILED
           : k.check.leaks     ? CHECK_LEAKS
                               : EXIT_DONE;
}

static const struct disk_opt opts[] = {
    DISK_OPT('f', "format", OPT_TEXT, format, "FMT", "its format; default: found by looking"),
    DISK_OPT('r', "repair", OPT_TEXT, repair, "leaks|all",
             "give back what is lost; or mend everything"),
    DISK_OPT('U', "force-share", OPT_FLAG, share, NULL, "although a machine is writing to it"),
    DISK_OPT('p', NULL, OPT_FLAG, show_progress, NULL, "progress as qemu-img prints it"),
    DISK_OPT(0, "progress", OPT_TEXT, progress_as, "json|none", "progress for programs"),
    DISK_OPT('T', NULL, OPT_SKIP_VALUE, quiet, "CACHE", NULL),
    {0},
};

const struct disk_verb disk_check = {
    .name = "check",
    .summary = "look for damage in an image, and mend it",
    .usage = "FILE",
    .about =
        "Counts what a qcow2 image's tables refer to and compares with its refcounts. Exit "
        "status:\n"
        "0 whole, 1 could not be checked, 2 damaged, 3 only leaks (lost space), 63 the format has\n"
        "nothing to check.\n",
    .examples = "  hull disk check disk.qcow2\n"
                "  hull disk check --repair leaks disk.qcow2\n",
    .opts = opts,
    .files_min = 1,
    .files_max = 1,
    .usage_status = CHECK_FAILED,
    .run = check_run,
};
