/* SPDX-License-Identifier: MIT */
/* The qcow2 header: bytes in, a checked struct out, and back.
 *
 * Whoever wrote the image is not trusted. Every offset and length that the header holds is checked
 * here, once: aligned, inside the file, below its limit, and no table over another. */
#include "block/qcow2/qcow2.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define bad(err, file, fmt, ...) err_set(err, EINVAL, "%s: " fmt, file, ##__VA_ARGS__)

static const struct feature {
    uint8_t type, bit;
    const char *name;
} features[] = {
    {0, 0, "dirty bit"},        {0, 1, "corrupt bit"},         {0, 2, "external data file"},
    {0, 3, "compression type"}, {0, 4, "extended L2 entries"}, {1, 0, "lazy refcounts"},
    {2, 0, "bitmaps"},          {2, 1, "raw external data"},
};

enum { FEATURE_ENTRY = 48, FEATURE_NAME = 46, V2_LENGTH = 72, V3_LENGTH = 104, OUR_LENGTH = 112 };

/* The names that the image itself gives to features we do not know. */
static bool refuse_features(const char *file, uint64_t unknown, const uint8_t *table, size_t len,
                            struct err *err)
{
    char text[160] = "";
    size_t n = 0;

    for (unsigned bit = 0; bit < 64 && n < sizeof text; bit++) {
        char name[FEATURE_NAME + 1] = "";

        if (!(unknown & BIT(bit)))
            continue;
        for (size_t i = 0; i + FEATURE_ENTRY <= len; i += FEATURE_ENTRY)
            if (table[i] == 0 && table[i + 1] == bit)
                memcpy(name, table + i + 2, FEATURE_NAME);
        for (char *p = name; *p; p++)
            if (*p < 0x20 || *p > 0x7e)
                *p = '?';
        if (!name[0])
            snprintf(name, sizeof name, "bit %u", bit);
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%s", n ? ", " : "", name);
    }
    return err_set(err, ENOTSUP, "%s: needs features that this version does not know: %s", file,
                   text);
}

static bool copy_string(char *to, size_t room, const uint8_t *from, size_t len)
{
    if (len >= room || memchr(from, 0, len))
        return false;
    memcpy(to, from, len);
    to[len] = '\0';
    return true;
}

static bool read_extension(struct q_header *h, const char *file, uint32_t type, const uint8_t *data,
                           uint32_t len, struct err *err)
{
    switch (type) {
    case Q_EXT_BACKING_FORMAT:
        return copy_string(h->backing_format, sizeof h->backing_format, data, len) ||
               bad(err, file, "the name of its backing file's format is broken");
    case Q_EXT_DATA_FILE:
        return copy_string(h->data_file, sizeof h->data_file, data, len) ||
               bad(err, file, "the name of its data file is broken");
    case Q_EXT_BITMAPS:
        if (len != 24)
            return bad(err, file, "its bitmaps extension is %u bytes, not 24", len);
        h->bitmap_count = be32(data);
        h->bitmaps_size = be64(data + 8);
        h->bitmaps_offset = be64(data + 16);
        return true;
    default: return true;
    }
}

static bool read_extensions(struct q_header *h, const char *file, const uint8_t *head, size_t end,
                            struct err *err)
{
    size_t at = h->header_length;
    const uint8_t *names = NULL;
    uint32_t names_length = 0;

    while (at + 8 <= end) {
        uint32_t type = be32(head + at), len = be32(head + at + 4);

        at += 8;
        if (type == Q_EXT_END)
            break;
        if (len > end - at)
            return bad(err, file, "a header extension is longer than the header");
        if (type == Q_EXT_FEATURES) {
            names = head + at;
            names_length = len;
        } else if (!read_extension(h, file, type, head + at, len, err)) {
            return false;
        }
        at += align_up(len, 8);
    }
    /* Without this mark somebody who knows no bitmaps wrote to the disk since. */
    if (!(h->autoclear & Q_AUTOCLEAR_BITMAPS))
        h->bitmap_count = h->bitmaps_size = h->bitmaps_offset = 0;
    if (h->incompatible & ~(uint64_t)Q_INCOMPAT_KNOWN)
        return refuse_features(file, h->incompatible & ~(uint64_t)Q_INCOMPAT_KNOWN, names,
                               names_length, err);
    return true;
}

