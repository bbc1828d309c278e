/* SPDX-License-Identifier: MIT */
/* Encodings of ACPI 6.4, 20.2: names, package lengths, integers. */
#include "boot/aml.h"

#include <assert.h>

#define EXT_PREFIX 0x5b

bool aml_ok(const struct aml *a)
{
    return !a->failed;
}

void aml_bytes(struct aml *a, const void *bytes, size_t len)
{
    struct err err;

    if (!a->failed)
        a->failed = !stream_put(&a->out, bytes, len, &err);
}

void aml_byte(struct aml *a, uint8_t byte)
{
    aml_bytes(a, &byte, 1);
}

static void put_word(struct aml *a, uint8_t prefix, uint64_t value, size_t len)
{
    aml_byte(a, prefix);
    aml_bytes(a, &value, len);
}

/* ---- names ---- */

static size_t segment_len(const char *path)
{
    size_t n = strcspn(path, ".");

    assert(n >= 1 && n <= 4);
    return n;
}

static void segment(struct aml *a, const char *path)
{
    char name[4] = {'_', '_', '_', '_'};

    memcpy(name, path, segment_len(path));
    aml_bytes(a, name, 4);
}

void aml_path(struct aml *a, const char *path)
{
    unsigned count = 1;

    if (*path == '\\') {
        aml_byte(a, '\\');
        path++;
    }
    if (!*path) {
        aml_byte(a, 0); /* the root itself */
        return;
    }
    for (const char *p = path; *p; p++)
        count += *p == '.';
    if (count == 2) {
        aml_byte(a, 0x2e);
    } else if (count > 2) {
        aml_byte(a, 0x2f);
        aml_byte(a, (uint8_t)count);
    }
    for (; count; count--) {
        segment(a, path);
        path += segment_len(path) + 1;
    }
}

/* ---- terms that hold others ---- */

static size_t open_term(struct aml *a, uint8_t prefix, uint8_t opcode)
{
    if (prefix)
        aml_byte(a, prefix);
    aml_byte(a, opcode);
    return a->out.size;
}

void aml_close(struct aml *a, size_t mark)
{
    size_t len = a->out.size - mark, extra;
    uint8_t head[4], room[4] = {0};

    if (a->failed)
        return;
    /* The length counts its own bytes: 6 bits in one, or 4 bits and 8 in each further one. */
    extra = len + 1 < 0x40 ? 0 : len + 2 < 0x1000 ? 1 : len + 3 < 0x100000 ? 2 : 3;
    len += extra + 1;
    if (extra == 0) {
        head[0] = (uint8_t)len;
    } else {
        head[0] = (uint8_t)(extra << 6 | (len & 15));
        for (size_t i = 1; i <= extra; i++)
            head[i] = (uint8_t)(len >> (4 + 8 * (i - 1)));
    }
    aml_bytes(a, room, extra + 1);
    if (a->failed)
        return;
    memmove(a->out.data + mark + extra + 1, a->out.data + mark, a->out.size - mark - extra - 1);
    memcpy(a->out.data + mark, head, extra + 1);
}

size_t aml_scope(struct aml *a, const char *path)
{
    size_t mark = open_term(a, 0, 0x10);

    aml_path(a, path);
    return mark;
}

size_t aml_device(struct aml *a, const char *path)
{
    size_t mark = open_term(a, EXT_PREFIX, 0x82);

    aml_path(a, path);
    return mark;
}

size_t aml_method(struct aml *a, const char *path, unsigned args, bool serialized)
{
    size_t mark = open_term(a, 0, 0x14);

    aml_path(a, path);
    aml_byte(a, (uint8_t)(args | (serialized ? 8 : 0)));
    return mark;
}

size_t aml_package(struct aml *a, uint8_t count)
{
    size_t mark = open_term(a, 0, 0x12);

    aml_byte(a, count);
    return mark;
}

size_t aml_if(struct aml *a)
{
    return open_term(a, 0, 0xa0);
}

size_t aml_else(struct aml *a)
{
    return open_term(a, 0, 0xa1);
}

size_t aml_field(struct aml *a, const char *region)
{
    size_t mark = open_term(a, EXT_PREFIX, 0x81);

    aml_path(a, region);
    aml_byte(a, 0x01); /* byte access, no lock, preserve */
    return mark;
}

void aml_field_unit(struct aml *a, const char *name, uint8_t bits)
{
    assert(bits < 0x40);
    if (*name)
        segment(a, name);
    else
        aml_byte(a, 0);
    aml_byte(a, bits);
}

/* ---- data ---- */

void aml_integer(struct aml *a, uint64_t value)
{
    if (value <= 1)
        aml_byte(a, (uint8_t)value);
    else if (value <= UINT8_MAX)
        put_word(a, 0x0a, value, 1);
    else if (value <= UINT16_MAX)
        put_word(a, 0x0b, value, 2);
    else if (value <= UINT32_MAX)
        put_word(a, 0x0c, value, 4);
    else
        put_word(a, 0x0e, value, 8);
}

void aml_string(struct aml *a, const char *text)
{
    aml_byte(a, 0x0d);
    aml_bytes(a, text, strlen(text) + 1);
}

static unsigned hex_digit(char c)
{
    return (unsigned)(c <= '9' ? c - '0' : c - 'A' + 10);
}

/* Three letters of 5 bits each, then four hex digits, big-endian. ACPI 6.4, 19.3.4. */
void aml_eisa_id(struct aml *a, const char *id)
{
    unsigned letters = (id[0] & 31u) << 10 | (id[1] & 31u) << 5 | (id[2] & 31u);
    uint8_t bytes[4] = {
        (uint8_t)(letters >> 8),
        (uint8_t)letters,
        (uint8_t)(hex_digit(id[3]) << 4 | hex_digit(id[4])),
        (uint8_t)(hex_digit(id[5]) << 4 | hex_digit(id[6])),
    };

    assert(strlen(id) == 7);
    aml_byte(a, 0x0c);
    aml_bytes(a, bytes, 4);
}

void aml_buffer(struct aml *a, const void *bytes, size_t len)
{
    size_t mark = open_term(a, 0, 0x11);

    aml_integer(a, len);
    aml_bytes(a, bytes, len);
    aml_close(a, mark);
}

void aml_name(struct aml *a, const char *path)
{
    aml_byte(a, 0x08);
    aml_path(a, path);
}

void aml_name_integer(struct aml *a, const char *path, uint64_t value)
{
    aml_name(a, path);
    aml_integer(a, value);
}

void aml_region_pci(struct aml *a, const char *path, uint64_t offset, uint64_t len)
{
    aml_byte(a, EXT_PREFIX);
    aml_byte(a, 0x80);
    aml_path(a, path);
    aml_byte(a, 0x02); /* PCI_Config */
    aml_integer(a, offset);
    aml_integer(a, len);
}
