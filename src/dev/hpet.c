/* SPDX-License-Identifier: MIT */
/* The High Precision Event Timer: a 100 MHz counter and three comparators. IA-PC HPET 1.0a.
 *
 * The counter is board time plus an offset while it runs. Each enabled comparator has a timer at
 * its next match; as in hardware, a one-shot comparator that lies behind the counter matches only
 * after the counter has wrapped. Interrupts go to an IOAPIC pin, as a message (FSB), or with legacy
 * replacement in the place of the PIT (timer 0) and the RTC (timer 1). */
#include "boot/layout.h"
#include "dev/irqchip.h"
#include "dev/timer.h"
#include "dev/types.h"

#include <errno.h>

#define TIMERS       3
#define TICK_NS      10
#define CAPABILITIES (0x8086a201 | (uint64_t)(TICK_NS * 1000000) << 32) /* period in fs */
#define ROUTES       0x0c00 /* IOAPIC pins 10 and 11: ISA lines that nothing else uses */
#define PERIOD_MIN   2000   /* ticks: at most 50000 interrupts a second */

enum {
    CONFIG_ENABLE = 1,
    CONFIG_LEGACY = 2,

    TIMER_LEVEL = 1 << 1,
    TIMER_ON = 1 << 2,
    TIMER_PERIODIC = 1 << 3,
    TIMER_SET = 1 << 6,
    TIMER_32BIT = 1 << 8,
    TIMER_FSB = 1 << 14,
    TIMER_WRITABLE = 0x7f4e,
    TIMER_CAPABILITIES = 1 << 15 | 1 << 5 | 1 << 4, /* FSB, 64 bits, periodic */
};

struct hpet;

struct hpet_timer {
    struct devtimer timer;
    struct hpet *hpet;
    uint8_t index;
    uint64_t config; /* writable bits only */
    uint64_t comparator, period, fsb;
};

struct hpet {
    struct device dev;
    struct region regs;
    uint64_t config, status;
    uint64_t counter; /* while stopped: the value; while running: value minus board ticks */
    struct hpet_timer timer[TIMERS];
};

static struct hpet *hpet_of(struct device *dev)
{
    return container_of(dev, struct hpet, dev);
}

static uint64_t hpet_ticks(struct hpet *h)
{
    return board_now(h->dev.board) / TICK_NS;
}

/* `now`: hpet_ticks. Whatever a register write does happens at one moment, however long it takes.
 */
static uint64_t counter_at(const struct hpet *h, uint64_t now)
{
    return h->config & CONFIG_ENABLE ? h->counter + now : h->counter;
}

static uint64_t hpet_counter(struct hpet *h)
{
    return counter_at(h, hpet_ticks(h));
}

static uint64_t timer_width(const struct hpet_timer *t, uint64_t value)
{
    return t->config & TIMER_32BIT ? (uint32_t)value : value;
}

/* ---- interrupts ---- */

/* The GSI of the timer's line; GSI_COUNT: it is not routed. */
static unsigned timer_gsi(const struct hpet_timer *t)
{
    unsigned route = t->config >> 9 & 31;

    if ((t->hpet->config & CONFIG_LEGACY) && t->index < 2)
        return t->index ? 8 : 0;
    return ROUTES >> route & 1 ? route : GSI_COUNT;
}

static void timer_line(struct hpet_timer *t, bool level)
{
    unsigned gsi = timer_gsi(t);

    if (gsi < GSI_COUNT)
        board_irq(t->hpet->dev.board, gsi, level);
}

static void timer_interrupt(struct hpet_timer *t)
{
    struct msi msi = {.address = t->fsb >> 32, .data = (uint32_t)t->fsb};

    if (t->config & TIMER_LEVEL)
        t->hpet->status |= BIT(t->index);
    if (!(t->config & TIMER_ON))
        return;
    if (t->config & TIMER_FSB) {
        board_msi(t->hpet->dev.board, &msi);
    } else {
        timer_line(t, true);
        if (!(t->config & TIMER_LEVEL))
            timer_line(t, false);
    }
}

/* ---- comparators ---- */

static void timer_rearm(struct hpet_timer *t, uint64_t now)
{
    struct hpet *h = t->hpet;
    uint64_t distance = timer_width(t, t->comparator - counter_at(h, now));

    if (!(h->config & CONFIG_ENABLE) || !(t->config & TIMER_ON)) {
        devtimer_cancel(&t->timer);
        return;
    }
    if (t->timer.armed && t->timer.at_ns <= now * TICK_NS)
        return; /* it has matched, and the main thread is on its way to say so */
    if (!distance)
        distance = timer_width(t, UINT64_MAX); /* matched just now: a whole turn */
    if (distance > UINT64_MAX / TICK_NS - now)
        devtimer_cancel(&t->timer); /* centuries ahead */
    else
        devtimer_at(&t->timer, (now + distance) * TICK_NS);
}

