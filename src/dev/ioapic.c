/* SPDX-License-Identifier: MIT */
/* The I/O APIC: 24 pins, each with a redirection entry that turns it into a message to the LAPICs.
 * Intel 82093AA, with the EOI register of version 0x20.
 *
 * Pins carry "asserted", so the polarity bit is only stored. Edge pins send on the rise and forget
 * a rise while masked. Level pins send while asserted, then wait with "remote IRR" for the EOI. */
#include "boot/layout.h"
#include "dev/irqchip.h"

#include <errno.h>

#define VERSION (0x20 | (GSI_COUNT - 1) << 16)

enum { /* redirection entry */
       RED_VECTOR = 0xff,
       RED_LOGICAL = 1 << 11,
       RED_REMOTE_IRR = 1 << 14,
       RED_LEVEL = 1 << 15,
       RED_MASKED = 1 << 16,
       RED_WRITABLE = 0x1afff, /* low dword but delivery status and remote IRR */
};

struct ioapic {
    struct device dev;
    struct region regs;
    uint32_t level; /* a bit per pin */
    uint8_t select, id;
    uint64_t entry[GSI_COUNT];
};

static struct ioapic *ioapic_of(struct device *dev)
{
    return container_of(dev, struct ioapic, dev);
}

/* As a bridge turns an entry into a memory write: SDM 3, 11.11. */
static struct msi ioapic_message(const struct ioapic *a, unsigned pin)
{
    uint64_t e = a->entry[pin];

    return (struct msi){
        .address = 0xfee00000 | (e >> 56) << 12 | (e & RED_LOGICAL ? 4 : 0),
        .data = (uint32_t)(e & 0x7ff) | (e & RED_LEVEL ? 0xc000 : 0),
    };
}

static void ioapic_send(struct ioapic *a, unsigned pin)
{
    struct msi msi = ioapic_message(a, pin);

    board_msi(a->dev.board, &msi);
}

/* Masked pins count too: an interrupt that was sent before may still want its EOI. */
static void ioapic_report(struct ioapic *a, unsigned pin)
{
    struct board *b = a->dev.board;
    struct msi msi = ioapic_message(a, pin);

    if (b->ops->route)
        b->ops->route(b, pin, a->entry[pin] & RED_LEVEL ? &msi : NULL);
}

static void ioapic_service_level(struct ioapic *a, unsigned pin)
{
    uint64_t *e = &a->entry[pin];

    if (!(*e & RED_LEVEL) || (*e & (RED_MASKED | RED_REMOTE_IRR)) || !(a->level & BIT(pin)))
        return;
    *e |= RED_REMOTE_IRR;
    ioapic_send(a, pin);
}

void ioapic_set(struct device *dev, unsigned pin, bool level)
{
    struct ioapic *a = ioapic_of(dev);
    bool before;

    pthread_mutex_lock(&dev->lock);
    before = a->level & BIT(pin);
    if (level)
        a->level |= (uint32_t)BIT(pin);
    else
        a->level &= ~(uint32_t)BIT(pin);
    if (level && (a->entry[pin] & RED_LEVEL))
        ioapic_service_level(a, pin);
    else if (level && !before && !(a->entry[pin] & RED_MASKED))
        ioapic_send(a, pin);
    pthread_mutex_unlock(&dev->lock);
}

static void ioapic_eoi_locked(struct ioapic *a, uint8_t vector)
{
    for (unsigned pin = 0; pin < GSI_COUNT; pin++) {
        uint64_t *e = &a->entry[pin];

        if ((*e & RED_VECTOR) != vector || !(*e & RED_REMOTE_IRR))
            continue;
        *e &= ~(uint64_t)RED_REMOTE_IRR;
        ioapic_service_level(a, pin);
    }
}

void ioapic_eoi(struct device *dev, uint8_t vector)
{
    pthread_mutex_lock(&dev->lock);
    ioapic_eoi_locked(ioapic_of(dev), vector);
    pthread_mutex_unlock(&dev->lock);
}

