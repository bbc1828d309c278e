/* SPDX-License-Identifier: MIT */
/* Over all tables of an L1, for check and snapshots: waits, and needs an image at rest (q_settle).
 */
#include "block/qcow2/qcow2.h"
#include <errno.h>
#include <stdlib.h>

uint64_t q_file_clusters(struct qcow2 *q)
{
    return (block_end(q->b->under) + q->cluster_size - 1) >> q->cluster_bits;
}

static int walk_table(struct qcow2 *q, uint64_t table, uint64_t guest, struct q_walk *w,
                      uint8_t *buffer)
{
    int failed = block_run(q->b->under, BLOCK_READ, 0, table, buffer, q->cluster_size);

    if (failed)
        return failed;
    for (uint64_t i = 0; i < BIT(q->l2_bits) && !failed; i++) {
        const uint8_t *p = buffer + i * q->entry_size;

        if (be64(p))
            failed = w->entry(w, table + i * q->entry_size, guest + (i << q->cluster_bits), p);
    }
    return failed;
}

int q_walk(struct qcow2 *q, const uint64_t *l1, uint64_t l1_size, struct q_walk *w)
{
    uint8_t *buffer = aligned_alloc(4096, align_up(q->cluster_size, 4096));
    uint64_t clusters = q_file_clusters(q);
    int failed = buffer ? 0 : -ENOMEM;

    for (uint64_t i = 0; i < l1_size && !failed; i++) {
        uint64_t table = l1[i] & Q_OFFSET_MASK;

        if (!l1[i])
            continue;
        failed = w->table(w, i, l1[i]);
        /* Whoever visits has said so if the table is nowhere. */
        if (!failed && table && !q_in_cluster(q, table) && table >> q->cluster_bits < clusters)
            failed = walk_table(q, table, i << (q->cluster_bits + q->l2_bits), w, buffer);
    }
    free(buffer);
    return failed;
}

/* The host clusters that an entry refers to; 0: none of the image's own. */
uint64_t q_entry_clusters(const struct qcow2 *q, const uint8_t *p, uint64_t *first)
{
    uint64_t entry = be64(p), length, offset;

    if (q->h.incompatible & Q_INCOMPAT_DATA_FILE)
        return 0;
    if (entry & Q_COMPRESSED) {
        offset = q_packed_offset(q, entry, &length);
        *first = offset >> q->cluster_bits;
        return ((offset + length - 1) >> q->cluster_bits) - *first + 1;
    }
    *first = (entry & Q_OFFSET_MASK) >> q->cluster_bits;
    return *first ? 1 : 0;
}

int q_page_wait(struct qcow2 *q, uint64_t offset, enum q_page_kind kind, struct q_page **page)
{
    struct q_sleep s;
    int got;

    do {
        q_sleep_init(&s);
        got = q_page_get(q, offset, kind, &s.wait, page);
        if (got > 0)
            got = q_sleep(q, &s);
    } while (got > 0);
    return got;
}
