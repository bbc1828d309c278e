/* SPDX-License-Identifier: MIT */
/* Small descriptors have their length in the tag, large ones in a word after it. */
#include "boot/resource.h"

#include <assert.h>

static uint8_t *take(struct resources *r, size_t len)
{
    uint8_t *at = r->bytes + r->len;

    assert(len <= sizeof r->bytes - r->len);
    r->len += len;
    memset(at, 0, len);
    return at;
}

void resource_io(struct resources *r, uint16_t base, uint8_t len)
{
    uint8_t *d = take(r, 8);

    d[0] = 0x47;
    d[1] = 1; /* 16-bit decode */
    put_le16(d + 2, base);
    put_le16(d + 4, base);
    d[6] = 1;
    d[7] = len;
}

void resource_irq(struct resources *r, unsigned irq)
{
    uint8_t *d = take(r, 3);

    d[0] = 0x22;
    put_le16(d + 1, (uint16_t)(1u << irq));
}

void resource_interrupts(struct resources *r, const uint32_t *irq, uint8_t count)
{
    uint8_t *d = take(r, 5 + 4u * count);

    d[0] = 0x89;
    put_le16(d + 1, (uint16_t)(2 + 4 * count));
    d[3] = 0x09; /* consumer, shared */
    d[4] = count;
    memcpy(d + 5, irq, 4u * count);
}

void resource_memory32(struct resources *r, uint32_t base, uint32_t len)
{
    uint8_t *d = take(r, 12);

    d[0] = 0x86;
    put_le16(d + 1, 9);
    d[3] = 1; /* writable */
    put_le32(d + 4, base);
    put_le32(d + 8, len);
}

void resource_window(struct resources *r, enum resource_kind kind, uint64_t first, uint64_t last)
{
    size_t width = kind != RESOURCE_MEMORY ? 2 : last <= UINT32_MAX ? 4 : 8;
    uint8_t *d = take(r, 6 + 5 * width);
    uint64_t len = last - first + 1;

    d[0] = width == 2 ? 0x88 : width == 4 ? 0x87 : 0x8a;
    put_le16(d + 1, (uint16_t)(3 + 5 * width));
    d[3] = (uint8_t)kind;
    d[4] = 0x0c; /* producer, both ends fixed */
    d[5] = kind == RESOURCE_IO ? 3 : kind == RESOURCE_MEMORY ? 1 : 0; /* entire range; writable */
    memcpy(d + 6 + width, &first, width);
    memcpy(d + 6 + 2 * width, &last, width);
    memcpy(d + 6 + 4 * width, &len, width);
}

void resource_put(struct resources *r, struct aml *a, const char *name)
{
    uint8_t *d = take(r, 2);

    d[0] = 0x79; /* end tag; checksum 0: not used */
    aml_name(a, name);
    aml_buffer(a, r->bytes, r->len);
}
