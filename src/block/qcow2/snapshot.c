/* SPDX-License-Identifier: MIT */
/* Internal snapshots: the table of them, and create, apply, delete.
 *
 * These change many refcounts and entries in steps that cannot be one write. In version 3 the image
 * is marked dirty meanwhile: whoever opens it after a power cut counts anew (check.c). Within the
 * steps counts go up before anything refers to a cluster, and down after nothing does. */
#include "block/qcow2/qcow2.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { FIXED = 40, TABLE_MAX = 16 << 20, EXTRA_MAX = 1024 };

/* ---- the table ---- */

static uint64_t entry_bytes(const struct q_snapshot *s)
{
    return align_up(FIXED + (uint64_t)s->extra_size + strlen(s->id) + strlen(s->name), 8);
}

uint64_t q_snapshots_bytes(const struct q_snapshot *s, unsigned count)
{
    uint64_t bytes = 0;

    for (unsigned i = 0; i < count; i++)
        bytes += entry_bytes(&s[i]);
    return bytes;
}

void q_snapshots_free(struct q_snapshot *s, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        free(s[i].extra);
    free(s);
}

static void take_text(char *to, size_t room, const uint8_t *from, size_t len)
{
    len = min_size(len, room - 1);
    memcpy(to, from, len);
    to[len] = '\0';
}

/* One entry; its size, or 0 if it is broken. */
static uint64_t parse(const struct qcow2 *q, const uint8_t *p, uint64_t left, struct q_snapshot *s)
{
    uint64_t need;
    uint16_t id, name;

    if (left < FIXED)
        return 0;
    *s = (struct q_snapshot){.l1_offset = be64(p),
                             .l1_size = be32(p + 8),
                             .date_s = be32(p + 16),
                             .date_ns = be32(p + 20),
                             .vm_clock = be64(p + 24),
                             .state_size = be32(p + 32),
                             .extra_size = be32(p + 36),
                             .disk_size = q->h.size,
                             .icount = UINT64_MAX};
    id = be16(p + 12);
    name = be16(p + 14);
    need = FIXED + (uint64_t)s->extra_size + id + name;
    if (s->extra_size > EXTRA_MAX || need > left || s->l1_size > Q_L1_MAX / 8 ||
        q_in_cluster(q, s->l1_offset) || s->l1_offset >> 56)
        return 0;
    if (s->extra_size >= 8)
        s->state_size = be64(p + FIXED);
    if (s->extra_size >= 16)
        s->disk_size = be64(p + FIXED + 8);
    if (s->extra_size >= 24)
        s->icount = be64(p + FIXED + 16);
    take_text(s->id, sizeof s->id, p + FIXED + s->extra_size, id);
    take_text(s->name, sizeof s->name, p + FIXED + s->extra_size + id, name);
    s->extra = malloc(s->extra_size + 1);
    if (!s->extra)
        return 0;
    memcpy(s->extra, p + FIXED, s->extra_size);
    return min_u64(align_up(need, 8), left);
}

bool q_snapshots_load(struct qcow2 *q, struct q_snapshot **list, unsigned *count, struct err *err)
{
    const char *file = q->b->config.file;
    uint64_t room = block_end(q->b->under) - min_u64(block_end(q->b->under), q->h.snapshots_offset);
    uint64_t bytes = min_u64(min_u64(room, TABLE_MAX), (uint64_t)q->h.snapshot_count * 4096),
             at = 0;
    uint8_t *p;
    int failed;

    *list = NULL;
    *count = 0;
    if (!q->h.snapshot_count)
        return true;
    p = aligned_alloc(4096, align_up(bytes + 512, 4096));
    *list = calloc(q->h.snapshot_count, sizeof **list);
    failed = p && *list ? block_run(q->b->under, BLOCK_READ, 0, q->h.snapshots_offset, p,
                                    align_up(bytes, 512))
                        : -ENOMEM;
    for (uint32_t i = 0; i < q->h.snapshot_count && !failed; i++) {
        uint64_t n = parse(q, p + at, bytes - at, &(*list)[i]);

        if (!n)
            failed = -EINVAL;
        else
            *count = i + 1;
        at += n;
    }
    free(p);
    if (!failed)
        return true;
    q_snapshots_free(*list, *count);
    *list = NULL;
    *count = 0;
    return err_set(err, -failed, "%s: its snapshot table is broken", file);
}

