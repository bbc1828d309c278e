/* SPDX-License-Identifier: MIT */
/* ACPI and SMBIOS tables: bytes as in test/golden (UPDATE_GOLDEN=1 rewrites them), checksums and
 * pointers as placed in guest memory, and iasl's opinion where it is installed. */
#include "boot/acpi.h"
#include "boot/aml.h"
#include "boot/smbios.h"
#include "tap.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static struct err err;
static struct layout small_layout, big_layout;

static const struct acpi_config small_board = {.cpus = 1, .layout = &small_layout, .uarts = 1};
static const struct acpi_config big_board = {
    .cpus = 8,
    .layout = &big_layout,
    .uarts = 15,
    .hpet = true,
    .i8042 = true,
    .pvpanic = true,
    .vmgenid = LAYOUT_VMGENID,
};

/* ---- golden files: hex, 32 bytes a line ---- */

static void hex(FILE *f, const char *name, const struct stream *s)
{
    fprintf(f, "%s %zu", name, s->size);
    for (size_t i = 0; i < s->size; i++)
        fprintf(f, "%s%02x", i % 32 ? "" : "\n", s->data[i]);
    fputc('\n', f);
}

/* True if `text` is what the file holds; with UPDATE_GOLDEN set, makes it so. */
static bool golden(const char *name, const char *text, size_t len)
{
    char path[512], *old = calloc(1, len + 1);
    FILE *f;
    bool same;

    snprintf(path, sizeof path, "%s/%s", getenv("HULL_GOLDEN") ? getenv("HULL_GOLDEN") : ".", name);
    if (getenv("UPDATE_GOLDEN") && (f = fopen(path, "w"))) {
        fwrite(text, 1, len, f);
        fclose(f);
    }
    f = fopen(path, "r");
    same = f && fread(old, 1, len + 1, f) == len && !memcmp(old, text, len);
    if (f)
        fclose(f);
    free(old);
    return same;
}

static void test_golden(const char *name, const struct acpi_config *c)
{
    struct acpi_tables t;
    gpa address[ACPI_TABLES_MAX], end;
    char *text;
    size_t len;
    FILE *f = open_memstream(&text, &len);

    ok(acpi_make(&t, c, &err), "%s: made", name);
    acpi_place(&t, LAYOUT_ACPI_BASE, address, &end);
    for (unsigned i = 0; i < t.count; i++)
        hex(f, t.table[i].name, &t.table[i].blob);
    fclose(f);
    ok(golden(name, text, len), "%s: %u tables, %llu bytes, as before", name, t.count,
       (unsigned long long)(end - LAYOUT_ACPI_BASE));
    free(text);
    acpi_close(&t);
}

/* ---- as a kernel reads them ---- */

static uint8_t sum(const uint8_t *b, size_t len)
{
    uint8_t total = 0;

    while (len--)
        total = (uint8_t)(total + *b++);
    return total;
}

static const uint8_t *table_at(struct mem *m, gpa addr, const char *name)
{
    const uint8_t *head = mem_at(m, addr, 36);
    const uint8_t *all = head ? mem_at(m, addr, le32(head + 4)) : NULL;

    if (!all || memcmp(all, name, 4) || (strcmp(name, "FACS") && sum(all, le32(all + 4))))
        return NULL;
    return all;
}

