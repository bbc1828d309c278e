/* SPDX-License-Identifier: MIT */
/* virtio-net over the kernel's vhost-net: each pair of queues with its tap is the kernel's while
 * the driver uses it, and frames never come here. The control queue, the link and offloads stay
 * ours.
 *
 * A pair that the driver does not use has no queue at the tap either, or the tap would hand it
 * frames that nobody takes. The kernel knows no receive filter: the guest's own does the work. */
#include "virtio/net_card.h"
#include "virtio/vhost.h"
#include <errno.h>
#include <linux/vhost.h>
#include <stdlib.h>

static bool run(struct vhost *h, bool on, struct err *err)
{
    for (unsigned i = 0; i < VHOST_RINGS; i++) {
        struct vhost_vring_file f = {.index = i, .fd = on ? h->backend : -1};

        if (!vhost_call(h, VHOST_NET_SET_BACKEND, &f, "VHOST_NET_SET_BACKEND", err))
            return false;
    }
    return true;
}

bool net_vhost_open(struct virtio_net *n, struct err *err)
{
    const struct vhost_wish wish = {"--net tap,vhost=on", n->vhost_path, "vhost_net",
                                    "leave vhost=on out"};

    for (unsigned i = 0; i < n->pair_count; i++) {
        struct net_pair *p = &n->pair[i];

        p->vhost = calloc(1, sizeof *p->vhost);
        if (!p->vhost)
            return err_set(err, ENOMEM, "no memory for vhost-net");
        p->vhost->ops = n->vhost_ops;
        p->vhost->run = run;
        p->vhost->backend = net_tap_lend(p->backend);
        if (!vhost_open(p->vhost, n->v.dev.board, &wish, err) ||
            !vhost_check(p->vhost, BIT(VIRTIO_NET_F_MRG_RXBUF), err))
            return false;
    }
    return true;
}

bool net_vhost_attach(struct virtio_net *n, struct err *err)
{
    for (unsigned i = 0; i < n->pair_count; i++)
        if (!vhost_attach(n->pair[i].vhost, &n->v, 2 * i, err))
            return false;
    return true;
}

static bool wanted(const struct virtio_net *n, unsigned pair)
{
    const struct virtio *v = &n->v;

    return v->life == VIRTIO_RUNNING && !v->paused && n->link & VIRTIO_NET_S_LINK_UP &&
           pair < n->active_pairs && v->queue[2 * pair].q.live && v->queue[2 * pair + 1].q.live &&
           !v->queue[2 * pair].q.broken && !v->queue[2 * pair + 1].q.broken;
}

bool net_vhost_update(struct virtio_net *n, struct err *err)
{
    bool good = true;

    for (unsigned i = 0; n->vhost_path && i < n->pair_count; i++) {
        struct net_pair *p = &n->pair[i];
        bool want = good && wanted(n, i);

        if (!want)
            vhost_stop(p->vhost);
        if (n->pair_count > 1)
            net_tap_enable(p->backend, want || !i);
        if (want)
            good = vhost_start(p->vhost, err);
    }
    return good;
}

void net_vhost_refresh(struct virtio_net *n)
{
    struct err err;

    if (!net_vhost_update(n, &err))
        virtio_needs_reset(&n->v, err.text);
}

void net_vhost_stop(struct virtio_net *n)
{
    for (unsigned i = 0; n->vhost_path && i < n->pair_count; i++)
        vhost_stop(n->pair[i].vhost);
}

void net_vhost_close(struct virtio_net *n)
{
    for (unsigned i = 0; i < n->pair_count; i++) {
        if (n->pair[i].vhost)
            vhost_close(n->pair[i].vhost);
        free(n->pair[i].vhost);
        n->pair[i].vhost = NULL;
    }
}

struct device *virtio_net_vhost_new(const char *id, struct net *const *tap, uint16_t pairs,
                                    const uint8_t mac[6], uint16_t mtu)
{
    struct device *dev = virtio_net_new(id, tap, pairs, mac, mtu);

    if (dev)
        container_of(dev, struct virtio_net, v.dev)->vhost_path = "/dev/vhost-net";
    return dev;
}
