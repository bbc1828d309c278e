/* SPDX-License-Identifier: MIT */
/* Pushing an image on a chain, cutting images out of it, opening one of it for writing. */
#include "block/graph.h"
#include "block/format.h"
#include "block/image.h"
#include <errno.h>
#include <stdio.h>

int graph_depth(const struct block *root, const struct block *node)
{
    for (int depth = 0; root; root = root->backing, depth++)
        if (root == node)
            return depth;
    return -1;
}

struct block *graph_find(struct block *root, const char *name)
{
    for (; root; root = root->backing)
        if (!strcmp(root->name, name) || !strcmp(root->config.file, name))
            return root;
    return NULL;
}

struct block *graph_above(struct block *root, const struct block *node)
{
    while (root && root->backing != node)
        root = root->backing;
    return root;
}

static bool lock_node(const struct block *b, enum image_lock type, struct err *err)
{
    bool good = true;

    if (b->under)
        good = lock_node(b->under, type, err);
    if (good && b->data)
        good = lock_node(b->data, type, err);
    if (!good || !b->file || b->config.no_lock || !image_file_lock(b->file->fd, type))
        return good;
    if (errno != EAGAIN && errno != EACCES) /* a file system without locks */
        return true;
    return err_set(err, EBUSY, "%s: is in use by another machine", b->config.file);
}

bool graph_lock(const struct block *b, bool exclusive, struct err *err)
{
    return lock_node(b, exclusive ? IMAGE_EXCLUSIVE : IMAGE_SHARED, err);
}

bool graph_push(struct drive *d, struct block *overlay, struct err *err)
{
    struct block *base = d->block.under;
    struct err ignored;
    int failed;

    if (overlay->backing)
        return err_set(err, EINVAL, "The overlay already has a backing image");
    if (overlay->size < base->size)
        return err_set(err, EINVAL, "%s: is smaller than the disk", overlay->config.file);
    failed = base->readonly ? 0 : block_run(base, BLOCK_FLUSH, 0, 0, NULL, 0);
    if (failed)
        return err_set(err, -failed, "%s: cannot be flushed: %s", base->config.file,
                       strerror(-failed));
    overlay->backing = base;
    graph_lock(base, false, &ignored);
    drive_replace(d, overlay);
    return true;
}

bool graph_cut(struct block *over, struct block *base, const char *name, struct err *err)
{
    struct block *first = over->backing, *last = over;
    int failed;

    if (first == base)
        return true;
    failed = block_run(over, BLOCK_FLUSH, 0, 0, NULL, 0);
    if (failed)
        return err_set(err, -failed, "%s: %s", over->config.file, strerror(-failed));
    if (!block_set_backing(over, base ? (name && *name ? name : base->config.file) : NULL,
                           base ? base->ops->name : NULL, err))
        return false;
    while (last->backing != base)
        last = last->backing;
    last->backing = NULL;
    over->backing = base;
    block_close(first);
    return true;
}

/* Was it opened for writing, when the guest still wrote to it? */
static bool is_open_for_writing(const struct block *b)
{
    return !b->readonly;
}

bool graph_make_writable(struct block *over, struct block **base, struct err *err)
{
    struct block *old = *base, *fresh;
    struct block_config config = old->config;
    struct err ignored;

    if (is_open_for_writing(old))
        return graph_lock(old, true, err);
    config.readonly = false;
    config.alone = true;
    config.discard = true;
    config.above = NULL;
    snprintf(config.format, sizeof config.format, "%s", old->ops->name);
    lock_node(old, IMAGE_FREE, &ignored);
    fresh = block_open(old->loop, &config, err);
    if (!fresh) {
        graph_lock(old, false, &ignored);
        return false;
    }
    memcpy(fresh->name, old->name, sizeof fresh->name);
    fresh->config.alone = false;
    fresh->backing = old->backing;
    old->backing = NULL;
    over->backing = fresh;
    block_close(old);
    *base = fresh;
    return true;
}
