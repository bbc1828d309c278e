/* SPDX-License-Identifier: MIT */
/* The two 8259A interrupt controllers and their edge/level registers. Intel 8259A data sheet, names
 * of bits as there; ELCR as in ICH9.
 *
 * Each chip keeps requests (IRR), interrupts in service (ISR) and a mask (IMR). The slave's output
 * is the master's input 2; the master's output goes to board_ops.intr. */
#include "dev/irqchip.h"

#include <errno.h>

#define CASCADE 2

enum init_state { INIT_NONE, INIT_ICW2, INIT_ICW3, INIT_ICW4 };

struct pic_chip {
    uint8_t irr, isr, imr, lines;
    uint8_t elcr, elcr_mask; /* 1: level-triggered; which may be */
    uint8_t base;            /* vector of input 0 */
    uint8_t lowest;          /* input of lowest priority: 7 unless rotated */
    uint8_t init;            /* enum init_state: which ICW is next */
    bool want_icw4, single;
    bool auto_eoi, rotate_on_aeoi, special_nested, special_mask;
    bool read_isr, poll;
};

struct pic {
    struct device dev;
    struct region ports[2], elcr;
    struct pic_chip chip[2]; /* master, slave */
    bool intr;
};

static struct pic *pic_of(struct device *dev)
{
    return container_of(dev, struct pic, dev);
}

/* Distance of the most urgent bit from the top of the priority ring; 8: no bit. */
static unsigned urgency(const struct pic_chip *c, uint8_t bits)
{
    unsigned n;

    for (n = 0; n < 8; n++)
        if (bits & (1 << ((c->lowest + 1 + n) & 7)))
            break;
    return n;
}

/* The input to be served next, or -1. */
static int chip_next(const struct pic *p, const struct pic_chip *c)
{
    uint8_t in_service = c->isr;
    unsigned want = urgency(c, c->irr & (uint8_t)~c->imr);

    if (c->special_mask)
        in_service &= (uint8_t)~c->imr;
    if (c->special_nested && c == &p->chip[0])
        in_service &= (uint8_t) ~(1 << CASCADE);
    if (want == 8 || want >= urgency(c, in_service))
        return -1;
    return (c->lowest + 1 + (int)want) & 7;
}

static void chip_line(struct pic_chip *c, unsigned n, bool level)
{
    uint8_t bit = (uint8_t)(1 << n);

    if (c->elcr & bit)
        c->irr = (uint8_t)(level ? c->irr | bit : c->irr & ~bit);
    else if (level && !(c->lines & bit))
        c->irr |= bit;
    c->lines = (uint8_t)(level ? c->lines | bit : c->lines & ~bit);
}

static void pic_update(struct pic *p)
{
    bool intr;

    /* The slave drops its output for a moment at each acknowledge, so the master sees a new edge
     * whenever there is more to serve: in effect the input follows the level. */
    if (chip_next(p, &p->chip[1]) >= 0)
        p->chip[0].irr |= 1 << CASCADE;
    else
        p->chip[0].irr &= (uint8_t) ~(1 << CASCADE);
    intr = chip_next(p, &p->chip[0]) >= 0;
    if (intr == p->intr)
        return;
    p->intr = intr;
    if (p->dev.board->ops->intr)
        p->dev.board->ops->intr(p->dev.board, intr);
}

void pic_set(struct device *dev, unsigned irq, bool level)
{
    struct pic *p = pic_of(dev);

    if (irq == CASCADE)
        return; /* no such pin on a PC */
    pthread_mutex_lock(&dev->lock);
    chip_line(&p->chip[irq >> 3 & 1], irq & 7, level);
    pic_update(p);
    pthread_mutex_unlock(&dev->lock);
}

static void chip_ack(struct pic_chip *c, unsigned n)
{
    uint8_t bit = (uint8_t)(1 << n);

    if (!(c->elcr & bit))
        c->irr &= (uint8_t)~bit;
    if (!c->auto_eoi)
        c->isr |= bit;
    else if (c->rotate_on_aeoi)
        c->lowest = (uint8_t)n;
}

