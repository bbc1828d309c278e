/* SPDX-License-Identifier: MIT */
/* The MC146818 clock and its 128 bytes of CMOS memory, ports 0x70 and 0x71.
 *
 * The time is the host's UTC plus an offset that changes when the guest sets the clock; the ten
 * time bytes are worked out when they are read. Update, alarm and periodic interrupts have timers
 * only while they are enabled; with them off, their flags are worked out when register C is read.
 */
#include "base/clock.h"
#include "dev/irqchip.h"
#include "dev/timer.h"
#include "dev/types.h"

#include <errno.h>
#include <time.h>

#define SECOND_NS 1000000000ULL
#define UIP_NS    244000  /* "update in progress" is seen this long before the second ends */
#define EARLY_NS  1000000 /* a timer that fires this early still means the coming second */
#define RTC_IRQ   8

enum {
    SECONDS,
    SECONDS_ALARM,
    MINUTES,
    MINUTES_ALARM,
    HOURS,
    HOURS_ALARM,
    WEEKDAY,
    DAY,
    MONTH,
    YEAR,
    REG_A,
    REG_B,
    REG_C,
    REG_D,
    SHUTDOWN = 0x0f,
    EQUIPMENT = 0x14,
    BASE_LOW = 0x15,
    EXTENDED_LOW = 0x17,
    EXTENDED2_LOW = 0x30,
    CENTURY = 0x32,
    ABOVE_16M_LOW = 0x34,
    ABOVE_4G_LOW = 0x5b,
    CPUS = 0x5f,

    A_RATE = 0x0f,
    A_UIP = 0x80,
    B_24H = 0x02,
    B_BINARY = 0x04,
    B_SQWE = 0x08,
    B_UPDATE = 0x10,
    B_ALARM = 0x20,
    B_PERIODIC = 0x40,
    B_SET = 0x80,
    C_UPDATE = 0x10,
    C_ALARM = 0x20,
    C_PERIODIC = 0x40,
    C_IRQ = 0x80,
    D_VALID = 0x80,
};

struct rtc {
    struct device dev;
    struct region ports;
    uint8_t cmos[128];
    uint8_t index;
    uint64_t offset_ns;   /* guest's time minus the host's, modulo 2^64 */
    uint64_t read_second; /* the guest's second when register C was last read */
    uint64_t period_ns;   /* board time of the last periodic tick that was reported */
    struct devtimer second, periodic;
};

static struct rtc *rtc_of(struct device *dev)
{
    return container_of(dev, struct rtc, dev);
}

static uint64_t rtc_time_ns(struct rtc *r)
{
    return r->dev.board->wall_now() + r->offset_ns;
}

/* ---- time bytes ---- */

static uint8_t encode(const struct rtc *r, int n)
{
    return (uint8_t)(r->cmos[REG_B] & B_BINARY ? n : n / 10 << 4 | n % 10);
}

static int decode(const struct rtc *r, uint8_t n)
{
    return r->cmos[REG_B] & B_BINARY ? n : (n >> 4) * 10 + (n & 15);
}

static uint8_t encode_hour(const struct rtc *r, int hour)
{
    uint8_t byte;

    if (r->cmos[REG_B] & B_24H)
        return encode(r, hour);
    byte = encode(r, hour % 12 ? hour % 12 : 12);
    return hour >= 12 ? byte | 0x80 : byte;
}

static int decode_hour(const struct rtc *r, uint8_t byte)
{
    if (r->cmos[REG_B] & B_24H)
        return decode(r, byte);
    return decode(r, byte & 0x7f) % 12 + (byte & 0x80 ? 12 : 0);
}

