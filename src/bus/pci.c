/* SPDX-License-Identifier: MIT */
/* The PCI root: dispatch of configuration cycles, BAR mapping and INTx lines of bus 0.
 *
 * A configuration write goes through the function's masks into its config bytes, then the root
 * draws the conclusions: BARs move on the buses, INTx follows the command register, MSI-X its
 * control word (bus/msix.c), and the owner hears of it last. */
#include "bus/pci.h"
#include "bus/msix.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

struct pci_root {
    struct board *board;
    pthread_mutex_t lock;           /* the slots, and wanted, mapped and intx_* of all functions */
    struct pci_function *slot[256]; /* bus 0 by devfn */
    uint16_t pirq_users[PCI_PIRQS]; /* functions that drive each line */
};

struct pci_root *pci_root_new(struct board *board)
{
    struct pci_root *root = calloc(1, sizeof *root);

    if (!root)
        return NULL;
    root->board = board;
    pthread_mutex_init(&root->lock, NULL);
    board->pci = root;
    return root;
}

void pci_root_free(struct pci_root *root)
{
    if (!root)
        return;
    root->board->pci = NULL;
    pthread_mutex_destroy(&root->lock);
    free(root);
}

/* ---- configuration cycles ---- */

static struct pci_function *pci_find(struct pci_root *root, uint16_t bdf)
{
    struct pci_function *f;

    if (bdf > 0xff)
        return NULL;
    pthread_mutex_lock(&root->lock);
    f = root->slot[bdf];
    pthread_mutex_unlock(&root->lock);
    return f;
}

static bool config_access_ok(unsigned offset, unsigned size)
{
    return (size == 1 || size == 2 || size == 4) && offset < PCI_CONFIG_LEN &&
           (offset & 3) + size <= 4;
}

static void pci_bars_update(struct pci_function *f);
static void pci_intx_update(struct pci_function *f);
static bool pci_intx_level(struct pci_function *f);

uint32_t pci_config_read(struct pci_root *root, uint16_t bdf, unsigned offset, unsigned size)
{
    struct pci_function *f = pci_find(root, bdf);
    uint32_t value = 0;

    if (!f || !config_access_ok(offset, size))
        return UINT32_MAX >> (size < 4 ? 32 - size * 8 : 0);
    pthread_mutex_lock(&f->dev->lock);
    if (f->config_reading)
        f->config_reading(f, offset, size);
    memcpy(&value, &f->config[offset], size);
    if (offset <= PCI_STATUS && offset + size > PCI_STATUS && pci_intx_level(f))
        value |= PCI_STATUS_INTX << (PCI_STATUS - offset) * 8;
    pthread_mutex_unlock(&f->dev->lock);
    return value;
}

void pci_config_write(struct pci_root *root, uint16_t bdf, unsigned offset, uint32_t value,
                      unsigned size)
{
    struct pci_function *f = pci_find(root, bdf);

    if (!f || !config_access_ok(offset, size))
        return;
    pthread_mutex_lock(&f->dev->lock);
    for (unsigned i = 0; i < size; i++) {
        uint8_t byte = (uint8_t)(value >> (i * 8));
        uint8_t mask = f->writable[offset + i];

        f->config[offset + i] &= (uint8_t) ~(byte & f->write1clear[offset + i]);
        f->config[offset + i] = (uint8_t)((f->config[offset + i] & ~mask) | (byte & mask));
    }
    if (offset < PCI_COMMAND + 2 || (offset >= PCI_BAR0 && offset < PCI_BAR0 + 4 * PCI_BARS)) {
        pci_bars_update(f);
        pci_intx_update(f);
    }
    if (f->msix_count && offset < f->msix_cap + 4u && offset + size > f->msix_cap)
        msix_control_update(f);
    if (f->config_written)
        f->config_written(f, offset, size);
    pthread_mutex_unlock(&f->dev->lock);
}

/* ---- BARs ---- */

static struct bus *bar_bus(struct pci_root *root, const struct pci_bar *bar)
{
    return bar->io ? root->board->pio : root->board->mmio;
}

