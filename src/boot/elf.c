/* SPDX-License-Identifier: MIT */
/* ELF kernels: a vmlinux (or any other) with a PVH note is entered as Xen would, an x86-64 one
 * without gets Linux's 64-bit protocol. Multiboot kernels in ELF files use the same segments. */
#include "boot/loader.h"
#include <elf.h>
#include <errno.h>

#define LINUX_CMDLINE_MAX 2047        /* COMMAND_LINE_SIZE on x86, less the zero byte */
#define LINUX_INITRD_MAX  0x80000000U /* what bzImages of 64-bit kernels say */
#define LINUX_ALIGNMENT   0x1000000
#define LINUX_PROTOCOL    0x020c

bool elf_probe(const struct boot *b)
{
    return b->head_len >= sizeof(Elf32_Ehdr) && memcmp(b->head, ELFMAG, SELFMAG) == 0;
}

static struct elf_segment segment32(const Elf32_Phdr *p)
{
    return (struct elf_segment){p->p_type,  p->p_offset, p->p_filesz, p->p_vaddr,
                                p->p_paddr, p->p_memsz,  p->p_align};
}

static struct elf_segment segment64(const Elf64_Phdr *p)
{
    return (struct elf_segment){p->p_type,  p->p_offset, p->p_filesz, p->p_vaddr,
                                p->p_paddr, p->p_memsz,  p->p_align};
}

/* Sizes against the file and against each other; addresses are checked when they are claimed. */
static bool check_segment(const struct boot *b, const struct elf_segment *s, unsigned i,
                          struct err *err)
{
    if (s->type != PT_LOAD && s->type != PT_NOTE)
        return true;
    if (s->offset > b->kernel.size || s->file_size > b->kernel.size - s->offset)
        return err_set(err, EINVAL,
                       "the file is cut: segment %u has 0x%llx bytes at 0x%llx of 0x%llx", i,
                       (unsigned long long)s->file_size, (unsigned long long)s->offset,
                       (unsigned long long)b->kernel.size);
    if (s->type == PT_LOAD && s->file_size > s->mem_size)
        return err_set(err, EINVAL, "segment %u has 0x%llx bytes in the file but 0x%llx in memory",
                       i, (unsigned long long)s->file_size, (unsigned long long)s->mem_size);
    return true;
}

static bool read_segments(const struct boot *b, struct elf *elf, uint64_t offset, unsigned count,
                          struct err *err)
{
    size_t size = elf->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);

    if (count == 0 || count > ELF_SEGMENTS_MAX)
        return err_set(err, EINVAL, "%u ELF segments: 1 to %d can be loaded", count,
                       ELF_SEGMENTS_MAX);
    if (offset > b->kernel.size)
        return err_set(err, EINVAL,
                       "the file is cut: ELF segments are listed at 0x%llx of 0x%llx bytes",
                       (unsigned long long)offset, (unsigned long long)b->kernel.size);
    for (unsigned i = 0; i < count; i++) {
        union {
            Elf32_Phdr p32;
            Elf64_Phdr p64;
        } h;

        if (!file_read(&b->kernel, offset + i * size, &h, size, err))
            return false;
        elf->segment[i] = elf->is64 ? segment64(&h.p64) : segment32(&h.p32);
        if (!check_segment(b, &elf->segment[i], i, err))
            return false;
    }
    elf->segments = count;
    return true;
}

bool elf_parse(const struct boot *b, struct elf *elf, struct err *err)
{
    Elf64_Ehdr h64;
    Elf32_Ehdr h32;

    memset(elf, 0, sizeof *elf);
    memcpy(&h64, b->head, sizeof h64); /* head is zero after the file's end */
    memcpy(&h32, b->head, sizeof h32);
    elf->is64 = h32.e_ident[EI_CLASS] == ELFCLASS64;
    if (h32.e_ident[EI_DATA] != ELFDATA2LSB ||
        (!elf->is64 && h32.e_ident[EI_CLASS] != ELFCLASS32) ||
        (h32.e_machine != EM_386 && h32.e_machine != EM_X86_64))
        return err_set(err, ENOEXEC, "ELF file for machine %u, class %u: an x86 kernel is needed",
                       h32.e_machine, h32.e_ident[EI_CLASS]);
    if (h32.e_type != ET_EXEC)
        return err_set(err, ENOEXEC,
                       "ELF file of type %u is no kernel: type 2 (executable) is needed",
                       h32.e_type);
    if (elf->is64 ? h64.e_phentsize != sizeof(Elf64_Phdr) : h32.e_phentsize != sizeof(Elf32_Phdr))
        return err_set(err, EINVAL, "ELF segment headers of %u bytes: the file is damaged",
                       elf->is64 ? h64.e_phentsize : h32.e_phentsize);
    elf->entry = elf->is64 ? h64.e_entry : h32.e_entry;
    return elf->is64 ? read_segments(b, elf, h64.e_phoff, h64.e_phnum, err)
                     : read_segments(b, elf, h32.e_phoff, h32.e_phnum, err);
}

