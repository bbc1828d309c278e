/* SPDX-License-Identifier: MIT */
/* The life of a virtio device between its registers and its loop: see virtio.h for the picture.
 *
 * virtio_sync is the only place where `life` moves. It looks under the lock and decides one step,
 * then does the step without the lock, until there is nothing to do. What a step needs of the
 * registers was copied with the decision, so a driver that resets meanwhile changes nothing under
 * it. */
#include "virtio/virtio.h"
#include <assert.h>
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#ifndef VIRTIO_F_RING_RESET
#define VIRTIO_F_RING_RESET 40
#endif

/* Chains for one kick: a guest that refills its ring all the time cannot hold the loop. */
#define KICK_CHAINS 1024

static struct virtio_queue *queue_of(struct queue *q)
{
    return container_of(q, struct virtio_queue, q);
}

/* ---- what queues report ---- */

static void on_interrupt(struct queue *q)
{
    struct virtio_queue *vq = queue_of(q);

    vq->v->transport->interrupt(vq->v, __atomic_load_n(&vq->vector, __ATOMIC_RELAXED),
                                VIRTIO_ISR_QUEUE);
}

static void on_broken(struct queue *q, const char *why)
{
    char text[128];

    snprintf(text, sizeof text, "queue %u: %s", q->index, why);
    virtio_needs_reset(queue_of(q)->v, text);
}

static void on_drained(struct queue *q)
{
    struct virtio *v = queue_of(q)->v;

    loop_post(v->loop, &v->sync);
}

static const struct queue_ops queue_ops = {on_interrupt, on_broken, on_drained};

void virtio_needs_reset(struct virtio *v, const char *why)
{
    bool tell = false;
    uint16_t vector;

    pthread_mutex_lock(&v->dev.lock);
    if (v->life == VIRTIO_RUNNING && !v->resetting && !(v->status & VIRTIO_NEEDS_RESET)) {
        v->status |= VIRTIO_NEEDS_RESET;
        v->generation++;
        tell = v->status & VIRTIO_DRIVER_OK;
    }
    vector = v->config_vector;
    pthread_mutex_unlock(&v->dev.lock);
    if (tell) {
        log_guest(&v->dev.limit, "%s: needs a reset: %s", v->dev.id, why);
        v->transport->interrupt(v, vector, VIRTIO_ISR_CONFIG);
    }
}

void virtio_config_set(struct virtio *v, unsigned offset, const void *src, size_t len,
                       bool interrupt)
{
    uint16_t vector;

    assert(offset + len <= sizeof v->config);
    pthread_mutex_lock(&v->dev.lock);
    memcpy(v->config + offset, src, len);
    v->generation++;
    interrupt = interrupt && v->status & VIRTIO_DRIVER_OK;
    vector = v->config_vector;
    pthread_mutex_unlock(&v->dev.lock);
    if (interrupt)
        v->transport->interrupt(v, vector, VIRTIO_ISR_CONFIG);
}

/* ---- kicks ---- */

void virtio_kick(struct virtio *v, unsigned queue)
{
    struct queue *q = &v->queue[queue].q;
    bool again;

    if (v->life != VIRTIO_RUNNING || v->paused || !q->live || q->broken || q->stopping ||
        v->queue[queue].lent)
        return;
    queue_hold(q);
    q->budget = KICK_CHAINS;
    v->ops->kick(v, q);
    again = !q->budget;
    q->budget = QUEUE_NO_BUDGET;
    queue_release(q);
    if (again) /* as if the driver had kicked once more: after everyone else's turn */
        virtio_notify(v, queue);
}

/* The order matters: the eventfd is read, then the flag falls, then the queue is looked at. A
 * notification before the flag falls is covered by the look (the exchange is a full barrier here
 * and in virtio_notify); one after it writes again. Were the flag to fall before the read, the read
 * could eat the write of a later notification and leave its flag up for ever. */
static void kick_ready(struct watch *w, uint32_t events)
{
    struct virtio_queue *vq = container_of(w, struct virtio_queue, kick);
    uint64_t count;
    ssize_t got = read(w->fd, &count, sizeof count);

    (void)events;
    (void)__atomic_exchange_n(&vq->kicked, false, __ATOMIC_SEQ_CST);
    if (got == sizeof count)
        virtio_kick(vq->v, vq->q.index);
}