static void hpet_rearm(struct hpet *h, uint64_t now)
{
    for (unsigned i = 0; i < TIMERS; i++)
        timer_rearm(&h->timer[i], now);
}

static void hpet_fire(struct devtimer *dt)
{
    struct hpet_timer *t = container_of(dt, struct hpet_timer, timer);
    uint64_t period = max_u64(timer_width(t, t->period), PERIOD_MIN);

    if ((t->config & TIMER_PERIODIC) && t->period) {
        uint64_t behind = timer_width(t, hpet_counter(t->hpet) - t->comparator);

        t->comparator = timer_width(t, t->comparator + (behind / period + 1) * period);
    }
    timer_interrupt(t);
    timer_rearm(t, hpet_ticks(t->hpet));
}

/* ---- registers: 64 bits wide, also read and written by halves ---- */

static uint64_t timer_reg(struct hpet_timer *t, unsigned reg)
{
    switch (reg) {
    case 0x00: return t->config | TIMER_CAPABILITIES | (uint64_t)ROUTES << 32;
    case 0x08: return t->comparator;
    case 0x10: return t->fsb;
    }
    return 0;
}

static uint64_t hpet_reg(struct hpet *h, uint64_t reg)
{
    unsigned n = (unsigned)(reg - 0x100) / 0x20;

    switch (reg) {
    case 0x000: return CAPABILITIES;
    case 0x010: return h->config;
    case 0x020: return h->status;
    case 0x0f0: return hpet_counter(h);
    }
    return reg >= 0x100 && n < TIMERS ? timer_reg(&h->timer[n], reg & 0x1f) : 0;
}

static void timer_config_write(struct hpet_timer *t, uint64_t value)
{
    if (t->hpet->status & BIT(t->index)) /* the line may move to another pin or type */
        timer_line(t, false);
    t->config = value & TIMER_WRITABLE;
    if (!(t->config & TIMER_PERIODIC))
        t->config &= ~(uint64_t)TIMER_SET;
    t->comparator = timer_width(t, t->comparator);
    if (!(t->config & TIMER_LEVEL))
        t->hpet->status &= ~BIT(t->index);
    else if ((t->hpet->status & BIT(t->index)) && (t->config & TIMER_ON))
        timer_line(t, true);
    timer_rearm(t, hpet_ticks(t->hpet));
}

/* In periodic mode a write sets the period; with TIMER_SET the first one sets the comparator. */
static void timer_comparator_write(struct hpet_timer *t, uint64_t value)
{
    value = timer_width(t, value);
    if (!(t->config & TIMER_PERIODIC) || (t->config & TIMER_SET)) {
        t->comparator = value;
        if (!(t->config & TIMER_PERIODIC) || !t->period)
            t->period = value;
        t->config &= ~(uint64_t)TIMER_SET;
    } else {
        t->period = value;
    }
    timer_rearm(t, hpet_ticks(t->hpet));
}

static void timer_reg_write(struct hpet_timer *t, unsigned reg, uint64_t value)
{
    switch (reg) {
    case 0x00: timer_config_write(t, value); break;
    case 0x08: timer_comparator_write(t, value); break;
    case 0x10: t->fsb = value; break;
    }
}

static void hpet_legacy(struct hpet *h, bool on)
{
    irqchip_legacy_set(h->dev.board, on);
    board_irq(h->dev.board, 0, false); /* whoever held the lines has lost them */
    board_irq(h->dev.board, 8, false);
}

static void hpet_config_write(struct hpet *h, uint64_t value)
{
    uint64_t before = h->config, now = hpet_ticks(h);

    value &= CONFIG_ENABLE | CONFIG_LEGACY;
    if ((before ^ value) & CONFIG_ENABLE)
        h->counter += value & CONFIG_ENABLE ? -now : now;
    h->config = value;
    if ((before ^ value) & CONFIG_LEGACY)
        hpet_legacy(h, value & CONFIG_LEGACY);
    hpet_rearm(h, now);
}

static void hpet_status_write(struct hpet *h, uint64_t value)
{
    for (unsigned i = 0; i < TIMERS; i++) {
        if (!(h->status & value & BIT(i)))
            continue;
        h->status &= ~BIT(i);
        timer_line(&h->timer[i], false);
    }
}

