/* SPDX-License-Identifier: MIT */
/* bzImage: the zero page, placement, command line and initrd; damaged files; Debian's real kernel.
 */
#include "boot/testing.h"

#define CODE (64 * 1024)

static uint8_t image[1024 + CODE];

/* A kernel with one setup sector, protocol 2.15. */
static const char *make(void)
{
    memset(image, 0, sizeof image);
    for (unsigned i = 0; i < CODE; i++)
        image[1024 + i] = (uint8_t)(i * 7 + (i >> 8));
    image[0x1f1] = 1;
    put_le32(image + 0x1f4, CODE / 16);
    put_le16(image + 0x1fe, 0xaa55);
    image[0x200] = 0xeb;
    image[0x201] = 0x6a;
    memcpy(image + 0x202, "HdrS", 4);
    put_le16(image + 0x206, 0x20f);
    image[0x211] = 0x81;
    put_le32(image + 0x22c, 0x7fffffff);
    put_le32(image + 0x230, 2 * MiB);
    image[0x234] = 1;
    put_le16(image + 0x236, 0x7f);
    put_le32(image + 0x238, 2047);
    put_le64(image + 0x250, 0x1234); /* setup_data of a hostile file */
    put_le64(image + 0x258, 16 * MiB);
    put_le32(image + 0x260, 20 * MiB);
    return put_file("bzImage", image, sizeof image);
}

static const char *changed(void)
{
    return put_file("changed", image, sizeof image);
}

static void test_good(void)
{
    uint8_t disk[10001];
    const char *kernel = make(), *initrd = put_file("initrd", disk, sizeof disk), *second;
    char both[300];
    gpa zero, at;

    memset(disk, 0x5a, sizeof disk);
    initrd = put_file("initrd", disk, sizeof disk);
    if (!ok(boots_with(128 * MiB, kernel, initrd, "console=ttyS0", 0xe0000), "loads %s",
            failure.text))
        return;
    ok(strcmp(kind, "bzImage") == 0, "is a bzImage");
    zero = cpu.reg[RSI];
    ok(cpu.rip == 16 * MiB + 0x200 && same(16 * MiB, image + 1024, CODE),
       "at its preferred address");
    check_long_mode();
    ok(read32(zero + 0x202) == 0x53726448 && (read32(zero + 0x210) & 0xff) == 0xff,
       "setup header, loader type");
    ok((read32(zero + 0x211) & 0xff) == 1 && read64(zero + 0x250) == 0, "no heap, no setup_data");
    ok(read64(zero + 0x70) == 0xe0000, "RSDP");
    ok(same_text(read32(zero + 0x228), "console=ttyS0"), "command line");
    at = read32(zero + 0x218);
    ok(read32(zero + 0x21c) == sizeof disk && same(at, disk, sizeof disk) && at % 4096 == 0 &&
           at + sizeof disk > 128 * MiB - 16384,
       "initrd is high");
    ok((read32(zero + 0x1e8) & 0xff) == 5 && read64(zero + 0x2d0 + 8) == 0x9fc00 &&
           read64(zero + 0x2d0 + 3 * 20) == 1 * MiB &&
           read64(zero + 0x2d0 + 3 * 20 + 8) == 127 * MiB,
       "memory map");
    ok(zero >= 0x1000 && zero < 0xa0000 && cpu.gdt.base < 0xa0000 && cpu.cr3 < 0xa0000,
       "all of it below 640 KiB");

    second = put_file("a,b", "hello", 5);
    snprintf(both, sizeof both, "%s,%s/a,,b", initrd, test_dir);
    ok(access(second, R_OK) == 0 && boots(128 * MiB, kernel, both),
       "two initrds, a comma in a name %s", failure.text);
    zero = cpu.reg[RSI];
    at = read32(zero + 0x218);
    ok(read32(zero + 0x21c) == 10004 + 8 && same(at + 10000, "\x5a\0\0\0hello\0\0\0", 12),
       "joined, padded to 4");
    ok(boots(128 * MiB, kernel, NULL) && read32(cpu.reg[RSI] + 0x21c) == 0, "no initrd");
    ok(boots(8 * GiB, kernel, initrd) && read32(cpu.reg[RSI] + 0x218) > 2047 * MiB &&
           read32(cpu.reg[RSI] + 0x218) < 2048 * MiB && (read32(cpu.reg[RSI] + 0x1e8) & 0xff) == 6,
       "8 GiB: below initrd_addr_max, high RAM in the map");
}

