/* SPDX-License-Identifier: MIT */
/* Images as tools see them: thin fronts over the drivers' tables, and making new ones. */
#include "block/image.h"
#include "block/format.h"
#include "block/qcow2/qcow2.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static bool no_such_thing(const struct block *b, const char *what, struct err *err)
{
    return err_set(err, ENOTSUP, "%s: format %s has no %s", b->config.file, b->ops->name, what);
}

bool block_map(struct block *b, uint64_t offset, uint64_t length, struct block_extent *e,
               struct err *err)
{
    unsigned depth = 0;

    for (; b; b = b->backing, depth++) {
        if (offset >= b->size) { /* a backing file that is shorter reads as zeroes */
            *e = (struct block_extent){.length = length, .zero = true, .node = b};
            e->depth = depth;
            return true;
        }
        if (!b->ops->map)
            return no_such_thing(b, "map", err);
        *e = (struct block_extent){0};
        if (!b->ops->map(b, offset, e, err))
            return false;
        e->depth = depth;
        length = e->length = min_u64(e->length, min_u64(length, b->size - offset));
        if (e->present)
            return true;
    }
    e->zero = true;
    return true;
}

void block_info(struct block *b, struct block_info *info)
{
    const struct block *low = b;
    struct stat st;

    *info = (struct block_info){.format = b->ops->name,
                                .file = b->config.file,
                                .virtual_size = b->size,
                                .cluster_size = b->cluster_size};
    while (!low->file && low->under)
        low = low->under;
    if (low->file && fstat(low->file->fd, &st) == 0) {
        info->disk_size = (uint64_t)st.st_blocks * 512;
        info->file_end = low->end;
    }
    if (b->data && b->data->file && fstat(b->data->file->fd, &st) == 0)
        info->disk_size += (uint64_t)st.st_blocks * 512;
    if (b->ops->info)
        b->ops->info(b, info);
    if (b->backing)
        info->backing_path = b->backing->config.file;
}

bool block_check(struct block *b, unsigned fix, struct block_check *result, struct err *err)
{
    if (!b->ops->check)
        return no_such_thing(b, "check", err);
    return b->ops->check(b, fix, result, err);
}

bool block_resize(struct block *b, uint64_t size, enum block_prealloc prealloc, struct err *err)
{
    if (!b->ops->resize)
        return no_such_thing(b, "resize", err);
    if (b->readonly)
        return err_set(err, EROFS, "%s: is open read-only", b->config.file);
    if (!size || size % 512)
        return err_set(err, EINVAL, "%s: a size is a multiple of 512, and not 0", b->config.file);
    if (prealloc != PREALLOC_OFF)
        return err_set(err, ENOTSUP, "%s: a resize allocates nothing yet", b->config.file);
    return b->ops->resize(b, size, err);
}

/* ---- making ---- */

static bool is_stopped(const struct block_create *c)
{
    return c->stopped && c->stopped();
}

static bool fill_file(int fd, const struct block_create *c, struct err *err)
{
    static const char zeroes[65536];
    uint64_t size = c->size;

    for (uint64_t at = 0; at < size;) {
        if (is_stopped(c))
            return err_set(err, ECANCELED, "stopped");
        ssize_t n = pwrite(fd, zeroes, min_u64(sizeof zeroes, size - at), (off_t)at);

        if (n <= 0)
            return err_set(err, n ? errno : EIO, "%s", strerror(n ? errno : EIO));
        at += (uint64_t)n;
    }
    return true;
}

static bool size_raw(struct image_file *f, const struct block_create *c, struct err *err)
{
    int failed = 0;

    if (f->is_device)
        return c->size <= f->size || err_set(err, ENOSPC, "the device is too small");
    if (ftruncate(f->fd, (off_t)c->size) != 0)
        failed = errno;
    else if (c->preallocation == PREALLOC_FALLOC && c->size)
        failed = posix_fallocate(f->fd, 0, (off_t)c->size);
    if (failed)
        return err_set(err, failed, "%s", strerror(failed));
    return c->preallocation != PREALLOC_FULL || fill_file(f->fd, c, err);
}

static bool create_raw(const struct block_create *c, struct err *err)
{
    struct block_config config = {.readonly = false};
    struct image_file f;
    bool good;

    if (c->size == 0 || c->size % 512)
        return err_set(err, EINVAL, "a raw image's size is a multiple of 512, and not 0");
    if (c->backing || c->data_file)
        return err_set(err, EINVAL, "a raw image has no backing or data file");
    if (c->preallocation == PREALLOC_METADATA)
        return err_set(err, EINVAL, "a raw image has no metadata to allocate");
    snprintf(config.file, sizeof config.file, "%s", c->file);
    if (!image_file_open(&f, &config, err))
        return false;
    good = (f.is_device || ftruncate(f.fd, 0) == 0 || err_set(err, errno, "%s", strerror(errno))) &&
           size_raw(&f, c, err);
    image_file_close(&f);
    return good;
}

