/* SPDX-License-Identifier: MIT */
/* The bus: lookup, refusal of overlap, cutting of accesses. */
#include "bus/bus.h"
#include "tap.h"

struct probe { /* a device that remembers its last accesses */
    uint8_t bytes[64];
    unsigned reads, writes;
    unsigned widest, narrowest;
    bool unaligned;
};

static void probe_note(struct probe *p, uint64_t offset, unsigned size)
{
    p->widest = size > p->widest ? size : p->widest;
    p->narrowest = !p->narrowest || size < p->narrowest ? size : p->narrowest;
    p->unaligned |= (offset & (size - 1)) != 0;
}

static uint64_t probe_read(void *dev, uint64_t offset, unsigned size)
{
    struct probe *p = dev;
    uint64_t value = 0;

    probe_note(p, offset, size);
    p->reads++;
    memcpy(&value, p->bytes + offset, size);
    return value | (size < 8 ? ~0ULL << (size * 8) : 0); /* rubbish above: the bus cuts it */
}

static void probe_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct probe *p = dev;

    probe_note(p, offset, size);
    p->writes++;
    memcpy(p->bytes + offset, &value, size);
}

static const struct region_ops any_ops = {probe_read, probe_write, 1, 8};
static const struct region_ops byte_ops = {probe_read, probe_write, 1, 1};
static const struct region_ops dword_ops = {probe_read, probe_write, 4, 4};

static struct bus bus;
static struct err err;

static struct region region(const char *name, uint64_t base, uint64_t size,
                            const struct region_ops *ops, struct probe *p)
{
    return (struct region){.name = name, .base = base, .size = size, .ops = ops, .dev = p};
}

static void test_lookup(void)
{
    struct probe p = {0};
    struct region a = region("a", 0x100, 0x10, &any_ops, &p);
    struct region b = region("b", 0x110, 0x10, &any_ops, &p);
    struct region over = region("over", 0x10f, 2, &any_ops, &p);
    struct region inside = region("inside", 0x104, 1, &any_ops, &p);
    struct region around = region("around", 0xf0, 0x80, &any_ops, &p);
    struct region beyond = region("beyond", 0xffff, 2, &any_ops, &p);
    struct region wraps = region("wraps", 0x8000, UINT64_MAX, &any_ops, &p);
    struct region last = region("last", 0xffff, 1, &any_ops, &p);

    ok(bus_add(&bus, &b, &err) && bus_add(&bus, &a, &err), "neighbours are no overlap");
    ok(!bus_add(&bus, &over, &err) && strstr(err.text, "overlaps a"), "overlap: %s", err.text);
    ok(!bus_add(&bus, &inside, &err), "inside another is an overlap");
    ok(!bus_add(&bus, &around, &err), "around another is an overlap");
    ok(!bus_add(&bus, &beyond, &err) && !bus_add(&bus, &wraps, &err), "beyond the bus");
    ok(bus_add(&bus, &last, &err), "up to the last address");
    ok(bus_find(&bus, 0x10f, 1) == &a && bus_find(&bus, 0x110, 1) == &b, "each finds its own");
    ok(!bus_find(&bus, 0x10f, 2) && !bus_find(&bus, 0xff, 1) && !bus_find(&bus, 0x120, 1),
       "across regions and outside is nobody's");
    ok(bus_read(&bus, 0x10f, 2) == 0xffff && bus_read(&bus, 0x5000, 8) == UINT64_MAX,
       "nobody answers all ones");
    bus_write(&bus, 0x10f, 0, 2);
    ok(p.writes == 0, "a write across regions vanishes");
    bus_remove(&bus, &a);
    bus_remove(&bus, &a);
    ok(!bus_find(&bus, 0x100, 1) && bus_find(&bus, 0x110, 1) == &b, "removed, twice");
    bus_remove(&bus, &b);
    bus_remove(&bus, &last);
    ok(bus.count == 0, "empty again");
}

static void test_pieces(void)
{
    struct probe p = {0}, q = {0}, d = {0};
    struct region a = region("any", 0, 64, &any_ops, &p);
    struct region b = region("byte", 64, 64, &byte_ops, &q);
    struct region c = region("dword", 128, 64, &dword_ops, &d);
    bool same = true;

    bus_add(&bus, &a, &err);
    bus_add(&bus, &b, &err);
    bus_add(&bus, &c, &err);
    for (unsigned r = 0; r < 3; r++) {
        struct probe *at = r == 0 ? &p : r == 1 ? &q : &d;

        for (unsigned size = 1; size <= 8; size *= 2) {
            for (unsigned offset = 0; offset + size <= 64; offset++) {
                uint64_t value = 0x8877665544332211ULL * (offset + 1), want = 0;
                uint8_t copy[64];

                memcpy(copy, at->bytes, 64);
                memcpy(copy + offset, &value, size);
                bus_write(&bus, r * 64 + offset, value, size);
                memcpy(&want, copy + offset, size);
                same &= !memcmp(copy, at->bytes, 64);
                same &= bus_read(&bus, r * 64 + offset, size) == want;
            }
        }
        ok(same, "%s: every size at every offset changes and reads exactly its bytes",
           r == 0   ? "any"
           : r == 1 ? "byte"
                    : "dword");
        ok(!at->unaligned, "handlers see aligned accesses only");
    }
    ok(p.widest == 8 && p.narrowest == 1, "any: as wide as asked");
    ok(q.widest == 1, "byte: cut to bytes");
    ok(d.widest == 4 && d.narrowest == 4, "dword: never narrower nor wider");
    p.reads = q.reads = 0;
    bus_read(&bus, 0, 8);
    bus_read(&bus, 64, 8);
    ok(p.reads == 1 && q.reads == 8, "no more calls than pieces");
}

static void test_full(void)
{
    static struct region many[BUS_REGIONS_MAX + 1];
    struct probe p = {0};
    unsigned added = 0;

    bus.count = 0;
    for (unsigned i = 0; i <= BUS_REGIONS_MAX; i++) {
        many[i] = region("r", (i * 37 % 257) * 16, 16, &any_ops, &p);
        added += bus_add(&bus, &many[i], &err);
    }
    ok(added == BUS_REGIONS_MAX, "the table has an end: %s", err.text);
    for (unsigned i = 1; i < bus.count; i++)
        if (bus.region[i - 1]->base >= bus.region[i]->base)
            added = 0;
    ok(added, "sorted, whatever the order of arrival");
}

int main(void)
{
    bus_init(&bus, 0x10000);
    test_lookup();
    test_pieces();
    test_full();
    bus_close(&bus);
    return tap_done();
}
