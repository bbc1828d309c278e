/* SPDX-License-Identifier: MIT */
/* Growing and shrinking, and the header's names.
 *
 * Growing writes a larger L1 table where it is needed, then the header: one sector. Shrinking frees
 * the clusters behind the new end first; the header follows when that is durable. */
#include "block/qcow2/qcow2.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static int set_size(struct qcow2 *q, uint64_t size)
{
    int failed;

    put_be64(q->head + 24, size);
    failed = q_head_write(q);
    if (!failed) {
        q->h.size = size;
        q->b->size = size;
    }
    return failed;
}

/* A larger L1 table in new clusters; the old one is free once the header says so. */
static int grow_l1(struct qcow2 *q, uint64_t entries)
{
    uint64_t bytes = align_up(entries * 8, q->cluster_size), offset, old = q->h.l1_offset;
    uint64_t old_clusters = ((uint64_t)q->l1_size * 8 + q->cluster_size - 1) >> q->cluster_bits;
    uint64_t *l1 = aligned_alloc(4096, align_up(bytes, 4096));
    uint8_t *dirty = calloc(1, entries / 64 + 1);
    int failed = l1 && dirty ? q_take_row(q, bytes >> q->cluster_bits, &offset) : -ENOMEM;

    if (!failed) {
        memset(l1, 0, bytes);
        for (uint64_t i = 0; i < q->l1_size; i++)
            l1[i] = __builtin_bswap64(q->l1[i]);
        failed = block_run(q->b->under, BLOCK_WRITE, 0, offset, l1, bytes);
    }
    if (!failed)
        failed = q_settle(q);
    if (failed) {
        free(l1);
        free(dirty);
        return failed;
    }
    for (uint64_t i = 0; i < entries; i++)
        l1[i] = __builtin_bswap64(l1[i]);
    put_be32(q->head + 36, (uint32_t)entries);
    put_be64(q->head + 40, offset);
    failed = q_head_write(q);
    free(q->l1);
    free(q->l1_dirty);
    q->l1 = l1;
    q->l1_dirty = dirty;
    q->l1_size = q->h.l1_size = (uint32_t)entries;
    q->h.l1_offset = offset;
    if (!failed && old_clusters)
        q_free(q, old, old_clusters);
    return failed;
}

/* Entries of data that would show again if the disk grew later. */
static int cut(struct qcow2 *q, uint64_t size)
{
    uint64_t at = align_up(size, q->cluster_size), old = q->b->size;
    int failed = 0;

    if (size % q->cluster_size)
        failed = block_run(q->b, BLOCK_WRITE_ZEROES, BLOCK_REQ_UNMAP, size, NULL,
                           min_u64(at, old) - size);
    while (at < old && !failed) {
        uint64_t n = min_u64(old - at, 1ULL << 30);

        failed = block_run(q->b, BLOCK_WRITE_ZEROES, BLOCK_REQ_UNMAP, at, NULL, n);
        at += n;
    }
    return failed ? failed : q_settle(q);
}

bool qcow2_resize(struct block *b, uint64_t size, struct err *err)
{
    struct qcow2 *q = b->priv;
    unsigned shift = q->cluster_bits + q->l2_bits;
    uint64_t before = b->size;
    uint64_t entries = (size >> shift) + (size & (BIT(shift) - 1) ? 1 : 0);
    int failed;

    if (b->readonly || (q->h.snapshot_count && q->h.version < 3) || size % 512 || size > BIT(62))
        return err_set(err, b->readonly ? EROFS : EINVAL, "%s: cannot be resized to %llu bytes",
                       b->config.file, (unsigned long long)size);
    if (entries > Q_L1_MAX / 8)
        return err_set(err, EFBIG, "%s: %llu bytes need larger clusters", b->config.file,
                       (unsigned long long)size);
    failed = q_settle(q);
    if (!failed)
        failed = q_bitmaps_in_use_now(q);
    if (!failed && size < b->size)
        failed = cut(q, size);
    if (!failed && entries > q->l1_size)
        failed = grow_l1(q, entries);
    if (!failed)
        failed = set_size(q, size);
    if (!failed)
        failed = q_settle(q);
    if (failed)
        return err_set(err, -failed, "%s: cannot be resized: %s", b->config.file,
                       strerror(-failed));
    if (!block_bitmap_resize(b, size, err))
        return false;
    if (size > before)
        block_bitmap_mark(b, before, size - before);
    return !b->data || b->data->ops->resize(b->data, size, err);
}

bool block_set_backing(struct block *b, const char *file, const char *format, struct err *err)
{
    struct qcow2 *q = b->priv;
    struct q_header *h;
    int failed;

    if (b->ops != &qcow2_ops)
        return err_set(err, ENOTSUP, "%s: format %s has no backing file", b->config.file,
                       b->ops->name);
    if (b->readonly || (file && (strlen(file) > 1023 || (format && strlen(format) > 15))))
        return err_set(err, b->readonly ? EROFS : ENAMETOOLONG, "%s: cannot name that file",
                       b->config.file);
    if (file && (q->h.autoclear & Q_AUTOCLEAR_DATA_RAW))
        return err_set(err, EINVAL, "%s: a raw data file has no backing file", b->config.file);
    failed = q_settle(q);
    h = malloc(sizeof *h);
    if (!h || failed) {
        free(h);
        return err_set(err, failed ? -failed : ENOMEM, "%s: cannot be written", b->config.file);
    }
    *h = q->h;
    snprintf(h->backing, sizeof h->backing, "%s", file ? file : "");
    snprintf(h->backing_format, sizeof h->backing_format, "%s", file && format ? format : "");
    *err = (struct err){0};
    failed = q_header_update(q, h, err);
    free(h);
    return !failed ||
           (err->code ? err_wrap(err, "%s", b->config.file)
                      : err_set(err, -failed, "%s: %s", b->config.file, strerror(-failed)));
}