static void parse(struct q_header *h, const uint8_t *p)
{
    *h = (struct q_header){
        .version = be32(p + 4),
        .cluster_bits = be32(p + 20),
        .size = be64(p + 24),
        .crypt_method = be32(p + 32),
        .l1_size = be32(p + 36),
        .l1_offset = be64(p + 40),
        .reftable_offset = be64(p + 48),
        .reftable_clusters = be32(p + 56),
        .snapshot_count = be32(p + 60),
        .snapshots_offset = be64(p + 64),
        .refcount_order = 4,
        .header_length = V2_LENGTH,
    };
    if (h->version < 3)
        return;
    h->incompatible = be64(p + 72);
    h->compatible = be64(p + 80);
    h->autoclear = be64(p + 88);
    h->refcount_order = be32(p + 96);
    h->header_length = be32(p + 100);
    if (h->header_length > V3_LENGTH)
        h->compression = p[104];
}

static bool check_numbers(const struct q_header *h, const char *file, struct err *err)
{
    if (h->version != 2 && h->version != 3)
        return err_set(err, ENOTSUP, "%s: qcow2 version %u: 2 and 3 are known", file, h->version);
    if (h->cluster_bits < 9 || h->cluster_bits > 21)
        return bad(err, file, "clusters of 2^%u bytes: 512 bytes to 2 MiB are known",
                   h->cluster_bits);
    if (h->version >= 3 &&
        (h->header_length < V3_LENGTH || h->header_length % 8 ||
         h->header_length > (1u << h->cluster_bits) || h->header_length > Q_HEAD))
        return bad(err, file, "its header claims %u bytes", h->header_length);
    if (h->refcount_order > 6)
        return bad(err, file, "reference counts of 2^%u bits", h->refcount_order);
    return true;
}

static bool check_features(const struct q_header *h, const char *file, struct err *err)
{
    bool other = h->incompatible & Q_INCOMPAT_COMPRESSION;

    if (h->crypt_method)
        return err_set(err, ENOTSUP, "%s: is encrypted, which comes with a later version", file);
    if (h->bitmap_count > Q_BITMAPS_MAX)
        return bad(err, file, "%u bitmaps: at most %d are known", h->bitmap_count, Q_BITMAPS_MAX);
    if (other != (h->compression != 0) || h->compression > 1)
        return bad(err, file, "compression type %u is unknown or contradicts its feature bit",
                   h->compression);
    if ((h->incompatible & Q_INCOMPAT_EXTL2) && h->cluster_bits < 14)
        return bad(err, file, "subclusters need clusters of at least 16 KiB");
    if ((h->autoclear & Q_AUTOCLEAR_DATA_RAW) && !(h->incompatible & Q_INCOMPAT_DATA_FILE))
        return bad(err, file, "a raw data file without an external data file");
    if ((h->incompatible & Q_INCOMPAT_DATA_FILE) && h->snapshot_count)
        return bad(err, file, "an external data file and internal snapshots");
    return true;
}

struct extent {
    const char *what;
    uint64_t from, length, limit;
};

static bool check_tables(const struct q_header *h, const char *file, uint64_t file_size,
                         struct err *err)
{
    uint64_t cluster = 1ULL << h->cluster_bits;
    const struct extent e[] = {
        {"header", 0, cluster, cluster},
        {"L1 table", h->l1_offset, (uint64_t)h->l1_size * 8, Q_L1_MAX},
        {"refcount table", h->reftable_offset, (uint64_t)h->reftable_clusters << h->cluster_bits,
         Q_REFTABLE_MAX},
        {"snapshot table", h->snapshots_offset, (uint64_t)h->snapshot_count * 40,
         (uint64_t)Q_SNAPSHOTS_MAX * 40},
        {"bitmap directory", h->bitmaps_offset, h->bitmaps_size, Q_BITMAP_DIR_MAX},
    };

    for (unsigned i = 1; i < ARRAY_SIZE(e); i++) {
        if (!e[i].length)
            continue;
        if (e[i].length > e[i].limit)
            return bad(err, file, "its %s is too large", e[i].what);
        if (e[i].from % cluster || e[i].from > file_size || e[i].length > file_size - e[i].from)
            return bad(err, file, "its %s is not inside the file", e[i].what);
        for (unsigned j = 0; j < i; j++)
            if (e[j].length && e[i].from < e[j].from + e[j].length &&
                e[j].from < e[i].from + e[i].length)
                return bad(err, file, "its %s lies over its %s", e[i].what, e[j].what);
    }
    if (!h->reftable_clusters)
        return bad(err, file, "it has no refcount table");
    return true;
}

