/* SPDX-License-Identifier: MIT */
/* Power cuts. A node in memory records every write and flush of a qcow2 image under random load;
 * then the image is rebuilt as it could be after a cut anywhere: all that a flush confirmed, and of
 * the writes after it any subset, in any order, some torn between sectors. Each such image must
 * open, check without corruption (leaks are allowed) and hold what the disk's own flushes
 * confirmed. Usage: qcow2_crash_test [CUTS [SEED]]. */
#include "block/bitmap.h"
#include "block/format.h"
#include "block/image.h"
#include "block/qcow2/qcow2.h"
#include "tap.h"
#include <errno.h>
#include <stdlib.h>

enum { SECTORS = 600, STORE = 8 << 20, OPS = 60, CUTS_PER_HISTORY = 50 };

static struct loop *loop;
static uint64_t state;

static uint64_t rnd(uint64_t below)
{
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (state >> 20) % below;
}

/* ---- the node that records ---- */

struct event {
    uint64_t offset, length; /* length 0: a flush */
    uint8_t *data;
};

struct recorder {
    uint8_t *store;
    struct event *event;
    unsigned count, room;
    bool recording;
};

static void record(struct recorder *r, uint64_t offset, uint64_t length)
{
    struct event *e;

    if (!r->recording)
        return;
    if (r->count == r->room) {
        r->room = r->room ? r->room * 2 : 256;
        r->event = realloc(r->event, r->room * sizeof *r->event);
    }
    e = &r->event[r->count++];
    *e = (struct event){offset, length, length ? malloc(length) : NULL};
    if (length)
        memcpy(e->data, r->store + offset, length);
}

static void recorder_submit(struct block *b, struct block_req *req)
{
    struct recorder *r = b->priv;
    uint64_t at = req->offset;
    int result = 0;

    if (req->op != BLOCK_FLUSH && (at > STORE || req->length > STORE - at)) {
        block_done_later(b, req, req->op == BLOCK_DISCARD ? 0 : -ENOSPC);
        return;
    }
    switch (req->op) {
    case BLOCK_FLUSH: record(r, 0, 0); break;
    case BLOCK_DISCARD:
    case BLOCK_WRITE_ZEROES:
        memset(r->store + at, 0, req->length);
        record(r, at, req->length);
        break;
    case BLOCK_READ:
    case BLOCK_WRITE:
        for (int i = 0; i < req->iov_count; i++) {
            if (req->op == BLOCK_READ)
                memcpy(req->iov[i].iov_base, r->store + at, req->iov[i].iov_len);
            else
                memcpy(r->store + at, req->iov[i].iov_base, req->iov[i].iov_len);
            at += req->iov[i].iov_len;
        }
        if (req->op == BLOCK_WRITE) {
            record(r, req->offset, req->length);
            b->end = max_u64(b->end, at);
        }
        break;
    }
    block_done_later(b, req, result);
}

static bool recorder_open(struct block *b, struct err *err)
{
    (void)b;
    (void)err;
    return true;
}

static void recorder_close(struct block *b)
{
    (void)b;
}

static const struct block_ops recorder_ops = {
    .name = "recorder",
    .open = recorder_open,
    .submit = recorder_submit,
    .close = recorder_close,
};

static struct block *recorder_node(struct recorder *r, uint64_t end)
{
    struct block_config c = {.growable = true, .file = "memory"};
    struct block *b = block_new(loop, &c);

    b->ops = &recorder_ops;
    b->priv = r;
    b->size = BIT(40);
    b->end = end;
    b->can_discard = true;
    return b;
}

/* ---- what the disk may hold ---- */

struct version {
    unsigned when; /* events recorded when it was submitted */
    uint64_t tag;  /* what each 8 bytes of the sector say */
};

struct history { /* of one sector */
    struct version *v;
    unsigned count;
};

struct flush {
    unsigned when;           /* events recorded when it was over */
    unsigned known[SECTORS]; /* index of the version that it confirmed */
};

struct load {
    struct recorder rec;
    struct history sector[SECTORS];
    struct flush *flush;
    unsigned flushes;
    uint64_t next_tag;
};

static void add_version(struct load *l, uint64_t sector, uint64_t tag)
{
    struct history *h = &l->sector[sector];

    h->v = realloc(h->v, (h->count + 1) * sizeof *h->v);
    h->v[h->count++] = (struct version){l->rec.count, tag};
}

