/* SPDX-License-Identifier: MIT */
/* The LPC bridge of ICH9, 8086:2918 at 00:1f.0: PM base, PIRQ routing, RCBA window, fast A20 and
 * reset (port 0x92), the APM ports that switch ACPI mode, the POST port. ICH9 data sheet, 13.1.
 *
 * The PM block is on at reset, where firmware would put it, so that a directly booted kernel finds
 * it as the FADT says. */
#include "bus/pci.h"
#include "dev/irqchip.h"
#include "dev/pm.h"
#include "dev/types.h"

#include <errno.h>

enum { /* configuration registers */
       PMBASE = 0x40,
       ACPI_CNTL = 0x44,
       PIRQA_ROUTE = 0x60, /* to PIRQD at 0x63 */
       PIRQE_ROUTE = 0x68,
       LPC_DECODE = 0x80, /* 0x80 to 0x93: which ISA ports are decoded; all are */
       RCBA = 0xf0,
};

enum {
    ACPI_ON = 0x80,
    ROUTE_OFF = 0x80,
    APM_ACPI_ENABLE = 2, /* values for port 0xb2, as the FADT says */
    APM_ACPI_DISABLE = 3,
    FAST_RESET = 1, /* port 0x92 */
    FAST_A20 = 2,
};

#define RCRB_LEN 0x4000
#define RCRB_FIRST                                                                                 \
    0x3100 /* DxxIP and DxxIR: kept for whoever reads them back; routing is fixed                  \
            */
#define RCRB_WORDS 64

struct lpc {
    struct device dev;
    struct pci_function pci;
    struct region port92, apm, post, rcrb;
    struct device *pm;
    bool rcrb_mapped;
    uint8_t fast; /* port 0x92 */
    uint8_t apm_byte[2];
    uint8_t post_code;
    uint32_t rcrb_word[RCRB_WORDS];
};

static struct lpc *lpc_of(struct device *dev)
{
    return container_of(dev, struct lpc, dev);
}

/* ---- configuration space ---- */

static void lpc_route(struct lpc *l)
{
    for (unsigned pirq = 0; pirq < PCI_PIRQS; pirq++)
        irqchip_route(l->dev.board, pirq,
                      l->pci.config[pirq < 4 ? PIRQA_ROUTE + pirq : PIRQE_ROUTE + pirq - 4]);
}

static void lpc_map_rcrb(struct lpc *l)
{
    uint32_t rcba = le32(&l->pci.config[RCBA]);
    struct err err;

    if (l->rcrb_mapped)
        bus_remove(l->dev.board->mmio, &l->rcrb);
    l->rcrb.base = rcba & 0xffffc000;
    l->rcrb_mapped = (rcba & 1) && l->rcrb.base && bus_add(l->dev.board->mmio, &l->rcrb, &err);
}

static void lpc_map_pm(struct lpc *l)
{
    pm_map(l->pm, le16(&l->pci.config[PMBASE]) & 0xff80, l->pci.config[ACPI_CNTL] & ACPI_ON);
}

static void lpc_config_written(struct pci_function *f, unsigned offset, unsigned size)
{
    struct lpc *l = container_of(f, struct lpc, pci);

    if (offset >= PMBASE && offset < ACPI_CNTL + 4)
        lpc_map_pm(l);
    if (offset >= PIRQA_ROUTE && offset < PIRQE_ROUTE + 4)
        lpc_route(l);
    if (offset >= RCBA && offset < RCBA + 4)
        lpc_map_rcrb(l);
}

static void lpc_describe(struct lpc *l)
{
    struct pci_function *f = &l->pci;

    f->dev = &l->dev;
    f->config_written = lpc_config_written;
    pci_header(f, 0x8086, 0x2918, 0x060100, 2, 0x1af4, 0x1100, 0);
    f->config[PCI_HEADER_TYPE] = 0x80; /* 1f.2 and others may follow */
    f->config[PCI_COMMAND] = 7;        /* decoding of what lies behind is always on */
    put_le32(&f->config[PMBASE], PM_BASE | 1);
    put_le32(&f->writable[PMBASE], 0xff80);
    f->config[ACPI_CNTL] = ACPI_ON;
    f->writable[ACPI_CNTL] = ACPI_ON | 7;
    for (unsigned i = 0; i < 4; i++) {
        f->config[PIRQA_ROUTE + i] = f->config[PIRQE_ROUTE + i] = ROUTE_OFF;
        f->writable[PIRQA_ROUTE + i] = f->writable[PIRQE_ROUTE + i] = 0x8f;
    }
    memset(&f->writable[LPC_DECODE], 0xff, 0x14);
    put_le32(&f->writable[RCBA], 0xffffc001);
}

/* ---- ports and RCRB ---- */

static uint64_t port92_read(void *dev, uint64_t offset, unsigned size)
{
    return ((struct lpc *)dev)->fast;
}

