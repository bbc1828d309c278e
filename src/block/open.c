/* SPDX-License-Identifier: MIT */
/* Makes the graph of nodes: the file, the format over it, and what the format's header names.
 *
 * A raw node is opened first, growable, and its head is looked at. If the image is raw that node is
 * opened again as a disk; otherwise the format goes over it. Formats call block_open_named for
 * backing and data files: names from a header are a guest's or a stranger's, so the chain may not
 * meet itself, may not be endless, and may not be guessed into existence: a raw disk's guest can
 * write a qcow2 header that names any file of the host. */
#include "block/block.h"
#include "block/format.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

enum { CHAIN_MAX = 200, HEAD = 512 };

static const struct block_ops *const formats[] = {&qcow2_ops,
                                                  &raw_ops}; /* raw takes what is left */

/* Formats that other programs read for us (remote.c): better known than booted as raw. */
static const struct foreign {
    const char *name;
    unsigned at, len;
    const char *magic;
} foreign[] = {
    {"vmdk", 0, 4, "KDMV"},
    {"vhdx", 0, 8, "vhdxfile"},
    {"vdi", 64, 4, "\x7f\x10\xda\xbe"},
};

static const struct block_ops *format_by_name(const char *name)
{
    for (unsigned i = 0; i < ARRAY_SIZE(formats); i++) {
        if (strcmp(formats[i]->name, name) == 0)
            return formats[i];
    }
    return NULL;
}

static const struct block_ops *format_named(const struct block_config *c, struct err *err)
{
    const struct block_ops *ops = format_by_name(c->format);

    if (ops)
        return ops;
    if (remote_format(c->format))
        return &remote_ops;
    err_set(err, EINVAL,
            "%s: unknown format \"%s\": formats are raw, qcow2, vmdk, vdi, vhdx and vpc", c->file,
            c->format);
    return NULL;
}

/* The format's name; NULL: cannot be read. */
static const char *format_probe(struct block *raw, struct err *err)
{
    const char *file = raw->config.file;
    _Alignas(4096) char head[HEAD];
    int failed = block_run(raw, BLOCK_READ, 0, 0, head, sizeof head);

    if (failed) {
        err_set(err, -failed, "%s: cannot be read: %s", file, strerror(-failed));
        return NULL;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(foreign); i++) {
        const struct foreign *f = &foreign[i];

        if (memcmp(head + f->at, f->magic, f->len) == 0)
            return f->name;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(formats); i++) {
        if (formats[i]->probe(head, sizeof head))
            return formats[i]->name;
    }
    return raw_ops.name;
}

bool block_head_is_format(const void *head, size_t len)
{
    for (unsigned i = 0; i < ARRAY_SIZE(foreign); i++) {
        const struct foreign *f = &foreign[i];

        if (f->at + f->len <= len && memcmp((const char *)head + f->at, f->magic, f->len) == 0)
            return true;
    }
    return qcow2_ops.probe(head, len);
}

/* The file itself, as raw: as a disk, or growable below a format. */
static struct block *open_raw(struct loop *loop, const struct block_config *config, bool growable,
                              struct err *err)
{
    struct block *b = block_new(loop, config);
    struct image_file *f = calloc(1, sizeof *f);

    if (!b || !f) {
        err_set(err, ENOMEM, "%s: out of memory", config->file);
        goto free_block;
    }
    b->config.growable = growable;
    b->ops = &raw_ops;
    if (!image_file_open(f, config, err))
        goto free_block;
    b->file = f;
    b->readonly = f->readonly;
    b->rotational = f->rotational;
    if (raw_ops.open(b, err))
        return b;
    block_free(b);
    return NULL;
free_block:
    free(f);
    free(b);
    return NULL;
}

/* A raw node below a format becomes a disk of its own: its size counts now. */
static struct block *raw_as_disk(struct block *raw, struct err *err)
{
    raw->ops->close(raw);
    raw->config.growable = false;
    if (raw->ops->open(raw, err))
        return raw;
    block_free(raw);
    return NULL;
}

struct block *block_open_over(struct block *under, const struct block_config *config,
                              struct err *err)
{
    struct block *b = block_new(under->loop, config);

    if (!b) {
        err_set(err, ENOMEM, "%s: out of memory", config->file);
        return NULL;
    }
    b->under = under;
    b->readonly = under->readonly;
    b->rotational = under->rotational;
    b->ops = format_named(config, err);
    if (b->ops && b->ops->open(b, err))
        return b;
    b->under = NULL;
    block_free(b);
    return NULL;
}

static bool ends_with(const char *file, const char *word)
{
    const char *dot = strrchr(file, '.');

    return dot && strcasecmp(dot + 1, word) == 0;
}

/* A guessed qcow2 that names other files may be a raw disk whose guest wrote that header; any
 * foreign format may name some. A file name that says the format is the user's word. */
static bool guess_is_safe(const struct block_config *c, const char *format, const struct block *b)
{
    if (b && !b->backing && !b->data)
        return true;
    if (strcmp(format, "qcow2") == 0 && (ends_with(c->file, "qcow") || ends_with(c->file, "qc2")))
        return c->depth == 0;
    return c->depth == 0 && ends_with(c->file, format);
}

static bool refuse_guess(const struct block_config *c, const char *format, struct err *err)
{
    return err_set(err, EINVAL,
                   "%s: looks like %s and may name other files, but a raw disk's guest could have "
                   "written that: say format=%s if it is so",
                   c->file, format, format);
}

