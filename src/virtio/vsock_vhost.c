/* SPDX-License-Identifier: MIT */
/* virtio-vsock by the host's kernel: it serves the receive and transmit queues, so that programs of
 * the host use AF_VSOCK as the guest's do. The event queue stays ours (vsock.c). */
#include "virtio/vsock.h"
#include <errno.h>
#include <linux/vhost.h>

static bool run(struct vhost *h, bool on, struct err *err)
{
    int running = on;

    return vhost_call(h, VHOST_VSOCK_SET_RUNNING, &running, "VHOST_VSOCK_SET_RUNNING", err);
}

bool vsock_vhost_open(struct virtio_vsock *vs, struct err *err)
{
    uint64_t cid = vs->cid;
    char what[32];
    const struct vhost_wish wish = {what, "/dev/vhost-vsock", "vhost_vsock",
                                    "add socket=PATH for one over UNIX sockets"};
    int code;

    snprintf(what, sizeof what, "--vsock %u", vs->cid);
    vs->vhost.run = run;
    if (!vhost_open(&vs->vhost, vs->v.dev.board, &wish, err) || !vhost_check(&vs->vhost, 0, err))
        return false;
    code = -vs->vhost.ops->call(&vs->vhost, VHOST_VSOCK_SET_GUEST_CID, &cid);
    if (code == EADDRINUSE)
        return err_set(err, code, "%s: another machine of this host has that CID; choose another",
                       what);
    return !code || err_set(err, code, "%s: the kernel refuses this CID: %s", what, strerror(code));
}

bool vsock_vhost_start(struct virtio_vsock *vs, struct err *err)
{
    return !vs->by_kernel || !vs->v.queue[0].q.live || !vs->v.queue[1].q.live ||
           vhost_start(&vs->vhost, err);
}

struct device *virtio_vsock_vhost_new(const char *id, uint32_t cid)
{
    struct device *dev = virtio_vsock_new(id, cid, -1, -1);

    if (dev)
        container_of(dev, struct virtio_vsock, v.dev)->by_kernel = true;
    return dev;
}
