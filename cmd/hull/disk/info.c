/* SPDX-License-Identifier: MIT */
/* hull disk info: what an image says of itself, in qemu-img's words and JSON names. Each file of a
 * chain is opened alone, so a broken chain is shown as far as it goes. */
#include "disk.h"
#include "block/bitmap.h"
#include "block/format.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

struct node { /* one image of the chain, to be looked at next */
    char file[PATH_MAX], format[16];
};

static void add_text(json_t *j, const char *key, const char *value)
{
    json_t *text = json_string(value);

    /* Names are bytes to the file system: what is no UTF-8 is shown as far as it is. */
    json_object_set_new(j, key, text ? text : json_string("?"));
}

static void add_number(json_t *j, const char *key, uint64_t value)
{
    json_object_set_new(j, key, json_integer((json_int_t)value));
}

json_t *disk_snapshots_json(const struct block_snapshot *s, unsigned count)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < count; i++) {
        json_t *j = json_object();

        add_text(j, "id", s[i].id);
        add_text(j, "name", s[i].name);
        add_number(j, "vm-state-size", s[i].vm_state_size);
        add_number(j, "date-sec", s[i].date_s);
        add_number(j, "date-nsec", s[i].date_ns);
        add_number(j, "vm-clock-sec", s[i].vm_clock_ns / 1000000000);
        add_number(j, "vm-clock-nsec", s[i].vm_clock_ns % 1000000000);
        if (s[i].icount != UINT64_MAX)
            add_number(j, "icount", s[i].icount);
        json_array_append_new(list, j);
    }
    return list;
}

/* "in-use": not closed properly; "auto": it records. NULL: no such flag. */
static const char *bitmap_flag(const struct block_bitmap *m, unsigned n)
{
    const char *flags[3] = {NULL};
    unsigned count = 0;

    if (m->inconsistent)
        flags[count++] = "in-use";
    if (m->recording)
        flags[count++] = "auto";
    return flags[n];
}

static json_t *bitmaps_json(const struct block *b)
{
    json_t *list = json_array();

    list_for(at, &b->bitmaps)
    {
        const struct block_bitmap *m = container_of(at, struct block_bitmap, link);
        json_t *j = json_object(), *flags = json_array();
        const char *flag;

        for (unsigned i = 0; (flag = bitmap_flag(m, i)) != NULL; i++)
            json_array_append_new(flags, json_string(flag));
        json_object_set_new(j, "flags", flags);
        add_text(j, "name", m->name);
        add_number(j, "granularity", m->granularity);
        json_array_append_new(list, j);
    }
    return list;
}

static json_t *qcow2_json(const struct block *b, const struct block_info *i)
{
    json_t *data = json_object(), *specific = json_object();

    add_text(data, "compat", i->version == 2 ? "0.10" : "1.1");
    add_text(data, "compression-type", i->zstd ? "zstd" : "zlib");
    if (i->version > 2) {
        json_object_set_new(data, "lazy-refcounts", json_boolean(i->lazy_refcounts));
        json_object_set_new(data, "corrupt", json_boolean(i->corrupt));
        json_object_set_new(data, "extended-l2", json_boolean(i->extended_l2));
    }
    if (!list_empty(&b->bitmaps))
        json_object_set_new(data, "bitmaps", bitmaps_json(b));
    add_number(data, "refcount-bits", i->refcount_bits);
    if (i->data_file) {
        add_text(data, "data-file", i->data_file);
        json_object_set_new(data, "data-file-raw", json_boolean(i->data_file_raw));
    }
    add_text(specific, "type", "qcow2");
    json_object_set_new(specific, "data", data);
    return specific;
}