/* What stands on the bus for BAR `n`: with the MSI-X table inside, bus/msix.c's region. */
static struct region *bar_region(struct pci_function *f, unsigned n)
{
    return f->msix_count && f->msix_bar == n ? &f->msix_region : &f->bar[n].region;
}

/* The address programmed into BAR `n`; false while it is not decoded. */
static bool bar_address(const struct pci_function *f, unsigned n, uint64_t *base)
{
    const struct pci_bar *bar = &f->bar[n];
    uint16_t command = le16(&f->config[PCI_COMMAND]);
    uint64_t low = le32(&f->config[PCI_BAR0 + 4 * n]);

    if (bar->io) {
        *base = low & ~3ULL;
        return (command & PCI_COMMAND_IO) && *base && *base + bar->size <= 0x10000;
    }
    *base = low & ~15ULL;
    if (bar->is64)
        *base |= (uint64_t)le32(&f->config[PCI_BAR0 + 4 * n + 4]) << 32;
    if (!(command & PCI_COMMAND_MEMORY) || !*base)
        return false;
    /* all ones is a driver asking for the size */
    return bar->is64 ? bar->size <= -*base && *base < BIT(52) : *base + bar->size < 1ULL << 32;
}

/* Takes a bell off the engine, or puts it where its BAR stands now. */
static void bell_update_locked(struct pci_root *root, struct pci_function *f, struct pci_bell *bell)
{
    struct board *b = root->board;

    if (bell->on)
        b->ops->bell(b, bell->at, bell->fd, false);
    bell->at = bar_region(f, f->bell_bar)->base + bell->offset;
    bell->on = f->bar[f->bell_bar].mapped && bell->fd >= 0 && b->ops->bell &&
               b->ops->bell(b, bell->at, bell->fd, true);
}

static void bells_update_locked(struct pci_root *root, struct pci_function *f, unsigned bar)
{
    for (unsigned n = 0; bar == f->bell_bar && n < f->bell_count; n++)
        bell_update_locked(root, f, &f->bell[n]);
}

void pci_bell_set(struct pci_function *f, unsigned n, uint32_t offset, int fd)
{
    struct pci_root *root = f->root;
    struct pci_bell *bell = &f->bell[n];

    assert(n < PCI_BELLS_MAX);
    if (!root)
        return;
    pthread_mutex_lock(&root->lock);
    for (; f->bell_count <= n; f->bell_count++)
        f->bell[f->bell_count].fd = -1;
    if (bell->on)
        root->board->ops->bell(root->board, bell->at, bell->fd, false);
    bell->on = false;
    bell->fd = fd;
    bell->offset = offset;
    bell_update_locked(root, f, bell);
    pthread_mutex_unlock(&root->lock);
}

static void bars_map_locked(struct pci_root *root, struct pci_function *f)
{
    for (unsigned n = 0; n < PCI_BARS; n++) {
        struct pci_bar *bar = &f->bar[n];
        struct err err;

        if (!bar->wanted || bar->mapped)
            continue;
        bar->mapped = bus_add(bar_bus(root, bar), bar_region(f, n), &err);
        bells_update_locked(root, f, n);
    }
}

static void bar_unmap_locked(struct pci_root *root, struct pci_function *f, unsigned n)
{
    bool mapped = f->bar[n].mapped;

    f->bar[n].mapped = f->bar[n].wanted = false;
    if (!mapped)
        return;
    bells_update_locked(root, f, n);
    bus_remove(bar_bus(root, &f->bar[n]), bar_region(f, n));
}

/* Moves f's BARs to where its config bytes say, then tries all that found no place so far. */
static void pci_bars_update(struct pci_function *f)
{
    struct pci_root *root = f->root;
    bool changed = false;

    pthread_mutex_lock(&root->lock);
    for (unsigned n = 0; n < PCI_BARS; n++) {
        struct region *r = bar_region(f, n);
        uint64_t base = 0;
        bool wanted = f->bar[n].size && bar_address(f, n, &base);

        if (wanted == f->bar[n].wanted && (!wanted || base == r->base))
            continue;
        bar_unmap_locked(root, f, n);
        f->bar[n].wanted = wanted;
        if (wanted)
            r->base = base;
        changed = true;
    }
    for (unsigned i = 0; changed && i < ARRAY_SIZE(root->slot); i++)
        if (root->slot[i])
            bars_map_locked(root, root->slot[i]);
    pthread_mutex_unlock(&root->lock);
}

