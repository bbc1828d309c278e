/* SPDX-License-Identifier: MIT */
/* Compares two disks with several threads: the loop's thread plans where each piece is read from
 * both, a thread reads and compares. Pieces that lie in the same place of the same file (a common
 * backing image) are equal without being read; so are zeroes on both sides. */
#include "block/bulk.h"
#include "block/format.h"
#include "block/gather.h"
#include "block/image.h"
#include "block/workers.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

enum { TASK = 256 << 10, TASKS_MAX = 40 };

struct task {
    struct work_job job;
    struct comparer *k;
    bool busy;
    uint64_t offset, length;
    struct gather g[2];
    uint8_t *data[2];
    int failed;
    unsigned failed_side;
    uint64_t differs; /* offset in the task, or its length */
};

struct comparer {
    struct block_compare *c;
    struct workers *pool;
    struct task task[TASKS_MAX];
    unsigned tasks, active;
    uint64_t at, size, done, differs, status_at;
    bool failed, status_differs;
    struct err *err;
};

/* ---- in a thread ---- */

static uint64_t first_difference(const uint8_t *a, const uint8_t *b, uint64_t length)
{
    uint64_t at = 0;

    if (memcmp(a, b, length) == 0)
        return length;
    while (at + 4096 <= length && memcmp(a + at, b + at, 4096) == 0)
        at += 4096;
    while (at < length && a[at] == b[at])
        at++;
    return at;
}

static void compare_work(struct work_job *job)
{
    struct task *t = container_of(job, struct task, job);

    for (unsigned i = 0; i < 2 && !t->failed; i++) {
        t->failed = gather_read(&t->g[i], t->data[i]);
        t->failed_side = i;
    }
    if (!t->failed)
        t->differs = first_difference(t->data[0], t->data[1], t->length);
}

/* ---- in the loop ---- */

static struct block *side(const struct comparer *k, unsigned i)
{
    return i ? k->c->b : k->c->a;
}

static void task_done(struct call *call)
{
    struct task *t = container_of(call, struct task, job.done);
    struct comparer *k = t->k;

    if (t->failed && !k->failed) {
        k->failed = true;
        err_set(k->err, -t->failed, "%s: cannot be read at byte %llu: %s",
                side(k, t->failed_side)->config.file, (unsigned long long)t->offset,
                strerror(-t->failed));
    } else if (!t->failed && t->differs < t->length) {
        k->differs = min_u64(k->differs, t->offset + t->differs);
    }
    k->done += t->length;
    k->active--;
    t->busy = false;
}

/* What a side has from `offset` on; beyond its end, zeroes. */
static bool map_side(struct comparer *k, unsigned i, uint64_t offset, struct block_extent *e)
{
    struct block *b = side(k, i);

    if (offset < b->size)
        return block_map(b, offset, b->size - offset, e, k->err);
    *e = (struct block_extent){.length = k->size - offset, .zero = true};
    return true;
}

