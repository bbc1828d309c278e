/* SPDX-License-Identifier: MIT */
/* Multiboot 1 and 2: headers, address fields, information, modules; damaged files. */
#include "boot/testing.h"
#include <elf.h>

#define FILE_SIZE 0x3000
#define AT        0x40 /* of the header, after a made-up jump */

static uint8_t image[FILE_SIZE];

static const char *file(void)
{
    return put_file("kernel", image, sizeof image);
}

static void sum1(void)
{
    put_le32(image + AT + 8, -(le32(image + AT) + le32(image + AT + 4)));
}

/* Multiboot 1 with addresses: the file from byte 0x10 on goes to 1 MiB, bss to 0x110000. */
static void make1(void)
{
    for (unsigned i = 0; i < sizeof image; i++)
        image[i] = (uint8_t)(i * 3 + (i >> 8));
    put_le32(image + AT, 0x1badb002);
    put_le32(image + AT + 4, 0x10003);
    sum1();
    put_le32(image + AT + 12, 0x100000 + AT - 0x10);
    put_le32(image + AT + 16, 0x100000);
    put_le32(image + AT + 20, 0x102000);
    put_le32(image + AT + 24, 0x110000);
    put_le32(image + AT + 28, 0x100100);
}

/* An ELF file whose one segment is all of the file, at 2 MiB. */
static void make_elf(uint16_t machine)
{
    Elf32_Ehdr h = {.e_type = ET_EXEC,
                    .e_machine = machine,
                    .e_phoff = 0x400,
                    .e_phentsize = sizeof(Elf32_Phdr),
                    .e_phnum = 1,
                    .e_entry = 0x200800};
    Elf32_Phdr p = {PT_LOAD, 0, 0x200000, 0x200000, sizeof image, 0x8000, 7, 0};

    memset(image, 0, sizeof image);
    memcpy(h.e_ident, ELFMAG, SELFMAG);
    h.e_ident[EI_CLASS] = ELFCLASS32;
    h.e_ident[EI_DATA] = ELFDATA2LSB;
    memcpy(image, &h, sizeof h);
    memcpy(image + 0x400, &p, sizeof p);
}

static void make_elf1(void)
{
    make_elf(EM_386);
    put_le32(image + AT, 0x1badb002);
    put_le32(image + AT + 4, 3);
    sum1();
}

static const char *modules(void)
{
    static char text[300];
    const char *a = put_file("first", "module one", 10), *b = put_file("second", "module 2", 8);

    snprintf(text, sizeof text, "%s,%s ext2fs --readonly x,,y", a, b);
    return text;
}

static void check_info1(const char *kernel)
{
    gpa info = cpu.reg[RBX], list;
    char want[200];

    ok((uint32_t)cpu.reg[RAX] == 0x2badb002 && (read32(info) & 0x24d) == 0x24d, "magic and flags");
    check_flat_mode();
    ok(read32(info + 4) == 639 && read32(info + 8) == 63 * 1024, "memory sizes");
    snprintf(want, sizeof want, "%s console=ttyS0", kernel);
    ok(same_text(read32(info + 16), want), "command line, with the kernel's name in front");
    ok(same_text(read32(info + 64), "hull"), "loader name");
    list = read32(info + 24);
    snprintf(want, sizeof want, "%s/first", test_dir);
    ok(read32(info + 20) == 2 && read32(list) % 4096 == 0 &&
           read32(list + 4) - read32(list) == 10 && same(read32(list), "module one", 10) &&
           same_text(read32(list + 8), want),
       "first module, its name as text");
    ok(same(read32(list + 16), "module 2", 8) &&
           same_text(read32(list + 24), "ext2fs --readonly x,y"),
       "second module, its arguments as text");
    ok(read32(info + 44) == 5 * 24 && read32(read32(info + 48)) == 20 &&
           read64(read32(info + 48) + 4) == 0 && read64(read32(info + 48) + 12) == 0x9fc00 &&
           read32(read32(info + 48) + 20) == 1,
       "memory map");
}

static void test_one(void)
{
    const char *kernel;
    uint8_t zero[16] = {0};

    make1();
    kernel = file();
    if (!ok(boots(64 * MiB, kernel, modules()), "Multiboot with addresses %s", failure.text))
        return;
    ok(strcmp(kind, "Multiboot") == 0 && cpu.rip == 0x100100, "entry");
    ok(same(0x100000, image + 0x10, 0x2000) && same(0x102000, zero, 16),
       "what the addresses say, then bss");
    check_info1(kernel);
    ok((read32(0x40e) & 0xffff) == 0x9fc0 && (read32(0x413) & 0xffff) == 639 &&
           read32(0x15 * 4) == 0x500 && same(0x500, "\x55\x89\xe5", 3),
       "BIOS data area and interrupt table");
    ok(read32(read32(cpu.reg[RBX] + 24)) >= 0x110000, "modules are above bss");
    put_le32(image + AT + 20, 0);
    put_le32(image + AT + 24, 0);
    ok(boots(64 * MiB, file(), NULL) && same(0x100000, image + 0x10, sizeof image - 0x10),
       "no load end: all of the file");
    make_elf1();
    kernel = file();
    ok(boots(64 * MiB, kernel, modules()) && cpu.rip == 0x200800 &&
           same(0x200000, image, sizeof image),
       "Multiboot in ELF %s", failure.text);
    check_info1(kernel);
}

