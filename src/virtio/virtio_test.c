/* SPDX-License-Identifier: MIT */
/* The device core and the PCI transport, with virtio-rng and with a device that can hold its
 * requests: discovery, negotiation, interrupts, resets while I/O is in flight, queue reset, saving.
 */
#include "virtio/devices.h"
#include "virtio/testguest.h"
#include "base/clock.h"
#include <errno.h>
#include <linux/virtio_ids.h>
#include <unistd.h>

#ifndef VIRTIO_F_RING_RESET
#define VIRTIO_F_RING_RESET 40
#endif
#define ALL (~0ULL)

/* ---- a device that keeps what it takes until told to finish ---- */

struct holder {
    struct virtio v;
    struct chain *held[64];
    unsigned count, starts, stops;
};

static bool holder_start(struct virtio *v, uint64_t features, struct err *err)
{
    container_of(v, struct holder, v)->starts++;
    return true;
}

static void holder_kick(struct virtio *v, struct queue *q)
{
    struct holder *h = container_of(v, struct holder, v);
    struct chain *c;

    while (h->count < 64 && (c = queue_next(q)) != NULL)
        h->held[h->count++] = c;
}

static void holder_stop(struct virtio *v)
{
    container_of(v, struct holder, v)->stops++;
}

static void holder_finish(struct holder *h)
{
    unsigned count = h->count;

    h->count = 0;
    for (unsigned i = 0; i < count; i++)
        chain_finish(h->held[i]);
}

static void holder_pause(struct virtio *v)
{
    holder_finish(container_of(v, struct holder, v));
}

static void holder_config_write(struct virtio *v, unsigned offset, uint32_t value, unsigned size)
{
    memcpy(v->config + offset, &value, size);
}

static const struct virtio_ops holder_ops = {
    .id = 63,
    .queue_size = 64,
    .start = holder_start,
    .kick = holder_kick,
    .stop = holder_stop,
    .pause = holder_pause,
    .config_write = holder_config_write,
};

static bool holder_attach(struct device *dev, struct board *board, struct err *err)
{
    struct virtio *v = container_of(dev, struct virtio, dev);

    v->queue_count = 3;
    v->config_len = 6;
    v->offered = 5;
    return virtio_pci_attach(v, board, &holder_ops, -1, err);
}

static void holder_detach(struct device *dev)
{
    holder_finish(container_of(dev, struct holder, v.dev));
    virtio_detach(dev);
}

static const struct field holder_state[] = {FIELD_TABLE(struct holder, v, virtio_state), {0}};

static const struct device_type holder_type = {
    .name = "holder",
    .size = sizeof(struct holder),
    .state = holder_state,
    .attach = holder_attach,
    .reset = virtio_reset,
    .pause = virtio_pause,
    .resume = virtio_resume,
    .restored = virtio_restored,
    .detach = holder_detach,
};

static struct guest g;
static struct device *rng;
static struct holder *hold;

static uint64_t common(unsigned offset, unsigned size)
{
    return guest_read(&g, g.common + offset, size);
}

static void set_common(unsigned offset, uint64_t value, unsigned size)
{
    guest_write(&g, g.common + offset, value, size);
}

static void test_discovery(void)
{
    ok(guest_probe(&g, guest_slot(rng)), "found by its capabilities");
    ok(guest_pci_read(&g, 2, 2) == 0x1040 + VIRTIO_ID_RNG && guest_pci_read(&g, 8, 1) == 1,
       "modern id, revision 1");
    ok(guest_reset(&g) && common(VIRTIO_PCI_COMMON_NUMQ, 2) == 1, "one queue");
    ok(common(VIRTIO_PCI_COMMON_Q_SIZE, 2) == 64, "of 64 entries");
    set_common(VIRTIO_PCI_COMMON_Q_SELECT, 1, 2);
    ok(common(VIRTIO_PCI_COMMON_Q_SIZE, 2) == 0, "queue 1 does not exist");
    set_common(VIRTIO_PCI_COMMON_MSIX, 2, 2);
    ok(common(VIRTIO_PCI_COMMON_MSIX, 2) == VIRTIO_NO_VECTOR, "nor does vector 2");
    set_common(VIRTIO_PCI_COMMON_MSIX, 1, 2);
    ok(common(VIRTIO_PCI_COMMON_MSIX, 2) == 1, "vector 1 does");
}

