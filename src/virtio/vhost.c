/* SPDX-License-Identifier: MIT */
/* Lending queues to the host's kernel: see vhost.h.
 *
 *   driver's notification -> queue's eventfd -> kernel            (the loop does not watch it then)
 *   kernel -> `called` eventfd -> engine, or loop -> transport's interrupt
 *
 * The kernel gets host addresses of rings that queue_start has checked, and a table of guest memory
 * from which it translates buffers itself: read-only regions are not in it. What it writes is
 * marked in no dirty log and told to no memory watcher; see mem_log_start and vhost_open. */
#include "virtio/vhost.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static int kernel_call(struct vhost *h, unsigned long request, void *arg)
{
    return ioctl(h->fd, request, arg) < 0 ? -errno : 0;
}

static const struct vhost_ops kernel_ops = {kernel_call};

bool vhost_call(struct vhost *h, unsigned long request, void *arg, const char *name,
                struct err *err)
{
    int result = h->ops->call(h, request, arg);

    return result >= 0 ||
           err_set(err, -result, "%s: the kernel refuses %s: %s", h->what, name, strerror(-result));
}

/* ---- opening ---- */

static bool say_cannot(const struct vhost_wish *w, int code, struct err *err)
{
    struct stat st;
    const struct group *g = stat(w->path, &st) ? NULL : getgrgid(st.st_gid);

    if (code == ENOENT || code == ENODEV || code == ENXIO)
        return err_set(err, code, "%s: %s is missing: sudo modprobe %s; or %s", w->what, w->path,
                       w->module, w->instead);
    if ((code == EACCES || code == EPERM) && g && st.st_mode & S_IRGRP && st.st_gid)
        return err_set(err, code,
                       "%s: %s is for group %s: sudo usermod -aG %s $USER and log in again; or %s",
                       w->what, w->path, g->gr_name, g->gr_name, w->instead);
    if (code == EACCES || code == EPERM)
        return err_set(err, code, "%s: %s: not allowed: sudo setfacl -m u:$USER:rw %s; or %s",
                       w->what, w->path, w->path, w->instead);
    return err_set(err, code, "%s: %s: %s", w->what, w->path, strerror(code));
}

bool vhost_open(struct vhost *h, const struct board *board, const struct vhost_wish *wish,
                struct err *err)
{
    snprintf(h->what, sizeof h->what, "%s", wish->what);
    h->fd = -1;
    if (board->mem->watcher)
        return err_set(err, ENOTSUP,
                       "%s: the soft engine must see every write to guest memory, which the kernel "
                       "does not tell: use --engine kvm; or %s",
                       wish->what, wish->instead);
    h->ops = h->ops ? h->ops : &kernel_ops;
    h->fd = open(wish->path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (h->fd < 0)
        return say_cannot(wish, errno, err);
    if (vhost_call(h, VHOST_SET_OWNER, NULL, "VHOST_SET_OWNER", err) &&
        vhost_call(h, VHOST_GET_FEATURES, &h->features, "VHOST_GET_FEATURES", err))
        return true;
    close(h->fd);
    h->fd = -1;
    return false;
}

bool vhost_check(const struct vhost *h, uint64_t needed, struct err *err)
{
    uint64_t missing = (needed | BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_EVENT_IDX) |
                        BIT(VIRTIO_RING_F_INDIRECT_DESC)) &
                       ~h->features;

    return !missing || err_set(err, ENOTSUP,
                               "%s: this host's kernel is too old for it: its vhost lacks features "
                               "0x%llx",
                               h->what, (unsigned long long)missing);
}

/* ---- the rings' eventfds ---- */

static void called(struct watch *w, uint32_t events)
{
    struct vhost_ring *r = container_of(w, struct vhost_ring, called);
    struct virtio *v = r->owner->v;
    uint64_t count;

    if (read(w->fd, &count, sizeof count) == sizeof count)
        v->transport->interrupt(v, __atomic_load_n(&v->queue[r->queue].vector, __ATOMIC_RELAXED),
                                VIRTIO_ISR_QUEUE);
}

static void broken(struct watch *w, uint32_t events)
{
    struct vhost_ring *r = container_of(w, struct vhost_ring, broken);
    uint64_t count;

    if (read(w->fd, &count, sizeof count) == sizeof count)
        virtio_needs_reset(r->owner->v, "the host's kernel cannot go on with a ring");
}

static bool open_eventfd(struct loop *l, struct watch *w,
                         void (*ready)(struct watch *w, uint32_t events), struct err *err)
{
    *w = (struct watch){
        .fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), .events = EPOLLIN, .ready = ready};
    if (w->fd < 0)
        return err_set(err, errno, "cannot create an eventfd: %s", strerror(errno));
    return loop_watch(l, w, err);
}

bool vhost_attach(struct vhost *h, struct virtio *v, unsigned first, struct err *err)
{
    h->v = v;
    for (unsigned i = 0; i < VHOST_RINGS; i++) {
        struct vhost_ring *r = &h->ring[i];

        r->owner = h;
        r->queue = first + i;
        r->called.fd = r->broken.fd = -1;
    }
    for (unsigned i = 0; i < VHOST_RINGS; i++)
        if (!open_eventfd(v->loop, &h->ring[i].called, called, err) ||
            !open_eventfd(v->loop, &h->ring[i].broken, broken, err))
            return false;
    v->dev.board->mem->unlogged = h->what;
    return true;
}

static void close_eventfd(struct loop *l, struct watch *w)
{
    if (w->fd < 0)
        return;
    loop_forget(l, w);
    close(w->fd);
    w->fd = -1;
}