int pic_ack(struct device *dev)
{
    struct pic *p = pic_of(dev);
    int n, vector = -1;

    pthread_mutex_lock(&dev->lock);
    n = chip_next(p, &p->chip[0]);
    if (n >= 0) {
        chip_ack(&p->chip[0], (unsigned)n);
        vector = p->chip[0].base + n;
        if (n == CASCADE) {
            n = chip_next(p, &p->chip[1]);
            if (n >= 0)
                chip_ack(&p->chip[1], (unsigned)n);
            /* gone meanwhile: the spurious vector, without a bit in service */
            vector = p->chip[1].base + (n >= 0 ? n : 7);
        }
        pic_update(p);
    }
    pthread_mutex_unlock(&dev->lock);
    return vector;
}

/* ---- registers ---- */

static void chip_init(struct pic_chip *c, uint8_t icw1)
{
    uint8_t elcr = c->elcr, mask = c->elcr_mask, lines = c->lines;

    *c = (struct pic_chip){.elcr = elcr, .elcr_mask = mask, .lines = lines, .lowest = 7};
    c->irr = lines & elcr; /* edges before the initialization are forgotten */
    c->init = INIT_ICW2;
    c->want_icw4 = icw1 & 1;
    c->single = icw1 & 2;
}

static void chip_ocw2(struct pic_chip *c, uint8_t value)
{
    bool rotate = value & 0x80, specific = value & 0x40, eoi = value & 0x20;
    unsigned n = value & 7;

    if (!eoi) {
        if (specific && rotate)
            c->lowest = (uint8_t)n; /* set priority */
        else if (!specific)
            c->rotate_on_aeoi = rotate;
        return;
    }
    if (!specific) {
        unsigned u = urgency(c, c->special_mask ? c->isr & (uint8_t)~c->imr : c->isr);

        if (u == 8)
            return;
        n = (c->lowest + 1 + u) & 7;
    }
    c->isr &= (uint8_t) ~(1 << n);
    if (rotate)
        c->lowest = (uint8_t)n;
}

static void chip_ocw3(struct pic_chip *c, uint8_t value)
{
    if (value & 0x40)
        c->special_mask = value & 0x20;
    if (value & 0x04)
        c->poll = true;
    else if (value & 0x02)
        c->read_isr = value & 0x01;
}

static void chip_write_data(struct pic_chip *c, uint8_t value)
{
    switch ((enum init_state)c->init) {
    case INIT_NONE: c->imr = value; break;
    case INIT_ICW2:
        c->base = value & 0xf8;
        c->init = !c->single ? INIT_ICW3 : c->want_icw4 ? INIT_ICW4 : INIT_NONE;
        break;
    case INIT_ICW3: c->init = c->want_icw4 ? INIT_ICW4 : INIT_NONE; break; /* wiring is fixed */
    case INIT_ICW4:
        c->auto_eoi = value & 2;
        c->special_nested = value & 0x10;
        c->init = INIT_NONE;
        break;
    }
}

static void pic_port_write(struct pic *p, struct pic_chip *c, uint64_t offset, uint8_t value)
{
    if (offset)
        chip_write_data(c, value);
    else if (value & 0x10)
        chip_init(c, value);
    else if (value & 0x08)
        chip_ocw3(c, value);
    else
        chip_ocw2(c, value);
    pic_update(p);
}

static uint8_t pic_port_read(struct pic *p, struct pic_chip *c, uint64_t offset)
{
    int n;

    if (c->poll) {
        c->poll = false;
        n = chip_next(p, c);
        if (n < 0)
            return 0;
        chip_ack(c, (unsigned)n);
        pic_update(p);
        return (uint8_t)(0x80 | n);
    }
    if (offset)
        return c->imr;
    return c->read_isr ? c->isr : c->irr;
}

static uint64_t pic_read_master(void *dev, uint64_t offset, unsigned size)
{
    struct pic *p = dev;

    return pic_port_read(p, &p->chip[0], offset);
}

static void pic_write_master(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct pic *p = dev;

    pic_port_write(p, &p->chip[0], offset, (uint8_t)value);
}

static uint64_t pic_read_slave(void *dev, uint64_t offset, unsigned size)
{
    struct pic *p = dev;

    return pic_port_read(p, &p->chip[1], offset);
}

static void pic_write_slave(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct pic *p = dev;

    pic_port_write(p, &p->chip[1], offset, (uint8_t)value);
}

static uint64_t elcr_read(void *dev, uint64_t offset, unsigned size)
{
    return ((struct pic *)dev)->chip[offset & 1].elcr;
}