static void test_negotiation(void)
{
    ok(guest_reset(&g), "reset");
    set_common(VIRTIO_PCI_COMMON_STATUS, 1, 1);
    set_common(VIRTIO_PCI_COMMON_STATUS, 3, 1);
    set_common(VIRTIO_PCI_COMMON_STATUS, 11, 1);
    ok(common(VIRTIO_PCI_COMMON_STATUS, 1) == 3, "without VERSION_1: no FEATURES_OK");
    set_common(VIRTIO_PCI_COMMON_GFSELECT, 1, 4);
    set_common(VIRTIO_PCI_COMMON_GF, 1 | BIT(20), 4);
    set_common(VIRTIO_PCI_COMMON_STATUS, 11, 1);
    ok(common(VIRTIO_PCI_COMMON_STATUS, 1) == 3, "a feature that was not offered: no FEATURES_OK");
    set_common(VIRTIO_PCI_COMMON_GF, 1, 4);
    set_common(VIRTIO_PCI_COMMON_STATUS, 11, 1);
    ok(common(VIRTIO_PCI_COMMON_STATUS, 1) == 11, "FEATURES_OK");
    set_common(VIRTIO_PCI_COMMON_GF, 5, 4);
    ok(common(VIRTIO_PCI_COMMON_GF, 4) == 1, "features are fixed from there on");
    set_common(VIRTIO_PCI_COMMON_DFSELECT, 2, 4);
    ok(common(VIRTIO_PCI_COMMON_DF, 4) == 0, "no features beyond 64");
}

static void test_rng(uint64_t features, const char *name)
{
    gpa at = guest_alloc(&g, 8192, 16);
    struct guest_buf buf[2] = {{at, 5000, true}, {at + 6000, 100, true}};
    uint8_t *p = guest_ptr(&g, at, 8192);
    unsigned sum = 0, irqs;
    bool good = true;

    ok(guest_begin(&g, features, 1, 64), "%s: driver runs", name);
    irqs = g.msis[1];
    ok(guest_request(&g, 0, buf, 2) == 4096, "%s: bytes, at most 4096", name);
    for (unsigned i = 0; i < 4096; i++)
        sum |= p[i];
    ok(sum == 0xff && p[4096] == 0 && g.msis[1] == irqs + 1, "%s: random, and an interrupt", name);
    for (unsigned i = 0; i < 200; i++)
        good = good && guest_request(&g, 0, buf + 1, 1) == 100;
    ok(good, "%s: 200 requests", name);
    for (unsigned i = 0; i < 40; i++)
        guest_add(&g, 0, buf + 1, 1);
    guest_kick(&g, 0);
    for (unsigned i = 0; i < 40; i++)
        good = good && guest_wait(&g, 0, NULL) >= 0;
    ok(good, "%s: more than a burst", name);
}

static void test_intx(void)
{
    struct guest_buf buf = {guest_alloc(&g, 64, 16), 64, true};
    unsigned cap = container_of(rng, struct virtio, dev)->pci.msix_cap;
    unsigned gsi = PCI_PIRQ_GSI + pci_pirq(guest_slot(rng), 1);

    guest_begin(&g, 0, 1, 64);
    guest_pci_write(&g, cap + 2, 0, 2);
    ok(guest_request(&g, 0, &buf, 1) == 64 && g.line[gsi] == 1, "without MSI-X: INTx");
    ok(guest_read(&g, g.isr, 1) == VIRTIO_ISR_QUEUE && g.line[gsi] == 0, "the ISR says why, once");
    ok(guest_read(&g, g.isr, 1) == 0, "and is clear then");
    guest_request(&g, 0, &buf, 1);
    ok(g.line[gsi] == 1 && guest_reset(&g) && g.line[gsi] == 0, "reset lowers the line");
    guest_pci_write(&g, cap + 2, 0x8000, 2);
}