void vhost_close(struct vhost *h)
{
    if (!h->ops)
        return;
    assert(!h->running);
    for (unsigned i = 0; h->v && i < VHOST_RINGS; i++) {
        close_eventfd(h->v->loop, &h->ring[i].called);
        close_eventfd(h->v->loop, &h->ring[i].broken);
    }
    if (h->v && h->v->dev.board->mem->unlogged == h->what)
        h->v->dev.board->mem->unlogged = NULL;
    if (h->fd >= 0)
        close(h->fd);
    h->fd = -1;
    h->ops = NULL;
}

/* ---- running ---- */

static bool set_memory(struct vhost *h, struct err *err)
{
    const struct mem *m = h->v->dev.board->mem;
    union {
        struct vhost_memory table;
        char room[sizeof(struct vhost_memory) +
                  MEM_REGIONS_MAX * sizeof(struct vhost_memory_region)];
    } memory = {.table.nregions = 0};

    for (unsigned i = 0; i < m->count; i++) {
        const struct mem_region *r = &m->region[i];

        if (!r->readonly)
            memory.table.regions[memory.table.nregions++] = (struct vhost_memory_region){
                .guest_phys_addr = r->base,
                .memory_size = r->size,
                .userspace_addr = (uintptr_t)r->host,
            };
    }
    return vhost_call(h, VHOST_SET_MEM_TABLE, &memory, "VHOST_SET_MEM_TABLE", err);
}

static bool set_fd(struct vhost *h, unsigned long request, unsigned ring, int fd, const char *name,
                   struct err *err)
{
    struct vhost_vring_file f = {.index = ring, .fd = fd};

    return vhost_call(h, request, &f, name, err);
}

static bool start_ring(struct vhost *h, unsigned i, struct err *err)
{
    struct vhost_ring *r = &h->ring[i];
    struct virtio_queue *vq = &h->v->queue[r->queue];
    struct vhost_vring_state size = {i, vq->q.setup.size}, base = {i, vq->q.avail};
    struct vhost_vring_addr addr = {
        .index = i,
        .desc_user_addr = (uintptr_t)vq->q.desc,
        .avail_user_addr = (uintptr_t)vq->q.avail_ring,
        .used_user_addr = (uintptr_t)vq->q.used_ring,
    };

    return vhost_call(h, VHOST_SET_VRING_NUM, &size, "VHOST_SET_VRING_NUM", err) &&
           vhost_call(h, VHOST_SET_VRING_BASE, &base, "VHOST_SET_VRING_BASE", err) &&
           vhost_call(h, VHOST_SET_VRING_ADDR, &addr, "VHOST_SET_VRING_ADDR", err) &&
           set_fd(h, VHOST_SET_VRING_CALL, i, r->called.fd, "VHOST_SET_VRING_CALL", err) &&
           set_fd(h, VHOST_SET_VRING_ERR, i, r->broken.fd, "VHOST_SET_VRING_ERR", err) &&
           set_fd(h, VHOST_SET_VRING_KICK, i, vq->kick.fd, "VHOST_SET_VRING_KICK", err);
}

/* Interrupts go from kernel to kernel where the engine can do that. */
static void bind_vector(struct vhost_ring *r)
{
    struct virtio *v = r->owner->v;
    uint16_t vector = __atomic_load_n(&v->queue[r->queue].vector, __ATOMIC_RELAXED);

    if (vector == VIRTIO_NO_VECTOR || !pci_msix_enabled(&v->pci))
        return;
    r->line = (struct pci_msix_line){.fd = r->called.fd, .vector = vector};
    r->bound = pci_msix_bind(&v->pci, &r->line);
    if (r->bound)
        loop_forget(v->loop, &r->called);
}

/* An interrupt on its way is not lost. */
static void unbind_vector(struct vhost_ring *r)
{
    struct virtio *v = r->owner->v;
    struct err err;

    if (r->bound) {
        pci_msix_unbind(&v->pci, &r->line);
        if (!loop_watch(v->loop, &r->called, &err))
            virtio_needs_reset(v, err.text);
    }
    r->bound = false;
    called(&r->called, 0);
}

/* Where the kernel stopped: what it took of the available ring it says, what it used it wrote. */
static void take_position(struct vhost *h, unsigned i)
{
    struct queue *q = &h->v->queue[h->ring[i].queue].q;
    struct vhost_vring_state base = {.index = i};

    if (h->ops->call(h, VHOST_GET_VRING_BASE, &base) == 0)
        q->avail = (uint16_t)base.num;
    q->used = __atomic_load_n(&q->used_ring->idx, __ATOMIC_ACQUIRE);
}

/* Features that are the kernel's business; the others stay between the driver and us. */
static uint64_t kernel_features(const struct vhost *h)
{
    return h->v->agreed & h->features;
}

bool vhost_start(struct vhost *h, struct err *err)
{
    uint64_t features = kernel_features(h);

    if (h->running)
        return true;
    if (!vhost_call(h, VHOST_SET_FEATURES, &features, "VHOST_SET_FEATURES", err) ||
        !set_memory(h, err))
        return false;
    for (unsigned i = 0; i < VHOST_RINGS; i++)
        if (!start_ring(h, i, err))
            return false;
    for (unsigned i = 0; i < VHOST_RINGS; i++) {
        bind_vector(&h->ring[i]);
        virtio_queue_lend(h->v, h->ring[i].queue, true);
    }
    h->running = true;
    if (h->run(h, true, err))
        return true;
    vhost_stop(h);
    return false;
}

void vhost_stop(struct vhost *h)
{
    struct err err;

    if (!h->running)
        return;
    h->running = false;
    h->run(h, false, &err); /* returns when the kernel has let go of all buffers */
    for (unsigned i = 0; i < VHOST_RINGS; i++) {
        take_position(h, i);
        virtio_queue_lend(h->v, h->ring[i].queue, false);
        unbind_vector(&h->ring[i]);
    }
}
