/* SPDX-License-Identifier: MIT */
/* Multiboot 1: a header with a magic number in the first 8 KiB, an ELF file or addresses in the
 * header that say where the file goes, and an information structure in EBX. Section numbers are
 * those of the Multiboot Specification 0.6.96. */
#include "boot/loader.h"
#include <errno.h>
#include <stdlib.h>

#define SEARCH_SIZE  8192
#define HEADER_MAGIC 0x1badb002
#define BOOT_MAGIC   0x2badb002
#define LOADER_NAME  "hull"

enum { WANT_ADDRESSES = 0x10000, REQUIRED = 0xffff, KNOWN = 0x7 }; /* header flags: 3.1.2 */
enum {
    HAVE_MEMORY = 0x1,
    HAVE_CMDLINE = 0x4,
    HAVE_MODULES = 0x8,
    HAVE_MAP = 0x40,
    HAVE_NAME = 0x200
};

#define INFO_SIZE      116
#define MODULE_SIZE    16
#define MAP_ENTRY_SIZE 24

/* Offset of the header, or -1. */
static int find_header(const struct boot *b)
{
    for (size_t at = 0; at + 12 <= min_size(b->head_len, SEARCH_SIZE); at += 4) {
        if (le32(b->head + at) == HEADER_MAGIC &&
            le32(b->head + at) + le32(b->head + at + 4) + le32(b->head + at + 8) == 0)
            return (int)at;
    }
    return -1;
}

static bool multiboot1_probe(const struct boot *b)
{
    return find_header(b) >= 0;
}

/* Where the file's first loaded byte is: the header lies header_addr - load_addr after it. */
static bool image_offset(const struct multiboot_image *im, uint64_t *offset, struct err *err)
{
    uint64_t before;

    if (im->load_addr == UINT32_MAX) { /* Multiboot 2: from the file's beginning */
        *offset = 0;
        return true;
    }
    before = (uint64_t)im->header_addr - im->load_addr;
    if (im->header_addr < im->load_addr || before > im->header_offset)
        return err_set(
            err, EINVAL,
            "header address 0x%x and load address 0x%x do not fit a header at byte 0x%llx",
            im->header_addr, im->load_addr, (unsigned long long)im->header_offset);
    *offset = im->header_offset - before;
    return true;
}

bool multiboot_place(struct load *ld, const struct multiboot_image *im, struct err *err)
{
    const struct boot_file *f = &ld->boot->kernel;
    uint64_t offset = 0, base = im->load_addr, len, size;

    if (!image_offset(im, &offset, err))
        return false;
    if (im->load_addr == UINT32_MAX) {
        if (im->header_addr < im->header_offset)
            return err_set(err, EINVAL, "header address 0x%x is too low", im->header_addr);
        base = im->header_addr - im->header_offset;
    }
    len = f->size - offset;
    if (im->load_end != 0) {
        if (im->load_end <= base || im->load_end - base > len)
            return err_set(err, EINVAL,
                           "load addresses 0x%llx to 0x%x do not fit a file of %llu bytes",
                           (unsigned long long)base, im->load_end, (unsigned long long)f->size);
        len = im->load_end - base;
    }
    size = len;
    if (im->bss_end != 0) {
        if (im->bss_end < base + len)
            return err_set(err, EINVAL, "bss ends at 0x%x, before what is loaded", im->bss_end);
        size = im->bss_end - base;
    }
    if (im->entry < base || im->entry - base >= size)
        return err_set(err, EINVAL, "the entry point 0x%x is not in the image", im->entry);
    return load_claim(ld, base, size, "image", err) && load_file(ld, f, offset, len, base, err) &&
           load_zero(ld, base + len, size - len, err);
}

char *multiboot_cmdline(const struct load *ld)
{
    const char *name = ld->boot->kernel.name, *append = ld->boot->append;
    char *text;

    return asprintf(&text, "%s%s%s", name, *append ? " " : "", append) < 0 ? NULL : text;
}

