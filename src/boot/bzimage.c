/* SPDX-License-Identifier: MIT */
/* bzImage: a real-mode part with the setup header, then the kernel that unpacks itself.
 *
 * We skip the real-mode part: the header goes into the zero page and the rest is entered in 64-bit
 * mode, or in 32-bit mode for kernels without that entry. Offsets are those of the setup header in
 * Linux Documentation/arch/x86/boot.rst. */
#include "boot/loader.h"
#include <errno.h>

enum {
    SETUP_SECTS = 0x1f1,
    SYS_SIZE = 0x1f4,
    BOOT_FLAG = 0x1fe,
    JUMP_LEN = 0x201,
    MAGIC = 0x202,
    VERSION = 0x206,
    LOAD_FLAGS = 0x211,
    CODE32_START = 0x214,
    INITRD_MAX = 0x22c,
    ALIGNMENT = 0x230,
    RELOCATABLE = 0x234,
    XLOAD_FLAGS = 0x236,
    CMDLINE_SIZE = 0x238,
    SETUP_DATA = 0x250,
    PREF_ADDRESS = 0x258,
    INIT_SIZE = 0x260,
    HEADER_MAX = 0x290, /* the zero page has other things from here */
    HEAD_MIN = 0x268,   /* to the end of init_size */
};

enum { LOADED_HIGH = 0x01, CAN_USE_HEAP = 0x80, KERNEL_64 = 0x01 };

#define HDRS           0x53726448 /* "HdrS" */
#define ENTRY64        0x200
#define OLD_LOAD       0x100000
#define OLD_CMDLINE    255
#define OLD_INITRD_MAX 0x37ffffffULL

struct image {
    uint16_t version;
    uint64_t code_offset, code_size; /* in the file */
    uint64_t size;                   /* in memory, with what it unpacks to */
    uint64_t pref, align;
    bool relocatable;
};

static bool bzimage_probe(const struct boot *b)
{
    return b->head_len >= HEAD_MIN && le16(b->head + BOOT_FLAG) == 0xaa55 &&
           le32(b->head + MAGIC) == HDRS;
}

static bool read_sizes(const struct boot *b, struct image *im, struct err *err)
{
    unsigned sects = b->head[SETUP_SECTS];
    uint64_t promised = (uint64_t)le32(b->head + SYS_SIZE) * 16, left;

    im->code_offset = ((sects ? sects : 4) + 1) * 512ULL;
    if (im->code_offset >= b->kernel.size)
        return err_set(err, EINVAL,
                       "the file is cut: its %llu bytes end within the %u setup sectors",
                       (unsigned long long)b->kernel.size, sects);
    left = b->kernel.size - im->code_offset;
    if (im->version < 0x204) /* the field was 16 bits wide */
        promised = left;
    if (promised == 0 || promised > left)
        return err_set(
            err, EINVAL,
            "the file is cut: the header promises 0x%llx bytes of kernel, 0x%llx are there",
            (unsigned long long)promised, (unsigned long long)left);
    im->code_size = promised;
    return true;
}

static bool read_image(const struct boot *b, struct image *im, struct err *err)
{
    const uint8_t *h = b->head;

    memset(im, 0, sizeof *im);
    im->version = le16(h + VERSION);
    if (im->version < 0x202 || !(h[LOAD_FLAGS] & LOADED_HIGH))
        return err_set(
            err, ENOTSUP,
            "boot protocol 0x%x, load flags 0x%x: kernels before 2.4 and zImage are not supported",
            im->version, h[LOAD_FLAGS]);
    if (!read_sizes(b, im, err))
        return false;
    im->pref = OLD_LOAD;
    im->size = im->code_size;
    im->align = PAGE_SIZE;
    if (im->version >= 0x205) {
        im->relocatable = h[RELOCATABLE] != 0;
        im->align = max_u64(le32(h + ALIGNMENT), PAGE_SIZE);
    }
    if (im->version >= 0x20a) {
        im->pref = le64(h + PREF_ADDRESS);
        im->size = max_u64(le32(h + INIT_SIZE), im->code_size);
    }
    if (!is_power_of_2(im->align))
        return err_set(err, EINVAL,
                       "kernel alignment 0x%llx is not a power of two: the file is damaged",
                       (unsigned long long)im->align);
    return true;
}

/* Where it wants to be, else, if it can move, the first place that has room. */
static bool place_image(struct load *ld, const struct image *im, gpa *at, struct err *err)
{
    if (im->relocatable && (im->pref >= 4 * GiB || !load_fits(ld, im->pref, im->size)))
        return load_find_low(ld, im->size, im->align, 1 * MiB, "kernel", at, err);
    if (im->pref >= 4 * GiB)
        return err_set(err, EINVAL, "the header asks for address 0x%llx, above 4 GiB",
                       (unsigned long long)im->pref);
    *at = im->pref;
    return load_claim(ld, *at, im->size, "kernel", err);
}

static void fill_header(const struct boot *b, struct linux_kernel *k, gpa at)
{
    size_t end = min_size(MAGIC + b->head[JUMP_LEN], HEADER_MAX);

    memset(k->zero, 0, sizeof k->zero);
    memcpy(k->zero + SETUP_SECTS, b->head + SETUP_SECTS, end - SETUP_SECTS);
    k->zero[LOAD_FLAGS] &= (uint8_t)~CAN_USE_HEAP; /* that was for the real-mode part */
    put_le32(k->zero + CODE32_START, (uint32_t)at);
    put_le64(k->zero + SETUP_DATA, 0);
}

static bool bzimage_load(struct load *ld, struct err *err)
{
    const struct boot *b = ld->boot;
    struct linux_kernel k;
    struct image im;
    gpa at;

    if (!read_image(b, &im, err) || !place_image(ld, &im, &at, err) ||
        !load_file(ld, &b->kernel, im.code_offset, im.code_size, at, err))
        return false;
    fill_header(b, &k, at);
    k.cmdline_max = im.version >= 0x206 ? le32(b->head + CMDLINE_SIZE) : OLD_CMDLINE;
    k.initrd_max =
        (im.version >= 0x203 ? (uint64_t)le32(b->head + INITRD_MAX) : OLD_INITRD_MAX) + 1;
    k.long_mode = im.version >= 0x20c && (le16(b->head + XLOAD_FLAGS) & KERNEL_64);
    k.entry = at + (k.long_mode ? ENTRY64 : 0);
    return linux_boot(ld, &k, err);
}

const struct loader bzimage_loader = {"bzImage", bzimage_probe, bzimage_load};
