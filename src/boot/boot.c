/* SPDX-License-Identifier: MIT */
/* Opens a kernel and its modules, finds the loader by what the file contains, and loads. */
#include "boot/loader.h"
#include <errno.h>
#include <stdlib.h>

/* Most particular first: a Multiboot kernel is an ELF file too. */
static const struct loader *const loaders[] = {
    &bzimage_loader,
    &multiboot2_loader,
    &multiboot1_loader,
    &elf_loader,
};

/* Files that people give by mistake. */
static const struct {
    const char *magic;
    size_t len;
    const char *text;
} others[] = {
    {"\xfd"
     "7zXZ",
     5, "it is compressed with xz: unpack it first"},
    {"\x28\xb5\x2f\xfd", 4, "it is compressed with zstd: unpack it first"},
    {"070701", 6, "it is a cpio archive: give it with --initrd"},
    {"QFI\xfb", 4, "it is a qcow2 disk: give it with --disk"},
    {"MZ", 2, "it is an EFI program"},
    {"#!", 2, "it is a script"},
};

static bool unknown_kernel(const struct boot *b, struct err *err)
{
    const uint8_t *h = b->head;

    for (unsigned i = 0; i < ARRAY_SIZE(others); i++) {
        if (memcmp(h, others[i].magic, others[i].len) == 0)
            return err_set(err, ENOEXEC, "not a kernel that can be booted: %s", others[i].text);
    }
    return err_set(
        err, ENOEXEC,
        "neither a bzImage nor an ELF or Multiboot kernel: it begins with %02x %02x %02x %02x",
        h[0], h[1], h[2], h[3]);
}

static bool read_head(struct boot *b, struct err *err)
{
    memset(b->head, 0, sizeof b->head);
    b->head_len = min_u64(b->kernel.size, sizeof b->head);
    return file_read(&b->kernel, 0, b->head, b->head_len, err);
}

static bool identify(struct boot *b, struct err *err)
{
    if (!read_head(b, err))
        return false;
    if (b->head_len > 2 && b->head[0] == 0x1f && b->head[1] == 0x8b &&
        (!file_gunzip(&b->kernel, err) || !read_head(b, err)))
        return false;
    for (unsigned i = 0; i < ARRAY_SIZE(loaders) && b->loader == NULL; i++) {
        if (loaders[i]->probe(b))
            b->loader = loaders[i];
    }
    return b->loader != NULL || unknown_kernel(b, err);
}

/* Copies up to a single comma; ",," stands for one in a name. Returns what follows, NULL at the
 * end. */
static const char *next_name(const char *list, char *name)
{
    for (; *list != '\0'; list++) {
        if (*list == ',' && *++list != ',') {
            *name = '\0';
            return list;
        }
        *name++ = *list;
    }
    *name = '\0';
    return NULL;
}

static bool open_modules(struct boot *b, const char *list, struct err *err)
{
    while (list != NULL && *list != '\0') {
        struct boot_file *f = &b->module[b->modules];

        if (b->modules == MODULES_MAX)
            return err_set(err, E2BIG, "more than %d files in --initrd", MODULES_MAX);
        f->name = malloc(strlen(list) + 1);
        if (f->name == NULL)
            return err_set(err, ENOMEM, "no memory for --initrd");
        f->fd = -1;
        f->role = "initrd";
        b->modules++;
        list = next_name(list, f->name);
        if (!file_open(f, err))
            return false;
    }
    return true;
}

struct boot *boot_open(const struct boot_config *config, struct err *err)
{
    struct boot *b = calloc(1, sizeof *b);

    if (b == NULL) {
        err_set(err, ENOMEM, "no memory to load a kernel");
        return NULL;
    }
    b->kernel = (struct boot_file){.role = "kernel", .name = strdup(config->kernel), .fd = -1};
    b->append = strdup(config->append ? config->append : "");
    if (b->kernel.name == NULL || b->append == NULL) {
        err_set(err, ENOMEM, "no memory to load a kernel");
        goto close_boot;
    }
    if (!file_open(&b->kernel, err))
        goto close_boot;
    if (!identify(b, err)) {
        err_wrap(err, "kernel '%s'", file_label(&b->kernel));
        goto close_boot;
    }
    if (!open_modules(b, config->initrd, err))
        goto close_boot;
    return b;
close_boot:
    boot_close(b);
    return NULL;
}

bool boot_load(struct boot *b, struct mem *mem, const struct layout *layout, gpa acpi_rsdp,
               struct vcpu_state *cpu, struct err *err)
{
    struct load ld = {.boot = b,
                      .mem = mem,
                      .layout = layout,
                      .rsdp = acpi_rsdp,
                      .cpu = cpu,
                      .subject = &b->kernel};

    ld.map_count = layout_e820(layout, ld.map);
    if (b->loader->load(&ld, err) && bios_area(&ld, err))
        return true;
    return err_wrap(err, "%s '%s'", ld.subject->role, file_label(ld.subject));
}

const char *boot_kind(const struct boot *b)
{
    return b->loader->name;
}

void boot_close(struct boot *b)
{
    if (b == NULL)
        return;
    file_close(&b->kernel);
    for (unsigned i = 0; i < b->modules; i++)
        file_close(&b->module[i]);
    free(b->append);
    free(b);
}
