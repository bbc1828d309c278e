/* SPDX-License-Identifier: MIT */
/* PCI functions: masks, BAR sizing and moving, INTx sharing, MSI-X masking, save and restore. */
#include "bus/pci.h"
#include "tap.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct card {
    struct device dev;
    struct pci_function pci;
    uint32_t reg[1024];
};

static uint64_t card_read(void *dev, uint64_t offset, unsigned size)
{
    return ((struct card *)dev)->reg[offset / 4 % 1024];
}

static void card_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    ((struct card *)dev)->reg[offset / 4 % 1024] = (uint32_t)value;
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
    pci_add_capability(f, PCI_CAP_VENDOR, 13);
    pci_add_msix(f, 70, 4, 0x1000, 0x2000);
    return pci_attach(board, f, -1, err);
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

static int line[24];
static unsigned moves;
static struct msi last_msi;
static unsigned msis;

static void test_irq(struct board *b, unsigned gsi, bool level)
{
    line[gsi] = level;
    moves++;
}

static void test_msi(struct board *b, const struct msi *msi)
{
    last_msi = *msi;
    msis++;
}

/* What an engine would have: bells by address, eventfds by descriptor. */
static struct {
    uint64_t addr;
    int fd;
} bell[4];
static unsigned bells, bells_max = 4;
static int sender = -1; /* the one eventfd that sends */
static struct msi sent;

static bool test_bell(struct board *b, uint64_t addr, int fd, bool on)
{
    if (on && bells < bells_max) {
        bell[bells].addr = addr;
        bell[bells++].fd = fd;
        return true;
    }
    for (unsigned i = 0; !on && i < bells; i++)
        if (bell[i].addr == addr && bell[i].fd == fd) {
            bell[i] = bell[--bells];
            return true;
        }
    return false;
}

static bool test_msi_fd(struct board *b, int fd, const struct msi *msi)
{
    sender = msi ? fd : -1;
    if (msi)
        sent = *msi;
    return true;
}

static const struct board_ops ops = {
    .irq = test_irq, .msi = test_msi, .bell = test_bell, .msi_fd = test_msi_fd};
static struct board board;
static struct bus mmio, pio;
static struct card *card[3]; /* slots 1, 2 and, sharing the first's line, 5 */
static struct err err;

static uint32_t rd(unsigned slot, unsigned offset, unsigned size)
{
    return pci_config_read(board.pci, (uint16_t)PCI_DEVFN(slot, 0), offset, size);
}

static void wr(unsigned slot, unsigned offset, uint32_t value, unsigned size)
{
    pci_config_write(board.pci, (uint16_t)PCI_DEVFN(slot, 0), offset, value, size);
}

static void test_header(void)
{
    ok(rd(1, 0, 4) == 0x56781234 && rd(2, 0, 2) == 0x1234, "ids, in the first free slots");
    ok(rd(3, 0, 4) == UINT32_MAX && rd(3, 1, 1) == 0xff, "an empty slot reads all ones");
    ok(pci_config_read(board.pci, 0x108, 0, 4) == UINT32_MAX, "so does another bus");
    ok(rd(1, 8, 4) == 0x02000001 && rd(1, 0x2c, 4) == 0x11001af4, "class and subsystem");
    wr(1, 0, 0, 4);
    wr(1, 8, 0xffffffff, 4);
    ok(rd(1, 0, 4) == 0x56781234 && rd(1, 8, 4) == 0x02000001, "read-only stays");
    wr(1, PCI_COMMAND, 0xffff, 2);
    ok(rd(1, PCI_COMMAND, 2) == 0x0547, "command takes its defined bits: %x", rd(1, 4, 2));
    ok(rd(1, PCI_STATUS, 2) == 0x0010, "status: capabilities");
    ok(rd(1, 0x34, 1) == 0x40 && rd(1, 0x40, 2) == 0x5009 && rd(1, 0x50, 2) == 0x0011,
       "capability list, aligned");
    ok(rd(1, 0x52, 2) == 69 && rd(1, 0x54, 4) == 0x1004 && rd(1, 0x58, 4) == 0x2004,
       "MSI-X: count - 1, table, PBA");
    ok(rd(1, 0xffe, 4) == UINT32_MAX && rd(1, 0x1000, 1) == 0xff && rd(1, 3, 2) == 0xffff,
       "an access across dwords or past the end is refused");
    wr(1, PCI_COMMAND, 0, 2);
}

