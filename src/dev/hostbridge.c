/* SPDX-License-Identifier: MIT */
/* The Q35 host bridge, 8086:29c0 at 00:00.0: configuration ports, ECAM window, reset port 0xcf9.
 * Intel 3 Series chipset data sheet.
 *
 * ECAM is on at reset, where firmware would put it, so that a directly booted kernel finds it as
 * the MCFG table says; firmware may move it with PCIEXBAR. */
#include "boot/layout.h"
#include "bus/pci.h"
#include "dev/types.h"

#include <errno.h>

#define PCIEXBAR   0x60
#define PAM0       0x90 /* to 0x96: shadowing of c0000-fffff; all RAM here, so the bits are only kept */
#define SMRAM      0x9d
#define ECAM_ON    1
#define CONFIG_ON  0x80000000
#define RESET_FULL 0x02 /* of port 0xcf9 */
#define RESET_CPU  0x04

struct hostbridge {
    struct device dev;
    struct pci_function pci;
    struct region ports, ecam;
    bool ecam_mapped;
    uint32_t address; /* port 0xcf8 */
    uint8_t reset_control;
};

static struct hostbridge *hostbridge_of(struct device *dev)
{
    return container_of(dev, struct hostbridge, dev);
}

/* ---- ports 0xcf8 to 0xcff ---- */

static uint64_t ports_read(void *dev, uint64_t offset, unsigned size)
{
    struct hostbridge *h = dev;
    struct pci_root *root = h->dev.board->pci;
    uint64_t value = UINT64_MAX;
    uint32_t address;

    pthread_mutex_lock(&h->dev.lock);
    address = h->address;
    if (offset == 0 && size == 4)
        value = address;
    else if (offset == 1 && size == 1)
        value = h->reset_control;
    pthread_mutex_unlock(&h->dev.lock);
    if (offset >= 4 && (address & CONFIG_ON))
        value = pci_config_read(root, address >> 8 & 0xffff, (address & 0xfc) | (offset & 3), size);
    return value;
}

static void reset_write(struct hostbridge *h, uint8_t value)
{
    if ((value & RESET_CPU) && !(h->reset_control & RESET_CPU))
        board_power(h->dev.board, POWER_RESET, 0);
    h->reset_control = value & (RESET_FULL | 0x08);
}

static void ports_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct hostbridge *h = dev;
    uint32_t address;

    pthread_mutex_lock(&h->dev.lock);
    if (offset == 0 && size == 4)
        h->address = (uint32_t)value & 0x80fffffc;
    else if (offset == 1 && size == 1)
        reset_write(h, (uint8_t)value);
    address = h->address;
    pthread_mutex_unlock(&h->dev.lock);
    if (offset >= 4 && (address & CONFIG_ON))
        pci_config_write(h->dev.board->pci, address >> 8 & 0xffff, (address & 0xfc) | (offset & 3),
                         (uint32_t)value, size);
}

static const struct region_ops ports_ops = {ports_read, ports_write, 1, 4};

/* ---- ECAM ---- */

static uint64_t ecam_read(void *dev, uint64_t offset, unsigned size)
{
    struct hostbridge *h = dev;

    return pci_config_read(h->dev.board->pci, (uint16_t)(offset >> 12), offset & 0xfff, size);
}

static void ecam_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct hostbridge *h = dev;

    pci_config_write(h->dev.board->pci, (uint16_t)(offset >> 12), offset & 0xfff, (uint32_t)value,
                     size);
}

static const struct region_ops ecam_ops = {ecam_read, ecam_write, 1, 4};

static void ecam_update(struct hostbridge *h)
{
    uint64_t bar = le64(&h->pci.config[PCIEXBAR]);
    unsigned length = bar >> 1 & 3; /* 0: 256 buses, 1: 128, 2: 64 */
    uint64_t size = LAYOUT_ECAM_SIZE >> length;
    struct err err;

    if (h->ecam_mapped)
        bus_remove(h->dev.board->mmio, &h->ecam);
    h->ecam.base = align_down(bar & 0xffc000000, size);
    h->ecam.size = size;
    h->ecam_mapped = (bar & ECAM_ON) && length < 3 && h->ecam.base &&
                     bus_add(h->dev.board->mmio, &h->ecam, &err);
}