static void confirm(struct load *l)
{
    struct flush *f;

    l->flush = realloc(l->flush, (l->flushes + 1) * sizeof *l->flush);
    f = &l->flush[l->flushes++];
    f->when = l->rec.count;
    for (unsigned i = 0; i < SECTORS; i++)
        f->known[i] = l->sector[i].count - 1;
}

static bool write_some(struct load *l, struct block *b)
{
    uint64_t first = rnd(SECTORS), n = 1 + rnd(rnd(3) ? 12 : 80), kind = rnd(8);
    uint64_t *data, tag = ++l->next_tag;
    int failed;

    n = min_u64(n, SECTORS - first);
    if (kind == 7) {
        first = align_down(first, b->cluster_size / 512);
        n = min_u64(align_up(n, b->cluster_size / 512), SECTORS - first);
    }
    for (uint64_t i = first; i < first + n; i++)
        add_version(l, i, kind < 2 ? 0 : tag);
    if (kind < 2)
        return block_run(b, BLOCK_WRITE_ZEROES, kind ? BLOCK_REQ_UNMAP : 0, first * 512, NULL,
                         n * 512) == 0;
    data = malloc(n * 512);
    for (uint64_t i = 0; i < n * 64; i++)
        data[i] = tag;
    failed =
        block_run(b, BLOCK_WRITE, kind == 7 ? BLOCK_REQ_COMPRESS : 0, first * 512, data, n * 512);
    free(data);
    return failed == 0;
}

/* Adds a persistent bitmap, or takes it away; it is stored when the image is closed. */
static bool toggle_bitmap(struct block *b)
{
    struct block_bitmap *m = block_bitmap_find(b, "m");
    struct err err = {0};
    bool good = m ? block_bitmap_remove(m, &err)
                  : block_bitmap_add(b, "m", 4096, BITMAP_PERSISTENT, &err) != NULL;

    if (!good)
        printf("# bitmap: %s\n", err.text);
    return good;
}

static bool run_load(struct load *l, struct block *b, bool snapshots, bool bitmaps)
{
    struct err err = {0};
    bool have = false, good = true;

    for (unsigned i = 0; i < OPS && good; i++) {
        unsigned what = (unsigned)rnd(20);

        if (what < 3) {
            good = block_run(b, BLOCK_FLUSH, 0, 0, NULL, 0) == 0;
            confirm(l);
        } else if (what == 3 && snapshots) {
            good = have ? block_snapshot_delete(b, "s", &err) : block_snapshot_create(b, "s", &err);
            have = !have;
            if (!good)
                printf("# %s\n", err.text);
        } else if (what == 4 && bitmaps) {
            good = toggle_bitmap(b);
        } else {
            good = write_some(l, b);
        }
    }
    return good;
}

/* ---- cuts ---- */

static void apply(uint8_t *store, const struct event *e, bool torn, uint64_t *end)
{
    for (uint64_t at = 0; at < e->length; at += 512)
        if (!torn || rnd(2))
            memcpy(store + e->offset + at, e->data + at, 512);
    if (e->length)
        *end = max_u64(*end, e->offset + e->length);
}

/* The image after a cut before event `cut`. */
static void rebuild(const struct load *l, unsigned cut, const uint8_t *start, uint8_t *store,
                    uint64_t *end)
{
    unsigned safe = 0, keep = (unsigned)rnd(4);

    memcpy(store, start, STORE);
    for (unsigned i = 0; i < cut; i++)
        if (!l->rec.event[i].length)
            safe = i;
    for (unsigned i = 0; i < cut; i++) {
        if (i < safe || keep == 0)
            apply(store, &l->rec.event[i], false, end);
        else if (rnd(keep + 1))
            apply(store, &l->rec.event[i], rnd(4) == 0, end);
    }
}

static bool sector_is_right(const struct load *l, unsigned cut, unsigned sector,
                            const uint64_t *data)
{
    const struct history *h = &l->sector[sector];
    unsigned from = 0;

    for (unsigned i = 1; i < 64; i++)
        if (data[i] != data[0])
            return false;
    for (unsigned i = 0; i < l->flushes && l->flush[i].when <= cut; i++)
        from = l->flush[i].known[sector];
    for (unsigned i = from; i < h->count; i++)
        if (h->v[i].tag == data[0] && (i == from || h->v[i].when <= cut))
            return true;
    return false;
}

