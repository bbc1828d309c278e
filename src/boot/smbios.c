/* SPDX-License-Identifier: MIT */
/* SMBIOS structures: a fixed part of little-endian fields, then its strings, each referred to by
 * number, then an empty string. Offsets in comments are DSP0134's. */
#include "boot/smbios.h"

#include <errno.h>

#define DIMM_MAX (16 * GiB)

enum { /* handles: type in the high byte, so that references read easily */
       BIOS = 0x0000,
       SYSTEM = 0x0100,
       CHASSIS = 0x0300,
       PROCESSOR = 0x0400,
       ARRAY = 0x1000,
       DIMM = 0x1100,
       ARRAY_RANGE = 0x1300,
       BOOT = 0x2000,
       END = 0x7f00,
};

struct smbios {
    struct stream *out;
    uint8_t part[64]; /* the fixed part being filled */
    char text[512];   /* its strings */
    size_t text_len;
    uint8_t strings;
    struct err *err;
    bool ok;
};

static void begin(struct smbios *s, uint8_t type, uint8_t len, uint16_t handle)
{
    memset(s->part, 0, sizeof s->part);
    s->part[0] = type;
    s->part[1] = len;
    put_le16(s->part + 2, handle);
    s->text_len = 0;
    s->strings = 0;
}

/* The number of a new string, for a field; 0 for none, or for one that has no place. */
static uint8_t string(struct smbios *s, const char *text)
{
    size_t len = text ? strlen(text) + 1 : 0;

    if (len <= 1 || len > sizeof s->text - s->text_len)
        return 0;
    memcpy(s->text + s->text_len, text, len);
    s->text_len += len;
    return ++s->strings;
}

static void end(struct smbios *s)
{
    static const char nothing[2];

    s->ok = s->ok && stream_put(s->out, s->part, s->part[1], s->err) &&
            stream_put(s->out, s->text, s->text_len, s->err) &&
            stream_put(s->out, nothing, s->text_len ? 1 : 2, s->err);
}

static void bios(struct smbios *s, const struct smbios_config *c)
{
    begin(s, 0, 26, BIOS);
    s->part[4] = string(s, "hull");
    s->part[5] = string(s, c->version);
    put_le16(s->part + 6, 0xe000); /* segment: where the tables are */
    s->part[8] = string(s, "01/01/2025");
    put_le64(s->part + 10, 1 << 3); /* no characteristics to tell of */
    s->part[18] = 0x01;             /* ACPI */
    s->part[19] = 0x14;             /* virtual machine, no UEFI */
    s->part[20] = s->part[21] = s->part[22] = s->part[23] = 0xff;
    end(s);
}

static void system_(struct smbios *s, const struct smbios_config *c)
{
    begin(s, 1, 27, SYSTEM);
    s->part[4] = string(s, "hull");
    s->part[5] = string(s, "Q35 virtual machine");
    s->part[6] = string(s, c->version);
    s->part[7] = string(s, c->serial);
    /* The first three groups are little-endian here, unlike in RFC 4122. */
    for (unsigned i = 0; i < 16; i++)
        s->part[8 + i] = c->uuid[i < 4 ? 3 - i : i < 6 ? 9 - i : i < 8 ? 13 - i : i];
    s->part[24] = 0x06; /* woken by the power switch */
    end(s);
}

static void chassis(struct smbios *s)
{
    begin(s, 3, 22, CHASSIS);
    s->part[4] = string(s, "hull");
    s->part[5] = 0x01;                             /* other */
    s->part[9] = s->part[10] = s->part[11] = 0x03; /* boot, power, thermal: safe */
    s->part[12] = 0x02;                            /* security unknown */
    end(s);
}

static void processor(struct smbios *s, const struct smbios_config *c)
{
    uint8_t cpus = (uint8_t)(c->cpus < 255 ? c->cpus : 255);

    begin(s, 4, 48, PROCESSOR);
    s->part[4] = string(s, "CPU 0");
    s->part[5] = 0x03; /* central processor */
    s->part[6] = 0x01; /* family: other */
    s->part[7] = string(s, "hull");
    s->part[16] = string(s, c->cpu_name);
    put_le16(s->part + 20, 2000); /* MHz: nominal */
    put_le16(s->part + 22, 2000);
    s->part[24] = 0x41; /* socket populated, enabled */
    s->part[25] = 0x01;
    put_le16(s->part + 26, 0xffff); /* no cache handles */
    put_le16(s->part + 28, 0xffff);
    put_le16(s->part + 30, 0xffff);
    s->part[35] = s->part[36] = s->part[37] = cpus;
    put_le16(s->part + 38, 0x0c); /* 64-bit, multi-core */
    put_le16(s->part + 40, 0x01);
    put_le16(s->part + 42, (uint16_t)c->cpus);
    put_le16(s->part + 44, (uint16_t)c->cpus);
    put_le16(s->part + 46, (uint16_t)c->cpus);
    end(s);
}