static void test_bars(void)
{
    wr(1, 0x10, 0xffffffff, 4);
    wr(1, 0x14, 0xffffffff, 4);
    ok(rd(1, 0x10, 4) == 0xfffff00c && rd(1, 0x14, 4) == 0xffffffff, "64-bit BAR sizing");
    wr(1, 0x18, 0xffffffff, 4);
    ok(rd(1, 0x18, 4) == 0xffffff01, "I/O BAR sizing");
    wr(1, 0x20, 0xffffffff, 4);
    ok(rd(1, 0x20, 4) == 0xffffc000 && rd(1, 0x24, 4) == 0, "32-bit BAR sizing, no BAR 5");
    wr(1, PCI_COMMAND, 3, 2);
    ok(mmio.count == 0 && pio.count == 0, "all ones is no address");
    wr(1, 0x10, 0x4000000c, 4);
    wr(1, 0x14, 0x0000000c, 4);
    wr(1, 0x18, 0xc001, 4);
    ok(bus_find(&mmio, 0xc40000000, 4) && bus_find(&pio, 0xc0ff, 1), "mapped where programmed");
    bus_write(&mmio, 0xc40000010, 77, 4);
    ok(card[0]->reg[4] == 77 && bus_read(&pio, 0xc010, 4) == 77, "and reach the device");
    wr(1, PCI_COMMAND, 1, 2);
    ok(!bus_find(&mmio, 0xc40000000, 4) && bus_find(&pio, 0xc000, 1), "memory decoding off");
    wr(1, PCI_COMMAND, 3, 2);
    wr(1, 0x20, 0xe0000000, 4);
    wr(2, 0x20, 0xe0002000 & 0xffffc000, 4);
    wr(2, PCI_COMMAND, 2, 2);
    ok(card[0]->pci.bar[4].mapped && !card[1]->pci.bar[4].mapped, "the second on one place waits");
    wr(1, 0x20, 0xe0004000, 4);
    ok(card[0]->pci.bar[4].mapped && card[1]->pci.bar[4].mapped, "until it is free");
}

static void test_intx(void)
{
    ok(pci_pirq(1, 1) == 5 && pci_pirq(5, 1) == 5 && pci_pirq(31, 1) == 0, "PIRQ swizzle");
    moves = 0;
    pci_intx(&card[0]->pci, true);
    pci_intx(&card[2]->pci, true);
    ok(line[21] == 1 && moves == 1, "two functions, one line");
    ok(rd(1, PCI_STATUS, 2) == 0x0018 && rd(1, 4, 4) >> 16 == 0x0018 && rd(2, 6, 2) == 0x0010,
       "status shows who");
    pci_intx(&card[0]->pci, false);
    ok(line[21] == 1, "held by the other");
    wr(5, PCI_COMMAND, PCI_COMMAND_INTX_OFF, 2);
    ok(line[21] == 0 && (rd(5, PCI_STATUS, 2) & PCI_STATUS_INTX), "the command bit cuts the line");
    wr(5, PCI_COMMAND, 0, 2);
    ok(line[21] == 1, "and joins it again");
    pci_intx(&card[2]->pci, false);
    ok(line[21] == 0 && moves == 4, "low at last");
}