/* ---- INTx ---- */

unsigned pci_pirq(unsigned slot, unsigned pin)
{
    return slot < 25 ? 4 + ((slot + pin - 1) & 3) : (pin - 1) & 3;
}

static void intx_drive_locked(struct pci_root *root, struct pci_function *f)
{
    bool level = f->intx_level && !f->intx_off;
    uint8_t pin = f->initial[PCI_INTERRUPT_PIN];
    unsigned pirq;

    if (level == f->intx_driven || !pin || pin > 4)
        return;
    f->intx_driven = level;
    pirq = pci_pirq(f->devfn >> 3, pin);
    root->pirq_users[pirq] = (uint16_t)(root->pirq_users[pirq] + (level ? 1 : -1));
    if (root->pirq_users[pirq] == (level ? 1 : 0)) /* only the first and the last move the line */
        board_irq(root->board, PCI_PIRQ_GSI + pirq, level);
}

static void pci_intx_update(struct pci_function *f)
{
    pthread_mutex_lock(&f->root->lock);
    f->intx_off = le16(&f->config[PCI_COMMAND]) & PCI_COMMAND_INTX_OFF;
    intx_drive_locked(f->root, f);
    pthread_mutex_unlock(&f->root->lock);
}

void pci_intx(struct pci_function *f, bool level)
{
    pthread_mutex_lock(&f->root->lock);
    f->intx_level = level;
    intx_drive_locked(f->root, f);
    pthread_mutex_unlock(&f->root->lock);
}

static bool pci_intx_level(struct pci_function *f)
{
    bool level;

    pthread_mutex_lock(&f->root->lock);
    level = f->intx_level;
    pthread_mutex_unlock(&f->root->lock);
    return level;
}

/* ---- describing a function ---- */

void pci_header(struct pci_function *f, uint16_t vendor, uint16_t device, uint32_t class_code,
                uint8_t revision, uint16_t subsystem_vendor, uint16_t subsystem, uint8_t pin)
{
    put_le16(&f->config[0], vendor);
    put_le16(&f->config[2], device);
    put_le32(&f->config[PCI_CLASS_REVISION], class_code << 8 | revision);
    put_le16(&f->config[PCI_SUBSYSTEM_VENDOR], subsystem_vendor);
    put_le16(&f->config[PCI_SUBSYSTEM_VENDOR + 2], subsystem);
    f->config[PCI_INTERRUPT_PIN] = pin;
    put_le16(&f->writable[PCI_COMMAND], 0x0144 | PCI_COMMAND_INTX_OFF);
    put_le16(&f->write1clear[PCI_STATUS], 0xf900);
    f->writable[0x0c] = 0xff; /* cache line size: no effect, but drivers set it */
    if (pin)
        f->writable[PCI_INTERRUPT_LINE] = 0xff;
    f->cap_at = 0x40;
}

uint8_t pci_add_capability(struct pci_function *f, uint8_t id, uint8_t len)
{
    uint8_t at = f->cap_at;

    assert(at >= 0x40 && at + len <= 0x100);
    f->config[at] = id;
    f->config[f->cap_last ? f->cap_last + 1 : PCI_CAPABILITIES] = at;
    f->config[PCI_STATUS] |= PCI_STATUS_CAPABILITIES;
    f->cap_last = at;
    f->cap_at = (uint8_t)align_up((uint64_t)at + len, 4); /* 0 when full: the next call asserts */
    return at;
}