void virtio_notify(struct virtio *v, uint32_t queue)
{
    struct virtio_queue *vq;
    uint64_t one = 1;

    if (queue >= v->queue_count)
        return;
    vq = &v->queue[queue];
    loop_stir(v->loop);
    /* One write wakes the loop; further ones would only cost. See kick_ready. */
    if (!__atomic_exchange_n(&vq->kicked, true, __ATOMIC_SEQ_CST) ||
        __atomic_load_n(&vq->lent, __ATOMIC_SEQ_CST))
        (void)!write(vq->kick.fd, &one, sizeof one);
}

/* A vCPU that still sees the old `lent` either finds the flag down and writes, or came before the
 * flag fell here, and then the write below comes after it. */
void virtio_queue_lend(struct virtio *v, unsigned queue, bool on)
{
    struct virtio_queue *vq = &v->queue[queue];
    uint64_t one = 1;
    struct err err;

    if (on)
        loop_forget(v->loop, &vq->kick);
    __atomic_store_n(&vq->lent, on, __ATOMIC_SEQ_CST);
    __atomic_store_n(&vq->kicked, false, __ATOMIC_SEQ_CST);
    (void)!write(vq->kick.fd, &one, sizeof one);
    if (!on && !loop_watch(v->loop, &vq->kick, &err))
        queue_break(&vq->q, err.text);
}

/* ---- the driver's side, under dev.lock ---- */

static void queue_regs_reset(struct virtio *v, struct virtio_queue *vq)
{
    vq->size = v->ops->queue_size ? v->ops->queue_size : 256;
    __atomic_store_n(&vq->vector, VIRTIO_NO_VECTOR, __ATOMIC_RELAXED);
    vq->enabled = vq->resetting = false;
    vq->desc = vq->driver = vq->device = 0;
    vq->avail = vq->used = 0;
}

static void virtio_reset_locked(struct virtio *v)
{
    v->old_status = v->resetting ? v->old_status : v->status;
    v->status = v->isr = 0;
    v->features = 0;
    v->offered_select = v->driver_select = 0;
    v->queue_select = 0;
    v->config_vector = VIRTIO_NO_VECTOR;
    for (unsigned i = 0; i < v->queue_count; i++)
        queue_regs_reset(v, &v->queue[i]);
    v->transport->reset(v);
    v->resetting = v->life != VIRTIO_IDLE;
    if (v->resetting)
        loop_post(v->loop, &v->sync);
}

uint8_t virtio_status(const struct virtio *v)
{
    return v->resetting && !v->status ? v->old_status : v->status;
}

static bool features_acceptable(const struct virtio *v)
{
    return !(v->features & ~v->offered) && v->features & BIT(VIRTIO_F_VERSION_1);
}

void virtio_set_status(struct virtio *v, uint8_t status)
{
    if (!status) {
        virtio_reset_locked(v);
        return;
    }
    if (status & ~v->status & VIRTIO_FEATURES_OK && !features_acceptable(v))
        status &= (uint8_t)~VIRTIO_FEATURES_OK;
    /* Bits are only ever added, until a reset. */
    v->status |= status & (uint8_t)~VIRTIO_NEEDS_RESET;
    loop_post(v->loop, &v->sync);
}

void virtio_set_features(struct virtio *v, uint32_t select, uint32_t bits)
{
    if (select > 1 || v->status & VIRTIO_FEATURES_OK)
        return;
    v->features &= select ? UINT32_MAX : ~(uint64_t)UINT32_MAX;
    v->features |= (uint64_t)bits << 32 * select;
}

void virtio_queue_enable(struct virtio *v, uint16_t queue)
{
    struct virtio_queue *vq = &v->queue[queue];

    if (queue >= v->queue_count || vq->enabled || vq->resetting ||
        !(v->status & VIRTIO_FEATURES_OK))
        return;
    vq->enabled = true;
    vq->avail = vq->used = v->features & BIT(VIRTIO_F_RING_PACKED) ? 0x8000 : 0;
    loop_post(v->loop, &v->sync);
}

