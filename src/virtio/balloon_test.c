/* SPDX-License-Identifier: MIT */
/* virtio-balloon: lent pages really go, neighbours stay; reports, poison, statistics, bad page
 * numbers. */
#include "virtio/devices.h"
#include "virtio/testguest.h"
#include <linux/virtio_balloon.h>

#define ALL  (~0ULL)
#define AREA (32 * MiB) /* pages that are played with */

static struct guest g;
static struct device *dev;

static void begin(uint64_t features)
{
    g.heap = 0x10000;
    if (!guest_begin(&g, features, 5, 32))
        ok(false, "the driver cannot begin");
    memset(guest_ptr(&g, AREA, 64 * 4096), 0x77, 64 * 4096);
}

/* Bit n: page n of the area still has its bytes. */
static uint64_t pages_kept(void)
{
    const uint8_t *p = guest_ptr(&g, AREA, 64 * 4096);
    uint64_t kept = 0;

    for (unsigned i = 0; i < 64; i++)
        kept |= (uint64_t)(p[i * 4096] == 0x77 && p[i * 4096 + 4095] == 0x77) << i;
    return kept;
}

static void inflate(const uint32_t *page, unsigned count)
{
    uint32_t pfn[32];
    struct guest_buf buf;

    for (unsigned i = 0; i < count; i++)
        pfn[i] = page[i] < 1000 ? (uint32_t)(AREA >> 12) + page[i] : page[i];
    buf = (struct guest_buf){guest_put(&g, pfn, 4 * count), 4 * count, false};
    guest_request(&g, 0, &buf, 1);
}

static void test_inflate(uint64_t features, const char *name)
{
    uint32_t lone = 5, up[] = {10, 11, 12}, down[] = {22, 21, 20}, mixed[] = {30, 32, 32, 31, 40},
             bad[] = {0xffffffff, 0xfff00, 50, 0x80000};
    struct err err;

    begin(features);
    ok(pages_kept() == ALL, "%s: all there", name);
    mem_log_start(&g.mem, &err);
    inflate(&lone, 1);
    ok(pages_kept() == ~BIT(5), "one page");
    ok(g.mem.region[0].dirty[(AREA >> 12) / 64] & BIT(5), "counts as written");
    mem_log_stop(&g.mem);
    inflate(up, 3);
    inflate(down, 3);
    ok(pages_kept() == ~(BIT(5) | 0x7ULL << 10 | 0x7ULL << 20), "runs, up and down");
    inflate(mixed, 5);
    ok(pages_kept() == ~(BIT(5) | 0x7ULL << 10 | 0x7ULL << 20 | 0x7ULL << 30 | BIT(40)),
       "with repeats");
    inflate(bad, 4);
    ok(!(pages_kept() & BIT(50)) && pages_kept() & BIT(51) &&
           guest_read(&g, g.common + VIRTIO_PCI_COMMON_STATUS, 1) == 15,
       "pages that do not exist, ROM: ignored");
}

static void test_report(void)
{
    struct guest_buf buf[3] = {{AREA + 8 * 4096, 4 * 4096, true},
                               {AREA + 20 * 4096 + 100, 3 * 4096, true},
                               {AREA + 40 * 4096, 100, true}};
    struct balloon_stats s;

    begin(ALL & ~BIT(VIRTIO_BALLOON_F_PAGE_POISON));
    ok(guest_request(&g, 3, buf, 3) == 0, "free ranges");
    ok(pages_kept() == ~(0xfULL << 8 | 0x3ULL << 21), "whole pages of them go");
    virtio_balloon_stats(dev, &s);
    ok(s.reported >= 6 * 4096, "counted");
    begin(ALL & ~BIT(VIRTIO_BALLOON_F_PAGE_POISON));
    ok(guest_request(&g, 4, buf, 1) == 0 && pages_kept() == ~(0xfULL << 8),
       "also where the specification numbers the queue");
    begin(ALL);
    guest_write(&g, g.config + 12, 0xaaaaaaaa, 4);
    ok(guest_request(&g, 3, buf, 1) == 0 && pages_kept() == ALL,
       "poisoned pages must keep their poison");
    guest_write(&g, g.config + 12, 0, 4);
    ok(guest_request(&g, 3, buf, 1) == 0 && pages_kept() == ~(0xfULL << 8), "poison of zero goes");
}

