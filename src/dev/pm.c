/* SPDX-License-Identifier: MIT */
/* ACPI power management I/O block of ICH9: PM1 event and control, PM timer, GPE0. ACPI 6.4, 4.8;
 * ICH9 data sheet, 13.8.3.
 *
 * Offsets: 0 PM1_STS, 2 PM1_EN, 4 PM1_CNT, 8 PM_TMR, 0x20 GPE0_STS (8 bytes), 0x28 GPE0_EN, 0x30
 * SMI_EN, 0x34 SMI_STS. The rest of the 128 bytes reads 0. The SCI is IRQ 9, level. */
#include "base/clock.h"
#include "dev/pm.h"
#include "dev/timer.h"
#include "dev/types.h"

#include <errno.h>

#define PM_HZ     3579545
#define SECOND_NS 1000000000ULL
#define SCI_IRQ   9

enum {
    STS_TIMER = 1 << 0,
    STS_POWER_BUTTON = 1 << 8,
    STS_ALL = 0xcf31, /* every status bit of ICH9 */
    EN_ALL = 0x4721,
    CNT_SCI = 1 << 0,
    CNT_SLEEP = 1 << 13, /* write-only */
    CNT_WRITABLE = 0x1c07,
};

enum {
    SLEEP_FIRMWARE_OFF = 0,
    SLEEP_S3 = 5,
    SLEEP_S5 = 7
}; /* 0: what firmware uses to power off */

struct pm {
    struct device dev;
    struct region ports;
    bool mapped;
    uint16_t sts, en, cnt;
    uint64_t gpe_sts, gpe_en;
    uint32_t smi_en, smi_sts;
    uint64_t seen; /* PM timer ticks when STS_TIMER was last worked out */
    struct devtimer timer;
};

static struct pm *pm_of(struct device *dev)
{
    return container_of(dev, struct pm, dev);
}

static uint64_t pm_ticks(struct pm *p)
{
    return mul_div(board_now(p->dev.board), PM_HZ, SECOND_NS);
}

static void pm_sci(struct pm *p)
{
    bool level = (p->cnt & CNT_SCI) && ((p->sts & p->en) || (p->gpe_sts & p->gpe_en));

    board_irq(p->dev.board, SCI_IRQ, level);
}

/* STS_TIMER: the counter's top bit (31) has changed. */
static void pm_timer_update(struct pm *p)
{
    uint64_t now = pm_ticks(p);

    if ((now ^ p->seen) >> 31)
        p->sts |= STS_TIMER;
    p->seen = now;
}

static void pm_rearm(struct pm *p)
{
    uint64_t next = ((pm_ticks(p) >> 31) + 1) << 31;

    if (p->en & STS_TIMER)
        devtimer_at(&p->timer, mul_div(next, SECOND_NS, PM_HZ) + 1);
    else
        devtimer_cancel(&p->timer);
}

static void pm_timer_fire(struct devtimer *t)
{
    struct pm *p = container_of(t, struct pm, timer);

    pm_timer_update(p);
    pm_rearm(p);
    pm_sci(p);
}

static void pm_sleep(struct pm *p, uint16_t value)
{
    switch (value >> 10 & 7) {
    case SLEEP_FIRMWARE_OFF:
    case SLEEP_S5: board_power(p->dev.board, POWER_OFF, 0); break;
    case SLEEP_S3: board_power(p->dev.board, POWER_SUSPEND, 0); break;
    default: log_guest(&p->dev.limit, "pm: sleep type %u is not known", value >> 10 & 7);
    }
}

/* ---- registers: a 16-bit map, so that any access width finds its bytes ---- */

static uint16_t pm_reg(struct pm *p, unsigned reg)
{
    switch (reg) {
    case 0x00: pm_timer_update(p); return p->sts;
    case 0x02: return p->en;
    case 0x04: return p->cnt;
    case 0x08: return (uint16_t)pm_ticks(p);
    case 0x0a: return (uint16_t)(pm_ticks(p) >> 16);
    case 0x30: return (uint16_t)p->smi_en;
    case 0x32: return (uint16_t)(p->smi_en >> 16);
    case 0x34: return (uint16_t)p->smi_sts;
    }
    if (reg >= 0x20 && reg < 0x28)
        return (uint16_t)(p->gpe_sts >> (reg - 0x20) * 8);
    if (reg >= 0x28 && reg < 0x30)
        return (uint16_t)(p->gpe_en >> (reg - 0x28) * 8);
    return 0;
}

static uint64_t pm_read(void *dev, uint64_t offset, unsigned size)
{
    struct pm *p = dev;

    if (offset == 8 && size == 4)
        return (uint32_t)pm_ticks(p); /* one reading, not two halves */
    if (size == 1)
        return pm_reg(p, offset & ~1u) >> (offset & 1) * 8;
    if (size == 2)
        return pm_reg(p, (unsigned)offset);
    return pm_reg(p, (unsigned)offset) | (uint32_t)pm_reg(p, (unsigned)offset + 2) << 16;
}

