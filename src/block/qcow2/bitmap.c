/* SPDX-License-Identifier: MIT */
/* Persistent dirty bitmaps: where they are, for check. A disk that is opened for writing drops the
 * consistency mark (autoclear bit 0) as the format asks of those who do not keep bitmaps. */
#include "block/qcow2/qcow2.h"
#include <errno.h>
#include <stdlib.h>

static int visit_table(struct qcow2 *q, const uint8_t *entry,
                       void (*mark)(void *, uint64_t, uint64_t, const char *), void *arg)
{
    uint64_t offset = be64(entry), entries = be32(entry + 8), *table;
    struct err err;

    if (q_in_cluster(q, offset) || entries > (32 << 20) / 8)
        return -EINVAL;
    mark(arg, offset, entries * 8, "a bitmap table outside the file");
    table = q_table_read(q, offset, entries, &err);
    if (!table)
        return -err.code;
    for (uint64_t i = 0; i < entries; i++)
        if (table[i] & Q_OFFSET_MASK)
            mark(arg, table[i] & Q_OFFSET_MASK, q->cluster_size, "bitmap data outside the file");
    free(table);
    return 0;
}

int q_bitmaps_visit(struct qcow2 *q, void (*mark)(void *, uint64_t, uint64_t, const char *),
                    void *arg)
{
    uint64_t size = q->h.bitmaps_size, at = 0;
    uint8_t *p = aligned_alloc(4096, align_up(size, 4096));
    int failed =
        p ? block_run(q->b->under, BLOCK_READ, 0, q->h.bitmaps_offset, p, align_up(size, 512))
          : -ENOMEM;

    if (!failed)
        mark(arg, q->h.bitmaps_offset, size, "the bitmap directory outside the file");
    for (uint32_t i = 0; i < q->h.bitmap_count && !failed; i++) {
        uint64_t length = 0;

        if (size - at >= 24)
            length = align_up(24 + (uint64_t)be16(p + at + 18) + be32(p + at + 20), 8);
        if (!length || length > size - at)
            failed = -EINVAL;
        else
            failed = visit_table(q, p + at, mark, arg);
        at += length;
    }
    free(p);
    return failed;
}