static bool check_size(const struct q_header *h, const char *file, struct err *err)
{
    unsigned l2_bits = h->cluster_bits - (h->incompatible & Q_INCOMPAT_EXTL2 ? 4 : 3);
    unsigned shift = h->cluster_bits + l2_bits;
    uint64_t tables = (h->size >> shift) + (h->size & (BIT(shift) - 1) ? 1 : 0);

    if (h->size > BIT(62) || tables > Q_L1_MAX / 8)
        return bad(err, file, "a disk of %llu bytes is too large for its clusters",
                   (unsigned long long)h->size);
    if (tables > h->l1_size)
        return bad(err, file, "its L1 table is too small for the disk");
    return true;
}

static bool read_backing(struct q_header *h, const char *file, const uint8_t *head, struct err *err)
{
    uint64_t offset = be64(head + 8), cluster = 1ULL << h->cluster_bits;
    uint32_t len = be32(head + 16);

    if (!offset)
        return true;
    h->backing_at = offset;
    if (len > 1023 || offset > cluster || len > cluster - offset ||
        !copy_string(h->backing, sizeof h->backing, head + offset, len))
        return bad(err, file, "the name of its backing file is broken");
    return true;
}

bool q_header_read(struct block *under, const char *file, struct q_header *h, struct err *err)
{
    uint8_t start[Q_HEAD], *head;
    uint64_t cluster, backing;
    int failed = block_run(under, BLOCK_READ, 0, 0, start, sizeof start);
    bool good = false;

    if (failed)
        return err_set(err, -failed, "%s: cannot be read: %s", file, strerror(-failed));
    if (be32(start) != Q_MAGIC)
        return bad(err, file, "is no qcow2 image");
    parse(h, start);
    if (!check_numbers(h, file, err))
        return false;
    cluster = 1ULL << h->cluster_bits;
    head = aligned_alloc(4096, align_up(cluster, 4096));
    if (!head)
        return err_set(err, ENOMEM, "%s: out of memory", file);
    failed = block_run(under, BLOCK_READ, 0, 0, head, cluster);
    backing = be64(start + 8);
    if (failed)
        err_set(err, -failed, "%s: cannot be read: %s", file, strerror(-failed));
    else
        good =
            read_extensions(h, file, head, backing && backing < cluster ? backing : cluster, err) &&
            read_backing(h, file, head, err) && check_features(h, file, err) &&
            check_tables(h, file, under->end, err) && check_size(h, file, err);
    free(head);
    return good;
}

/* ---- the other direction ---- */

/* With its end mark still to come. */
static uint8_t *put_extension(uint8_t *p, const uint8_t *end, uint32_t type, const void *data,
                              uint32_t len)
{
    if (!p || (size_t)(end - p) < 8 + align_up(len, 8))
        return NULL;
    put_be32(p, type);
    put_be32(p + 4, len);
    memcpy(p + 8, data, len);
    return p + 8 + align_up(len, 8);
}

static uint8_t *put_features(uint8_t *p, const uint8_t *end)
{
    uint8_t table[ARRAY_SIZE(features) * FEATURE_ENTRY] = {0};

    for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
        uint8_t *e = table + (size_t)i * FEATURE_ENTRY;

        e[0] = features[i].type;
        e[1] = features[i].bit;
        memcpy(e + 2, features[i].name, strlen(features[i].name));
    }
    /* Of use to others only: where it does not fit it is left out. */
    return put_extension(p, end, Q_EXT_FEATURES, table, sizeof table);
}

static void put_fields(const struct q_header *h, uint8_t *p)
{
    put_be32(p, Q_MAGIC);
    put_be32(p + 4, h->version);
    put_be32(p + 20, h->cluster_bits);
    put_be64(p + 24, h->size);
    put_be32(p + 32, h->crypt_method);
    put_be32(p + 36, h->l1_size);
    put_be64(p + 40, h->l1_offset);
    put_be64(p + 48, h->reftable_offset);
    put_be32(p + 56, h->reftable_clusters);
    put_be32(p + 60, h->snapshot_count);
    put_be64(p + 64, h->snapshots_offset);
    if (h->version < 3)
        return;
    put_be64(p + 72, h->incompatible);
    put_be64(p + 80, h->compatible);
    put_be64(p + 88, h->autoclear);
    put_be32(p + 96, h->refcount_order);
    put_be32(p + 100, OUR_LENGTH);
    p[104] = h->compression;
}

