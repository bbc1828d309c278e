/* SPDX-License-Identifier: MIT */
/* The QMP commands of the jobs that copy a running disk elsewhere: mirror and backup. */
#include "block/bitmap.h"
#include "block/graph.h"
#include "machine/nodes.h"
#include "machine/qmp.h"
#include "machine/qmp_args.h"
#include <errno.h>
#include <stdio.h>

/* The place of `word` in a list that ends with NULL; -1 with an error. "" is the first. */
static int choose(const char *name, const char *word, const char *const *words, struct err *err)
{
    if (!*word)
        return 0;
    for (int i = 0; words[i]; i++)
        if (!strcmp(words[i], word))
            return i;
    err_set(err, EINVAL, "Parameter '%s' does not accept value '%.40s'", name, word);
    return -1;
}

static json_t *result(bool good)
{
    return good ? json_object() : NULL;
}

/* ---- mirror ---- */

bool qmp_commit_active(struct machine *m, struct drive *d, struct block *base,
                       const struct job_options *o, struct err *err)
{
    struct mirror_options mirror = {
        .job = *o, .sync = MIRROR_TOP, .target_is_zero = true, .commit_base = base};

    return job_mirror(&m->jobs, d, base, &mirror, err);
}

static bool read_mirror(json_t *args, struct mirror_options *o, struct err *err)
{
    static const char *const syncs[] = {"full", "top", "none", NULL};
    static const char *const modes[] = {"background", "write-blocking", NULL};
    int sync =
            qmp_need(args, "sync", err) ? choose("sync", qmp_text(args, "sync"), syncs, err) : -1,
        mode = choose("copy-mode", qmp_text(args, "copy-mode"), modes, err);

    if (sync < 0 || mode < 0 || !qmp_read_job(args, &o->job, err))
        return false;
    o->sync = (enum mirror_sync)sync;
    o->write_blocking = mode == 1;
    o->granularity = (uint32_t)json_integer_value(json_object_get(args, "granularity"));
    return true;
}

/* The target of drive-mirror and drive-backup: a file, made unless mode is existing. */
static struct block *open_target(struct machine *m, struct drive *d, json_t *args,
                                 const struct block *backing, bool *is_new, struct err *err)
{
    const char *format = qmp_text(args, "format");
    struct node_options o = {.file = qmp_text(args, "target"),
                             .format = *format ? format : d->block.under->ops->name,
                             .name = qmp_text(args, "node-name"),
                             .alone = true,
                             .like = &d->block.under->config};
    struct block_create c = {
        .file = o.file, .format = o.format, .size = d->block.size, .backing_unchecked = true};

    if (!qmp_need(args, "target", err) || !node_name_free(m, o.name, err))
        return NULL;
    if (backing && strcmp(o.format, "raw") != 0) {
        c.backing = backing->config.file;
        c.backing_format = backing->ops->name;
    }
    *is_new = strcmp(qmp_text(args, "mode"), "existing") != 0;
    if (*is_new && !node_create(m, &c, err))
        return NULL;
    return node_open(m, &o, err);
}

static json_t *drive_mirror(struct machine *m, json_t *args, struct err *err)
{
    struct drive *d = qmp_need(args, "device", err) ? qmp_drive(m, args, err) : NULL;
    struct mirror_options o = {0};
    const struct block *backing = NULL;
    struct block *target;

    if (!d || !read_mirror(args, &o, err))
        return NULL;
    if (o.sync == MIRROR_TOP && !d->block.under->backing)
        o.sync = MIRROR_FULL;
    if (o.sync == MIRROR_TOP) {
        backing = d->block.under->backing;
        o.backing = BACKING_OF_SOURCE;
    } else if (o.sync == MIRROR_NONE) {
        backing = d->block.under;
        o.backing = BACKING_IS_SOURCE;
    }
    target = open_target(m, d, args, backing, &o.target_is_zero, err);
    if (!target)
        return NULL;
    if (job_mirror(&m->jobs, d, target, &o, err))
        return json_object();
    block_close(target);
    return NULL;
}

