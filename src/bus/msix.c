/* SPDX-License-Identifier: MIT */
/* MSI-X: vector table, pending bits and the capability. PCI Local Bus 3.0, 6.8.2.
 *
 * Table and PBA lie inside a BAR of the device. f->msix_region stands on the bus for that BAR and
 * passes accesses outside the table and the PBA on to the owner's region. */
#include "bus/msix.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <unistd.h>

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

/* ---- eventfds ---- */

/* A line is the engine's while nothing masks its vector. Otherwise what is written to the eventfd
 * stays there, as the pending bit, and the engine finds it when it gets the line back. */
static void line_update_locked(struct pci_function *f, struct pci_msix_line *l)
{
    struct board *b = f->dev->board;
    const struct msix_entry *e = &f->msix[l->vector];
    struct msi msi = {.address = e->address, .data = e->data};
    bool live = f->msix_on && !f->msix_masked && !(e->control & ENTRY_MASKED);

    if (live == l->on && (!live || (msi.address == l->msi.address && msi.data == l->msi.data)))
        return;
    l->msi = msi;
    l->on = b->ops->msi_fd(b, l->fd, live ? &msi : NULL) && live;
}

static void lines_update(struct pci_function *f)
{
    pthread_mutex_lock(&f->msix_lock);
    list_for(at, &f->msix_lines)
        line_update_locked(f, container_of(at, struct pci_msix_line, link));
    pthread_mutex_unlock(&f->msix_lock);
}

bool pci_msix_bind(struct pci_function *f, struct pci_msix_line *l)
{
    struct board *b = f->dev->board;

    if (!f->root || l->vector >= f->msix_count || !b->ops->msi_fd ||
        !b->ops->msi_fd(b, l->fd, NULL))
        return false;
    pthread_mutex_lock(&f->msix_lock);
    list_add(&f->msix_lines, &l->link);
    line_update_locked(f, l);
    pthread_mutex_unlock(&f->msix_lock);
    return true;
}

void pci_msix_unbind(struct pci_function *f, struct pci_msix_line *l)
{
    struct board *b = f->dev->board;
    uint64_t count;

    if (!l->link.next)
        return;
    pthread_mutex_lock(&f->msix_lock);
    list_remove(&l->link);
    if (l->on)
        b->ops->msi_fd(b, l->fd, NULL);
    l->on = false;
    l->link.next = NULL;
    pthread_mutex_unlock(&f->msix_lock);
    if (read(l->fd, &count, sizeof count) ==
        sizeof count) /* waited in it: now in the pending bit */
        pci_msix_fire(f, l->vector);
}

/* What waits in an eventfd shows in the pending bits, where drivers that poll look for it. */
static bool line_waits(const struct pci_msix_line *l)
{
    struct pollfd p = {.fd = l->fd, .events = POLLIN};

    return !l->on && poll(&p, 1, 0) > 0;
}

static uint64_t lines_pending_locked(struct pci_function *f, unsigned word)
{
    uint64_t bits = 0;

    list_for(at, &f->msix_lines)
    {
        const struct pci_msix_line *l = container_of(at, struct pci_msix_line, link);

        if (l->vector / 64 == word && line_waits(l))
            bits |= BIT(l->vector % 64);
    }
    return bits;
}

/* ---- firing ---- */

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
    lines_update(f);
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
    lines_update(f);
}

static uint64_t pba_read(struct pci_function *f, uint64_t offset, unsigned size)
{
    uint64_t value = 0, word;

    pthread_mutex_lock(&f->msix_lock);
    word = f->msix_pending[offset / 8] | lines_pending_locked(f, (unsigned)(offset / 8));
    memcpy(&value, (const uint8_t *)&word + offset % 8, size); /* aligned: within the word */
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
