/* SPDX-License-Identifier: MIT */
/* Address to device, for memory-mapped and for port I/O (one struct bus each).
 *
 * An access lies wholly inside one region or inside none. Where nothing answers, reads give all
 * ones and writes vanish, as on a real board. Overlap is an error when the region is added.
 *
 * Handlers see only naturally aligned accesses of min_size to max_size bytes: the bus cuts wider
 * and unaligned ones into such pieces, all under one hold of the lock. A read narrower than
 * min_size takes its bytes from the unit that holds them; a narrower write reads, changes and
 * writes that unit.
 *
 * Any thread may access or change the bus. The table is guarded by a lock held only for the lookup;
 * the handler runs under the region's own `lock` (the device's mutex; NULL: the device locks for
 * itself). A handler may run once more while bus_remove of its region returns, so regions live as
 * long as their device. Lock order: machine, device, interrupt controller, vCPU; the bus's own lock
 * is innermost. */
#ifndef HULL_BUS_H
#define HULL_BUS_H

#include "base/err.h"
#include <pthread.h>

struct region_ops {
    uint64_t (*read)(void *dev, uint64_t offset, unsigned size);
    void (*write)(void *dev, uint64_t offset, uint64_t value, unsigned size);
    uint8_t min_size, max_size; /* bytes per access, powers of two; 0: 1 and 8 */
};

struct region {
    const char *name;
    uint64_t base, size;
    const struct region_ops *ops; /* read or write may be NULL: all ones, vanishes */
    void *dev;
    pthread_mutex_t *lock;
};

#define BUS_REGIONS_MAX 256

struct bus {
    struct region *region[BUS_REGIONS_MAX]; /* sorted by base */
    unsigned count;
    pthread_rwlock_t lock;
    uint64_t limit; /* first address beyond this bus: 0x10000 for ports */
};

void bus_init(struct bus *bus, uint64_t limit);
void bus_close(struct bus *bus);
bool bus_add(struct bus *bus, struct region *region, struct err *err);
void bus_remove(struct bus *bus, struct region *region); /* idempotent */
/* `size` is 1, 2, 4 or 8. */
uint64_t bus_read(struct bus *bus, uint64_t addr, unsigned size);
void bus_write(struct bus *bus, uint64_t addr, uint64_t value, unsigned size);
/* The region that answers for all of [addr, addr + size), or NULL. */
struct region *bus_find(struct bus *bus, uint64_t addr, unsigned size);

/* One access to a region that the caller found, cut and locked as the bus does it. */
uint64_t region_read(struct region *r, uint64_t offset, unsigned size);
void region_write(struct region *r, uint64_t offset, uint64_t value, unsigned size);

#endif
