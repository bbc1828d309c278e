/* SPDX-License-Identifier: MIT */
/* The queue alone, against the test driver's rings: good chains in all four shapes, batching and
 * suppression, and every way to break a ring. */
#include "virtio/testguest.h"
#include <errno.h>

static struct guest g;
static struct queue q;
static unsigned interrupts, breaks, drains;
static char why[128];

static void on_interrupt(struct queue *queue)
{
    interrupts++;
}

static void on_broken(struct queue *queue, const char *text)
{
    breaks++;
    snprintf(why, sizeof why, "%s", text);
}

static void on_drained(struct queue *queue)
{
    drains++;
}

static const struct queue_ops ops = {on_interrupt, on_broken, on_drained};

/* A fresh ring of `size`. */
static int begin(uint16_t size, bool packed, bool event_idx, bool indirect)
{
    struct queue_setup setup = {
        .size = size, .packed = packed, .event_idx = event_idx, .indirect = indirect};

    queue_stop(&q);
    g.heap = 0x10000;
    g.packed = packed;
    g.event_idx = event_idx;
    g.indirect = indirect;
    guest_rings(&g, 0, size);
    setup.desc = g.queue[0].desc;
    setup.driver = g.queue[0].driver;
    setup.device = g.queue[0].device;
    setup.avail = setup.used = packed ? 0x8000 : 0;
    interrupts = breaks = drains = 0;
    return queue_start(&q, &setup);
}

static void test_chains(bool packed, bool indirect)
{
    const char *name = packed ? "packed" : "split";
    char text[32] = "", bytes[8] = "";
    struct guest_buf buf[4];
    struct iovec iov[4];
    struct chain *c;
    uint32_t len = 0;
    gpa in, out;

    ok(begin(8, packed, false, indirect) == 0 && !queue_next(&q), "%s: empty", name);
    in = guest_put(&g, "hello, ", 7);
    out = guest_alloc(&g, 4096, 4096);
    buf[0] = (struct guest_buf){in, 7, false};
    buf[1] = (struct guest_buf){guest_put(&g, "ring", 4), 4, false};
    buf[2] = (struct guest_buf){out + 100, 3, true};
    buf[3] = (struct guest_buf){out + 200, 50, true};
    guest_add(&g, 0, buf, 4);
    c = queue_next(&q);
    ok(c && chain_left(c) == 11 && chain_room(c) == 53, "%s: a chain of four", name);
    ok(c && !chain_read(c, text, 12) && chain_left(c) == 11, "reading too much takes nothing");
    ok(chain_read(c, text, 11) && !strcmp(text, "hello, ring"), "bytes across buffers");
    ok(!chain_write(c, text, 54) && chain_write(c, "ab", 2), "writing too much writes nothing");
    ok(chain_write_iov(c, 10, iov, 1) == -E2BIG && chain_write_iov(c, 60, iov, 4) == -EINVAL &&
           chain_write_iov(c, 10, iov, 4) == 2 && iov[0].iov_len == 1 && iov[1].iov_len == 9,
       "in place, all or nothing");
    memcpy(iov[0].iov_base, "c", 1);
    memcpy(iov[1].iov_base, "defghijkl", 9);
    chain_finish(c);
    memcpy(bytes, guest_ptr(&g, out + 200, 8), 7);
    ok(!memcmp(guest_ptr(&g, out + 100, 3), "abc", 3) && !strcmp(bytes, "defghij"),
       "the guest has the bytes");
    ok(guest_used(&g, 0, &len) >= 0 && len == 12 && interrupts == 1, "used length is counted");
    ok(!queue_next(&q) && !breaks, "empty again");
}