static void hostbridge_config_written(struct pci_function *f, unsigned offset, unsigned size)
{
    struct hostbridge *h = container_of(f, struct hostbridge, pci);

    if (offset + size > PCIEXBAR && offset < PCIEXBAR + 8)
        ecam_update(h);
}

/* ---- the device ---- */

static void hostbridge_describe(struct hostbridge *h)
{
    struct pci_function *f = &h->pci;

    f->dev = &h->dev;
    f->config_written = hostbridge_config_written;
    pci_header(f, 0x8086, 0x29c0, 0x060000, 0, 0x1af4, 0x1100, 0);
    put_le64(&f->config[PCIEXBAR], LAYOUT_ECAM_BASE | ECAM_ON);
    put_le64(&f->writable[PCIEXBAR], 0xffc000007);
    for (unsigned i = PAM0; i < PAM0 + 7; i++) {
        f->config[i] = i == PAM0 ? 0x30 : 0x33;
        f->writable[i] = i == PAM0 ? 0x30 : 0x33;
    }
    f->config[SMRAM] = 0x02;
    f->writable[SMRAM] = 0x78;
}

static bool hostbridge_attach(struct device *dev, struct board *board, struct err *err)
{
    struct hostbridge *h = hostbridge_of(dev);

    if (board->pci)
        return err_set(err, EEXIST, "the board has a PCI host bridge already");
    if (!pci_root_new(board))
        return err_set(err, ENOMEM, "no memory for the PCI root");
    hostbridge_describe(h);
    h->ports = (struct region){"pci-config", 0xcf8, 8, &ports_ops, h, NULL};
    h->ecam = (struct region){"ecam", 0, 0, &ecam_ops, h, NULL};
    if (!pci_attach(board, &h->pci, 0, err) || !bus_add(board->pio, &h->ports, err))
        return false;
    ecam_update(h);
    return h->ecam_mapped || err_set(err, EBUSY, "the place of ECAM is taken");
}

static void hostbridge_reset(struct device *dev)
{
    struct hostbridge *h = hostbridge_of(dev);

    pci_function_reset(&h->pci);
    pthread_mutex_lock(&dev->lock);
    h->address = 0;
    h->reset_control = 0;
    ecam_update(h);
    pthread_mutex_unlock(&dev->lock);
}

static void hostbridge_detach(struct device *dev)
{
    struct hostbridge *h = hostbridge_of(dev);

    if (!h->pci.root)
        return; /* attach failed before it owned the root */
    bus_remove(dev->board->pio, &h->ports);
    bus_remove(dev->board->mmio, &h->ecam);
    pci_detach(&h->pci);
    pci_root_free(dev->board->pci);
}

static bool hostbridge_restored(struct device *dev, struct err *err)
{
    struct hostbridge *h = hostbridge_of(dev);

    if (!pci_function_restored(&h->pci, err))
        return false;
    pthread_mutex_lock(&dev->lock);
    ecam_update(h);
    pthread_mutex_unlock(&dev->lock);
    return true;
}

/* clang-format off */
static const struct field hostbridge_state[] = {
    FIELD_TABLE(struct hostbridge, pci, pci_function_state),
    FIELD(struct hostbridge, address, 0x80fffffc),
    FIELD(struct hostbridge, reset_control, 0x0a),
    {0},
};
/* clang-format on */

const struct device_type hostbridge_type = {
    .name = "hostbridge",
    .size = sizeof(struct hostbridge),
    .state = hostbridge_state,
    .state_version = 1,
    .attach = hostbridge_attach,
    .reset = hostbridge_reset,
    .restored = hostbridge_restored,
    .detach = hostbridge_detach,
};
