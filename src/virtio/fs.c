/* SPDX-License-Identifier: MIT */
/* virtio-fs (virtio 1.2, 5.11): FUSE requests of the guest, served by virtiofsd over vhost-user.
 * Queue 0 is for requests that must not wait behind others, queue 1 for the rest. */
#include "virtio/devices.h"
#include "virtio/vhost_user.h"
#include <errno.h>
#include <linux/virtio_fs.h>
#include <linux/virtio_ids.h>

enum { QUEUES = 2, FUSE_IN = 40, FUSE_UNIQUE = 8, FUSE_OUT = 16 };

struct virtio_fs {
    struct virtio v;
    struct vhost_user back;
    char what[64];
};

/* The request fails with EIO; some expect no answer at all. */
static void fs_fail(struct vhost_user *u, struct chain *c)
{
    uint8_t in[FUSE_IN], out[FUSE_OUT];

    if (chain_read(c, in, sizeof in) && chain_room(c) >= sizeof out) {
        put_le32(out, sizeof out);
        put_le32(out + 4, (uint32_t)-EIO);
        memcpy(out + 8, in + FUSE_UNIQUE, 8);
        chain_write(c, out, sizeof out);
    }
    chain_finish(c);
}

static void fs_kick(struct virtio *v, struct queue *q)
{
    vhost_user_kick(&container_of(v, struct virtio_fs, v)->back, q);
}

static bool fs_start(struct virtio *v, uint64_t features, struct err *err)
{
    return true;
}

/* virtiofsd answers what it was asked: the core waits for that. */
static void fs_stop(struct virtio *v)
{
}

static const struct virtio_ops fs_ops = {
    .id = VIRTIO_ID_FS,
    .queue_size = 256,
    .class_code = 0x018000, /* mass storage */
    .start = fs_start,
    .kick = fs_kick,
    .stop = fs_stop,
};

static bool fs_attach(struct device *dev, struct board *board, struct err *err)
{
    struct virtio_fs *f = container_of(dev, struct virtio_fs, v.dev);

    f->v.queue_count = QUEUES;
    f->back.what = f->what;
    f->back.fail = fs_fail;
    return virtio_pci_attach(&f->v, board, &fs_ops, -1, err) &&
           vhost_user_open(&f->back, &f->v, QUEUES, 0, err);
}

static void fs_detach(struct device *dev)
{
    struct virtio_fs *f = container_of(dev, struct virtio_fs, v.dev);

    virtio_detach(dev);
    vhost_user_close(&f->back);
}

/* What virtiofsd holds for the guest cannot be saved: the machine refuses before it comes to this.
 */
static const struct field fs_state[] = {
    FIELD_TABLE(struct virtio_fs, v, virtio_state),
    {0},
};

const struct device_type virtio_fs_type = {
    .name = "virtio-fs",
    .size = sizeof(struct virtio_fs),
    .state = fs_state,
    .state_version = 1,
    .attach = fs_attach,
    .reset = virtio_reset,
    .pause = virtio_pause,
    .resume = virtio_resume,
    .restored = virtio_restored,
    .detach = fs_detach,
};

struct device *virtio_fs_new(const char *id, const char *tag, int socket)
{
    struct device *dev = device_new(&virtio_fs_type, id);
    struct virtio_fs *f;

    if (!dev)
        return NULL;
    f = container_of(dev, struct virtio_fs, v.dev);
    f->back.socket.fd = socket;
    snprintf(f->what, sizeof f->what, "--share %s", tag);
    memcpy(f->v.config, tag, min_size(strlen(tag), SHARE_TAG_MAX));
    put_le32(f->v.config + SHARE_TAG_MAX, QUEUES - 1);
    f->v.config_len = SHARE_TAG_MAX + 4;
    return dev;
}