/* Many rounds with out-of-order completion: wrap counters, id reuse, free-running indices. */
static void test_rounds(bool packed, bool event_idx)
{
    struct chain *open[8] = {0};
    uint64_t random = 88172645463325252ULL;
    unsigned added = 0, used = 0, taken = 0;
    bool sane = begin(8, packed, event_idx, false) == 0;

    while (used < 70000 && sane) {
        struct guest_buf buf[3];
        unsigned n = 1 + guest_random(&random) % 3, slot = guest_random(&random) % 8;
        struct chain *c;
        uint32_t len;

        for (unsigned i = 0; i < n; i++)
            buf[i] = (struct guest_buf){0x8000 + 16 * i, 4 + i, i == 2};
        if (guest_add(&g, 0, buf, n) >= 0)
            added++;
        if (!open[slot] && (c = queue_next(&q)) != NULL) {
            open[slot] = c;
            taken++;
            sane = chain_left(c) == 4 || chain_left(c) == 9;
        } else if (open[slot]) {
            chain_finish(open[slot]);
            open[slot] = NULL;
        }
        while (guest_used(&g, 0, &len) >= 0)
            used++;
    }
    for (unsigned i = 0; i < 8; i++)
        if (open[i])
            chain_finish(open[i]);
    while (guest_used(&g, 0, NULL) >= 0)
        used++;
    ok(sane && !breaks && used == taken && added - taken <= 8,
       "%s%s: %u chains finished in any order", packed ? "packed" : "split",
       event_idx ? ", event index" : "", used);
}

static void test_batch(bool packed)
{
    struct guest_buf buf = {0x8000, 16, true};
    struct chain *c[4];

    begin(8, packed, true, false);
    for (int i = 0; i < 4; i++)
        guest_add(&g, 0, &buf, 1);
    queue_hold(&q);
    for (int i = 0; i < 4; i++)
        c[i] = queue_next(&q);
    for (int i = 3; i >= 0; i--)
        chain_finish(c[i]);
    ok(guest_used(&g, 0, NULL) < 0 && !interrupts, "held: the driver sees nothing");
    queue_release(&q);
    ok(guest_used(&g, 0, NULL) == 3 && guest_used(&g, 0, NULL) == 2 && interrupts == 1,
       "released: all at once, one interrupt");
}

static void test_suppression(void)
{
    struct guest_buf buf = {0x8000, 16, true};
    uint16_t *flags, *event;

    begin(8, false, false, false);
    flags = guest_ptr(&g, g.queue[0].device, 2);
    ok(!queue_next(&q) && *flags == 0, "split: an empty queue wants notifications");
    guest_add(&g, 0, &buf, 1);
    chain_finish(queue_next(&q));
    ok(*flags == VRING_USED_F_NO_NOTIFY, "a busy one does not");
    *(uint16_t *)guest_ptr(&g, g.queue[0].driver, 2) = VRING_AVAIL_F_NO_INTERRUPT;
    interrupts = 0;
    guest_add(&g, 0, &buf, 1);
    chain_finish(queue_next(&q));
    ok(!interrupts && !queue_next(&q) && *flags == 0, "the driver wants no interrupts");

    begin(8, false, true, false);
    event = guest_ptr(&g, g.queue[0].device + 4 + 8 * 8, 2);
    guest_add(&g, 0, &buf, 1);
    chain_finish(queue_next(&q));
    ok(!queue_next(&q) && *event == 1 && interrupts == 1, "event index follows the queue");
    guest_add(&g, 0, &buf, 1);
    chain_finish(queue_next(&q));
    ok(interrupts == 1, "used_event not passed: no interrupt");
    *(uint16_t *)guest_ptr(&g, g.queue[0].driver + 4 + 2 * 8, 2) = 2;
    guest_add(&g, 0, &buf, 1);
    chain_finish(queue_next(&q));
    ok(interrupts == 2, "used_event passed: interrupt");

    begin(4, true, true, false);
    event = guest_ptr(&g, g.queue[0].device, 4);
    ok(!queue_next(&q) && event[0] == 0x8000 && event[1] == VRING_PACKED_EVENT_FLAG_DESC,
       "packed: asks for the next descriptor");
    guest_add(&g, 0, &buf, 1);
    chain_finish(queue_next(&q));
    ok(event[1] == VRING_PACKED_EVENT_FLAG_DISABLE && interrupts == 1, "busy: disabled");
    event = guest_ptr(&g, g.queue[0].driver, 4);
    event[0] = 0x8003;
    event[1] = VRING_PACKED_EVENT_FLAG_DESC;
    for (int i = 0; i < 3; i++) {
        guest_add(&g, 0, &buf, 1);
        chain_finish(queue_next(&q));
        if (i < 2)
            ok(interrupts == 1, "descriptor 3 not yet used");
    }
    ok(interrupts == 2, "descriptor 3 used: interrupt");
    event[1] = VRING_PACKED_EVENT_FLAG_DISABLE;
    guest_used(&g, 0, NULL);
    guest_add(&g, 0, &buf, 1);
    chain_finish(queue_next(&q));
    ok(interrupts == 2, "disabled: no interrupt");
}