void virtio_queue_reset(struct virtio *v, uint16_t queue)
{
    struct virtio_queue *vq = &v->queue[queue];

    if (queue >= v->queue_count || !vq->enabled || vq->resetting ||
        !(v->features & BIT(VIRTIO_F_RING_RESET)))
        return;
    vq->resetting = true;
    loop_post(v->loop, &v->sync);
}

/* ---- the loop's side ---- */

enum step { STEP_NONE, STEP_START, STEP_STOP, STEP_QUEUE_START, STEP_QUEUE_STOP };

static bool virtio_driver_ready_locked(const struct virtio *v)
{
    uint8_t need = VIRTIO_DRIVER_OK | VIRTIO_FEATURES_OK;

    return (v->status & need) == need && !(v->status & VIRTIO_FAILED);
}

static bool any_busy(const struct virtio *v)
{
    for (unsigned i = 0; i < v->queue_count; i++)
        if (queue_busy(&v->queue[i].q))
            return true;
    return false;
}

static void setup_copy_locked(struct virtio *v, struct virtio_queue *vq)
{
    vq->setup = (struct queue_setup){
        .desc = vq->desc,
        .driver = vq->driver,
        .device = vq->device,
        .size = vq->enabled && !vq->resetting ? vq->size : 0,
        .packed = v->features & BIT(VIRTIO_F_RING_PACKED),
        .event_idx = v->features & BIT(VIRTIO_RING_F_EVENT_IDX),
        .indirect = v->features & BIT(VIRTIO_RING_F_INDIRECT_DESC),
        .avail = vq->avail,
        .used = vq->used,
    };
}

/* A queue that the driver resets or enables while the device runs. */
static enum step decide_queue_locked(struct virtio *v, unsigned *queue)
{
    for (*queue = 0; *queue < v->queue_count; ++*queue) {
        struct virtio_queue *vq = &v->queue[*queue];

        if (vq->resetting) {
            if (vq->q.live && !vq->q.stopping)
                return STEP_QUEUE_STOP;
            if (queue_busy(&vq->q))
                continue; /* on_drained comes */
            vq->q.live = vq->q.broken = false;
            queue_regs_reset(v, vq);
        }
        if (vq->enabled && !vq->q.live && !vq->q.broken && !v->paused) {
            setup_copy_locked(v, vq);
            return STEP_QUEUE_START;
        }
    }
    return STEP_NONE;
}

static enum step decide_locked(struct virtio *v, unsigned *queue)
{
    if (v->life == VIRTIO_STOPPING) {
        if (any_busy(v))
            return STEP_NONE; /* on_drained comes */
        for (unsigned i = 0; i < v->queue_count; i++)
            v->queue[i].q.live = v->queue[i].q.broken = false;
        v->life = VIRTIO_IDLE;
        v->resetting = false;
    }
    if (v->life == VIRTIO_RUNNING && v->resetting) {
        v->life = VIRTIO_STOPPING;
        return STEP_STOP;
    }
    if (v->life == VIRTIO_IDLE && !v->paused && virtio_driver_ready_locked(v)) {
        v->life = VIRTIO_RUNNING;
        v->agreed = v->features;
        for (unsigned i = 0; i < v->queue_count; i++)
            setup_copy_locked(v, &v->queue[i]);
        return STEP_START;
    }
    return v->life == VIRTIO_RUNNING ? decide_queue_locked(v, queue) : STEP_NONE;
}

static bool queue_begin(struct virtio *v, struct virtio_queue *vq)
{
    if (queue_start(&vq->q, &vq->setup) == 0) {
        vq->q.paused = v->paused;
        return true;
    }
    queue_break(&vq->q, "ring of a wrong size, not aligned or outside of memory");
    return false;
}

static void bells(struct virtio *v, bool on)
{
    if (v->transport->bells)
        v->transport->bells(v, on);
}

