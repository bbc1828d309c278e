/* SPDX-License-Identifier: MIT */
/* virtio-blk (virtio 1.2, 5.2) over a struct block.
 *
 * A kick takes requests and submits them all; each completes on its own, in any order, and its
 * chain goes back to the queue it came from. Data moves between the image and guest memory
 * directly. Requests come from a fixed pool, the one used last first; when it is empty the queues
 * wait until one returns.
 *
 * A request that makes no sense gets an error status. One without even a place for the status
 * breaks the ring. The image checks range and alignment once more; what is checked here is what
 * must hold before that: sizes that could overflow, and the limits told in the configuration. */
#include "block/block.h"
#include "virtio/devices.h"
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>

enum {
    SECTOR = 512,
    SEGMENTS = 254,         /* in one request's data: queue size less header and status */
    REQUESTS = 128,         /* in flight, over all queues */
    ZERO_SECTORS = 1 << 21, /* 1 GiB in one discard or write-zeroes */
};

struct virtio_blk;

struct blk_request {
    struct block_req block;
    struct virtio_blk *blk;
    struct chain *chain;
    struct blk_request *next_free;
    struct iovec iov[SEGMENTS + 2];
};

struct virtio_blk {
    struct virtio v;
    struct block *block; /* the caller's */
    uint16_t queues;
    struct blk_request *request, *free;
    struct call signal; /* at the turn's end: gives back what its completions finished */
    uint64_t held;      /* queues that wait for `signal` */
    uint64_t stalled;   /* queues that may have more, when the pool ran dry */
    uint8_t writeback;  /* what the driver set; under dev.lock, read atomically */
};

static struct virtio_blk *blk_of(struct virtio *v)
{
    return container_of(v, struct virtio_blk, v);
}

/* ---- the end of a request ---- */

static void request_end(struct chain *c, uint8_t status)
{
    size_t room = chain_room(c);
    struct iovec skip[SEGMENTS + 2];

    /* The status is the last byte; what lies before it was not written (an error). */
    if (room > 1 && chain_write_iov(c, room - 1, skip, SEGMENTS + 2) < 0)
        queue_break(c->q, "request in too many pieces");
    else
        chain_write(c, &status, 1);
    chain_finish(c);
}

/* Requests that end in one turn of the loop share one publication and one interrupt. */
static void hold_until_signal(struct virtio_blk *b, struct queue *q)
{
    if (b->held & BIT(q->index))
        return;
    b->held |= BIT(q->index);
    queue_hold(q);
    loop_last(b->v.loop, &b->signal);
}

static void blk_signal(struct call *c)
{
    struct virtio_blk *b = container_of(c, struct virtio_blk, signal);
    uint64_t held = b->held;

    b->held = 0;
    for (unsigned i = 0; held; i++, held >>= 1)
        if (held & 1)
            queue_release(&b->v.queue[i].q);
}

static uint8_t status_of(int result)
{
    if (result >= 0)
        return VIRTIO_BLK_S_OK;
    return result == -EOPNOTSUPP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
}

static void blk_kick(struct virtio *v, struct queue *q);

static void request_done(struct block_req *block, int result)
{
    struct blk_request *r = container_of(block, struct blk_request, block);
    struct virtio_blk *b = r->blk;
    struct chain *c = r->chain;
    uint64_t stalled = b->stalled;

    r->next_free = b->free;
    b->free = r;
    hold_until_signal(b, c->q);
    request_end(c, status_of(result));
    b->stalled = 0;
    for (unsigned i = 0; stalled; i++, stalled >>= 1)
        if (stalled & 1)
            virtio_kick(&b->v, i);
}

/* ---- the beginning ---- */

static void submit(struct virtio_blk *b, struct chain *c, const struct block_req *what,
                   int iov_count)
{
    struct blk_request *r = b->free;

    b->free = r->next_free;
    r->blk = b;
    r->chain = c;
    r->block.op = what->op;
    r->block.flags = what->flags;
    r->block.offset = what->offset;
    r->block.length = what->length;
    r->block.iov = r->iov;
    r->block.iov_count = iov_count;
    r->block.done = request_done;
    block_submit(b->block, &r->block);
}

static bool in_disk(const struct virtio_blk *b, uint64_t sector, uint64_t bytes)
{
    uint64_t sectors = b->block->size / SECTOR;

    return bytes % SECTOR == 0 && sector <= sectors && bytes / SECTOR <= sectors - sector;
}

static void data_request(struct virtio_blk *b, struct chain *c, uint64_t sector, bool write)
{
    size_t bytes = write ? chain_left(c) : chain_room(c) - 1;
    struct block_req what = {.op = write ? BLOCK_WRITE : BLOCK_READ, .offset = sector * SECTOR};
    struct iovec *iov = b->free->iov;
    int count;

    if (!in_disk(b, sector, bytes)) {
        request_end(c, VIRTIO_BLK_S_IOERR);
        return;
    }
    what.length = bytes;
    if (write && !__atomic_load_n(&b->writeback, __ATOMIC_RELAXED))
        what.flags = BLOCK_REQ_FUA;
    count = write ? chain_read_iov(c, bytes, iov, SEGMENTS + 2)
                  : chain_write_iov(c, bytes, iov, SEGMENTS + 2);
    if (count < 0)
        request_end(c, VIRTIO_BLK_S_IOERR);
    else
        submit(b, c, &what, count);
}