static void test_memory(const struct acpi_config *c, unsigned count)
{
    static const char *const names[] = {"FACP", "APIC", "MCFG", "WAET", "HPET"};
    const uint8_t *rsdp, *xsdt, *rsdt, *fadt;
    struct mem m;
    gpa at;

    mem_init(&m);
    layout_add_ram(c->layout, &m, &err);
    at = acpi_load(c, &m, &err);
    ok(at >= 0xe0000 && at < 0x100000 && at % 16 == 0, "RSDP at 0x%llx, where kernels scan",
       (unsigned long long)at);
    rsdp = mem_at(&m, at, 36);
    ok(!memcmp(rsdp, "RSD PTR ", 8) && !sum(rsdp, 20) && !sum(rsdp, 36), "both checksums");
    xsdt = table_at(&m, le64(rsdp + 24), "XSDT");
    rsdt = table_at(&m, le32(rsdp + 16), "RSDT");
    if (!ok(xsdt && rsdt && le32(xsdt + 4) == 36 + 8 * count, "XSDT and RSDT"))
        return;
    for (unsigned i = 0; i < count; i++)
        ok(table_at(&m, le64(xsdt + 36 + 8 * i), names[i]) &&
               le32(rsdt + 36 + 4 * i) == le64(xsdt + 36 + 8 * i),
           "%s", names[i]);
    fadt = table_at(&m, le64(xsdt + 36), "FACP");
    ok(table_at(&m, le32(fadt + 36), "FACS") && le32(fadt + 36) % 64 == 0 &&
           le64(fadt + 132) == le32(fadt + 36),
       "FACS, aligned, by both pointers");
    ok(table_at(&m, le64(fadt + 140), "DSDT") && le32(fadt + 40) == le64(fadt + 140), "DSDT");
    mem_close(&m);
}

/* ---- AML encodings ---- */

static bool aml_is(struct aml *a, const char *bytes, size_t len)
{
    bool same = a->out.size == len && !memcmp(a->out.data, bytes, len);

    stream_free(&a->out);
    *a = (struct aml){.failed = false};
    return same;
}

#define AML_IS(a, text) aml_is(a, text, sizeof(text) - 1)

static void test_aml(void)
{
    struct aml a = {.failed = false};
    size_t mark;
    char fill[5000] = {0};

    aml_path(&a, "\\_SB.PCI0.X");
    ok(AML_IS(&a, "\\\x2f\x03_SB_PCI0X___"), "paths are padded and counted");
    aml_path(&a, "\\");
    ok(AML_IS(&a, "\\\0"), "the root");
    aml_integer(&a, 1);
    aml_integer(&a, 0xff);
    aml_integer(&a, 0x100);
    aml_integer(&a, 0x12345678);
    aml_integer(&a, 0x123456789aULL);
    ok(AML_IS(&a, "\x01\x0a\xff\x0b\0\x01\x0c\x78\x56\x34\x12\x0e\x9a\x78\x56\x34\x12\0\0\0"),
       "integers are as short as they can be");
    aml_eisa_id(&a, "PNP0A08");
    ok(AML_IS(&a, "\x0c\x41\xd0\x0a\x08"), "EISA id");
    mark = aml_scope(&a, "A");
    aml_bytes(&a, fill, 58);
    aml_close(&a, mark);
    ok(a.out.data[1] == 63 && a.out.size == 64, "62 bytes of contents: one length byte");
    stream_free(&a.out);
    mark = aml_scope(&a, "A");
    aml_bytes(&a, fill, 59);
    aml_close(&a, mark);
    ok(a.out.data[1] == 0x41 && a.out.data[2] == 4 && a.out.size == 66,
       "63 bytes: two, which count themselves");
    stream_free(&a.out);
    mark = aml_scope(&a, "A");
    aml_bytes(&a, fill, 5000);
    aml_close(&a, mark);
    ok(a.out.data[1] == (0x80 | (5007 & 15)) && a.out.data[2] == (5007 >> 4 & 0xff) &&
           a.out.data[3] == 5007 >> 12,
       "5004 bytes: three");
    stream_free(&a.out);
}

/* ---- SMBIOS ---- */