static void test_window(void)
{
    unsigned cap = guest_pci_read(&g, 0x34, 1);

    while (cap && guest_pci_read(&g, cap + 3, 1) != VIRTIO_PCI_CAP_PCI_CFG)
        cap = guest_pci_read(&g, cap + 1, 1);
    ok(cap != 0, "window through configuration space");
    guest_pci_write(&g, cap + 4, 4, 1);
    guest_pci_write(&g, cap + 8, g.common + VIRTIO_PCI_COMMON_NUMQ, 4);
    guest_pci_write(&g, cap + 12, 2, 4);
    ok(guest_pci_read(&g, cap + 16, 2) == common(VIRTIO_PCI_COMMON_NUMQ, 2), "reads a register");
    guest_pci_write(&g, cap + 8, g.common + VIRTIO_PCI_COMMON_DFSELECT, 4);
    guest_pci_write(&g, cap + 12, 4, 4);
    guest_pci_write(&g, cap + 16, 1, 4);
    ok(common(VIRTIO_PCI_COMMON_DFSELECT, 4) == 1, "writes one");
    guest_pci_write(&g, cap + 8, 0xfffffff0, 4);
    ok(guest_pci_read(&g, cap + 16, 4) == 1, "nothing beyond the windows");
}

static void test_config(void)
{
    uint8_t generation = (uint8_t)common(VIRTIO_PCI_COMMON_CFGGENERATION, 1);
    unsigned irqs;

    guest_begin(&g, ALL, 3, 64);
    irqs = g.msis[0];
    virtio_config_set(&hold->v, 0, "abcdef", 6, true);
    ok(guest_config(&g, 0, 4) == 0x64636261 && guest_config(&g, 4, 4) == 0x6665, "configuration");
    ok((uint8_t)common(VIRTIO_PCI_COMMON_CFGGENERATION, 1) != generation && g.msis[0] == irqs + 1,
       "a change: new generation, interrupt");
    guest_write(&g, g.config + 4, 0x11223344, 4);
    ok(guest_config(&g, 4, 2) == 0x6665, "a write beyond the end does nothing");
    guest_write(&g, g.config + 2, 0x1122, 2);
    ok(guest_config(&g, 2, 2) == 0x1122, "a write");
}

static void test_reset_in_flight(void)
{
    struct guest_buf buf = {guest_alloc(&g, 64, 16), 64, true};
    unsigned stops;

    guest_begin(&g, ALL, 3, 64);
    stops = hold->stops;
    for (unsigned i = 0; i < 5; i++)
        guest_add(&g, i % 3, &buf, 1);
    for (unsigned i = 0; i < 3; i++)
        guest_kick(&g, i);
    guest_settle(&g);
    ok(hold->count == 5, "five requests in flight");
    set_common(VIRTIO_PCI_COMMON_STATUS, 0, 1);
    guest_settle(&g);
    ok(common(VIRTIO_PCI_COMMON_STATUS, 1) == 15 && hold->stops == stops + 1,
       "status 0 written: not yet reset");
    ok(!queue_next(&hold->v.queue[0].q), "no more requests are taken");
    holder_finish(hold);
    guest_settle(&g);
    ok(common(VIRTIO_PCI_COMMON_STATUS, 1) == 0 && hold->v.life == VIRTIO_IDLE, "finished: reset");

    guest_begin(&g, ALL, 3, 64);
    guest_add(&g, 0, &buf, 1);
    guest_kick(&g, 0);
    guest_settle(&g);
    set_common(VIRTIO_PCI_COMMON_STATUS, 0, 1);
    set_common(VIRTIO_PCI_COMMON_STATUS, 1, 1); /* an impatient driver */
    set_common(VIRTIO_PCI_COMMON_STATUS, 3, 1);
    set_common(VIRTIO_PCI_COMMON_GFSELECT, 1, 4);
    set_common(VIRTIO_PCI_COMMON_GF, 1, 4);
    set_common(VIRTIO_PCI_COMMON_STATUS, 11, 1);
    g.packed = g.event_idx = g.indirect = false;
    guest_queue_setup(&g, 0, 8);
    set_common(VIRTIO_PCI_COMMON_STATUS, 15, 1);
    guest_settle(&g);
    ok(hold->v.life == VIRTIO_STOPPING && common(VIRTIO_PCI_COMMON_STATUS, 1) == 15,
       "a driver that does not wait is heard");
    holder_finish(hold);
    guest_settle(&g);
    ok(hold->v.life == VIRTIO_RUNNING && hold->v.queue[0].q.live && !hold->v.queue[1].q.live,
       "and runs once the old requests are done");
}

