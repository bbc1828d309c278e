/* SPDX-License-Identifier: MIT */
/* Persistent dirty bitmaps, from the file: a directory names them, each has a table of clusters
 * that hold its bits.
 *
 *   header extension -> directory -> table -> clusters: 0 no bit set, 1 all set, else where they
 * are
 *
 * Those marked "in use" were not stored after their last change: only their names are of use. A
 * disk opened for reading lists its bitmaps and loads bits when asked. bitmap_store.c goes the
 * other way.
 */
#include "block/qcow2/qcow2.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum { FIXED = 24, FLAGS_KNOWN = 7, TYPE_DIRTY = 1, TABLE_MAX = (32 << 20) / 8, VISIT = 8192 };

bool q_bitmap_parse(const struct qcow2 *q, const uint8_t *p, uint64_t left,
                    struct q_bitmap_entry *e)
{
    if (left < FIXED)
        return false;
    *e = (struct q_bitmap_entry){.table = be64(p),
                                 .entries = be32(p + 8),
                                 .flags = be32(p + 12),
                                 .granularity_bits = p[17],
                                 .name_length = be16(p + 18),
                                 .extra = be32(p + 20)};
    e->length = align_up(FIXED + (uint64_t)e->extra + e->name_length, 8);
    e->name = p + FIXED + e->extra;
    return e->length <= left && !q_in_cluster(q, e->table) && !(e->table >> 56) &&
           e->entries <= TABLE_MAX;
}

static uint8_t *read_directory(struct qcow2 *q, int *failed)
{
    uint64_t size = align_up(q->h.bitmaps_size, 512);
    uint8_t *p = aligned_alloc(4096, align_up(size, 4096));

    *failed = p ? block_run(q->b->under, BLOCK_READ, 0, q->h.bitmaps_offset, p, size) : -ENOMEM;
    if (!*failed)
        return p;
    free(p);
    return NULL;
}

/* ---- for check ---- */

static int visit_table(struct qcow2 *q, const struct q_bitmap_entry *e,
                       void (*mark)(void *, uint64_t, uint64_t, const char *), void *arg)
{
    struct err err;

    mark(arg, e->table, (uint64_t)e->entries * 8, "a bitmap table outside the file");
    if (e->table >= block_end(q->b->under))
        return 0;
    for (uint64_t at = 0; at < e->entries; at += VISIT) {
        uint64_t n = min_u64(VISIT, e->entries - at);
        uint64_t *table = q_table_read(q, e->table + at * 8, n, &err);

        if (!table)
            return -err.code;
        for (uint64_t i = 0; i < n; i++)
            if (table[i] & Q_OFFSET_MASK)
                mark(arg, table[i] & Q_OFFSET_MASK, q->cluster_size,
                     "bitmap data outside the file");
        free(table);
    }
    return 0;
}

int q_bitmaps_visit(struct qcow2 *q, void (*mark)(void *, uint64_t, uint64_t, const char *),
                    void *arg)
{
    struct q_bitmap_entry e;
    uint64_t at = 0;
    int failed;
    uint8_t *p = read_directory(q, &failed);

    if (p)
        mark(arg, q->h.bitmaps_offset, q->h.bitmaps_size, "the bitmap directory outside the file");
    for (uint32_t i = 0; i < q->h.bitmap_count && !failed; i++) {
        failed = q_bitmap_parse(q, p + at, q->h.bitmaps_size - at, &e) ? 0 : -EINVAL;
        if (!failed)
            failed = visit_table(q, &e, mark, arg);
        at += e.length;
    }
    free(p);
    return failed;
}

/* ---- bits ---- */

static int load_cluster(struct block_bitmap *m, uint64_t entry, uint64_t at, uint8_t *buffer)
{
    struct qcow2 *q = m->b->priv;
    uint64_t bytes = (m->bits + 7) / 8, n = min_u64(q->cluster_size, bytes - at);

    if ((entry & ~(Q_OFFSET_MASK | 1)) || ((entry & 1) && (entry & Q_OFFSET_MASK)) ||
        q_in_cluster(q, entry & Q_OFFSET_MASK))
        return -EINVAL;
    if (entry & 1) {
        memset((uint8_t *)m->bit + at, 0xff, n);
        return 0;
    }
    if (block_run(q->b->under, BLOCK_READ, 0, entry, buffer, q->cluster_size))
        return -EIO;
    memcpy((uint8_t *)m->bit + at, buffer, n);
    return 0;
}

