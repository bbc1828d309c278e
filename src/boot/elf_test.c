/* SPDX-License-Identifier: MIT */
/* ELF kernels: 64-bit entry, PVH by note, damaged headers. Files are made here, byte by byte. */
#include "boot/testing.h"
#include <elf.h>

#define FILE_SIZE 0x3000

static uint8_t image[FILE_SIZE];
static Elf64_Ehdr *const eh = (Elf64_Ehdr *)image;
static Elf64_Phdr *const ph = (Elf64_Phdr *)(image + sizeof(Elf64_Ehdr));

/* Two segments and a note segment without a PVH note. The virtual addresses are those of a kernel.
 */
static void make(void)
{
    memset(image, 0, sizeof image);
    memcpy(eh->e_ident, ELFMAG, SELFMAG);
    eh->e_ident[EI_CLASS] = ELFCLASS64;
    eh->e_ident[EI_DATA] = ELFDATA2LSB;
    eh->e_type = ET_EXEC;
    eh->e_machine = EM_X86_64;
    eh->e_phentsize = sizeof *ph;
    eh->e_phoff = sizeof *eh;
    eh->e_phnum = 3;
    eh->e_entry = 0x1000010;
    ph[0] = (Elf64_Phdr){PT_LOAD, 5, 0x1000, 0xffffffff81000000, 0x1000000, 0x1000, 0x1000, 0};
    ph[1] = (Elf64_Phdr){PT_LOAD, 6, 0x2000, 0xffffffff81400000, 0x1400000, 0x800, 0x5000, 0};
    ph[2] = (Elf64_Phdr){PT_NOTE, 4, 0x800, 0, 0, 0x100, 0x100, 4};
    memset(image + 0x1000, 0x90, 0x1000);
    memset(image + 0x2000, 0xdd, 0x800);
    put_le32(image + 0x800, 4);
    put_le32(image + 0x804, 5); /* padded to 8 */
    put_le32(image + 0x808, 7);
    memcpy(image + 0x80c, "GNU", 4);
}

static void make_pvh(uint64_t entry, uint32_t size)
{
    make();
    put_le32(image + 0x818, 4);
    put_le32(image + 0x81c, size);
    put_le32(image + 0x820, 18);
    memcpy(image + 0x824, "Xen", 4);
    put_le64(image + 0x828, entry);
}

static const char *file(void)
{
    return put_file("vmlinux", image, sizeof image);
}

static void test_linux(void)
{
    gpa zero;

    make();
    if (!ok(boots_with(64 * MiB, file(), put_file("initrd", "data", 4), "root=/dev/vda", 0xe0000),
            "vmlinux loads %s", failure.text))
        return;
    ok(strcmp(kind, "ELF") == 0 && cpu.rip == 0x1000010, "entered at its physical entry");
    ok(same(0x1000000, image + 0x1000, 0x1000) && same(0x1400000, image + 0x2000, 0x800),
       "both segments");
    check_long_mode();
    zero = cpu.reg[RSI];
    ok(read32(zero + 0x202) == 0x53726448 && same_text(read32(zero + 0x228), "root=/dev/vda") &&
           read64(zero + 0x70) == 0xe0000 && same(read32(zero + 0x218), "data", 4) &&
           read32(zero + 0x21c) == 4,
       "zero page");
    eh->e_entry = 0xffffffff81000020;
    ok(boots(64 * MiB, file(), NULL) && cpu.rip == 0x1000020, "a virtual entry is made physical");
}

static void test_bss(void)
{
    struct boot_config config = {NULL, NULL, NULL};
    struct boot *b;
    uint8_t zero[0x4800] = {0};

    make();
    config.kernel = file();
    mem_close(&guest);
    ok(layout_init(&layout, 64 * MiB, &failure) && layout_add_ram(&layout, &guest, &failure),
       "guest");
    memset(mem_at(&guest, 0x1400000, 0x6000), 0xcc, 0x6000); /* as a guest leaves it at reset */
    b = boot_open(&config, &failure);
    ok(b && boot_load(b, &guest, &layout, 0, &cpu, &failure) &&
           same(0x1400800, zero, sizeof zero) && read32(0x1405000) == 0xcccccccc,
       "bss is zeroed, and no more");
    boot_close(b);
}

static void test_pvh(void)
{
    gpa info, list;

    make_pvh(0x1000040, 4);
    if (!ok(boots_with(5 * GiB, file(), put_file("initrd", "data", 4), "quiet", 0xe0000),
            "PVH kernel loads %s", failure.text))
        return;
    ok(cpu.rip == 0x1000040, "entered by its note");
    check_flat_mode();
    info = cpu.reg[RBX];
    ok(read32(info) == 0x336ec578 && read32(info + 4) == 1 && read64(info + 32) == 0xe0000,
       "start info");
    ok(same_text(read64(info + 24), "quiet"), "command line");
    list = read64(info + 16);
    ok(read32(info + 12) == 1 && same(read64(list), "data", 4) && read64(list + 8) == 4, "module");
    ok(read32(info + 48) == 6 && read64(read64(info + 40) + 5 * 24) == 4 * GiB &&
           read64(read64(info + 40) + 5 * 24 + 8) == 3 * GiB &&
           read32(read64(info + 40) + 5 * 24 + 16) == 1,
       "memory map");
    make_pvh(0x1400000, 8);
    ok(boots(64 * MiB, file(), NULL) && cpu.rip == 0x1400000, "a note of 8 bytes");
    make_pvh(0x900000, 4);
    refused(64 * MiB, file(), NULL, "the PVH entry point 0x900000 is in no segment");
    make_pvh(0xffffffff81000000, 8);
    refused(64 * MiB, file(), NULL, "is in no segment");
    make_pvh(0x1000040, 4);
    put_le32(image + 0x818, 0xfffffffc); /* a name size that wraps */
    ok(boots(64 * MiB, file(), NULL) && cpu.rip == 0x1000010, "a damaged note is no note");
    make_pvh(0x1000040, 4);
    ph[2].p_filesz = 0x2a; /* ends within the note */
    ok(boots(64 * MiB, file(), NULL) && cpu.rip == 0x1000010, "nor is a cut one");
}

