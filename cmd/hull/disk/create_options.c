/* SPDX-License-Identifier: MIT */
/* -o key=value,...: how a new image is made, by qemu-img's names. Shared by create, convert and
 * measure. */
#include "disk.h"
#include "field/field.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

struct key {
    const char *name, *say;
    bool raw; /* raw images have it too */
    bool (*set)(struct block_create *c, const char *value, struct err *err);
};

static bool on_off(bool *to, const char *value, struct err *err)
{
    *to = !strcmp(value, "on") || !strcmp(value, "true") || !strcmp(value, "yes");
    if (*to || !strcmp(value, "off") || !strcmp(value, "false") || !strcmp(value, "no"))
        return true;
    return err_set(err, EINVAL, "%.40s: on or off", value);
}

static bool number(uint32_t *to, const char *value, struct err *err)
{
    uint64_t n;

    if (!size_parse(value, &n, err))
        return false;
    if (!n || n > UINT32_MAX)
        return err_set(err, EINVAL, "%.40s is out of range", value);
    *to = (uint32_t)n;
    return true;
}

static bool set_backing(struct block_create *c, const char *value, struct err *err)
{
    (void)err;
    c->backing = *value ? value : NULL;
    return true;
}

static bool set_backing_format(struct block_create *c, const char *value, struct err *err)
{
    (void)err;
    c->backing_format = *value ? value : NULL;
    return true;
}

static bool set_cluster_size(struct block_create *c, const char *value, struct err *err)
{
    return number(&c->cluster_size, value, err);
}

static bool set_compat(struct block_create *c, const char *value, struct err *err)
{
    if (!strcmp(value, "0.10") || !strcmp(value, "v2"))
        c->version = 2;
    else if (!strcmp(value, "1.1") || !strcmp(value, "v3"))
        c->version = 3;
    else
        return err_set(err, EINVAL, "%.40s: 0.10 (v2) or 1.1 (v3)", value);
    return true;
}

static bool set_compression(struct block_create *c, const char *value, struct err *err)
{
    c->zstd = !strcmp(value, "zstd");
    return c->zstd || !strcmp(value, "zlib") || err_set(err, EINVAL, "%.40s: zlib or zstd", value);
}

static bool set_data_file(struct block_create *c, const char *value, struct err *err)
{
    (void)err;
    c->data_file = *value ? value : NULL;
    return true;
}

static bool set_data_raw(struct block_create *c, const char *value, struct err *err)
{
    return on_off(&c->data_file_raw, value, err);
}

static bool set_extended(struct block_create *c, const char *value, struct err *err)
{
    return on_off(&c->extended_l2, value, err);
}

static bool set_lazy(struct block_create *c, const char *value, struct err *err)
{
    return on_off(&c->lazy_refcounts, value, err);
}

static bool set_prealloc(struct block_create *c, const char *value, struct err *err)
{
    return disk_prealloc_parse(value, &c->preallocation, err);
}

static bool set_refcount_bits(struct block_create *c, const char *value, struct err *err)
{
    return number(&c->refcount_bits, value, err);
}

static bool set_size(struct block_create *c, const char *value, struct err *err)
{
    return size_parse(value, &c->size, err);
}

static const struct key keys[] = {
    {"backing_file", "the image that holds what was never written here", false, set_backing},
    {"backing_fmt", "its format", false, set_backing_format},
    {"cluster_size", "what is allocated at once: 512 to 2M, default 64K", false, set_cluster_size},
    {"compat", "0.10 (v2) or 1.1 (v3, default)", false, set_compat},
    {"compression_type", "of compressed clusters: zlib (default) or zstd", false, set_compression},
    {"data_file", "keep the data in this raw file instead", false, set_data_file},
    {"data_file_raw", "on: the data file is also a whole raw image", false, set_data_raw},
    {"extended_l2", "on: 32 subclusters in each cluster", false, set_extended},
    {"lazy_refcounts", "on: counts may be stale after a crash", false, set_lazy},
    {"preallocation", "off, metadata (qcow2), falloc or full", true, set_prealloc},
    {"refcount_bits", "1, 2, 4, 8, 16 (default), 32 or 64", false, set_refcount_bits},
    {"size", "of the disk", true, set_size},
};

static bool is_raw(const struct block_create *c)
{
    return !strcmp(c->format, "raw");
}

static void print_keys(const struct block_create *c)
{
    printf("Options of %s images (-o key=value,...):\n", c->format);
    for (unsigned i = 0; i < ARRAY_SIZE(keys); i++)
        if (!is_raw(c) || keys[i].raw)
            printf("  %-18s%s\n", keys[i].name, keys[i].say);
}

static bool set_key(struct block_create *c, const char *name, const char *value, struct err *err)
{
    const char *names[ARRAY_SIZE(keys) + 1] = {NULL}, *near;
    unsigned n = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(keys); i++) {
        if (is_raw(c) && !keys[i].raw)
            continue;
        names[n++] = keys[i].name;
        if (!strcmp(keys[i].name, name))
            return keys[i].set(c, value, err) || err_wrap(err, "-o %s", name);
    }
    near = nearest_word(name, names);
    return err_set(err, EINVAL, "-o %.40s: %s images have no such option%s%s%s", name, c->format,
                   near ? ", did you mean " : "", near ? near : "", near ? "?" : "");
}

/* Cuts off the next "key=value", in place; ",," in a value is a comma. */
static char *next_pair(char **list)
{
    char *from = *list, *to = *list, *start = *list;

    if (!*from)
        return NULL;
    for (; *from; from++) {
        if (*from == ',' && from[1] != ',')
            break;
        if (*from == ',')
            from++;
        *to++ = *from;
    }
    *list = *from ? from + 1 : from;
    *to = 0;
    return start;
}

bool disk_create_options(struct disk_args *a, struct block_create *c, bool *helped, struct err *err)
{
    char *list = a->options ? a->options : "", *pair, *value;

    *helped = false;
    if (strcmp(c->format, "raw") != 0 && strcmp(c->format, "qcow2") != 0)
        return err_set(err, EINVAL, "format %.20s cannot be written: raw or qcow2", c->format);
    while ((pair = next_pair(&list)) != NULL) {
        if (!strcmp(pair, "help") || !strcmp(pair, "?")) {
            print_keys(c);
            *helped = true;
            return true;
        }
        value = strchr(pair, '=');
        if (value)
            *value++ = 0;
        if (!set_key(c, pair, value ? value : "on", err))
            return false;
    }
    if (a->backing)
        c->backing = *a->backing ? a->backing : NULL;
    if (a->backing_format)
        c->backing_format = a->backing_format;
    if (a->preallocation && !disk_prealloc_parse(a->preallocation, &c->preallocation, err))
        return false;
    if (is_raw(c) && c->backing)
        return err_set(err, EINVAL, "a raw image has no backing file: --format qcow2 has");
    return true;
}

const char *disk_format_for(const char *file)
{
    const char *dot = strrchr(file, '.');

    return dot && (!strcasecmp(dot, ".qcow2") || !strcasecmp(dot, ".qcow") ||
                   !strcasecmp(dot, ".qc2"))
               ? "qcow2"
               : "raw";
}
