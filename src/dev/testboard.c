/* SPDX-License-Identifier: MIT */
/* See testboard.h. Interrupt lines go through the real irqchip, and are recorded on the way. */
#include "dev/testboard.h"

#include <stdio.h>
#include <stdlib.h>

struct testboard tb;

static uint64_t test_host_now(void)
{
    return tb.host_ns;
}

static uint64_t test_wall_now(void)
{
    return tb.wall_ns;
}

static void test_irq(struct board *b, unsigned gsi, bool level)
{
    if (gsi < GSI_COUNT) {
        tb.rises[gsi] += level && !tb.line[gsi];
        tb.line[gsi] = level;
    }
    irqchip_set(b, gsi, level);
}

static void test_msi(struct board *b, const struct msi *msi)
{
    tb.msi = *msi;
    tb.msis++;
}

static void test_power(struct board *b, enum power_event what, uint32_t code)
{
    tb.power = what;
    tb.power_code = code;
    tb.powers++;
}

static void test_intr(struct board *b, bool level)
{
    tb.intr = level;
}

static const struct board_ops test_ops = {
    .irq = test_irq, .msi = test_msi, .power = test_power, .intr = test_intr};

void tb_open(struct loop *loop)
{
    memset(&tb, 0, sizeof tb);
    tb.host_ns = 1000000000;
    tb.wall_ns = 1700000000ULL * 1000000000; /* 2023-11-14 22:13:20 UTC */
    bus_init(&tb.mmio, BIT(40));
    bus_init(&tb.pio, 0x10000);
    board_init(&tb.board, &test_ops);
    tb.board.mmio = &tb.mmio;
    tb.board.pio = &tb.pio;
    tb.board.loop = loop;
    tb.board.host_now = test_host_now;
    tb.board.wall_now = test_wall_now;
    board_clock_set(&tb.board, 0);
}

void tb_full(struct loop *loop, struct chardev *uart)
{
    struct board_parts parts = {.serial = {uart}, .debugcon = uart, .debug_exit = true};
    struct err err;

    tb_open(loop);
    if (!board_attach(&tb.board, &parts, &err)) {
        printf("Bail out! %s\n", err.text);
        exit(1);
    }
}

struct device *tb_add(const struct device_type *type)
{
    struct device *dev = device_new(type, type->name);
    struct err err;

    if (!device_attach(&tb.board, dev, &err)) {
        printf("Bail out! %s\n", err.text);
        exit(1);
    }
    return dev;
}

void tb_close(void)
{
    board_close(&tb.board);
    bus_close(&tb.mmio);
    bus_close(&tb.pio);
}

/* In steps: a timer sees the time it asked for, to within 10 us or a hundredth of the whole. */
void tb_pass(uint64_t ns)
{
    uint64_t step = max_u64(ns / 100, 10000);

    while (ns) {
        uint64_t now = min_u64(step, ns);

        tb.host_ns += now;
        tb.wall_ns += now;
        ns -= now;
        devtimer_run(&tb.board);
    }
}