/* Discard and write-zeroes: the data is one range (5.2.6.2; we say that one is all we take). */
static void range_request(struct virtio_blk *b, struct chain *c, bool discard)
{
    struct virtio_blk_discard_write_zeroes range;
    struct block_req what = {.op = discard ? BLOCK_DISCARD : BLOCK_WRITE_ZEROES};
    uint32_t allowed = discard ? 0 : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
    unsigned feature = discard ? VIRTIO_BLK_F_DISCARD : VIRTIO_BLK_F_WRITE_ZEROES;

    if (!virtio_has(&b->v, feature)) {
        request_end(c, VIRTIO_BLK_S_UNSUPP);
        return;
    }
    if (chain_left(c) != sizeof range || !chain_read(c, &range, sizeof range) ||
        range.num_sectors > ZERO_SECTORS ||
        !in_disk(b, range.sector, (uint64_t)range.num_sectors * SECTOR)) {
        request_end(c, VIRTIO_BLK_S_IOERR);
        return;
    }
    if (range.flags & ~allowed) {
        request_end(c, VIRTIO_BLK_S_UNSUPP);
        return;
    }
    if (range.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP)
        what.flags = BLOCK_REQ_UNMAP;
    what.offset = range.sector * SECTOR;
    what.length = (uint64_t)range.num_sectors * SECTOR;
    submit(b, c, &what, 0);
}

static void id_request(struct virtio_blk *b, struct chain *c)
{
    char id[VIRTIO_BLK_ID_BYTES] = "";
    size_t room = chain_room(c) - 1;

    memcpy(id, b->block->config.serial, min_size(sizeof id, strlen(b->block->config.serial)));
    chain_write(c, id, min_size(room, sizeof id));
    request_end(c, VIRTIO_BLK_S_OK);
}

static void request_begin(struct virtio_blk *b, struct chain *c)
{
    struct virtio_blk_outhdr head;
    struct block_req flush = {.op = BLOCK_FLUSH};

    if (!chain_read(c, &head, sizeof head) || !chain_room(c)) {
        queue_break(c->q, "request without header or status");
        chain_finish(c);
        return;
    }
    switch (head.type) {
    case VIRTIO_BLK_T_IN: data_request(b, c, head.sector, false); break;
    case VIRTIO_BLK_T_OUT: data_request(b, c, head.sector, true); break;
    case VIRTIO_BLK_T_FLUSH: submit(b, c, &flush, 0); break;
    case VIRTIO_BLK_T_GET_ID: id_request(b, c); break;
    case VIRTIO_BLK_T_DISCARD: range_request(b, c, true); break;
    case VIRTIO_BLK_T_WRITE_ZEROES: range_request(b, c, false); break;
    default: request_end(c, VIRTIO_BLK_S_UNSUPP);
    }
}

static void blk_kick(struct virtio *v, struct queue *q)
{
    struct virtio_blk *b = blk_of(v);
    struct chain *c;

    while (b->free) {
        c = queue_next(q);
        if (!c)
            return;
        request_begin(b, c);
    }
    b->stalled |= BIT(q->index);
}

/* ---- configuration ---- */

/* Without FLUSH the driver cannot make data durable, so every write must be (5.2.6.2). */
static bool blk_start(struct virtio *v, uint64_t features, struct err *err)
{
    struct virtio_blk *b = blk_of(v);
    bool flush = virtio_has(v, VIRTIO_BLK_F_FLUSH);

    b->stalled = 0;
    pthread_mutex_lock(&v->dev.lock);
    if (!virtio_has(v, VIRTIO_BLK_F_CONFIG_WCE) || !flush)
        __atomic_store_n(&b->writeback, flush, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&v->dev.lock);
    return true;
}

static void blk_stop(struct virtio *v)
{
    /* Requests in flight end by themselves. After a reset the cache mode is the default again. */
    struct virtio_blk *b = blk_of(v);

    __atomic_store_n(&b->writeback, 1, __ATOMIC_RELAXED);
    virtio_config_set(v, offsetof(struct virtio_blk_config, wce), &b->writeback, 1, false);
}

/* What a drive's policy holds ends when the machine goes on, so its pause cannot wait for it. */
static bool blk_parked(struct virtio *v)
{
    const struct virtio_blk *b = blk_of(v);

    return b->block->parked && b->block->parked == b->block->in_flight && !b->held;
}