static void test_putback(bool packed)
{
    struct guest_buf buf[3] = {{0x8000, 4, false}, {0x9000, 4, false}, {0xa000, 4, true}};
    struct chain *a, *b;
    uint16_t avail, used, avail2, used2;
    uint32_t word;

    begin(4, packed, false, false);
    guest_add(&g, 0, buf, 3);
    chain_finish(queue_next(&q));
    guest_used(&g, 0, NULL);
    guest_add(&g, 0, buf, 2); /* wraps */
    guest_add(&g, 0, buf, 2);
    queue_position(&q, &avail, &used);
    a = queue_next(&q);
    b = queue_next(&q);
    chain_read(b, &word, 4);
    chain_putback(b);
    chain_putback(a);
    queue_position(&q, &avail2, &used2);
    ok(avail == avail2 && used == used2, "%s: putback goes back exactly",
       packed ? "packed" : "split");
    a = queue_next(&q);
    b = queue_next(&q);
    ok(a && b && chain_left(b) == 8, "and the chains come again");
    ok(!queue_stop(&q) && !queue_next(&q), "stopping waits for open chains");
    chain_finish(a);
    ok(drains == 0, "one is still open");
    chain_finish(b);
    ok(drains == 1 && queue_stop(&q) && !q.live, "drained");
}

/* Position survives stop and start, as in a snapshot. */
static void test_position(bool packed)
{
    struct guest_buf buf[2] = {{0x8000, 4, false}, {0xa000, 4, true}};
    struct queue_setup setup;
    bool good = true;

    begin(4, packed, false, false);
    for (int i = 0; i < 11; i++) {
        setup = q.setup;
        queue_position(&q, &setup.avail, &setup.used);
        queue_stop(&q);
        good = good && queue_start(&q, &setup) == 0;
        guest_add(&g, 0, buf, 1 + i % 2);
        chain_finish(queue_next(&q));
        good = good && guest_used(&g, 0, NULL) >= 0;
    }
    ok(good && !breaks, "%s: goes on where it stopped", packed ? "packed" : "split");
}

/* ---- broken rings ---- */

static void expect_broken(const char *what)
{
    struct chain *c;
    unsigned n = 0;

    while ((c = queue_next(&q)) != NULL && n++ < 100)
        chain_finish(c);
    ok(breaks == 1 && !queue_next(&q) && !q.open, "%s: %s", what, breaks ? why : "not noticed");
}

static void set_desc(unsigned i, uint64_t addr, uint32_t len, uint16_t low, uint16_t high)
{
    uint8_t *d = guest_ptr(&g, g.queue[0].desc + 16 * i, 16);

    put_le64(d, addr);
    put_le32(d + 8, len);
    put_le16(d + 12, low);
    put_le16(d + 14, high);
}

static void offer(uint16_t head)
{
    uint8_t *ring = guest_ptr(&g, g.queue[0].driver, 6 + 2 * 8);
    uint16_t idx = le16(ring + 2);

    put_le16(ring + 4 + 2 * (idx % 8), head);
    put_le16(ring + 2, (uint16_t)(idx + 1));
}

static void split_case(const char *what, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
    begin(8, false, false, true);
    set_desc(0, addr, len, flags, next);
    set_desc(1, 0x8000, 16, VRING_DESC_F_NEXT, 0);
    offer(0);
    expect_broken(what);
}