static void elcr_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct pic *p = dev;
    struct pic_chip *c = &p->chip[offset & 1];

    c->elcr = (uint8_t)value & c->elcr_mask;
    c->irr = (uint8_t)((c->irr & ~c->elcr) | (c->lines & c->elcr));
    pic_update(p);
}

static const struct region_ops master_ops = {pic_read_master, pic_write_master, 1, 1};
static const struct region_ops slave_ops = {pic_read_slave, pic_write_slave, 1, 1};
static const struct region_ops elcr_ops = {elcr_read, elcr_write, 1, 1};

/* ---- the device ---- */

static void pic_reset(struct device *dev)
{
    struct pic *p = pic_of(dev);

    pthread_mutex_lock(&dev->lock);
    for (unsigned i = 0; i < 2; i++) {
        p->chip[i].elcr = 0;
        p->chip[i].elcr_mask = i ? 0xde : 0xf8;
        chip_init(&p->chip[i], 0);
        p->chip[i].init = INIT_NONE;
    }
    pic_update(p);
    pthread_mutex_unlock(&dev->lock);
}

static bool pic_attach(struct device *dev, struct board *board, struct err *err)
{
    struct pic *p = pic_of(dev);

    if (!board->irqchip)
        return err_set(err, ENODEV, "the 8259 pair needs the irqchip first");
    pic_reset(dev);
    p->ports[0] = (struct region){"pic", 0x20, 2, &master_ops, p, &dev->lock};
    p->ports[1] = (struct region){"pic2", 0xa0, 2, &slave_ops, p, &dev->lock};
    p->elcr = (struct region){"elcr", 0x4d0, 2, &elcr_ops, p, &dev->lock};
    if (!bus_add(board->pio, &p->ports[0], err) || !bus_add(board->pio, &p->ports[1], err) ||
        !bus_add(board->pio, &p->elcr, err))
        return false;
    board->irqchip->pic = dev;
    return true;
}

static void pic_detach(struct device *dev)
{
    struct pic *p = pic_of(dev);

    bus_remove(dev->board->pio, &p->ports[0]);
    bus_remove(dev->board->pio, &p->ports[1]);
    bus_remove(dev->board->pio, &p->elcr);
    if (dev->board->irqchip && dev->board->irqchip->pic == dev)
        dev->board->irqchip->pic = NULL;
}

static bool pic_restored(struct device *dev, struct err *err)
{
    struct pic *p = pic_of(dev);

    for (unsigned i = 0; i < 2; i++)
        if (p->chip[i].elcr & ~p->chip[i].elcr_mask)
            return err_set(err, EINVAL, "ELCR %u has bits that do not exist", i);
    if (dev->board->ops->intr) /* the engine's copy of the line */
        dev->board->ops->intr(dev->board, p->intr);
    return true;
}

/* clang-format off */
static const struct field chip_state[] = {
    FIELD(struct pic_chip, irr, 0xff),
    FIELD(struct pic_chip, isr, 0xff),
    FIELD(struct pic_chip, imr, 0xff),
    FIELD(struct pic_chip, lines, 0xff),
    FIELD(struct pic_chip, elcr, 0xff),
    FIELD(struct pic_chip, base, 0xf8),
    FIELD(struct pic_chip, lowest, 7),
    FIELD(struct pic_chip, init, INIT_ICW4),
    FIELD(struct pic_chip, want_icw4, 1),
    FIELD(struct pic_chip, single, 1),
    FIELD(struct pic_chip, auto_eoi, 1),
    FIELD(struct pic_chip, rotate_on_aeoi, 1),
    FIELD(struct pic_chip, special_nested, 1),
    FIELD(struct pic_chip, special_mask, 1),
    FIELD(struct pic_chip, read_isr, 1),
    FIELD(struct pic_chip, poll, 1),
    {0},
};

static const struct field pic_state[] = {
    FIELD_TABLES(struct pic, chip, chip_state),
    FIELD(struct pic, intr, 1),
    {0},
};
/* clang-format on */

const struct device_type pic_type = {
    .name = "pic",
    .size = sizeof(struct pic),
    .state = pic_state,
    .state_version = 1,
    .attach = pic_attach,
    .reset = pic_reset,
    .restored = pic_restored,
    .detach = pic_detach,
};
