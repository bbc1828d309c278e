/* SPDX-License-Identifier: MIT */
/* What kernels look for that a BIOS would have left in the first page: Xen takes the top of
 * conventional memory from the BIOS data area and asks INT 15h, 13h and 10h from real mode. Every
 * interrupt leads to one handler that says "not supported", so that such kernels go on with what
 * Multiboot told them. */
#include "boot/loader.h"

enum {
    BDA_COM1 = 0x400,     /* u16 port */
    BDA_EBDA = 0x40e,     /* u16 segment */
    BDA_BASE_KIB = 0x413, /* u16 conventional memory */
    HANDLER = 0x500,
    AREA_SIZE = 0x520,
};

#define COM1_PORT 0x3f8

/* Returns with the carry flag set and AH = 86h, as a BIOS does for functions it does not have. */
static const uint8_t handler[] = {
    0x55,                   /* push bp */
    0x89, 0xe5,             /* mov bp, sp */
    0x80, 0x4e, 0x06, 0x01, /* or byte [bp + 6], 1 */
    0x5d,                   /* pop bp */
    0xb4, 0x86,             /* mov ah, 86h */
    0xcf,                   /* iret */
};

bool bios_area(struct load *ld, struct err *err)
{
    uint8_t area[AREA_SIZE] = {0};

    if (!load_fits(ld, 0, sizeof area)) /* the kernel itself lies there */
        return true;
    for (unsigned i = 0; i < 256; i++)
        put_le32(area + i * 4, HANDLER); /* segment 0 */
    put_le16(area + BDA_COM1, COM1_PORT);
    put_le16(area + BDA_EBDA, LAYOUT_CONVENTIONAL_END >> 4);
    put_le16(area + BDA_BASE_KIB, LAYOUT_CONVENTIONAL_END / KiB);
    memcpy(area + HANDLER, handler, sizeof handler);
    return load_claim(ld, 0, sizeof area, "BIOS data", err) &&
           load_bytes(ld, 0, area, sizeof area, err);
}
