/* SPDX-License-Identifier: MIT */
/* virtio-9p (virtio 1.2, 5.9 reserves its id; the layout is Linux's): a directory of the host by
 * 9P2000.L.
 *
 * Nothing is understood here. A request is copied from the guest into a slot of memory that
 * hull-9p has too, hull-9p answers in the slot's other half, and that is copied to the guest: see
 * 9p_link.h. As many requests are under way as there are slots; the others wait in the ring. */
#include "virtio/9p_link.h"
#include "virtio/devices.h"
#include <errno.h>
#include <linux/virtio_ids.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOUNT_TAG = 0 }; /* feature bit: the configuration has the tag */
enum { HEADER = 7, ERROR_LEN = HEADER + 4, LERROR = 7, BURST = 64 };

struct virtio_9p {
    struct virtio v;
    struct watch link; /* fd -1: hull-9p is gone */
    int area_fd;
    uint8_t *area;
    struct chain *chain[P9_LINK_SLOTS]; /* NULL: the slot is free */
    uint16_t free_slot[P9_LINK_SLOTS], free_count;
    bool starved; /* a request may be waiting for a slot */
    struct log_limit limit;
};

static uint8_t *request_of(const struct virtio_9p *p, uint32_t slot)
{
    return p->area + (size_t)slot * P9_LINK_SLOT;
}

/* What a request gets that hull-9p cannot answer: Rlerror with EIO. */
static void fail(struct chain *c, uint16_t tag)
{
    uint8_t reply[ERROR_LEN] = {ERROR_LEN, 0, 0, 0, LERROR};

    put_le16(reply + 5, tag);
    put_le32(reply + HEADER, EIO);
    chain_write(c, reply, sizeof reply);
    chain_finish(c);
}

static void fail_slot(struct virtio_9p *p, uint32_t slot)
{
    struct chain *c = p->chain[slot];

    p->chain[slot] = NULL;
    p->free_slot[p->free_count++] = (uint16_t)slot;
    fail(c, le16(request_of(p, slot) + 5));
}

/* The guest's driver is told of every request that it will get no answer to. */
static void lost(struct virtio_9p *p)
{
    if (p->link.fd < 0)
        return;
    log_error("%s: its hull-9p has ended: the guest cannot use the share any more", p->v.dev.id);
    loop_forget(p->v.loop, &p->link);
    close(p->link.fd);
    p->link.fd = -1;
    for (uint32_t i = 0; i < P9_LINK_SLOTS; i++)
        if (p->chain[i])
            fail_slot(p, i);
}

/* ---- requests ---- */

/* Takes a request into a slot; false: it is none, and was given back. */
static bool take(struct virtio_9p *p, struct chain *c, uint32_t slot)
{
    size_t len = chain_left(c);

    if (len >= HEADER && len <= P9_LINK_HALF) {
        chain_read(c, request_of(p, slot), len);
        return true;
    }
    log_guest(&p->limit, "%s: a request of %zu bytes", p->v.dev.id, len);
    chain_finish(c);
    return false;
}