static int load_bits(struct block_bitmap *m, const uint64_t *table, uint64_t *loaded)
{
    struct qcow2 *q = m->b->priv;
    uint8_t *buffer = aligned_alloc(4096, align_up(q->cluster_size, 4096));
    int failed = buffer ? 0 : -ENOMEM;

    for (uint64_t i = 0; i < m->stored_entries && !failed; i++) {
        if (!table[i])
            continue;
        *loaded += q->cluster_size;
        failed = *loaded > Q_BITMAP_LOAD_MAX
                     ? -EFBIG
                     : load_cluster(m, table[i], i << q->cluster_bits, buffer);
    }
    if (m->bits % 64)
        m->bit[m->bits / 64] &= BIT(m->bits % 64) - 1;
    free(buffer);
    return failed;
}

static bool load(struct block_bitmap *m, uint64_t *loaded, struct err *err)
{
    struct qcow2 *q = m->b->priv;
    uint64_t bytes = (m->bits + 7) / 8, *table;
    int failed;

    if (m->stored_entries != (bytes + q->cluster_size - 1) >> q->cluster_bits)
        return err_set(err, EINVAL, "%s: its bitmap %.60s does not fit the disk", m->b->config.file,
                       m->name);
    table = q_table_read(q, m->stored_table, m->stored_entries, err);
    if (!table)
        return false;
    failed = load_bits(m, table, loaded);
    free(table);
    if (failed)
        return err_set(err, -failed, "%s: its bitmap %.60s cannot be loaded: %s", m->b->config.file,
                       m->name, failed == -EINVAL ? "it is damaged" : strerror(-failed));
    m->dirty = block_bitmap_count_bits(m->bit, m->bits);
    return true;
}

bool q_bitmap_load(struct block_bitmap *m, struct err *err)
{
    uint64_t loaded = 0;

    if (m->inconsistent || m->b->ops != &qcow2_ops)
        return err_set(err, EINVAL, "Bitmap '%.100s' is inconsistent and cannot be used", m->name);
    m->bit = calloc((m->bits + 63) / 64 + 1, 8);
    if (!m->bit)
        return err_set(err, ENOMEM, "out of memory");
    if (load(m, &loaded, err))
        return true;
    free(m->bit);
    m->bit = NULL;
    return false;
}

/* ---- open ---- */

static bool broken(const struct qcow2 *q, struct err *err)
{
    return err_set(err, EINVAL, "%s: its bitmap directory is damaged", q->b->config.file);
}

static bool open_one(struct qcow2 *q, const struct q_bitmap_entry *e, uint64_t *loaded,
                     struct err *err)
{
    bool stale = e->flags & Q_BITMAP_IN_USE;
    struct block_bitmap *m;
    char name[1024];

    if (!e->name_length || e->name_length >= sizeof name || memchr(e->name, 0, e->name_length) ||
        e->granularity_bits < 9 || e->granularity_bits > 31 || (e->flags & ~FLAGS_KNOWN))
        return broken(q, err);
    memcpy(name, e->name, e->name_length);
    name[e->name_length] = '\0';
    /* Only what is meant for us may be changed: unknown extra data says more than the bits do. */
    if (block_bitmap_find(q->b, name) ||
        (e->extra && !(e->flags & Q_BITMAP_EXTRA_COMPATIBLE) && !q->b->readonly))
        return broken(q, err);
    m = block_bitmap_new(q->b, name, 1u << e->granularity_bits, !stale && !q->b->readonly, err);
    if (!m)
        return false;
    m->persistent = true;
    m->inconsistent = stale;
    m->recording = (e->flags & Q_BITMAP_AUTO) && !stale;
    m->stored_table = e->table;
    m->stored_entries = e->entries;
    return !m->bit || load(m, loaded, err);
}

bool q_bitmaps_open(struct qcow2 *q, struct err *err)
{
    struct block *b = q->b;
    struct q_bitmap_entry e;
    uint64_t at = 0, loaded = 0;
    uint8_t *dir;
    int failed;
    bool good = true;

    if (!q->h.bitmap_count || b->config.depth || b->config.snapshot[0] || b->config.repairing)
        return true;
    dir = read_directory(q, &failed);
    if (!dir)
        return err_set(err, -failed, "%s: its bitmap directory cannot be read: %s", b->config.file,
                       strerror(-failed));
    for (uint32_t i = 0; i < q->h.bitmap_count && good; i++) {
        if (q_bitmap_parse(q, dir + at, q->h.bitmaps_size - at, &e) && dir[at + 16] == TYPE_DIRTY)
            good = open_one(q, &e, &loaded, err);
        else
            good = broken(q, err);
        at += e.length;
    }
    if (good && !b->readonly)
        q->bitmaps.dir = dir;
    else
        free(dir);
    if (!good)
        block_bitmap_free_all(b);
    if (!good && b->readonly) { /* the disk itself may be fine */
        log_warn("%s", err->text);
        return true;
    }
    return good;
}
