/* SPDX-License-Identifier: MIT */
/* Named images: blockdev-add, blockdev-del, blockdev-create, query-named-block-nodes, and opening
 * and making files for the block commands. In its sandbox a machine opens files below --image-dir
 * only. */
#include "machine/nodes.h"
#include "machine/qmp.h"
#include "machine/qmp_args.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct named {
    struct list link;
    struct block *block;
    bool taken;
};

/* ---- files ---- */

static bool may_open(const struct machine *m, const char *file, struct err *err)
{
    return !m->config.sandbox || m->config.image_dir[0] ||
           err_set(err, EACCES,
                   "Could not open '%.100s': the sandbox lets this machine open no files: start it "
                   "with --image-dir DIR to name a folder for them",
                   file);
}

/* ENOENT stands for DeviceNotFound in QMP, which a missing file is not. */
static bool explain(const struct machine *m, struct err *err)
{
    if (err->code == EACCES && m->config.sandbox)
        err_wrap(err, "(--image-dir %.60s)", m->config.image_dir);
    if (err->code == ENOENT)
        err->code = EIO;
    return false;
}

bool node_name_free(struct machine *m, const char *name, struct err *err)
{
    struct err ignored;

    if (!*name)
        return true;
    if (strlen(name) > 31 || name[0] == '#')
        return err_set(err, EINVAL, "Invalid node-name: '%.64s'", name);
    for (unsigned i = 0; i < m->config.disk_count; i++) {
        if (!strcmp(m->drive[i]->id, name))
            return err_set(err, EEXIST, "node-name=%s is conflicting with a device id", name);
        for (struct block *b = m->drive[i]->block.under; b; b = b->backing)
            if (!strcmp(b->name, name))
                return err_set(err, EEXIST, "Duplicate nodes with node-name='%s'", name);
    }
    return !node_find(m, name, &ignored) ||
           err_set(err, EEXIST, "Duplicate nodes with node-name='%s'", name);
}

struct block *node_open(struct machine *m, const struct node_options *o, struct err *err)
{
    struct block_config *c = calloc(1, sizeof *c);
    struct block *b = NULL;

    if (!c)
        err_set(err, ENOMEM, "no memory for an image");
    else if (may_open(m, o->file, err) && disk_path(m, c->file, o->file, err)) {
        if (o->like) {
            c->cache = o->like->cache;
            c->aio = o->like->aio;
        }
        c->readonly = o->readonly;
        c->alone = o->alone;
        c->discard = !o->readonly;
        snprintf(c->format, sizeof c->format, "%s", o->format);
        b = block_open(m->loop, c, err);
    }
    free(c);
    if (!b) {
        explain(m, err);
        return NULL;
    }
    b->config.alone = false;
    if (*o->name)
        snprintf(b->name, sizeof b->name, "%s", o->name);
    for (struct block *at = b; at; at = at->backing)
        if (!at->name[0])
            snprintf(at->name, sizeof at->name, "#block%03u", ++m->node_count);
    return b;
}

bool node_create(struct machine *m, struct block_create *c, struct err *err)
{
    char path[CONFIG_PATH];

    if (!may_open(m, c->file, err) || !disk_path(m, path, c->file, err))
        return false;
    c->file = path;
    return block_create(m->loop, c, err) || explain(m, err);
}

/* ---- named ones ---- */

static struct named *named(struct machine *m, const struct block *b)
{
    list_for(at, &m->nodes)
    {
        struct named *n = container_of(at, struct named, link);

        if (n->block == b)
            return n;
    }
    return NULL;
}

struct block *node_find(struct machine *m, const char *name, struct err *err)
{
    list_for(at, &m->nodes)
    {
        struct named *n = container_of(at, struct named, link);

        if (!n->taken && !strcmp(n->block->name, name))
            return n->block;
    }
    err_set(err, EINVAL, "Cannot find device='' nor node-name='%.64s'", name);
    return NULL;
}

struct block *node_take(struct machine *m, const char *name, struct err *err)
{
    struct block *b = node_find(m, name, err);

    if (b)
        named(m, b)->taken = true;
    return b;
}

void node_release(struct machine *m, struct block *b)
{
    struct named *n = named(m, b);

    if (n)
        n->taken = false;
    else
        block_close(b);
}

void node_forget(struct machine *m, struct block *b)
{
    struct named *n = named(m, b);

    if (!n)
        return;
    list_remove(&n->link);
    free(n);
}

void nodes_close(struct machine *m)
{
    while (m->nodes.next && !list_empty(&m->nodes)) {
        struct named *n = container_of(m->nodes.next, struct named, link);

        list_remove(&n->link);
        block_close(n->block);
        free(n);
    }
}

/* ---- commands ---- */

/* {"driver": "file", "filename": F}, or a driver over {"file": {...}}. */
static const char *file_of(json_t *args)
{
    json_t *file = json_object_get(args, "file");
    const char *name = qmp_text(json_is_object(file) ? file : args, "filename");

    return name;
}

