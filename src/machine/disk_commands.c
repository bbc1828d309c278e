/* SPDX-License-Identifier: MIT */
/* The QMP commands that show disks and change how a disk behaves: size, limits. */
#include "machine/disks.h"
#include "machine/qmp.h"
#include "machine/qmp_args.h"
#include <errno.h>
#include <sys/stat.h>

static void add_limits(json_t *info, const struct throttle_config *c)
{
    char name[32];

    for (unsigned i = 0; i < THROTTLE_LIMITS; i++) {
        json_object_set_new(info, throttle_names[i], json_integer((json_int_t)c->avg[i]));
        if (!c->max[i])
            continue;
        snprintf(name, sizeof name, "%s_max", throttle_names[i]);
        json_object_set_new(info, name, json_integer((json_int_t)c->max[i]));
        snprintf(name, sizeof name, "%s_max_length", throttle_names[i]);
        json_object_set_new(
            info, name,
            json_integer(c->burst_length[i] ? (json_int_t)c->burst_length[i] : (json_int_t)1));
    }
    if (c->iops_size)
        json_object_set_new(info, "iops_size", json_integer((json_int_t)c->iops_size));
}

static json_t *describe_image(const struct block *b)
{
    struct stat st;
    json_t *image, *backing;

    if (stat(b->config.file, &st))
        st.st_blocks = 0;
    image = json_pack("{s:s, s:s, s:I, s:I}", "filename", b->config.file, "format", b->ops->name,
                      "virtual-size", (json_int_t)b->size, "actual-size",
                      (json_int_t)st.st_blocks * 512);
    if (b->cluster_size)
        json_object_set_new(image, "cluster-size", json_integer(b->cluster_size));
    if (b->backing) {
        backing = describe_image(b->backing);
        json_object_set_new(image, "backing-filename", json_string(b->backing->config.file));
        json_object_set_new(image, "full-backing-filename", json_string(b->backing->config.file));
        json_object_set_new(image, "backing-filename-format", json_string(b->backing->ops->name));
        json_object_set_new(image, "backing-image", backing);
    }
    return image;
}

/* QEMU's BlockDeviceInfo. */
json_t *qmp_describe_node(const struct block *b, const struct drive *d)
{
    static const struct throttle_config none;
    json_int_t depth = 0;
    json_t *info;

    for (const struct block *under = b->backing; under; under = under->backing)
        depth++;
    info = json_pack("{s:s, s:s, s:b, s:b, s:s, s:I, s:s, s:i}", "file", b->config.file, "drv",
                     b->ops->name, "ro", b->readonly, "encrypted", 0, "node-name", b->name,
                     "backing_file_depth", depth, "detect_zeroes", "off", "write_threshold", 0);
    if (b->backing)
        json_object_set_new(info, "backing_file", json_string(b->backing->config.file));
    add_limits(info, d ? &d->throttle.config : &none);
    json_object_set_new(
        info, "cache",
        json_pack("{s:b, s:b, s:b}", "writeback", b->config.cache != CACHE_WRITETHROUGH, "direct",
                  b->config.cache == CACHE_NONE, "no-flush", b->config.cache == CACHE_UNSAFE));
    json_object_set_new(info, "image", describe_image(b));
    return info;
}

static const char *io_status(const struct drive *d)
{
    return !d->io_error ? "ok" : d->io_error == -ENOSPC ? "nospace" : "failed";
}

static json_t *query_block(struct machine *m, json_t *args, struct err *err)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < m->config.disk_count; i++) {
        const struct drive *d = m->drive[i];

        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:b, s:b, s:s, s:o}", "device",
                                              d->id, "qdev", d->id, "type", "unknown", "removable",
                                              0, "locked", 0, "io-status", io_status(d), "inserted",
                                              qmp_describe_node(d->block.under, d)));
    }
    return list;
}

static json_t *query_blockstats(struct machine *m, json_t *args, struct err *err)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < m->config.disk_count; i++) {
        const struct block *b = m->disk[i];

        json_array_append_new(list, json_pack("{s:s, s:s, s:{s:I, s:I, s:I, s:I, s:I}}", "device",
                                              m->drive[i]->id, "node-name", b->under->name, "stats",
                                              "rd_operations", (json_int_t)b->reads,
                                              "wr_operations", (json_int_t)b->writes, "rd_bytes",
                                              (json_int_t)b->bytes_read, "wr_bytes",
                                              (json_int_t)b->bytes_written, "flush_operations",
                                              (json_int_t)b->flushes));
    }
    return list;
}

static json_t *block_resize_command(struct machine *m, json_t *args, struct err *err)
{
    struct drive *d = qmp_drive(m, args, err);
    json_int_t size = json_integer_value(json_object_get(args, "size"));

    if (!d)
        return NULL;
    if (size < 0) {
        err_set(err, EINVAL, "Parameter 'size' expects a >0 size");
        return NULL;
    }
    if (d->job) {
        err_set(err, EBUSY, "Node '%s' is busy: block device is in use by block job",
                d->block.under->name);
        return NULL;
    }
    return drive_resize(d, (uint64_t)size, err) ? json_object() : NULL;
}

struct drive *qmp_drive(struct machine *m, json_t *args, struct err *err)
{
    static const char *const words[] = {"device", "node-name", "node", "id"};

    for (unsigned i = 0; i < ARRAY_SIZE(words); i++)
        if (*qmp_text(args, words[i]))
            return disk_find(m, qmp_text(args, words[i]), err);
    err_set(err, EINVAL, "Parameter 'device' is missing");
    return NULL;
}

static uint64_t number(json_t *args, const char *name, const char *suffix)
{
    char full[32];
    json_int_t n;

    snprintf(full, sizeof full, "%s%s", name, suffix);
    n = json_integer_value(json_object_get(args, full));
    return n < 0 ? UINT64_MAX : (uint64_t)n;
}

static json_t *set_io_throttle(struct machine *m, json_t *args, struct err *err)
{
    struct throttle_config c = {.iops_size = number(args, "iops_size", "")};
    struct drive *d = qmp_drive(m, args, err);

    for (unsigned i = 0; i < THROTTLE_LIMITS; i++) {
        c.avg[i] = number(args, throttle_names[i], "");
        c.max[i] = number(args, throttle_names[i], "_max");
        c.burst_length[i] = number(args, throttle_names[i], "_max_length");
    }
    return d && drive_limit(d, &c, err) ? json_object() : NULL;
}

const struct qmp_command qmp_disk_commands[] = {
    {"query-block", query_block},
    {"query-blockstats", query_blockstats},
    {"block_resize", block_resize_command},
    {"block_set_io_throttle", set_io_throttle},
    {0},
};