static void memory_array(struct smbios *s, uint64_t memory, unsigned dimms)
{
    begin(s, 16, 23, ARRAY);
    s->part[4] = 0x01; /* other location */
    s->part[5] = 0x03; /* system memory */
    s->part[6] = 0x06; /* multi-bit ECC */
    put_le32(s->part + 7, 0x80000000);
    put_le16(s->part + 11, 0xfffe); /* no error information */
    put_le16(s->part + 13, (uint16_t)dimms);
    put_le64(s->part + 15, memory);
    end(s);
}

static void dimm(struct smbios *s, unsigned n, uint64_t size)
{
    char name[16];

    snprintf(name, sizeof name, "DIMM %u", n);
    begin(s, 17, 40, (uint16_t)(DIMM + n));
    put_le16(s->part + 4, ARRAY);
    put_le16(s->part + 6, 0xfffe);
    put_le16(s->part + 8, 0xffff); /* widths unknown */
    put_le16(s->part + 10, 0xffff);
    put_le16(s->part + 12, (uint16_t)(size / MiB < 0x7fff ? size / MiB : 0x7fff));
    s->part[14] = 0x09; /* DIMM */
    s->part[16] = string(s, name);
    s->part[18] = 0x07;             /* RAM */
    put_le16(s->part + 19, 0x0002); /* other */
    s->part[23] = string(s, "hull");
    put_le32(s->part + 28, (uint32_t)(size / MiB));
    end(s);
}

static void range(struct smbios *s, unsigned n, uint64_t base, uint64_t last)
{
    begin(s, 19, 31, (uint16_t)(ARRAY_RANGE + n));
    put_le32(s->part + 4, UINT32_MAX); /* see the 64-bit fields */
    put_le32(s->part + 8, UINT32_MAX);
    put_le16(s->part + 12, ARRAY);
    s->part[14] = 1;
    put_le64(s->part + 15, base);
    put_le64(s->part + 23, last);
    end(s);
}

bool smbios_make(struct stream *out, const struct smbios_config *c, struct err *err)
{
    struct smbios s = {.out = out, .err = err, .ok = true};
    const struct layout *l = c->layout;
    unsigned dimms = (unsigned)((l->memory + DIMM_MAX - 1) / DIMM_MAX);

    bios(&s, c);
    system_(&s, c);
    chassis(&s);
    processor(&s, c);
    memory_array(&s, l->memory, dimms);
    for (unsigned i = 0; i < dimms; i++)
        dimm(&s, i, min_u64(l->memory - i * DIMM_MAX, DIMM_MAX));
    range(&s, 0, 0, l->low_end - 1);
    if (l->high_end > LAYOUT_HIGH_BASE)
        range(&s, 1, LAYOUT_HIGH_BASE, l->high_end - 1);
    begin(&s, 32, 11, BOOT); /* boot status: no errors */
    end(&s);
    begin(&s, 127, 4, END);
    end(&s);
    return s.ok;
}

void smbios_entry(uint8_t entry[24], gpa tables, size_t len)
{
    uint8_t sum = 0;

    memset(entry, 0, 24);
    memcpy(entry, "_SM3_", 5);
    entry[6] = 24;
    entry[7] = 3; /* version 3.0 */
    entry[10] = 1;
    put_le32(entry + 12, (uint32_t)len);
    put_le64(entry + 16, tables);
    for (unsigned i = 0; i < 24; i++)
        sum = (uint8_t)(sum + entry[i]);
    entry[5] = (uint8_t)-sum;
}

bool smbios_load(const struct smbios_config *c, struct mem *m, struct err *err)
{
    gpa tables = LAYOUT_SMBIOS_BASE + 32;
    struct stream s = {0};
    uint8_t entry[24];
    bool good = smbios_make(&s, c, err);

    smbios_entry(entry, tables, s.size);
    if (good && s.size > LAYOUT_SMBIOS_SIZE - 32)
        good = err_set(err, ENOSPC, "SMBIOS tables need %zu bytes", s.size);
    if (good && (mem_load(m, LAYOUT_SMBIOS_BASE, entry, sizeof entry) ||
                 mem_load(m, tables, s.data, s.size)))
        good = err_set(err, EFAULT, "no RAM at 0x%llx for SMBIOS tables",
                       (unsigned long long)LAYOUT_SMBIOS_BASE);
    stream_free(&s);
    return good;
}
