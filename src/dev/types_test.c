/* SPDX-License-Identifier: MIT */
/* What every device must pass, driven by its tables: save, restore, save gives equal bytes; a field
 * over its limit is refused; random register accesses do no harm. */
#include "dev/testboard.h"
#include "tap.h"

#include <stdlib.h>

static uint64_t seed = 88172645463325252ULL;

static uint64_t random64(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static void random_access(struct bus *bus)
{
    struct region *r;
    unsigned size = 1u << (random64() & 3);
    uint64_t addr;

    if (!bus->count)
        return;
    r = bus->region[random64() % bus->count];
    addr = r->base + random64() % (random64() & 1 ? r->size : min_u64(r->size, 64));
    if (random64() & 1)
        bus_read(bus, addr, size);
    else
        bus_write(bus, addr, random64() & 1 ? random64() : random64() & 0xff, size);
}

static void random_config(void)
{
    uint16_t bdf = random64() & 1 ? PCI_DEVFN(31, 0) : 0;
    unsigned size = 1u << random64() % 3, offset = random64() % 256 & ~(size - 1);

    if (random64() & 1)
        pci_config_read(tb.board.pci, bdf, offset, size);
    else
        pci_config_write(tb.board.pci, bdf, offset, (uint32_t)random64(), size);
}

static void shake(unsigned accesses)
{
    for (unsigned i = 0; i < accesses; i++) {
        if (i % 8)
            random_access(random64() & 1 ? &tb.pio : &tb.mmio);
        else
            random_config();
        if (i % 64 == 0)
            tb_pass(random64() % 2000000);
    }
}

static bool save(struct device *dev, struct stream *s, struct err *err)
{
    *s = (struct stream){0};
    return field_save(dev->type->state, dev, s, err);
}

static void test_save_restore(struct device *dev)
{
    struct stream before, after;
    struct err err = {0};
    bool good = save(dev, &before, &err);

    ok(good, "%s: saves after random accesses %s", dev->id, err.text);
    if (dev->type->reset)
        dev->type->reset(dev);
    before.at = 0;
    good = field_restore(dev->type->state, dev, &before, &err);
    good = good && (!dev->type->restored || dev->type->restored(dev, &err));
    ok(good, "%s: restores %s", dev->id, good ? "" : err.text);
    save(dev, &after, &err);
    ok(before.size == after.size && !memcmp(before.data, after.data, before.size),
       "%s: save, restore, save: the same %zu bytes", dev->id, before.size);
    stream_free(&before);
    stream_free(&after);
}

static uint64_t kind_limit(const struct field *f)
{
    switch (f->kind) {
    case FIELD_U8: return UINT8_MAX;
    case FIELD_U16: return UINT16_MAX;
    case FIELD_U32: return UINT32_MAX;
    case FIELD_U64: return UINT64_MAX;
    default: return 0; /* nothing of this kind can be over its limit */
    }
}

static void free_tables(struct field *table)
{
    for (struct field *f = table; f->name; f++)
        if (f->kind == FIELD_TABLE_KIND)
            free_tables((struct field *)f->table);
    free(table);
}

/* A copy of `table` without limits. */
static struct field *without_limits(const struct field *table)
{
    struct field *copy;
    unsigned n = 0;

    while (table[n].name)
        n++;
    copy = calloc(n + 1, sizeof *copy);
    for (unsigned i = 0; i < n; i++) {
        copy[i] = table[i];
        if (kind_limit(&copy[i]))
            copy[i].max = kind_limit(&copy[i]);
        if (copy[i].kind == FIELD_TABLE_KIND)
            copy[i].table = without_limits(table[i].table);
    }
    return copy;
}

struct limits { /* one device's run */
    struct device *dev;
    struct field *lax;
    unsigned tried, refused;
};

/* One value over its limit, the rest as it is: the whole must be refused. */
static void try_over(struct limits *l, const struct field *f, char *at)
{
    size_t width = f->kind == FIELD_U8    ? 1
                   : f->kind == FIELD_U16 ? 2
                   : f->kind == FIELD_U32 ? 4
                                          : 8;
    uint64_t over = f->max + 1;
    char keep[8];
    struct stream s = {0};
    struct err err;

    memcpy(keep, at, width);
    memcpy(at, &over, width);
    field_save(l->lax, l->dev, &s, &err);
    memcpy(at, keep, width);
    s.at = 0;
    l->tried++;
    l->refused += !field_restore(l->dev->type->state, l->dev, &s, &err);
    memcpy(at, keep, width);
    stream_free(&s);
}

static void walk(struct limits *l, const struct field *table, char *base)
{
    for (const struct field *f = table; f->name; f++) {
        if (f->kind == FIELD_TABLE_KIND)
            for (unsigned i = 0; i < f->count; i += i && f->count > 8 ? f->count - 2 : 1)
                walk(l, f->table, base + f->offset + (size_t)i * f->stride);
        else if (f->max < kind_limit(f))
            try_over(l, f, base + f->offset);
    }
}

static void test_limits(struct device *dev)
{
    struct limits l = {.dev = dev, .lax = without_limits(dev->type->state)};

    walk(&l, dev->type->state, (char *)dev);
    ok(l.tried == l.refused, "%s: %u of %u fields over their limit refused", dev->id, l.refused,
       l.tried);
    free_tables(l.lax);
}

/* A snapshot into another machine: all devices in order, then time goes on where it stood. */
static void test_fresh_board(void)
{
    struct stream s = {0};
    struct err err = {0};
    uint64_t now;
    bool good = true;

    tb_full(NULL, NULL);
    outb(0x43, 0x34); /* PIT: 1 kHz */
    outb(0x40, 0xa9);
    outb(0x40, 0x04);
    wr32(0xfec00000, 0x14);
    wr32(0xfec00010, 0x30); /* to pin 2, vector 30 */
    wr32(0xfed00010, 1);
    pci_config_write(tb.board.pci, PCI_DEVFN(31, 0), 0x40, 0xb001, 4);
    tb_pass(10500000);
    board_pause(&tb.board);
    now = board_now(&tb.board);
    list_for(at, &tb.board.devices)
    {
        struct device *dev = container_of(at, struct device, link);

        if (dev->type->state)
            good &= field_save(dev->type->state, dev, &s, &err);
    }
    tb_close();
    tb_full(NULL, NULL);
    board_pause(&tb.board);
    tb.host_ns += 5000000000; /* however long it lay on disk */
    board_clock_set(&tb.board, now);
    s.at = 0;
    list_for(at, &tb.board.devices)
    {
        struct device *dev = container_of(at, struct device, link);

        if (dev->type->state)
            good &= field_restore(dev->type->state, dev, &s, &err) &&
                    (!dev->type->restored || dev->type->restored(dev, &err));
    }
    ok(good && s.at == s.size, "a whole board moves to another %s", err.text);
    board_resume(&tb.board);
    tb.msis = 0;
    tb_pass(10000000);
    ok(tb.msis == 10 && tb.msi.data == 0x30, "where its PIT goes on: %u ticks in 10 ms", tb.msis);
    ok(rd32(0xfed000f0) == 2050000, "the HPET has counted only while it ran");
    ok(bus_find(&tb.pio, 0xb000, 4) && !bus_find(&tb.pio, 0x600, 1),
       "and the PM block is where it was");
    stream_free(&s);
    tb_close();
}

int main(void)
{
    unsigned with_state = 0;

    tb_full(NULL, NULL);
    device_attach(&tb.board, uart_new(0, NULL), &(struct err){0});
    shake(200000);
    ok(true, "200000 random accesses");
    /* All devices, as a snapshot does it: stopped, in order. */
    board_pause(&tb.board);
    list_for(at, &tb.board.devices)
    {
        struct device *dev = container_of(at, struct device, link);

        if (!dev->type->state)
            continue;
        with_state++;
        test_save_restore(dev);
        test_limits(dev);
    }
    ok(with_state >= 11, "%u devices have state", with_state);
    board_resume(&tb.board);
    board_reset(&tb.board);
    shake(20000);
    board_reset(&tb.board);
    ok(inb(0x21) == 0 && bus_find(&tb.pio, 0x608, 4) && bus_find(&tb.mmio, 0xb0000000, 4),
       "reset brings all back to its place");
    tb_close();
    ok(tb.pio.count == 0 && tb.mmio.count == 0 && !tb.board.clock && !tb.board.pci &&
           !tb.board.irqchip,
       "closed: nothing is left");
    test_fresh_board();
    return tap_done();
}
