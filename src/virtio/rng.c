/* SPDX-License-Identifier: MIT */
/* virtio-rng (virtio 1.2, 5.4): each buffer that the driver offers is filled with random bytes. A
 * buffer gets at most CHUNK bytes and a kick serves at most BURST of them before others have their
 * turn, so a guest that asks for gigabytes cannot keep the loop. */
#include "virtio/devices.h"
#include <linux/virtio_ids.h>
#include <sys/random.h>

enum { CHUNK = 4096, BURST = 16 };

struct virtio_rng {
    struct virtio v;
    uint64_t seed, state; /* seed 0: the host's entropy */
    struct call again;
};

/* splitmix64: for repeatable test runs only. */
static void seeded_bytes(uint64_t *state, uint8_t *to, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        uint64_t z = *state += i % 8 ? 0 : 0x9e3779b97f4a7c15ULL;

        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
        to[i] = (uint8_t)((z ^ (z >> 31)) >> 8 * (i % 8));
    }
}

static bool fill(struct virtio_rng *r, uint8_t *to, size_t len)
{
    if (!r->seed)
        return getrandom(to, len, 0) == (ssize_t)len;
    seeded_bytes(&r->state, to, len);
    return true;
}

static void rng_kick(struct virtio *v, struct queue *q)
{
    struct virtio_rng *r = container_of(v, struct virtio_rng, v);
    uint8_t bytes[CHUNK];
    struct chain *c;

    for (unsigned i = 0; i < BURST; i++) {
        size_t want;

        c = queue_next(q);
        if (!c)
            return;
        want = min_size(chain_room(c), sizeof bytes);
        if (fill(r, bytes, want))
            chain_write(c, bytes, want);
        chain_finish(c);
    }
    loop_post(v->loop, &r->again);
}

static void rng_again(struct call *call)
{
    virtio_kick(&container_of(call, struct virtio_rng, again)->v, 0);
}

static bool rng_start(struct virtio *v, uint64_t features, struct err *err)
{
    return true;
}

static void rng_stop(struct virtio *v)
{
}

static const struct virtio_ops rng_ops = {
    .id = VIRTIO_ID_RNG,
    .queue_size = 64,
    .class_code = 0x00ff00,
    .start = rng_start,
    .kick = rng_kick,
    .stop = rng_stop,
};

static bool rng_attach(struct device *dev, struct board *board, struct err *err)
{
    struct virtio_rng *r = container_of(dev, struct virtio_rng, v.dev);

    r->again.run = rng_again;
    r->v.queue_count = 1;
    return virtio_pci_attach(&r->v, board, &rng_ops, -1, err);
}

static void rng_detach(struct device *dev)
{
    struct virtio_rng *r = container_of(dev, struct virtio_rng, v.dev);

    virtio_detach(dev);
    if (r->v.loop)
        loop_unpost(r->v.loop, &r->again);
}

static const struct field rng_state[] = {
    FIELD_TABLE(struct virtio_rng, v, virtio_state),
    FIELD(struct virtio_rng, state, UINT64_MAX),
    {0},
};

const struct device_type virtio_rng_type = {
    .name = "virtio-rng",
    .size = sizeof(struct virtio_rng),
    .state = rng_state,
    .state_version = 1,
    .attach = rng_attach,
    .reset = virtio_reset,
    .pause = virtio_pause,
    .resume = virtio_resume,
    .restored = virtio_restored,
    .detach = rng_detach,
};

struct device *virtio_rng_new(const char *id, uint64_t seed)
{
    struct device *dev = device_new(&virtio_rng_type, id);

    if (dev)
        container_of(dev, struct virtio_rng, v.dev)->seed = seed;
    return dev;
}
