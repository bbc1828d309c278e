/* SPDX-License-Identifier: MIT */
/* For who fills a new image: clusters are taken and the tables changed in one go, and the data is
 * written by the caller, from any thread, straight to the file. That breaks the order of writes
 * that keeps an image whole through a power cut; a half-filled new image is none yet. */
#include "block/bulk.h"
#include "block/gather.h"
#include "block/qcow2/qcow2.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_qcow2(const struct block *b)
{
    return b->ops == &qcow2_ops;
}

/* How many of the entries from `at` on refer to nothing, at most n. */
static uint64_t count_empty(const struct qcow2 *q, const struct q_page *page, unsigned at,
                            uint64_t n)
{
    uint64_t i = 0;

    n = min_u64(n, (q->cache.page_size - at) / q->entry_size);
    while (i < n && (be64(page->data + at + i * q->entry_size) & ~Q_ZERO_FLAG) == 0)
        i++;
    return i;
}

/* The page with the entry for `offset`, in a table of our own, and clusters to go there: 0, 1 or
 * -errno. */
static int prepare(struct qcow2 *q, uint64_t offset, uint64_t want, struct q_wait *w,
                   struct q_page **page, unsigned *at, uint64_t *table)
{
    int failed = q_own_table(q, offset, w, table);

    if (!failed)
        failed = q_l2_page(q, *table, offset, w, page, at);
    if (failed)
        return failed;
    return count_empty(q, *page, *at, want) ? 0 : -EEXIST;
}

static void set_entries(struct qcow2 *q, struct q_page *page, unsigned at, uint64_t host,
                        uint64_t count, bool filled)
{
    for (uint64_t i = 0; i < count; i++) {
        uint8_t *entry = page->data + at + i * q->entry_size;

        put_be64(entry, (host + (i << q->cluster_bits)) | Q_COPIED);
        if (q->subs > 1 && filled)
            put_be64(entry + 8, UINT32_MAX);
    }
    q_page_dirty(page);
}

static int place_step(struct qcow2 *q, uint64_t offset, uint64_t count, bool filled,
                      struct q_wait *w, struct block_place *p)
{
    struct q_page *page;
    uint64_t table;
    unsigned at;
    int64_t got;
    int failed = prepare(q, offset, count, w, &page, &at, &table);

    if (failed)
        return failed;
    got = (int64_t)count_empty(q, page, at, count);
    p->host = offset;
    p->virgin = true;
    if (!q->b->data) {
        page->pins++;
        got = q_take(q, (uint64_t)got, w, &p->host, &p->virgin);
        page->pins--;
        if (got <= 0)
            return got ? (int)got : 1;
    }
    p->length = (uint64_t)got << q->cluster_bits;
    set_entries(q, page, at, p->host, (uint64_t)got, filled);
    return 0;
}

int block_place(struct block *b, uint64_t offset, uint64_t length, bool filled,
                struct block_place *p)
{
    struct qcow2 *q = b->priv;
    struct q_sleep s;
    int got;

    if (!is_qcow2(b))
        return -ENOTSUP;
    do {
        q_sleep_init(&s);
        got = place_step(q, offset, (length + q->cluster_size - 1) >> q->cluster_bits, filled,
                         &s.wait, p);
        if (got > 0)
            got = q_sleep(q, &s);
    } while (got > 0);
    p->length = min_u64(p->length, length);
    p->fd = gather_fd(b);
    return p->fd < 0 && !got ? -ENOTSUP : got;
}

/* ---- compressed ---- */

/* Room for `length` bytes at *host: behind the last packed cluster, in its cluster or across into
 * the next. Every cluster touched counts once more. */
static int pack_room(struct qcow2 *q, uint64_t length, struct q_wait *w, uint64_t *host)
{
    uint64_t at = q->compress_at, next = 0;
    bool fits = at && q_in_cluster(q, at) + length <= q->cluster_size, virgin;
    int failed;

    if (!fits) {
        int64_t got = q_take(q, 1, w, &next, &virgin);

        if (got <= 0)
            return got ? (int)got : 1;
    }
    if (!at || (!fits && next != align_up(at, q->cluster_size))) {
        *host = next;
        return 0;
    }
    failed = q_ref_more(q, at, w);
    if (failed == -EAGAIN) { /* counted as often as it can be */
        q->compress_at = 0;
        *host = next;
        return fits ? pack_room(q, length, w, host) : 0;
    }
    if (failed && next)
        q_free(q, next, 1);
    *host = at;
    return failed;
}

static int pack_step(struct qcow2 *q, uint64_t offset, uint64_t length, struct q_wait *w,
                     uint64_t *host)
{
    unsigned shift = 62 - (q->cluster_bits - 8), at;
    struct q_page *page;
    uint64_t table, sectors;
    uint8_t *entry;
    int failed = prepare(q, offset, 1, w, &page, &at, &table);

    if (failed)
        return failed;
    page->pins++;
    failed = pack_room(q, length, w, host);
    page->pins--;
    if (failed)
        return failed;
    q->compress_at = *host + length;
    if (q_in_cluster(q, q->compress_at) == 0)
        q->compress_at = 0;
    sectors = ((*host + length - 1) >> 9) - (*host >> 9);
    entry = page->data + at;
    put_be64(entry, Q_COMPRESSED | sectors << shift | *host);
    if (q->subs > 1)
        put_be64(entry + 8, 0);
    q_page_dirty(page);
    return 0;
}

int block_place_packed(struct block *b, uint64_t offset, uint64_t length, struct block_place *p)
{
    struct qcow2 *q = b->priv;
    struct q_sleep s;
    int got;

    if (!is_qcow2(b) || b->data)
        return -ENOTSUP;
    do {
        q_sleep_init(&s);
        got = pack_step(q, offset, length, &s.wait, &p->host);
        if (got > 0)
            got = q_sleep(q, &s);
    } while (got > 0);
    p->length = length;
    p->virgin = true;
    p->fd = gather_fd(b);
    return got;
}

int block_pack(const struct block *b, const uint8_t *cluster, uint8_t *out, uint64_t room)
{
    return q_pack(b->priv, cluster, out, room);
}

int block_read_packed(const struct block *node, int fd, uint64_t descriptor, uint8_t *cluster)
{
    const struct qcow2 *q = node->priv;
    uint64_t length, offset = q_packed_offset(q, descriptor, &length);
    uint8_t *packed = malloc(length);
    int failed = packed ? read_all(fd, packed, length, offset) : -ENOMEM;

    if (!failed)
        failed = q_unpack(q, packed, length, cluster);
    free(packed);
    return failed;
}

int block_placed(struct block *b)
{
    struct qcow2 *q = b->priv;
    struct stat st;
    int fd;

    if (!is_qcow2(b) || !b->under->file || b->under->file->is_device)
        return 0;
    fd = b->under->file->fd;
    if (fstat(fd, &st))
        return -errno;
    q->compress_at = 0;
    if ((uint64_t)st.st_size >= q->virgin)
        return 0;
    return ftruncate(fd, (off_t)q->virgin) ? -errno : 0;
}
