/* SPDX-License-Identifier: MIT */
/* The 8254 interval timer and port 0x61. Intel 8254 data sheet.
 *
 * A channel keeps the board time at which it was loaded; count and output are computed from the
 * clock at each read, so calibration loops see a counter as exact as the host's clock. Channel 0
 * drives IRQ 0 through one timer that stands at the next rise of its output; the short low phase
 * before the rise is given as a pulse at that moment. Channel 2 is gated and read through port
 * 0x61. */
#include "base/clock.h"
#include "dev/irqchip.h"
#include "dev/timer.h"
#include "dev/types.h"

#include <errno.h>

#define PIT_HZ    1193182
#define SECOND_NS 1000000000ULL
#define PERIOD_MIN_NS                                                                              \
    20000 /* a guest cannot ask the host for more than 50000 interrupts a second */

enum { RW_LATCH, RW_LOW, RW_HIGH, RW_BOTH };

struct pit_channel {
    uint64_t start_ns; /* board time of tick 0 */
    uint64_t held;     /* ticks done when the gate went low */
    uint32_t count;    /* 1 to 65536, binary */
    uint8_t mode, rw;
    bool bcd, gate, armed, running; /* armed: loaded (and triggered) since the control word */
    bool write_high, read_high;     /* RW_BOTH: the second byte is next */
    uint8_t write_low;
    uint8_t latched; /* bytes of `latch` still to be read */
    uint16_t latch;
    bool status_latched;
    uint8_t status;
};

struct pit {
    struct device dev;
    struct region ports, port61;
    struct pit_channel channel[3];
    uint8_t speaker; /* bits 1-3 of port 0x61 */
    struct devtimer timer;
};

static struct pit *pit_of(struct device *dev)
{
    return container_of(dev, struct pit, dev);
}

static uint64_t pit_now(struct pit *p)
{
    return board_now(p->dev.board);
}

static uint64_t ticks_to_ns(uint64_t ticks)
{
    return mul_div(ticks, SECOND_NS, PIT_HZ) + 1; /* not before the tick */
}

static uint64_t channel_ticks(const struct pit_channel *c, uint64_t now)
{
    if (!c->running)
        return c->held;
    return now > c->start_ns ? mul_div(now - c->start_ns, PIT_HZ, SECOND_NS) : 0;
}

static bool channel_out(const struct pit_channel *c, uint64_t ticks)
{
    if (!c->armed)
        return c->mode != 0;
    switch (c->mode) {
    case 0: return ticks >= c->count;
    case 1: return ticks >= c->count;
    case 2: return ticks % c->count != c->count - 1 || c->count == 1;
    case 3: return ticks % c->count < (c->count + 1) / 2;
    }
    return ticks != c->count; /* 4 and 5: a strobe of one tick */
}

/* The tick at which the output next rises; UINT64_MAX: it will not. */
static uint64_t channel_rise(const struct pit_channel *c, uint64_t ticks)
{
    if (!c->armed || !c->running)
        return UINT64_MAX;
    switch (c->mode) {
    case 0:
    case 1: return ticks < c->count ? c->count : UINT64_MAX;
    case 2:
    case 3: return (ticks / c->count + 1) * c->count;
    }
    return ticks <= c->count ? c->count + 1 : UINT64_MAX;
}

static uint16_t to_bcd(uint32_t n)
{
    return (uint16_t)(n % 10 | n / 10 % 10 << 4 | n / 100 % 10 << 8 | n / 1000 % 10 << 12);
}

static uint32_t from_bcd(uint16_t n)
{
    return (n & 15) + (n >> 4 & 15) * 10u + (n >> 8 & 15) * 100u + (n >> 12) * 1000u;
}

static uint16_t channel_value(const struct pit_channel *c, uint64_t ticks)
{
    uint32_t range = c->bcd ? 10000 : 65536, value;

    if (!c->armed)
        ticks = 0;
    switch (c->mode) {
    case 2: value = c->count - (uint32_t)(ticks % c->count); break;
    case 3: value = c->count - (uint32_t)(ticks * 2 % c->count); break;
    default: value = (uint32_t)((c->count + range - ticks % range) % range); break;
    }
    return c->bcd ? to_bcd(value % range) : (uint16_t)value;
}

/* ---- channel 0's interrupt ---- */

static void pit_irq(struct pit *p, bool level)
{
    if (!irqchip_legacy_replaced(p->dev.board))
        board_irq(p->dev.board, 0, level);
}

/* `now` is the moment of what happened: a count that started then and is over already still
 * interrupts. */