static void test_smbios(void)
{
    struct smbios_config c = {
        .version = "1.2.3",
        .serial = "S-42",
        .uuid = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
        .cpus = 8,
        .cpu_name = "x86-64-v2",
        .layout = &big_layout,
    };
    struct stream s = {0};
    char *text;
    size_t len, at = 0;
    unsigned count = 0;
    uint8_t type = 0;
    FILE *f = open_memstream(&text, &len);
    struct mem m;
    const uint8_t *entry;

    ok(smbios_make(&s, &c, &err), "SMBIOS made");
    hex(f, "SMBIOS", &s);
    fclose(f);
    ok(golden("smbios.hex", text, len), "as before");
    free(text);
    while (at + 4 <= s.size && s.data[at + 1] >= 4) { /* walk as a kernel does */
        type = s.data[at];
        at += s.data[at + 1];
        while (at + 2 <= s.size && (s.data[at] || s.data[at + 1]))
            at++;
        at += 2;
        count++;
    }
    ok(type == 127 && at == s.size && count == 11, "%u structures, the last is the end", count);
    stream_free(&s);
    mem_init(&m);
    layout_add_ram(&small_layout, &m, &err);
    c.layout = &small_layout;
    ok(smbios_load(&c, &m, &err), "loaded");
    entry = mem_at(&m, 0xf0000, 24);
    ok(!memcmp(entry, "_SM3_", 5) && !sum(entry, 24) && le64(entry + 16) == 0xf0020,
       "entry point at f0000");
    mem_close(&m);
}

/* ---- iasl: disassembles every table and compiles it again, without a word ---- */

static bool run(const char *directory, const char *command)
{
    char line[1024];

    snprintf(line, sizeof line, "cd %s && %s", directory, command);
    return system(line) == 0;
}

static void write_tables(const char *directory, const struct acpi_config *c)
{
    struct acpi_tables t;
    gpa address[ACPI_TABLES_MAX], end;
    char path[600];
    FILE *f;

    if (!acpi_make(&t, c, &err))
        return;
    acpi_place(&t, LAYOUT_ACPI_BASE, address, &end);
    for (unsigned i = 1; i < t.count; i++) {
        snprintf(path, sizeof path, "%s/%s.aml", directory, t.table[i].name);
        f = fopen(path, "w");
        if (f) {
            fwrite(t.table[i].blob.data, 1, t.table[i].blob.size, f);
            fclose(f);
        }
    }
    acpi_close(&t);
}

static void test_iasl(const char *name, const struct acpi_config *c)
{
    char directory[] = "/tmp/hull-acpi-XXXXXX";

    if (system("command -v iasl >/dev/null")) {
        tap_skip(name, "iasl is not installed (acpica-tools)");
        return;
    }
    if (!ok(mkdtemp(directory) != NULL, "%s: a directory", name))
        return;
    write_tables(directory, c);
    ok(run(directory, "iasl -d *.aml >log 2>&1 && ! grep -iE 'error|warning|invalid' log >&2"),
       "%s: iasl disassembles all tables", name);
    ok(run(directory, "mkdir out && iasl -oa -p out/DSDT DSDT.dsl >log2 2>&1; grep Remark log2 >&2;"
                      "grep -q ' 0 Errors, 0 Warnings' log2"),
       "%s: and compiles the DSDT again, without errors or warnings", name);
    ok(run(directory, "tail -c +37 DSDT.aml >a; tail -c +37 out/DSDT.aml >b; cmp a b"),
       "%s: to the same bytes", name);
    run(directory, "rm -r \"$PWD\"");
}

int main(void)
{
    struct acpi_tables t;
    struct acpi_config none = small_board;

    layout_init(&small_layout, 256 * MiB, &err);
    layout_init(&big_layout, 24 * GiB, &err);
    test_aml();
    test_golden("acpi-small.hex", &small_board);
    test_golden("acpi-big.hex", &big_board);
    test_memory(&small_board, 4);
    none = big_board;
    none.layout = &small_layout;
    test_memory(&none, 5);
    test_smbios();
    test_iasl("small", &small_board);
    test_iasl("big", &big_board);
    none.cpus = 0;
    ok(!acpi_make(&t, &none, &err) && err.code == EINVAL, "refused: %s", err.text);
    acpi_close(&t);
    return tap_done();
}
