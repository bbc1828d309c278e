/* SPDX-License-Identifier: MIT */
/* Persistent dirty bitmaps, into the file.
 *
 *   first write -> directory: all "in use", sync -> the write goes on
 *   close       -> bits, tables and a directory in new clusters, sync -> header -> old ones freed
 *
 * So bitmaps in the file are true or marked as not to be trusted, whenever the power goes: the
 * header, one sector, changes from the directory that says "in use" to the one that does not. */
#include "block/qcow2/qcow2.h"
#include <errno.h>
#include <stdlib.h>

enum { FIXED = 24, TYPE_DIRTY = 1 };

bool q_bitmap_may_persist(struct block *b, const char *name, uint32_t granularity, struct err *err)
{
    const struct qcow2 *q = b->priv;
    unsigned count = 0;
    size_t bytes = strlen(name) + FIXED + 8;

    if (b->ops != &qcow2_ops)
        return err_set(err, ENOTSUP, "%s: format %s stores no bitmaps", b->config.file,
                       b->ops->name);
    if (q->h.version < 3)
        return err_set(err, ENOTSUP, "%s: Cannot store dirty bitmaps in qcow2 v2 files",
                       b->config.file);
    if (b->readonly)
        return err_set(err, EROFS, "%s: is open read-only", b->config.file);
    list_for(i, &b->bitmaps)
    {
        const struct block_bitmap *m = container_of(i, struct block_bitmap, link);

        count += m->persistent;
        bytes += m->persistent ? strlen(m->name) + FIXED + 8 : 0;
    }
    if (!*name || count >= Q_BITMAPS_MAX || bytes > Q_BITMAP_DIR_MAX)
        return err_set(err, EINVAL, "%s: has no room for bitmap '%.60s'", b->config.file, name);
    return granularity >= 512 || err_set(err, EINVAL, "Granularity must be at least 512");
}

/* ---- in use ---- */

static void mark_all(struct qcow2 *q)
{
    struct q_bitmap_entry e;
    uint64_t at = 0;

    for (uint32_t i = 0; i < q->h.bitmap_count; i++) {
        uint8_t *p = q->bitmaps.dir + at;

        if (!q_bitmap_parse(q, p, q->h.bitmaps_size - at, &e))
            return; /* it was checked when it was loaded */
        put_be32(p + 12, e.flags | Q_BITMAP_IN_USE);
        at += e.length;
    }
}

static void marked(struct block_req *req, int result)
{
    struct qcow2 *q = container_of(req, struct qcow2, bitmaps.req);

    if (!result && req->op == BLOCK_WRITE) {
        *req = (struct block_req){.op = BLOCK_FLUSH, .done = marked};
        block_pass(q->b->under, req);
        return;
    }
    q->bitmaps.marking = false;
    q->bitmaps.in_use = !result;
    q_resume_all(&q->bitmaps.waits, result);
}

int q_bitmaps_in_use(struct qcow2 *q, struct q_wait *w)
{
    struct q_bitmaps *m = &q->bitmaps;

    if (!m->dir || m->in_use)
        return 0;
    list_add(&m->waits, &w->link);
    if (m->marking)
        return 1;
    m->marking = true;
    mark_all(q);
    m->iov = (struct iovec){m->dir, align_up(q->h.bitmaps_size, 512)};
    m->req = (struct block_req){.op = BLOCK_WRITE,
                                .offset = q->h.bitmaps_offset,
                                .length = m->iov.iov_len,
                                .iov = &m->iov,
                                .iov_count = 1,
                                .done = marked};
    block_pass(q->b->under, &m->req);
    return 1;
}

int q_bitmaps_in_use_now(struct qcow2 *q)
{
    struct q_sleep s;
    int got;

    do {
        q_sleep_init(&s);
        got = q_bitmaps_in_use(q, &s.wait);
        if (got > 0)
            got = q_sleep(q, &s);
    } while (got > 0);
    return got;
}

/* ---- gone ---- */

void q_bitmap_removed(struct block_bitmap *m)
{
    struct qcow2 *q = m->b->priv;

    if (m->stored_table)
        q->bitmaps.removed = true;
}

/* What the old directory refers to, except tables that the new one keeps. */
static int free_old(struct qcow2 *q, const uint8_t *dir, uint64_t size, uint32_t count)
{
    struct q_bitmap_entry e;
    uint64_t at = 0;
    struct err err;

    for (uint32_t i = 0; i < count; i++, at += e.length) {
        uint64_t *table, bytes;
        bool kept = false;

        if (!q_bitmap_parse(q, dir + at, size - at, &e))
            return -EINVAL;
        list_for(k, &q->b->bitmaps) kept |=
            container_of(k, struct block_bitmap, link)->stored_table == e.table;
        if (kept || !e.entries)
            continue;
        table = q_table_read(q, e.table, e.entries, &err);
        if (!table)
            return -err.code;
        for (uint32_t k = 0; k < e.entries; k++)
            if (table[k] & Q_OFFSET_MASK)
                q_free(q, table[k] & Q_OFFSET_MASK, 1);
        free(table);
        bytes = align_up((uint64_t)e.entries * 8, q->cluster_size);
        q_free(q, e.table, bytes >> q->cluster_bits);
    }
    return 0;
}

/* ---- bits and tables ---- */

static bool all_are(const uint8_t *p, uint64_t n, uint8_t byte)
{
    return !n || (p[0] == byte && memcmp(p, p + 1, n - 1) == 0);
}