static void pit_rearm(struct pit *p, uint64_t now)
{
    struct pit_channel *c = &p->channel[0];
    uint64_t rise = channel_rise(c, channel_ticks(c, now));

    if (rise == UINT64_MAX)
        devtimer_cancel(&p->timer);
    else
        devtimer_at(&p->timer, max_u64(c->start_ns + ticks_to_ns(rise), now + PERIOD_MIN_NS));
}

static void pit_fire(struct devtimer *t)
{
    struct pit *p = container_of(t, struct pit, timer);

    pit_irq(p, false);
    pit_irq(p, true);
    pit_rearm(p, pit_now(p));
}

/* ---- programming ---- */

static void channel_start(struct pit_channel *c, uint64_t now)
{
    c->start_ns = now;
    c->held = 0;
    c->running = c->gate || c->mode == 1 || c->mode == 5;
    c->armed = true;
}

static void channel_load(struct pit *p, struct pit_channel *c, uint16_t value)
{
    uint32_t count = c->bcd ? from_bcd(value) : value;
    uint64_t now = pit_now(p);

    c->count = count ? count : c->bcd ? 10000 : 65536;
    if (c->mode != 1 && c->mode != 5) /* those wait for the gate */
        channel_start(c, now);
    if (c != &p->channel[0])
        return;
    if (c->mode == 0)
        pit_irq(p, false);
    pit_rearm(p, now);
}

static void channel_gate(struct pit *p, struct pit_channel *c, bool gate)
{
    uint64_t now = pit_now(p);

    if (gate == c->gate)
        return;
    c->gate = gate;
    if (c->mode == 1 || c->mode == 5) {
        if (gate)
            channel_start(c, now);
    } else if (!gate) {
        c->held = channel_ticks(c, now);
        c->running = false;
    } else if (c->armed) {
        bool reload = c->mode == 2 || c->mode == 3;

        c->start_ns = reload ? now : now - min_u64(now, ticks_to_ns(c->held));
        c->running = true;
    }
}

static void channel_latch(struct pit *p, struct pit_channel *c)
{
    if (c->latched)
        return; /* until it is read */
    c->latch = channel_value(c, channel_ticks(c, pit_now(p)));
    c->latched = c->rw == RW_BOTH ? 2 : 1;
}

static void channel_latch_status(struct pit *p, struct pit_channel *c)
{
    bool out = channel_out(c, channel_ticks(c, pit_now(p)));

    if (c->status_latched)
        return;
    c->status = (uint8_t)(out << 7 | !c->armed << 6 | c->rw << 4 | c->mode << 1 | c->bcd);
    c->status_latched = true;
}

static void pit_control(struct pit *p, uint8_t value)
{
    unsigned n = value >> 6;
    struct pit_channel *c = &p->channel[n % 3];

    if (n == 3) { /* read-back: counts and status of any channels */
        for (n = 0; n < 3; n++) {
            if (!(value & (2 << n)))
                continue;
            if (!(value & 0x20))
                channel_latch(p, &p->channel[n]);
            if (!(value & 0x10))
                channel_latch_status(p, &p->channel[n]);
        }
        return;
    }
    if (!(value & 0x30)) {
        channel_latch(p, c);
        return;
    }
    c->rw = value >> 4 & 3;
    c->mode = value >> 1 & 7;
    if (c->mode > 5)
        c->mode -= 4;
    c->bcd = value & 1;
    c->armed = c->running = c->write_high = c->read_high = c->status_latched = false;
    c->latched = 0;
    c->held = 0;
    if (n == 0) {
        devtimer_cancel(&p->timer);
        if (c->mode == 0) /* else it goes or stays high; a rise here would be a tick too many */
            pit_irq(p, false);
    }
}

static void channel_write(struct pit *p, struct pit_channel *c, uint8_t value)
{
    switch (c->rw) {
    case RW_LOW: channel_load(p, c, value); break;
    case RW_HIGH: channel_load(p, c, (uint16_t)(value << 8)); break;
    case RW_BOTH:
        if (c->write_high)
            channel_load(p, c, (uint16_t)(value << 8 | c->write_low));
        else
            c->write_low = value;
        c->write_high = !c->write_high;
        break;
    }
}

static uint8_t channel_read(struct pit *p, struct pit_channel *c)
{
    uint16_t value = c->latch;
    bool high = c->rw == RW_HIGH;

    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    if (c->latched)
        c->latched--;
    else
        value = channel_value(c, channel_ticks(c, pit_now(p)));
    if (c->rw == RW_BOTH) {
        high = c->read_high;
        c->read_high = !c->read_high;
    }
    return (uint8_t)(high ? value >> 8 : value);
}