static void test_queue_reset(void)
{
    struct guest_buf buf = {guest_alloc(&g, 64, 16), 64, true};

    guest_begin(&g, ALL, 3, 64);
    guest_add(&g, 1, &buf, 1);
    guest_kick(&g, 1);
    guest_settle(&g);
    set_common(VIRTIO_PCI_COMMON_Q_SELECT, 1, 2);
    set_common(58, 1, 2);
    guest_settle(&g);
    ok(common(58, 2) == 1 && common(VIRTIO_PCI_COMMON_Q_ENABLE, 2) == 0,
       "queue reset: waits for its request");
    holder_finish(hold);
    guest_settle(&g);
    ok(common(58, 2) == 0 && !hold->v.queue[1].q.live && hold->v.queue[0].q.live,
       "queue reset: done, others live");
    guest_queue_setup(&g, 1, 16);
    guest_add(&g, 1, &buf, 1);
    guest_settle(&g);
    ok(hold->count == 1 && hold->v.queue[1].q.setup.size == 16, "enabled again, smaller");
    holder_finish(hold);
    ok(guest_wait(&g, 1, NULL) >= 0, "and works");
}

static void test_broken(void)
{
    struct guest_buf bad = {0x700000000, 64, true}, good = {0x8000, 64, true};
    unsigned irqs;

    guest_begin(&g, ALL, 3, 64);
    irqs = g.msis[0];
    guest_add(&g, 0, &bad, 1);
    guest_kick(&g, 0);
    guest_settle(&g);
    ok(common(VIRTIO_PCI_COMMON_STATUS, 1) == (15 | VIRTIO_NEEDS_RESET) && g.msis[0] == irqs + 1,
       "a broken ring: needs reset, and says so");
    guest_add(&g, 1, &good, 1);
    guest_kick(&g, 1);
    guest_settle(&g);
    ok(hold->count == 1, "other queues go on");
    holder_finish(hold);
    ok(guest_begin(&g, ALL, 3, 64), "a reset heals it");

    guest_reset(&g);
    set_common(VIRTIO_PCI_COMMON_STATUS, 3, 1);
    set_common(VIRTIO_PCI_COMMON_GFSELECT, 1, 4);
    set_common(VIRTIO_PCI_COMMON_GF, 1, 4);
    set_common(VIRTIO_PCI_COMMON_STATUS, 11, 1);
    set_common(VIRTIO_PCI_COMMON_Q_SELECT, 0, 2);
    set_common(VIRTIO_PCI_COMMON_Q_DESCLO, 0xffffffff00001000, 8);
    set_common(VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
    set_common(VIRTIO_PCI_COMMON_STATUS, 15, 1);
    guest_settle(&g);
    ok(common(VIRTIO_PCI_COMMON_STATUS, 1) & VIRTIO_NEEDS_RESET, "rings outside of memory");
}

static void test_pause(void)
{
    struct guest_buf buf = {guest_alloc(&g, 64, 16), 64, true};

    guest_begin(&g, ALL, 3, 64);
    guest_add(&g, 0, &buf, 1);
    guest_kick(&g, 0);
    guest_settle(&g);
    virtio_pause(&hold->v.dev);
    ok(hold->count == 0 && guest_used(&g, 0, NULL) >= 0, "pause: nothing in flight");
    guest_add(&g, 0, &buf, 1);
    guest_kick(&g, 0);
    guest_settle(&g);
    ok(hold->count == 0, "paused: nothing is taken");
    virtio_resume(&hold->v.dev);
    ok(hold->count == 1, "resumed: the kick was not lost");
    holder_finish(hold);
    ok(guest_wait(&g, 0, NULL) >= 0, "finished");
}

static void test_state(void)
{
    struct guest_buf buf = {guest_alloc(&g, 64, 16), 64, true};
    struct device *fresh = device_new(&holder_type, "fresh");
    struct holder *old = hold;
    struct err err;

    for (int packed = 0; packed < 2; packed++) {
        guest_begin(&g, packed ? ALL : ALL & ~BIT(VIRTIO_F_RING_PACKED), 3, 8);
        for (int i = 0; i < 13; i++) {
            guest_add(&g, 2, &buf, 1);
            guest_kick(&g, 2);
            guest_settle(&g);
            holder_finish(hold);
            guest_wait(&g, 2, NULL);
        }
        if (packed)
            fresh = device_new(&holder_type, "fresh2");
        guest_attach(&g, fresh);
        hold = container_of(fresh, struct holder, v.dev);
        ok(guest_check_state(&g, &old->v.dev, fresh), "state, %s", packed ? "packed" : "split");
        guest_settle(&g);
        g.slot = guest_slot(fresh);
        ok(hold->starts == 1 && hold->v.life == VIRTIO_RUNNING, "the restored device runs");
        guest_add(&g, 2, &buf, 1);
        guest_kick(&g, 2);
        guest_settle(&g);
        ok(hold->count == 1, "and goes on with the ring");
        holder_finish(hold);
        ok(guest_wait(&g, 2, NULL) >= 0, "where the old one stopped");
        device_free(&old->v.dev);
        old = hold;
    }
    virtio_pause(&hold->v.dev);
    ok(!virtio_restored(&hold->v.dev, &err), "refused: %s", err.text);
    board_reset(&g.board);
    hold->v.status = 0x15;
    ok(!virtio_restored(&hold->v.dev, &err), "refused: %s", err.text);
    hold->v.status = 15;
    hold->v.features = BIT(60);
    ok(!virtio_restored(&hold->v.dev, &err), "refused: %s", err.text);
    hold->v.features = BIT(VIRTIO_F_VERSION_1);
    hold->v.queue[5].enabled = true;
    ok(!virtio_restored(&hold->v.dev, &err), "refused: %s", err.text);
    hold->v.queue[5].enabled = false;
    hold->v.queue[1].size = 128;
    ok(!virtio_restored(&hold->v.dev, &err), "refused: %s", err.text);
    hold->v.status = 0;
    virtio_resume(&hold->v.dev);
}

/* ---- the loop in a thread of its own, as in a machine ---- */

static void *loop_main(void *arg)
{
    loop_run(arg);
    return NULL;
}

static bool spin_status(uint8_t want)
{
    uint64_t end = now_ns() + 10000000000;

    while (common(VIRTIO_PCI_COMMON_STATUS, 1) != want && now_ns() < end)
        usleep(10);
    return common(VIRTIO_PCI_COMMON_STATUS, 1) == want;
}

static bool thread_begin(uint64_t features)
{
    uint64_t used = features | BIT(VIRTIO_F_VERSION_1);

    set_common(VIRTIO_PCI_COMMON_STATUS, 0, 1);
    if (!spin_status(0))
        return false;
    set_common(VIRTIO_PCI_COMMON_STATUS, 3, 1);
    for (unsigned i = 0; i < 2; i++) {
        set_common(VIRTIO_PCI_COMMON_GFSELECT, i, 4);
        set_common(VIRTIO_PCI_COMMON_GF, (uint32_t)(used >> 32 * i), 4);
    }
    set_common(VIRTIO_PCI_COMMON_STATUS, 11, 1);
    g.packed = used & BIT(VIRTIO_F_RING_PACKED);
    g.event_idx = used & BIT(VIRTIO_RING_F_EVENT_IDX);
    g.indirect = false;
    g.heap = 0x100000;
    guest_queue_setup(&g, 0, 16);
    set_common(VIRTIO_PCI_COMMON_STATUS, 15, 1);
    return spin_status(15);
}

static uint16_t load16(gpa at)
{
    return __atomic_load_n((uint16_t *)guest_ptr(&g, at, 2), __ATOMIC_ACQUIRE);
}

/* True if the device asked to be told of what was added since `added_from`. */
static bool kick_wanted(uint16_t added_from)
{
    static int barrier;
    struct guest_queue *q = &g.queue[0];

    __atomic_fetch_add(&barrier, 1, __ATOMIC_SEQ_CST); /* full, and TSan knows it */
    if (g.packed)
        return load16(q->device + 2) != VRING_PACKED_EVENT_FLAG_DISABLE;
    if (g.event_idx) {
        uint16_t event = load16(q->device + 4 + 8 * (gpa)q->size);
        return (uint16_t)(q->avail - event - 1) < (uint16_t)(q->avail - added_from);
    }
    return !(load16(q->device) & VRING_USED_F_NO_NOTIFY);
}

/* This thread's own time: a machine that stands still for a while is not a lost wake-up. */
static uint64_t spun_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void show_stuck(void)
{
    const struct virtio_queue *vq = &container_of(rng, struct virtio, dev)->queue[0];

    printf("# stuck: driver avail %u used %u free %u; device life %d live %d broken %d avail %u "
           "used %u "
           "armed %d hold %u open %u kicked %d, device area %04x %04x\n",
           g.queue[0].avail, g.queue[0].used, g.queue[0].free_count, vq->v->life, vq->q.live,
           vq->q.broken, vq->q.avail, vq->q.used, vq->q.armed, vq->q.hold, vq->q.open, vq->kicked,
           load16(g.queue[0].device), load16(g.queue[0].device + 2));
    guest_kick(&g, 0);
    usleep(200000);
    printf("# after one more kick: %s\n",
           guest_used(&g, 0, NULL) < 0 ? "stuck still" : "it goes on");
}

/* Buffers go round as fast as both sides can, with notifications only when asked for: a lost
 * wake-up stops it. Now and then the driver resets in the middle. */
static void test_threads(uint64_t features, const char *name)
{
    struct guest_buf buf = {0x8000, 64, true};
    unsigned done = 0, resets = 0;
    bool good = thread_begin(features);

    while (good && done < 20000) {
        uint64_t end = spun_ns() + 5000000000;
        uint16_t from = g.queue[0].avail;

        if (done / 5000 > resets) {
            resets++;
            good = thread_begin(features);
            continue;
        }
        while (guest_add(&g, 0, &buf, 1) >= 0)
            ;
        if (kick_wanted(from))
            guest_kick(&g, 0);
        while (guest_used(&g, 0, NULL) < 0 && good)
            good = spun_ns() < end;
        done++;
    }
    if (!good)
        show_stuck();
    ok(good && resets == 3, "%s: two threads, %u buffers, %u resets", name, done, resets);
}

static void test_with_threads(void)
{
    pthread_t thread;

    board_reset(&g.board);
    guest_probe(&g, guest_slot(rng));
    pthread_create(&thread, NULL, loop_main, g.loop);
    test_threads(0, "split");
    test_threads(BIT(VIRTIO_RING_F_EVENT_IDX), "split, event index");
    test_threads(BIT(VIRTIO_F_RING_PACKED), "packed");
    test_threads(BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_RING_F_EVENT_IDX), "packed, event index");
    loop_quit(g.loop);
    pthread_join(thread, NULL);
}

int main(void)
{
    struct device *dev;

    if (!ok(guest_open(&g), "machine"))
        return tap_done();
    rng = guest_attach(&g, virtio_rng_new("rng0", 0));
    dev = guest_attach(&g, device_new(&holder_type, "hold0"));
    if (!rng || !dev)
        return 1;
    hold = container_of(dev, struct holder, v.dev);
    test_discovery();
    test_negotiation();
    test_rng(0, "split");
    test_rng(ALL & ~BIT(VIRTIO_F_RING_PACKED), "split, all features");
    test_rng(BIT(VIRTIO_F_RING_PACKED), "packed");
    test_rng(ALL, "packed, all features");
    test_intx();
    test_window();
    ok(guest_check_registers(&g, rng, 1, 20000), "20000 random register accesses do no harm");
    guest_probe(&g, guest_slot(&hold->v.dev));
    test_config();
    test_reset_in_flight();
    test_queue_reset();
    test_broken();
    test_pause();
    test_state();
    test_with_threads();
    guest_close(&g);
    return tap_done();
}