static void rtc_time_to_bytes(struct rtc *r, uint64_t second)
{
    time_t t = (time_t)second;
    struct tm tm;

    if (!gmtime_r(&t, &tm))
        return; /* years beyond int */
    r->cmos[SECONDS] = encode(r, tm.tm_sec);
    r->cmos[MINUTES] = encode(r, tm.tm_min);
    r->cmos[HOURS] = encode_hour(r, tm.tm_hour);
    r->cmos[WEEKDAY] = encode(r, tm.tm_wday + 1);
    r->cmos[DAY] = encode(r, tm.tm_mday);
    r->cmos[MONTH] = encode(r, tm.tm_mon + 1);
    r->cmos[YEAR] = encode(r, tm.tm_year % 100);
    r->cmos[CENTURY] = encode(r, (tm.tm_year / 100 + 19) % 100);
}

static void rtc_time_from_bytes(struct rtc *r)
{
    uint64_t phase = rtc_time_ns(r) % SECOND_NS;
    struct tm tm = {
        .tm_sec = decode(r, r->cmos[SECONDS]),
        .tm_min = decode(r, r->cmos[MINUTES]),
        .tm_hour = decode_hour(r, r->cmos[HOURS]),
        .tm_mday = decode(r, r->cmos[DAY]),
        .tm_mon = decode(r, r->cmos[MONTH]) - 1,
        .tm_year = decode(r, r->cmos[YEAR]) + (decode(r, r->cmos[CENTURY]) - 19) * 100,
    };

    r->offset_ns = (uint64_t)timegm(&tm) * SECOND_NS + phase - r->dev.board->wall_now();
}

static bool alarm_byte_matches(uint8_t alarm, uint8_t now)
{
    return alarm >= 0xc0 || alarm == now;
}

static bool rtc_alarm_matches(struct rtc *r, uint64_t second)
{
    rtc_time_to_bytes(r, second);
    return alarm_byte_matches(r->cmos[SECONDS_ALARM], r->cmos[SECONDS]) &&
           alarm_byte_matches(r->cmos[MINUTES_ALARM], r->cmos[MINUTES]) &&
           alarm_byte_matches(r->cmos[HOURS_ALARM], r->cmos[HOURS]);
}

/* ---- interrupts ---- */

static void rtc_update_irq(struct rtc *r)
{
    bool irq = r->cmos[REG_B] & r->cmos[REG_C] & (C_UPDATE | C_ALARM | C_PERIODIC);

    r->cmos[REG_C] = (uint8_t)(irq ? r->cmos[REG_C] | C_IRQ : r->cmos[REG_C] & ~C_IRQ);
    if (!irqchip_legacy_replaced(r->dev.board))
        board_irq(r->dev.board, RTC_IRQ, irq);
}

/* Nanoseconds between periodic ticks; 0: none. */
static uint64_t rtc_period(const struct rtc *r)
{
    unsigned rate = r->cmos[REG_A] & A_RATE;

    if (!rate)
        return 0;
    if (rate <= 2)
        rate += 7; /* 256 and 128 Hz */
    return SECOND_NS * BIT(rate - 1) / 32768;
}

static void rtc_rearm(struct rtc *r)
{
    uint64_t now = board_now(r->dev.board), period = rtc_period(r);
    uint8_t b = r->cmos[REG_B];

    if (!(b & B_SET) && (b & (B_UPDATE | B_ALARM)))
        devtimer_at(&r->second, now + SECOND_NS - rtc_time_ns(r) % SECOND_NS);
    else
        devtimer_cancel(&r->second);
    if (period && (b & B_PERIODIC))
        devtimer_at(&r->periodic, (now / period + 1) * period);
    else
        devtimer_cancel(&r->periodic);
}

static void rtc_second_passed(struct rtc *r, uint64_t second)
{
    r->cmos[REG_C] |= C_UPDATE;
    if (rtc_alarm_matches(r, second))
        r->cmos[REG_C] |= C_ALARM;
    r->read_second = second;
}

static void rtc_second_fire(struct devtimer *t)
{
    struct rtc *r = container_of(t, struct rtc, second);
    uint64_t second = (rtc_time_ns(r) + EARLY_NS) / SECOND_NS;

    if (second != r->read_second)
        rtc_second_passed(r, second);
    rtc_update_irq(r);
    rtc_rearm(r); /* if this was early: once more at the true second, for nothing */
}