static void port92_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct lpc *l = dev;

    if ((value & FAST_RESET) && !(l->fast & FAST_RESET))
        board_power(l->dev.board, POWER_RESET, 0);
    l->fast = value & (FAST_RESET | FAST_A20); /* A20 is only remembered: it is never masked */
}

static uint64_t apm_read(void *dev, uint64_t offset, unsigned size)
{
    return ((struct lpc *)dev)->apm_byte[offset & 1];
}

/* Real boards enter SMM here, and firmware then sets or clears SCI_EN. */
static void apm_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct lpc *l = dev;

    l->apm_byte[offset & 1] = (uint8_t)value;
    if (offset == 0 && (value == APM_ACPI_ENABLE || value == APM_ACPI_DISABLE))
        pm_acpi_mode(l->pm, value == APM_ACPI_ENABLE);
}

static uint64_t post_read(void *dev, uint64_t offset, unsigned size)
{
    return ((struct lpc *)dev)->post_code;
}

static void post_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    ((struct lpc *)dev)->post_code = (uint8_t)value;
}

static uint64_t rcrb_read(void *dev, uint64_t offset, unsigned size)
{
    uint64_t word = (offset - RCRB_FIRST) / 4;

    return word < RCRB_WORDS ? ((struct lpc *)dev)->rcrb_word[word] : 0;
}

static void rcrb_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    uint64_t word = (offset - RCRB_FIRST) / 4;

    if (word < RCRB_WORDS)
        ((struct lpc *)dev)->rcrb_word[word] = (uint32_t)value;
}

static const struct region_ops port92_ops = {port92_read, port92_write, 1, 1};
static const struct region_ops apm_ops = {apm_read, apm_write, 1, 1};
static const struct region_ops post_ops = {post_read, post_write, 1, 1};
static const struct region_ops rcrb_ops = {rcrb_read, rcrb_write, 4, 4};

/* ---- the device ---- */

/* Config bytes to mappings and routes, after they changed as a whole. */
static void lpc_update(struct lpc *l)
{
    pthread_mutex_lock(&l->dev.lock);
    lpc_map_pm(l);
    lpc_route(l);
    lpc_map_rcrb(l);
    pthread_mutex_unlock(&l->dev.lock);
}

static void lpc_reset(struct device *dev)
{
    struct lpc *l = lpc_of(dev);

    pci_function_reset(&l->pci);
    l->fast = FAST_A20;
    l->post_code = 0;
    memset(l->apm_byte, 0, sizeof l->apm_byte);
    memset(l->rcrb_word, 0, sizeof l->rcrb_word);
    lpc_update(l);
}

static bool lpc_attach(struct device *dev, struct board *board, struct err *err)
{
    struct lpc *l = lpc_of(dev);

    l->pm = board_device(board, "pm");
    if (!l->pm || !board->irqchip)
        return err_set(err, ENODEV, "the LPC bridge needs pm and irqchip first");
    lpc_describe(l);
    l->port92 = (struct region){"port92", 0x92, 1, &port92_ops, l, &dev->lock};
    l->apm = (struct region){"apm", 0xb2, 2, &apm_ops, l, &dev->lock};
    l->post = (struct region){"post", 0x80, 1, &post_ops, l, &dev->lock};
    l->rcrb = (struct region){"rcrb", 0, RCRB_LEN, &rcrb_ops, l, &dev->lock};
    if (!pci_attach(board, &l->pci, PCI_DEVFN(31, 0), err) ||
        !bus_add(board->pio, &l->port92, err) || !bus_add(board->pio, &l->apm, err) ||
        !bus_add(board->pio, &l->post, err))
        return false;
    lpc_reset(dev);
    return true;
}

static void lpc_detach(struct device *dev)
{
    struct lpc *l = lpc_of(dev);

    bus_remove(dev->board->pio, &l->port92);
    bus_remove(dev->board->pio, &l->apm);
    bus_remove(dev->board->pio, &l->post);
    bus_remove(dev->board->mmio, &l->rcrb);
    pci_detach(&l->pci);
}

static bool lpc_restored(struct device *dev, struct err *err)
{
    struct lpc *l = lpc_of(dev);

    if (!pci_function_restored(&l->pci, err))
        return false;
    lpc_update(l);
    return true;
}

/* clang-format off */
static const struct field lpc_state[] = {
    FIELD_TABLE(struct lpc, pci, pci_function_state),
    FIELD(struct lpc, fast, FAST_RESET | FAST_A20),
    FIELD_ARRAY(struct lpc, apm_byte, 0xff),
    FIELD(struct lpc, post_code, 0xff),
    FIELD_ARRAY(struct lpc, rcrb_word, UINT32_MAX),
    {0},
};
/* clang-format on */

const struct device_type lpc_type = {
    .name = "lpc",
    .size = sizeof(struct lpc),
    .state = lpc_state,
    .state_version = 1,
    .attach = lpc_attach,
    .reset = lpc_reset,
    .restored = lpc_restored,
    .detach = lpc_detach,
};