static int store_bits(struct qcow2 *q, const struct block_bitmap *m, uint64_t *table)
{
    uint64_t bytes = (m->bits + 7) / 8;
    uint8_t *buffer = aligned_alloc(4096, align_up(q->cluster_size, 4096));
    int failed = buffer ? 0 : -ENOMEM;

    for (uint64_t at = 0, i = 0; at < bytes && !failed; at += q->cluster_size, i++) {
        const uint8_t *p = (const uint8_t *)m->bit + at;
        uint64_t n = min_u64(q->cluster_size, bytes - at), offset = 0;

        table[i] = 0;
        if (all_are(p, n, 0))
            continue;
        if (n == q->cluster_size && all_are(p, n, 0xff)) {
            table[i] = __builtin_bswap64(1);
            continue;
        }
        memset(buffer, 0, q->cluster_size);
        memcpy(buffer, p, n);
        failed = q_take_row(q, 1, &offset);
        if (!failed)
            failed = block_run(q->b->under, BLOCK_WRITE, 0, offset, buffer, q->cluster_size);
        table[i] = __builtin_bswap64(offset);
    }
    free(buffer);
    return failed;
}

static int store_one(struct qcow2 *q, struct block_bitmap *m)
{
    uint64_t bytes = (m->bits + 7) / 8, entries = (bytes + q->cluster_size - 1) >> q->cluster_bits;
    uint64_t room = align_up(max_u64(entries * 8, 1), q->cluster_size), offset = 0;
    uint64_t *table = aligned_alloc(4096, align_up(room, 4096));
    int failed = table ? 0 : -ENOMEM;

    if (table)
        memset(table, 0, room);
    if (!failed)
        failed = store_bits(q, m, table);
    if (!failed)
        failed = q_take_row(q, room >> q->cluster_bits, &offset);
    if (!failed)
        failed = block_run(q->b->under, BLOCK_WRITE, 0, offset, table, room);
    free(table);
    m->stored_table = offset;
    m->stored_entries = (uint32_t)entries;
    return failed;
}

/* ---- the directory ---- */

static uint64_t put_entry(uint8_t *p, const struct block_bitmap *m)
{
    size_t name = strlen(m->name);

    put_be64(p, m->stored_table);
    put_be32(p + 8, m->stored_entries);
    put_be32(p + 12, m->inconsistent ? Q_BITMAP_IN_USE : m->recording ? Q_BITMAP_AUTO : 0);
    p[16] = TYPE_DIRTY;
    p[17] = (uint8_t)__builtin_ctz(m->granularity);
    put_be16(p + 18, (uint16_t)name);
    memcpy(p + FIXED, m->name, name);
    return align_up(FIXED + name, 8);
}

/* In new clusters, for *h. */
static int store_directory(struct qcow2 *q, struct q_header *h)
{
    uint8_t *dir = NULL;
    uint64_t room;
    int failed;

    h->bitmap_count = 0;
    h->bitmaps_size = h->bitmaps_offset = 0;
    list_for(i, &q->b->bitmaps)
    {
        const struct block_bitmap *m = container_of(i, struct block_bitmap, link);

        h->bitmap_count += m->persistent;
        h->bitmaps_size += m->persistent ? align_up(FIXED + strlen(m->name), 8) : 0;
    }
    h->autoclear &= ~(uint64_t)Q_AUTOCLEAR_BITMAPS;
    if (!h->bitmap_count)
        return 0;
    h->autoclear |= Q_AUTOCLEAR_BITMAPS;
    room = align_up(h->bitmaps_size, q->cluster_size);
    dir = aligned_alloc(4096, align_up(room, 4096));
    if (!dir)
        return -ENOMEM;
    memset(dir, 0, room);
    h->bitmaps_size = 0;
    list_for(i, &q->b->bitmaps)
    {
        const struct block_bitmap *m = container_of(i, struct block_bitmap, link);

        if (m->persistent)
            h->bitmaps_size += put_entry(dir + h->bitmaps_size, m);
    }
    failed = q_take_row(q, room >> q->cluster_bits, &h->bitmaps_offset);
    if (!failed)
        failed = block_run(q->b->under, BLOCK_WRITE, 0, h->bitmaps_offset, dir, room);
    free(dir);
    return failed;
}

static int replace_directory(struct qcow2 *q)
{
    struct q_header *h = malloc(sizeof *h), *old = malloc(sizeof *old);
    struct err err = {0};
    int failed = h && old ? 0 : -ENOMEM;

    if (!failed) {
        *h = *old = q->h;
        failed = store_directory(q, h);
    }
    if (!failed)
        failed = q_settle(q); /* what the header is going to refer to */
    if (!failed)
        failed = q_header_update(q, h, &err);
    if (!failed && q->bitmaps.dir) {
        failed = free_old(q, q->bitmaps.dir, old->bitmaps_size, old->bitmap_count);
        q_free(q, old->bitmaps_offset,
               align_up(old->bitmaps_size, q->cluster_size) >> q->cluster_bits);
    }
    free(h);
    free(old);
    return failed ? failed : q_settle(q);
}

int q_bitmaps_store(struct qcow2 *q)
{
    bool needed = q->bitmaps.in_use || q->bitmaps.removed;
    int failed = 0;

    if (q->corrupt)
        return 0;
    list_for(i, &q->b->bitmaps)
    {
        struct block_bitmap *m = container_of(i, struct block_bitmap, link);

        if (m->later)
            block_bitmap_thaw(m, false);
        needed |= m->persistent && m->changed;
    }
    if (!needed)
        return 0;
    list_for(i, &q->b->bitmaps)
    {
        struct block_bitmap *m = container_of(i, struct block_bitmap, link);

        if (!failed && m->persistent && !m->inconsistent && (m->changed || !m->stored_table))
            failed = store_one(q, m);
    }
    return failed ? failed : replace_directory(q);
}
