/* SPDX-License-Identifier: MIT */
/* Metadata in memory: pieces of L2 tables and refcount blocks, found by their place in the file.
 *
 *   get: in memory -> 0;  not there -> read, 1, and the waiter is resumed;  read failed -> all
 *   waiters are resumed with the error and the page is gone
 *
 * Only a commit (commit.c) writes pages. A page that is dirty, pinned, loading, being written or
 * waited for stays; of the others the least recently used goes first. */
#include "block/qcow2/qcow2.h"
#include <errno.h>
#include <stdlib.h>

bool q_cache_open(struct qcow2 *q, uint64_t bytes, struct err *err)
{
    struct q_cache *c = &q->cache;

    c->page_size = (unsigned)min_u64(q->cluster_size, Q_PAGE_MAX);
    c->max = (unsigned)max_u64(bytes / c->page_size, 64);
    c->buckets = 64;
    while (c->buckets < c->max)
        c->buckets *= 2;
    list_init(&c->lru);
    c->bucket = malloc(c->buckets * sizeof *c->bucket);
    if (!c->bucket)
        return err_set(err, ENOMEM, "%s: out of memory", q->b->config.file);
    for (unsigned i = 0; i < c->buckets; i++)
        list_init(&c->bucket[i]);
    return true;
}

static void page_free(struct q_page *p)
{
    struct q_cache *c = &p->q->cache;

    list_remove(&p->hash);
    list_remove(&p->lru);
    c->count--;
    c->dirty -= p->dirty;
    free(p->data);
    free(p);
}

void q_cache_close(struct qcow2 *q)
{
    if (!q->cache.bucket)
        return;
    q_cache_forget(q);
    free(q->cache.bucket);
    q->cache.bucket = NULL;
}

void q_cache_forget(struct qcow2 *q)
{
    list_for_safe(i, &q->cache.lru) page_free(container_of(i, struct q_page, lru));
}

static struct list *bucket_of(struct q_cache *c, uint64_t offset)
{
    return &c->bucket[((offset / c->page_size) * 0x9e3779b97f4a7c15ULL >> 32) & (c->buckets - 1)];
}

struct q_page *q_page_find(struct qcow2 *q, uint64_t offset)
{
    struct list *bucket = bucket_of(&q->cache, offset);

    list_for(i, bucket)
    {
        struct q_page *p = container_of(i, struct q_page, hash);

        if (p->offset == offset)
            return p;
    }
    return NULL;
}

static bool page_is_idle(const struct q_page *p)
{
    return !p->dirty && !p->loading && !p->writing && !p->pins && list_empty(&p->waits);
}

/* What was a table is free: whatever comes there next is not what the cache remembers. Its last
 * changes were in the commit that this waited for, so nobody has its pages in hand. */
void q_cache_drop(struct qcow2 *q, uint64_t offset, uint64_t length)
{
    for (uint64_t at = 0; at < length; at += q->cache.page_size) {
        struct q_page *p = q_page_find(q, offset + at);

        if (p && !p->loading && !p->writing && !p->pins && list_empty(&p->waits))
            page_free(p);
    }
}

static void make_room(struct q_cache *c)
{
    unsigned looked = 0;

    list_for_safe(i, &c->lru)
    {
        struct q_page *p = container_of(i, struct q_page, lru);

        if (c->count < c->max || looked++ >= 64)
            return;
        if (page_is_idle(p))
            page_free(p);
    }
}

static struct q_page *page_new(struct qcow2 *q, uint64_t offset, enum q_page_kind kind)
{
    struct q_cache *c = &q->cache;
    struct q_page *p;

    if (c->count >= c->max)
        make_room(c);
    p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->data = aligned_alloc(Q_PAGE_MAX, Q_PAGE_MAX);
    if (!p->data) {
        free(p);
        return NULL;
    }
    p->q = q;
    p->offset = offset;
    p->kind = kind;
    list_init(&p->waits);
    list_add(bucket_of(c, offset), &p->hash);
    list_add(&c->lru, &p->lru);
    c->count++;
    return p;
}

void q_resume_all(struct list *waits, int error)
{
    struct list now;

    if (list_empty(waits))
        return;
    /* Whoever is resumed may wait anew: on the list itself, not on this round's. */
    list_init(&now);
    list_add(waits, &now);
    list_remove(waits);
    while (!list_empty(&now)) {
        struct q_wait *w = container_of(now.next, struct q_wait, link);

        list_remove(&w->link);
        w->error = error;
        w->resume(w);
    }
}

static void page_loaded(struct block_req *req, int result)
{
    struct q_page *p = container_of(req, struct q_page, req);
    struct list waits;

    p->loading = false;
    if (result == 0) {
        p->pins++; /* whoever comes first must not push it out before the last has seen it */
        q_resume_all(&p->waits, 0);
        p->pins--;
        return;
    }
    list_init(&waits);
    list_add(&p->waits, &waits);
    list_remove(&p->waits);
    page_free(p);
    q_resume_all(&waits, result);
}

int q_page_get(struct qcow2 *q, uint64_t offset, enum q_page_kind kind, struct q_wait *w,
               struct q_page **page)
{
    struct q_page *p = q_page_find(q, offset);

    if (p && p->kind != kind)
        return q_corrupt(q, "one cluster serves as two kinds of table", offset);
    if (p && !p->loading) {
        list_remove(&p->lru);
        list_add(&q->cache.lru, &p->lru);
        *page = p;
        return 0;
    }
    if (!p) {
        p = page_new(q, offset, kind);
        if (!p)
            return -ENOMEM;
        p->loading = true;
        p->iov = (struct iovec){p->data, q->cache.page_size};
        p->req = (struct block_req){.op = BLOCK_READ,
                                    .offset = offset,
                                    .length = q->cache.page_size,
                                    .iov = &p->iov,
                                    .iov_count = 1,
                                    .done = page_loaded};
        block_pass(q->b->under, &p->req);
    }
    list_add(&p->waits, &w->link);
    return 1;
}

struct q_page *q_page_make(struct qcow2 *q, uint64_t offset, enum q_page_kind kind)
{
    struct q_page *p = q_page_find(q, offset);

    if (!p)
        p = page_new(q, offset, kind);
    if (!p)
        return NULL;
    p->kind = kind;
    p->fresh = true;
    memset(p->data, 0, q->cache.page_size);
    q_page_dirty(p);
    return p;
}

void q_page_dirty(struct q_page *p)
{
    p->q->cache.dirty += !p->dirty;
    p->dirty = true;
}