static void step_start(struct virtio *v)
{
    struct err err;

    for (unsigned i = 0; i < v->queue_count; i++)
        if (v->queue[i].setup.size)
            queue_begin(v, &v->queue[i]);
    if (!v->ops->start(v, v->agreed, &err)) {
        for (unsigned i = 0; i < v->queue_count; i++)
            queue_break(&v->queue[i].q, err.text);
        return;
    }
    bells(v, true);
    for (unsigned i = 0; i < v->queue_count; i++)
        virtio_kick(v, i);
}

static void step_stop(struct virtio *v)
{
    bells(v, false);
    for (unsigned i = 0; i < v->queue_count; i++)
        v->queue[i].q.stopping = true;
    v->ops->stop(v);
}

static void virtio_sync(struct call *call)
{
    struct virtio *v = container_of(call, struct virtio, sync);
    enum step step;
    unsigned i = 0;

    do {
        pthread_mutex_lock(&v->dev.lock);
        step = decide_locked(v, &i);
        pthread_mutex_unlock(&v->dev.lock);
        switch (step) {
        case STEP_NONE: break;
        case STEP_START: step_start(v); break;
        case STEP_STOP: step_stop(v); break;
        case STEP_QUEUE_START:
            if (queue_begin(v, &v->queue[i])) {
                bells(v, true);
                virtio_kick(v, i);
            }
            break;
        case STEP_QUEUE_STOP:
            v->queue[i].q.stopping = true;
            if (v->ops->queue_stop)
                v->ops->queue_stop(v, &v->queue[i].q);
            break;
        }
    } while (step != STEP_NONE);
}

/* ---- the machine's side ---- */

bool virtio_open(struct virtio *v, struct board *board, const struct virtio_ops *ops,
                 const struct virtio_transport *transport, struct err *err)
{
    assert(v->queue_count && v->queue_count <= VIRTIO_QUEUES_MAX);
    assert(v->config_len <= VIRTIO_CONFIG_MAX);
    v->ops = ops;
    v->transport = transport;
    v->loop = v->loop ? v->loop : board->loop;
    v->sync.run = virtio_sync;
    v->config_vector = VIRTIO_NO_VECTOR;
    v->offered |=
        BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_INDIRECT_DESC) | BIT(VIRTIO_RING_F_EVENT_IDX);
    if (!v->split_only)
        v->offered |= BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_F_RING_RESET);
    for (unsigned i = 0; i < v->queue_count; i++)
        v->queue[i].kick.fd = -1;
    for (unsigned i = 0; i < v->queue_count; i++) {
        struct virtio_queue *vq = &v->queue[i];

        vq->v = v;
        queue_regs_reset(v, vq);
        if (!queue_open(&vq->q, &queue_ops, board->mem, (uint16_t)i, vq->size, err))
            return false;
        vq->kick = (struct watch){
            .fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), .events = EPOLLIN, .ready = kick_ready};
        if (vq->kick.fd < 0)
            return err_set(err, errno, "cannot create an eventfd: %s", strerror(errno));
        if (!loop_watch(v->loop, &vq->kick, err))
            return false;
    }
    return true;
}

/* Stops the device as a reset would and turns the loop until nothing is in flight. */
static void virtio_wind_down(struct virtio *v)
{
    pthread_mutex_lock(&v->dev.lock);
    virtio_reset_locked(v);
    pthread_mutex_unlock(&v->dev.lock);
    virtio_sync(&v->sync);
    while (v->life != VIRTIO_IDLE)
        loop_turn(v->loop, UINT64_MAX);
}

void virtio_close(struct virtio *v)
{
    if (!v->ops)
        return;
    virtio_wind_down(v);
    loop_unpost(v->loop, &v->sync);
    for (unsigned i = 0; i < v->queue_count; i++) {
        struct virtio_queue *vq = &v->queue[i];

        if (vq->kick.fd >= 0) {
            loop_forget(v->loop, &vq->kick);
            close(vq->kick.fd);
            vq->kick.fd = -1;
        }
        queue_close(&vq->q);
    }
    v->ops = NULL;
}

void virtio_reset(struct device *dev)
{
    struct virtio *v = container_of(dev, struct virtio, dev);

    virtio_wind_down(v);
    pci_function_reset(&v->pci);
}