static void rtc_periodic_fire(struct devtimer *t)
{
    struct rtc *r = container_of(t, struct rtc, periodic);

    r->cmos[REG_C] |= C_PERIODIC;
    r->period_ns = board_now(r->dev.board);
    rtc_update_irq(r);
    rtc_rearm(r);
}

/* Flags of events whose interrupt is off, and so had no timer. */
static void rtc_catch_up(struct rtc *r)
{
    uint64_t second = rtc_time_ns(r) / SECOND_NS, now = board_now(r->dev.board);
    uint64_t period = rtc_period(r);

    if (!(r->cmos[REG_B] & B_SET) && second != r->read_second &&
        second + 1 != r->read_second) /* the timer may have been early */
        rtc_second_passed(r, second);
    if (period && now / period != r->period_ns / period)
        r->cmos[REG_C] |= C_PERIODIC;
    r->period_ns = now;
}

/* ---- registers ---- */

static bool is_time_byte(uint8_t index)
{
    return index <= YEAR ? !(index & 1) || index >= DAY : index == CENTURY;
}

static uint8_t rtc_read_c(struct rtc *r)
{
    uint8_t c;

    rtc_catch_up(r);
    rtc_update_irq(r);
    c = r->cmos[REG_C];
    r->cmos[REG_C] = 0;
    rtc_update_irq(r);
    return c;
}

static uint64_t rtc_read(void *dev, uint64_t offset, unsigned size)
{
    struct rtc *r = dev;
    uint64_t now;

    if (offset == 0)
        return 0xff; /* the index is write-only */
    if (r->index == REG_C)
        return rtc_read_c(r);
    now = rtc_time_ns(r);
    if (!(r->cmos[REG_B] & B_SET)) {
        if (is_time_byte(r->index))
            rtc_time_to_bytes(r, now / SECOND_NS);
        if (r->index == REG_A && now % SECOND_NS >= SECOND_NS - UIP_NS)
            return r->cmos[REG_A] | A_UIP;
    }
    return r->cmos[r->index];
}

static void rtc_write_b(struct rtc *r, uint8_t value)
{
    uint8_t before = r->cmos[REG_B];

    if (value & B_SET)
        value &= (uint8_t)~B_UPDATE; /* data sheet: SET clears UIE */
    if (!(before & B_SET))           /* to stop at, or to re-encode in a new format */
        rtc_time_to_bytes(r, rtc_time_ns(r) / SECOND_NS);
    r->cmos[REG_B] = value;
    if ((before & B_SET) && !(value & B_SET))
        rtc_time_from_bytes(r);
    rtc_update_irq(r);
    rtc_rearm(r);
}

static void rtc_write_time(struct rtc *r, uint8_t value)
{
    bool set = r->cmos[REG_B] & B_SET;

    if (!set)
        rtc_time_to_bytes(r, rtc_time_ns(r) / SECOND_NS);
    r->cmos[r->index] = value;
    if (!set) {
        rtc_time_from_bytes(r);
        rtc_rearm(r);
    }
}

static void rtc_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct rtc *r = dev;

    if (offset == 0) {
        r->index = value & 0x7f; /* bit 7 masks NMIs, of which this board has none */
        return;
    }
    switch (r->index) {
    case REG_A:
        r->cmos[REG_A] = value & 0x7f;
        rtc_rearm(r);
        break;
    case REG_B: rtc_write_b(r, (uint8_t)value); break;
    case REG_C:
    case REG_D: break;
    default:
        if (is_time_byte(r->index))
            rtc_write_time(r, (uint8_t)value);
        else
            r->cmos[r->index] = (uint8_t)value;
    }
}

static const struct region_ops rtc_ops = {rtc_read, rtc_write, 1, 1};

/* ---- memory sizes ---- */

