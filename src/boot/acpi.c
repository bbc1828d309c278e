/* SPDX-License-Identifier: MIT */
/* The ACPI tables but for the DSDT, their layout and pointers. ACPI 6.4, chapter 5; MCFG: PCI
 * Firmware 3.2; HPET: IA-PC HPET 1.0a; WAET: Microsoft's specification. */
#include "boot/acpi.h"

#include <errno.h>

enum { RSDP, RSDT, XSDT, FADT, FACS, DSDT, MADT, MCFG, WAET, HPET };

#define HEADER_LEN 36
#define PM_BASE    0x600

static uint8_t sum(const uint8_t *bytes, size_t len)
{
    uint8_t total = 0;

    for (size_t i = 0; i < len; i++)
        total = (uint8_t)(total + bytes[i]);
    return total;
}

static bool put(struct acpi_table *t, const void *bytes, size_t len, struct err *err)
{
    return stream_put(&t->blob, bytes, len, err);
}

/* The common header; length and checksum come when the table is placed. */
static void set_header(struct acpi_table *t, uint8_t revision)
{
    uint8_t *h = t->blob.data;

    memcpy(h, t->name, 4);
    h[8] = revision;
    memcpy(h + 10, "HULL  HULLQ35 ", 14);
    put_le32(h + 24, 1);
    memcpy(h + 28, "HULL", 4);
    put_le32(h + 32, 1);
}

static struct acpi_table *add_table(struct acpi_tables *t, const char *name, const void *bytes,
                                    size_t len, struct err *err)
{
    struct acpi_table *table = &t->table[t->count++];

    memcpy(table->name, name, 4);
    return put(table, bytes, len, err) ? table : NULL;
}

static void add_pointer(struct acpi_tables *t, unsigned in, uint32_t offset, uint8_t size,
                        unsigned to)
{
    t->pointer[t->pointers++] =
        (struct acpi_pointer){.in = (uint8_t)in, .to = (uint8_t)to, .size = size, .offset = offset};
}

/* ---- the root tables ---- */

static bool make_rsdp(struct acpi_tables *t, struct err *err)
{
    uint8_t b[36] = "RSD PTR ";

    memcpy(b + 9, "HULL  ", 6);
    b[15] = 2;
    put_le32(b + 20, sizeof b);
    add_pointer(t, RSDP, 16, 4, RSDT);
    add_pointer(t, RSDP, 24, 8, XSDT);
    return add_table(t, "RSDP", b, sizeof b, err);
}

/* RSDT or XSDT: `width` bytes a pointer. Old kernels read only the first. */
static bool make_root(struct acpi_tables *t, unsigned index, const char *name, uint8_t width,
                      bool with_hpet, struct err *err)
{
    static const uint8_t lists[] = {FADT, MADT, MCFG, WAET, HPET};
    unsigned n = with_hpet ? 5 : 4;
    uint8_t b[HEADER_LEN + 8 * sizeof lists] = {0};
    struct acpi_table *table = add_table(t, name, b, HEADER_LEN + n * width, err);

    if (!table)
        return false;
    set_header(table, 1);
    for (unsigned i = 0; i < n; i++)
        add_pointer(t, index, HEADER_LEN + i * width, width, lists[i]);
    return true;
}

/* ---- FADT and FACS ---- */

static void gas_io(uint8_t *at, uint8_t bits, uint8_t access, uint16_t port)
{
    at[0] = 1; /* system I/O */
    at[1] = bits;
    at[3] = access;
    put_le64(at + 4, port);
}

static void fadt_blocks(uint8_t *b)
{
    put_le32(b + 56, PM_BASE);        /* PM1a_EVT_BLK */
    put_le32(b + 64, PM_BASE + 4);    /* PM1a_CNT_BLK */
    put_le32(b + 76, PM_BASE + 8);    /* PM_TMR_BLK */
    put_le32(b + 80, PM_BASE + 0x20); /* GPE0_BLK */
    b[88] = 4;
    b[89] = 2;
    b[91] = 4;
    b[92] = 16;
    gas_io(b + 148, 32, 2, PM_BASE);
    gas_io(b + 172, 16, 2, PM_BASE + 4);
    gas_io(b + 208, 32, 3, PM_BASE + 8);
    gas_io(b + 220, 128, 1, PM_BASE + 0x20);
}