static void test_msix(void)
{
    const uint64_t bar = 0xe0004000;

    pci_msix_fire(&card[0]->pci, 1);
    ok(msis == 0 && bus_read(&mmio, bar + 0x2000, 8) == 0, "disabled: nothing, not even pending");
    ok(!pci_msix_enabled(&card[0]->pci), "off");
    ok(bus_read(&mmio, bar + 0x101c, 4) == 1, "entries begin masked");
    bus_write(&mmio, bar + 0x1010, 0xfee0100cULL, 4);
    bus_write(&mmio, bar + 0x1014, 1, 4);
    bus_write(&mmio, bar + 0x1018, 0x4041, 4);
    wr(1, 0x52, 0x8000, 2);
    ok(pci_msix_enabled(&card[0]->pci) && rd(1, 0x52, 2) == 0x8045, "on");
    pci_msix_fire(&card[0]->pci, 1);
    pci_msix_fire(&card[0]->pci, 69);
    pci_msix_fire(&card[0]->pci, 70);
    pci_msix_fire(&card[0]->pci, 0xffff);
    ok(msis == 0 && bus_read(&mmio, bar + 0x2000, 8) == 2 && bus_read(&mmio, bar + 0x2008, 4) == 32,
       "masked entries go pending, absent ones nowhere");
    bus_write(&mmio, bar + 0x101c, 0xfffffffe, 4);
    ok(msis == 1 && last_msi.address == 0x1fee0100c && last_msi.data == 0x4041, "unmasked: sent");
    ok(bus_read(&mmio, bar + 0x2000, 8) == 0, "and no longer pending");
    pci_msix_fire(&card[0]->pci, 1);
    ok(msis == 2, "sent at once");
    wr(1, 0x52, 0xc000, 2);
    pci_msix_fire(&card[0]->pci, 1);
    ok(msis == 2 && bus_read(&mmio, bar + 0x2000, 4) == 2, "function mask");
    bus_write(&mmio, bar + 0x2000, 0, 8);
    ok(bus_read(&mmio, bar + 0x2000, 4) == 2, "the PBA is read-only");
    wr(1, 0x52, 0x8000, 2);
    ok(msis == 3, "sent when the function mask goes");
    bus_write(&mmio, bar + 0x1018, 0x1122334455667788ULL, 8);
    ok(bus_read(&mmio, bar + 0x1018, 8) == 0x55667788, "8 bytes at once");
    bus_write(&mmio, bar + 0x20, 5, 4);
    ok(card[0]->reg[8] == 5 && bus_read(&mmio, bar + 0x3000, 4) == card[0]->reg[0],
       "other offsets belong to the device");
}

static bool one_bell(uint64_t addr, int fd)
{
    return bells == 1 && bell[0].addr == addr && bell[0].fd == fd;
}

static void test_bells(void)
{
    struct pci_function *f = &card[0]->pci;
    uint32_t bar = rd(1, 0x20, 4);

    f->bell_bar = 4;
    pci_bell_set(f, 3, 0x10, 77);
    ok(one_bell(bar + 0x10, 77), "a bell hangs in its BAR");
    wr(1, 0x20, bar + 0x100000, 4);
    ok(one_bell(bar + 0x100010, 77), "moves with it");
    wr(1, PCI_COMMAND, 1, 2);
    ok(bells == 0, "is gone while memory is not decoded");
    wr(1, PCI_COMMAND, 3, 2);
    ok(one_bell(bar + 0x100010, 77), "and comes back");
    bells_max = 1;
    pci_bell_set(f, 0, 0x20, 78);
    ok(one_bell(bar + 0x100010, 77) && !f->bell[0].on, "an engine may have no room for another");
    pci_bell_set(f, 0, 0, -1);
    pci_bell_set(f, 3, 0, -1);
    ok(bells == 0, "taken off");
    pci_bell_set(f, 3, 0x10, 77); /* for the reset that follows */
    wr(1, 0x20, bar, 4);
    ok(one_bell(bar + 0x10, 77), "and put up again");
}

static void test_lines(void)
{
    struct pci_function *f = &card[0]->pci;
    struct pci_msix_line l = {.fd = eventfd(0, EFD_NONBLOCK), .vector = 70}, again;
    uint64_t bar = rd(1, 0x20, 4), one = 1;

    ok(!pci_msix_bind(f, &l), "an eventfd for a vector that is not there is refused");
    l.vector = 1;
    bus_write(&mmio, bar + 0x101c, 1, 4);
    msis = 0;
    ok(pci_msix_bind(f, &l) && sender == -1, "bound to a masked vector, it sends nothing");
    (void)!write(l.fd, &one, sizeof one);
    ok(bus_read(&mmio, bar + 0x2000, 8) == 2, "but its vector is pending");
    bus_write(&mmio, bar + 0x101c, 0, 4);
    ok(sender == l.fd && sent.data == 0x55667788 && l.on, "unmasked, the engine has it");
    bus_write(&mmio, bar + 0x1018, 0x4042, 4);
    ok(sender == l.fd && sent.data == 0x4042, "and hears of another message");
    wr(1, 0x52, 0xc000, 2);
    ok(sender == -1 && !l.on, "the function mask takes it back");
    wr(1, 0x52, 0, 2);
    wr(1, 0x52, 0x8000, 2);
    ok(sender == l.fd, "and MSI-X on gives it");
    bus_write(&mmio, bar + 0x101c, 1, 4);
    pci_msix_unbind(f, &l);
    pci_msix_unbind(f, &l);
    ok(sender == -1 && bus_read(&mmio, bar + 0x2000, 8) == 2 && read(l.fd, &one, 8) < 0,
       "unbound: what waited is pending");
    bus_write(&mmio, bar + 0x101c, 0, 4);
    ok(msis == 1 && last_msi.data == 0x4042, "and sent when unmasked");
    again = (struct pci_msix_line){.fd = l.fd, .vector = 1};
    pci_msix_bind(f, &again);
    card_reset(&card[0]->dev);
    ok(sender == -1, "a reset takes it back too");
    pci_msix_unbind(f, &again);
    close(l.fd);
}

