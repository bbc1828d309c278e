/* SPDX-License-Identifier: MIT */
/* Multiboot 2: a header of tags in the first 32 KiB, and information in tags too. Section numbers
 * are those of the Multiboot2 Specification 2.0. */
#include "boot/loader.h"
#include <errno.h>
#include <stdlib.h>

#define HEADER_MAGIC 0xe85250d6
#define BOOT_MAGIC   0x36d76289
#define HEADER_SIZE  16
#define LOADER_NAME  "hull"

enum header_tag { /* 3.1.3 and following */
                  TAG_END,
                  TAG_REQUEST,
                  TAG_ADDRESS,
                  TAG_ENTRY,
                  TAG_CONSOLE,
                  TAG_FRAMEBUFFER,
                  TAG_ALIGN,
                  TAG_EFI_SERVICES,
                  TAG_EFI32_ENTRY,
                  TAG_EFI64_ENTRY,
                  TAG_RELOCATABLE,
};

enum info_tag { /* 3.6 */
                INFO_END = 0,
                INFO_CMDLINE = 1,
                INFO_NAME = 2,
                INFO_MODULE = 3,
                INFO_MEMORY = 4,
                INFO_MAP = 6,
                INFO_RSDP1 = 14,
                INFO_RSDP2 = 15,
                INFO_LOAD_BASE = 21,
};

struct wishes { /* what the header asks for */
    bool addressed, has_entry, relocatable;
    struct multiboot_image image;
    uint32_t entry;
};

struct info { /* tags under construction */
    uint8_t *data;
    size_t size, capacity;
    bool failed;
};

static int find_header(const struct boot *b)
{
    for (size_t at = 0; at + HEADER_SIZE <= b->head_len; at += 8) {
        const uint8_t *h = b->head + at;

        if (le32(h) == HEADER_MAGIC && le32(h) + le32(h + 4) + le32(h + 8) + le32(h + 12) == 0)
            return (int)at;
    }
    return -1;
}

static bool multiboot2_probe(const struct boot *b)
{
    return find_header(b) >= 0;
}

static bool check_request(const uint8_t *tag, uint32_t size, struct err *err)
{
    for (uint32_t at = 8; at + 4 <= size; at += 4) {
        uint32_t type = le32(tag + at);

        if (type != INFO_CMDLINE && type != INFO_NAME && type != INFO_MODULE &&
            type != INFO_MEMORY && type != INFO_MAP && type != INFO_RSDP1 && type != INFO_RSDP2 &&
            type != INFO_LOAD_BASE)
            return err_set(
                err, ENOTSUP,
                "the kernel requires Multiboot information of type %u, which is not given", type);
    }
    return true;
}

static uint32_t tag_size_min(uint16_t type)
{
    switch (type) {
    case TAG_ADDRESS:
    case TAG_RELOCATABLE: return 24;
    case TAG_ENTRY:
    case TAG_CONSOLE: return 12;
    default: return 8;
    }
}

/* Tags that we cannot serve are errors unless they are marked optional. */
static bool take_tag(struct wishes *w, const uint8_t *tag, uint32_t size, struct err *err)
{
    uint16_t type = le16(tag);
    bool optional = le16(tag + 2) & 1;

    if (size < tag_size_min(type))
        return err_set(err, EINVAL, "Multiboot header tag %u of %u bytes is too short", type, size);
    switch (type) {
    case TAG_REQUEST: return optional || check_request(tag, size, err);
    case TAG_ADDRESS:
        w->addressed = true;
        w->image.header_addr = le32(tag + 8);
        w->image.load_addr = le32(tag + 12);
        w->image.load_end = le32(tag + 16);
        w->image.bss_end = le32(tag + 20);
        return true;
    case TAG_ENTRY:
        w->has_entry = true;
        w->entry = le32(tag + 8);
        return true;
    case TAG_RELOCATABLE: w->relocatable = true; return true; /* where it is linked is as good */
    case TAG_CONSOLE:
    case TAG_ALIGN:
    case TAG_EFI_SERVICES: /* the three EFI tags mean nothing without EFI */
    case TAG_EFI32_ENTRY:
    case TAG_EFI64_ENTRY: return true;
    default:
        return optional ||
               err_set(err, ENOTSUP,
                       "the Multiboot header requires %s (tag %u), which is not given",
                       type == TAG_FRAMEBUFFER ? "a framebuffer" : "an unknown feature", type);
    }
}