/* Through hull-remote: an address, or a file in a foreign format. */
static struct block *open_remote(struct loop *loop, const struct block_config *config,
                                 bool growable, struct err *err)
{
    struct block *b = block_new(loop, config);

    if (!b) {
        err_set(err, ENOMEM, "%s: out of memory", config->file);
        return NULL;
    }
    b->config.growable = growable;
    b->ops = &remote_ops;
    if (b->ops->open(b, err))
        return b;
    b->ops = NULL;
    block_free(b);
    return NULL;
}

/* What lies below a format, or is the disk itself. */
static struct block *open_bottom(struct loop *loop, const struct block_config *c, bool growable,
                                 struct err *err)
{
    return block_is_address(c->file) ? open_remote(loop, c, growable, err)
                                     : open_raw(loop, c, growable, err);
}

/* The bottom turned out to be the disk, growable until now. */
static struct block *bottom_as_disk(struct block *bottom, struct err *err)
{
    bottom->config.guessed = true;
    if (bottom->ops == &raw_ops)
        return raw_as_disk(bottom, err);
    bottom->config.growable = false;
    bottom->size = align_up(bottom->end, 512);
    return bottom;
}

/* The format over its bottom, which is closed if that fails. */
static struct block *open_format(struct block *bottom, const struct block_config *config,
                                 const char *format, struct err *err)
{
    struct block_config with = *config;
    struct block *b;

    snprintf(with.format, sizeof with.format, "%s", format);
    with.guessed = !config->format[0];
    b = block_open_over(bottom, &with, err);
    if (!b)
        block_close(bottom);
    else if (with.guessed && !guess_is_safe(config, format, b)) {
        refuse_guess(config, format, err);
        block_close(b);
        b = NULL;
    }
    return b;
}

static struct block *open_guessing(struct loop *loop, const struct block_config *config,
                                   struct err *err)
{
    struct block *bottom = open_bottom(loop, config, true, err);
    const char *format = bottom ? format_probe(bottom, err) : NULL;
    struct block_config with = *config;

    if (format && strcmp(format, "raw") == 0)
        return bottom_as_disk(bottom, err);
    if (format && !remote_format(format))
        return open_format(bottom, config, format, err);
    if (bottom)
        block_close(bottom);
    if (!format || (!guess_is_safe(config, format, NULL) && !refuse_guess(config, format, err)))
        return NULL;
    snprintf(with.format, sizeof with.format, "%s", format);
    return block_open(loop, &with, err);
}

struct block *block_open(struct loop *loop, const struct block_config *config, struct err *err)
{
    struct block *bottom;

    if (!config->format[0])
        return open_guessing(loop, config, err);
    if (!format_named(config, err))
        return NULL;
    if (strcmp(config->format, "raw") == 0)
        return open_bottom(loop, config, config->growable, err);
    if (remote_format(config->format)) {
        if (block_is_address(config->file))
            return err_set(err, ENOTSUP, "%s: format %s is read from files only", config->file,
                           config->format),
                   NULL;
        return open_remote(loop, config, config->growable, err);
    }
    bottom = open_bottom(loop, config, true, err);
    return bottom ? open_format(bottom, config, config->format, err) : NULL;
}

/* ---- files that a header names ---- */

bool block_relative(char *path, size_t size, const char *image, const char *name)
{
    const char *slash = strrchr(image, '/');
    int dir = name[0] == '/' || !slash ? 0 : (int)(slash - image) + 1;
    int n = snprintf(path, size, "%.*s%s", dir, image, name);

    return n >= 0 && (size_t)n < size;
}

/* QEMU's "nbd://..." and "json:{...}" are no files; its "file:name" is one. */
static const char *plain_name(const char *name)
{
    const char *colon = strchr(name, ':'), *slash = strchr(name, '/');

    if (strncmp(name, "file:", 5) == 0)
        return name + 5;
    return colon && (!slash || colon < slash) ? NULL : name;
}

static const struct image_file *file_of(const struct block *b)
{
    return b->file ? b->file : b->under ? file_of(b->under) : NULL;
}

static bool in_chain(const struct block *b, const char *path)
{
    struct stat st;

    if (stat(path, &st) != 0)
        return false;
    for (; b; b = b->config.above) {
        const struct image_file *f = file_of(b);

        if (f && f->dev == st.st_dev && f->ino == st.st_ino)
            return true;
    }
    return false;
}

struct block *block_open_named(struct block *b, const char *name, const char *format, bool readonly,
                               bool growable, struct err *err)
{
    const char *plain = plain_name(name);
    struct block_config c = {.readonly = readonly,
                             .discard = b->config.discard && !readonly,
                             .cache = b->config.cache,
                             .aio = b->config.aio,
                             .no_lock = b->config.no_lock,
                             .growable = growable,
                             .depth = b->config.depth + 1,
                             .above = b};
    struct block *opened;

    if (!plain || block_is_address(plain))
        return err_set(err, ENOTSUP, "%s: it names %.100s, which is no file", b->config.file, name),
               NULL;
    if (!block_relative(c.file, sizeof c.file, b->config.file, plain) ||
        strlen(format) >= sizeof c.format)
        return err_set(err, EINVAL, "%s: the name of its backing file is too long", b->config.file),
               NULL;
    if (in_chain(b, c.file))
        return err_set(err, ELOOP, "%s: its chain of files meets itself at %.100s", b->config.file,
                       c.file),
               NULL;
    if (c.depth > CHAIN_MAX)
        return err_set(err, ELOOP, "%s: more than %d files in a chain", b->config.file, CHAIN_MAX),
               NULL;
    snprintf(c.format, sizeof c.format, "%s", format);
    opened = block_open(b->loop, &c, err);
    if (!opened)
        err_wrap(err, "named by %.60s", b->config.file);
    return opened;
}
