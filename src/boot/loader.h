/* SPDX-License-Identifier: MIT */
/* What the loaders share: open files, a map of what is placed where, and ways to enter a kernel.
 * Not for other folders. */
#ifndef HULL_BOOT_LOADER_H
#define HULL_BOOT_LOADER_H

#include "boot/boot.h"

#define HEAD_SIZE   32768 /* all magic numbers and headers lie in the first so many bytes */
#define MODULES_MAX 32
#define SPANS_MAX   160
#define ANYWHERE    UINT64_MAX

struct boot_file {
    const char *role; /* "kernel", "initrd" */
    char *name;       /* as given */
    const char *args; /* inside `name` memory; "" if none */
    int fd;
    uint64_t size;
};

struct load;

struct loader {
    const char *name;
    bool (*probe)(const struct boot *b);
    bool (*load)(struct load *ld, struct err *err);
};

struct boot {
    struct boot_file kernel, module[MODULES_MAX];
    unsigned modules;
    char *append;
    const struct loader *loader;
    uint8_t head[HEAD_SIZE]; /* zero after `head_len` */
    size_t head_len;
};

struct span { /* guest memory that is taken */
    uint64_t base, end;
    const char *what;
};

struct load { /* one boot_load */
    struct boot *boot;
    struct mem *mem;
    const struct layout *layout;
    gpa rsdp;
    struct vcpu_state *cpu;
    struct e820_entry map[LAYOUT_E820_MAX];
    unsigned map_count;
    struct span span[SPANS_MAX];
    unsigned spans;
    const struct boot_file *subject; /* whom an error is about */
};

struct placed { /* a module in guest memory */
    gpa base;
    uint64_t size;
};

extern const struct loader bzimage_loader, elf_loader, multiboot1_loader, multiboot2_loader;

/* file.c */
bool file_open(struct boot_file *f, struct err *err); /* f->name and f->role are set */
void file_close(struct boot_file *f);
/* For errors: the name, or its end if it is long. */
const char *file_label(const struct boot_file *f);
bool file_read(const struct boot_file *f, uint64_t offset, void *to, size_t len, struct err *err);
/* The same into a memfd. On false, for whatever reason, file_read does it or says what is wrong. */
bool file_send(const struct boot_file *f, uint64_t offset, int to, uint64_t to_offset, size_t len);
bool file_gunzip(struct boot_file *f, struct err *err);

/* place.c. Errors say what does not fit and what would help. */
/* Takes exactly this range, which must be RAM and free. No bytes: nothing to take. */
bool load_claim(struct load *ld, gpa base, uint64_t size, const char *what, struct err *err);
bool load_fits(const struct load *ld, gpa base, uint64_t size);
/* Takes the lowest or highest free range in [min, max) below 4 GiB. `align` is a power of two. */
bool load_find_low(struct load *ld, uint64_t size, uint64_t align, gpa min, const char *what,
                   gpa *at, struct err *err);
bool load_find_high(struct load *ld, uint64_t size, uint64_t align, gpa max, const char *what,
                    gpa *at, struct err *err);
gpa load_top(const struct load *ld); /* end of the highest range that is taken below 4 GiB */
/* Into memory that is claimed. */
bool load_bytes(struct load *ld, gpa at, const void *from, size_t len, struct err *err);
bool load_zero(struct load *ld, gpa at, uint64_t len, struct err *err);
bool load_file(struct load *ld, const struct boot_file *f, uint64_t offset, uint64_t len, gpa at,
               struct err *err);
/* A range at the bottom of memory, filled with a copy of `from`. */
bool load_small(struct load *ld, const void *from, size_t len, const char *what, gpa *at,
                struct err *err);

/* module.c */
/* All modules one after the other as one file, each padded to 4 bytes, below `max`. */
bool modules_join(struct load *ld, gpa max, struct placed *at, struct err *err);
/* Each on its own pages, above everything that is taken. */
bool modules_place(struct load *ld, struct placed at[MODULES_MAX], struct err *err);
/* "FILE" without arguments, else the arguments: what GRUB 2 gives. */
const char *module_text(const struct boot_file *f);

/* enter.c */
bool enter_long(struct load *ld, uint64_t rip, uint64_t rsi,
                struct err *err);                                /* 64-bit, 4 GiB mapped 1:1 */
bool enter_flat(struct load *ld, uint32_t eip, struct err *err); /* 32-bit, no paging */

/* bios.c: interrupt table and BIOS data in the first page, unless the kernel is there. Call it
 * last. */
bool bios_area(struct load *ld, struct err *err);

/* linux.c: completes the zero page whose setup header the loader has filled, places it, and enters.
 */
struct linux_kernel {
    uint8_t zero[4096];
    uint64_t cmdline_max; /* without the zero byte */
    uint64_t initrd_max;  /* first address an initrd may not reach */
    uint64_t entry;
    bool long_mode;
};
bool linux_boot(struct load *ld, struct linux_kernel *k, struct err *err);

/* elf.c */
#define ELF_SEGMENTS_MAX 64

struct elf_segment {
    uint32_t type;
    uint64_t offset, file_size, vaddr, paddr, mem_size, align;
};

struct elf {
    bool is64;
    uint64_t entry; /* as in the file: elf_entry makes it physical */
    struct elf_segment segment[ELF_SEGMENTS_MAX];
    unsigned segments;
};

bool elf_probe(const struct boot *b);
bool elf_parse(const struct boot *b, struct elf *elf, struct err *err);
/* Loads the segments. False with an error also if there is none. */
bool elf_place(struct load *ld, const struct elf *elf, struct err *err);
bool elf_entry(const struct elf *elf, uint64_t *entry, struct err *err);

/* pvh.c */
/* True with *entry set if a note names one; `err` is set only for notes that cannot be. */
bool pvh_find(const struct boot *b, const struct elf *elf, uint32_t *entry, struct err *err);
bool pvh_boot(struct load *ld, uint32_t entry, struct err *err);

/* multiboot.c: fields of an "address" header or tag. */
struct multiboot_image {
    uint64_t header_offset; /* in the file */
    uint32_t header_addr, load_addr, load_end, bss_end, entry;
};
bool multiboot_place(struct load *ld, const struct multiboot_image *image, struct err *err);
/* Kernel path and arguments, as Multiboot kernels expect. The caller frees it; NULL: no memory. */
char *multiboot_cmdline(const struct load *ld);

#endif
