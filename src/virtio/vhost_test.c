/* SPDX-License-Identifier: MIT */
/* Lending queues, with a kernel made up here: it gets rings, memory and eventfds by the same calls
 * and moves what the driver transmits into what it receives. */
#include "virtio/testguest.h"
#include "virtio/vhost.h"
#include <errno.h>
#include <linux/vhost.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

enum { RX, TX, OWN, QUEUES };

static const uint64_t kernel_features = BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_EVENT_IDX) |
                                        BIT(VIRTIO_RING_F_INDIRECT_DESC) | BIT(5);

/* ---- the kernel ---- */

static struct {
    struct vhost_memory_region region[MEM_REGIONS_MAX];
    unsigned regions;
    uint64_t features;
    struct {
        unsigned size;
        uint16_t base;
        struct vhost_vring_addr addr;
        int kick, call, err;
    } ring[2];
    bool running;
    unsigned long refuse; /* fails with EFAULT */
    unsigned moved;
} kernel;

static int set_ring(unsigned long request, void *arg)
{
    const struct vhost_vring_state *state = arg;
    const struct vhost_vring_file *file = arg;

    if (state->index > 1)
        return -ENOBUFS;
    switch (request) {
    case VHOST_SET_VRING_NUM: kernel.ring[state->index].size = state->num; return 0;
    case VHOST_SET_VRING_BASE: kernel.ring[state->index].base = (uint16_t)state->num; return 0;
    case VHOST_SET_VRING_KICK: kernel.ring[file->index].kick = file->fd; return 0;
    case VHOST_SET_VRING_CALL: kernel.ring[file->index].call = file->fd; return 0;
    case VHOST_SET_VRING_ERR: kernel.ring[file->index].err = file->fd; return 0;
    case VHOST_SET_VRING_ADDR:
        kernel.ring[state->index].addr = *(const struct vhost_vring_addr *)arg;
        return 0;
    case VHOST_GET_VRING_BASE:
        ((struct vhost_vring_state *)arg)->num = kernel.ring[state->index].base;
        return 0;
    default: return -ENOTTY;
    }
}

static int call(struct vhost *h, unsigned long request, void *arg)
{
    const struct vhost_memory *m = arg;

    if (request == kernel.refuse)
        return -EFAULT;
    switch (request) {
    case VHOST_SET_OWNER: return 0;
    case VHOST_GET_FEATURES: *(uint64_t *)arg = kernel_features; return 0;
    case VHOST_SET_FEATURES: kernel.features = *(uint64_t *)arg; return 0;
    case VHOST_SET_MEM_TABLE:
        kernel.regions = m->nregions;
        memcpy(kernel.region, m->regions, m->nregions * sizeof m->regions[0]);
        return 0;
    default:
        return kernel.running && request != VHOST_GET_VRING_BASE ? -EBUSY : set_ring(request, arg);
    }
}

static void *translate(uint64_t addr, uint32_t len)
{
    for (unsigned i = 0; i < kernel.regions; i++) {
        const struct vhost_memory_region *r = &kernel.region[i];

        if (addr >= r->guest_phys_addr && addr + len <= r->guest_phys_addr + r->memory_size)
            return (uint8_t *)(uintptr_t)r->userspace_addr + (addr - r->guest_phys_addr);
    }
    return NULL;
}

/* The next descriptor of a ring, NULL: none. */
static const struct vring_desc *take(unsigned i, uint16_t *head)
{
    const struct vring_avail *avail = (void *)(uintptr_t)kernel.ring[i].addr.avail_user_addr;

    if (__atomic_load_n(&avail->idx, __ATOMIC_ACQUIRE) == kernel.ring[i].base)
        return NULL;
    *head = avail->ring[kernel.ring[i].base++ % kernel.ring[i].size];
    return (const struct vring_desc *)(uintptr_t)kernel.ring[i].addr.desc_user_addr + *head;
}

static void give(unsigned i, uint16_t head, uint32_t len)
{
    struct vring_used *used = (void *)(uintptr_t)kernel.ring[i].addr.used_user_addr;
    uint64_t one = 1;

    used->ring[used->idx % kernel.ring[i].size] = (struct vring_used_elem){head, len};
    __atomic_store_n(&used->idx, (uint16_t)(used->idx + 1), __ATOMIC_RELEASE);
    (void)!write(kernel.ring[i].call, &one, sizeof one);
}

/* What a kick of the transmit ring makes the kernel do. */
static void kernel_work(void)
{
    struct pollfd p = {.fd = kernel.ring[TX].kick, .events = POLLIN};
    const struct vring_desc *from, *to;
    uint16_t head, rx_head;

    if (!kernel.running || poll(&p, 1, 0) != 1)
        return;
    while ((from = take(TX, &head)) != NULL && (to = take(RX, &rx_head)) != NULL) {
        void *a = translate(from->addr, from->len), *b = translate(to->addr, to->len);

        if (a && b && from->len <= to->len)
            memcpy(b, a, from->len);
        give(RX, rx_head, from->len);
        give(TX, head, 0);
        kernel.moved++;
    }
}

