/* SPDX-License-Identifier: MIT */
/* virtio-balloon (virtio 1.2, 5.5): the guest lends pages back and their host memory is freed.
 *
 *   inflate    page numbers -> runs -> discarded      deflate    nothing: touching a page brings it
 * back reporting  free ranges  -> discarded              statistics the guest's answer stays in the
 * queue until new ones are wanted
 *
 * Discarding punches a hole into the shared memory; a private mapping (a clone) only drops its own
 * copy. Either way the pages count as written: engines and the dirty log hear of it. */
#include "base/clock.h"
#include "virtio/devices.h"
#include <errno.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_ids.h>
#include <sys/mman.h>

enum { INFLATE = 0, DEFLATE = 1, QUEUES = 5, PFNS = 256 };

struct virtio_balloon {
    struct virtio v;
    struct balloon_stats stats;
    bool stats_there; /* the statistics queue holds the guest's answer */
};

static struct virtio_balloon *balloon_of(struct virtio *v)
{
    return container_of(v, struct virtio_balloon, v);
}

/* Queues that were not agreed on leave no gap in what drivers use (Linux, QEMU), though 5.5.2
 * numbers them as if they did; a reporting queue is taken in either place. -1: none. */
static int stats_index(const struct virtio_balloon *b)
{
    return virtio_has(&b->v, VIRTIO_BALLOON_F_STATS_VQ) ? 2 : -1;
}

static bool is_reporting(const struct virtio_balloon *b, unsigned index)
{
    if (!virtio_has(&b->v, VIRTIO_BALLOON_F_REPORTING))
        return false;
    return index == (virtio_has(&b->v, VIRTIO_BALLOON_F_STATS_VQ) ? 3u : 2u) || index == 4;
}

/* ---- giving memory back ---- */

/* `len` bytes of whole pages, already known to lie in writable memory. */
static void discard(struct virtio_balloon *b, gpa addr, size_t len)
{
    struct mem *mem = b->v.dev.board->mem;
    struct mem_region *r = mem_find(mem, addr, len);

    mem_discard(r, addr - r->base, len);
    mem_dirty(mem, addr, len);
}

struct run { /* neighbouring pages, collected so that one call frees them all */
    gpa addr;
    size_t len;
};

static void run_end(struct virtio_balloon *b, struct run *r)
{
    if (r->len)
        discard(b, r->addr, r->len);
    r->len = 0;
}

static void run_add(struct virtio_balloon *b, struct run *r, gpa page)
{
    struct mem *mem = b->v.dev.board->mem;
    bool below = r->len && page == r->addr - PAGE_SIZE, above = r->len && page == r->addr + r->len;
    gpa first = below ? page : r->addr;

    if ((below || above) && mem_at_writable(mem, first, r->len + PAGE_SIZE)) {
        r->addr = first;
        r->len += PAGE_SIZE;
        return;
    }
    run_end(b, r);
    if (!mem_at_writable(mem, page, PAGE_SIZE))
        return; /* no memory there: the guest's mistake, nothing to free */
    r->addr = page;
    r->len = PAGE_SIZE;
}

static void inflate(struct virtio_balloon *b, struct chain *c)
{
    uint32_t pfn[PFNS];
    struct run run = {0};

    while (chain_left(c) >= 4) {
        size_t count = min_size(chain_left(c) / 4, PFNS);

        chain_read(c, pfn, 4 * count);
        for (size_t i = 0; i < count; i++)
            run_add(b, &run, (gpa)pfn[i] << VIRTIO_BALLOON_PFN_SHIFT);
    }
    run_end(b, &run);
}

/* Free ranges come as writable buffers. They may be discarded only if a page that comes back as
 * zeroes is what the guest expects of a free page (5.5.6.5.2). */
static void report(struct virtio_balloon *b, struct chain *c)
{
    uint32_t poison = 0;

    if (virtio_has(&b->v, VIRTIO_BALLOON_F_PAGE_POISON)) {
        pthread_mutex_lock(&b->v.dev.lock);
        poison = le32(b->v.config + offsetof(struct virtio_balloon_config, poison_val));
        pthread_mutex_unlock(&b->v.dev.lock);
    }
    for (unsigned i = c->readable; i < c->count && !poison; i++) {
        gpa first = align_up(c->seg[i].addr, PAGE_SIZE);
        gpa end = align_down(c->seg[i].addr + c->seg[i].len, PAGE_SIZE);

        if (first >= end)
            continue;
        discard(b, first, end - first);
        b->stats.reported += end - first;
    }
}

/* ---- statistics ---- */

static void stats_forget(struct virtio_balloon *b)
{
    for (unsigned i = 0; i < BALLOON_STATS; i++)
        b->stats.value[i] = UINT64_MAX;
}

/* Reads the newest answer and leaves its buffer in the queue: giving it back is the next question.
 */
static void stats_kick(struct virtio_balloon *b, struct queue *q)
{
    struct virtio_balloon_stat s;
    struct chain *c = queue_next(q);

    if (!c)
        return;
    stats_forget(b);
    for (unsigned i = 0; i < 4 * BALLOON_STATS && chain_read(c, &s, sizeof s); i++)
        if (s.tag < BALLOON_STATS)
            b->stats.value[s.tag] = s.val;
    b->stats.updated_ns = now_ns();
    b->stats_there = true;
    chain_putback(c);
}