static bool make_fadt(struct acpi_tables *t, const struct acpi_config *c, struct err *err)
{
    enum { /* flags at 112 */
           WBINVD = 1 << 0,
           PROC_C1 = 1 << 2,
           NO_SLEEP_BUTTON = 1 << 5,
           NO_FIXED_RTC = 1 << 6,
           TIMER_32BIT = 1 << 8,
           RESET_REGISTER = 1 << 10,
           PLATFORM_CLOCK = 1 << 15,
    };
    enum { LEGACY_DEVICES = 1 << 0, HAS_8042 = 1 << 1, NO_VGA = 1 << 2 }; /* at 109 */
    uint8_t b[276] = {0};
    struct acpi_table *table;

    put_le16(b + 46, 9);    /* SCI_INT */
    put_le32(b + 48, 0xb2); /* SMI_CMD */
    b[52] = 2;              /* ACPI_ENABLE */
    b[53] = 3;              /* ACPI_DISABLE */
    fadt_blocks(b);
    put_le16(b + 96, 0xfff); /* no C2, no C3 */
    put_le16(b + 98, 0xfff);
    b[108] = 0x32; /* CMOS byte of the century */
    put_le16(b + 109, LEGACY_DEVICES | (c->i8042 ? HAS_8042 : 0) | (c->vga ? 0 : NO_VGA));
    put_le32(b + 112, WBINVD | PROC_C1 | NO_SLEEP_BUTTON | NO_FIXED_RTC | TIMER_32BIT |
                          RESET_REGISTER | PLATFORM_CLOCK);
    gas_io(b + 116, 8, 1, 0xcf9);
    b[128] = 0x06; /* RESET_VALUE */
    b[131] = 4;    /* 6.4 */
    memcpy(b + 268, "HULL", 4);
    table = add_table(t, "FACP", b, sizeof b, err);
    if (!table)
        return false;
    set_header(table, 6);
    add_pointer(t, FADT, 36, 4, FACS);
    add_pointer(t, FADT, 40, 4, DSDT);
    add_pointer(t, FADT, 132, 8, FACS); /* Xen compares both; ACPI lets either be zero */
    add_pointer(t, FADT, 140, 8, DSDT);
    return true;
}

static bool make_facs(struct acpi_tables *t, struct err *err)
{
    uint8_t b[64] = "FACS";

    put_le32(b + 4, sizeof b);
    b[32] = 2;
    return add_table(t, "FACS", b, sizeof b, err);
}

/* ---- MADT ---- */

static bool madt_cpu(struct acpi_table *t, unsigned id, struct err *err)
{
    uint8_t lapic[8] = {0, sizeof lapic, (uint8_t)id, (uint8_t)id, 1};
    uint8_t x2apic[16] = {9, sizeof x2apic};

    if (id < 255)
        return put(t, lapic, sizeof lapic, err);
    put_le32(x2apic + 4, id);
    put_le32(x2apic + 8, 1);
    put_le32(x2apic + 12, id);
    return put(t, x2apic, sizeof x2apic, err);
}

static bool madt_override(struct acpi_table *t, uint8_t irq, uint8_t gsi, uint16_t flags,
                          struct err *err)
{
    uint8_t b[10] = {2, sizeof b, 0, irq, gsi};

    put_le16(b + 8, flags);
    return put(t, b, sizeof b, err);
}

static bool make_madt(struct acpi_tables *t, const struct acpi_config *c, struct err *err)
{
    uint8_t head[HEADER_LEN + 8] = {0}, ioapic[12] = {1, sizeof ioapic};
    static const uint8_t nmi[6] = {4, sizeof nmi, 0xff, 0, 0, 1}; /* all CPUs: LINT1 */
    static const uint8_t nmi_x2[12] = {10, sizeof nmi_x2, 0, 0, 0xff, 0xff, 0xff, 0xff, 1};
    struct acpi_table *table;

    put_le32(head + HEADER_LEN, LAYOUT_LAPIC_BASE);
    put_le32(head + HEADER_LEN + 4, 1); /* there are 8259s too */
    put_le32(ioapic + 4, LAYOUT_IOAPIC_BASE);
    table = add_table(t, "APIC", head, sizeof head, err);
    if (!table)
        return false;
    set_header(table, 5);
    for (unsigned id = 0; id < c->cpus; id++)
        if (!madt_cpu(table, id, err))
            return false;
    return put(table, ioapic, sizeof ioapic, err) && madt_override(table, 0, 2, 0, err) &&
           madt_override(table, 9, 9, 0x0d, err) && /* SCI: level, active high */
           put(table, nmi, sizeof nmi, err) &&
           (c->cpus <= 255 || put(table, nmi_x2, sizeof nmi_x2, err));
}

/* ---- small ones ---- */

static bool make_mcfg(struct acpi_tables *t, struct err *err)
{
    uint8_t b[HEADER_LEN + 8 + 16] = {0};
    struct acpi_table *table;

    put_le64(b + 44, LAYOUT_ECAM_BASE);
    b[55] = LAYOUT_PCI_BUSES - 1;
    table = add_table(t, "MCFG", b, sizeof b, err);
    if (table)
        set_header(table, 1);
    return table;
}