static void test_one_bad(void)
{
    make1();
    put_le32(image + AT + 8, 1);
    refused(64 * MiB, file(), NULL, "neither a bzImage nor");
    make1();
    put_le32(image + AT + 4, 0x10103);
    sum1();
    refused(64 * MiB, file(), NULL, "requires features 0x100");
    make1();
    put_le32(image + AT + 4, 3);
    sum1();
    refused(64 * MiB, file(), NULL, "is no ELF file and gives no addresses");
    make1();
    put_le32(image + AT + 16, 0x200000);
    refused(64 * MiB, file(), NULL, "do not fit a header at byte 0x40");
    make1();
    put_le32(image + AT + 12, 0x100100);
    refused(64 * MiB, file(), NULL, "do not fit a header at byte 0x40");
    make1();
    put_le32(image + AT + 20, 0x100000 + FILE_SIZE);
    refused(64 * MiB, file(), NULL, "do not fit a file of 12288 bytes");
    make1();
    put_le32(image + AT + 20, 0xff000);
    refused(64 * MiB, file(), NULL, "do not fit a file");
    make1();
    put_le32(image + AT + 24, 0x101000);
    refused(64 * MiB, file(), NULL, "bss ends at 0x101000");
    put_le32(image + AT + 24, 0xffffffff);
    refused(64 * MiB, file(), NULL, "does not lie in RAM");
    make1();
    put_le32(image + AT + 28, 0x110000);
    refused(64 * MiB, file(), NULL, "the entry point 0x110000 is not in the image");
    make1();
    put_le32(image + AT + 24, 0x8000000);
    refused_until(64 * MiB, file(), NULL);
    make1();
    refused(64 * MiB, put_file("cut", image, 0x1000), NULL, "do not fit a file");
    make_elf1();
    put_le16(image + 18, EM_ARM);
    refused(64 * MiB, file(), NULL, "machine 40");
}

/* --- Multiboot 2 --- */

static unsigned tag_at;

static void tag(uint16_t type, uint16_t flags, uint32_t size)
{
    put_le16(image + AT + tag_at, type);
    put_le16(image + AT + tag_at + 2, flags);
    put_le32(image + AT + tag_at + 4, size);
    tag_at += (size + 7) & ~7U;
}

static void begin2(void)
{
    make_elf(EM_X86_64); /* Xen is such a file: 32-bit ELF */
    put_le16(image + 18, EM_386);
    tag_at = 16;
}

static const char *end2(void)
{
    tag(0, 0, 8);
    put_le32(image + AT, 0xe85250d6);
    put_le32(image + AT + 4, 0);
    put_le32(image + AT + 8, tag_at);
    put_le32(image + AT + 12, -(0xe85250d6 + tag_at));
    return file();
}

/* The n-th information tag of this type, 0 if there is none. */
static gpa info_tag(uint32_t type, unsigned n)
{
    gpa info = cpu.reg[RBX], end = info + read32(info);

    for (gpa at = info + 8; at + 8 <= end; at += (read32(at + 4) + 7) & ~7U) {
        if (read32(at) == type && n-- == 0)
            return at;
        if (read32(at) == 0)
            return 0;
    }
    return 0;
}

static void test_two(void)
{
    char want[200];
    const char *kernel;
    gpa t;

    begin2();
    put_le32(image + AT + tag_at + 8, 6); /* a memory map, please */
    tag(1, 0, 12);
    tag(4, 0, 12);
    tag(10, 1, 24);
    kernel = end2();
    if (!ok(boots_with(64 * MiB, kernel, modules(), "loglvl=all", 0xe0000), "Multiboot 2 %s",
            failure.text))
        return;
    ok(strcmp(kind, "Multiboot 2") == 0 && cpu.rip == 0x200800 &&
           (uint32_t)cpu.reg[RAX] == 0x36d76289,
       "entry");
    check_flat_mode();
    snprintf(want, sizeof want, "%s loglvl=all", kernel);
    ok(same_text(info_tag(1, 0) + 8, want) && same_text(info_tag(2, 0) + 8, "hull"),
       "command line, loader name");
    t = info_tag(3, 1);
    ok(info_tag(3, 2) == 0 && same(read32(t + 8), "module 2", 8) &&
           read32(t + 12) - read32(t + 8) == 8 && same_text(t + 16, "ext2fs --readonly x,y"),
       "modules");
    t = info_tag(6, 0);
    ok(read32(t + 4) == 16 + 5 * 24 && read32(t + 8) == 24 && read64(t + 16 + 3 * 24) == 1 * MiB,
       "memory map");
    ok(read32(info_tag(4, 0) + 8) == 639 && read32(info_tag(21, 0) + 8) == 0x200000,
       "memory sizes, load base");
    ok(read32(info_tag(14, 0) + 4) == 28 && same(info_tag(15, 0) + 8, "RSD PTR ", 8) &&
           read32(info_tag(15, 0) + 4) == 44,
       "RSDP, both forms");
    ok(info_tag(0, 0) != 0 && info_tag(0, 0) + 8 == cpu.reg[RBX] + read32(cpu.reg[RBX]),
       "ends with an end tag");
    ok(boots(64 * MiB, kernel, NULL) && info_tag(14, 0) == 0 && info_tag(3, 0) == 0,
       "no tables, no modules");

    begin2();
    put_le32(image + AT + tag_at + 8, 0x300000 + AT);
    put_le32(image + AT + tag_at + 12, 0xffffffff); /* from the file's beginning */
    tag(2, 0, 24);
    put_le32(image + AT + tag_at + 8, 0x300900);
    tag(3, 0, 12);
    ok(boots(64 * MiB, end2(), NULL) && cpu.rip == 0x300900 && same(0x300000, image, sizeof image),
       "addresses %s", failure.text);
    begin2();
    put_le32(image + AT + tag_at + 8, 0x200900);
    tag(3, 0, 12);
    ok(boots(64 * MiB, end2(), NULL) && cpu.rip == 0x200900, "an entry tag beats ELF's");
    begin2();
    tag(5, 1, 20);
    tag(99, 1, 16);
    ok(boots(64 * MiB, end2(), NULL), "optional tags are left out %s", failure.text);
}