static json_t *blockdev_add(struct machine *m, json_t *args, struct err *err)
{
    const char *driver = qmp_text(args, "driver"), *name = qmp_text(args, "node-name");
    bool raw = !strcmp(driver, "raw") || !strcmp(driver, "file") || !strcmp(driver, "host_device");
    json_t *backing = json_object_get(args, "backing");
    struct node_options o = {.file = file_of(args),
                             .format = raw ? "raw" : driver,
                             .name = name,
                             .readonly = qmp_bool(args, "read-only", false),
                             .alone = json_is_null(backing)};
    struct named *n;

    if (!qmp_need(args, "driver", err) || !qmp_need(args, "node-name", err) ||
        !node_name_free(m, name, err))
        return NULL;
    if (!*o.file || (backing && !json_is_null(backing))) {
        err_set(err, EINVAL,
                *o.file ? "'backing' may be left out or null"
                        : "Parameter 'file' needs a member 'filename'");
        return NULL;
    }
    n = calloc(1, sizeof *n);
    if (!n || !(n->block = node_open(m, &o, err))) {
        free(n);
        return NULL;
    }
    list_add(&m->nodes, &n->link);
    return json_object();
}

static json_t *blockdev_del(struct machine *m, json_t *args, struct err *err)
{
    const char *name = qmp_text(args, "node-name");
    struct block *b = node_find(m, name, err);
    struct err ignored;

    if (!b) {
        if (disk_find(m, name, &ignored))
            err_set(err, EBUSY, "Node %s is in use", name);
        else
            err_set(err, EINVAL, "Failed to find node with node-name='%.64s'", name);
        return NULL;
    }
    node_forget(m, b);
    block_close(b);
    return json_object();
}

static json_t *query_named(struct machine *m, json_t *args, struct err *err)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < m->config.disk_count; i++)
        for (struct block *b = m->drive[i]->block.under; b; b = b->backing)
            json_array_append_new(
                list, qmp_describe_node(b, b == m->drive[i]->block.under ? m->drive[i] : NULL));
    list_for(at, &m->nodes)
    {
        json_array_append_new(list,
                              qmp_describe_node(container_of(at, struct named, link)->block, NULL));
    }
    return list;
}

/* ---- blockdev-create: made at once, and a job all the same ---- */

static void create_idle(struct block_job *j)
{
    job_conclude(j);
}

static bool create_next(struct block_job *j, struct job_piece *p)
{
    return false;
}

static bool create_finish(struct block_job *j, bool good, struct err *err)
{
    return true;
}

static const struct block_job_type create_type = {
    .name = "create", .next = create_next, .idle = create_idle, .finish = create_finish};

static const char *file_to_create(struct machine *m, json_t *options)
{
    json_t *file = json_object_get(options, "file");
    const char *name = file_of(options);
    struct err ignored;
    struct block *b;

    if (!json_is_string(file))
        return name;
    b = node_find(m, json_string_value(file), &ignored); /* over a node of driver file */
    return b ? b->config.file : "";
}

static bool create_image(struct machine *m, json_t *o, struct err *err)
{
    const char *driver = qmp_text(o, "driver"), *backing = qmp_text(o, "backing-file");
    bool file = !strcmp(driver, "file"), raw = file || !strcmp(driver, "raw");
    struct block_create c = {
        .file = file_to_create(m, o),
        .format = raw ? "raw" : driver,
        .size = (uint64_t)json_integer_value(json_object_get(o, "size")),
        .backing = *backing ? backing : NULL,
        .backing_format = *backing ? qmp_text(o, "backing-fmt") : NULL,
        .backing_unchecked = true,
        .cluster_size = (uint32_t)json_integer_value(json_object_get(o, "cluster-size")),
        .extended_l2 = qmp_bool(o, "extended-l2", false),
        .lazy_refcounts = qmp_bool(o, "lazy-refcounts", false),
        .zstd = !strcmp(qmp_text(o, "compression-type"), "zstd"),
        .refcount_bits = (uint32_t)json_integer_value(json_object_get(o, "refcount-bits"))};
    struct err ignored;
    struct block *held = NULL;

    if (!*c.file)
        return err_set(err, EINVAL, "Parameter 'file' needs a file's node or name");
    if (raw && !file)
        return true; /* raw over a file is that file */
    c.size = align_up(c.size, 512);
    if (file && !c.size)
        c.size = 512; /* a format is made over it next */
    if (json_is_string(json_object_get(o, "file")))
        held = node_find(m, json_string_value(json_object_get(o, "file")), &ignored);
    if (held) { /* its lock is ours; it is opened again by name */
        char path[CONFIG_PATH];
        struct named *n = named(m, held);
        struct node_options again = {.file = path, .format = "raw", .name = ""};
        char name[sizeof held->name];
        bool good;

        snprintf(path, sizeof path, "%s", held->config.file);
        snprintf(name, sizeof name, "%s", held->name);
        block_close(held);
        c.file = path;
        good = node_create(m, &c, err);
        n->block = node_open(m, &again, &ignored);
        if (!n->block) {
            list_remove(&n->link);
            free(n);
        } else
            snprintf(n->block->name, sizeof n->block->name, "%s", name);
        return good;
    }
    return node_create(m, &c, err);
}

static json_t *blockdev_create(struct machine *m, json_t *args, struct err *err)
{
    json_t *options = json_object_get(args, "options");
    struct job_options o = {.id = qmp_text(args, "job-id"), .manual_dismiss = true};
    struct block_job *j;

    if (!qmp_need(args, "job-id", err) || !qmp_need(args, "options", err))
        return NULL;
    j = job_new(&m->jobs, &create_type, sizeof *j, NULL, &o, err);
    if (!j)
        return NULL;
    j->total = 1;
    if (create_image(m, options, &j->err))
        j->done = 1;
    job_start(j);
    return json_object();
}

const struct qmp_command qmp_node_commands[] = {
    {"blockdev-add", blockdev_add},
    {"blockdev-del", blockdev_del},
    {"blockdev-create", blockdev_create},
    {"query-named-block-nodes", query_named},
    {0},
};