static bool make_waet(struct acpi_tables *t, struct err *err)
{
    uint8_t b[HEADER_LEN + 4] = {0};
    struct acpi_table *table;

    put_le32(b + HEADER_LEN, 3); /* RTC and PM timer need no double reads */
    table = add_table(t, "WAET", b, sizeof b, err);
    if (table)
        set_header(table, 1);
    return table;
}

static bool make_hpet(struct acpi_tables *t, struct err *err)
{
    uint8_t b[56] = {0};
    struct acpi_table *table;

    put_le32(b + 36, 0x8086a201); /* as in the device's capability register */
    b[41] = 64;                   /* address space 0 (memory), 64 bits wide */
    put_le64(b + 44, LAYOUT_HPET_BASE);
    put_le16(b + 53, 128); /* shortest period in ticks of 10 ns */
    table = add_table(t, "HPET", b, sizeof b, err);
    if (table)
        set_header(table, 1);
    return table;
}

static bool make_dsdt(struct acpi_tables *t, const struct acpi_config *c, struct err *err)
{
    struct acpi_table *table = &t->table[t->count++];

    memcpy(table->name, "DSDT", 4);
    if (!acpi_make_dsdt(&table->blob, c, err))
        return false;
    set_header(table, 2);
    return true;
}

/* ---- all of them ---- */

bool acpi_make(struct acpi_tables *t, const struct acpi_config *c, struct err *err)
{
    memset(t, 0, sizeof *t);
    if (!c->cpus || c->cpus > 4096)
        return err_set(err, EINVAL, "ACPI tables for %u CPUs: want 1 to 4096", c->cpus);
    /* In the order of the enum at the top. */
    return make_rsdp(t, err) && make_root(t, RSDT, "RSDT", 4, c->hpet, err) &&
           make_root(t, XSDT, "XSDT", 8, c->hpet, err) && make_fadt(t, c, err) &&
           make_facs(t, err) && make_dsdt(t, c, err) && make_madt(t, c, err) && make_mcfg(t, err) &&
           make_waet(t, err) && (!c->hpet || make_hpet(t, err));
}

void acpi_close(struct acpi_tables *t)
{
    for (unsigned i = 0; i < t->count; i++)
        stream_free(&t->table[i].blob);
    t->count = t->pointers = 0;
}

static void set_checksum(struct acpi_table *t, unsigned index)
{
    uint8_t *b = t->blob.data;

    if (index == RSDP) {
        b[8] = b[32] = 0;
        b[8] = (uint8_t)-sum(b, 20);
        b[32] = (uint8_t)-sum(b, t->blob.size);
    } else if (index != FACS) {
        put_le32(b + 4, (uint32_t)t->blob.size);
        b[9] = 0;
        b[9] = (uint8_t)-sum(b, t->blob.size);
    }
}

void acpi_place(struct acpi_tables *t, gpa base, gpa address[ACPI_TABLES_MAX], gpa *end)
{
    for (unsigned i = 0; i < t->count; i++) {
        address[i] = align_up(base, 64); /* the FACS asks for it */
        base = address[i] + t->table[i].blob.size;
    }
    for (unsigned i = 0; i < t->pointers; i++) {
        struct acpi_pointer *p = &t->pointer[i];

        memcpy(t->table[p->in].blob.data + p->offset, &address[p->to], p->size);
    }
    for (unsigned i = 0; i < t->count; i++)
        set_checksum(&t->table[i], i);
    *end = base;
}

gpa acpi_load(const struct acpi_config *c, struct mem *m, struct err *err)
{
    struct acpi_tables t;
    gpa address[ACPI_TABLES_MAX], end, rsdp = 0;

    if (!acpi_make(&t, c, err))
        goto close_tables;
    acpi_place(&t, LAYOUT_ACPI_BASE, address, &end);
    if (end > LAYOUT_ACPI_BASE + LAYOUT_ACPI_SIZE) {
        err_set(err, ENOSPC, "ACPI tables need %llu bytes",
                (unsigned long long)(end - LAYOUT_ACPI_BASE));
        goto close_tables;
    }
    for (unsigned i = 0; i < t.count; i++) {
        if (mem_load(m, address[i], t.table[i].blob.data, t.table[i].blob.size)) {
            err_set(err, EFAULT, "no RAM at 0x%llx for ACPI tables",
                    (unsigned long long)address[i]);
            goto close_tables;
        }
    }
    rsdp = address[RSDP];
close_tables:
    acpi_close(&t);
    return rsdp;
}