static bool image_is_right(const struct load *l, struct block *b, unsigned cut)
{
    static uint64_t data[SECTORS * 64];
    struct block_check check = {0};
    struct err err = {0};

    if (!block_check(b, 0, &check, &err) || check.corruptions) {
        printf("# %s%llu corruptions\n", err.text, (unsigned long long)check.corruptions);
        return false;
    }
    if (block_run(b, BLOCK_READ, 0, 0, data, sizeof data) != 0) {
        printf("# unreadable\n");
        return false;
    }
    for (unsigned i = 0; i < SECTORS; i++)
        if (!sector_is_right(l, cut, i, data + (uint64_t)i * 64)) {
            printf("# sector %u holds %llu\n", i, (unsigned long long)data[(uint64_t)i * 64]);
            return false;
        }
    return true;
}

static bool try_cut(const struct load *l, const uint8_t *start, uint64_t end, uint8_t *store)
{
    struct recorder r = {.store = store};
    struct block_config c = {.file = "memory", .format = "qcow2", .discard = true};
    unsigned cut = (unsigned)rnd(l->rec.count + 1);
    struct block *under, *b;
    struct err err = {0};
    bool good;

    rebuild(l, cut, start, store, &end);
    under = recorder_node(&r, end);
    b = block_open_over(under, &c, &err);
    if (!b) {
        printf("# cut %u: %s\n", cut, err.text);
        block_close(under);
        return false;
    }
    good = image_is_right(l, b, cut);
    if (!good)
        printf("# cut %u of %u\n", cut, l->rec.count);
    block_close(b);
    return good;
}

static void free_load(struct load *l)
{
    for (unsigned i = 0; i < l->rec.count; i++)
        free(l->rec.event[i].data);
    for (unsigned i = 0; i < SECTORS; i++)
        free(l->sector[i].v);
    free(l->rec.event);
    free(l->rec.store);
    free(l->flush);
    free(l);
}

static unsigned history(unsigned cuts)
{
    static const unsigned sizes[] = {512, 1024, 4096, 16384};
    struct block_create o = {.format = "qcow2", .cluster_size = sizes[rnd(4)]};
    struct block_config c = {.file = "memory", .format = "qcow2", .discard = true};
    struct load *l = calloc(1, sizeof *l);
    uint8_t *start = malloc(STORE), *store = malloc(STORE);
    struct block *under, *b;
    struct err err = {0};
    unsigned good = 0;
    uint64_t end;
    bool ran;

    o.refcount_bits = 1u << (3 + rnd(4));
    o.extended_l2 = o.cluster_size == 16384 && rnd(2);
    l->rec.store = calloc(1, STORE);
    under = recorder_node(&l->rec, 0);
    if (!q_create(under, &o, SECTORS * 512, &err))
        printf("# %s\n", err.text);
    memcpy(start, l->rec.store, STORE);
    end = under->end;
    for (unsigned i = 0; i < SECTORS; i++)
        add_version(l, i, 0);
    l->rec.recording = true;
    b = block_open_over(under, &c, &err);
    ran = b && run_load(l, b, rnd(2), rnd(2));
    if (b)
        block_close(b); /* its writes may be cut too */
    else
        block_close(under);
    l->rec.recording = false;
    if (ran)
        for (unsigned i = 0; i < cuts; i++)
            good += try_cut(l, start, end, store);
    else
        printf("# no load: %s\n", err.text);
    if (good < cuts)
        printf("# cluster %u refcount %u extended %d\n", o.cluster_size, o.refcount_bits,
               o.extended_l2);
    free(start);
    free(store);
    free_load(l);
    return good;
}

int main(int argc, char **argv)
{
    unsigned cuts = argc > 1 ? (unsigned)atoi(argv[1]) : 1000, good = 0, done = 0;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    struct err err = {0};

    loop = loop_open(&err);
    if (!ok(loop != NULL, "a loop"))
        return tap_done();
    for (; done < cuts; done += CUTS_PER_HISTORY, seed++) {
        unsigned right;

        state = seed * 0x9e3779b97f4a7c15ULL;
        right = history(CUTS_PER_HISTORY);
        good += right;
        if (right < CUTS_PER_HISTORY)
            printf("# seed %llu\n", (unsigned long long)seed);
    }
    ok(good == done, "%u of %u power cuts leave a whole image with all that was flushed", good,
       done);
    loop_close(loop);
    return tap_done();
}