static void test_hostile_split(void)
{
    const uint16_t next = VRING_DESC_F_NEXT, write = VRING_DESC_F_WRITE,
                   ind = VRING_DESC_F_INDIRECT;
    gpa table;

    split_case("address in no memory", 0x123456789000, 16, 0, 0);
    split_case("address at the end of the space", UINT64_MAX, 1, 0, 0);
    split_case("range that wraps", UINT64_MAX - 3, 16, 0, 0);
    split_case("buffer over the end of RAM", GUEST_RAM - 8, 16, 0, 0);
    split_case("huge length", 0x8000, UINT32_MAX, 0, 0);
    split_case("write to ROM", 0xfff00000, 16, write, 0);
    split_case("next beyond the table", 0x8000, 16, next, 8);
    split_case("next far beyond", 0x8000, 16, next, 0xffff);
    split_case("loop of one", 0x8000, 16, next, 0);
    split_case("loop of two", 0x8000, 16, next, 1);
    split_case("readable after writable", 0x8000, 16, write | next, 1);
    split_case("indirect table of no entries", 0x8000, 0, ind, 0);
    split_case("indirect table not in whole entries", 0x8000, 24, ind, 0);
    split_case("indirect table outside of memory", 0x8000000000, 16, ind, 0);
    split_case("indirect table too long", 0x8000, 16 * 4096, ind, 0);
    split_case("indirect with next", 0x8000, 16, ind | next, 1);

    begin(8, false, false, false);
    set_desc(0, 0x8000, 16, ind, 0);
    offer(0);
    expect_broken("indirect without the feature");

    begin(8, false, false, true);
    table = guest_alloc(&g, 64, 16);
    set_desc(0, table, 32, ind, 0);
    put_le64(guest_ptr(&g, table, 16), 0x8000);
    put_le32(guest_ptr(&g, table + 8, 4), 16);
    put_le16(guest_ptr(&g, table + 12, 2), ind);
    offer(0);
    expect_broken("indirect in indirect");

    begin(8, false, false, true);
    table = guest_alloc(&g, 64, 16);
    set_desc(0, table, 32, ind, 0);
    for (unsigned i = 0; i < 2; i++) {
        put_le64(guest_ptr(&g, table + 16 * i, 8), 0x8000);
        put_le32(guest_ptr(&g, table + 16 * i + 8, 4), 16);
        put_le16(guest_ptr(&g, table + 16 * i + 12, 2), next);
        put_le16(guest_ptr(&g, table + 16 * i + 14, 2), (uint16_t)!i);
    }
    offer(0);
    expect_broken("loop in an indirect table");

    begin(8, false, false, true);
    offer(8);
    expect_broken("head beyond the table");

    begin(8, false, false, true);
    put_le16(guest_ptr(&g, g.queue[0].driver + 2, 2), 9);
    expect_broken("index runs ahead");

    begin(8, false, false, true);
    set_desc(0, 0x8000, 16, 0, 0);
    offer(0);
    offer(0);
    (void)queue_next(&q);
    ok(!queue_next(&q) && breaks == 1, "a head offered twice: %s", why);
    chain_finish(&q.slot[q.free_slot[q.max_size - 1]]);
    ok(guest_used(&g, 0, NULL) < 0, "a broken ring is left alone");
}

static void test_hostile_packed(void)
{
    const uint16_t avail = 0x80, next = VRING_DESC_F_NEXT, write = VRING_DESC_F_WRITE,
                   ind = VRING_DESC_F_INDIRECT;

    begin(8, true, false, true);
    set_desc(0, 0x123456789000, 16, 0, avail);
    expect_broken("packed: address in no memory");
    begin(8, true, false, true);
    set_desc(0, 0x8000, 16, 8, avail);
    expect_broken("packed: id beyond the ring");
    begin(8, true, false, true);
    for (unsigned i = 0; i < 8; i++)
        set_desc(i, 0x8000, 16, 0, avail | next);
    expect_broken("packed: a chain without end");
    begin(8, true, false, true);
    set_desc(0, 0x8000, 16, 0, avail | next | write);
    set_desc(1, 0x8000, 16, 0, avail);
    expect_broken("packed: readable after writable");
    begin(8, true, false, true);
    set_desc(0, 0x8000, 16, 0, avail | next | ind);
    expect_broken("packed: indirect with next");
    begin(8, true, false, true);
    set_desc(0, 0x8000, 16, 0, avail | next);
    set_desc(1, 0x8000, 16, 0, avail | ind);
    expect_broken("packed: indirect inside a chain");
    begin(8, true, false, true);
    set_desc(0, 0x8000, 17, 0, avail | ind);
    expect_broken("packed: indirect table of a wrong size");
    begin(8, true, false, true);
    set_desc(0, 0x8000, 16, 3, avail);
    set_desc(1, 0x8000, 16, 3, avail);
    (void)queue_next(&q);
    ok(!queue_next(&q) && breaks == 1, "packed: an id offered twice: %s", why);
    chain_finish(&q.slot[q.free_slot[q.max_size - 1]]);
}