static const struct vhost_ops fake = {call};

/* ---- a device with two lent queues and one of its own ---- */

struct lender {
    struct virtio v;
    struct vhost vhost;
    unsigned kicks[QUEUES];
};

static bool run(struct vhost *h, bool on, struct err *err)
{
    kernel.running = on;
    return true;
}

static struct lender *of(struct virtio *v)
{
    return container_of(v, struct lender, v);
}

static bool start(struct virtio *v, uint64_t features, struct err *err)
{
    return vhost_start(&of(v)->vhost, err);
}

static void kick(struct virtio *v, struct queue *q)
{
    of(v)->kicks[q->index]++;
}

static void stop(struct virtio *v)
{
    vhost_stop(&of(v)->vhost);
}

static void resume(struct virtio *v)
{
    struct err err;

    if (!vhost_start(&of(v)->vhost, &err))
        virtio_needs_reset(v, err.text);
}

static const struct virtio_ops ops = {
    .id = 41, .start = start, .kick = kick, .stop = stop, .pause = stop, .resume = resume};

static bool attach(struct device *dev, struct board *board, struct err *err)
{
    struct lender *l = container_of(dev, struct lender, v.dev);

    l->v.queue_count = QUEUES;
    l->v.split_only = true;
    l->vhost.ops = &fake;
    l->vhost.run = run;
    return vhost_open(&l->vhost, board, &(struct vhost_wish){"test", "/dev/null", "m", "no"},
                      err) &&
           vhost_check(&l->vhost, BIT(5), err) && virtio_pci_attach(&l->v, board, &ops, -1, err) &&
           vhost_attach(&l->vhost, &l->v, RX, err);
}

static void detach(struct device *dev)
{
    virtio_detach(dev);
    vhost_close(&container_of(dev, struct lender, v.dev)->vhost);
}

static const struct field state[] = {FIELD_TABLE(struct lender, v, virtio_state), {0}};

static const struct device_type type = {.name = "lender",
                                        .size = sizeof(struct lender),
                                        .state = state,
                                        .state_version = 1,
                                        .attach = attach,
                                        .reset = virtio_reset,
                                        .pause = virtio_pause,
                                        .resume = virtio_resume,
                                        .restored = virtio_restored,
                                        .detach = detach};

/* ---- tests ---- */

static struct guest g;
static struct lender *l;
static gpa in, out;

static bool begin(uint64_t features)
{
    g.heap = 0x10000;
    in = guest_alloc(&g, 4096, 16);
    out = guest_alloc(&g, 4096, 16);
    return guest_begin(&g, features, QUEUES, 16);
}

/* One message through the kernel and back; counts the interrupt. */
static bool echo(unsigned n)
{
    struct guest_buf to = {out, 64, false}, from = {in, 128, true};
    unsigned irqs = g.msis[1];
    uint32_t len = 0;

    memset(guest_ptr(&g, out, 64), (int)n, 64);
    memset(guest_ptr(&g, in, 128), 0, 128);
    if (guest_add(&g, RX, &from, 1) < 0 || guest_add(&g, TX, &to, 1) < 0)
        return false;
    guest_kick(&g, RX);
    guest_kick(&g, TX);
    guest_settle(&g);
    kernel_work();
    guest_settle(&g);
    return guest_used(&g, RX, &len) >= 0 && len == 64 && guest_used(&g, TX, NULL) >= 0 &&
           !memcmp(guest_ptr(&g, in, 64), guest_ptr(&g, out, 64), 64) && g.msis[1] > irqs;
}

static bool echoes(unsigned count)
{
    while (count--)
        if (!echo(count))
            return false;
    return true;
}

static void test_run(void)
{
    ok(begin(~0ULL) && kernel.running, "the kernel has the rings");
    ok(kernel.features == (BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_EVENT_IDX) |
                           BIT(VIRTIO_RING_F_INDIRECT_DESC)),
       "and the features that all three know");
    ok(!(l->v.offered & (BIT(VIRTIO_F_RING_PACKED) | BIT(40))),
       "packed rings and queue reset are not offered");
    l->kicks[RX] = l->kicks[TX] = 0;
    ok(echoes(40), "40 messages, more than the ring has places, with interrupts");
    ok(!l->kicks[RX] && !l->kicks[TX], "none of which the device saw");
    guest_add(&g, OWN, &(struct guest_buf){out, 4, false}, 1);
    l->kicks[OWN] = 0;
    guest_kick(&g, OWN);
    guest_settle(&g);
    ok(l->kicks[OWN] == 1, "its own queue it does");
}