/* The highest first, so that an error about too little memory names enough for all. */
static bool claim_segments(struct load *ld, const struct elf *elf, struct err *err)
{
    unsigned highest = 0;
    uint64_t top = 0;

    for (unsigned i = 0; i < elf->segments; i++) {
        const struct elf_segment *s = &elf->segment[i];

        if (s->type == PT_LOAD && s->mem_size > 0 && s->paddr >= top) {
            top = s->paddr;
            highest = i;
        }
    }
    for (unsigned i = 0; i < elf->segments; i++) {
        const struct elf_segment *s = &elf->segment[i == 0 ? highest : i <= highest ? i - 1 : i];

        if (s->type == PT_LOAD && !load_claim(ld, s->paddr, s->mem_size, "segment", err))
            return false;
    }
    return true;
}

bool elf_place(struct load *ld, const struct elf *elf, struct err *err)
{
    uint64_t loaded = 0;

    if (!claim_segments(ld, elf, err))
        return false;
    for (unsigned i = 0; i < elf->segments; i++) {
        const struct elf_segment *s = &elf->segment[i];

        if (s->type != PT_LOAD || s->mem_size == 0)
            continue;
        if (!load_file(ld, &ld->boot->kernel, s->offset, s->file_size, s->paddr, err) ||
            !load_zero(ld, s->paddr + s->file_size, s->mem_size - s->file_size, err))
            return false;
        loaded += s->file_size;
    }
    return loaded > 0 || err_set(err, EINVAL, "the ELF file has nothing to load");
}

static bool within(uint64_t x, uint64_t base, uint64_t size)
{
    return x >= base && x - base < size;
}

/* Linux gives a physical entry, others a virtual one. */
bool elf_entry(const struct elf *elf, uint64_t *entry, struct err *err)
{
    for (unsigned pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < elf->segments; i++) {
            const struct elf_segment *s = &elf->segment[i];
            uint64_t base = pass == 0 ? s->paddr : s->vaddr;

            if (s->type == PT_LOAD && within(elf->entry, base, s->mem_size)) {
                *entry = elf->entry - base + s->paddr;
                return true;
            }
        }
    }
    return err_set(err, EINVAL, "the entry point 0x%llx is in no segment",
                   (unsigned long long)elf->entry);
}

/* A vmlinux has no setup header: these are the values a bzImage of the same kernel has. */
static bool boot_vmlinux(struct load *ld, const struct elf *elf, struct err *err)
{
    struct linux_kernel k = {
        .cmdline_max = LINUX_CMDLINE_MAX, .initrd_max = LINUX_INITRD_MAX, .long_mode = true};

    if (!elf_entry(elf, &k.entry, err))
        return false;
    if (k.entry >= 4 * GiB)
        return err_set(err, EINVAL, "the entry point 0x%llx is above 4 GiB",
                       (unsigned long long)k.entry);
    put_le16(k.zero + 0x1fe, 0xaa55);
    memcpy(k.zero + 0x202, "HdrS", 4);
    put_le16(k.zero + 0x206, LINUX_PROTOCOL);
    k.zero[0x211] = 1; /* loaded high */
    put_le32(k.zero + 0x230, LINUX_ALIGNMENT);
    put_le32(k.zero + 0x238, LINUX_CMDLINE_MAX);
    return linux_boot(ld, &k, err);
}

static bool elf_load(struct load *ld, struct err *err)
{
    struct elf elf;
    struct err none = {0};
    uint32_t pvh;

    if (!elf_parse(ld->boot, &elf, err) || !elf_place(ld, &elf, err))
        return false;
    if (pvh_find(ld->boot, &elf, &pvh, &none))
        return pvh_boot(ld, pvh, err);
    if (none.code != 0) {
        *err = none;
        return false;
    }
    if (!elf.is64)
        return err_set(err, ENOEXEC,
                       "32-bit ELF file with neither a PVH note nor a Multiboot header");
    return boot_vmlinux(ld, &elf, err);
}

const struct loader elf_loader = {"ELF", elf_probe, elf_load};