static void test_state(void)
{
    struct stream s = {0}, t = {0};
    bool same;

    wr(1, 0x52, 0xc000, 2);
    pci_msix_fire(&card[0]->pci, 1);
    pci_intx(&card[0]->pci, true);
    field_save(card_state, card[0], &s, &err);
    board_reset(&board);
    ok(mmio.count == 0 && bells == 0 && line[21] == 0 && !pci_msix_enabled(&card[0]->pci) &&
           card[0]->pci.msix[1].control == 1 && rd(1, 0x10, 4) == 0xc,
       "reset gives power-on state");
    s.at = 0;
    ok(field_restore(card_state, card[0], &s, &err) && card_restored(&card[0]->dev, &err),
       "restore");
    ok(bus_find(&mmio, 0xc40000000, 4) && line[21] == 1 && pci_msix_enabled(&card[0]->pci),
       "mapped, asserted and enabled again");
    field_save(card_state, card[0], &t, &err);
    same = s.size == t.size && !memcmp(s.data, t.data, s.size);
    ok(same, "saved again: the same %zu bytes", s.size);
    msis = 0;
    wr(1, 0x52, 0x8000, 2);
    ok(msis == 1, "pending survived");
    card[0]->pci.config[0] ^= 1;
    ok(!card_restored(&card[0]->dev, &err) && err.code == EINVAL, "refused: %s", err.text);
    card[0]->pci.config[0] ^= 1;
    card[0]->pci.msix_pending[1] = BIT(6);
    ok(!card_restored(&card[0]->dev, &err), "refused: %s", err.text);
    card[0]->pci.msix_pending[1] = 0;
    stream_free(&s);
    stream_free(&t);
}

static void test_slots(void)
{
    struct device *dev = device_new(&card_type, "extra");
    struct card *c = container_of(dev, struct card, dev);

    c->pci.dev = dev;
    pci_header(&c->pci, 1, 1, 0, 0, 0, 0, 0);
    ok(!pci_attach(&board, &c->pci, PCI_DEVFN(1, 0), &err), "taken: %s", err.text);
    device_free(dev);
    device_free(&card[1]->dev);
    ok(rd(2, 0, 4) == UINT32_MAX, "detached: gone");
}

int main(void)
{
    bus_init(&mmio, BIT(40));
    bus_init(&pio, 0x10000);
    board_init(&board, &ops);
    board.mmio = &mmio;
    board.pio = &pio;
    pci_root_new(&board);
    for (int i = 0; i < 5; i++) {
        char id[8];
        struct device *dev;

        snprintf(id, sizeof id, "card%d", i);
        dev = device_new(&card_type, id);
        if (!device_attach(&board, dev, &err))
            return 1;
        if (i < 2 || i == 4)
            card[i < 2 ? i : 2] = container_of(dev, struct card, dev);
        if (i == 3)
            device_free(board_device(&board, "card2"));
    }
    device_free(&card[2]->dev); /* card4 took slot 3, free again: put it into slot 5 */
    device_attach(&board, device_new(&card_type, "fill"), &err);
    device_attach(&board, device_new(&card_type, "card5"), &err);
    card[2] = container_of(board_device(&board, "card5"), struct card, dev);
    device_free(board_device(&board, "fill"));
    ok(card[2]->pci.devfn == PCI_DEVFN(5, 0), "first free slots are reused");
    test_header();
    test_bars();
    test_intx();
    test_msix();
    test_bells();
    test_state();
    test_lines();
    test_slots();
    board_close(&board);
    ok(mmio.count == 0 && pio.count == 0, "nothing left on the buses");
    pci_root_free(board.pci);
    bus_close(&mmio);
    bus_close(&pio);
    return tap_done();
}