static void put_entry(uint8_t *p, const struct q_snapshot *s)
{
    size_t id = strlen(s->id), name = strlen(s->name);

    put_be64(p, s->l1_offset);
    put_be32(p + 8, s->l1_size);
    put_be16(p + 12, (uint16_t)id);
    put_be16(p + 14, (uint16_t)name);
    put_be32(p + 16, s->date_s);
    put_be32(p + 20, s->date_ns);
    put_be64(p + 24, s->vm_clock);
    put_be32(p + 32, s->state_size > UINT32_MAX ? 0 : (uint32_t)s->state_size);
    put_be32(p + 36, s->extra_size);
    memcpy(p + FIXED, s->extra, s->extra_size);
    memcpy(p + FIXED + s->extra_size, s->id, id);
    memcpy(p + FIXED + s->extra_size + id, s->name, name);
}

/* ---- steps ---- */

static int mark_dirty(struct qcow2 *q, bool dirty)
{
    if (q->h.version < 3)
        return 0;
    q->h.incompatible =
        (q->h.incompatible & ~(uint64_t)Q_INCOMPAT_DIRTY) | (dirty ? Q_INCOMPAT_DIRTY : 0);
    put_be64(q->head + 72, q->h.incompatible);
    return q_head_write(q);
}

/* `clusters` in a row. */
int q_take_row(struct qcow2 *q, uint64_t clusters, uint64_t *offset)
{
    uint64_t have = 0;

    while (have < clusters) {
        struct q_sleep s;
        uint64_t at;
        bool virgin;
        int64_t got;

        q_sleep_init(&s);
        got = q_take(q, clusters - have, &s.wait, &at, &virgin);
        if (got == 0)
            got = q_sleep(q, &s) < 0 ? s.wait.error : 0;
        if (got < 0)
            return (int)got;
        if (!got)
            continue;
        if (have && at != *offset + (have << q->cluster_bits)) {
            q_free(q, *offset, have);
            have = 0;
        }
        if (!have)
            *offset = at;
        have += (uint64_t)got;
    }
    return 0;
}

static int write_l1(struct qcow2 *q, uint64_t offset, const uint64_t *l1, uint64_t entries)
{
    uint64_t bytes = align_up(max_u64(entries * 8, 1), q->cluster_size);
    uint64_t *p = aligned_alloc(4096, align_up(bytes, 4096));
    int failed;

    if (!p)
        return -ENOMEM;
    memset(p, 0, bytes);
    for (uint64_t i = 0; i < entries; i++)
        p[i] = __builtin_bswap64(l1[i] & ~Q_COPIED);
    failed = block_run(q->b->under, BLOCK_WRITE, 0, offset, p, bytes);
    free(p);
    return failed;
}