static void entry_write(struct ioapic *a, unsigned pin, bool high, uint32_t value)
{
    uint64_t *e = &a->entry[pin];

    if (high) {
        *e = (*e & UINT32_MAX) | (uint64_t)(value & 0xff000000) << 32;
        ioapic_report(a, pin);
        return;
    }
    *e = (*e & ~(uint64_t)RED_WRITABLE) | (value & RED_WRITABLE);
    if (!(*e & RED_LEVEL))
        *e &= ~(uint64_t)RED_REMOTE_IRR; /* kernels clear a stuck pin by a turn through edge mode */
    ioapic_report(a, pin);
    ioapic_service_level(a, pin);
}

static uint32_t window_read(struct ioapic *a)
{
    switch (a->select) {
    case 0:
    case 2: return (uint32_t)a->id << 24;
    case 1: return VERSION;
    }
    if (a->select >= 0x10 && a->select < 0x10 + 2 * GSI_COUNT)
        return (uint32_t)(a->entry[(a->select - 0x10) / 2] >> (a->select & 1 ? 32 : 0));
    return 0;
}

static void window_write(struct ioapic *a, uint32_t value)
{
    if (a->select == 0)
        a->id = value >> 24 & 15;
    else if (a->select >= 0x10 && a->select < 0x10 + 2 * GSI_COUNT)
        entry_write(a, (a->select - 0x10) / 2, a->select & 1, value);
}

static uint64_t ioapic_read(void *dev, uint64_t offset, unsigned size)
{
    struct ioapic *a = dev;

    switch (offset) {
    case 0x00: return a->select;
    case 0x10: return window_read(a);
    }
    return 0;
}

static void ioapic_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct ioapic *a = dev;

    switch (offset) {
    case 0x00: a->select = (uint8_t)value; break;
    case 0x10: window_write(a, (uint32_t)value); break;
    case 0x40: ioapic_eoi_locked(a, (uint8_t)value); break;
    }
}

static const struct region_ops ioapic_ops = {ioapic_read, ioapic_write, 4, 4};

static void ioapic_reset(struct device *dev)
{
    struct ioapic *a = ioapic_of(dev);

    pthread_mutex_lock(&dev->lock);
    a->select = a->id = 0;
    for (unsigned pin = 0; pin < GSI_COUNT; pin++)
        a->entry[pin] = RED_MASKED;
    for (unsigned pin = 0; pin < GSI_COUNT; pin++)
        ioapic_report(a, pin);
    pthread_mutex_unlock(&dev->lock);
}

static bool ioapic_attach(struct device *dev, struct board *board, struct err *err)
{
    struct ioapic *a = ioapic_of(dev);

    if (!board->irqchip)
        return err_set(err, ENODEV, "an IOAPIC needs the irqchip first");
    ioapic_reset(dev);
    a->regs = (struct region){"ioapic", LAYOUT_IOAPIC_BASE, 0x1000, &ioapic_ops, a, &dev->lock};
    if (!bus_add(board->mmio, &a->regs, err))
        return false;
    board_defer(board, false, LAYOUT_IOAPIC_BASE, 4); /* the index register */
    board->irqchip->ioapic = dev;
    return true;
}

static void ioapic_detach(struct device *dev)
{
    bus_remove(dev->board->mmio, &ioapic_of(dev)->regs);
    if (dev->board->irqchip && dev->board->irqchip->ioapic == dev)
        dev->board->irqchip->ioapic = NULL;
}

static bool ioapic_restored(struct device *dev, struct err *err)
{
    struct ioapic *a = ioapic_of(dev);

    for (unsigned pin = 0; pin < GSI_COUNT; pin++)
        if (a->entry[pin] & ~(0xff00000000000000 | RED_WRITABLE | RED_REMOTE_IRR))
            return err_set(err, EINVAL, "entry %u has bits that do not exist", pin);
    for (unsigned pin = 0; pin < GSI_COUNT; pin++)
        ioapic_report(a, pin);
    return true;
}

/* clang-format off */
static const struct field ioapic_state[] = {
    FIELD(struct ioapic, level, 0xffffff),
    FIELD(struct ioapic, select, 0xff),
    FIELD(struct ioapic, id, 15),
    FIELD_ARRAY(struct ioapic, entry, UINT64_MAX),
    {0},
};
/* clang-format on */

const struct device_type ioapic_type = {
    .name = "ioapic",
    .size = sizeof(struct ioapic),
    .state = ioapic_state,
    .state_version = 1,
    .attach = ioapic_attach,
    .reset = ioapic_reset,
    .restored = ioapic_restored,
    .detach = ioapic_detach,
};