static void test_two_bad(void)
{
    begin2();
    tag(5, 0, 20);
    refused(64 * MiB, end2(), NULL, "requires a framebuffer");
    begin2();
    tag(99, 0, 16);
    refused(64 * MiB, end2(), NULL, "an unknown feature (tag 99)");
    begin2();
    put_le32(image + AT + tag_at + 8, 8);
    tag(1, 0, 12);
    refused(64 * MiB, end2(), NULL, "information of type 8");
    begin2();
    tag(2, 0, 16);
    refused(64 * MiB, end2(), NULL, "tag 2 of 16 bytes is too short");
    begin2();
    tag(2, 0, 24);
    refused(64 * MiB, end2(), NULL, "no entry address");
    begin2();
    tag(4, 0, 12);
    end2();
    put_le32(image + AT + 16 + 4, 0);
    refused(64 * MiB, file(), NULL, "tag of 0 bytes");
    put_le32(image + AT + 16 + 4, 0xfffffff8);
    refused(64 * MiB, file(), NULL, "tag of 4294967288 bytes");
    begin2();
    tag(4, 0, 12);
    end2();
    put_le16(image + AT + tag_at - 8, 4); /* the end tag is none */
    put_le32(image + AT + tag_at - 4, 8);
    refused(64 * MiB, file(), NULL, "is too short");
    put_le16(image + AT + tag_at - 8, 6);
    refused(64 * MiB, file(), NULL, "without an end tag");
    begin2();
    end2();
    put_le32(image + AT + 8, 0xfffff000);
    put_le32(image + AT + 12, -(0xe85250d6 + 0xfffff000));
    refused(64 * MiB, file(), NULL, "is not within the first 32768 bytes");
    begin2();
    end2();
    put_le32(image + AT + 4, 4);
    put_le32(image + AT + 12, -(0xe85250d6 + 4 + tag_at));
    refused(64 * MiB, file(), NULL, "architecture 4");
}

/* Every header byte changed in turn, with the checksum made right again. */
static void test_damage(void)
{
    unsigned loaded = 0, silent = 0;

    for (unsigned at = AT + 4; at < AT + 32; at++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            make1();
            image[at] ^= (uint8_t)(1U << bit);
            if (at < AT + 8 || at >= AT + 12)
                sum1();
            if (boots(32 * MiB, file(), NULL))
                loaded++;
            else
                silent += failure.text[0] == '\0' || failure.code == 0;
        }
    }
    ok(loaded > 0 && silent == 0, "changed header bytes: %u still load", loaded);
}

static void test_modules(void)
{
    char many[34 * 40] = "", *first;

    make1();
    put_file("m", "x", 1);
    for (unsigned i = 0; i < 33; i++)
        snprintf(many + strlen(many), sizeof many - strlen(many), "%s%s/m", i ? "," : "", test_dir);
    refused(64 * MiB, file(), many, "more than 32 files");
    first = strrchr(many, ',');
    *first = '\0';
    ok(boots(64 * MiB, file(), many) && read32(cpu.reg[RBX] + 20) == 32, "32 modules %s",
       failure.text);
    snprintf(many, sizeof many, "truncate -s 40M %s/m", test_dir);
    ok(system(many) == 0, "make a large module");
    snprintf(many, sizeof many, "%s/m,%s/m arg", test_dir, test_dir);
    refused_until(64 * MiB, file(), many);
    snprintf(many, sizeof many, "%s/m,%s/nothing arg", test_dir, test_dir);
    refused(64 * MiB, file(), many, "nothing arg': No such file");
}

int main(void)
{
    test_open();
    test_one();
    test_one_bad();
    test_two();
    test_two_bad();
    test_damage();
    test_modules();
    return test_close();
}