/* The new table in new clusters, then the header: one sector says which one counts. */
static int write_table(struct qcow2 *q, const struct q_snapshot *s, unsigned count)
{
    uint64_t bytes = align_up(q_snapshots_bytes(s, count), q->cluster_size), at = 0, offset = 0;
    uint64_t old = q->h.snapshots_offset, old_bytes = q->snapshots_bytes;
    uint8_t *p;
    int failed = 0;

    if (count) {
        p = aligned_alloc(4096, align_up(bytes, 4096));
        if (!p)
            return -ENOMEM;
        memset(p, 0, bytes);
        for (unsigned i = 0; i < count; i++) {
            put_entry(p + at, &s[i]);
            at += entry_bytes(&s[i]);
        }
        failed = q_take_row(q, bytes >> q->cluster_bits, &offset);
        if (!failed)
            failed = block_run(q->b->under, BLOCK_WRITE, 0, offset, p, bytes);
        free(p);
    }
    if (!failed)
        failed = q_settle(q); /* counts and contents first */
    if (failed)
        return failed;
    q->h.snapshots_offset = offset;
    q->h.snapshot_count = count;
    q->snapshots_bytes = bytes;
    put_be32(q->head + 60, count);
    put_be64(q->head + 64, offset);
    failed = q_head_write(q);
    if (!failed && old_bytes)
        q_free(q, old, (old_bytes + q->cluster_size - 1) >> q->cluster_bits);
    return failed;
}

/* ---- references of a whole L1 ---- */

enum what { LOOK, MORE, LESS };

struct counter {
    struct q_walk walk;
    struct qcow2 *q;
    enum what what;
};

static int count_one(struct counter *c, uint64_t first, uint64_t n)
{
    struct qcow2 *q = c->q;

    if (c->what == LESS) {
        q_free(q, first << q->cluster_bits, n);
        return 0;
    }
    for (uint64_t i = 0; i < n; i++) {
        uint64_t count;
        int failed = q_ref_wait(q, first + i, c->what == MORE, &count);

        if (failed)
            return failed;
        if (!count || (c->what == LOOK && count == q_ref_max(q)))
            return count ? -ERANGE : -EIO;
    }
    return 0;
}

static int count_table(struct q_walk *w, uint64_t index, uint64_t entry)
{
    (void)index;
    return count_one(container_of(w, struct counter, walk),
                     (entry & Q_OFFSET_MASK) >>
                         container_of(w, struct counter, walk)->q->cluster_bits,
                     entry & Q_OFFSET_MASK ? 1 : 0);
}

static int count_entry(struct q_walk *w, uint64_t at, uint64_t guest, const uint8_t *p)
{
    struct counter *c = container_of(w, struct counter, walk);
    uint64_t first = 0, n = q_entry_clusters(c->q, p, &first);

    (void)at;
    (void)guest;
    return count_one(c, first, n);
}

static int count_all(struct qcow2 *q, const uint64_t *l1, uint64_t entries, enum what what)
{
    struct counter c = {.walk = {count_table, count_entry}, .q = q, .what = what};

    return q_walk(q, l1, entries, &c.walk);
}

/* "Copied" marks of the active tables as the counts say. */
static int copied_entry(struct q_walk *w, uint64_t at, uint64_t guest, const uint8_t *p)
{
    struct qcow2 *q = container_of(w, struct counter, walk)->q;
    uint64_t first = 0, entry = be64(p), n = q_entry_clusters(q, p, &first), count;
    uint64_t page_at = align_down(at, q->cache.page_size);
    struct q_page *page;
    int failed;

    (void)guest;
    if (!n || (entry & Q_COMPRESSED))
        return 0;
    failed = q_ref_wait(q, first, false, &count);
    if (failed || (count == 1) == ((entry & Q_COPIED) != 0))
        return failed;
    failed = q_page_wait(q, page_at, Q_PAGE_L2, &page);
    if (failed)
        return failed;
    put_be64(page->data + (at - page_at), entry ^ Q_COPIED);
    q_page_dirty(page);
    if (q->cache.dirty > q->cache.max / 2)
        failed = q_settle(q);
    return failed;
}

static int copied_table(struct q_walk *w, uint64_t index, uint64_t entry)
{
    struct qcow2 *q = container_of(w, struct counter, walk)->q;
    uint64_t count;
    int failed = q_ref_wait(q, (entry & Q_OFFSET_MASK) >> q->cluster_bits, false, &count);

    if (failed || (count == 1) == ((entry & Q_COPIED) != 0))
        return failed;
    q->l1[index] = entry ^ Q_COPIED;
    q->l1_dirty[index / 64] = 1;
    return 0;
}