static void test_pause(void)
{
    unsigned moved;

    l->v.dev.type->pause(&l->v.dev);
    ok(!kernel.running && l->v.queue[TX].avail == l->v.queue[TX].used &&
           l->v.queue[TX].avail == kernel.ring[TX].base && l->v.queue[TX].avail >= 40,
       "a pause takes the rings back with their positions (%u)", l->v.queue[TX].avail);
    moved = kernel.moved;
    memset(kernel.ring, 0, sizeof kernel.ring);
    guest_add(&g, RX, &(struct guest_buf){in, 128, true}, 1);
    guest_add(&g, TX, &(struct guest_buf){out, 64, false}, 1);
    guest_kick(&g, TX);
    guest_settle(&g);
    l->v.dev.type->resume(&l->v.dev);
    kernel_work();
    guest_settle(&g);
    ok(kernel.running && kernel.moved == moved + 1 && guest_used(&g, RX, NULL) >= 0 &&
           guest_used(&g, TX, NULL) >= 0,
       "what was kicked meanwhile is not forgotten");
    ok(echoes(20), "and it goes on");
}

static void test_late_call(void)
{
    unsigned irqs;
    uint64_t one = 1;

    irqs = g.msis[1];
    (void)!write(kernel.ring[RX].call, &one, sizeof one);
    l->v.dev.type->pause(&l->v.dev);
    ok(g.msis[1] == irqs + 1, "an interrupt on its way at a pause arrives");
    l->v.dev.type->resume(&l->v.dev);
}

static void test_broken(void)
{
    uint64_t one = 1;

    (void)!write(kernel.ring[TX].err, &one, sizeof one);
    guest_settle(&g);
    ok(guest_read(&g, g.common + VIRTIO_PCI_COMMON_STATUS, 1) & VIRTIO_NEEDS_RESET,
       "a ring that the kernel gives up: the driver must reset");
    ok(guest_reset(&g) && !kernel.running, "a reset takes the rings back");
    kernel.refuse = VHOST_SET_VRING_ADDR;
    begin(~0ULL);
    guest_settle(&g);
    ok(!kernel.running &&
           guest_read(&g, g.common + VIRTIO_PCI_COMMON_STATUS, 1) & VIRTIO_NEEDS_RESET,
       "a ring that it does not take");
    kernel.refuse = 0;
    ok(begin(~0ULL) && echoes(5), "then all is well again");
}

static void test_log(void)
{
    struct err err;

    ok(!mem_log_start(&g.mem, &err) && err.code == ENOTSUP && strstr(err.text, "test"),
       "no dirty log: %s", err.text);
}

static void written(struct mem_watcher *w, struct mem_region *r, uint64_t offset, size_t len)
{
}

/* What a user reads when it cannot be had. */
static void test_errors(void)
{
    struct mem_watcher watcher = {written};
    const struct vhost_wish none = {"--net x", "/dev/vhost-none", "vhost_none", "do without"},
                            null = {"--net x", "/dev/null", "m", "do without"};
    struct vhost h = {.ops = &fake};
    struct err err = {0};
    struct guest other;

    ok(!vhost_open(&h, &g.board, &none, &err) &&
           strstr(err.text, "sudo modprobe vhost_none; or do without"),
       "%s", err.text);
    kernel.refuse = VHOST_GET_FEATURES;
    ok(!vhost_open(&h, &g.board, &null, &err) && strstr(err.text, "GET_FEATURES"), "%s", err.text);
    kernel.refuse = 0;
    h = (struct vhost){.ops = &fake};
    ok(vhost_open(&h, &g.board, &null, &err) && !vhost_check(&h, BIT(7), &err) &&
           strstr(err.text, "too old"),
       "%s", err.text);
    vhost_close(&h);
    guest_open(&other);
    other.mem.watcher = &watcher;
    ok(!device_attach(&other.board, device_new(&type, "l"), &err) &&
           strstr(err.text, "soft engine"),
       "%s", err.text);
    guest_close(&other);
}

int main(void)
{
    struct guest other;
    struct device *dev, *copy;

    log_setup("test", LOG_ERROR);
    if (!guest_open(&g) || !(dev = guest_attach(&g, device_new(&type, "l"))) ||
        !guest_probe(&g, guest_slot(dev)))
        return 1;
    l = container_of(dev, struct lender, v.dev);
    test_run();
    test_pause();
    test_late_call();
    test_broken();
    test_log();
    test_errors();
    ok(guest_check_registers(&g, dev, 3, 20000), "20000 random register accesses do no harm");
    begin(~0ULL);
    guest_open(&other);
    copy = guest_attach(&other, device_new(&type, "l"));
    ok(guest_check_state(&g, dev, copy), "state: saved, restored, saved again");
    guest_close(&other);
    guest_close(&g);
    return tap_done();
}
