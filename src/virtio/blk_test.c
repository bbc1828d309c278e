/* SPDX-License-Identifier: MIT */
/* virtio-blk over a real image file: data, discard, zeroes, serial, limits, many queues, requests
 * held in flight over a reset, hostile requests. */
#include "block/block.h"
#include "virtio/devices.h"
#include "virtio/testguest.h"
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <stdlib.h>
#include <unistd.h>

#define ALL       (~0ULL)
#define DISK_SIZE (4 * MiB)
#define QUEUES    3

static struct guest g;
static struct block *block;
static struct device *dev;
static char path[] = "/tmp/hull-blk-test-XXXXXX";
static gpa head_at, status_at, data_at;

/* ---- the image, with a gate in front of it ---- */

static const struct block_ops *real_ops;
static struct block_ops gate_ops;
static struct block_req *waiting[256];
static unsigned waiting_count;
static bool gate_closed;
static unsigned last_flags;

static void gate_submit(struct block *b, struct block_req *req)
{
    last_flags = req->flags;
    if (gate_closed)
        waiting[waiting_count++] = req;
    else
        real_ops->submit(b, req);
}

static void gate_open(void)
{
    unsigned count = waiting_count;

    gate_closed = false;
    waiting_count = 0;
    for (unsigned i = count; i-- > 0;) /* the last one first */
        real_ops->submit(block, waiting[i]);
}

static bool image_open(bool readonly)
{
    struct block_config c = {
        .readonly = readonly, .discard = true, .serial = "HULL-0123456789abcde"};
    struct err err;

    snprintf(c.file, sizeof c.file, "%s", path);
    snprintf(c.format, sizeof c.format, "raw");
    block = block_open(g.loop, &c, &err);
    if (!ok(block != NULL, "image: %s", block ? "open" : err.text))
        return false;
    real_ops = block->ops;
    gate_ops = *real_ops;
    gate_ops.submit = gate_submit;
    block->ops = &gate_ops;
    return true;
}

static void image_close(void)
{
    block->ops = real_ops;
    block_close(block);
}

/* ---- requests ---- */

static int add(unsigned queue, uint32_t type, uint64_t sector, gpa data, uint32_t len, gpa status)
{
    struct guest_buf buf[3] = {{0, 16, false},
                               {data, len, type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID},
                               {status, 1, true}};
    uint8_t head[16] = {0};

    put_le32(head, type);
    put_le64(head + 8, sector);
    buf[0].addr = guest_put(&g, head, 16);
    *(uint8_t *)guest_ptr(&g, status, 1) = 0xee;
    return guest_add(&g, queue, buf, 3);
}

/* One request; its status, or -1 if nothing came back. */
static int io(unsigned queue, uint32_t type, uint64_t sector, gpa data, uint32_t len)
{
    gpa heap = g.heap;
    int id = add(queue, type, sector, data, len, status_at);

    guest_kick(&g, queue);
    if (id < 0 || guest_wait(&g, queue, NULL) != id)
        return -1;
    g.heap = heap;
    return *(uint8_t *)guest_ptr(&g, status_at, 1);
}

static void test_data(const char *name)
{
    uint8_t *p = guest_ptr(&g, data_at, 64 * KiB), disk[8192];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool good = true;

    for (unsigned i = 0; i < 8192; i++)
        p[i] = (uint8_t)(i * 7 + i / 512);
    ok(io(0, VIRTIO_BLK_T_OUT, 100, data_at, 8192) == VIRTIO_BLK_S_OK, "%s: write", name);
    ok(pread(fd, disk, 8192, 51200) == 8192 && !memcmp(disk, p, 8192), "the image has it");
    memset(p + 16384, 0, 8192);
    ok(io(1, VIRTIO_BLK_T_IN, 100, data_at + 16384, 8192) == VIRTIO_BLK_S_OK &&
           !memcmp(p + 16384, p, 8192),
       "read back on another queue");
    for (unsigned i = 0; i < 300 && good; i++)
        good =
            io(i % QUEUES, i & 1 ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, i * 8, data_at, 4096) == 0;
    ok(good, "300 requests over all queues");
    ok(io(2, VIRTIO_BLK_T_FLUSH, 0, data_at, 0) == VIRTIO_BLK_S_OK && block->flushes >= 1, "flush");
    close(fd);
}

static void test_serial(void)
{
    ok(io(0, VIRTIO_BLK_T_GET_ID, 0, data_at, 20) == 0 &&
           !memcmp(guest_ptr(&g, data_at, 20), "HULL-0123456789abcde", 20),
       "serial");
    ok(io(0, VIRTIO_BLK_T_GET_ID, 0, data_at, 4) == 0, "a short buffer gets its part");
}