static void test_stats(uint64_t features)
{
    struct virtio_balloon_stat st[] = {
        {VIRTIO_BALLOON_S_MEMFREE, 123456}, {VIRTIO_BALLOON_S_MEMTOT, 999}, {77, 1}};
    struct guest_buf buf = {0, sizeof st, false};
    struct balloon_stats s;

    begin(features);
    buf.addr = guest_put(&g, st, sizeof st);
    guest_add(&g, 2, &buf, 1);
    guest_kick(&g, 2);
    guest_settle(&g);
    ok(guest_used(&g, 2, NULL) < 0, "statistics stay in the queue");
    virtio_balloon_stats(dev, &s);
    guest_settle(&g);
    ok(s.value[BALLOON_FREE_MEMORY] == 123456 && s.value[BALLOON_TOTAL_MEMORY] == 999 &&
           s.value[BALLOON_SWAP_IN] == UINT64_MAX && s.updated_ns,
       "and are read");
    ok(guest_used(&g, 2, NULL) >= 0, "asking gives the buffer back");
    put_le64(guest_ptr(&g, buf.addr + 2, 8), 5);
    guest_add(&g, 2, &buf, 1);
    guest_kick(&g, 2);
    guest_settle(&g);
    dev->type->pause(dev);
    dev->type->resume(dev);
    virtio_balloon_stats(dev, &s);
    ok(s.value[BALLOON_FREE_MEMORY] == 5, "new ones, over a pause");
}

static void test_size(void)
{
    unsigned irqs;

    begin(ALL);
    irqs = g.msis[0];
    virtio_balloon_set(dev, 16 * MiB);
    ok(guest_config(&g, 0, 4) == 4096 && g.msis[0] == irqs + 1, "target, with an interrupt");
    guest_write(&g, g.config + 4, 4000, 4);
    ok(virtio_balloon_actual(dev) == 4000 * 4096ULL && guest_config(&g, 4, 4) == 4000, "actual");
    guest_write(&g, g.config, 7, 4);
    ok(guest_config(&g, 0, 4) == 4096, "the target is not the guest's to set");
    guest_reset(&g);
    ok(virtio_balloon_actual(dev) == 0 && guest_config(&g, 0, 4) == 4096,
       "after a reset nothing is lent, the target stays");
}

static void test_random(void)
{
    uint64_t random = 23;

    begin(ALL);
    for (unsigned i = 0; i < 800; i++) {
        unsigned queue = guest_random(&random) % 5, n = 1 + guest_random(&random) % 3;
        struct guest_buf buf[3];

        for (unsigned k = 0; k < n; k++)
            buf[k] = (struct guest_buf){AREA + guest_random(&random) % MiB,
                                        (uint32_t)(guest_random(&random) % 20000), queue > 2};
        for (unsigned k = 0; k < 64; k++)
            put_le32(guest_ptr(&g, AREA + 4 * (guest_random(&random) % 1000), 4),
                     (uint32_t)(guest_random(&random) >> (guest_random(&random) % 64)) | 0x2000);
        g.heap = 0x100000;
        if (guest_add(&g, queue, buf, n) < 0)
            begin(i & 1 ? ALL : 0);
        guest_kick(&g, queue);
        loop_turn(g.loop, 0);
        while (guest_used(&g, queue, NULL) >= 0)
            ;
    }
    ok(guest_reset(&g), "800 random chains");
}

int main(void)
{
    struct device *fresh;

    log_setup("test", LOG_ERROR);
    if (!ok(guest_open(&g), "machine"))
        return tap_done();
    dev = guest_attach(&g, virtio_balloon_new("balloon0"));
    ok(guest_probe(&g, guest_slot(dev)), "found");
    test_inflate(0, "split");
    test_inflate(ALL, "packed");
    test_report();
    test_stats(0x2);
    test_stats(ALL);
    test_size();
    ok(guest_check_registers(&g, dev, 5, 20000), "20000 random register accesses do no harm");
    test_random();
    begin(ALL);
    fresh = guest_attach(&g, virtio_balloon_new("balloon1"));
    ok(guest_check_state(&g, dev, fresh),
       "state: saved, restored, saved again; cut streams are refused");
    guest_close(&g);
    return tap_done();
}
