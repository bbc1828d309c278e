/* SPDX-License-Identifier: MIT */
/* Four vCPU threads on one board while the main loop runs its timers and streams: for TSan, and for
 * locks taken in a wrong order, which would hang. */
#include "base/clock.h"
#include "dev/testboard.h"
#include "tap.h"

#include <unistd.h>

#define THREADS  4
#define ACCESSES 20000

static _Atomic unsigned running = THREADS;

static uint64_t next(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

/* Ports and registers that stay in one place; PCI registers move BARs and routes. */
static const struct {
    uint64_t base, size;
    bool mmio;
} target[] = {
    {0x20, 2, false},   {0xa0, 2, false},  {0x40, 4, false},         {0x61, 1, false},
    {0x60, 1, false},   {0x64, 1, false},  {0x70, 2, false},         {0x3f8, 8, false},
    {0x600, 64, false}, {0xcf8, 8, false}, {0xfec00000, 0x48, true}, {0xfed00000, 0x160, true},
    {0x402, 1, false},  {0x4d0, 2, false}, {0xb00f8040, 0x40, true},
};

static void *vcpu(void *arg)
{
    uint64_t seed = 0x9e3779b97f4a7c15ULL * (uint64_t)(uintptr_t)arg;

    for (unsigned i = 0; i < ACCESSES; i++) {
        unsigned n = (unsigned)(next(&seed) % ARRAY_SIZE(target));
        struct bus *bus = target[n].mmio ? &tb.mmio : &tb.pio;
        unsigned size = target[n].mmio ? 4 : 1u << next(&seed) % 2;
        uint64_t addr = target[n].base + next(&seed) % target[n].size / size * size;

        if (next(&seed) & 1)
            bus_write(bus, addr, next(&seed), size);
        else
            bus_read(bus, addr, size);
        if (i % 16 == 0)
            irqchip_ack(&tb.board);
        if (i % 16 == 1)
            irqchip_eoi(&tb.board, (uint8_t)next(&seed));
    }
    running--;
    return NULL;
}

static uint64_t wall(void)
{
    return now_ns() + 1700000000ULL * 1000000000;
}

/* The harness's own records are not guarded: these ops keep none. */
static void on_msi(struct board *b, const struct msi *msi)
{
}

static void on_power(struct board *b, enum power_event what, uint32_t code)
{
}

static void on_intr(struct board *b, bool level)
{
}

static const struct board_ops ops = {
    .irq = irqchip_set, .msi = on_msi, .power = on_power, .intr = on_intr};

int main(void)
{
    struct board_parts parts = {0};
    struct err err;
    struct loop *loop = loop_open(&err);
    pthread_t thread[THREADS];
    uint64_t end;

    tb_open(loop);
    tb.board.ops = &ops;
    tb.board.host_now = now_ns;
    tb.board.wall_now = wall;
    board_clock_set(&tb.board, 0);
    parts.serial[0] = chardev_open_null(loop, &err);
    parts.debugcon = chardev_open_null(loop, &err);
    ok(board_attach(&tb.board, &parts, &err), "a board");
    for (uintptr_t i = 0; i < THREADS; i++)
        pthread_create(&thread[i], NULL, vcpu, (void *)(i + 1));
    end = now_ns() + 20000000000ULL;
    while (running && now_ns() < end)
        loop_turn(loop, 1000000);
    if (!ok(running == 0, "%d threads made %d accesses each; none hangs", THREADS, ACCESSES))
        _exit(tap_done());
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    board_pause(&tb.board);
    board_reset(&tb.board);
    board_resume(&tb.board);
    loop_turn(loop, 1000000);
    ok(rd32(0xb0000000) == 0x29c08086, "and the board is well");
    tb_close();
    chardev_close(parts.serial[0]);
    chardev_close(parts.debugcon);
    loop_close(loop);
    return tap_done();
}