static void test_config(void)
{
    ok(guest_config(&g, 0, 8) == DISK_SIZE / 512, "capacity");
    ok(guest_config(&g, 12, 4) == 254 && guest_config(&g, 20, 4) == 512, "segments, block size");
    ok(guest_config(&g, 34, 2) == QUEUES && guest_config(&g, 36, 4) > 0, "queues, discard limit");
    ok(guest_config(&g, 60, 4) == 0, "nothing after the end");
}

static int range(uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags)
{
    uint8_t r[16];

    put_le64(r, sector);
    put_le32(r + 8, sectors);
    put_le32(r + 12, flags);
    memcpy(guest_ptr(&g, data_at, 16), r, 16);
    return io(0, type, 0, data_at, 16);
}

static bool disk_zero(uint64_t offset, size_t len)
{
    static uint8_t bytes[64 * KiB];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool zero = pread(fd, bytes, len, (off_t)offset) == (ssize_t)len;

    for (size_t i = 0; i < len; i++)
        zero = zero && !bytes[i];
    close(fd);
    return zero;
}

static void fill(uint64_t sector, unsigned sectors)
{
    memset(guest_ptr(&g, data_at, 512 * sectors), 0x5a, 512 * sectors);
    io(0, VIRTIO_BLK_T_OUT, sector, data_at, 512 * sectors);
}

static void test_ranges(void)
{
    fill(0, 64);
    if (block->can_zero) {
        ok(range(VIRTIO_BLK_T_WRITE_ZEROES, 8, 8, 0) == 0 && disk_zero(4096, 4096) &&
               !disk_zero(8192, 512),
           "write zeroes");
        ok(range(VIRTIO_BLK_T_WRITE_ZEROES, 16, 8, 1) == 0 && disk_zero(8192, 4096), "with unmap");
        ok(range(VIRTIO_BLK_T_WRITE_ZEROES, 16, 8, 2) == VIRTIO_BLK_S_UNSUPP, "unknown flag");
    } else {
        tap_skip("write zeroes", "the file system cannot");
    }
    if (block->can_discard) {
        ok(range(VIRTIO_BLK_T_DISCARD, 32, 16, 0) == 0 && disk_zero(16384, 8192), "discard");
        ok(range(VIRTIO_BLK_T_DISCARD, 32, 16, 1) == VIRTIO_BLK_S_UNSUPP,
           "discard has no unmap flag");
    } else {
        tap_skip("discard", "the file system cannot");
    }
    ok(range(VIRTIO_BLK_T_DISCARD, DISK_SIZE / 512 - 1, 2, 0) == VIRTIO_BLK_S_IOERR &&
           range(VIRTIO_BLK_T_DISCARD, UINT64_MAX, 2, 0) == VIRTIO_BLK_S_IOERR &&
           range(VIRTIO_BLK_T_WRITE_ZEROES, 0, UINT32_MAX, 0) == VIRTIO_BLK_S_IOERR,
       "ranges beyond the disk");
    ok(io(0, VIRTIO_BLK_T_DISCARD, 0, data_at, 32) == VIRTIO_BLK_S_IOERR &&
           io(0, VIRTIO_BLK_T_DISCARD, 0, data_at, 8) == VIRTIO_BLK_S_IOERR,
       "more or less than one range");
}

static void test_limits(void)
{
    struct guest_buf bad[2] = {{data_at, 8, false}, {data_at, 1, true}};
    uint64_t end = DISK_SIZE / 512;

    ok(io(0, VIRTIO_BLK_T_IN, end - 1, data_at, 512) == 0, "last sector");
    ok(io(0, VIRTIO_BLK_T_IN, end - 1, data_at, 1024) == VIRTIO_BLK_S_IOERR, "over the end");
    ok(io(0, VIRTIO_BLK_T_OUT, UINT64_MAX, data_at, 512) == VIRTIO_BLK_S_IOERR &&
           io(0, VIRTIO_BLK_T_OUT, UINT64_MAX / 512 + 1, data_at, 512) == VIRTIO_BLK_S_IOERR,
       "sectors that overflow");
    ok(io(0, VIRTIO_BLK_T_IN, 0, data_at, 513) == VIRTIO_BLK_S_IOERR, "half a sector");
    ok(io(0, 77, 0, data_at, 512) == VIRTIO_BLK_S_UNSUPP, "unknown type");
    guest_add(&g, 0, bad, 2);
    guest_kick(&g, 0);
    guest_settle(&g);
    ok(guest_read(&g, g.common + VIRTIO_PCI_COMMON_STATUS, 1) & VIRTIO_NEEDS_RESET,
       "a short header breaks the ring");
    guest_begin(&g, ALL, QUEUES, 128);
    bad[0].len = 16;
    guest_add(&g, 0, bad, 1);
    guest_kick(&g, 0);
    guest_settle(&g);
    ok(guest_read(&g, g.common + VIRTIO_PCI_COMMON_STATUS, 1) & VIRTIO_NEEDS_RESET,
       "so does no place for the status");
}