static int mark_copied(struct qcow2 *q)
{
    struct counter c = {.walk = {copied_table, copied_entry}, .q = q};
    int failed = q_walk(q, q->l1, q->l1_size, &c.walk);

    return failed ? failed : q_settle(q);
}

/* ---- what users ask for ---- */

static int find(const struct q_snapshot *s, unsigned count, const char *name)
{
    for (unsigned i = 0; i < count; i++)
        if (strcmp(s[i].name, name) == 0)
            return (int)i;
    for (unsigned i = 0; i < count; i++)
        if (strcmp(s[i].id, name) == 0)
            return (int)i;
    return -1;
}

static bool begin(struct block *b, struct q_snapshot **list, unsigned *count, struct err *err)
{
    struct qcow2 *q = b->priv;
    int failed;

    if (b->ops != &qcow2_ops)
        return err_set(err, ENOTSUP, "%s: format %s has no internal snapshots", b->config.file,
                       b->ops->name);
    if (!q_snapshots_load(q, list, count, err))
        return false;
    q->snapshots_bytes = q_snapshots_bytes(*list, *count);
    if (b->readonly)
        return true;
    failed = q_settle(q);
    return !failed || err_set(err, -failed, "%s: %s", b->config.file, strerror(-failed));
}

static bool finish(struct block *b, struct q_snapshot *s, unsigned count, int failed,
                   const char *what, struct err *err)
{
    q_snapshots_free(s, count);
    if (!failed)
        return true;
    return err_set(err, -failed, "%s: snapshot cannot be %s: %s", b->config.file, what,
                   failed == -ERANGE ? "its refcounts are too narrow for another one"
                                     : strerror(-failed));
}

static void new_id(const struct q_snapshot *s, unsigned count, char id[64])
{
    unsigned long highest = 0;

    for (unsigned i = 0; i < count; i++) {
        unsigned long n = strtoul(s[i].id, NULL, 10);

        highest = n > highest ? n : highest;
    }
    snprintf(id, 64, "%lu", highest + 1);
}

static bool describe(struct qcow2 *q, struct q_snapshot *s, const char *name)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    s->date_s = (uint32_t)now.tv_sec;
    s->date_ns = (uint32_t)now.tv_nsec;
    snprintf(s->name, sizeof s->name, "%s", name);
    s->disk_size = q->h.size;
    s->l1_size = q->l1_size;
    s->extra_size = 24;
    s->extra = calloc(1, 24);
    if (!s->extra)
        return false;
    put_be64(s->extra + 8, s->disk_size);
    put_be64(s->extra + 16, UINT64_MAX);
    return true;
}

static int create(struct qcow2 *q, struct q_snapshot *all, unsigned count)
{
    struct q_snapshot *s = &all[count];
    uint64_t clusters =
        (max_u64((uint64_t)s->l1_size * 8, 1) + q->cluster_size - 1) >> q->cluster_bits;
    int failed = count_all(q, q->l1, q->l1_size, LOOK); /* nothing is changed if it cannot be */

    if (!failed)
        failed = mark_dirty(q, true);
    if (!failed)
        failed = q_take_row(q, clusters, &s->l1_offset);
    if (!failed)
        failed = write_l1(q, s->l1_offset, q->l1, q->l1_size);
    if (!failed)
        failed = count_all(q, q->l1, q->l1_size, MORE);
    if (!failed)
        failed = q_settle(q);
    if (!failed)
        failed = mark_copied(q);
    if (!failed)
        failed = write_table(q, all, count + 1);
    if (!failed)
        failed = q_settle(q);
    return failed ? failed : mark_dirty(q, false);
}

