/* SPDX-License-Identifier: MIT */
/* Dirty bitmaps in memory: one bit per granule of the disk, in a flat array. Fresh memory from the
 * host is zero and costs nothing until a bit in it is set, so large, mostly clean disks need
 * little.
 *
 *   recording --freeze--> frozen (bit stands still, writes go to later) --thaw--> recording */
#include "block/bitmap.h"
#include "block/format.h"
#include "block/qcow2/qcow2.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words are stored as they are");

enum { GRANULE_MIN = 512, BITS_MAX_BYTES = 512 << 20 };

static uint64_t words(uint64_t bits)
{
    return (bits + 63) / 64;
}

static uint64_t granules(const struct block_bitmap *m, uint64_t bytes)
{
    return bytes / m->granularity + (bytes % m->granularity != 0);
}

uint64_t block_bitmap_count_bits(const uint64_t *bit, uint64_t bits)
{
    uint64_t n = 0;

    for (uint64_t i = 0; i < words(bits); i++)
        n += (uint64_t)__builtin_popcountll(bit[i]);
    return n;
}

/* Sets or clears [from, to); how many bits changed. */
static uint64_t change(uint64_t *bit, uint64_t from, uint64_t to, bool set)
{
    uint64_t changed = 0;

    while (from < to) {
        uint64_t end = min_u64(to, (from | 63) + 1), n = end - from;
        uint64_t mask = (n == 64 ? UINT64_MAX : BIT(n) - 1) << (from % 64), *w = &bit[from / 64];
        uint64_t now = set ? *w | mask : *w & ~mask;

        if (now != *w) { /* do not touch fresh memory for nothing */
            changed += (uint64_t)__builtin_popcountll(now ^ *w);
            *w = now;
        }
        from = end;
    }
    return changed;
}

static uint64_t next_bit(const uint64_t *bit, uint64_t bits, uint64_t from, bool set)
{
    for (uint64_t i = from; i < bits; i = (i | 63) + 1) {
        uint64_t w = (set ? bit[i / 64] : ~bit[i / 64]) >> (i % 64);

        if (w)
            return min_u64(i + (uint64_t)__builtin_ctzll(w), bits);
    }
    return bits;
}

/* ---- marking ---- */

static void mark_one(struct block_bitmap *m, uint64_t offset, uint64_t length)
{
    uint64_t from = offset / m->granularity, to = granules(m, offset + length);

    to = min_u64(to, m->bits);
    if (m->later)
        change(m->later, from, to, true);
    else
        m->dirty += change(m->bit, from, to, true);
    m->changed = true;
}

void block_bitmap_mark(struct block *b, uint64_t offset, uint64_t length)
{
    list_for(i, &b->bitmaps)
    {
        struct block_bitmap *m = container_of(i, struct block_bitmap, link);

        if (m->recording && m->bit)
            mark_one(m, offset, length);
    }
}

void block_bitmap_set(struct block_bitmap *m, uint64_t offset, uint64_t length)
{
    m->dirty += change(m->bit, offset / m->granularity,
                       min_u64(granules(m, offset + length), m->bits), true);
    m->changed = true;
}

void block_bitmap_reset(struct block_bitmap *m, uint64_t offset, uint64_t length)
{
    m->dirty -= change(m->bit, offset / m->granularity,
                       min_u64(granules(m, offset + length), m->bits), false);
    m->changed = true;
}

bool block_bitmap_next(const struct block_bitmap *m, uint64_t offset, uint64_t *from,
                       uint64_t *length)
{
    uint64_t first = next_bit(m->bit, m->bits, offset / m->granularity, true), end;

    if (offset >= m->b->size || first >= m->bits)
        return false;
    end = next_bit(m->bit, m->bits, first, false);
    *from = max_u64(first * m->granularity, offset);
    *length = min_u64(end * m->granularity, m->b->size) - *from;
    return true;
}

uint64_t block_bitmap_bytes(const struct block_bitmap *m)
{
    return m->dirty * m->granularity;
}

/* ---- one by one ---- */

struct block_bitmap *block_bitmap_find(struct block *b, const char *name)
{
    if (!*name)
        return NULL;
    list_for(i, &b->bitmaps)
    {
        struct block_bitmap *m = container_of(i, struct block_bitmap, link);

        if (strcmp(m->name, name) == 0)
            return m;
    }
    return NULL;
}

bool block_bitmap_usable(const struct block_bitmap *m, struct err *err)
{
    if (m->busy)
        return err_set(err, EBUSY,
                       "Bitmap '%.100s' is currently in use by another operation and cannot be "
                       "used",
                       m->name);
    return !m->inconsistent ||
           err_set(err, EINVAL, "Bitmap '%.100s' is inconsistent and cannot be used", m->name);
}

static bool may_change(const struct block_bitmap *m, struct err *err)
{
    if (!block_bitmap_usable(m, err))
        return false;
    return !(m->persistent && m->b->readonly) ||
           err_set(err, EROFS, "Bitmap '%.100s' is readonly and cannot be modified", m->name);
}

struct block_bitmap *block_bitmap_new(struct block *b, const char *name, uint32_t granularity,
                                      bool load, struct err *err)
{
    struct block_bitmap *m = calloc(1, sizeof *m);

    if (!m)
        return err_set(err, ENOMEM, "out of memory"), NULL;
    m->b = b;
    m->granularity = granularity;
    m->bits = granules(m, b->size);
    snprintf(m->name, sizeof m->name, "%s", name);
    if (load && m->bits / 8 <= BITS_MAX_BYTES)
        m->bit = calloc(words(m->bits) + 1, 8);
    if (load && !m->bit) {
        free(m);
        return err_set(err, ENOMEM,
                       "Bitmap '%.100s': too many bits for this disk: a larger "
                       "granularity is needed",
                       name),
               NULL;
    }
    list_add(&b->bitmaps, &m->link);
    return m;
}

