/* SPDX-License-Identifier: MIT */
/* MSI-X: vector table, pending bits and the capability. PCI Local Bus 3.0, 6.8.2.
 *
 * Table and PBA lie inside a BAR of the device. f->msix_region stands on the bus for that BAR and
 * passes accesses outside the table and the PBA on to the owner's region. */
#include "bus/msix.h"

#include <assert.h>
#include <errno.h>

#define ENTRY_LEN    16
#define ENTRY_MASKED 1u
#define CONTROL_ON   0x8000
#define CONTROL_MASK 0x4000

/* clang-format off */
const struct field msix_entry_state[] = {
    FIELD(struct msix_entry, address, UINT64_MAX),
    FIELD(struct msix_entry, data, UINT32_MAX),
    FIELD(struct msix_entry, control, ENTRY_MASKED),
    {0},
};
/* clang-format on */

static bool pending_get(const struct pci_function *f, unsigned v)
{
    return f->msix_pending[v / 64] & BIT(v % 64);
}

/* Takes `v`'s message if it is pending and nothing masks it any more. */
static bool msix_due_locked(struct pci_function *f, unsigned v, struct msi *msi)
{
    struct msix_entry *e = &f->msix[v];

    if (!f->msix_on || f->msix_masked || (e->control & ENTRY_MASKED) || !pending_get(f, v))
        return false;
    f->msix_pending[v / 64] &= ~BIT(v % 64);
    *msi = (struct msi){.address = e->address, .data = e->data};
    return true;
}

static void msix_deliver(struct pci_function *f, unsigned v)
{
    struct msi msi;
    bool due;

    pthread_mutex_lock(&f->msix_lock);
    due = msix_due_locked(f, v, &msi);
    pthread_mutex_unlock(&f->msix_lock);
    if (due)
        board_msi(f->dev->board, &msi);
}

void pci_msix_fire(struct pci_function *f, uint16_t vector)
{
    if (vector >= f->msix_count)
        return; /* a driver may name a vector that is not there: no interrupt */
    pthread_mutex_lock(&f->msix_lock);
    if (f->msix_on)
        f->msix_pending[vector / 64] |= BIT(vector % 64);
    pthread_mutex_unlock(&f->msix_lock);
    msix_deliver(f, vector);
}

bool pci_msix_enabled(struct pci_function *f)
{
    bool on;

    if (!f->msix_count)
        return false;
    pthread_mutex_lock(&f->msix_lock);
    on = f->msix_on;
    pthread_mutex_unlock(&f->msix_lock);
    return on;
}

void msix_control_update(struct pci_function *f)
{
    uint16_t control = le16(&f->config[f->msix_cap + 2]);

    pthread_mutex_lock(&f->msix_lock);
    f->msix_on = control & CONTROL_ON;
    f->msix_masked = control & CONTROL_MASK;
    pthread_mutex_unlock(&f->msix_lock);
    for (unsigned v = 0; v < f->msix_count; v++)
        msix_deliver(f, v);
}

void msix_reset(struct pci_function *f)
{
    pthread_mutex_lock(&f->msix_lock);
    memset(f->msix_pending, 0, sizeof f->msix_pending);
    for (unsigned v = 0; v < f->msix_count; v++)
        f->msix[v] = (struct msix_entry){.control = ENTRY_MASKED};
    pthread_mutex_unlock(&f->msix_lock);
}

bool msix_restored(struct pci_function *f, struct err *err)
{
    for (unsigned v = f->msix_count; v < PCI_MSIX_MAX; v++)
        if (pending_get(f, v))
            return err_set(err, EINVAL, "MSI-X vector %u is pending, but there are %u", v,
                           f->msix_count);
    return true;
}

/* ---- the BAR ---- */

static void entry_to_bytes(const struct msix_entry *e, uint8_t bytes[ENTRY_LEN])
{
    put_le64(bytes, e->address);
    put_le32(bytes + 8, e->data);
    put_le32(bytes + 12, e->control);
}

