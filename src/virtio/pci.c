/* SPDX-License-Identifier: MIT */
/* The PCI transport, modern only (virtio 1.2, 4.1): one BAR with four windows and the MSI-X table.
 *
 *   0x0000 common configuration   0x1000 ISR   0x2000 device configuration
 *   0x3000 notifications, 4 bytes a queue      0x4000 MSI-X table   0x5000 PBA
 *
 * Handlers run in vCPU threads under the device's lock. With MSI-X each queue and the configuration
 * have the vector that the driver gave them; without, they share INTx and say why in the ISR. */
#include "virtio/virtio.h"
#include <linux/virtio_pci.h>

enum {
    BAR = 4,
    WINDOW = 0x1000,
    COMMON_AT = 0x0000,
    ISR_AT = 0x1000,
    DEVICE_AT = 0x2000,
    NOTIFY_AT = 0x3000,
    TABLE_AT = 0x4000,
    PBA_AT = 0x5000,
    BAR_LEN = 0x8000,
    NOTIFY_STEP = 4,
};

enum { /* common configuration, 4.1.4.3 */
       DEVICE_FEATURE_SELECT = 0,
       DEVICE_FEATURE = 4,
       DRIVER_FEATURE_SELECT = 8,
       DRIVER_FEATURE = 12,
       CONFIG_VECTOR = 16,
       NUM_QUEUES = 18,
       DEVICE_STATUS = 20,
       CONFIG_GENERATION = 21,
       QUEUE_SELECT = 22,
       QUEUE_SIZE = 24,
       QUEUE_VECTOR = 26,
       QUEUE_ENABLE = 28,
       QUEUE_NOTIFY_OFF = 30,
       QUEUE_DESC = 32,
       QUEUE_DRIVER = 40,
       QUEUE_DEVICE = 48,
       QUEUE_NOTIFY_DATA = 56,
       QUEUE_RESET = 58,
       COMMON_LEN = 64,
};

/* ---- common configuration ---- */

static struct virtio_queue *selected(struct virtio *v)
{
    return v->queue_select < v->queue_count ? &v->queue[v->queue_select] : NULL;
}

/* All of the registers as the driver sees them now: no access is hot enough to deserve less. */
static void common_image(struct virtio *v, uint8_t image[COMMON_LEN])
{
    const struct virtio_queue *vq = selected(v);
    unsigned shift = 32 * (v->offered_select & 1), driver_shift = 32 * (v->driver_select & 1);

    memset(image, 0, COMMON_LEN);
    put_le32(image + DEVICE_FEATURE_SELECT, v->offered_select);
    put_le32(image + DEVICE_FEATURE, v->offered_select < 2 ? (uint32_t)(v->offered >> shift) : 0);
    put_le32(image + DRIVER_FEATURE_SELECT, v->driver_select);
    put_le32(image + DRIVER_FEATURE,
             v->driver_select < 2 ? (uint32_t)(v->features >> driver_shift) : 0);
    put_le16(image + CONFIG_VECTOR, v->config_vector);
    put_le16(image + NUM_QUEUES, v->queue_count);
    image[DEVICE_STATUS] = virtio_status(v);
    image[CONFIG_GENERATION] = v->generation;
    put_le16(image + QUEUE_SELECT, v->queue_select);
    put_le16(image + QUEUE_VECTOR, VIRTIO_NO_VECTOR);
    if (!vq)
        return; /* size 0: no such queue */
    put_le16(image + QUEUE_SIZE, vq->size);
    put_le16(image + QUEUE_VECTOR, vq->vector);
    put_le16(image + QUEUE_ENABLE, vq->enabled && !vq->resetting);
    put_le16(image + QUEUE_NOTIFY_OFF, v->queue_select);
    put_le64(image + QUEUE_DESC, vq->desc);
    put_le64(image + QUEUE_DRIVER, vq->driver);
    put_le64(image + QUEUE_DEVICE, vq->device);
    put_le16(image + QUEUE_NOTIFY_DATA, v->queue_select);
    put_le16(image + QUEUE_RESET, vq->resetting);
}

static uint64_t common_read(struct virtio *v, uint64_t offset, unsigned size)
{
    uint8_t image[COMMON_LEN];
    uint64_t value = 0;

    if (offset + size > COMMON_LEN)
        return 0;
    common_image(v, image);
    memcpy(&value, image + offset, size);
    return value;
}

/* A vector that is not there reads back as "none": so the driver learns that it got none. */
static uint16_t vector_or_none(const struct virtio *v, uint64_t value)
{
    return value < v->pci.msix_count ? (uint16_t)value : VIRTIO_NO_VECTOR;
}