void pci_add_bar(struct pci_function *f, unsigned n, uint64_t size, bool is64, bool prefetch,
                 bool io)
{
    struct pci_bar *bar = &f->bar[n];
    unsigned at = PCI_BAR0 + 4 * n;
    uint64_t mask = ~(size - 1);

    assert(n + is64 < PCI_BARS && is_power_of_2(size) && size >= (io ? 4 : 16) && !bar->size);
    assert(is64 || size < 1ULL << 32);
    bar->size = bar->region.size = size;
    bar->io = io;
    bar->is64 = is64;
    bar->prefetch = prefetch;
    f->config[at] = (uint8_t)(io ? 1 : (is64 ? 4 : 0) | (prefetch ? 8 : 0));
    put_le32(&f->writable[at], (uint32_t)mask & (io ? ~3u : ~15u));
    if (is64)
        put_le32(&f->writable[at + 4], (uint32_t)(mask >> 32));
    f->writable[PCI_COMMAND] |= io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
}

/* ---- attaching ---- */

static int free_devfn_locked(const struct pci_root *root)
{
    for (int slot = 1; slot < 31; slot++) { /* 0 and 31 are the chipset's */
        bool taken = false;

        for (int fn = 0; fn < 8; fn++)
            taken |= root->slot[PCI_DEVFN(slot, fn)] != NULL;
        if (!taken)
            return PCI_DEVFN(slot, 0);
    }
    return -1;
}

bool pci_attach(struct board *board, struct pci_function *f, int devfn, struct err *err)
{
    struct pci_root *root = board->pci;

    if (!root)
        return err_set(err, ENODEV, "the board has no PCI host bridge");
    pthread_mutex_lock(&root->lock);
    if (devfn < 0)
        devfn = free_devfn_locked(root);
    if (devfn < 0 || devfn > 0xff || root->slot[devfn]) {
        pthread_mutex_unlock(&root->lock);
        if (devfn < 0)
            return err_set(err, ENOSPC, "no free slot on PCI bus 0");
        return err_set(err, EEXIST, "PCI slot %02x.%x is taken", devfn >> 3, devfn & 7);
    }
    memcpy(f->initial, f->config, sizeof f->initial);
    pthread_mutex_init(&f->msix_lock, NULL);
    list_init(&f->msix_lines);
    f->devfn = (uint8_t)devfn;
    f->root = root;
    root->slot[devfn] = f;
    pthread_mutex_unlock(&root->lock);
    return true;
}

void pci_detach(struct pci_function *f)
{
    struct pci_root *root = f->root;

    if (!root)
        return;
    pthread_mutex_lock(&root->lock);
    root->slot[f->devfn] = NULL;
    for (unsigned n = 0; n < PCI_BARS; n++)
        bar_unmap_locked(root, f, n);
    f->intx_level = false;
    intx_drive_locked(root, f);
    pthread_mutex_unlock(&root->lock);
    f->root = NULL;
}

/* Everything that follows from config bytes, after they changed as a whole. */
static void pci_function_update(struct pci_function *f)
{
    pci_bars_update(f);
    pci_intx_update(f);
    if (f->msix_count)
        msix_control_update(f);
}

void pci_function_reset(struct pci_function *f)
{
    pthread_mutex_lock(&f->dev->lock);
    memcpy(f->config, f->initial, sizeof f->config);
    if (f->msix_count)
        msix_reset(f);
    pci_intx(f, false);
    pci_function_update(f);
    pthread_mutex_unlock(&f->dev->lock);
}

/* ---- state ---- */

/* clang-format off */
const struct field pci_function_state[] = {
    FIELD_BYTES(struct pci_function, config),
    FIELD_TABLES(struct pci_function, msix, msix_entry_state),
    FIELD_ARRAY(struct pci_function, msix_pending, UINT64_MAX),
    FIELD(struct pci_function, intx_level, 1),
    {0},
};
/* clang-format on */

bool pci_function_restored(struct pci_function *f, struct err *err)
{
    bool level = f->intx_level;

    for (unsigned i = 0; i < PCI_CONFIG_LEN; i++) {
        uint8_t may = f->writable[i] | f->write1clear[i];

        if ((f->config[i] ^ f->initial[i]) & ~may)
            return err_set(err, EINVAL, "PCI register 0x%x: read-only bits differ", i);
    }
    if (!msix_restored(f, err))
        return false;
    pthread_mutex_lock(&f->dev->lock);
    pci_intx(f, level);
    pci_function_update(f);
    pthread_mutex_unlock(&f->dev->lock);
    return true;
}