static uint64_t table_read(struct pci_function *f, uint64_t offset, unsigned size)
{
    uint8_t bytes[ENTRY_LEN];
    uint64_t value = 0;

    pthread_mutex_lock(&f->msix_lock);
    entry_to_bytes(&f->msix[offset / ENTRY_LEN], bytes);
    pthread_mutex_unlock(&f->msix_lock);
    memcpy(&value, bytes + offset % ENTRY_LEN, size); /* aligned: never across entries */
    return value;
}

static void table_write(struct pci_function *f, uint64_t offset, uint64_t value, unsigned size)
{
    struct msix_entry *e = &f->msix[offset / ENTRY_LEN];
    uint8_t bytes[ENTRY_LEN];

    pthread_mutex_lock(&f->msix_lock);
    entry_to_bytes(e, bytes);
    memcpy(bytes + offset % ENTRY_LEN, &value, size);
    e->address = le64(bytes) & ~3ULL;
    e->data = le32(bytes + 8);
    e->control = le32(bytes + 12) & ENTRY_MASKED;
    pthread_mutex_unlock(&f->msix_lock);
    msix_deliver(f, (unsigned)(offset / ENTRY_LEN));
}

static uint64_t pba_read(struct pci_function *f, uint64_t offset, unsigned size)
{
    uint64_t value = 0;

    pthread_mutex_lock(&f->msix_lock);
    memcpy(&value, (const uint8_t *)f->msix_pending + offset, size);
    pthread_mutex_unlock(&f->msix_lock);
    return value;
}

static bool in_table(const struct pci_function *f, uint64_t *offset)
{
    uint64_t at = *offset - f->msix_table_at;

    if (at >= (uint64_t)f->msix_count * ENTRY_LEN)
        return false;
    *offset = at;
    return true;
}

static bool in_pba(const struct pci_function *f, uint64_t *offset)
{
    uint64_t at = *offset - f->msix_pba_at;

    if (at >= (f->msix_count + 63u) / 64 * 8)
        return false;
    *offset = at;
    return true;
}

static uint64_t msix_bar_read(void *dev, uint64_t offset, unsigned size)
{
    struct pci_function *f = dev;
    struct region *owner = &f->bar[f->msix_bar].region;

    if (in_table(f, &offset))
        return table_read(f, offset, size);
    if (in_pba(f, &offset))
        return pba_read(f, offset, size);
    return owner->ops ? region_read(owner, offset, size) : 0;
}

static void msix_bar_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct pci_function *f = dev;
    struct region *owner = &f->bar[f->msix_bar].region;

    if (in_table(f, &offset))
        table_write(f, offset, value, size);
    else if (!in_pba(f, &offset) && owner->ops)
        region_write(owner, offset, value, size);
}

static const struct region_ops msix_bar_ops = {msix_bar_read, msix_bar_write, 1, 8};

void pci_add_msix(struct pci_function *f, uint16_t count, unsigned bar, uint32_t table_offset,
                  uint32_t pba_offset)
{
    uint8_t cap = pci_add_capability(f, PCI_CAP_MSIX, 12);

    assert(count && count <= PCI_MSIX_MAX && bar < PCI_BARS && f->bar[bar].size);
    assert(!(table_offset & 15) && !(pba_offset & 7));
    assert(table_offset + count * ENTRY_LEN <= f->bar[bar].size);
    assert(pba_offset + (count + 63u) / 64 * 8 <= f->bar[bar].size);
    f->msix_count = count;
    f->msix_bar = (uint8_t)bar;
    f->msix_cap = cap;
    f->msix_table_at = table_offset;
    f->msix_pba_at = pba_offset;
    f->msix_region = f->bar[bar].region;
    f->msix_region.ops = &msix_bar_ops;
    f->msix_region.dev = f;
    f->msix_region.lock = NULL; /* region_read and region_write take the owner's */
    put_le16(&f->config[cap + 2], count - 1);
    put_le16(&f->writable[cap + 2], CONTROL_ON | CONTROL_MASK);
    put_le32(&f->config[cap + 4], table_offset | bar);
    put_le32(&f->config[cap + 8], pba_offset | bar);
    for (unsigned v = 0; v < count; v++)
        f->msix[v].control = ENTRY_MASKED;
}