static bool place_kernel(struct load *ld, uint32_t *entry, struct err *err)
{
    const struct boot *b = ld->boot;
    size_t at = (size_t)find_header(b);
    const uint8_t *h = b->head + at;
    uint32_t flags = le32(h + 4);
    struct elf elf;
    uint64_t address;

    if (flags & REQUIRED & ~KNOWN)
        return err_set(err, ENOTSUP,
                       "the Multiboot header requires features 0x%x that are not known",
                       flags & REQUIRED & ~KNOWN);
    if (flags & WANT_ADDRESSES) {
        struct multiboot_image im = {at,           le32(h + 12), le32(h + 16),
                                     le32(h + 20), le32(h + 24), le32(h + 28)};

        *entry = im.entry;
        return multiboot_place(ld, &im, err);
    }
    if (!elf_probe(b))
        return err_set(err, ENOEXEC, "Multiboot kernel that is no ELF file and gives no addresses");
    if (!elf_parse(b, &elf, err) || !elf_place(ld, &elf, err) || !elf_entry(&elf, &address, err))
        return false;
    *entry = (uint32_t)address; /* segments are below 4 GiB or the claim of a 32-bit image fails */
    return address <= UINT32_MAX || err_set(err, EINVAL, "the entry point is above 4 GiB");
}

/* 3.3: modules, each with a string. */
static bool put_modules(struct load *ld, uint8_t *info, struct err *err)
{
    uint8_t list[MODULES_MAX * MODULE_SIZE] = {0};
    struct placed at[MODULES_MAX];
    gpa base, text;

    if (!modules_place(ld, at, err))
        return false;
    for (unsigned i = 0; i < ld->boot->modules; i++) {
        const char *words = module_text(&ld->boot->module[i]);

        if (!load_small(ld, words, strlen(words) + 1, "module text", &text, err))
            return false;
        put_le32(list + i * MODULE_SIZE, (uint32_t)at[i].base);
        put_le32(list + i * MODULE_SIZE + 4, (uint32_t)(at[i].base + at[i].size));
        put_le32(list + i * MODULE_SIZE + 8, (uint32_t)text);
    }
    if (ld->boot->modules > 0 &&
        !load_small(ld, list, ld->boot->modules * MODULE_SIZE, "module list", &base, err))
        return false;
    put_le32(info + 20, ld->boot->modules);
    put_le32(info + 24, ld->boot->modules ? (uint32_t)base : 0);
    return true;
}

/* 3.3: entries begin with their size, which does not count itself. */
static bool put_map(struct load *ld, uint8_t *info, struct err *err)
{
    uint8_t map[LAYOUT_E820_MAX * MAP_ENTRY_SIZE];
    gpa at;

    for (unsigned i = 0; i < ld->map_count; i++) {
        uint8_t *e = map + i * MAP_ENTRY_SIZE;

        put_le32(e, MAP_ENTRY_SIZE - 4);
        put_le64(e + 4, ld->map[i].base);
        put_le64(e + 12, ld->map[i].size);
        put_le32(e + 20, ld->map[i].type);
    }
    if (!load_small(ld, map, ld->map_count * MAP_ENTRY_SIZE, "memory map", &at, err))
        return false;
    put_le32(info + 44, ld->map_count * MAP_ENTRY_SIZE);
    put_le32(info + 48, (uint32_t)at);
    return true;
}

static bool put_text(struct load *ld, uint8_t *field, const char *text, const char *what,
                     struct err *err)
{
    gpa at;

    if (!load_small(ld, text, strlen(text) + 1, what, &at, err))
        return false;
    put_le32(field, (uint32_t)at);
    return true;
}

static bool multiboot1_load(struct load *ld, struct err *err)
{
    uint8_t info[INFO_SIZE] = {0};
    char *cmdline = NULL;
    uint32_t entry = 0;
    gpa at;
    bool good;

    if (!place_kernel(ld, &entry, err))
        return false;
    cmdline = multiboot_cmdline(ld);
    if (cmdline == NULL)
        return err_set(err, ENOMEM, "no memory for the command line");
    put_le32(info, HAVE_MEMORY | HAVE_CMDLINE | HAVE_MODULES | HAVE_MAP | HAVE_NAME);
    put_le32(info + 4, LAYOUT_CONVENTIONAL_END / KiB);
    put_le32(info + 8, (uint32_t)((ld->layout->low_end - 1 * MiB) / KiB));
    good = put_text(ld, info + 16, cmdline, "command line", err) && put_modules(ld, info, err) &&
           put_map(ld, info, err) && put_text(ld, info + 64, LOADER_NAME, "loader name", err) &&
           load_small(ld, info, sizeof info, "Multiboot information", &at, err) &&
           enter_flat(ld, entry, err);
    free(cmdline);
    if (!good)
        return false;
    ld->cpu->reg[0] = BOOT_MAGIC; /* rax */
    ld->cpu->reg[3] = at;         /* rbx */
    return true;
}

const struct loader multiboot1_loader = {"Multiboot", multiboot1_probe, multiboot1_load};