static void test_variants(void)
{
    make();
    put_le16(image + 0x236, 0);
    ok(boots(64 * MiB, changed(), NULL) && cpu.rip == 16 * MiB &&
           read32(cpu.reg[RSI] + 0x202) == 0x53726448,
       "without the 64-bit entry: 32-bit");
    check_flat_mode();
    make();
    put_le64(image + 0x258, 100 * MiB);
    ok(boots(64 * MiB, changed(), NULL) && cpu.rip == 2 * MiB + 0x200 &&
           read32(cpu.reg[RSI] + 0x214) == 2 * MiB,
       "relocated when its address is not there %s", failure.text);
    put_le64(image + 0x258, 1ULL << 40);
    ok(boots(64 * MiB, changed(), NULL) && cpu.rip == 2 * MiB + 0x200, "or absurd");
    image[0x234] = 0;
    refused(64 * MiB, changed(), NULL, "above 4 GiB");
    put_le64(image + 0x258, 100 * MiB);
    refused_until(64 * MiB, changed(), NULL);
    make();
    put_le16(image + 0x206, 0x203);
    ok(boots(64 * MiB, changed(), NULL) && cpu.rip == 1 * MiB, "protocol 2.03: at 1 MiB");
    make();
    put_file("bzImage", image, sizeof image);
    ok(system(strcat(strcpy((char[200]){0}, "gzip -kf "),
                     put_file("bzImage", image, sizeof image))) == 0 &&
           boots(64 * MiB, strcat(strcpy((char[200]){0}, test_dir), "/bzImage.gz"), NULL),
       "compressed with gzip %s", failure.text);
}

static void test_bad(void)
{
    char gz[200], *big = malloc(3000);
    const char *kernel = make();
    struct boot_config config = {kernel, NULL, big};
    struct boot *b;

    refused(64 * MiB, put_file("short", image, 0x230), NULL, "neither a bzImage");
    refused(64 * MiB, put_file("short", image, 1024), NULL, "the file is cut");
    refused(64 * MiB, put_file("short", image, sizeof image - 1), NULL,
            "the file is cut: the header promises 0x10000");
    image[0x1f1] = 255;
    refused(64 * MiB, changed(), NULL,
            "the file is cut: its 66560 bytes end within the 255 setup sectors");
    make();
    put_le32(image + 0x1f4, 0xffffffff);
    refused(64 * MiB, changed(), NULL, "promises");
    put_le32(image + 0x1f4, 0);
    refused(64 * MiB, changed(), NULL, "promises");
    make();
    put_le32(image + 0x230, 12345);
    refused(64 * MiB, changed(), NULL, "not a power of two");
    make();
    put_le16(image + 0x206, 0x200);
    refused(64 * MiB, changed(), NULL, "not supported");
    make();
    image[0x211] = 0;
    refused(64 * MiB, changed(), NULL, "not supported");
    make();
    put_le32(image + 0x260, 0xffffffff);
    refused(64 * MiB, changed(), NULL, "does not fit");
    make();
    refused_until(16 * MiB, kernel, NULL);
    refused_until(1 * MiB, kernel, NULL);
    snprintf(gz, sizeof gz, "head -c 500 %s/bzImage.gz > %s/cut.gz", test_dir, test_dir);
    ok(system(gz) == 0, "make a cut gzip file");
    snprintf(gz, sizeof gz, "%s/cut.gz", test_dir);
    refused(64 * MiB, gz, NULL, "damaged or cut");
    memset(big, 'x', 2999);
    big[2999] = '\0';
    b = boot_open(&config, &failure);
    ok(b && !boot_load(b, &guest, &layout, 0, &cpu, &failure) &&
           strstr(failure.text, "2999 characters"),
       "%s", failure.text);
    boot_close(b);
    free(big);
}