static void free_one(struct block_bitmap *m)
{
    list_remove(&m->link);
    free(m->bit);
    free(m->later);
    free(m);
}

void block_bitmap_free_all(struct block *b)
{
    list_for_safe(i, &b->bitmaps) free_one(container_of(i, struct block_bitmap, link));
}

static uint32_t default_granularity(const struct block *b)
{
    if (!b->cluster_size)
        return 65536;
    return (uint32_t)min_u64(max_u64(b->cluster_size, 4096), 65536);
}

struct block_bitmap *block_bitmap_add(struct block *b, const char *name, uint32_t granularity,
                                      unsigned flags, struct err *err)
{
    struct block_bitmap *m;

    if (strlen(name) >= sizeof m->name)
        return err_set(err, EINVAL, "Bitmap name too long: %.100s", name), NULL;
    if (block_bitmap_find(b, name))
        return err_set(err, EEXIST, "Bitmap already exists: %.100s", name), NULL;
    if (!granularity)
        granularity = default_granularity(b);
    if (!is_power_of_2(granularity) || granularity < GRANULE_MIN)
        return err_set(err, EINVAL, "Granularity must be a power of 2, and at least 512"), NULL;
    if ((flags & BITMAP_PERSISTENT) && !q_bitmap_may_persist(b, name, granularity, err))
        return NULL;
    m = block_bitmap_new(b, name, granularity, true, err);
    if (!m)
        return NULL;
    m->recording = !(flags & BITMAP_DISABLED);
    m->persistent = flags & BITMAP_PERSISTENT;
    m->changed = true;
    return m;
}

bool block_bitmap_remove(struct block_bitmap *m, struct err *err)
{
    if (m->busy)
        return block_bitmap_usable(m, err);
    if (m->persistent && m->b->readonly)
        return err_set(err, EROFS, "Bitmap '%.100s' is readonly and cannot be modified", m->name);
    if (m->persistent)
        q_bitmap_removed(m);
    free_one(m);
    return true;
}

bool block_bitmap_load(struct block_bitmap *m, struct err *err)
{
    return m->bit || q_bitmap_load(m, err);
}

bool block_bitmap_clear(struct block_bitmap *m, struct err *err)
{
    if (!may_change(m, err))
        return false;
    change(m->bit, 0, m->bits, false);
    m->dirty = 0;
    m->changed = true;
    return true;
}

bool block_bitmap_enable(struct block_bitmap *m, bool on, struct err *err)
{
    if (!may_change(m, err))
        return false;
    m->changed |= m->recording != on;
    m->recording = on;
    return true;
}

bool block_bitmap_merge(struct block_bitmap *to, struct block_bitmap *from, struct err *err)
{
    uint64_t at = 0, start, length;

    if (!may_change(to, err) || !block_bitmap_usable(from, err))
        return false;
    if (to->b->size != from->b->size)
        return err_set(err, EINVAL,
                       "Bitmaps are of different sizes (destination size is %llu, source size is "
                       "%llu) and can't be merged",
                       (unsigned long long)to->b->size, (unsigned long long)from->b->size);
    if (!block_bitmap_load(from, err))
        return false;
    while (to != from && at < from->b->size && block_bitmap_next(from, at, &start, &length)) {
        block_bitmap_set(to, start, length);
        at = start + length;
    }
    return true;
}

/* ---- for jobs ---- */

bool block_bitmap_freeze(struct block_bitmap *m, struct err *err)
{
    if (!may_change(m, err))
        return false;
    m->later = calloc(words(m->bits) + 1, 8);
    if (!m->later)
        return err_set(err, ENOMEM, "out of memory");
    m->busy = true;
    return true;
}

void block_bitmap_thaw(struct block_bitmap *m, bool done)
{
    if (!done)
        for (uint64_t i = 0; i < words(m->bits); i++)
            if (m->bit[i])
                m->later[i] |= m->bit[i];
    free(m->bit);
    m->bit = m->later;
    m->later = NULL;
    m->dirty = block_bitmap_count_bits(m->bit, m->bits);
    m->busy = false;
    m->changed = true;
}

/* ---- the disk's size changes ---- */

static bool resize_array(uint64_t **bit, uint64_t old, uint64_t bits)
{
    uint64_t *now = *bit ? calloc(words(bits) + 1, 8) : NULL;

    if (!*bit)
        return true;
    if (!now)
        return false;
    for (uint64_t i = 0; i < words(min_u64(old, bits)); i++)
        if ((*bit)[i])
            now[i] = (*bit)[i];
    if (bits < old)
        change(now, bits, align_up(bits, 64), false);
    free(*bit);
    *bit = now;
    return true;
}

bool block_bitmap_resize(struct block *b, uint64_t size, struct err *err)
{
    list_for(i, &b->bitmaps)
    {
        struct block_bitmap *m = container_of(i, struct block_bitmap, link);
        uint64_t old = m->bits, bits = granules(m, size);

        if (!resize_array(&m->bit, old, bits) || !resize_array(&m->later, old, bits))
            return err_set(err, ENOMEM, "out of memory");
        m->bits = bits;
        m->changed = true;
        if (m->bit)
            m->dirty = block_bitmap_count_bits(m->bit, bits);
    }
    return true;
}