static json_t *blockdev_mirror(struct machine *m, json_t *args, struct err *err)
{
    struct drive *d = qmp_need(args, "device", err) ? qmp_drive(m, args, err) : NULL;
    struct mirror_options o = {0};
    struct block *target;

    if (!d || !read_mirror(args, &o, err))
        return NULL;
    if (o.sync == MIRROR_TOP && !d->block.under->backing)
        o.sync = MIRROR_FULL;
    target = node_take(m, qmp_text(args, "target"), err);
    if (!target)
        return NULL;
    /* blockdev-add opened the target's chain if it has one; else the disk's serves. */
    if (o.sync == MIRROR_TOP)
        o.backing = BACKING_OF_SOURCE;
    if (job_mirror(&m->jobs, d, target, &o, err))
        return json_object();
    node_release(m, target);
    return NULL;
}

/* ---- backup ---- */

static bool read_bitmap(struct drive *d, json_t *args, struct backup_options *o, struct err *err)
{
    static const char *const modes[] = {"on-success", "never", "always", NULL};
    const char *name = qmp_text(args, "bitmap"), *word = qmp_text(args, "bitmap-mode");
    int mode = choose("bitmap-mode", word, modes, err);

    if (mode < 0)
        return false;
    if (!*name)
        return o->sync != BACKUP_BITMAP ||
               err_set(err, EINVAL, "must provide a valid bitmap name for '%s' sync mode",
                       qmp_text(args, "sync"));
    if (o->sync != BACKUP_BITMAP)
        return err_set(err, ENOTSUP, "a bitmap goes with sync mode 'bitmap' or 'incremental'");
    o->bitmap = block_bitmap_find(d->block.under, name);
    if (!o->bitmap)
        return err_set(err, EINVAL, "Bitmap '%s' could not be found", name);
    o->mode = (enum backup_bitmap_mode)mode;
    return block_bitmap_usable(o->bitmap, err);
}

static bool read_backup(struct drive *d, json_t *args, struct backup_options *o, struct err *err)
{
    static const char *const syncs[] = {"full", "top", "none", "bitmap", "incremental", NULL};
    int sync =
        qmp_need(args, "sync", err) ? choose("sync", qmp_text(args, "sync"), syncs, err) : -1;

    if (sync < 0 || !qmp_read_job(args, &o->job, err))
        return false;
    o->sync = sync == 4 ? BACKUP_BITMAP : (enum backup_sync)sync;
    if (qmp_bool(args, "compress", false))
        return err_set(err, ENOTSUP, "compress: a running disk is not compressed yet");
    return read_bitmap(d, args, o, err);
}

static json_t *drive_backup(struct machine *m, json_t *args, struct err *err)
{
    struct drive *d = qmp_need(args, "device", err) ? qmp_drive(m, args, err) : NULL;
    struct backup_options o = {0};
    const struct block *backing = NULL;
    struct block *target;

    if (!d || !read_backup(d, args, &o, err))
        return NULL;
    if (o.sync == BACKUP_TOP && !d->block.under->backing)
        o.sync = BACKUP_FULL;
    if (o.sync == BACKUP_TOP)
        backing = d->block.under->backing;
    target = open_target(m, d, args, backing, &o.target_is_zero, err);
    if (!target)
        return NULL;
    if (job_backup(&m->jobs, d, target, &o, err))
        return json_object();
    block_close(target);
    return NULL;
}

static json_t *blockdev_backup(struct machine *m, json_t *args, struct err *err)
{
    struct drive *d = qmp_need(args, "device", err) ? qmp_drive(m, args, err) : NULL;
    struct backup_options o = {0};
    struct block *target;

    if (!d || !read_backup(d, args, &o, err))
        return NULL;
    if (o.sync == BACKUP_TOP && !d->block.under->backing)
        o.sync = BACKUP_FULL;
    target = node_take(m, qmp_text(args, "target"), err);
    if (!target)
        return NULL;
    if (job_backup(&m->jobs, d, target, &o, err))
        return json_object();
    node_release(m, target);
    return NULL;
}

/* ---- dirty bitmaps ---- */