static void rtc_memory_size(struct rtc *r, const struct board *b)
{
    uint64_t below_4g = 0, above_4g = 0, extended;

    for (unsigned i = 0; b->mem && i < b->mem->count; i++) {
        const struct mem_region *m = &b->mem->region[i];

        if (m->readonly)
            continue;
        if (m->base >= 4 * GiB)
            above_4g += m->size;
        else if (m->base + m->size <= 3584 * MiB) /* RAM, not something in the device window */
            below_4g = max_u64(below_4g, m->base + m->size);
    }
    put_le16(&r->cmos[BASE_LOW], 640);
    extended = below_4g > MiB ? min_u64((below_4g - MiB) / KiB, 0xfc00) : 0;
    put_le16(&r->cmos[EXTENDED_LOW], (uint16_t)extended);
    put_le16(&r->cmos[EXTENDED2_LOW], (uint16_t)extended);
    if (below_4g > 16 * MiB)
        put_le16(&r->cmos[ABOVE_16M_LOW], (uint16_t)((below_4g - 16 * MiB) / (64 * KiB)));
    above_4g = min_u64(above_4g / (64 * KiB), 0xffffff);
    memcpy(&r->cmos[ABOVE_4G_LOW], &above_4g, 3);
    r->cmos[CPUS] = (uint8_t)(b->cpu_count - 1);
    r->cmos[EQUIPMENT] = 0x06; /* FPU, PS/2 mouse */
}

/* ---- the device ---- */

static void rtc_reset(struct device *dev)
{
    struct rtc *r = rtc_of(dev);

    /* Battery-backed: time, bytes and format survive; interrupts do not. */
    pthread_mutex_lock(&dev->lock);
    r->cmos[REG_B] &= (uint8_t) ~(B_UPDATE | B_ALARM | B_PERIODIC | B_SQWE);
    r->cmos[REG_C] = 0;
    rtc_update_irq(r);
    rtc_rearm(r);
    pthread_mutex_unlock(&dev->lock);
}

static bool rtc_attach(struct device *dev, struct board *board, struct err *err)
{
    struct rtc *r = rtc_of(dev);

    if (!devtimer_open(&r->second, dev, rtc_second_fire, err) ||
        !devtimer_open(&r->periodic, dev, rtc_periodic_fire, err))
        return false;
    r->cmos[REG_A] = 0x26; /* 32768 Hz time base, 1024 Hz periodic rate */
    r->cmos[REG_B] = B_24H;
    r->cmos[REG_D] = D_VALID;
    r->read_second = rtc_time_ns(r) / SECOND_NS;
    rtc_time_to_bytes(r, r->read_second);
    rtc_memory_size(r, board);
    r->ports = (struct region){"rtc", 0x70, 2, &rtc_ops, r, &dev->lock};
    board_defer(board, true, 0x70, 1); /* the index register */
    return bus_add(board->pio, &r->ports, err);
}

static void rtc_detach(struct device *dev)
{
    struct rtc *r = rtc_of(dev);

    bus_remove(dev->board->pio, &r->ports);
    devtimer_close(&r->second);
    devtimer_close(&r->periodic);
}

static bool rtc_restored(struct device *dev, struct err *err)
{
    struct rtc *r = rtc_of(dev);

    pthread_mutex_lock(&dev->lock);
    rtc_update_irq(r);
    rtc_rearm(r);
    pthread_mutex_unlock(&dev->lock);
    return true;
}

/* clang-format off */
static const struct field rtc_state[] = {
    FIELD_BYTES(struct rtc, cmos),
    FIELD(struct rtc, index, 0x7f),
    FIELD(struct rtc, offset_ns, UINT64_MAX),
    FIELD(struct rtc, read_second, UINT64_MAX),
    FIELD(struct rtc, period_ns, UINT64_MAX),
    {0},
};
/* clang-format on */

const struct device_type rtc_type = {
    .name = "rtc",
    .size = sizeof(struct rtc),
    .state = rtc_state,
    .state_version = 1,
    .attach = rtc_attach,
    .reset = rtc_reset,
    .restored = rtc_restored,
    .detach = rtc_detach,
};