static void test_files(void)
{
    const char *kernel = make(), *initrd = put_file("initrd", "x", 1);
    char sparse[200];

    refused(64 * MiB, "/nonexistent/vmlinuz", NULL,
            "cannot open kernel '/nonexistent/vmlinuz': No such file");
    refused(64 * MiB, "/tmp", NULL, "is not a regular file but a directory");
    refused(64 * MiB, "/dev/zero", NULL, "is not a regular file");
    refused(64 * MiB, put_file("empty", "", 0), NULL, "is empty");
    refused(64 * MiB, put_file("one", "x", 1), NULL, "neither a bzImage");
    refused(64 * MiB, put_file("text", "#!/bin/sh\n", 10), NULL, "it is a script");
    refused(64 * MiB, put_file("qcow2", "QFI\xfb....", 8), NULL, "--disk");
    refused(64 * MiB, kernel, "/nonexistent/initrd", "cannot open initrd '/nonexistent/initrd'");
    refused(64 * MiB, kernel, "/tmp", "directory");
    snprintf(sparse, sizeof sparse, "%s debug", initrd);
    refused(64 * MiB, kernel, sparse, "for Multiboot modules only");
    snprintf(sparse, sizeof sparse, "truncate -s 100M %s", initrd);
    ok(system(sparse) == 0, "make a large initrd");
    refused_until(64 * MiB, kernel, initrd);
    refused_until(100 * MiB, kernel, initrd);
    snprintf(sparse, sizeof sparse, "truncate -s 5G %s", initrd);
    ok(system(sparse) == 0, "make a huge initrd");
    refused(64 * MiB, kernel, initrd, "5368709120 bytes cannot be loaded below 4 GiB");
    snprintf(sparse, sizeof sparse, "truncate -s 2100M %s", initrd);
    ok(system(sparse) == 0, "make one over initrd_addr_max");
    refused(64 * MiB, kernel, initrd, "more than this kernel takes");
}

/* Every header byte changed in turn: loads or is refused, and never touches what it should not. */
static void test_damage(void)
{
    unsigned loaded = 0, silent = 0;

    for (unsigned at = 0x1f0; at < 0x270; at++) {
        for (unsigned bit = 0; bit < 8; bit += 3) {
            make();
            image[at] ^= (uint8_t)(1U << bit);
            if (boots(64 * MiB, changed(), NULL))
                loaded++;
            else
                silent += failure.text[0] == '\0' || failure.code == 0;
        }
    }
    ok(loaded > 0 && silent == 0, "changed header bytes: %u of 384 still load", loaded);
}

static void test_debian(void)
{
    const char *kernel = getenv("HULL_CACHE"), *script = getenv("HULL_KERNELS_FETCH");
    char command[1000], path[300];

    if (kernel == NULL)
        kernel = getenv("HULL_KERNELS");
    snprintf(command, sizeof command, "%s --local '%s' cloud", script ? script : "false",
             kernel ? kernel : "");
    if (kernel == NULL || system(command) != 0) {
        tap_skip("Debian's kernel", "no kernel package on this host");
        return;
    }
    snprintf(path, sizeof path, "%s/cloud/vmlinuz", kernel);
    ok(boots(256 * MiB, path, path) && strcmp(kind, "bzImage") == 0 && cpu.rip == 0x1000200,
       "vmlinuz loads %s", failure.text);
    check_long_mode();
    refused_until(16 * MiB, path, NULL);
    refused_until(64 * MiB, path, path);
    snprintf(path, sizeof path, "%s/cloud/vmlinux", kernel);
    ok(boots(256 * MiB, path, path) && strcmp(kind, "ELF") == 0, "vmlinux loads %s", failure.text);
    refused_until(32 * MiB, path, NULL);
}

int main(void)
{
    test_open();
    test_good();
    test_variants();
    test_bad();
    test_files();
    test_damage();
    test_debian();
    return test_close();
}
