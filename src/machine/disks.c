/* SPDX-License-Identifier: MIT */
/* From --disk to a drive and its device, and the drives' events as QMP has them. */
#include "machine/disks.h"
#include "base/clock.h"
#include "machine/nbd.h"
#include "machine/qmp.h"
#include "virtio/devices.h"
#include <errno.h>
#include <unistd.h>

static struct machine *machine_of(struct drive *d);

static const char *const action[] = {
    [DRIVE_REPORT] = "report", [DRIVE_IGNORE] = "ignore", [DRIVE_STOP] = "stop"};

static void on_io_error(struct drive *d, bool read, enum drive_policy did, int error)
{
    struct machine *m = machine_of(d);

    qmp_event(m->qmp, "BLOCK_IO_ERROR", "{s:s, s:s, s:s, s:s, s:b, s:s}", "device", d->id,
              "node-name", d->block.under->name, "operation", read ? "read" : "write", "action",
              action[did], "nospace", error == -ENOSPC, "reason", strerror(-error));
    if (did == DRIVE_STOP)
        machine_stop_for_disk(m);
}

static void on_resized(struct drive *d)
{
    struct device *dev = board_device(&machine_of(d)->board, d->id);

    if (dev)
        virtio_blk_resized(dev);
    nbd_resized(machine_of(d), d);
}

/* A snapshot of the machine, taken later, is of this image. */
static void on_replaced(struct drive *d)
{
    struct machine *m = machine_of(d);

    nbd_replaced(m, d);
    for (unsigned i = 0; i < m->config.disk_count; i++)
        if (m->drive[i] == d) {
            memcpy(m->config.disk[i].file, d->block.config.file, sizeof m->config.disk[i].file);
            snprintf(m->config.disk[i].format, sizeof m->config.disk[i].format, "%s",
                     d->block.under->ops->name);
        }
}

static const struct drive_events events = {
    .io_error = on_io_error,
    .resized = on_resized,
    .replaced = on_replaced,
};

static struct machine *machine_of(struct drive *d)
{
    return d->owner;
}

bool disk_path(const struct machine *m, char path[CONFIG_PATH], const char *name, struct err *err)
{
    int n = name[0] == '/' || !m->folder[0] || block_is_address(name)
                ? snprintf(path, CONFIG_PATH, "%s", name)
                : snprintf(path, CONFIG_PATH, "%s/%s", m->folder, name);

    return (n >= 0 && n < CONFIG_PATH) || err_set(err, ENAMETOOLONG, "%.100s: too long", name);
}

struct drive *disk_find(struct machine *m, const char *id, struct err *err)
{
    for (unsigned i = 0; i < m->config.disk_count; i++)
        if (!strcmp(m->drive[i]->id, id) || !strcmp(m->drive[i]->block.under->name, id))
            return m->drive[i];
    err_set(err, ENOENT, "Cannot find device='%.64s' nor node-name='%.64s'", id, id);
    return NULL;
}

static bool set_policies(struct drive *d, const struct config_disk *c, struct err *err)
{
    struct throttle_config limits = {
        .avg = {c->bps, c->bps_rd, c->bps_wr, c->iops, c->iops_rd, c->iops_wr}};

    return drive_policy_parse(&d->on_write_error, c->werror, DRIVE_ENOSPC, err) &&
           drive_policy_parse(&d->on_read_error, c->rerror, DRIVE_REPORT, err) &&
           (drive_limit(d, &limits, err) || err_wrap(err, "--disk %.200s", c->file));
}

static void name_chain(struct machine *m, struct block *b)
{
    for (; b; b = b->backing)
        snprintf(b->name, sizeof b->name, "#block%03u", ++m->node_count);
}

static bool open_disk(struct machine *m, unsigned i, struct err *err)
{
    const struct config_disk *d = &m->config.disk[i];
    struct block_config config = {.readonly = d->readonly || d->temporary, .discard = d->discard};
    struct block *image;
    char id[16];

    if (!disk_path(m, config.file, d->file, err))
        return false;
    memcpy(config.format, d->format, sizeof config.format);
    memcpy(config.serial, d->serial, sizeof config.serial);
    if (!block_cache_parse(&config.cache, d->cache, err))
        return false;
    config.aio = strcmp(d->aio, "threads") ? AIO_URING : AIO_THREADS;
    image = block_open(m->loop, &config, err);
    if (image && d->temporary && !d->readonly)
        image = block_temporary(image, err);
    if (!image)
        return false;
    name_chain(m, image);
    snprintf(id, sizeof id, "disk%u", i);
    m->drive[i] = drive_open(image, id, err);
    if (!m->drive[i])
        return false;
    m->drive[i]->events = &events;
    m->drive[i]->owner = m;
    m->disk[i] = &m->drive[i]->block;
    return set_policies(m->drive[i], d, err);
}

bool disks_open(struct machine *m, struct err *err)
{
    if (!getcwd(m->folder, sizeof m->folder))
        m->folder[0] = 0;
    for (unsigned i = 0; i < m->config.disk_count; i++) {
        uint16_t queues = m->config.disk[i].queues;

        if (!queues)
            queues = (uint16_t)min_u64(m->config.cpus, 4);
        if (!open_disk(m, i, err) ||
            !device_attach(&m->board, virtio_blk_new(m->drive[i]->id, m->disk[i], queues), err))
            return false;
    }
    return true;
}
