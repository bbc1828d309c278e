/* SPDX-License-Identifier: MIT */
/* Shared by the loaders' tests: small guests, temporary files, and a check that advice helps. */
#ifndef HULL_BOOT_TESTING_H
#define HULL_BOOT_TESTING_H

#include "boot/boot.h"
#include "tap.h"
#include <stdlib.h>
#include <unistd.h>

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI };
enum { T_ES, T_CS, T_SS, T_DS, T_FS, T_GS };

static struct mem guest;
static struct layout layout;
static struct vcpu_state cpu;
static struct err failure;
static const char *kind;
static char test_dir[] = "/tmp/hull-boot-test-XXXXXX";

/* Writes test_dir/name and returns its path, which the next-but-seven call overwrites. */
__attribute__((unused)) static const char *put_file(const char *name, const void *data, size_t len)
{
    static char path[8][128];
    static unsigned next;
    char *to = path[next++ % 8];
    FILE *f;

    snprintf(to, sizeof path[0], "%s/%s", test_dir, name);
    f = fopen(to, "w");
    if (f == NULL || (len > 0 && fwrite(data, len, 1, f) != 1) || fclose(f) != 0)
        abort();
    return to;
}

/* A fresh guest of `memory` bytes; true if the kernel loads. `guest` and `cpu` are to be looked at.
 */
__attribute__((unused)) static bool boots_with(uint64_t memory, const char *kernel,
                                               const char *initrd, const char *append, gpa rsdp)
{
    struct boot_config config = {kernel, initrd, append};
    struct boot *b;
    bool good;

    mem_close(&guest);
    memset(&cpu, 0, sizeof cpu);
    failure = (struct err){0};
    if (!layout_init(&layout, memory, &failure) || !layout_add_ram(&layout, &guest, &failure))
        abort();
    b = boot_open(&config, &failure);
    if (b == NULL)
        return false;
    if (rsdp != 0)
        mem_load(&guest, rsdp, "RSD PTR 1234567\2\0abcdefghijklmnopqrst", 36);
    kind = boot_kind(b);
    good = boot_load(b, &guest, &layout, rsdp, &cpu, &failure) &&
           boot_load(b, &guest, &layout, rsdp, &cpu, &failure); /* as at a reset */
    boot_close(b);
    return good;
}

__attribute__((unused)) static bool boots(uint64_t memory, const char *kernel, const char *initrd)
{
    return boots_with(memory, kernel, initrd, "console=ttyS0", 0);
}

/* It must fail, with one line that contains `text`. */
__attribute__((unused)) static void refused(uint64_t memory, const char *kernel, const char *initrd,
                                            const char *text)
{
    bool good = boots(memory, kernel, initrd);

    ok(!good && failure.code > 0 && strstr(failure.text, text) != NULL &&
           strchr(failure.text, '\n') == NULL,
       "%s", good ? text : failure.text);
}

/* It must fail with "use --memory NM", and load with that much. */
__attribute__((unused)) static void refused_until(uint64_t memory, const char *kernel,
                                                  const char *initrd)
{
    bool good = boots(memory, kernel, initrd);
    const char *advice = strstr(failure.text, "use --memory ");
    char text[sizeof failure.text];
    uint64_t need;

    snprintf(text, sizeof text, "%s", failure.text);
    if (!ok(!good && advice != NULL, "%s", text))
        return;
    need = strtoull(advice + strlen("use --memory "), NULL, 10) * MiB;
    ok(need > memory && boots(need, kernel, initrd), "and with that it loads %s", failure.text);
}

__attribute__((unused)) static bool same(gpa at, const void *bytes, size_t len)
{
    void *host = mem_at(&guest, at, len);

    return host != NULL && memcmp(host, bytes, len) == 0;
}

__attribute__((unused)) static bool same_text(gpa at, const char *text)
{
    return same(at, text, strlen(text) + 1);
}

__attribute__((unused)) static uint32_t read32(gpa at)
{
    uint32_t v = 0xdeadbeef;

    mem_read(&guest, at, &v, sizeof v);
    return v;
}

__attribute__((unused)) static uint64_t read64(gpa at)
{
    uint64_t v = 0xdeadbeef;

    mem_read(&guest, at, &v, sizeof v);
    return v;
}

/* Walks the 4-level tables as the CPU would, 2 MiB pages only. */
__attribute__((unused)) static uint64_t translate(uint64_t virt)
{
    uint64_t e = read64(cpu.cr3 + (virt >> 39 & 511) * 8);

    e = e & 1 ? read64((e & 0xffffffffff000) + (virt >> 30 & 511) * 8) : 0;
    e = e & 1 ? read64((e & 0xffffffffff000) + (virt >> 21 & 511) * 8) : 0;
    return (e & 0x83) == 0x83 ? (e & 0xfffffffe00000) + (virt & 0x1fffff) : UINT64_MAX;
}

__attribute__((unused)) static void check_long_mode(void)
{
    ok((cpu.cr0 & 0x80000001) == 0x80000001 && (cpu.cr4 & 0x20) && (cpu.efer & 0x500) == 0x500,
       "64-bit mode is on");
    ok(cpu.seg[T_CS].sel == 0x10 &&
           (cpu.seg[T_CS].attr & (SEG_L | SEG_DB | SEG_P)) == (SEG_L | SEG_P),
       "64-bit CS");
    ok(cpu.seg[T_DS].sel == 0x18 && cpu.seg[T_SS].sel == 0x18 && cpu.seg[T_ES].limit == UINT32_MAX,
       "flat data");
    ok(read64(cpu.gdt.base + 0x10) == 0xaf9b000000ffff &&
           read64(cpu.gdt.base + 0x18) == 0xcf93000000ffff,
       "GDT agrees");
    ok(translate(0) == 0 && translate(0x12345678) == 0x12345678 &&
           translate(0xfffffff0) == 0xfffffff0,
       "the first 4 GiB are mapped to themselves");
    ok(translate(4 * GiB) == UINT64_MAX, "and no more");
    ok(cpu.rflags == 2, "interrupts are off");
}

__attribute__((unused)) static void check_flat_mode(void)
{
    ok((cpu.cr0 & 0x80000001) == 1 && cpu.efer == 0 && cpu.cr4 == 0, "32-bit mode, no paging");
    ok((cpu.seg[T_CS].attr & (SEG_L | SEG_DB | SEG_G)) == (SEG_DB | SEG_G) &&
           cpu.seg[T_CS].base == 0 && cpu.seg[T_CS].limit == UINT32_MAX &&
           cpu.seg[T_SS].attr == 0xc093,
       "flat 32-bit segments");
    ok(read64(cpu.gdt.base + 0x10) == 0xcf9b000000ffff && cpu.rflags == 2,
       "GDT agrees, interrupts are off");
}

__attribute__((unused)) static void test_open(void)
{
    mem_init(&guest);
    if (mkdtemp(test_dir) == NULL)
        abort();
}

__attribute__((unused)) static int test_close(void)
{
    char command[64];

    mem_close(&guest);
    snprintf(command, sizeof command, "rm -rf %s", test_dir);
    ok(system(command) == 0, "clean up");
    return tap_done();
}

#endif