static json_t *image_json(const struct block *b, const struct block_info *i, const char *full,
                          const struct block_snapshot *s, unsigned count)
{
    json_t *j = json_object();

    add_text(j, "filename", i->file);
    add_text(j, "format", i->format);
    add_number(j, "virtual-size", i->virtual_size);
    add_number(j, "actual-size", i->disk_size);
    json_object_set_new(j, "dirty-flag", json_boolean(i->dirty));
    if (i->cluster_size)
        add_number(j, "cluster-size", i->cluster_size);
    if (i->encrypted)
        json_object_set_new(j, "encrypted", json_true());
    if (i->backing) {
        add_text(j, "backing-filename", i->backing);
        add_text(j, "full-backing-filename", full);
        if (i->backing_format)
            add_text(j, "backing-filename-format", i->backing_format);
    }
    if (count)
        json_object_set_new(j, "snapshots", disk_snapshots_json(s, count));
    if (i->version)
        json_object_set_new(j, "format-specific", qcow2_json(b, i));
    return j;
}

/* ---- for people ---- */

void disk_print_snapshots(const struct block_snapshot *s, unsigned count)
{
    printf("Snapshot list:\n%-10s%-17s%8s%20s%13s%11s\n", "ID", "TAG", "VM SIZE", "DATE",
           "VM CLOCK", "ICOUNT");
    for (unsigned i = 0; i < count; i++) {
        time_t date = (time_t)s[i].date_s;
        uint64_t ms = s[i].vm_clock_ns / 1000000;
        char when[64] = "", clock[64], size[32], icount[32] = "";
        struct tm tm;

        if (localtime_r(&date, &tm))
            strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", &tm);
        snprintf(clock, sizeof clock, "%02llu:%02llu:%02llu.%03llu",
                 (unsigned long long)(ms / 3600000), (unsigned long long)(ms / 60000 % 60),
                 (unsigned long long)(ms / 1000 % 60), (unsigned long long)(ms % 1000));
        if (s[i].icount != UINT64_MAX)
            snprintf(icount, sizeof icount, "%llu", (unsigned long long)s[i].icount);
        printf("%-9s %-16s %8s%20s%13s%11s\n", s[i].id, s[i].name,
               disk_size_text(s[i].vm_state_size, size), when, clock, icount);
    }
}

static const char *yes(bool b)
{
    return b ? "true" : "false";
}

static void print_bitmaps(const struct block *b)
{
    unsigned n = 0;

    printf("    bitmaps:\n");
    list_for(at, &b->bitmaps)
    {
        const struct block_bitmap *m = container_of(at, struct block_bitmap, link);
        const char *flag;

        printf("        [%u]:\n            flags:\n", n++);
        for (unsigned i = 0; (flag = bitmap_flag(m, i)) != NULL; i++)
            printf("                [%u]: %s\n", i, flag);
        printf("            name: %s\n            granularity: %u\n", m->name, m->granularity);
    }
}

static void print_qcow2(const struct block *b, const struct block_info *i)
{
    printf("Format specific information:\n    compat: %s\n    compression type: %s\n",
           i->version == 2 ? "0.10" : "1.1", i->zstd ? "zstd" : "zlib");
    if (i->version > 2)
        printf("    lazy refcounts: %s\n", yes(i->lazy_refcounts));
    if (!list_empty(&b->bitmaps))
        print_bitmaps(b);
    printf("    refcount bits: %u\n", i->refcount_bits);
    if (i->data_file)
        printf("    data file: %s\n    data file raw: %s\n", i->data_file, yes(i->data_file_raw));
    if (i->version > 2)
        printf("    corrupt: %s\n    extended l2: %s\n", yes(i->corrupt), yes(i->extended_l2));
}

static void print_image(const struct block *b, const struct block_info *i, const char *full,
                        const struct block_snapshot *s, unsigned count)
{
    char size[32], used[32];

    printf("image: %s\nfile format: %s\nvirtual size: %s (%llu bytes)\ndisk size: %s\n", i->file,
           i->format, disk_size_text(i->virtual_size, size), (unsigned long long)i->virtual_size,
           disk_size_text(i->disk_size, used));
    if (i->encrypted)
        printf("encrypted: yes\n");
    if (i->cluster_size)
        printf("cluster_size: %u\n", i->cluster_size);
    if (i->dirty)
        printf("cleanly shut down: no\n");
    if (i->backing && !strcmp(i->backing, full))
        printf("backing file: %s\n", i->backing);
    else if (i->backing)
        printf("backing file: %s (actual path: %s)\n", i->backing, full);
    if (i->backing && i->backing_format)
        printf("backing file format: %s\n", i->backing_format);
    if (count)
        disk_print_snapshots(s, count);
    if (i->version)
        print_qcow2(b, i);
}

