/* SPDX-License-Identifier: MIT */
/* The address table: a sorted array, searched by halves under a reader lock, and the cutting of
 * accesses into pieces that a handler takes. */
#include "bus/bus.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>

static uint64_t size_mask(unsigned size)
{
    return size >= 8 ? UINT64_MAX : BIT(size * 8) - 1;
}

void bus_init(struct bus *bus, uint64_t limit)
{
    bus->count = 0;
    bus->limit = limit;
    pthread_rwlock_init(&bus->lock, NULL);
}

void bus_close(struct bus *bus)
{
    bus->count = 0;
    pthread_rwlock_destroy(&bus->lock);
}

/* Index of the first region whose base is above `addr`. */
static unsigned bus_after_locked(const struct bus *bus, uint64_t addr)
{
    unsigned low = 0, high = bus->count;

    while (low < high) {
        unsigned middle = (low + high) / 2;

        if (bus->region[middle]->base <= addr)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool bus_add(struct bus *bus, struct region *region, struct err *err)
{
    struct region *other = NULL;
    unsigned at;

    if (!region->size || region->base >= bus->limit || region->size > bus->limit - region->base)
        return err_set(err, ERANGE, "%s: 0x%" PRIx64 " bytes at 0x%" PRIx64 " are beyond the bus",
                       region->name, region->size, region->base);
    pthread_rwlock_wrlock(&bus->lock);
    if (bus->count == BUS_REGIONS_MAX) {
        pthread_rwlock_unlock(&bus->lock);
        return err_set(err, ENOSPC, "%s: more than %d regions on one bus", region->name,
                       BUS_REGIONS_MAX);
    }
    at = bus_after_locked(bus, region->base);
    if (at > 0 && region->base - bus->region[at - 1]->base < bus->region[at - 1]->size)
        other = bus->region[at - 1];
    else if (at < bus->count && bus->region[at]->base - region->base < region->size)
        other = bus->region[at];
    if (other) {
        err_set(err, EEXIST, "%s at 0x%" PRIx64 " overlaps %s at 0x%" PRIx64, region->name,
                region->base, other->name, other->base);
        pthread_rwlock_unlock(&bus->lock);
        return false;
    }
    memmove(&bus->region[at + 1], &bus->region[at], (bus->count - at) * sizeof bus->region[0]);
    bus->region[at] = region;
    bus->count++;
    pthread_rwlock_unlock(&bus->lock);
    return true;
}

void bus_remove(struct bus *bus, struct region *region)
{
    pthread_rwlock_wrlock(&bus->lock);
    for (unsigned i = 0; i < bus->count; i++) {
        if (bus->region[i] != region)
            continue;
        bus->count--;
        memmove(&bus->region[i], &bus->region[i + 1], (bus->count - i) * sizeof bus->region[0]);
        break;
    }
    pthread_rwlock_unlock(&bus->lock);
}

/* Also gives the offset, taken under the lock: the region may be moved as soon as it is released.
 */
static struct region *bus_lookup(struct bus *bus, uint64_t addr, unsigned size, uint64_t *offset)
{
    struct region *found = NULL;
    unsigned at;

    pthread_rwlock_rdlock(&bus->lock);
    at = bus_after_locked(bus, addr);
    if (at > 0) {
        struct region *r = bus->region[at - 1];

        *offset = addr - r->base;
        if (*offset < r->size && size <= r->size - *offset)
            found = r;
    }
    pthread_rwlock_unlock(&bus->lock);
    return found;
}

struct region *bus_find(struct bus *bus, uint64_t addr, unsigned size)
{
    uint64_t offset;

    return bus_lookup(bus, addr, size, &offset);
}

/* The widest aligned piece at `offset` that the handler takes and that is not wider than `left`;
 * where min_size forbids it, the min_size unit around the offset. */
static unsigned piece_size(const struct region_ops *ops, uint64_t offset, unsigned left)
{
    unsigned size = ops->max_size ? ops->max_size : 8;
    unsigned min = ops->min_size ? ops->min_size : 1;

    while (size > min && (size > left || (offset & (size - 1))))
        size /= 2;
    return size;
}

static uint64_t ops_read(struct region *r, uint64_t offset, unsigned size)
{
    if (!r->ops->read)
        return size_mask(size);
    return r->ops->read(r->dev, offset, size) & size_mask(size);
}

uint64_t region_read(struct region *r, uint64_t offset, unsigned size)
{
    uint64_t value = 0;

    if (r->lock)
        pthread_mutex_lock(r->lock);
    for (unsigned done = 0; done < size;) {
        unsigned piece = piece_size(r->ops, offset + done, size - done);
        unsigned skip = (offset + done) & (piece - 1);
        unsigned count = (unsigned)min_size(piece - skip, size - done);
        uint64_t got = ops_read(r, offset + done - skip, piece) >> (skip * 8);

        value |= (got & size_mask(count)) << (done * 8);
        done += count;
    }
    if (r->lock)
        pthread_mutex_unlock(r->lock);
    return value;
}

void region_write(struct region *r, uint64_t offset, uint64_t value, unsigned size)
{
    if (!r->ops->write)
        return;
    if (r->lock)
        pthread_mutex_lock(r->lock);
    for (unsigned done = 0; done < size;) {
        unsigned piece = piece_size(r->ops, offset + done, size - done);
        unsigned skip = (offset + done) & (piece - 1);
        unsigned count = (unsigned)min_size(piece - skip, size - done);
        uint64_t mask = size_mask(count) << (skip * 8);
        uint64_t unit = 0;

        if (count < piece)
            unit = ops_read(r, offset + done - skip, piece) & ~mask;
        unit |= (value >> (done * 8) << (skip * 8)) & mask;
        r->ops->write(r->dev, offset + done - skip, unit, piece);
        done += count;
    }
    if (r->lock)
        pthread_mutex_unlock(r->lock);
}

uint64_t bus_read(struct bus *bus, uint64_t addr, unsigned size)
{
    uint64_t offset;
    struct region *r = bus_lookup(bus, addr, size, &offset);

    assert(size && size <= 8);
    return r ? region_read(r, offset, size) : size_mask(size);
}

void bus_write(struct bus *bus, uint64_t addr, uint64_t value, unsigned size)
{
    uint64_t offset;
    struct region *r = bus_lookup(bus, addr, size, &offset);

    assert(size && size <= 8);
    if (r)
        region_write(r, offset, value & size_mask(size), size);
}
