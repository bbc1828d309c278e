/* SPDX-License-Identifier: MIT */
/* The whole board, with one MSI-X card, under a guest that the fuzzer plays: accesses to every
 * region, configuration cycles, time, interrupt lines, input on the UART, resets, and a save and
 * restore with bytes changed on the way.
 *
 * Each step is an opcode byte and up to 8 bytes of operands; a step that the input does not hold
 * whole ends the run. */
#include "dev/testboard.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct card {
    struct device dev;
    struct pci_function pci;
};

static uint64_t card_read(void *dev, uint64_t offset, unsigned size)
{
    return offset;
}

static void card_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct card *c = dev;

    pci_msix_fire(&c->pci, (uint16_t)value);
    pci_intx(&c->pci, value & 1);
}

static const struct region_ops card_ops = {card_read, card_write, 4, 4};

static bool card_attach(struct device *dev, struct board *board, struct err *err)
{
    struct card *c = container_of(dev, struct card, dev);
    struct pci_function *f = &c->pci;

    f->dev = dev;
    pci_header(f, 0x1234, 0x5678, 0x020000, 1, 0x1af4, 0x1100, 1);
    for (unsigned n = 0; n < 5; n += 2)
        f->bar[n].region =
            (struct region){.name = "card", .ops = &card_ops, .dev = c, .lock = &dev->lock};
    pci_add_bar(f, 0, 0x1000, true, true, false);
    pci_add_bar(f, 2, 0x100, false, false, true);
    pci_add_bar(f, 4, 0x4000, false, false, false);
    pci_add_msix(f, PCI_MSIX_MAX, 4, 0x1000, 0x2000);
    return pci_attach(board, f, PCI_DEVFN(1, 0), err);
}

static void card_reset(struct device *dev)
{
    pci_function_reset(&container_of(dev, struct card, dev)->pci);
}

static bool card_restored(struct device *dev, struct err *err)
{
    return pci_function_restored(&container_of(dev, struct card, dev)->pci, err);
}

static void card_detach(struct device *dev)
{
    pci_detach(&container_of(dev, struct card, dev)->pci);
}

static const struct field card_state[] = {FIELD_TABLE(struct card, pci, pci_function_state), {0}};

static const struct device_type card_type = {
    .name = "card",
    .size = sizeof(struct card),
    .state = card_state,
    .attach = card_attach,
    .reset = card_reset,
    .restored = card_restored,
    .detach = card_detach,
};

/* ---- the UART's other end ---- */

static size_t host_write(struct chardev *c, const uint8_t *bytes, size_t len)
{
    return len;
}

static void host_nothing(struct chardev *c)
{
}

static const struct chardev_ops host_ops = {host_write, host_nothing, host_nothing};
static struct chardev host;

static void type_byte(uint8_t byte)
{
    if (host.front && host.front->ops->room && host.front->ops->room(host.front))
        host.front->ops->receive(host.front, &byte, 1);
}

/* ---- steps ---- */

static void access_region(struct bus *bus, const uint8_t *p, bool write, unsigned size)
{
    struct region *r = bus->count ? bus->region[p[0] % bus->count] : NULL;
    uint64_t addr = r ? r->base + le16(p + 1) % r->size : le16(p + 1);

    if (write)
        bus_write(bus, addr, le32(p + 3) | (uint64_t)p[7] << 32, size);
    else
        bus_read(bus, addr, size);
}

static void access_config(const uint8_t *p, bool write, unsigned size)
{
    static const uint16_t bdf[] = {0, PCI_DEVFN(31, 0), PCI_DEVFN(1, 0), 0x100};

    if (write)
        pci_config_write(tb.board.pci, bdf[p[0] & 3], le16(p + 1) & 0xfff, le32(p + 3), size);
    else
        pci_config_read(tb.board.pci, bdf[p[0] & 3], le16(p + 1) & 0xfff, size);
}

/* Saves one device and restores it with a byte changed: refused, or whatever it then is. */
static void resurrect(const uint8_t *p)
{
    struct stream s = {0};
    unsigned n = p[0] % 20;
    struct err err;

    board_pause(&tb.board);
    list_for(at, &tb.board.devices)
    {
        struct device *dev = container_of(at, struct device, link);

        if (n-- || !dev->type->state)
            continue;
        if (!field_save(dev->type->state, dev, &s, &err))
            abort(); /* a register let in a value over its limit */
        s.data[le16(p + 1) % s.size] ^= p[3];
        s.at = 0;
        if (!field_restore(dev->type->state, dev, &s, &err) ||
            (dev->type->restored && !dev->type->restored(dev, &err))) {
            if (dev->type->reset) /* the machine would end here; go on with a sound device */
                dev->type->reset(dev);
            board_reset(&tb.board);
        }
        break;
    }
    stream_free(&s);
    board_resume(&tb.board);
}

static void step(uint8_t op, const uint8_t *p)
{
    unsigned size = 1u << (op & 3);
    bool write = op & 4;

    switch (op >> 4) {
    default: access_region(&tb.pio, p, write, size); break;
    case 6:
    case 7:
    case 8: access_region(&tb.mmio, p, write, size); break;
    case 9: access_config(p, write, size); break;
    case 10: board_irq(&tb.board, p[0], p[1] & 1); break;
    case 11: irqchip_eoi(&tb.board, p[0]); break;
    case 12: irqchip_ack(&tb.board); break;
    case 13:
        tb.host_ns += (uint64_t)le32(p) << (p[4] % 16);
        tb.wall_ns += (uint64_t)le32(p) << (p[4] % 16);
        devtimer_run(&tb.board);
        break;
    case 14: type_byte(p[0]); break;
    case 15:
        if (op & 1)
            resurrect(p);
        else
            board_reset(&tb.board);
        break;
    }
}

static void dev_fuzz(const uint8_t *data, size_t size)
{
    host.ops = &host_ops;
    tb_full(NULL, &host);
    tb_add(&card_type);
    while (size >= 9) {
        step(data[0], data + 1);
        data += 9;
        size -= 9;
    }
    tb_close();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    dev_fuzz(data, size);
    return 0;
}