static void blk_config_write(struct virtio *v, unsigned offset, uint32_t value, unsigned size)
{
    if (offset != offsetof(struct virtio_blk_config, wce) || size != 1 ||
        !(v->features & BIT(VIRTIO_BLK_F_CONFIG_WCE)))
        return;
    v->config[offset] = value & 1;
    __atomic_store_n(&blk_of(v)->writeback, value & 1, __ATOMIC_RELAXED);
}

static void fill_config(struct virtio_blk *b)
{
    const struct block *block = b->block;
    struct virtio_blk_config c = {
        .capacity = block->size / SECTOR,
        .seg_max = SEGMENTS,
        .blk_size = block->sector_size,
        .min_io_size = 1,
        .wce = 1,
        .num_queues = b->queues,
        .max_discard_sectors = ZERO_SECTORS,
        .max_discard_seg = 1,
        .discard_sector_alignment = (uint32_t)max_u64(1, block->discard_align / SECTOR),
        .max_write_zeroes_sectors = ZERO_SECTORS,
        .max_write_zeroes_seg = 1,
        .write_zeroes_may_unmap = block->can_discard,
    };

    if (is_power_of_2(block->physical_size) && block->physical_size > block->sector_size) {
        c.physical_block_exp = (uint8_t)__builtin_ctz(block->physical_size / block->sector_size);
        c.min_io_size = (uint16_t)(block->physical_size / block->sector_size);
    }
    b->v.config_len = 60; /* up to the end of write-zeroes */
    memcpy(b->v.config, &c, b->v.config_len);
}

static const struct virtio_ops blk_ops = {
    .id = VIRTIO_ID_BLOCK,
    .queue_size = SEGMENTS + 2,
    .class_code = 0x010000,
    .start = blk_start,
    .kick = blk_kick,
    .stop = blk_stop,
    .config_write = blk_config_write,
    .parked = blk_parked,
};

static bool blk_attach(struct device *dev, struct board *board, struct err *err)
{
    struct virtio_blk *b = container_of(dev, struct virtio_blk, v.dev);

    b->request = calloc(REQUESTS, sizeof *b->request);
    if (!b->request)
        return err_set(err, ENOMEM, "no memory for disk requests");
    for (unsigned i = REQUESTS; i-- > 0;) {
        b->request[i].next_free = b->free;
        b->free = &b->request[i];
    }
    b->writeback = 1;
    b->v.queue_count = b->queues;
    b->v.offered = BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE) |
                   BIT(VIRTIO_BLK_F_TOPOLOGY) | BIT(VIRTIO_BLK_F_FLUSH) |
                   BIT(VIRTIO_BLK_F_CONFIG_WCE);
    if (b->queues > 1)
        b->v.offered |= BIT(VIRTIO_BLK_F_MQ);
    if (b->block->readonly)
        b->v.offered |= BIT(VIRTIO_BLK_F_RO);
    else if (b->block->can_discard)
        b->v.offered |= BIT(VIRTIO_BLK_F_DISCARD);
    if (!b->block->readonly && b->block->can_zero)
        b->v.offered |= BIT(VIRTIO_BLK_F_WRITE_ZEROES);
    fill_config(b);
    return virtio_pci_attach(&b->v, board, &blk_ops, -1, err);
}

static void blk_detach(struct device *dev)
{
    struct virtio_blk *b = container_of(dev, struct virtio_blk, v.dev);

    virtio_detach(dev);
    loop_unlast(b->v.loop, &b->signal);
    free(b->request);
    b->request = b->free = NULL;
}

static bool blk_restored(struct device *dev, struct err *err)
{
    struct virtio_blk *b = container_of(dev, struct virtio_blk, v.dev);

    b->v.config[offsetof(struct virtio_blk_config, wce)] = b->writeback;
    return virtio_restored(dev, err);
}

static const struct field blk_state[] = {
    FIELD_TABLE(struct virtio_blk, v, virtio_state),
    FIELD(struct virtio_blk, writeback, 1),
    {0},
};

const struct device_type virtio_blk_type = {
    .name = "virtio-blk",
    .size = sizeof(struct virtio_blk),
    .state = blk_state,
    .state_version = 1,
    .attach = blk_attach,
    .reset = virtio_reset,
    .pause = virtio_pause,
    .resume = virtio_resume,
    .restored = blk_restored,
    .detach = blk_detach,
};

struct device *virtio_blk_new(const char *id, struct block *block, uint16_t queues)
{
    struct device *dev = device_new(&virtio_blk_type, id);
    struct virtio_blk *b;

    if (!dev)
        return NULL;
    b = container_of(dev, struct virtio_blk, v.dev);
    b->block = block;
    b->signal.run = blk_signal;
    b->queues = (uint16_t)min_size(max_u64(queues, 1), 64);
    return dev;
}

void virtio_blk_resized(struct device *dev)
{
    struct virtio_blk *b = container_of(dev, struct virtio_blk, v.dev);
    uint64_t capacity = b->block->size / SECTOR;

    virtio_config_set(&b->v, 0, &capacity, sizeof capacity, true);
}
