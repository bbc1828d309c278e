/* SPDX-License-Identifier: MIT */
/* A new, empty qcow2 image: header, refcount table and blocks, L1 table, in this order in the file.
 * The header is written last, so a half-made image is no image. */
#include "block/qcow2/qcow2.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct layout { /* in clusters */
    uint64_t table, blocks, l1, all;
};

static uint64_t divide_up(uint64_t a, uint64_t b)
{
    return a / b + (a % b != 0);
}

static void fill_header(struct q_header *h, const struct block_create *c, uint64_t size)
{
    uint32_t cluster = c->cluster_size ? c->cluster_size : 65536;
    uint32_t bits = c->refcount_bits ? c->refcount_bits : 16;

    *h = (struct q_header){.version = c->version ? c->version : 3,
                           .cluster_bits = (uint32_t)__builtin_ctz(cluster),
                           .size = size,
                           .refcount_order = (uint32_t)__builtin_ctz(bits)};
    h->incompatible = (c->data_file ? Q_INCOMPAT_DATA_FILE : 0) |
                      (c->zstd ? Q_INCOMPAT_COMPRESSION : 0) |
                      (c->extended_l2 ? Q_INCOMPAT_EXTL2 : 0);
    h->compatible = c->lazy_refcounts ? Q_COMPAT_LAZY : 0;
    h->autoclear = c->data_file_raw ? Q_AUTOCLEAR_DATA_RAW : 0;
    h->compression = c->zstd;
    snprintf(h->backing, sizeof h->backing, "%s", c->backing ? c->backing : "");
    if (c->backing && c->backing_format)
        snprintf(h->backing_format, sizeof h->backing_format, "%s", c->backing_format);
    snprintf(h->data_file, sizeof h->data_file, "%s", c->data_file ? c->data_file : "");
}

bool q_create_check(const struct block_create *c, struct err *err)
{
    uint32_t cluster = c->cluster_size ? c->cluster_size : 65536;
    uint32_t bits = c->refcount_bits ? c->refcount_bits : 16;
    bool old = c->version == 2;

    if (!is_power_of_2(cluster) || cluster < 512 || cluster > 2 << 20)
        return err_set(err, EINVAL, "cluster size %u: a power of two from 512 to 2M", cluster);
    if (!is_power_of_2(bits) || bits > 64)
        return err_set(err, EINVAL, "refcount bits %u: 1, 2, 4, 8, 16, 32 or 64", bits);
    if (c->version && c->version != 2 && c->version != 3)
        return err_set(err, EINVAL, "qcow2 version %u: 2 (compat=0.10) or 3 (compat=1.1)",
                       c->version);
    if (old && (bits != 16 || c->lazy_refcounts || c->extended_l2 || c->zstd || c->data_file))
        return err_set(err, EINVAL,
                       "qcow2 version 2 (compat=0.10) has 16-bit refcounts, zlib, and neither lazy "
                       "refcounts nor subclusters nor data files");
    if (c->extended_l2 && cluster < 16384)
        return err_set(err, EINVAL, "extended L2 entries need clusters of at least 16K");
    if (c->data_file_raw && (!c->data_file || c->backing))
        return err_set(err, EINVAL, "data_file_raw needs a data file and no backing file");
    if (c->backing && strlen(c->backing) > 1023)
        return err_set(err, ENAMETOOLONG, "the name of the backing file is over 1023 bytes");
    return true;
}

static bool plan(struct q_header *h, struct layout *l, struct err *err)
{
    uint64_t cluster = BIT(h->cluster_bits), entries = (cluster * 8) >> h->refcount_order;
    unsigned l2_bits = h->cluster_bits - (h->incompatible & Q_INCOMPAT_EXTL2 ? 4 : 3);
    uint64_t tables = divide_up(h->size, BIT(h->cluster_bits + l2_bits)), before;
    uint64_t data = h->incompatible & Q_INCOMPAT_DATA_FILE ? 0 : divide_up(h->size, cluster);

    if (h->size > BIT(62) || tables > Q_L1_MAX / 8)
        return err_set(err, EFBIG, "a disk of %llu bytes needs larger clusters than %llu bytes",
                       (unsigned long long)h->size, (unsigned long long)cluster);
    h->l1_size = (uint32_t)tables;
    l->l1 = max_u64(divide_up(tables * 8, cluster), 1);
    /* A table for the disk when it is full: growing it later costs writes in order. */
    l->table = divide_up(divide_up(data + tables + l->l1, entries) * 8 + 64, cluster);
    l->table = max_u64(min_u64(l->table, Q_REFTABLE_MAX / cluster), 1);
    l->blocks = 1;
    do {
        before = l->blocks;
        l->all = 1 + l->table + l->blocks + l->l1;
        l->blocks = divide_up(l->all, entries);
    } while (l->blocks != before);
    h->reftable_offset = cluster;
    h->reftable_clusters = (uint32_t)l->table;
    h->l1_offset = (1 + l->table + l->blocks) * cluster;
    return true;
}

static void put_refcount(uint8_t *block, uint64_t index, unsigned order)
{
    unsigned bits = 1u << order;

    if (bits < 8)
        block[index * bits / 8] |= (uint8_t)(1 << (index * bits % 8));
    else
        block[(index + 1) * (bits / 8) - 1] = 1; /* big-endian one */
}

static int write_refcounts(struct block *under, const struct q_header *h, const struct layout *l,
                           uint8_t *buffer)
{
    uint64_t cluster = BIT(h->cluster_bits), entries = (cluster * 8) >> h->refcount_order;
    uint64_t per = cluster / 8, done = 0;
    int failed = 0;

    for (uint64_t t = 0; t < l->table && !failed; t++) {
        memset(buffer, 0, cluster);
        for (uint64_t i = 0; i < per && done < l->blocks; i++, done++)
            put_be64(buffer + i * 8, (1 + l->table + done) * cluster);
        failed = block_run(under, BLOCK_WRITE, 0, (1 + t) * cluster, buffer, cluster);
    }
    for (uint64_t i = 0; i < l->blocks && !failed; i++) {
        memset(buffer, 0, cluster);
        for (uint64_t k = 0; k < entries && i * entries + k < l->all; k++)
            put_refcount(buffer, k, h->refcount_order);
        failed = block_run(under, BLOCK_WRITE, 0, (1 + l->table + i) * cluster, buffer, cluster);
    }
    return failed;
}

bool q_create(struct block *under, const struct block_create *c, uint64_t size, struct err *err)
{
    struct q_header h;
    struct layout l = {0};
    uint8_t *buffer;
    uint64_t cluster;
    int failed;

    fill_header(&h, c, size);
    if (!plan(&h, &l, err))
        return false;
    cluster = BIT(h.cluster_bits);
    buffer = aligned_alloc(4096, align_up(cluster, 4096));
    if (!buffer)
        return err_set(err, ENOMEM, "out of memory");
    failed = write_refcounts(under, &h, &l, buffer);
    memset(buffer, 0, cluster);
    for (uint64_t i = 0; i < l.l1 && !failed; i++)
        failed = block_run(under, BLOCK_WRITE, 0, h.l1_offset + i * cluster, buffer, cluster);
    if (!failed)
        failed = block_run(under, BLOCK_FLUSH, 0, 0, NULL, 0);
    if (!failed && !q_header_write(&h, buffer, false, err))
        failed = -ENAMETOOLONG;
    else if (failed || (failed = block_run(under, BLOCK_WRITE, 0, 0, buffer, cluster)))
        err_set(err, -failed, "cannot be written: %s", strerror(-failed));
    free(buffer);
    return !failed;
}
