/* SPDX-License-Identifier: MIT */
/* Fans interrupt lines out to the IOAPIC and the PICs, and keeps the PIRQ routing. */
#include "dev/irqchip.h"

#include <errno.h>

#define ROUTE_OFF 0x80

static struct irqchip *irqchip_of(struct device *dev)
{
    return container_of(dev, struct irqchip, dev);
}

/* PIC inputs that a PIRQ may drive: not timer, keyboard, cascade, RTC and FPU. */
static bool routable(unsigned irq)
{
    return (0xdef8 >> irq) & 1;
}

static void pic_lines_update_locked(struct irqchip *c)
{
    uint16_t out = (uint16_t)c->level, changed;

    for (unsigned p = 0; p < ARRAY_SIZE(c->route); p++) {
        uint8_t irq = c->route[p] & 15;

        if (!(c->route[p] & ROUTE_OFF) && routable(irq) && (c->level & BIT(16 + p)))
            out |= (uint16_t)BIT(irq);
    }
    changed = out ^ c->isa_out;
    c->isa_out = out;
    for (unsigned irq = 0; changed && irq < 16; irq++)
        if ((changed & BIT(irq)) && c->pic)
            pic_set(c->pic, irq, out & BIT(irq));
}

void irqchip_set(struct board *b, unsigned gsi, bool level)
{
    struct irqchip *c = b->irqchip;

    if (!c || gsi >= GSI_COUNT)
        return;
    pthread_mutex_lock(&c->lines);
    if (level)
        c->level |= (uint32_t)BIT(gsi);
    else
        c->level &= ~(uint32_t)BIT(gsi);
    pic_lines_update_locked(c);
    if (c->ioapic && gsi != 2)
        ioapic_set(c->ioapic, gsi == 0 ? 2 : gsi, level);
    pthread_mutex_unlock(&c->lines);
}

int irqchip_ack(struct board *b)
{
    return b->irqchip && b->irqchip->pic ? pic_ack(b->irqchip->pic) : -1;
}

void irqchip_eoi(struct board *b, uint8_t vector)
{
    if (b->irqchip && b->irqchip->ioapic)
        ioapic_eoi(b->irqchip->ioapic, vector);
}

void irqchip_route(struct board *b, unsigned pirq, uint8_t route)
{
    struct irqchip *c = b->irqchip;

    if (!c)
        return;
    pthread_mutex_lock(&c->lines);
    c->route[pirq & 7] = route;
    pic_lines_update_locked(c);
    pthread_mutex_unlock(&c->lines);
}

void irqchip_legacy_set(struct board *b, bool replaced)
{
    if (b->irqchip)
        b->irqchip->legacy_off = replaced;
}

bool irqchip_legacy_replaced(struct board *b)
{
    return b->irqchip && b->irqchip->legacy_off;
}

static bool irqchip_attach(struct device *dev, struct board *board, struct err *err)
{
    struct irqchip *c = irqchip_of(dev);

    if (board->irqchip)
        return err_set(err, EEXIST, "the board has interrupt lines already");
    pthread_mutex_init(&c->lines, NULL);
    memset(c->route, ROUTE_OFF, sizeof c->route);
    board->irqchip = c;
    return true;
}

/* Lines belong to the devices that drive them and come down with those. */
static void irqchip_reset(struct device *dev)
{
    irqchip_of(dev)->legacy_off = false;
}

static void irqchip_detach(struct device *dev)
{
    if (dev->board->irqchip == irqchip_of(dev))
        dev->board->irqchip = NULL;
}

static bool irqchip_restored(struct device *dev, struct err *err)
{
    struct irqchip *c = irqchip_of(dev);

    /* The PICs restore their own inputs; what they see must follow from lines and routes. */
    pthread_mutex_lock(&c->lines);
    pic_lines_update_locked(c);
    pthread_mutex_unlock(&c->lines);
    return true;
}

/* clang-format off */
static const struct field irqchip_state[] = {
    FIELD(struct irqchip, level, 0xffffff),
    FIELD(struct irqchip, isa_out, 0xffff),
    FIELD_ARRAY(struct irqchip, route, 0xff),
    {0},
};
/* clang-format on */

const struct device_type irqchip_type = {
    .name = "irqchip",
    .size = sizeof(struct irqchip),
    .state = irqchip_state,
    .state_version = 1,
    .attach = irqchip_attach,
    .reset = irqchip_reset,
    .restored = irqchip_restored,
    .detach = irqchip_detach,
};