/* More requests than the pool has, finished last first. */
static void test_many(void)
{
    unsigned count[QUEUES] = {0}, total = 0, done = 0;
    gpa status = guest_alloc(&g, 1024, 16), heap = g.heap;

    guest_begin(&g, ALL, QUEUES, 256);
    gate_closed = true;
    for (unsigned i = 0; i < 240; i++)
        if (add(i % QUEUES, VIRTIO_BLK_T_IN, i, data_at + 512 * (i % 64), 512, status + i) >= 0)
            count[i % QUEUES]++, total++;
    for (unsigned q = 0; q < QUEUES; q++)
        guest_kick(&g, q);
    guest_settle(&g);
    ok(total == 240 && waiting_count == 128, "128 requests in flight, %u wait", total - 128);
    gate_open();
    for (unsigned q = 0; q < QUEUES; q++)
        for (; count[q] && guest_wait(&g, q, NULL) >= 0; count[q]--)
            done++;
    ok(done == 240, "all come back");
    for (unsigned i = 0; i < 240; i++)
        done -= *(uint8_t *)guest_ptr(&g, status + i, 1) == 0;
    ok(done == 0, "with good status");
    g.heap = heap;
}

static unsigned all_msis(void)
{
    unsigned sum = 0;

    for (unsigned i = 0; i < PCI_MSIX_MAX; i++)
        sum += g.msis[i];
    return sum;
}

/* What ends together is told together. */
static void test_one_interrupt(void)
{
    gpa status = guest_alloc(&g, 64, 16), heap = g.heap;
    unsigned before, done = 0;

    guest_begin(&g, ALL & ~BIT(VIRTIO_RING_F_EVENT_IDX), QUEUES, 256);
    gate_closed = true;
    for (unsigned i = 0; i < 48; i++)
        add(0, VIRTIO_BLK_T_IN, i, data_at + 512 * i, 512, status + i);
    guest_kick(&g, 0);
    guest_settle(&g);
    before = all_msis();
    gate_open();
    while (done < 48 && guest_wait(&g, 0, NULL) >= 0)
        done++;
    ok(done == 48 && all_msis() - before < 24, "48 requests, %u interrupts", all_msis() - before);
    g.heap = heap;
}

static void test_reset(void)
{
    guest_begin(&g, ALL, QUEUES, 128);
    gate_closed = true;
    for (unsigned i = 0; i < 20; i++)
        add(0, VIRTIO_BLK_T_IN, i, data_at + 512 * i, 512, status_at);
    guest_kick(&g, 0);
    guest_settle(&g);
    guest_write(&g, g.common + VIRTIO_PCI_COMMON_STATUS, 0, 1);
    guest_settle(&g);
    ok(waiting_count == 20 && guest_read(&g, g.common + VIRTIO_PCI_COMMON_STATUS, 1) != 0,
       "reset waits for 20 requests in flight");
    gate_open();
    ok(guest_reset(&g), "and ends after them");
    ok(guest_begin(&g, ALL, QUEUES, 128) && io(0, VIRTIO_BLK_T_IN, 0, data_at, 512) == 0,
       "and the disk works on");
    gate_closed = true;
    add(0, VIRTIO_BLK_T_IN, 0, data_at, 512, status_at);
    guest_kick(&g, 0);
    guest_settle(&g);
    gate_open();
    dev->type->pause(dev);
    ok(block_idle(block) && guest_used(&g, 0, NULL) >= 0, "pause waits for the request");
    dev->type->resume(dev);
}

static void test_writeback(void)
{
    guest_begin(&g, ALL, QUEUES, 128);
    io(0, VIRTIO_BLK_T_OUT, 0, data_at, 512);
    ok(last_flags == 0 && guest_config(&g, 32, 1) == 1, "write back");
    guest_write(&g, g.config + 32, 0, 1);
    io(0, VIRTIO_BLK_T_OUT, 0, data_at, 512);
    ok(last_flags == BLOCK_REQ_FUA && guest_config(&g, 32, 1) == 0, "write through when asked");
    guest_begin(&g, ALL & ~(BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_CONFIG_WCE)), QUEUES, 128);
    io(0, VIRTIO_BLK_T_OUT, 0, data_at, 512);
    ok(last_flags == BLOCK_REQ_FUA, "and for a driver that cannot flush");
    guest_begin(&g, ALL, QUEUES, 128);
    io(0, VIRTIO_BLK_T_OUT, 0, data_at, 512);
    ok(last_flags == 0 && guest_config(&g, 32, 1) == 1, "write back again after a reset");
}