static void send_request(struct virtio_9p *p, struct chain *c)
{
    uint32_t slot = p->free_slot[p->free_count - 1];
    struct p9_link_message m = {.slot = slot,
                                .len = (uint32_t)chain_left(c),
                                .room = (uint32_t)min_size(chain_room(c), P9_LINK_HALF)};

    if (!take(p, c, slot))
        return;
    p->free_count--;
    p->chain[slot] = c;
    if (p->link.fd < 0)
        fail_slot(p, slot);
    else if (send(p->link.fd, &m, sizeof m, MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof m)
        lost(p); /* never full: see 9p_link.h */
}

static void p9_kick(struct virtio *v, struct queue *q)
{
    struct virtio_9p *p = container_of(v, struct virtio_9p, v);
    struct chain *c;

    while (p->free_count && (c = queue_next(q)) != NULL)
        send_request(p, c);
    p->starved = !p->free_count;
}

/* ---- replies ---- */

/* The reply's bytes are the guest's business; its length is ours. */
static bool take_reply(struct virtio_9p *p, const struct p9_link_message *m)
{
    struct chain *c = m->slot < P9_LINK_SLOTS ? p->chain[m->slot] : NULL;

    if (!c || m->len > P9_LINK_HALF)
        return false;
    p->chain[m->slot] = NULL;
    p->free_slot[p->free_count++] = (uint16_t)m->slot;
    if (!chain_write(c, request_of(p, m->slot) + P9_LINK_HALF, m->len))
        log_guest(&p->limit, "%s: no room for a reply", p->v.dev.id);
    chain_finish(c);
    return true;
}

static void link_ready(struct watch *w, uint32_t events)
{
    struct virtio_9p *p = container_of(w, struct virtio_9p, link);
    struct queue *q = &p->v.queue[0].q;
    struct p9_link_message m;
    bool good = true;
    ssize_t n = 0;

    queue_hold(q);
    for (unsigned i = 0; good && i < BURST; i++) {
        n = recv(w->fd, &m, sizeof m, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        good = n == sizeof m && take_reply(p, &m);
    }
    if (!good)
        lost(p);
    queue_release(q);
    if (p->starved && p->free_count)
        virtio_kick(&p->v, 0);
}

/* ---- life ---- */

static bool p9_start(struct virtio *v, uint64_t features, struct err *err)
{
    return true;
}

/* hull-9p answers all that it was asked, and soon: the core waits for that. */
static void p9_stop(struct virtio *v)
{
}

static const struct virtio_ops p9_ops = {
    .id = VIRTIO_ID_9P,
    .queue_size = 256,
    .class_code = 0x000200, /* as others have it: unclassified */
    .start = p9_start,
    .kick = p9_kick,
    .stop = p9_stop,
};

static bool p9_attach(struct device *dev, struct board *board, struct err *err)
{
    struct virtio_9p *p = container_of(dev, struct virtio_9p, v.dev);
    void *area = mmap(NULL, P9_LINK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, p->area_fd, 0);

    if (area == MAP_FAILED)
        return err_set(err, errno, "%s: cannot map its slots: %s", dev->id, strerror(errno));
    p->area = area;
    for (uint16_t i = 0; i < P9_LINK_SLOTS; i++)
        p->free_slot[p->free_count++] = i;
    p->v.offered = BIT(MOUNT_TAG);
    p->v.queue_count = 1;
    p->link.events = EPOLLIN;
    p->link.ready = link_ready;
    return virtio_pci_attach(&p->v, board, &p9_ops, -1, err) &&
           loop_watch(p->v.loop, &p->link, err);
}

static void p9_detach(struct device *dev)
{
    struct virtio_9p *p = container_of(dev, struct virtio_9p, v.dev);

    virtio_detach(dev);
    if (p->link.fd >= 0) {
        if (p->v.loop)
            loop_forget(p->v.loop, &p->link);
        close(p->link.fd);
        p->link.fd = -1;
    }
    if (p->area)
        munmap(p->area, P9_LINK_BYTES);
    p->area = NULL;
    if (p->area_fd >= 0)
        close(p->area_fd);
    p->area_fd = -1;
}

/* What hull-9p holds for the guest cannot be saved: the machine refuses before it comes to this. */
static const struct field p9_state[] = {
    FIELD_TABLE(struct virtio_9p, v, virtio_state),
    {0},
};

const struct device_type virtio_9p_type = {
    .name = "virtio-9p",
    .size = sizeof(struct virtio_9p),
    .state = p9_state,
    .state_version = 1,
    .attach = p9_attach,
    .reset = virtio_reset,
    .pause = virtio_pause,
    .resume = virtio_resume,
    .restored = virtio_restored,
    .detach = p9_detach,
};

struct device *virtio_9p_new(const char *id, const char *tag, int link, int area)
{
    struct device *dev = device_new(&virtio_9p_type, id);
    size_t len = strlen(tag);
    struct virtio_9p *p;

    if (!dev)
        return NULL;
    p = container_of(dev, struct virtio_9p, v.dev);
    p->link.fd = link;
    p->area_fd = area;
    put_le16(p->v.config, (uint16_t)len);
    memcpy(p->v.config + 2, tag, min_size(len, VIRTIO_CONFIG_MAX - 2));
    p->v.config_len = (uint16_t)(2 + len);
    return dev;
}