/* ---- the chain ---- */

/* Shows `n`; what lies below it goes to *n, whose file is "" at the end. */
static bool show_image(struct disk_args *a, struct node *n, json_t *list, struct err *err)
{
    struct block_config alone = {.alone = true};
    struct block *b = disk_open(a, n->file, n->format, true, &alone, err);
    struct block_snapshot *snapshots = NULL;
    struct block_info info;
    unsigned count = 0;
    char full[PATH_MAX] = "", format[16];

    if (!b)
        return false;
    block_info(b, &info);
    if (info.backing && !block_relative(full, sizeof full, info.file, info.backing))
        snprintf(full, sizeof full, "%s", info.backing);
    snprintf(format, sizeof format, "%s", info.backing_format ? info.backing_format : "");
    if (info.snapshot_count && !block_snapshot_list(b, &snapshots, &count, err)) {
        block_close(b);
        return false;
    }
    if (list)
        json_array_append_new(list, image_json(b, &info, full, snapshots, count));
    else
        print_image(b, &info, full, snapshots, count);
    free(snapshots);
    block_close(b);
    snprintf(n->file, sizeof n->file, "%s", full);
    snprintf(n->format, sizeof n->format, "%s", format);
    return true;
}

struct seen {
    dev_t dev;
    ino_t ino;
};

static bool seen_before(struct seen **all, unsigned count, const char *file)
{
    struct stat st;
    struct seen *more;

    if (stat(file, &st))
        return false; /* opening it says why */
    for (unsigned i = 0; i < count; i++)
        if ((*all)[i].dev == st.st_dev && (*all)[i].ino == st.st_ino)
            return true;
    more = realloc(*all, (count + 1) * sizeof *more);
    if (!more)
        return true;
    more[count] = (struct seen){st.st_dev, st.st_ino};
    *all = more;
    return false;
}

static int info_run(struct disk_args *a)
{
    json_t *list = a->json ? json_array() : NULL;
    struct seen *seen = NULL;
    struct node n;
    struct err err;
    bool good = true;

    snprintf(n.file, sizeof n.file, "%s", a->file[0]);
    snprintf(n.format, sizeof n.format, "%s", a->format ? a->format : "");
    for (unsigned i = 0; good && n.file[0] && (i == 0 || a->chain); i++) {
        if (i && !list)
            printf("\n");
        if (seen_before(&seen, i, n.file))
            good = err_set(&err, ELOOP, "%s: its chain of files meets itself at %.100s", a->file[0],
                           n.file);
        else
            good = show_image(a, &n, list, &err);
    }
    free(seen);
    if (good && list)
        disk_print_json(a->chain ? json_incref(list) : json_incref(json_array_get(list, 0)));
    json_decref(list);
    return good ? EXIT_DONE : disk_failed(&err);
}

static const struct disk_opt opts[] = {
    DISK_OPT('f', "format", OPT_TEXT, format, "FMT", "its format; default: found by looking"),
    DISK_OPT(0, "backing-chain", OPT_FLAG, chain, NULL, "the files below it too"),
    DISK_OPT('U', "force-share", OPT_FLAG, share, NULL, "although a machine is writing to it"),
    {0},
};

const struct disk_verb disk_info = {
    .name = "info",
    .summary = "what an image is: format, size, backing file, snapshots",
    .usage = "FILE",
    .about = "Shows what an image says of itself, and how much space it takes.\n",
    .examples = "  hull disk info disk.qcow2\n"
                "  hull disk info --backing-chain --json overlay.qcow2\n",
    .opts = opts,
    .files_min = 1,
    .files_max = 1,
    .run = info_run,
};