/* Chains of random shape and content: whatever comes, the process and the image stay sane. */
static void test_random(void)
{
    uint64_t random = 4711;
    unsigned resets = 0;

    guest_begin(&g, ALL, QUEUES, 32);
    for (unsigned i = 0; i < 5000; i++) {
        struct guest_buf buf[6];
        unsigned n = 1 + guest_random(&random) % 6, writable = guest_random(&random) % (n + 1);
        uint8_t *head = guest_ptr(&g, head_at, 16);

        for (unsigned k = 0; k < n; k++)
            buf[k] = (struct guest_buf){data_at + guest_random(&random) % 4096,
                                        (uint32_t)(guest_random(&random) % 1400), k >= writable};
        if (guest_random(&random) % 8)
            buf[0] = (struct guest_buf){head_at, 16, writable == 0};
        put_le32(head, (uint32_t)(guest_random(&random) % 16));
        put_le64(head + 8, guest_random(&random) % 9000);
        g.heap = data_at + MiB;
        if (guest_add(&g, i % QUEUES, buf, n) < 0)
            guest_settle(&g);
        guest_kick(&g, i % QUEUES);
        loop_turn(g.loop, 0);
        while (guest_used(&g, i % QUEUES, NULL) >= 0)
            ;
        if (guest_read(&g, g.common + VIRTIO_PCI_COMMON_STATUS, 1) & VIRTIO_NEEDS_RESET) {
            g.heap = data_at + 2 * MiB;
            guest_begin(&g, i & 1 ? ALL : 0, QUEUES, 32);
            resets++;
        }
    }
    ok(guest_reset(&g) && resets > 10, "5000 random chains, %u resets", resets);
}

static void test_readonly(void)
{
    struct device *disk;

    image_close();
    image_open(true);
    disk = guest_attach(&g, virtio_blk_new("ro", block, 1));
    guest_probe(&g, guest_slot(disk));
    guest_begin(&g, ALL, 1, 64);
    ok(g.features & BIT(VIRTIO_BLK_F_RO) && !(g.features & BIT(VIRTIO_BLK_F_DISCARD)), "read-only");
    ok(io(0, VIRTIO_BLK_T_OUT, 0, data_at, 512) == VIRTIO_BLK_S_IOERR, "refuses writes");
    ok(io(0, VIRTIO_BLK_T_IN, 0, data_at, 512) == 0, "reads");
    device_free(disk);
}

int main(void)
{
    int fd = mkstemp(path);
    struct device *fresh;

    log_setup("test", LOG_ERROR);
    if (!ok(guest_open(&g) && fd >= 0 && ftruncate(fd, DISK_SIZE) == 0, "machine, file"))
        return tap_done();
    close(fd);
    if (!image_open(false))
        return tap_done();
    dev = guest_attach(&g, virtio_blk_new("disk0", block, QUEUES));
    ok(guest_probe(&g, guest_slot(dev)), "found");
    head_at = guest_alloc(&g, 16, 16);
    status_at = guest_alloc(&g, 1, 16);
    data_at = guest_alloc(&g, 64 * KiB, 4096);
    guest_begin(&g, 0, QUEUES, 128);
    test_data("split, plain");
    guest_begin(&g, BIT(VIRTIO_F_RING_PACKED), QUEUES, 128);
    test_data("packed, plain");
    guest_begin(&g, ALL, QUEUES, 128);
    test_data("everything");
    test_config();
    test_serial();
    test_ranges();
    test_limits();
    test_many();
    test_one_interrupt();
    test_reset();
    test_writeback();
    ok(guest_check_registers(&g, dev, 2, 20000), "20000 random register accesses do no harm");
    test_random();
    guest_begin(&g, ALL, QUEUES, 128);
    fresh = guest_attach(&g, virtio_blk_new("disk1", block, QUEUES));
    ok(guest_check_state(&g, dev, fresh),
       "state: saved, restored, saved again; cut streams are refused");
    device_free(dev);
    guest_settle(&g);
    ok(io(0, VIRTIO_BLK_T_IN, 0, data_at, 512) == 0, "the restored disk works");
    device_free(fresh);
    test_readonly();
    guest_close(&g);
    unlink(path);
    return tap_done();
}