static bool same_place(const struct block_extent *a, const struct block_extent *b)
{
    struct stat x, y;
    int fa = a->node ? gather_fd(a->node) : -1, fb = b->node ? gather_fd(b->node) : -1;

    if (!a->has_offset || !b->has_offset || a->compressed || b->compressed || a->zero || b->zero ||
        a->host_offset != b->host_offset || fa < 0 || fb < 0)
        return false;
    return fstat(fa, &x) == 0 && fstat(fb, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static bool same_status(const struct block_extent *a, const struct block_extent *b)
{
    return a->present == b->present && a->zero == b->zero && a->data == b->data &&
           a->has_offset == b->has_offset;
}

/* Bytes from k->at on that are known to be equal; notes where a strict comparison ends. */
static bool known_equal(struct comparer *k, uint64_t *length)
{
    struct block_extent e[2];

    *length = 0;
    while (k->at + *length < k->size) {
        uint64_t at = k->at + *length, n;

        if (!map_side(k, 0, at, &e[0]) || !map_side(k, 1, at, &e[1]))
            return false;
        n = min_u64(e[0].length, e[1].length);
        if (k->c->strict && !same_status(&e[0], &e[1])) {
            k->status_differs = true;
            k->status_at = at;
            k->size = at;
            return true;
        }
        if (!(e[0].zero && e[1].zero) && !same_place(&e[0], &e[1]))
            return true;
        *length += n;
    }
    return true;
}

static bool plan_side(struct task *t, unsigned i)
{
    struct comparer *k = t->k;
    struct block *b = side(k, i);
    uint64_t there = t->offset < b->size ? min_u64(t->length, b->size - t->offset) : 0;

    if (!t->data[i])
        t->data[i] = aligned_alloc(4096, TASK);
    if (!t->data[i])
        return err_set(k->err, ENOMEM, "out of memory");
    memset(t->data[i] + there, 0, t->length - there);
    if (!gather_plan(&t->g[i], b, t->offset, there, false, k->err))
        return false;
    t->failed = gather_fetch(&t->g[i], b, t->data[i]);
    t->failed_side = i;
    return true;
}

static bool task_begin(struct task *t)
{
    struct comparer *k = t->k;
    uint64_t equal;

    if (!known_equal(k, &equal))
        return false;
    k->at += equal;
    k->done += equal;
    if (k->at >= k->size)
        return true;
    t->offset = k->at;
    t->length = min_u64(TASK - k->at % TASK, k->size - k->at);
    t->failed = 0;
    t->differs = t->length;
    if (k->c->strict) { /* not past a change of what is allocated */
        struct block_extent e;

        for (unsigned i = 0; i < 2; i++) {
            if (!map_side(k, i, k->at, &e))
                return false;
            t->length = min_u64(t->length, e.length);
        }
    }
    if (!plan_side(t, 0) || !plan_side(t, 1))
        return false;
    k->at += t->length;
    k->active++;
    t->busy = true;
    t->job.work = compare_work;
    t->job.done.run = task_done;
    if (t->failed)
        task_done(&t->job.done);
    else
        workers_submit(k->pool, &t->job);
    return true;
}

static bool goes_on(struct comparer *k)
{
    if (!k->failed && k->c->stopped && k->c->stopped())
        k->failed = !err_set(k->err, ECANCELED, "stopped");
    return !k->failed && k->differs == UINT64_MAX && k->at < k->size;
}

static void run(struct comparer *k)
{
    while (k->active || goes_on(k)) {
        for (unsigned i = 0; i < k->tasks && goes_on(k); i++)
            if (!k->task[i].busy)
                k->failed |= !task_begin(&k->task[i]);
        if (k->active)
            loop_turn(k->c->a->loop, 100000000);
        if (k->c->progress)
            k->c->progress(k->c, k->done, max_u64(k->c->a->size, k->c->b->size));
    }
}

bool block_compare(struct block_compare *c, struct err *err)
{
    struct comparer *k = calloc(1, sizeof *k);
    bool good;

    if (!k)
        return err_set(err, ENOMEM, "out of memory");
    k->c = c;
    k->err = err;
    k->size = max_u64(c->a->size, c->b->size);
    k->differs = UINT64_MAX;
    k->pool = workers_open(c->a->loop, c->workers, err);
    if (k->pool) {
        k->tasks = (unsigned)min_u64(TASKS_MAX, 2 * workers_threads(k->pool) + 2);
        for (unsigned i = 0; i < k->tasks; i++)
            k->task[i].k = k;
        run(k);
    }
    good = k->pool && !k->failed;
    workers_close(k->pool);
    for (unsigned i = 0; i < k->tasks; i++)
        for (unsigned s = 0; s < 2; s++) {
            gather_free(&k->task[i].g[s]);
            free(k->task[i].data[s]);
        }
    c->status_differs = k->status_differs && k->differs == UINT64_MAX;
    c->same = k->differs == UINT64_MAX && !c->status_differs;
    c->at = k->differs != UINT64_MAX ? k->differs : k->status_at;
    free(k);
    return good;
}