static struct block_bitmap *find_bitmap(struct machine *m, json_t *args, const char *what,
                                        struct err *err)
{
    struct drive *d =
        qmp_need(args, "node", err) && qmp_need(args, what, err) ? qmp_drive(m, args, err) : NULL;
    struct block_bitmap *b = d ? block_bitmap_find(d->block.under, qmp_text(args, what)) : NULL;

    if (d && !b)
        err_set(err, EINVAL, "Dirty bitmap '%.200s' not found", qmp_text(args, what));
    return b;
}

static json_t *bitmap_add(struct machine *m, json_t *args, struct err *err)
{
    struct drive *d =
        qmp_need(args, "node", err) && qmp_need(args, "name", err) ? qmp_drive(m, args, err) : NULL;
    unsigned flags = (qmp_bool(args, "persistent", false) ? BITMAP_PERSISTENT : 0u) |
                     (qmp_bool(args, "disabled", false) ? BITMAP_DISABLED : 0u);

    if (d && !*qmp_text(args, "name")) {
        err_set(err, EINVAL, "Bitmap name cannot be empty");
        return NULL;
    }
    return result(
        d && block_bitmap_add(d->block.under, qmp_text(args, "name"),
                              (uint32_t)json_integer_value(json_object_get(args, "granularity")),
                              flags, err));
}

static json_t *bitmap_remove(struct machine *m, json_t *args, struct err *err)
{
    struct block_bitmap *b = find_bitmap(m, args, "name", err);

    return result(b && block_bitmap_remove(b, err));
}

static json_t *bitmap_clear(struct machine *m, json_t *args, struct err *err)
{
    struct block_bitmap *b = find_bitmap(m, args, "name", err);

    return result(b && block_bitmap_usable(b, err) && block_bitmap_clear(b, err));
}

static json_t *bitmap_enable(struct machine *m, json_t *args, struct err *err)
{
    struct block_bitmap *b = find_bitmap(m, args, "name", err);

    return result(b && block_bitmap_usable(b, err) && block_bitmap_enable(b, true, err));
}

static json_t *bitmap_disable(struct machine *m, json_t *args, struct err *err)
{
    struct block_bitmap *b = find_bitmap(m, args, "name", err);

    return result(b && block_bitmap_usable(b, err) && block_bitmap_enable(b, false, err));
}

static struct block_bitmap *merge_source(struct machine *m, struct block_bitmap *to, json_t *item,
                                         struct err *err)
{
    struct block_bitmap *from;

    if (json_is_object(item))
        return find_bitmap(m, item, "name", err);
    from = json_is_string(item) ? block_bitmap_find(to->b, json_string_value(item)) : NULL;
    if (!from)
        err_set(err, EINVAL, "Dirty bitmap '%.200s' not found",
                json_is_string(item) ? json_string_value(item) : "");
    return from;
}

/* All sources are looked at before the target is touched. */
static json_t *bitmap_merge(struct machine *m, json_t *args, struct err *err)
{
    struct block_bitmap *to = find_bitmap(m, args, "target", err), *from;
    json_t *list = json_object_get(args, "bitmaps"), *item;
    size_t i;

    if (!to || !qmp_need(args, "bitmaps", err) || !block_bitmap_usable(to, err))
        return NULL;
    json_array_foreach(list, i, item)
    {
        from = merge_source(m, to, item, err);
        if (!from || !block_bitmap_usable(from, err))
            return NULL;
    }
    json_array_foreach(list, i, item)
    {
        from = merge_source(m, to, item, err);
        if (!from || !block_bitmap_merge(to, from, err))
            return NULL;
    }
    return json_object();
}

const struct qmp_command qmp_mirror_commands[] = {
    {"drive-mirror", drive_mirror},
    {"blockdev-mirror", blockdev_mirror},
    {"drive-backup", drive_backup},
    {"blockdev-backup", blockdev_backup},
    {"block-dirty-bitmap-add", bitmap_add},
    {"block-dirty-bitmap-remove", bitmap_remove},
    {"block-dirty-bitmap-clear", bitmap_clear},
    {"block-dirty-bitmap-enable", bitmap_enable},
    {"block-dirty-bitmap-disable", bitmap_disable},
    {"block-dirty-bitmap-merge", bitmap_merge},
    {0},
};