static void pm_reg_write(struct pm *p, unsigned reg, uint16_t value)
{
    unsigned shift = (reg & 7) * 8;

    switch (reg) {
    case 0x00:
        pm_timer_update(p);
        p->sts &= (uint16_t)~value;
        break;
    case 0x02:
        p->en = value & EN_ALL;
        pm_rearm(p);
        break;
    case 0x04:
        p->cnt = value & CNT_WRITABLE;
        if (value & CNT_SLEEP)
            pm_sleep(p, value);
        break;
    case 0x30: p->smi_en = (p->smi_en & 0xffff0000) | value; break;
    case 0x32: p->smi_en = (p->smi_en & 0xffff) | (uint32_t)value << 16; break;
    default:
        if (reg >= 0x20 && reg < 0x28)
            p->gpe_sts &= ~((uint64_t)value << shift);
        else if (reg >= 0x28 && reg < 0x30)
            p->gpe_en = (p->gpe_en & ~(0xffffULL << shift)) | (uint64_t)value << shift;
    }
    pm_sci(p);
}

/* Bytes a narrow write leaves alone: as they are, but 0 where a 1 would clear. */
static uint16_t pm_keep(struct pm *p, unsigned reg)
{
    return reg == 0 || (reg >= 0x20 && reg < 0x28) ? 0 : pm_reg(p, reg);
}

static void pm_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct pm *p = dev;
    unsigned reg = (unsigned)offset & ~1u;

    if (size == 1 && (offset & 1))
        value = (pm_keep(p, reg) & 0x00ff) | value << 8;
    else if (size == 1)
        value = (pm_keep(p, reg) & 0xff00) | value;
    pm_reg_write(p, reg, (uint16_t)value);
    if (size == 4)
        pm_reg_write(p, reg + 2, (uint16_t)(value >> 16));
}

static const struct region_ops pm_ops = {pm_read, pm_write, 1, 4};

/* ---- what others do with it ---- */

void pm_map(struct device *dev, uint16_t base, bool on)
{
    struct pm *p = pm_of(dev);
    struct err err;

    pthread_mutex_lock(&dev->lock);
    if (p->mapped)
        bus_remove(dev->board->pio, &p->ports);
    p->ports.base = base;
    p->mapped = on && base && bus_add(dev->board->pio, &p->ports, &err);
    pthread_mutex_unlock(&dev->lock);
}

void pm_acpi_mode(struct device *dev, bool on)
{
    struct pm *p = pm_of(dev);

    pthread_mutex_lock(&dev->lock);
    p->cnt = on ? p->cnt | CNT_SCI : p->cnt & (uint16_t)~CNT_SCI;
    pm_sci(p);
    pthread_mutex_unlock(&dev->lock);
}

bool pm_power_button(struct board *board)
{
    struct device *dev = board_device(board, "pm");
    struct pm *p;
    bool heard;

    if (!dev)
        return false;
    p = pm_of(dev);
    pthread_mutex_lock(&dev->lock);
    p->sts |= STS_POWER_BUTTON;
    heard = (p->cnt & CNT_SCI) && (p->en & STS_POWER_BUTTON);
    pm_sci(p);
    pthread_mutex_unlock(&dev->lock);
    return heard;
}

void pm_gpe(struct board *board, unsigned n)
{
    struct device *dev = board_device(board, "pm");

    if (!dev || n > 63)
        return;
    pthread_mutex_lock(&dev->lock);
    pm_of(dev)->gpe_sts |= BIT(n);
    pm_sci(pm_of(dev));
    pthread_mutex_unlock(&dev->lock);
}

/* ---- the device ---- */

static void pm_reset(struct device *dev)
{
    struct pm *p = pm_of(dev);

    pthread_mutex_lock(&dev->lock);
    p->sts = p->en = p->cnt = 0;
    p->gpe_sts = p->gpe_en = 0;
    p->smi_en = p->smi_sts = 0;
    p->seen = pm_ticks(p);
    pm_rearm(p);
    pm_sci(p);
    pthread_mutex_unlock(&dev->lock);
}

static bool pm_attach(struct device *dev, struct board *board, struct err *err)
{
    struct pm *p = pm_of(dev);

    if (!devtimer_open(&p->timer, dev, pm_timer_fire, err))
        return false;
    p->ports = (struct region){"pm", PM_BASE, 128, &pm_ops, p, &dev->lock};
    pm_reset(dev);
    return true; /* the LPC bridge maps it */
}

static void pm_detach(struct device *dev)
{
    struct pm *p = pm_of(dev);

    bus_remove(dev->board->pio, &p->ports);
    devtimer_close(&p->timer);
}

static bool pm_restored(struct device *dev, struct err *err)
{
    struct pm *p = pm_of(dev);

    pthread_mutex_lock(&dev->lock);
    pm_rearm(p);
    pm_sci(p);
    pthread_mutex_unlock(&dev->lock);
    return true;
}

/* clang-format off */
static const struct field pm_state[] = {
    FIELD(struct pm, sts, STS_ALL),
    FIELD(struct pm, en, EN_ALL),
    FIELD(struct pm, cnt, CNT_WRITABLE),
    FIELD(struct pm, gpe_sts, UINT64_MAX),
    FIELD(struct pm, gpe_en, UINT64_MAX),
    FIELD(struct pm, smi_en, UINT32_MAX),
    FIELD(struct pm, smi_sts, UINT32_MAX),
    FIELD(struct pm, seen, UINT64_MAX),
    {0},
};
/* clang-format on */

const struct device_type pm_type = {
    .name = "pm",
    .size = sizeof(struct pm),
    .state = pm_state,
    .state_version = 1,
    .attach = pm_attach,
    .reset = pm_reset,
    .restored = pm_restored,
    .detach = pm_detach,
};
