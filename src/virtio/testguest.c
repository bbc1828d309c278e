/* SPDX-License-Identifier: MIT */
/* The guest side of virtio for tests: see testguest.h. */
#include "virtio/testguest.h"
#include "base/clock.h"
#include <assert.h>
#include <stdlib.h>

#define BAR_BASE 0xe0000000ULL

static void on_irq(struct board *b, unsigned gsi, bool level)
{
    struct guest *g = container_of(b, struct guest, board);

    g->line[gsi] = level;
    g->irqs += level;
}

static void on_msi(struct board *b, const struct msi *msi)
{
    struct guest *g = container_of(b, struct guest, board);

    if (msi->data < PCI_MSIX_MAX)
        __atomic_fetch_add(&g->msis[msi->data], 1, __ATOMIC_RELAXED);
}

static const struct board_ops board_ops = {.irq = on_irq, .msi = on_msi};

bool guest_open(struct guest *g)
{
    struct err err;

    memset(g, 0, sizeof *g);
    mem_init(&g->mem);
    mem_use_files(&g->mem);
    bus_init(&g->mmio, BIT(40));
    bus_init(&g->pio, 0x10000);
    board_init(&g->board, &board_ops);
    g->loop = loop_open(&err);
    g->board.mem = &g->mem;
    g->board.mmio = &g->mmio;
    g->board.pio = &g->pio;
    g->board.loop = g->loop;
    g->heap = 0x10000;
    return g->loop && pci_root_new(&g->board) &&
           mem_add(&g->mem, "ram", 0, GUEST_RAM, false, &err) &&
           mem_add(&g->mem, "rom", 0xfff00000, 64 * KiB, true, &err);
}

void guest_close(struct guest *g)
{
    board_close(&g->board);
    pci_root_free(g->board.pci);
    loop_close(g->loop);
    mem_close(&g->mem);
    bus_close(&g->mmio);
    bus_close(&g->pio);
}

struct device *guest_attach(struct guest *g, struct device *dev)
{
    struct err err;

    if (device_attach(&g->board, dev, &err))
        return dev;
    printf("# %s\n", err.text);
    return NULL;
}

unsigned guest_slot(struct device *dev)
{
    return container_of(dev, struct virtio, dev)->pci.devfn >> 3;
}

uint32_t guest_pci_read(struct guest *g, unsigned offset, unsigned size)
{
    return pci_config_read(g->board.pci, (uint16_t)PCI_DEVFN(g->slot, 0), offset, size);
}

void guest_pci_write(struct guest *g, unsigned offset, uint32_t value, unsigned size)
{
    pci_config_write(g->board.pci, (uint16_t)PCI_DEVFN(g->slot, 0), offset, value, size);
}

uint64_t guest_read(struct guest *g, uint64_t offset, unsigned size)
{
    return bus_read(&g->mmio, g->bar + offset, size);
}

void guest_write(struct guest *g, uint64_t offset, uint64_t value, unsigned size)
{
    bus_write(&g->mmio, g->bar + offset, value, size);
}

uint64_t guest_config(struct guest *g, unsigned offset, unsigned size)
{
    return guest_read(g, g->config + offset, size);
}

static void msix_setup(struct guest *g, unsigned cap)
{
    unsigned count = (guest_pci_read(g, cap + 2, 2) & 0x7ff) + 1;
    uint32_t table = guest_pci_read(g, cap + 4, 4) & ~7u;

    guest_pci_write(g, cap + 2, 0x8000, 2);
    for (unsigned i = 0; i < count; i++) {
        guest_write(g, table + 16 * i, 0xfee00000, 8);
        guest_write(g, table + 16 * i + 8, i, 4);
        guest_write(g, table + 16 * i + 12, 0, 4);
    }
}

