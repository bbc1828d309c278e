/* SPDX-License-Identifier: MIT */
/* Kernel files from the fuzzer, loaded into a guest of 8 MiB. Compiled once per loader, with LOADER
 * its name. Magic numbers and checksums are put in place here, so that the fuzzer gets behind them.
 */
#include "boot/loader.h"
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define CAT_(a, b) a##b
#define CAT(a, b)  CAT_(a, b)
#define THE_LOADER CAT(LOADER, _loader)
#define TEXT_(a)   #a
#define TEXT(a)    TEXT_(a)
#define FILE_MAX   (256 * 1024)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct mem guest;
static struct layout layout;
static struct boot boot;

static void setup(void)
{
    static char kernel[] = "kernel", module[] = "module";
    struct err e;

    mem_init(&guest);
    if (!layout_init(&layout, 8 * MiB, &e) || !layout_add_ram(&layout, &guest, &e))
        abort();
    boot.kernel = (struct boot_file){"kernel", kernel, "", memfd_create("kernel", 0), 0};
    boot.module[0] = (struct boot_file){"initrd", module, "", memfd_create("module", 0), 5};
    if (write(boot.module[0].fd, "hello", 5) != 5)
        abort();
    boot.append = strdup("console=ttyS0");
}

/* The first two bytes say where a Multiboot header begins. */
static void put_header(uint8_t *file, size_t size, uint32_t magic, unsigned align, unsigned words)
{
    size_t at = size < 64 ? 0 : le16(file) % (size - 32) / align * align;
    uint32_t sum = magic;

    if (size < 64)
        return;
    put_le32(file + at, magic);
    if (words == 4) { /* Multiboot 2: architecture and a length that can be */
        put_le32(file + at + 4, le32(file + at + 4) & 0x10000);
        put_le32(file + at + 8, le32(file + at + 8) % (uint32_t)(size - at + 8));
    }
    for (unsigned i = 1; i < words - 1; i++)
        sum += le32(file + at + i * 4);
    put_le32(file + at + (words - 1) * 4, -sum);
}

static void put_elf(uint8_t *file)
{
    memcpy(file,
           "\x7f"
           "ELF",
           4);
    file[5] = 1;
    put_le16(file + 16, 2);
    put_le16(file + 18, file[4] == 2 ? 62 : 3);
    put_le16(file + 42, 32); /* e_phentsize of a 32-bit file, */
    if (file[4] == 2)
        put_le16(file + 54, 56); /* of a 64-bit one */
}

static void put_magic(uint8_t *file, size_t size)
{
    const char *name = TEXT(LOADER);

    if (size >= 64 && (strcmp(name, "elf") == 0 || (file[63] & 1)))
        put_elf(file);
    if (strcmp(name, "bzimage") == 0 && size >= 0x268) {
        put_le16(file + 0x1fe, 0xaa55);
        memcpy(file + 0x202, "HdrS", 4);
    } else if (strcmp(name, "multiboot1") == 0) {
        put_header(file, size, 0x1badb002, 4, 3);
    } else if (strcmp(name, "multiboot2") == 0) {
        put_header(file, size, 0xe85250d6, 8, 4);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t file[FILE_MAX];
    struct vcpu_state cpu = {0};
    struct err e = {0};

    if (boot.append == NULL)
        setup();
    if (size < 2 || size > sizeof file)
        return 0;
    memcpy(file, data, size);
    put_magic(file, size);
    if (ftruncate(boot.kernel.fd, 0) != 0 || pwrite(boot.kernel.fd, file, size, 0) != (ssize_t)size)
        abort();
    boot.kernel.size = size;
    boot.modules = data[0] & 1;
    boot.head_len = min_size(size, sizeof boot.head);
    memset(boot.head, 0, sizeof boot.head);
    memcpy(boot.head, file, boot.head_len);
    boot.loader = &THE_LOADER;
    if (boot.loader->probe(&boot) && !boot_load(&boot, &guest, &layout, 0xe0000, &cpu, &e) &&
        e.code == 0)
        abort(); /* every refusal says why */
    return 0;
}