static uint8_t *put_extensions(const struct q_header *h, uint8_t *p, const uint8_t *end)
{
    uint8_t bitmaps[24] = {0};

    if (h->bitmap_count) { /* first: it changes, and so it does in the first sector */
        put_be32(bitmaps, h->bitmap_count);
        put_be64(bitmaps + 8, h->bitmaps_size);
        put_be64(bitmaps + 16, h->bitmaps_offset);
        p = put_extension(p, end, Q_EXT_BITMAPS, bitmaps, sizeof bitmaps);
    }
    if (h->backing_format[0])
        p = put_extension(p, end, Q_EXT_BACKING_FORMAT, h->backing_format,
                          (uint32_t)strlen(h->backing_format));
    if (h->data_file[0])
        p = put_extension(p, end, Q_EXT_DATA_FILE, h->data_file, (uint32_t)strlen(h->data_file));
    return p;
}

bool q_header_write(const struct q_header *h, uint8_t *cluster, bool sector, struct err *err)
{
    size_t size = (size_t)1 << h->cluster_bits, name = strlen(h->backing);
    uint8_t *end = cluster + size, *p = cluster + (h->version < 3 ? V2_LENGTH : OUR_LENGTH), *named;

    memset(cluster, 0, size);
    put_fields(h, cluster);
    if (h->backing_at && name && h->backing_at + name <= size)
        end = cluster + h->backing_at;
    else
        end -= name;
    if (sector)
        end = cluster + min_size((size_t)(end - cluster), Q_HEAD);
    p = put_extensions(h, p, end - 8);
    named = h->version >= 3 && p ? put_features(p, end - 8) : NULL;
    p = named ? named : p;
    if (!p || end - p < 8)
        return err_set(err, ENAMETOOLONG, "the names do not fit into a header of %zu bytes", size);
    p += 8; /* the end mark, zeroes */
    if (name) {
        if (h->backing_at && h->backing_at + name <= size)
            p = cluster + h->backing_at;
        memcpy(p, h->backing, name);
        put_be64(cluster + 8, (uint64_t)(p - cluster));
        put_be32(cluster + 16, (uint32_t)name);
    }
    return true;
}

/* All of the first cluster: no single write, so not for what changes often. */
static int write_cluster(struct qcow2 *q, const struct q_header *h, uint8_t *cluster,
                         struct err *err)
{
    struct q_header anew = *h;

    anew.backing_at = 0;
    if (!q_header_write(&anew, cluster, false, err))
        return -err->code;
    return block_run(q->b->under, BLOCK_WRITE, 0, 0, cluster, q->cluster_size);
}

/* A new name goes to one of two places where the old one is not, and is durable before the header
 * refers to it. Small clusters have no room for that. */
static int place_name(struct qcow2 *q, struct q_header *h)
{
    _Alignas(4096) uint8_t name[1024] = {0};
    int failed;

    if (strcmp(h->backing, q->h.backing) == 0 || !h->backing[0] || q->cluster_size < 4096)
        return 0;
    h->backing_at = q->cluster_size - (q->h.backing_at == q->cluster_size - 1024 ? 2048 : 1024);
    memcpy(name, h->backing, strlen(h->backing));
    failed = block_run(q->b->under, BLOCK_WRITE, 0, h->backing_at, name, sizeof name);
    return failed ? failed : block_run(q->b->under, BLOCK_FLUSH, 0, 0, NULL, 0);
}

int q_header_update(struct qcow2 *q, const struct q_header *h, struct err *err)
{
    struct q_header *now = malloc(sizeof *now);
    uint8_t *cluster = aligned_alloc(4096, align_up(q->cluster_size, 4096));
    int failed = now && cluster ? 0 : -ENOMEM;

    if (!failed) {
        *now = *h;
        failed = place_name(q, now);
    }
    if (!failed &&
        (q->cluster_size >= 4096 || q->cluster_size == Q_HEAD ||
         strcmp(h->backing, q->h.backing) == 0) &&
        q_header_write(now, cluster, true, err))
        failed = block_run(q->b->under, BLOCK_WRITE, 0, 0, cluster, Q_HEAD);
    else if (!failed)
        failed = write_cluster(q, now, cluster, err);
    if (!failed)
        failed = block_run(q->b->under, BLOCK_FLUSH, 0, 0, NULL, 0);
    if (!failed) {
        memcpy(q->head, cluster, Q_HEAD);
        q->h = *now;
        q->h.backing_at = be64(q->head + 8);
    }
    free(now);
    free(cluster);
    return failed;
}