bool block_snapshot_create(struct block *b, const char *name, struct err *err)
{
    struct q_snapshot *s, *more;
    unsigned count;
    int failed;

    if (!begin(b, &s, &count, err))
        return false;
    if (b->readonly || b->data || count >= Q_SNAPSHOTS_MAX - 1 || strlen(name) > 255 || !*name)
        return finish(b, s, count,
                      b->readonly ? -EROFS
                      : b->data   ? -ENOTSUP
                                  : -EINVAL,
                      "made", err);
    more = realloc(s, (count + 1) * sizeof *s);
    if (!more)
        return finish(b, s, count, -ENOMEM, "made", err);
    s = more;
    memset(&s[count], 0, sizeof *s);
    new_id(s, count, s[count].id);
    failed = describe(b->priv, &s[count], name) ? create(b->priv, s, count) : -ENOMEM;
    return finish(b, s, count + 1, failed, "made", err);
}

static int remove_one(struct qcow2 *q, struct q_snapshot *s, unsigned count, unsigned which)
{
    struct q_snapshot gone = s[which];
    struct err err;
    uint64_t *l1 = q_table_read(q, gone.l1_offset, gone.l1_size, &err);
    int failed = l1 ? mark_dirty(q, true) : -err.code;

    if (!failed) {
        memmove(&s[which], &s[which + 1], (count - which - 1) * sizeof *s);
        failed = write_table(q, s, count - 1);
        s[count - 1] = gone; /* all of them are freed together */
    }
    if (!failed)
        failed = count_all(q, l1, gone.l1_size, LESS);
    if (!failed) {
        q_free(q, gone.l1_offset,
               ((uint64_t)gone.l1_size * 8 + q->cluster_size - 1) >> q->cluster_bits);
        failed = q_settle(q);
    }
    if (!failed)
        failed = mark_copied(q);
    free(l1);
    return failed ? failed : mark_dirty(q, false);
}

/* The disk as the snapshot has it: its tables are ours too, the old ones are not any more. */
static int apply_one(struct qcow2 *q, struct q_snapshot *all, unsigned count, unsigned which)
{
    const struct q_snapshot *s = &all[which];
    struct err err;
    uint64_t need =
        (s->disk_size + BIT(q->cluster_bits + q->l2_bits) - 1) >> (q->cluster_bits + q->l2_bits);
    uint64_t entries = max_u64(s->l1_size, need), clusters, offset, old = q->h.l1_offset;
    uint64_t *l1 = NULL, *read = q_table_read(q, s->l1_offset, s->l1_size, &err),
             old_size = q->l1_size;
    uint8_t *dirty = calloc(1, entries / 64 + 1);
    int failed = read ? 0 : -err.code;

    if (entries > Q_L1_MAX / 8 || s->disk_size > BIT(62))
        failed = failed ? failed : -EINVAL;
    if (!failed) {
        l1 = aligned_alloc(4096, align_up(max_u64(entries * 8, 1), 4096));
        if (!l1 || !dirty)
            failed = -ENOMEM;
    }
    if (!failed) {
        memset(l1, 0, entries * 8);
        memcpy(l1, read, (size_t)s->l1_size * 8);
        failed = count_all(q, l1, s->l1_size, LOOK);
    }
    free(read);
    clusters = (max_u64(entries * 8, 1) + q->cluster_size - 1) >> q->cluster_bits;
    if (!failed)
        failed = q_bitmaps_in_use_now(q);
    if (!failed)
        failed = mark_dirty(q, true);
    if (!failed)
        failed = q_take_row(q, clusters, &offset);
    if (!failed)
        failed = count_all(q, l1, s->l1_size, MORE);
    if (!failed)
        failed = write_l1(q, offset, l1, entries);
    if (!failed)
        failed = q_settle(q);
    if (failed) {
        free(l1);
        free(dirty);
        return failed;
    }
    for (uint64_t i = 0; i < entries; i++)
        l1[i] &= ~Q_COPIED;
    q->h.l1_offset = offset;
    q->h.l1_size = (uint32_t)entries;
    q->h.size = s->disk_size;
    put_be64(q->head + 24, q->h.size);
    put_be32(q->head + 36, q->h.l1_size);
    put_be64(q->head + 40, q->h.l1_offset);
    failed = q_head_write(q);
    if (!failed)
        failed = count_all(q, q->l1, old_size, LESS);
    q_free(q, old, (old_size * 8 + q->cluster_size - 1) >> q->cluster_bits);
    free(q->l1);
    free(q->l1_dirty);
    q->l1 = l1;
    q->l1_dirty = dirty;
    q->l1_size = (uint32_t)entries;
    q->b->size = align_down(q->h.size, 512);
    if (!failed && !block_bitmap_resize(q->b, q->b->size, &err))
        failed = -err.code;
    block_bitmap_mark(q->b, 0, q->b->size);
    if (!failed)
        failed = q_settle(q);
    if (!failed)
        failed = mark_copied(q);
    return failed ? failed : mark_dirty(q, false);
}