static bool read_header(const struct boot *b, struct wishes *w, struct err *err)
{
    size_t start = (size_t)find_header(b);
    const uint8_t *h = b->head + start;
    uint32_t length = le32(h + 8), at = HEADER_SIZE;

    memset(w, 0, sizeof *w);
    w->image.header_offset = start;
    if (le32(h + 4) != 0)
        return err_set(err, ENOTSUP, "Multiboot header for architecture %u: 0 (i386) is needed",
                       le32(h + 4));
    if (length < HEADER_SIZE || length > b->head_len - start)
        return err_set(err, EINVAL, "Multiboot header of %u bytes is not within the first %d bytes",
                       length, HEAD_SIZE);
    while (length - at >= 8) {
        uint32_t size = le32(h + at + 4);

        if (size < 8 || size > length - at)
            return err_set(err, EINVAL, "Multiboot header tag of %u bytes where %u are left", size,
                           length - at);
        if (le16(h + at) == TAG_END)
            return true;
        if (!take_tag(w, h + at, size, err))
            return false;
        at += (uint32_t)min_u64(align_up(size, 8), length - at);
    }
    return err_set(err, EINVAL, "Multiboot header without an end tag");
}

static bool place_kernel(struct load *ld, struct wishes *w, uint32_t *entry, struct err *err)
{
    const struct boot *b = ld->boot;
    struct elf elf;
    uint64_t address;

    if (w->addressed) {
        if (!w->has_entry)
            return err_set(err, EINVAL,
                           "Multiboot header with load addresses but no entry address");
        w->image.entry = *entry = w->entry;
        return multiboot_place(ld, &w->image, err);
    }
    if (!elf_probe(b))
        return err_set(err, ENOEXEC,
                       "Multiboot 2 kernel that is no ELF file and gives no addresses");
    if (!elf_parse(b, &elf, err) || !elf_place(ld, &elf, err))
        return false;
    if (w->has_entry)
        elf.entry = w->entry;
    if (!elf_entry(&elf, &address, err))
        return false;
    *entry = (uint32_t)address;
    return address <= UINT32_MAX || err_set(err, EINVAL, "the entry point is above 4 GiB");
}

/* Room for `len` bytes after the tag's head, zeroed and padded to 8. NULL: no memory. */
static uint8_t *add_tag(struct info *info, uint32_t type, size_t len)
{
    size_t need = align_up(8 + len, 8);
    uint8_t *tag;

    if (info->capacity - info->size < need) {
        uint8_t *data = realloc(info->data, info->size + need + 4096);

        if (data == NULL) {
            info->failed = true;
            return NULL;
        }
        info->data = data;
        info->capacity = info->size + need + 4096;
    }
    tag = info->data + info->size;
    memset(tag, 0, need);
    put_le32(tag, type);
    put_le32(tag + 4, (uint32_t)(8 + len));
    info->size += need;
    return tag + 8;
}

static void add_text(struct info *info, uint32_t type, const char *text)
{
    uint8_t *p = add_tag(info, type, strlen(text) + 1);

    if (p != NULL)
        memcpy(p, text, strlen(text));
}