static void stats_ask(struct virtio_balloon *b)
{
    int index = stats_index(b);
    struct chain *c;

    if (b->v.life != VIRTIO_RUNNING || index < 0 || !b->stats_there)
        return;
    c = queue_next(&b->v.queue[index].q);
    if (!c)
        return;
    b->stats_there = false;
    chain_finish(c);
    stats_kick(b, &b->v.queue[index].q); /* empty now: asks to be told of the answer */
}

void virtio_balloon_stats(struct device *dev, struct balloon_stats *stats)
{
    struct virtio_balloon *b = container_of(dev, struct virtio_balloon, v.dev);

    *stats = b->stats;
    stats_ask(b);
}

/* ---- size ---- */

void virtio_balloon_set(struct device *dev, uint64_t bytes)
{
    struct virtio_balloon *b = container_of(dev, struct virtio_balloon, v.dev);
    uint32_t pages = (uint32_t)min_u64(bytes >> VIRTIO_BALLOON_PFN_SHIFT, UINT32_MAX);

    virtio_config_set(&b->v, 0, &pages, sizeof pages, true);
}

static uint32_t config_word(struct virtio_balloon *b, unsigned offset)
{
    uint32_t value;

    pthread_mutex_lock(&b->v.dev.lock);
    value = le32(b->v.config + offset);
    pthread_mutex_unlock(&b->v.dev.lock);
    return value;
}

uint64_t virtio_balloon_actual(struct device *dev)
{
    struct virtio_balloon *b = container_of(dev, struct virtio_balloon, v.dev);

    return (uint64_t)config_word(b, offsetof(struct virtio_balloon_config, actual))
           << VIRTIO_BALLOON_PFN_SHIFT;
}

/* ---- life ---- */

static void balloon_kick(struct virtio *v, struct queue *q)
{
    struct virtio_balloon *b = balloon_of(v);
    struct chain *c;

    if (q->index == stats_index(b)) {
        stats_kick(b, q);
        return;
    }
    while ((c = queue_next(q)) != NULL) {
        if (q->index == INFLATE)
            inflate(b, c);
        else if (is_reporting(b, q->index))
            report(b, c);
        chain_finish(c);
    }
}

static bool balloon_start(struct virtio *v, uint64_t features, struct err *err)
{
    return true;
}

/* After a reset the guest has all of its memory again; the target stays. */
static void balloon_stop(struct virtio *v)
{
    static const uint8_t zero[12];
    struct virtio_balloon *b = balloon_of(v);

    b->stats_there = false;
    b->stats.updated_ns = 0;
    stats_forget(b);
    virtio_config_set(v, offsetof(struct virtio_balloon_config, actual), zero, sizeof zero, false);
}

static void balloon_config_write(struct virtio *v, unsigned offset, uint32_t value, unsigned size)
{
    if (size != 4)
        return;
    if (offset == offsetof(struct virtio_balloon_config, actual) ||
        (offset == offsetof(struct virtio_balloon_config, poison_val) &&
         v->features & BIT(VIRTIO_BALLOON_F_PAGE_POISON)))
        put_le32(v->config + offset, value);
}

static const struct virtio_ops balloon_ops = {
    .id = VIRTIO_ID_BALLOON,
    .queue_size = 128,
    .class_code = 0x00ff00,
    .start = balloon_start,
    .kick = balloon_kick,
    .stop = balloon_stop,
    .config_write = balloon_config_write,
};

static bool balloon_attach(struct device *dev, struct board *board, struct err *err)
{
    struct virtio_balloon *b = container_of(dev, struct virtio_balloon, v.dev);

    stats_forget(b);
    b->v.queue_count = QUEUES;
    b->v.config_len = sizeof(struct virtio_balloon_config);
    b->v.offered = BIT(VIRTIO_BALLOON_F_STATS_VQ) | BIT(VIRTIO_BALLOON_F_DEFLATE_ON_OOM) |
                   BIT(VIRTIO_BALLOON_F_PAGE_POISON) | BIT(VIRTIO_BALLOON_F_REPORTING);
    return virtio_pci_attach(&b->v, board, &balloon_ops, -1, err);
}

static const struct field balloon_state[] = {
    FIELD_TABLE(struct virtio_balloon, v, virtio_state),
    FIELD_BYTES(struct virtio_balloon, v.config),
    FIELD(struct virtio_balloon, stats_there, 1),
    {0},
};

const struct device_type virtio_balloon_type = {
    .name = "virtio-balloon",
    .size = sizeof(struct virtio_balloon),
    .state = balloon_state,
    .state_version = 1,
    .attach = balloon_attach,
    .reset = virtio_reset,
    .pause = virtio_pause,
    .resume = virtio_resume,
    .restored = virtio_restored,
    .detach = virtio_detach,
};

struct device *virtio_balloon_new(const char *id)
{
    return device_new(&virtio_balloon_type, id);
}