static void test_bad(void)
{
    make();
    refused(64 * MiB, put_file("cut", image, 60), NULL, "the file is cut");
    refused(64 * MiB, put_file("cut", image, 100), NULL, "the file is cut");
    refused(64 * MiB, put_file("cut", image, 0x2400), NULL, "the file is cut: segment 1");
    eh->e_machine = EM_AARCH64;
    refused(64 * MiB, file(), NULL, "machine 183");
    make();
    eh->e_ident[EI_DATA] = ELFDATA2MSB;
    refused(64 * MiB, file(), NULL, "an x86 kernel is needed");
    make();
    eh->e_type = ET_DYN;
    refused(64 * MiB, "/bin/true", NULL, "is no kernel");
    refused(64 * MiB, file(), NULL, "is no kernel");
    make();
    eh->e_phentsize = 32;
    refused(64 * MiB, file(), NULL, "damaged");
    make();
    eh->e_phnum = 0;
    refused(64 * MiB, file(), NULL, "0 ELF segments");
    eh->e_phnum = 0xffff;
    refused(64 * MiB, file(), NULL, "65535 ELF segments");
    make();
    eh->e_phoff = UINT64_MAX - 3;
    refused(64 * MiB, file(), NULL, "the file is cut");
    eh->e_phoff = sizeof image - 20;
    refused(64 * MiB, file(), NULL, "the file is cut");
    make();
    ph[0].p_offset = UINT64_MAX - 0xfff;
    refused(64 * MiB, file(), NULL, "the file is cut");
    make();
    ph[0].p_memsz = 0xfff;
    refused(64 * MiB, file(), NULL, "0x1000 bytes in the file but 0xfff in memory");
    make();
    ph[0].p_paddr = 0xfffffffffffff000;
    refused(64 * MiB, file(), NULL, "does not lie in RAM");
    ph[0].p_paddr = 0xa0000;
    refused(64 * MiB, file(), NULL, "segment of 0x1000 bytes at 0xa0000 does not lie in RAM");
    ph[0].p_paddr = 0x9f000;
    refused(64 * MiB, file(), NULL, "does not lie in RAM");
    ph[0].p_paddr = 100 * MiB;
    eh->e_entry = 100 * MiB;
    refused_until(64 * MiB, file(), NULL);
    make();
    ph[1].p_paddr = 0x1000800;
    refused(64 * MiB, file(), NULL, "overlaps the segment");
    make();
    ph[1].p_memsz = UINT64_MAX;
    refused(64 * MiB, file(), NULL, "does not lie in RAM");
    make();
    eh->e_entry = 0x2000000;
    refused(64 * MiB, file(), NULL, "the entry point 0x2000000 is in no segment");
    make();
    ph[0].p_type = ph[1].p_type = PT_NULL;
    refused(64 * MiB, file(), NULL, "nothing to load");
}

static void test_low(void)
{
    make();
    ph[0].p_paddr = 0x1000;
    eh->e_entry = 0x1010;
    ok(boots(64 * MiB, file(), NULL) && cpu.rip == 0x1010 && cpu.reg[RSI] >= 0x2000 &&
           same(0x1000, image + 0x1000, 0x1000),
       "a kernel at 4 KiB: the rest goes round it %s", failure.text);
}

static void test_elf32(void)
{
    Elf32_Ehdr h = {.e_type = ET_EXEC,
                    .e_machine = EM_386,
                    .e_phoff = sizeof h,
                    .e_phentsize = sizeof(Elf32_Phdr),
                    .e_phnum = 2};
    Elf32_Phdr p[2] = {{PT_LOAD, 0, 0x1000000, 0x1000000, sizeof image, sizeof image, 5, 0},
                       {PT_NOTE, 0x800, 0, 0, 0x100, 0x100, 4, 4}};

    make_pvh(0x1000100, 4);
    memcpy(h.e_ident, ELFMAG, SELFMAG);
    h.e_ident[EI_CLASS] = ELFCLASS32;
    h.e_ident[EI_DATA] = ELFDATA2LSB;
    memcpy(image, &h, sizeof h);
    memcpy(image + sizeof h, p, sizeof p);
    ok(boots(64 * MiB, file(), NULL) && cpu.rip == 0x1000100, "32-bit PVH kernel %s", failure.text);
    put_le32(image + 0x820, 17);
    refused(64 * MiB, file(), NULL,
            "32-bit ELF file with neither a PVH note nor a Multiboot header");
}

/* Every header byte changed in turn. */
static void test_damage(void)
{
    unsigned loaded = 0, silent = 0;

    for (size_t at = 4; at < sizeof *eh + 3 * sizeof *ph; at++) {
        for (unsigned bit = 0; bit < 8; bit += 3) {
            make_pvh(0x1000040, 4);
            image[at] ^= (uint8_t)(1U << bit);
            if (boots(32 * MiB, file(), NULL))
                loaded++;
            else
                silent += failure.text[0] == '\0' || failure.code == 0;
        }
    }
    ok(loaded > 0 && silent == 0, "changed header bytes: %u still load", loaded);
}

int main(void)
{
    test_open();
    test_linux();
    test_bss();
    test_pvh();
    test_bad();
    test_low();
    test_elf32();
    test_damage();
    return test_close();
}