static void test_long_chains(void)
{
    static struct guest_buf buf[CHAIN_LONG + 1];
    struct iovec iov[CHAIN_LONG];
    struct chain *c;

    for (unsigned i = 0; i <= CHAIN_LONG; i++)
        buf[i] = (struct guest_buf){0x100000 + 0x1000 * i, 512, false};
    begin(8, false, false, true);
    guest_add(&g, 0, buf, CHAIN_LONG);
    c = queue_next(&q);
    ok(c && c->count == CHAIN_LONG &&
           chain_read_iov(c, 512 * CHAIN_LONG, iov, CHAIN_LONG) == CHAIN_LONG,
       "as many pieces as there may be");
    chain_finish(c);
    guest_add(&g, 0, buf, CHAIN_LONG + 1);
    expect_broken("one piece more");
    for (unsigned i = 0; i <= CHAIN_LONG; i++)
        buf[i] = (struct guest_buf){0x100000 + 0x1000 * i, 0x1000, true};
    begin(8, false, false, true);
    guest_add(&g, 0, buf, CHAIN_LONG + 1);
    c = queue_next(&q);
    ok(c && c->count == 1 && chain_room(c) == 0x1000 * (CHAIN_LONG + 1),
       "neighbours in memory become one piece");
    chain_finish(c);
    begin(8, true, false, true);
    for (unsigned i = 0; i < 64; i++)
        buf[i] = (struct guest_buf){0, (uint32_t)(GUEST_RAM), false};
    guest_add(&g, 0, buf, 64);
    expect_broken("more than 4 GiB in all");
}

static void test_bad_setup(void)
{
    struct queue_setup s = {.desc = 0x1000, .driver = 0x2000, .device = 0x3000, .size = 8}, t;

    queue_stop(&q);
    t = s, t.size = 6;
    ok(queue_start(&q, &t) == -EINVAL, "split size must be a power of two");
    t = s, t.size = 512;
    ok(queue_start(&q, &t) == -EINVAL, "no larger than offered");
    t = s, t.desc = 0x1008;
    ok(queue_start(&q, &t) == -EINVAL, "descriptors aligned");
    t = s, t.device = GUEST_RAM - 4;
    ok(queue_start(&q, &t) == -EFAULT, "rings in memory");
    t = s, t.device = 0xfff00000;
    ok(queue_start(&q, &t) == -EFAULT, "used ring not in ROM");
    t = s, t.packed = true, t.avail = 8;
    ok(queue_start(&q, &t) == -EINVAL, "packed position inside of the ring");
}

static void test_dirty(void)
{
    struct guest_buf buf = {0x200000, 3 * 4096, true};
    struct err err;
    struct chain *c;

    begin(8, false, false, false);
    guest_add(&g, 0, &buf, 1);
    mem_log_start(&g.mem, &err);
    c = queue_next(&q);
    chain_write(c, "x", 1);
    chain_finish(c);
    ok(g.mem.region[0].dirty[0x200 / 64] == 1, "only the page that was written is dirty");
    ok(g.mem.region[0].dirty[(g.queue[0].device >> 12) / 64] & BIT((g.queue[0].device >> 12) % 64),
       "and the used ring");
    mem_log_stop(&g.mem);
}

int main(void)
{
    struct err err;

    if (!ok(guest_open(&g) && queue_open(&q, &ops, &g.mem, 0, 256, &err), "opened"))
        return tap_done();
    for (int i = 0; i < 4; i++)
        test_chains(i & 1, i & 2);
    for (int i = 0; i < 4; i++)
        test_rounds(i & 1, i & 2);
    for (int packed = 0; packed < 2; packed++) {
        test_batch(packed);
        test_putback(packed);
        test_position(packed);
    }
    test_suppression();
    test_hostile_split();
    test_hostile_packed();
    test_long_chains();
    test_bad_setup();
    test_dirty();
    queue_close(&q);
    guest_close(&g);
    return tap_done();
}