static void add_memory(struct info *info, const struct load *ld)
{
    uint8_t *p = add_tag(info, INFO_MEMORY, 8);

    if (p != NULL) {
        put_le32(p, LAYOUT_CONVENTIONAL_END / KiB);
        put_le32(p + 4, (uint32_t)((ld->layout->low_end - 1 * MiB) / KiB));
    }
    p = add_tag(info, INFO_MAP, 8 + ld->map_count * 24);
    if (p == NULL)
        return;
    put_le32(p, 24); /* entry size; version 0 follows */
    for (unsigned i = 0; i < ld->map_count; i++) {
        put_le64(p + 8 + i * 24, ld->map[i].base);
        put_le64(p + 16 + i * 24, ld->map[i].size);
        put_le32(p + 24 + i * 24, ld->map[i].type);
    }
}

/* Both forms: 20 bytes of ACPI 1.0, and 36 of 2.0 where the revision says so. */
static void add_rsdp(struct info *info, struct load *ld)
{
    uint8_t rsdp[36], *p;

    if (ld->rsdp == 0 || mem_read(ld->mem, ld->rsdp, rsdp, sizeof rsdp) != 0)
        return;
    p = add_tag(info, INFO_RSDP1, 20);
    if (p != NULL)
        memcpy(p, rsdp, 20);
    p = rsdp[15] >= 2 ? add_tag(info, INFO_RSDP2, sizeof rsdp) : NULL;
    if (p != NULL)
        memcpy(p, rsdp, sizeof rsdp);
}

static void add_modules(struct info *info, const struct boot *b, const struct placed *at)
{
    for (unsigned i = 0; i < b->modules; i++) {
        const char *text = module_text(&b->module[i]);
        uint8_t *p = add_tag(info, INFO_MODULE, 8 + strlen(text) + 1);

        if (p == NULL)
            return;
        put_le32(p, (uint32_t)at[i].base);
        put_le32(p + 4, (uint32_t)(at[i].base + at[i].size));
        memcpy(p + 8, text, strlen(text));
    }
}

/* 3.6: total size, zero, then tags. */
static bool build_info(struct load *ld, struct info *info, const struct wishes *w, gpa base,
                       const struct placed *modules, struct err *err)
{
    char *cmdline = multiboot_cmdline(ld);
    uint8_t *p;

    add_tag(info, 0, 0); /* its 8 bytes become the head */
    if (cmdline != NULL)
        add_text(info, INFO_CMDLINE, cmdline);
    add_text(info, INFO_NAME, LOADER_NAME);
    add_modules(info, ld->boot, modules);
    add_memory(info, ld);
    add_rsdp(info, ld);
    if (w->relocatable && (p = add_tag(info, INFO_LOAD_BASE, 4)) != NULL)
        put_le32(p, (uint32_t)base);
    add_tag(info, INFO_END, 0);
    if (info->failed || cmdline == NULL) {
        free(cmdline);
        return err_set(err, ENOMEM, "no memory for Multiboot information");
    }
    put_le32(info->data, (uint32_t)info->size);
    put_le32(info->data + 4, 0);
    free(cmdline);
    return true;
}

static gpa lowest(const struct load *ld)
{
    gpa base = UINT64_MAX;

    for (unsigned i = 0; i < ld->spans; i++)
        base = min_u64(base, ld->span[i].base);
    return base;
}

static bool multiboot2_load(struct load *ld, struct err *err)
{
    struct placed modules[MODULES_MAX];
    struct info info = {0};
    struct wishes w;
    uint32_t entry = 0;
    gpa at, base;
    bool good;

    if (!read_header(ld->boot, &w, err) || !place_kernel(ld, &w, &entry, err))
        return false;
    base = lowest(ld);
    good = modules_place(ld, modules, err) && build_info(ld, &info, &w, base, modules, err) &&
           load_small(ld, info.data, info.size, "Multiboot information", &at, err) &&
           enter_flat(ld, entry, err);
    free(info.data);
    if (!good)
        return false;
    ld->cpu->reg[0] = BOOT_MAGIC; /* rax */
    ld->cpu->reg[3] = at;         /* rbx */
    return true;
}

const struct loader multiboot2_loader = {"Multiboot 2", multiboot2_probe, multiboot2_load};