/* Opens the backing file as the new image will, for its size, its format and the user's typing. */
static bool look_at_backing(struct loop *loop, const struct block_create *c, uint64_t *size,
                            char format[16], struct err *err)
{
    struct block_config config = {.readonly = true, .no_lock = true};
    struct block *b;

    if (!block_relative(config.file, sizeof config.file, c->file, c->backing))
        return err_set(err, ENAMETOOLONG, "the name of the backing file is too long");
    snprintf(config.format, sizeof config.format, "%s", c->backing_format ? c->backing_format : "");
    b = block_open(loop, &config, err);
    if (!b)
        return err_wrap(err, "backing file");
    if (!*size)
        *size = b->size;
    snprintf(format, 16, "%s", b->ops->name);
    block_close(b);
    return true;
}

static bool make_data_file(const struct block_create *c, uint64_t size, struct err *err)
{
    char path[4096];
    int fd;
    bool good;

    if (!block_relative(path, sizeof path, c->file, c->data_file))
        return err_set(err, ENAMETOOLONG, "the name of the data file is too long");
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    good = fd >= 0 && ftruncate(fd, 0) == 0 && ftruncate(fd, (off_t)size) == 0;
    if (!good)
        err_set(err, errno, "data file %.100s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return good;
}

/* All clusters, by writing zeroes to them. */
static bool fill_qcow2(struct loop *loop, const char *file, struct err *err)
{
    struct block_config config = {.format = "qcow2"};
    size_t chunk = 1 << 20;
    void *zeroes = aligned_alloc(4096, chunk);
    struct block *b;
    int failed = zeroes ? 0 : -ENOMEM;

    snprintf(config.file, sizeof config.file, "%s", file);
    b = block_open(loop, &config, err);
    if (!b) {
        free(zeroes);
        return false;
    }
    if (zeroes)
        memset(zeroes, 0, chunk);
    for (uint64_t at = 0; at < b->size && !failed; at += chunk)
        failed = block_run(b, BLOCK_WRITE, 0, at, zeroes, min_u64(chunk, b->size - at));
    if (!failed)
        failed = block_run(b, BLOCK_FLUSH, 0, 0, NULL, 0);
    block_close(b);
    free(zeroes);
    return !failed || err_set(err, -failed, "cannot be filled: %s", strerror(-failed));
}

static bool create_qcow2(struct loop *loop, const struct block_create *c, struct err *err)
{
    struct block_config config = {.growable = true, .format = "raw"};
    struct block_create with = *c;
    char format[16] = "";
    struct block *raw;
    bool good;

    if (!q_create_check(c, err))
        return false;
    if (c->preallocation == PREALLOC_METADATA || (c->preallocation && c->backing))
        return err_set(err, ENOTSUP,
                       "preallocation of a qcow2 image is off, falloc or full, without a backing "
                       "file");
    if (c->backing && !c->backing_unchecked) {
        if (!look_at_backing(loop, c, &with.size, format, err))
            return false;
        with.backing_format = format;
    }
    with.size = align_up(with.size, 512);
    snprintf(config.file, sizeof config.file, "%s", c->file);
    raw = block_open(loop, &config, err);
    if (!raw)
        return false;
    good = (raw->file->is_device || raw->ops->resize(raw, 0, err)) &&
           (!c->data_file || make_data_file(&with, with.size, err)) &&
           q_create(raw, &with, with.size, err);
    block_close(raw);
    return good && (!c->preallocation || fill_qcow2(loop, c->file, err));
}

bool block_create(struct loop *loop, const struct block_create *c, struct err *err)
{
    int fd = open(c->file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, 0644);
    bool good;

    if (fd < 0 && errno != EEXIST)
        return err_set(err, errno, "%s: cannot be made: %s", c->file, strerror(errno));
    if (fd >= 0)
        close(fd);
    if (strcmp(c->format, "raw") == 0)
        good = create_raw(c, err);
    else if (strcmp(c->format, "qcow2") == 0)
        good = create_qcow2(loop, c, err);
    else
        good =
            err_set(err, EINVAL, "unknown format \"%.20s\": formats are raw and qcow2", c->format);
    if (good)
        return true;
    if (fd >= 0)
        unlink(c->file);
    return strncmp(err->text, c->file, strlen(c->file)) == 0 || err_wrap(err, "%s", c->file);
}