/* Does that with the snapshot of this name; `done` is for the error: it cannot be <done>. */
static bool with_snapshot(struct block *b, const char *name,
                          int (*act)(struct qcow2 *q, struct q_snapshot *all, unsigned count,
                                     unsigned which),
                          const char *done, struct err *err)
{
    struct q_snapshot *s;
    unsigned count;
    int which, result;

    if (!begin(b, &s, &count, err))
        return false;
    which = find(s, count, name);
    if (b->readonly)
        result = -EROFS;
    else
        result = which < 0 ? -ENOENT : act(b->priv, s, count, (unsigned)which);
    return finish(b, s, count, result, done, err);
}

bool block_snapshot_delete(struct block *b, const char *name, struct err *err)
{
    return with_snapshot(b, name, remove_one, "deleted", err);
}

bool block_snapshot_apply(struct block *b, const char *name, struct err *err)
{
    return with_snapshot(b, name, apply_one, "applied", err);
}

bool block_snapshot_list(struct block *b, struct block_snapshot **list, unsigned *count,
                         struct err *err)
{
    struct q_snapshot *s;

    if (!begin(b, &s, count, err))
        return false;
    *list = calloc(*count + 1, sizeof **list);
    for (unsigned i = 0; *list && i < *count; i++) {
        struct block_snapshot *to = &(*list)[i];

        snprintf(to->id, sizeof to->id, "%s", s[i].id);
        snprintf(to->name, sizeof to->name, "%s", s[i].name);
        to->date_s = s[i].date_s;
        to->date_ns = s[i].date_ns;
        to->vm_clock_ns = s[i].vm_clock;
        to->vm_state_size = s[i].state_size;
        to->disk_size = s[i].disk_size;
        to->icount = s[i].icount;
    }
    return finish(b, s, *count, *list ? 0 : -ENOMEM, "listed", err);
}

/* Opened for reading as a snapshot has it: its L1 instead of the active one. */
bool q_snapshot_open(struct qcow2 *q, const char *name, struct err *err)
{
    struct q_snapshot *s;
    unsigned count;
    uint64_t *l1 = NULL;
    int which;

    if (!q->b->readonly)
        return err_set(err, EROFS, "%s: a snapshot is read only", q->b->config.file);
    if (!q_snapshots_load(q, &s, &count, err))
        return false;
    which = find(s, count, name);
    if (which < 0)
        err_set(err, ENOENT, "%s: has no snapshot %.60s", q->b->config.file, name);
    else
        l1 = q_table_read(q, s[which].l1_offset, s[which].l1_size, err);
    if (l1) {
        free(q->l1);
        q->l1 = l1;
        q->l1_size = s[which].l1_size;
        q->h.size = min_u64(s[which].disk_size, BIT(62));
    }
    q_snapshots_free(s, count);
    return l1 != NULL;
}