bool guest_probe(struct guest *g, unsigned slot)
{
    unsigned msix = 0, found = 0;

    g->slot = slot;
    if (guest_pci_read(g, 0, 2) != 0x1af4 || guest_pci_read(g, 2, 2) < 0x1040)
        return false;
    g->bar = BAR_BASE + slot * 0x10000ULL;
    guest_pci_write(g, 0x20, (uint32_t)g->bar, 4);
    guest_pci_write(g, 0x24, 0, 4);
    guest_pci_write(g, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
    for (unsigned cap = guest_pci_read(g, 0x34, 1); cap; cap = guest_pci_read(g, cap + 1, 1)) {
        uint32_t at = guest_pci_read(g, cap + 8, 4);

        if (guest_pci_read(g, cap, 1) == PCI_CAP_MSIX)
            msix = cap;
        if (guest_pci_read(g, cap, 1) != PCI_CAP_VENDOR)
            continue;
        found |= 1u << guest_pci_read(g, cap + 3, 1);
        switch (guest_pci_read(g, cap + 3, 1)) {
        case VIRTIO_PCI_CAP_COMMON_CFG: g->common = at; break;
        case VIRTIO_PCI_CAP_ISR_CFG: g->isr = at; break;
        case VIRTIO_PCI_CAP_DEVICE_CFG: g->config = at; break;
        case VIRTIO_PCI_CAP_NOTIFY_CFG:
            g->notify = at;
            g->notify_step = guest_pci_read(g, cap + 16, 4);
            break;
        default: break;
        }
    }
    if (msix)
        msix_setup(g, msix);
    return (found & 0x2e) == 0x2e || (found & 0x3e) == 0x2e;
}

gpa guest_alloc(struct guest *g, size_t len, size_t align)
{
    gpa at = align_up(g->heap, align);

    assert(at + len <= GUEST_RAM);
    g->heap = at + len;
    memset(guest_ptr(g, at, len), 0, len);
    return at;
}

void *guest_ptr(struct guest *g, gpa addr, size_t len)
{
    void *p = mem_at(&g->mem, addr, len);

    assert(p);
    return p;
}

gpa guest_put(struct guest *g, const void *data, size_t len)
{
    gpa at = guest_alloc(g, len, 16);

    memcpy(guest_ptr(g, at, len), data, len);
    return at;
}

static uint64_t common_get(struct guest *g, unsigned offset, unsigned size)
{
    return guest_read(g, g->common + offset, size);
}

static void common_set(struct guest *g, unsigned offset, uint64_t value, unsigned size)
{
    guest_write(g, g->common + offset, value, size);
}

bool guest_reset(struct guest *g)
{
    uint64_t end = now_ns() + 5000000000, status;

    common_set(g, VIRTIO_PCI_COMMON_STATUS, 0, 1);
    /* All ones: nobody answers, a fuzzer has moved the BAR. */
    while ((status = common_get(g, VIRTIO_PCI_COMMON_STATUS, 1)) && status != 0xff &&
           now_ns() < end)
        loop_turn(g->loop, 1000000);
    return status == 0;
}

void guest_rings(struct guest *g, unsigned queue, uint16_t size)
{
    struct guest_queue *q = &g->queue[queue];

    q->size = size;
    q->desc = guest_alloc(g, 16 * (size_t)q->size, 16);
    q->driver = guest_alloc(g, g->packed ? 4 : 6 + 2 * (size_t)q->size, 4);
    q->device = guest_alloc(g, g->packed ? 4 : 6 + 8 * (size_t)q->size, 4);
    q->avail = q->used = 0;
    q->avail_wrap = q->used_wrap = true;
    q->free_count = q->size;
    q->free_head = 0;
    for (unsigned i = 0; i < q->size; i++)
        q->id[i].next_free = (uint16_t)(i + 1);
}

void guest_queue_setup(struct guest *g, unsigned queue, uint16_t size)
{
    struct guest_queue *q = &g->queue[queue];

    common_set(g, VIRTIO_PCI_COMMON_Q_SELECT, queue, 2);
    guest_rings(g, queue, (uint16_t)min_size(size, common_get(g, VIRTIO_PCI_COMMON_Q_SIZE, 2)));
    common_set(g, VIRTIO_PCI_COMMON_Q_SIZE, q->size, 2);
    common_set(g, VIRTIO_PCI_COMMON_Q_MSIX, queue + 1, 2);
    common_set(g, VIRTIO_PCI_COMMON_Q_DESCLO, q->desc, 8);
    common_set(g, VIRTIO_PCI_COMMON_Q_AVAILLO, q->driver, 4);
    common_set(g, VIRTIO_PCI_COMMON_Q_AVAILHI, q->driver >> 32, 4);
    common_set(g, VIRTIO_PCI_COMMON_Q_USEDLO, q->device, 8);
    common_set(g, VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
}

bool guest_begin(struct guest *g, uint64_t want, unsigned queues, uint16_t size)
{
    uint64_t offered = 0;

    if (!guest_reset(g))
        return false;
    common_set(g, VIRTIO_PCI_COMMON_STATUS, VIRTIO_ACKNOWLEDGE, 1);
    common_set(g, VIRTIO_PCI_COMMON_STATUS, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER, 1);
    for (unsigned i = 0; i < 2; i++) {
        common_set(g, VIRTIO_PCI_COMMON_DFSELECT, i, 4);
        offered |= common_get(g, VIRTIO_PCI_COMMON_DF, 4) << 32 * i;
    }
    g->features = offered & (want | BIT(VIRTIO_F_VERSION_1));
    for (unsigned i = 0; i < 2; i++) {
        common_set(g, VIRTIO_PCI_COMMON_GFSELECT, i, 4);
        common_set(g, VIRTIO_PCI_COMMON_GF, (uint32_t)(g->features >> 32 * i), 4);
    }
    common_set(g, VIRTIO_PCI_COMMON_STATUS, 11, 1);
    if (common_get(g, VIRTIO_PCI_COMMON_STATUS, 1) != 11)
        return false;
    g->packed = g->features & BIT(VIRTIO_F_RING_PACKED);
    g->event_idx = g->features & BIT(VIRTIO_RING_F_EVENT_IDX);
    g->indirect = g->features & BIT(VIRTIO_RING_F_INDIRECT_DESC);
    common_set(g, VIRTIO_PCI_COMMON_MSIX, 0, 2);
    for (unsigned i = 0; i < queues; i++)
        guest_queue_setup(g, i, size);
    common_set(g, VIRTIO_PCI_COMMON_STATUS, 15, 1);
    guest_settle(g);
    return common_get(g, VIRTIO_PCI_COMMON_STATUS, 1) == 15;
}

/* ---- rings ---- */

static void put_desc(uint8_t *d, uint64_t addr, uint32_t len, uint16_t low, uint16_t high)
{
    put_le64(d, addr);
    put_le32(d + 8, len);
    put_le16(d + 12, low);
    put_le16(d + 14, high);
}

/* A table of its own for a chain; split tables name their successors, packed ones lie in order. */
static gpa make_indirect(struct guest *g, const struct guest_buf *buf, unsigned count)
{
    gpa at = guest_alloc(g, 16 * (size_t)count, 16);
    uint8_t *d = guest_ptr(g, at, 16 * (size_t)count);

    for (unsigned i = 0; i < count; i++) {
        uint16_t flags = buf[i].writable ? VRING_DESC_F_WRITE : 0;

        if (g->packed) {
            put_desc(d + 16 * i, buf[i].addr, buf[i].len, 0, flags);
        } else {
            flags |= i + 1 < count ? VRING_DESC_F_NEXT : 0;
            put_desc(d + 16 * i, buf[i].addr, buf[i].len, flags, (uint16_t)(i + 1));
        }
    }
    return at;
}

static int split_add(struct guest *g, struct guest_queue *q, const struct guest_buf *buf,
                     unsigned count, uint16_t extra)
{
    uint8_t *desc = guest_ptr(g, q->desc, 16 * (size_t)q->size);
    uint8_t *ring = guest_ptr(g, q->driver, 6 + 2 * (size_t)q->size);
    uint16_t head = q->free_head, at = head;

    for (unsigned i = 0; i < count; i++) {
        uint16_t flags = (uint16_t)((buf[i].writable ? VRING_DESC_F_WRITE : 0) |
                                    (i + 1 < count ? VRING_DESC_F_NEXT : 0) | extra);

        put_desc(desc + 16 * at, buf[i].addr, buf[i].len, flags, q->id[at].next_free);
        at = q->id[at].next_free;
    }
    q->free_head = at;
    q->free_count = (uint16_t)(q->free_count - count);
    q->id[head].ring_count = (uint16_t)count;
    put_le16(ring + 4 + 2 * (q->avail % q->size), head);
    q->avail++;
    __atomic_store_n((uint16_t *)(ring + 2), q->avail, __ATOMIC_SEQ_CST);
    return head;
}

static int packed_add(struct guest *g, struct guest_queue *q, const struct guest_buf *buf,
                      unsigned count, uint16_t extra)
{
    uint8_t *desc = guest_ptr(g, q->desc, 16 * (size_t)q->size);
    uint16_t id = q->free_head, first = q->avail, first_flags = 0;

    for (unsigned i = 0; i < count; i++) {
        uint16_t flags = (uint16_t)((buf[i].writable ? VRING_DESC_F_WRITE : 0) |
                                    (i + 1 < count ? VRING_DESC_F_NEXT : 0) | extra |
                                    (q->avail_wrap ? 0x80 : 0x8000));

        uint8_t *d = desc + 16 * q->avail;

        put_le64(d, buf[i].addr);
        put_le32(d + 8, buf[i].len);
        put_le16(d + 12, id);
        if (i == 0) /* stored last, below: it makes the chain available */
            first_flags = flags;
        else
            __atomic_store_n((uint16_t *)(d + 14), flags, __ATOMIC_RELEASE);
        if (++q->avail == q->size) {
            q->avail = 0;
            q->avail_wrap = !q->avail_wrap;
        }
    }
    q->free_head = q->id[id].next_free;
    q->free_count = (uint16_t)(q->free_count - count);
    q->id[id].ring_count = (uint16_t)count;
    __atomic_store_n((uint16_t *)(desc + 16 * first + 14), first_flags, __ATOMIC_SEQ_CST);
    return id;
}

int guest_add(struct guest *g, unsigned queue, const struct guest_buf *buf, unsigned count)
{
    struct guest_queue *q = &g->queue[queue];
    struct guest_buf table;
    uint16_t extra = 0;

    if (g->indirect && count > 1) {
        table = (struct guest_buf){make_indirect(g, buf, count), 16 * count, false};
        buf = &table;
        count = 1;
        extra = VRING_DESC_F_INDIRECT;
    }
    if (q->free_count < count)
        return -1;
    return g->packed ? packed_add(g, q, buf, count, extra) : split_add(g, q, buf, count, extra);
}

void guest_kick(struct guest *g, unsigned queue)
{
    guest_write(g, g->notify + queue * g->notify_step, queue, 2);
}

static int split_take(struct guest *g, struct guest_queue *q, uint32_t *len)
{
    uint8_t *ring = guest_ptr(g, q->device, 6 + 8 * (size_t)q->size);
    uint16_t head, last;

    if (__atomic_load_n((uint16_t *)(ring + 2), __ATOMIC_ACQUIRE) == q->used)
        return -1;
    head = (uint16_t)le32(ring + 4 + 8 * (q->used % q->size));
    *len = le32(ring + 8 + 8 * (q->used % q->size));
    q->used++;
    for (unsigned i = 1, at = last = head; i < q->id[head].ring_count; i++)
        last = (uint16_t)(at = q->id[at].next_free);
    q->id[last].next_free = q->free_head;
    q->free_head = head;
    q->free_count = (uint16_t)(q->free_count + q->id[head].ring_count);
    if (g->event_idx) /* always interrupt for the next */
        __atomic_store_n((uint16_t *)guest_ptr(g, q->driver + 4 + 2 * (size_t)q->size, 2), q->used,
                         __ATOMIC_SEQ_CST);
    return head;
}

static int packed_take(struct guest *g, struct guest_queue *q, uint32_t *len)
{
    uint8_t *d = (uint8_t *)guest_ptr(g, q->desc, 16 * (size_t)q->size) + 16 * q->used;
    uint16_t flags = __atomic_load_n((uint16_t *)(d + 14), __ATOMIC_ACQUIRE), id;

    if (!!(flags & 0x80) != q->used_wrap || !!(flags & 0x8000) != q->used_wrap)
        return -1;
    id = le16(d + 12);
    *len = flags & VRING_DESC_F_WRITE ? le32(d + 8) : 0;
    q->used = (uint16_t)(q->used + q->id[id].ring_count);
    if (q->used >= q->size) {
        q->used = (uint16_t)(q->used - q->size);
        q->used_wrap = !q->used_wrap;
    }
    q->free_count = (uint16_t)(q->free_count + q->id[id].ring_count);
    q->id[id].next_free = q->free_head;
    q->free_head = id;
    return id;
}

int guest_used(struct guest *g, unsigned queue, uint32_t *len)
{
    uint32_t unused;

    return g->packed ? packed_take(g, &g->queue[queue], len ? len : &unused)
                     : split_take(g, &g->queue[queue], len ? len : &unused);
}

int guest_wait(struct guest *g, unsigned queue, uint32_t *len)
{
    uint64_t end = now_ns() + 5000000000;
    int id;

    while ((id = guest_used(g, queue, len)) < 0 && now_ns() < end)
        loop_turn(g->loop, 1000000);
    return id;
}

void guest_settle(struct guest *g)
{
    for (int i = 0; i < 4; i++)
        loop_turn(g->loop, 0);
}

int64_t guest_request(struct guest *g, unsigned queue, const struct guest_buf *buf, unsigned count)
{
    uint32_t len;

    if (guest_add(g, queue, buf, count) < 0)
        return -1;
    guest_kick(g, queue);
    return guest_wait(g, queue, &len) < 0 ? -1 : (int64_t)len;
}

/* ---- table-driven tests ---- */

uint64_t guest_random(uint64_t *seed)
{
    *seed ^= *seed << 13; /* xorshift64 */
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static bool no(const char *what, const char *why)
{
    printf("# %s: %s\n", what, why);
    return false;
}

static bool cut_streams_refused(struct device *dev, const struct stream *s)
{
    struct err err;
    bool refused = true;

    for (size_t cut = 0; cut < s->size && refused; cut += 97) {
        struct stream part = {.data = s->data, .size = cut};
        struct device *other = device_new(dev->type, "cut");

        refused = !field_restore(dev->type->state, other, &part, &err);
        device_free(other);
    }
    return refused;
}

/* Every number of the state over its limit, one at a time: limits are the table's, so the table
 * says. */
static bool limits_checked(const struct field *table, const void *from, struct err *err)
{
    for (const struct field *f = table; f->name; f++) {
        struct field low[2] = {*f, {0}};
        struct stream s = {0};
        bool refused;
        uint8_t *copy = malloc(f->offset + 4096 + 16);

        if (f->kind != FIELD_U8 && f->kind != FIELD_U16 && f->kind != FIELD_U32) {
            free(copy);
            continue;
        }
        memset(copy, 0xff, f->offset + 4096 + 16); /* all ones: over any limit but the type's own */
        low[0].max = UINT64_MAX;
        refused = f->max >= (f->kind == FIELD_U8    ? UINT8_MAX
                             : f->kind == FIELD_U16 ? UINT16_MAX
                                                    : UINT32_MAX);
        if (!refused && field_save(low, copy, &s, err)) {
            low[0].max = f->max;
            s.at = 0;
            refused = !field_restore(low, copy, &s, err);
        }
        stream_free(&s);
        free(copy);
        if (!refused)
            return no(f->name, "over its limit and not refused");
    }
    return true;
}

bool guest_check_state(struct guest *g, struct device *dev, struct device *fresh)
{
    const struct field *state = dev->type->state;
    struct stream s = {0}, t = {0};
    struct err err = {0};
    bool good;

    if (guest_read(g, g->common + VIRTIO_PCI_COMMON_STATUS, 1) != 15)
        return no("before", "the device does not run");
    dev->type->pause(dev);
    fresh->type->pause(fresh);
    if (!field_save(state, dev, &s, &err))
        return no("save", err.text);
    s.at = 0;
    /* The BAR's place on the bus: the old device makes room. */
    pci_detach(&container_of(dev, struct virtio, dev)->pci);
    good = field_restore(state, fresh, &s, &err) && fresh->type->restored(fresh, &err);
    if (!good)
        no("restore", err.text);
    if (good && (!field_save(state, fresh, &t, &err) || s.size != t.size ||
                 memcmp(s.data, t.data, s.size) != 0))
        good = no("saved again", "other bytes");
    if (good && !cut_streams_refused(dev, &s))
        good = no("cut", "a stream that was cut is taken");
    good = good && limits_checked(state, dev, &err) && limits_checked(virtio_state, dev, &err);
    stream_free(&s);
    stream_free(&t);
    fresh->type->resume(fresh);
    return good;
}

bool guest_check_registers(struct guest *g, struct device *dev, unsigned seed, unsigned rounds)
{
    static const uint8_t width[] = {1, 2, 4, 8};
    uint64_t random = seed * 0x9e3779b97f4a7c15ULL | 1;

    (void)dev;
    for (unsigned i = 0; i < rounds; i++) {
        uint64_t r = guest_random(&random), offset = r % 0x8000, value = guest_random(&random);
        unsigned size = width[(r >> 16) % 4];

        if (r >> 20 & 3) /* mostly where registers are */
            offset = (r >> 24 & 1 ? g->config : g->common) + offset % 64;
        if (r >> 32 & 1)
            value &= 0xf;
        if (r >> 33 & 1)
            guest_write(g, offset, value, size);
        else
            (void)guest_read(g, offset, size);
        if (r >> 40 & 1)
            guest_pci_write(g, (unsigned)(0x40 + (r >> 41) % 0x80) & ~3u, (uint32_t)value, 4);
        if (r >> 50 & 1)
            loop_turn(g->loop, 0);
    }
    guest_pci_write(g, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
    guest_pci_write(g, 0x20, (uint32_t)g->bar, 4);
    guest_pci_write(g, 0x24, 0, 4);
    return guest_reset(g);
}