static void queue_write(struct virtio *v, struct virtio_queue *vq, uint64_t offset, uint64_t value)
{
    switch (offset) {
    case QUEUE_VECTOR:
        __atomic_store_n(&vq->vector, vector_or_none(v, value), __ATOMIC_RELAXED);
        break;
    case QUEUE_ENABLE:
        if (value == 1)
            virtio_queue_enable(v, v->queue_select);
        break;
    case QUEUE_RESET:
        if (value == 1)
            virtio_queue_reset(v, v->queue_select);
        break;
    case QUEUE_SIZE:
        if (!vq->enabled && value && value <= vq->q.max_size)
            vq->size = (uint16_t)value;
        break;
    default: break;
    }
}

/* Ring addresses: 8 bytes at once, or either half. */
static void address_write(struct virtio_queue *vq, uint64_t offset, uint64_t value, unsigned size)
{
    uint64_t *reg = offset < QUEUE_DRIVER   ? &vq->desc
                    : offset < QUEUE_DEVICE ? &vq->driver
                                            : &vq->device;

    if (!vq->enabled && size >= 4)
        memcpy((uint8_t *)reg + offset % 8, &value, size);
}

static void common_write(struct virtio *v, uint64_t offset, uint64_t value, unsigned size)
{
    static const uint8_t width[COMMON_LEN] = {
        [DEVICE_FEATURE_SELECT] = 4,
        [DRIVER_FEATURE_SELECT] = 4,
        [DRIVER_FEATURE] = 4,
        [CONFIG_VECTOR] = 2,
        [DEVICE_STATUS] = 1,
        [QUEUE_SELECT] = 2,
        [QUEUE_SIZE] = 2,
        [QUEUE_VECTOR] = 2,
        [QUEUE_ENABLE] = 2,
        [QUEUE_RESET] = 2,
    };
    struct virtio_queue *vq = selected(v);

    if (offset >= QUEUE_DESC && offset + size <= QUEUE_NOTIFY_DATA) {
        if (vq)
            address_write(vq, offset, value, size);
        return;
    }
    if (offset >= COMMON_LEN || width[offset] != size)
        return; /* read-only, or not the width that 4.1.3.1 asks for */
    switch (offset) {
    case DEVICE_FEATURE_SELECT: v->offered_select = (uint32_t)value; break;
    case DRIVER_FEATURE_SELECT: v->driver_select = (uint32_t)value; break;
    case DRIVER_FEATURE: virtio_set_features(v, v->driver_select, (uint32_t)value); break;
    case CONFIG_VECTOR: v->config_vector = vector_or_none(v, value); break;
    case DEVICE_STATUS: virtio_set_status(v, (uint8_t)value); break;
    case QUEUE_SELECT: v->queue_select = (uint16_t)value; break;
    default:
        if (vq)
            queue_write(v, vq, offset, value);
    }
}

/* ---- the BAR ---- */

static uint8_t isr_read(struct virtio *v)
{
    uint8_t isr = v->isr;

    v->isr = 0;
    if (isr)
        pci_intx(&v->pci, false);
    return isr;
}

static uint64_t config_read(struct virtio *v, uint64_t offset, unsigned size)
{
    uint64_t value = 0;

    if (offset < v->config_len)
        memcpy(&value, v->config + offset, min_size(size, v->config_len - offset));
    return value;
}

static uint64_t bar_read(void *dev, uint64_t offset, unsigned size)
{
    struct virtio *v = dev;

    switch (offset & ~(uint64_t)(WINDOW - 1)) {
    case COMMON_AT: return common_read(v, offset, size);
    case ISR_AT: return offset == ISR_AT ? isr_read(v) : 0;
    case DEVICE_AT: return config_read(v, offset - DEVICE_AT, size);
    default: return 0;
    }
}

static void bar_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct virtio *v = dev;

    switch (offset & ~(uint64_t)(WINDOW - 1)) {
    case COMMON_AT: common_write(v, offset, value, size); break;
    case DEVICE_AT:
        offset -= DEVICE_AT;
        if (v->ops->config_write && size <= 4 && offset + size <= v->config_len)
            v->ops->config_write(v, (unsigned)offset, (uint32_t)value, size);
        break;
    case NOTIFY_AT: virtio_notify(v, (uint32_t)(offset - NOTIFY_AT) / NOTIFY_STEP); break;
    default: break;
    }
}

static const struct region_ops bar_ops = {bar_read, bar_write, 1, 8};

/* ---- capabilities ---- */

static uint8_t window_capability(struct pci_function *f, uint8_t type, uint32_t at, uint32_t len,
                                 uint8_t cap_len)
{
    uint8_t cap = pci_add_capability(f, PCI_CAP_VENDOR, cap_len);

    f->config[cap + 2] = cap_len;
    f->config[cap + 3] = type;
    f->config[cap + 4] = BAR;
    put_le32(&f->config[cap + 8], at);
    put_le32(&f->config[cap + 12], len);
    return cap;
}

/* The window through configuration space (4.1.4.9), for firmware that cannot reach the BAR. It is
 * the last capability but MSI-X; its place is found again by walking back from there. */
