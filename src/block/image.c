/* SPDX-License-Identifier: MIT */
/* Images as tools see them: thin fronts over the drivers' tables, and making new ones. */
#include "block/image.h"
#include "block/bulk.h"
#include "block/format.h"
#include "block/gather.h"
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
            e->depth = depth ? depth - 1 : 0; /* as qemu-img says it: the layer that is longer */
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

/* Bytes of a file: allocated, or written. */
static int fill_range(const struct block_place *p, enum block_prealloc mode)
{
    static const char zeroes[65536];
    int failed = 0;

    if (mode == PREALLOC_FALLOC)
        return -posix_fallocate(p->fd, (off_t)p->host, (off_t)p->length);
    for (uint64_t at = 0; at < p->length && !failed; at += sizeof zeroes)
        failed = write_all(p->fd, zeroes, min_u64(sizeof zeroes, p->length - at), p->host + at);
    return failed;
}

/* Every cluster of [from, to) that has no place gets one. */
static int preallocate(struct block *b, uint64_t from, uint64_t to, enum block_prealloc mode,
                       bool (*stopped)(void))
{
    uint64_t most = mode == PREALLOC_FULL ? 16 * MiB : GiB;
    int failed = 0;

    for (uint64_t at = align_up(from, b->cluster_size); at < to && !failed;) {
        struct block_place p;

        failed = block_place(b, at, min_u64(most, to - at), false, &p);
        if (failed == -EEXIST) {
            at += b->cluster_size;
            failed = 0;
            continue;
        }
        if (!failed && (mode != PREALLOC_METADATA || !p.virgin))
            failed = fill_range(&p, p.virgin ? mode : PREALLOC_FULL);
        if (!failed && stopped && stopped())
            failed = -ECANCELED;
        at += p.length;
    }
    return failed ? failed : block_placed(b);
}

bool block_resize(struct block *b, uint64_t size, enum block_prealloc prealloc, struct err *err)
{
    uint64_t old = b->size;
    struct block_place raw = {.host = old, .length = size - old, .fd = gather_fd(b)};
    int failed;

    if (!b->ops->resize)
        return no_such_thing(b, "resize", err);
    if (b->readonly)
        return err_set(err, EROFS, "%s: is open read-only", b->config.file);
    if (!size || size % 512)
        return err_set(err, EINVAL, "%s: a size is a multiple of 512, and not 0", b->config.file);
    if (prealloc && size < old)
        return err_set(err, EINVAL, "%s: preallocation is for growing", b->config.file);
    if (prealloc && b->ops == &qcow2_ops && b->backing)
        return err_set(err, EINVAL, "%s: preallocation would hide its backing file",
                       b->config.file);
    if (prealloc == PREALLOC_METADATA && b->ops != &qcow2_ops)
        return no_such_thing(b, "metadata to allocate", err);
    if (!b->ops->resize(b, size, err))
        return false;
    if (!prealloc)
        return true;
    failed = b->ops == &qcow2_ops ? preallocate(b, old, size, prealloc, NULL)
                                  : fill_range(&raw, prealloc);
    return !failed ||
           err_set(err, -failed, "%s: cannot be filled: %s", b->config.file, strerror(-failed));
}

void block_abandon(struct block *b)
{
    while (!block_idle(b))
        loop_turn(b->loop, UINT64_MAX);
    b->readonly = true; /* formats write nothing back */
    block_close(b);
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

static bool preallocate_qcow2(struct loop *loop, const struct block_create *c, struct err *err)
{
    struct block_config config = {.format = "qcow2", .alone = true, .cache = CACHE_WRITEBACK};
    struct block *b;
    int failed;

    snprintf(config.file, sizeof config.file, "%s", c->file);
    b = block_open(loop, &config, err);
    if (!b)
        return false;
    failed = preallocate(b, 0, b->size, c->preallocation, c->stopped);
    if (!failed)
        failed = block_run(b, BLOCK_FLUSH, 0, 0, NULL, 0);
    if (failed)
        block_abandon(b);
    else
        block_close(b);
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
    if (c->preallocation && c->backing && !c->extended_l2)
        return err_set(err, EINVAL,
                       "preallocation would hide the backing file: only extended_l2=on has both");
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
    return good && (!c->preallocation || preallocate_qcow2(loop, c, err));
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
