/* SPDX-License-Identifier: MIT */
/* The PVH boot protocol: an ELF note names a 32-bit entry point, EBX points to hvm_start_info.
 * Layouts are those of Xen's public headers arch-x86/hvm/start_info.h and elfnote.h. */
#include "boot/loader.h"
#include <elf.h>
#include <errno.h>
#include <stdlib.h>

#define NOTES_MAX        (64 * KiB)
#define NOTE_PHYS32      18
#define START_MAGIC      0x336ec578
#define START_VERSION    1
#define START_SIZE       56
#define MODULE_SIZE      32
#define MAP_ENTRY_SIZE   24
#define LINUX_INITRD_MAX 0x80000000U

/* One step through a note segment: false at its end or when a size does not fit. */
static bool next_note(const uint8_t *notes, size_t size, size_t *at, uint64_t align, Elf32_Nhdr *h,
                      size_t *name, size_t *desc)
{
    if (*at > size || size - *at < sizeof *h)
        return false;
    memcpy(h, notes + *at, sizeof *h);
    if (h->n_namesz > size || h->n_descsz > size)
        return false;
    *name = *at + sizeof *h;
    *desc = align_up(*name + h->n_namesz, align);
    *at = align_up(*desc + h->n_descsz, align);
    return *desc <= size && h->n_descsz <= size - *desc;
}

static bool find_in(const uint8_t *notes, size_t size, uint64_t align, uint64_t *entry)
{
    Elf32_Nhdr h;
    size_t at = 0, name, desc;

    while (next_note(notes, size, &at, align, &h, &name, &desc)) {
        if (h.n_type != NOTE_PHYS32 || h.n_namesz != 4 || memcmp(notes + name, "Xen", 4) != 0)
            continue;
        if (h.n_descsz != 4 && h.n_descsz != 8)
            continue;
        *entry = h.n_descsz == 8 ? le64(notes + desc) : le32(notes + desc);
        return true;
    }
    return false;
}

static bool in_segment(const struct elf *elf, uint64_t entry)
{
    for (unsigned i = 0; i < elf->segments; i++) {
        const struct elf_segment *s = &elf->segment[i];

        if (s->type == PT_LOAD && entry >= s->paddr && entry - s->paddr < s->mem_size)
            return true;
    }
    return false;
}

bool pvh_find(const struct boot *b, const struct elf *elf, uint32_t *entry, struct err *err)
{
    for (unsigned i = 0; i < elf->segments; i++) {
        const struct elf_segment *s = &elf->segment[i];
        size_t size = min_u64(s->file_size, NOTES_MAX);
        uint64_t found = 0;
        uint8_t *notes;
        bool got;

        if (s->type != PT_NOTE || size == 0)
            continue;
        notes = malloc(size);
        if (notes == NULL)
            return err_set(err, ENOMEM, "no memory for ELF notes");
        got = file_read(&b->kernel, s->offset, notes, size, err) &&
              find_in(notes, size, s->align == 8 ? 8 : 4, &found);
        free(notes);
        if (got && (found > UINT32_MAX || !in_segment(elf, found)))
            return err_set(err, EINVAL, "the PVH entry point 0x%llx is in no segment",
                           (unsigned long long)found);
        *entry = (uint32_t)found;
        if (got)
            return true;
    }
    return false;
}

static bool put_modules(struct load *ld, uint8_t *info, struct err *err)
{
    const struct boot *b = ld->boot;
    uint8_t list[MODULES_MAX * MODULE_SIZE] = {0};
    struct placed at[MODULES_MAX];
    gpa base, text;

    if (b->modules == 0)
        return true;
    if (b->modules == 1 && *b->module[0].args == '\0') { /* as Linux likes its initrd: high */
        if (!modules_join(ld, LINUX_INITRD_MAX, &at[0], err))
            return false;
    } else if (!modules_place(ld, at, err)) {
        return false;
    }
    for (unsigned i = 0; i < b->modules; i++) {
        const char *words = module_text(&b->module[i]);

        if (!load_small(ld, words, strlen(words) + 1, "module text", &text, err))
            return false;
        put_le64(list + i * MODULE_SIZE, at[i].base);
        put_le64(list + i * MODULE_SIZE + 8, at[i].size);
        put_le64(list + i * MODULE_SIZE + 16, text);
    }
    if (!load_small(ld, list, b->modules * MODULE_SIZE, "module list", &base, err))
        return false;
    put_le32(info + 12, b->modules);
    put_le64(info + 16, base);
    return true;
}

static bool put_map(struct load *ld, uint8_t *info, struct err *err)
{
    uint8_t map[LAYOUT_E820_MAX * MAP_ENTRY_SIZE] = {0};
    gpa at;

    for (unsigned i = 0; i < ld->map_count; i++) {
        put_le64(map + i * MAP_ENTRY_SIZE, ld->map[i].base);
        put_le64(map + i * MAP_ENTRY_SIZE + 8, ld->map[i].size);
        put_le32(map + i * MAP_ENTRY_SIZE + 16, ld->map[i].type);
    }
    if (!load_small(ld, map, ld->map_count * MAP_ENTRY_SIZE, "memory map", &at, err))
        return false;
    put_le64(info + 40, at);
    put_le32(info + 48, ld->map_count);
    return true;
}

bool pvh_boot(struct load *ld, uint32_t entry, struct err *err)
{
    uint8_t info[START_SIZE] = {0};
    const char *text = ld->boot->append;
    gpa at;

    put_le32(info, START_MAGIC);
    put_le32(info + 4, START_VERSION);
    if (!load_small(ld, text, strlen(text) + 1, "command line", &at, err))
        return false;
    put_le64(info + 24, at);
    put_le64(info + 32, ld->rsdp);
    if (!put_modules(ld, info, err) || !put_map(ld, info, err) ||
        !load_small(ld, info, sizeof info, "start info", &at, err) || !enter_flat(ld, entry, err))
        return false;
    ld->cpu->reg[3] = at; /* rbx */
    return true;
}
