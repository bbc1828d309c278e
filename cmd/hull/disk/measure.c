/* SPDX-License-Identifier: MIT */
/* hull disk measure: how large a file will an image need? */
#include "block/bitmap.h"
#include "disk.h"
#include <errno.h>
#include <stdio.h>

struct sizes {
    uint64_t required, full, bitmaps;
    bool has_bitmaps;
};

static uint64_t divide_up(uint64_t a, uint64_t b)
{
    return a / b + (a % b != 0);
}

/* Refcount blocks and their table for so many clusters and for themselves. */
static uint64_t refcount_clusters(uint64_t clusters, uint64_t cluster, unsigned bits)
{
    uint64_t blocks = 0, table = 0, before;

    do {
        before = blocks + table;
        blocks = divide_up(clusters + table + blocks, cluster * 8 / bits);
        table = divide_up(blocks, cluster / 8);
    } while (blocks + table != before);
    return blocks + table;
}

/* Bytes of all tables of a qcow2 image whose every cluster is there. */
static uint64_t qcow2_tables(uint64_t size, uint64_t cluster, unsigned bits, bool extended)
{
    uint64_t data = divide_up(size, cluster);
    uint64_t l2 = divide_up(data, cluster / (extended ? 16 : 8));
    uint64_t l1 = divide_up(l2, cluster / 8);
    uint64_t all = 1 + l2 + l1;

    return (all + refcount_clusters(all + data, cluster, bits)) * cluster;
}

/* Bytes of the clusters that have data in the source. */
static bool count_data(struct block *b, uint64_t cluster, uint64_t *bytes, struct err *err)
{
    uint64_t counted = 0; /* clusters below are done */

    *bytes = 0;
    for (uint64_t at = 0; at < b->size;) {
        struct block_extent e;
        uint64_t first, end;

        if (!block_map(b, at, b->size - at, &e, err))
            return false;
        if (!e.zero && e.data) {
            first = max_u64(at / cluster, counted);
            end = divide_up(at + e.length, cluster);
            *bytes += end > first ? (end - first) * cluster : 0;
            counted = max_u64(counted, end);
        }
        at += e.length;
    }
    return true;
}

/* Bytes of all bitmaps of `b` with every cluster of theirs in use, their tables, and the directory.
 */
static uint64_t bitmap_bytes(const struct block *b, uint64_t cluster)
{
    uint64_t bytes = 0, directory = 0;

    list_for(at, &b->bitmaps)
    {
        const struct block_bitmap *m = container_of(at, struct block_bitmap, link);
        uint64_t bits = divide_up(b->size, m->granularity);
        uint64_t clusters = divide_up(divide_up(bits, 8), cluster);

        if (!m->persistent || m->inconsistent)
            continue;
        bytes += clusters * cluster + align_up(clusters * 8, cluster);
        directory += align_up(24 + strlen(m->name), 8);
    }
    return bytes + align_up(directory, cluster);
}

static bool measure_qcow2(const struct block_create *c, struct block *from, uint64_t size,
                          struct sizes *s, struct err *err)
{
    uint64_t cluster = c->cluster_size ? c->cluster_size : 65536, data = 0, whole;
    unsigned bits = c->refcount_bits ? c->refcount_bits : 16;

    if (!is_power_of_2(cluster) || cluster < 512 || cluster > 2 << 20 || !is_power_of_2(bits) ||
        bits > 64)
        return err_set(err, EINVAL,
                       "cluster_size is a power of two from 512 to 2M, refcount_bits "
                       "one from 1 to 64");
    if (size > INT64_MAX - 2 * MiB)
        return err_set(err, EFBIG, "the size is too large");
    whole = align_up(size, cluster);
    s->required = s->full = qcow2_tables(size, cluster, bits, c->extended_l2);
    s->full += c->data_file ? 0 : whole;
    if (c->backing)
        data = whole;
    else if (from && !count_data(from, cluster, &data, err))
        return false;
    if (c->preallocation == PREALLOC_FALLOC || c->preallocation == PREALLOC_FULL)
        data = whole;
    s->required += c->data_file ? 0 : data;
    if (from && c->version != 2) {
        struct block_info info;

        block_info(from, &info);
        s->has_bitmaps = info.version >= 3;
        s->bitmaps = bitmap_bytes(from, cluster);
    }
    return true;
}

static int print_sizes(const struct disk_args *a, const struct sizes *s)
{
    if (a->json) {
        json_t *j = json_object();

        json_object_set_new(j, "required", json_integer((json_int_t)s->required));
        json_object_set_new(j, "fully-allocated", json_integer((json_int_t)s->full));
        if (s->has_bitmaps)
            json_object_set_new(j, "bitmaps", json_integer((json_int_t)s->bitmaps));
        disk_print_json(j);
        return EXIT_DONE;
    }
    printf("required size: %llu\nfully allocated size: %llu\n", (unsigned long long)s->required,
           (unsigned long long)s->full);
    if (s->has_bitmaps)
        printf("bitmaps size: %llu\n", (unsigned long long)s->bitmaps);
    return EXIT_DONE;
}

static int measure_run(struct disk_args *a)
{
    struct block_create c = {.format = a->out_format ? a->out_format : "raw"};
    struct block_config how = {0};
    struct block *from = NULL;
    struct sizes s = {0};
    struct err err;
    uint64_t size;
    bool helped, good;

    if (!disk_create_options(a, &c, &helped, &err))
        return disk_usage(a, &err);
    if (helped)
        return EXIT_DONE;
    if ((a->files == 0) == (a->size == 0)) {
        err_set(&err, EINVAL, "expected either FILE or --size SIZE");
        return disk_usage(a, &err);
    }
    if (a->snapshot)
        snprintf(how.snapshot, sizeof how.snapshot, "%s", disk_snapshot_name(a->snapshot));
    if (a->files && !(from = disk_open(a, a->file[0], a->format, true, &how, &err)))
        return disk_failed(&err);
    size = from ? from->size : align_up(a->size, 512);
    s.required = s.full = size;
    good = !strcmp(c.format, "raw") || measure_qcow2(&c, from, size, &s, &err);
    block_close(from);
    return good ? print_sizes(a, &s) : disk_failed(&err);
}

static const struct disk_opt opts[] = {
    DISK_OPT('O', "format", OPT_TEXT, out_format, "FMT", "of the image to be: raw or qcow2"),
    DISK_OPT('f', "from", OPT_TEXT, format, "FMT", "of FILE; default: found by looking"),
    DISK_OPT(0, "size", OPT_SIZE, size, "SIZE", "of an empty disk, instead of FILE"),
    DISK_OPT('o', "options", OPT_LIST, options, "K=V,...", "how it will be made; -o help lists"),
    DISK_OPT('l', "snapshot", OPT_TEXT, snapshot, "NAME",
             "the disk as that internal snapshot has it"),
    DISK_OPT('U', "force-share", OPT_FLAG, share, NULL, "although a machine is writing to it"),
    {0},
};

const struct disk_verb disk_measure = {
    .name = "measure",
    .summary = "how large a file will an image need?",
    .usage = "FILE",
    .about =
        "Tells how many bytes a new image needs to hold FILE's disk, and how many if all of it "
        "is\nwritten.\n",
    .examples = "  hull disk measure --format qcow2 disk.raw\n"
                "  hull disk measure --format qcow2 --size 20G\n",
    .opts = opts,
    .files_min = 0,
    .files_max = 1,
    .run = measure_run,
};