static void hpet_reg_write(struct hpet *h, uint64_t reg, uint64_t value)
{
    unsigned n = (unsigned)(reg - 0x100) / 0x20;
    uint64_t now = hpet_ticks(h);

    switch (reg) {
    case 0x010: hpet_config_write(h, value); return;
    case 0x020: hpet_status_write(h, value); return;
    case 0x0f0:
        h->counter = h->config & CONFIG_ENABLE ? value - now : value;
        hpet_rearm(h, now);
        return;
    }
    if (reg >= 0x100 && n < TIMERS)
        timer_reg_write(&h->timer[n], reg & 0x1f, value);
}

static uint64_t hpet_read(void *dev, uint64_t offset, unsigned size)
{
    return hpet_reg(dev, offset & ~7ULL) >> (offset & 4 ? 32 : 0);
}

static void hpet_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    uint64_t reg = offset & ~7ULL, now;

    if (size == 4 && reg == 0x20 && (offset & 4))
        return;
    if (size == 4 && reg != 0x20) { /* the status is write-1-to-clear: its other half is 0 */
        now = hpet_reg(dev, reg);
        value = offset & 4 ? (uint32_t)now | value << 32 : (now & ~(uint64_t)UINT32_MAX) | value;
    }
    hpet_reg_write(dev, reg, value);
}

static const struct region_ops hpet_ops = {hpet_read, hpet_write, 4, 8};

/* ---- the device ---- */

static void hpet_reset(struct device *dev)
{
    struct hpet *h = hpet_of(dev);

    pthread_mutex_lock(&dev->lock);
    hpet_status_write(h, UINT64_MAX);
    hpet_config_write(h, 0);
    h->counter = 0;
    for (unsigned i = 0; i < TIMERS; i++) {
        struct hpet_timer *t = &h->timer[i];

        devtimer_cancel(&t->timer);
        t->config = t->period = t->fsb = 0;
        t->comparator = UINT64_MAX;
    }
    pthread_mutex_unlock(&dev->lock);
}

static bool hpet_attach(struct device *dev, struct board *board, struct err *err)
{
    struct hpet *h = hpet_of(dev);

    for (unsigned i = 0; i < TIMERS; i++) {
        h->timer[i].hpet = h;
        h->timer[i].index = (uint8_t)i;
        if (!devtimer_open(&h->timer[i].timer, dev, hpet_fire, err))
            return false;
    }
    hpet_reset(dev);
    h->regs = (struct region){"hpet", LAYOUT_HPET_BASE, 0x400, &hpet_ops, h, &dev->lock};
    return bus_add(board->mmio, &h->regs, err);
}

static void hpet_detach(struct device *dev)
{
    struct hpet *h = hpet_of(dev);

    bus_remove(dev->board->mmio, &h->regs);
    for (unsigned i = 0; i < TIMERS; i++)
        devtimer_close(&h->timer[i].timer);
}

static bool hpet_restored(struct device *dev, struct err *err)
{
    struct hpet *h = hpet_of(dev);

    for (unsigned i = 0; i < TIMERS; i++)
        if (h->timer[i].config & ~(uint64_t)TIMER_WRITABLE)
            return err_set(err, EINVAL, "timer %u has bits that do not exist", i);
    pthread_mutex_lock(&dev->lock);
    irqchip_legacy_set(dev->board, h->config & CONFIG_LEGACY);
    hpet_rearm(h, hpet_ticks(h));
    pthread_mutex_unlock(&dev->lock);
    return true;
}

/* clang-format off */
static const struct field timer_state[] = {
    FIELD(struct hpet_timer, config, TIMER_WRITABLE),
    FIELD(struct hpet_timer, comparator, UINT64_MAX),
    FIELD(struct hpet_timer, period, UINT64_MAX),
    FIELD(struct hpet_timer, fsb, UINT64_MAX),
    {0},
};

static const struct field hpet_state[] = {
    FIELD(struct hpet, config, CONFIG_ENABLE | CONFIG_LEGACY),
    FIELD(struct hpet, status, 7),
    FIELD(struct hpet, counter, UINT64_MAX),
    FIELD_TABLES(struct hpet, timer, timer_state),
    {0},
};
/* clang-format on */

const struct device_type hpet_type = {
    .name = "hpet",
    .size = sizeof(struct hpet),
    .state = hpet_state,
    .state_version = 1,
    .attach = hpet_attach,
    .reset = hpet_reset,
    .restored = hpet_restored,
    .detach = hpet_detach,
};