void virtio_pause(struct device *dev)
{
    struct virtio *v = container_of(dev, struct virtio, dev);

    v->paused = true;
    for (unsigned i = 0; i < v->queue_count; i++)
        v->queue[i].q.paused = true;
    if (v->ops->pause && v->life == VIRTIO_RUNNING)
        v->ops->pause(v);
    while (any_busy(v) && !(v->ops->parked && v->ops->parked(v)))
        loop_turn(v->loop, UINT64_MAX);
    virtio_sync(&v->sync); /* a reset that waited for this can end */
    pthread_mutex_lock(&dev->lock);
    for (unsigned i = 0; i < v->queue_count; i++) {
        struct virtio_queue *vq = &v->queue[i];

        if (vq->q.live && !queue_busy(&vq->q)) /* parked: it cannot be saved now */
            queue_position(&vq->q, &vq->avail, &vq->used);
    }
    pthread_mutex_unlock(&dev->lock);
}

void virtio_resume(struct device *dev)
{
    struct virtio *v = container_of(dev, struct virtio, dev);

    v->paused = false;
    for (unsigned i = 0; i < v->queue_count; i++)
        v->queue[i].q.paused = false;
    virtio_sync(&v->sync);
    if (v->ops->resume && v->life == VIRTIO_RUNNING)
        v->ops->resume(v);
    for (unsigned i = 0; i < v->queue_count; i++)
        virtio_kick(v, i);
}

bool virtio_restored(struct device *dev, struct err *err)
{
    struct virtio *v = container_of(dev, struct virtio, dev);
    uint8_t known = VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_DRIVER_OK | VIRTIO_FEATURES_OK |
                    VIRTIO_NEEDS_RESET | VIRTIO_FAILED;

    if (v->life != VIRTIO_IDLE)
        return err_set(err, EBUSY, "device runs: reset it before its state is restored");
    if (v->status & ~known || (v->status & VIRTIO_FEATURES_OK && !features_acceptable(v)))
        return err_set(err, EINVAL, "status 0x%x or features 0x%llx are not this device's",
                       v->status, (unsigned long long)v->features);
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++) {
        struct virtio_queue *vq = &v->queue[i];

        if (i >= v->queue_count ? vq->enabled : vq->size > vq->q.max_size)
            return err_set(err, EINVAL, "queue %u of %u entries does not exist", i, vq->size);
    }
    v->resetting = false;
    if (!pci_function_restored(&v->pci, err))
        return false;
    pci_intx(&v->pci, v->isr && !pci_msix_enabled(&v->pci));
    loop_post(v->loop, &v->sync);
    return true;
}

void virtio_detach(struct device *dev)
{
    struct virtio *v = container_of(dev, struct virtio, dev);

    pci_detach(&v->pci);
    virtio_close(v);
}

static const struct field virtio_queue_state[] = {
    FIELD(struct virtio_queue, size, QUEUE_SIZE_MAX),
    FIELD(struct virtio_queue, vector, 0xffff),
    FIELD(struct virtio_queue, enabled, 1),
    FIELD(struct virtio_queue, desc, UINT64_MAX),
    FIELD(struct virtio_queue, driver, UINT64_MAX),
    FIELD(struct virtio_queue, device, UINT64_MAX),
    FIELD(struct virtio_queue, avail, 0xffff),
    FIELD(struct virtio_queue, used, 0xffff),
    {0},
};

const struct field virtio_state[] = {
    FIELD_TABLE(struct virtio, pci, pci_function_state),
    FIELD(struct virtio, features, UINT64_MAX),
    FIELD(struct virtio, offered_select, UINT32_MAX),
    FIELD(struct virtio, driver_select, UINT32_MAX),
    FIELD(struct virtio, config_vector, 0xffff),
    FIELD(struct virtio, queue_select, 0xffff),
    FIELD(struct virtio, status, 0xff),
    FIELD(struct virtio, generation, 0xff),
    FIELD(struct virtio, isr, 3),
    FIELD_TABLES(struct virtio, queue, virtio_queue_state),
    {0},
};