static unsigned window_cap(const struct pci_function *f)
{
    unsigned cap = f->config[PCI_CAPABILITIES];

    while (cap &&
           !(f->config[cap] == PCI_CAP_VENDOR && f->config[cap + 3] == VIRTIO_PCI_CAP_PCI_CFG))
        cap = f->config[cap + 1];
    return cap;
}

/* True if an access to config space hits the data register and what is programmed makes sense. */
static bool window_hit(struct pci_function *f, unsigned offset, unsigned size, uint32_t *at,
                       uint32_t *len)
{
    unsigned cap = window_cap(f), data = cap + 16;

    if (offset >= data + 4 || offset + size <= data)
        return false;
    *at = le32(&f->config[cap + 8]);
    *len = le32(&f->config[cap + 12]);
    return f->config[cap + 4] == BAR && (*len == 1 || *len == 2 || *len == 4) && *at % *len == 0 &&
           *at < TABLE_AT;
}

static void config_reading(struct pci_function *f, unsigned offset, unsigned size)
{
    struct virtio *v = container_of(f, struct virtio, pci);
    uint32_t at, len;

    if (window_hit(f, offset, size, &at, &len)) {
        uint64_t value = bar_read(v, at, len);
        memcpy(&f->config[window_cap(f) + 16], &value, len);
    }
}

static void config_written(struct pci_function *f, unsigned offset, unsigned size)
{
    struct virtio *v = container_of(f, struct virtio, pci);
    uint32_t at, len;

    if (window_hit(f, offset, size, &at, &len)) {
        uint64_t value = 0;
        memcpy(&value, &f->config[window_cap(f) + 16], len);
        bar_write(v, at, value, len);
    }
}

static void add_capabilities(struct virtio *v)
{
    struct pci_function *f = &v->pci;
    uint8_t cap;

    window_capability(f, VIRTIO_PCI_CAP_COMMON_CFG, COMMON_AT, COMMON_LEN, 16);
    cap = window_capability(f, VIRTIO_PCI_CAP_NOTIFY_CFG, NOTIFY_AT,
                            NOTIFY_STEP * (uint32_t)v->queue_count, 20);
    put_le32(&f->config[cap + 16], NOTIFY_STEP);
    window_capability(f, VIRTIO_PCI_CAP_ISR_CFG, ISR_AT, 1, 16);
    if (v->config_len)
        window_capability(f, VIRTIO_PCI_CAP_DEVICE_CFG, DEVICE_AT, v->config_len, 16);
    cap = window_capability(f, VIRTIO_PCI_CAP_PCI_CFG, 0, 0, 20);
    f->config[cap + 4] = 0;
    f->writable[cap + 4] = 0xff;
    memset(&f->writable[cap + 8], 0xff, 12);
}

/* ---- interrupts ---- */

static void transport_interrupt(struct virtio *v, uint16_t vector, uint8_t cause)
{
    if (pci_msix_enabled(&v->pci)) {
        if (vector != VIRTIO_NO_VECTOR)
            pci_msix_fire(&v->pci, vector);
        return;
    }
    pthread_mutex_lock(&v->dev.lock);
    if (!v->resetting) {
        v->isr |= cause;
        pci_intx(&v->pci, true);
    }
    pthread_mutex_unlock(&v->dev.lock);
}

static void transport_reset(struct virtio *v)
{
    if (v->pci.root)
        pci_intx(&v->pci, false);
}

static void transport_bells(struct virtio *v, bool on)
{
    for (unsigned i = 0; i < v->queue_count; i++) {
        struct pci_bell *bell = &v->pci.bell[i];
        int fd = on && v->queue[i].q.live ? v->queue[i].kick.fd : -1;
        bool has = i < v->pci.bell_count && bell->fd >= 0;

        if (has != (fd >= 0))
            pci_bell_set(&v->pci, i, NOTIFY_AT + i * NOTIFY_STEP, fd);
    }
}

static const struct virtio_transport transport = {transport_interrupt, transport_reset,
                                                  transport_bells};

bool virtio_pci_attach(struct virtio *v, struct board *board, const struct virtio_ops *ops,
                       int devfn, struct err *err)
{
    struct pci_function *f = &v->pci;
    uint16_t device = (uint16_t)(0x1040 + ops->id);

    if (!virtio_open(v, board, ops, &transport, err))
        return false;
    f->dev = &v->dev;
    f->config_reading = config_reading;
    f->config_written = config_written;
    pci_header(f, 0x1af4, device, ops->class_code, 1, 0x1af4, 0x1100, 1);
    f->bar[BAR].region =
        (struct region){.name = v->dev.id, .ops = &bar_ops, .dev = v, .lock = &v->dev.lock};
    pci_add_bar(f, BAR, BAR_LEN, true, true, false);
    f->bell_bar = BAR;
    add_capabilities(v);
    pci_add_msix(f, (uint16_t)(v->queue_count + 1), BAR, TABLE_AT, PBA_AT);
    return pci_attach(board, f, devfn, err);
}