static uint64_t pit_read(void *dev, uint64_t offset, unsigned size)
{
    struct pit *p = dev;

    return offset < 3 ? channel_read(p, &p->channel[offset]) : 0xff;
}

static void pit_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct pit *p = dev;

    if (offset < 3)
        channel_write(p, &p->channel[offset], (uint8_t)value);
    else
        pit_control(p, (uint8_t)value);
}

/* Port 0x61: gate and speaker bits; bit 4 toggles with the refresh clock, bit 5 is channel 2's
 * output. */
static uint64_t port61_read(void *dev, uint64_t offset, unsigned size)
{
    struct pit *p = dev;
    struct pit_channel *c = &p->channel[2];
    uint64_t now = pit_now(p);
    bool refresh = now / 15085 & 1;

    return (unsigned)c->gate | p->speaker | (unsigned)refresh << 4 |
           (unsigned)channel_out(c, channel_ticks(c, now)) << 5;
}

static void port61_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct pit *p = dev;

    p->speaker = value & 0x0e;
    channel_gate(p, &p->channel[2], value & 1);
}

static const struct region_ops pit_ops = {pit_read, pit_write, 1, 1};
static const struct region_ops port61_ops = {port61_read, port61_write, 1, 1};

/* ---- the device ---- */

static void pit_reset(struct device *dev)
{
    struct pit *p = pit_of(dev);

    pthread_mutex_lock(&dev->lock);
    devtimer_cancel(&p->timer);
    for (unsigned n = 0; n < 3; n++)
        p->channel[n] =
            (struct pit_channel){.count = 65536, .mode = 3, .rw = RW_BOTH, .gate = n < 2};
    p->speaker = 0;
    pit_irq(p, false);
    pthread_mutex_unlock(&dev->lock);
}

static bool pit_attach(struct device *dev, struct board *board, struct err *err)
{
    struct pit *p = pit_of(dev);

    if (!devtimer_open(&p->timer, dev, pit_fire, err))
        return false;
    p->ports = (struct region){"pit", 0x40, 4, &pit_ops, p, &dev->lock};
    p->port61 = (struct region){"port61", 0x61, 1, &port61_ops, p, &dev->lock};
    pit_reset(dev);
    return bus_add(board->pio, &p->ports, err) && bus_add(board->pio, &p->port61, err);
}

static void pit_detach(struct device *dev)
{
    struct pit *p = pit_of(dev);

    bus_remove(dev->board->pio, &p->ports);
    bus_remove(dev->board->pio, &p->port61);
    devtimer_close(&p->timer);
}

static bool pit_restored(struct device *dev, struct err *err)
{
    struct pit *p = pit_of(dev);

    for (unsigned n = 0; n < 3; n++)
        if (!p->channel[n].count)
            return err_set(err, EINVAL, "channel %u counts from 0", n);
    pthread_mutex_lock(&dev->lock);
    pit_rearm(p, pit_now(p));
    pthread_mutex_unlock(&dev->lock);
    return true;
}

/* clang-format off */
static const struct field channel_state[] = {
    FIELD(struct pit_channel, start_ns, UINT64_MAX),
    FIELD(struct pit_channel, held, UINT64_MAX),
    FIELD(struct pit_channel, count, 65536),
    FIELD(struct pit_channel, mode, 5),
    FIELD(struct pit_channel, rw, RW_BOTH),
    FIELD(struct pit_channel, bcd, 1),
    FIELD(struct pit_channel, gate, 1),
    FIELD(struct pit_channel, armed, 1),
    FIELD(struct pit_channel, running, 1),
    FIELD(struct pit_channel, write_high, 1),
    FIELD(struct pit_channel, read_high, 1),
    FIELD(struct pit_channel, write_low, 0xff),
    FIELD(struct pit_channel, latched, 2),
    FIELD(struct pit_channel, latch, 0xffff),
    FIELD(struct pit_channel, status_latched, 1),
    FIELD(struct pit_channel, status, 0xff),
    {0},
};

static const struct field pit_state[] = {
    FIELD_TABLES(struct pit, channel, channel_state),
    FIELD(struct pit, speaker, 0x0e),
    {0},
};
/* clang-format on */

const struct device_type pit_type = {
    .name = "pit",
    .size = sizeof(struct pit),
    .state = pit_state,
    .state_version = 1,
    .attach = pit_attach,
    .reset = pit_reset,
    .restored = pit_restored,
    .detach = pit_detach,
};
