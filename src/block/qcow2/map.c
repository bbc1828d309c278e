/* SPDX-License-Identifier: MIT */
/* From a place in the disk to a place in the file: L1, L2, subclusters, one step of the chain.
 *
 * Every entry is hostile until decoded here: reserved bits, alignment and contradictions are looked
 * at on each use, because a page may have been read anew. */
#include "block/qcow2/qcow2.h"
#include <errno.h>

int q_corrupt(struct qcow2 *q, const char *what, uint64_t where)
{
    log_guest(&q->limit, "%s: is damaged: %s (at %#llx)", q->b->config.file, what,
              (unsigned long long)where);
    return -EIO;
}

uint64_t q_packed_offset(const struct qcow2 *q, uint64_t descriptor, uint64_t *length)
{
    unsigned shift = 62 - (q->cluster_bits - 8);
    uint64_t offset = descriptor & (BIT(shift) - 1);
    uint64_t sectors = (descriptor & (BIT(62) - 1)) >> shift;

    *length = (sectors + 1) * 512 - (offset & 511);
    return offset;
}

static int decode_packed(struct qcow2 *q, uint64_t entry, struct q_map *m)
{
    uint64_t length;

    if (q_packed_offset(q, entry, &length) >> 56)
        return q_corrupt(q, "a compressed cluster lies outside the file", entry);
    if (q->h.incompatible & Q_INCOMPAT_DATA_FILE)
        return q_corrupt(q, "a compressed cluster with an external data file", entry);
    m->kind = Q_PACKED;
    m->host = entry;
    m->copied = m->allocated = false;
    return 0;
}

/* One subcluster (or cluster, without subclusters). */
int q_decode(struct qcow2 *q, const uint8_t *at, unsigned sub, struct q_map *m)
{
    uint64_t entry = be64(at), host = entry & Q_OFFSET_MASK;
    bool external = q->h.incompatible & Q_INCOMPAT_DATA_FILE, data = host || (entry & Q_COPIED);
    bool zero = entry & Q_ZERO_FLAG;

    if (entry & Q_COMPRESSED)
        return decode_packed(q, entry, m);
    if ((entry & ~(Q_OFFSET_MASK | Q_COPIED | Q_ZERO_FLAG)) || q_in_cluster(q, host))
        return q_corrupt(q, "reserved bits in an L2 entry", entry);
    if (zero && (q->h.version < 3 || q->subs > 1))
        return q_corrupt(q, "a zero flag where there may be none", entry);
    if (!host && (entry & Q_COPIED) && !external)
        return q_corrupt(q, "an L2 entry refers to the header", entry);
    m->allocated = data;
    if (q->subs > 1) {
        uint64_t bits = be64(at + 8);

        if ((uint32_t)bits & (uint32_t)(bits >> 32))
            return q_corrupt(q, "a subcluster is both data and zero", bits);
        if (!data && (uint32_t)bits)
            return q_corrupt(q, "subclusters without a cluster", bits);
        zero = bits >> (32 + sub) & 1;
        data = bits >> sub & 1;
    }
    m->kind = zero ? Q_ZERO : data ? Q_DATA : Q_NONE;
    m->host = host + ((uint64_t)sub << q->sub_bits);
    m->copied = (entry & Q_COPIED) != 0;
    return 0;
}

int q_l2_offset(struct qcow2 *q, uint64_t offset, uint64_t *table, bool *copied)
{
    uint64_t index = offset >> (q->cluster_bits + q->l2_bits);
    uint64_t entry = index < q->l1_size ? q->l1[index] : 0;

    if ((entry & ~(Q_OFFSET_MASK | Q_COPIED)) || q_in_cluster(q, entry & Q_OFFSET_MASK))
        return q_corrupt(q, "reserved bits in an L1 entry", entry);
    *table = entry & Q_OFFSET_MASK;
    *copied = (entry & Q_COPIED) != 0;
    return 0;
}

/* The page of the L2 table at `table` that has the entry for `offset`, and where in it. */
int q_l2_page(struct qcow2 *q, uint64_t table, uint64_t offset, struct q_wait *w,
              struct q_page **page, unsigned *at)
{
    uint64_t index = (offset >> q->cluster_bits) & (BIT(q->l2_bits) - 1);
    uint64_t byte = index * q->entry_size;

    *at = (unsigned)(byte & (q->cache.page_size - 1));
    return q_page_get(q, table + byte - *at, Q_PAGE_L2, w, page);
}

static bool continues(const struct q_map *first, const struct q_map *next, uint64_t length)
{
    if (next->kind != first->kind || first->kind == Q_PACKED || next->allocated != first->allocated)
        return false;
    return !first->allocated ||
           (next->host == first->host + length && next->copied == first->copied);
}

int q_lookup(struct qcow2 *q, uint64_t offset, uint64_t length, struct q_wait *w, struct q_map *m)
{
    uint64_t table, sub_size = BIT(q->sub_bits), in = offset & (sub_size - 1), have;
    struct q_page *page;
    struct q_map next;
    unsigned at, sub = (unsigned)(q_in_cluster(q, offset) >> q->sub_bits);
    bool copied;
    int failed = q_l2_offset(q, offset, &table, &copied);

    *m = (struct q_map){.kind = Q_NONE};
    if (failed)
        return failed;
    if (!table) {
        uint64_t covers = BIT(q->cluster_bits + q->l2_bits);

        m->length = min_u64(length, covers - (offset & (covers - 1)));
        return 0;
    }
    failed = q_l2_page(q, table, offset, w, &page, &at);
    if (failed)
        return failed;
    failed = q_decode(q, page->data + at, sub, m);
    if (failed)
        return failed;
    if (m->kind == Q_PACKED) {
        m->length = min_u64(length, q->cluster_size - q_in_cluster(q, offset));
        return 0;
    }
    for (have = sub_size - in; have < length; have += sub_size) {
        sub = (sub + 1) % q->subs;
        at += sub == 0 ? q->entry_size : 0;
        if (at >= q->cache.page_size || q_decode(q, page->data + at, sub, &next) ||
            !continues(m, &next, have + in))
            break;
    }
    m->host += in;
    m->length = min_u64(have, length);
    return 0;
}
