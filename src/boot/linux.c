/* SPDX-License-Identifier: MIT */
/* What every Linux kernel gets, whichever file it came in: a zero page with command line, initrd,
 * memory map and ACPI root. Offsets are those of struct boot_params, in Linux
 * Documentation/arch/x86/zero-page.rst and boot.rst. */
#include "boot/loader.h"
#include <errno.h>

enum {
    ACPI_RSDP = 0x070,
    E820_COUNT = 0x1e8,
    LOADER_TYPE = 0x210,
    RAMDISK_IMAGE = 0x218,
    RAMDISK_SIZE = 0x21c,
    CMDLINE_PTR = 0x228,
    E820_TABLE = 0x2d0,
};

#define LOADER_UNKNOWN 0xff /* we have no number of our own */

static bool put_cmdline(struct load *ld, struct linux_kernel *k, struct err *err)
{
    const char *text = ld->boot->append;
    size_t len = strlen(text);
    gpa at;

    if (len > k->cmdline_max)
        return err_set(
            err, E2BIG,
            "the command line has %zu characters, this kernel takes %llu: shorten --append", len,
            (unsigned long long)k->cmdline_max);
    if (!load_small(ld, text, len + 1, "command line", &at, err))
        return false;
    put_le32(k->zero + CMDLINE_PTR, (uint32_t)at);
    return true;
}

static void put_map(const struct load *ld, uint8_t *zero)
{
    uint8_t *entry = zero + E820_TABLE;

    for (unsigned i = 0; i < ld->map_count; i++, entry += 20) {
        put_le64(entry, ld->map[i].base);
        put_le64(entry + 8, ld->map[i].size);
        put_le32(entry + 16, ld->map[i].type);
    }
    zero[E820_COUNT] = (uint8_t)ld->map_count;
}

bool linux_boot(struct load *ld, struct linux_kernel *k, struct err *err)
{
    struct placed initrd;
    gpa zero;

    k->zero[LOADER_TYPE] = LOADER_UNKNOWN;
    put_le64(k->zero + ACPI_RSDP, ld->rsdp);
    put_map(ld, k->zero);
    if (!put_cmdline(ld, k, err) || !modules_join(ld, k->initrd_max, &initrd, err))
        return false;
    put_le32(k->zero + RAMDISK_IMAGE, (uint32_t)initrd.base);
    put_le32(k->zero + RAMDISK_SIZE, (uint32_t)initrd.size);
    if (!load_small(ld, k->zero, sizeof k->zero, "zero page", &zero, err))
        return false;
    if (k->long_mode)
        return enter_long(ld, k->entry, zero, err);
    if (!enter_flat(ld, (uint32_t)k->entry, err))
        return false;
    ld->cpu->reg[6] = zero; /* rsi */
    return true;
}
