/* SPDX-License-Identifier: MIT */
/* Tables and exception entry of 64-bit guests; see lib64.h. */
#include "lib64.h"

struct gate64 idt[256] __attribute__((aligned(16)));
struct tss64 tss __attribute__((aligned(16)));
struct frame trap;
uint64_t trap_cr2, trap_at, trap_rsp;
int trap_vector;
bool (*trap_hook)(struct frame *f);
uint8_t user_stack[16384] __attribute__((aligned(4096), section(".userdata"))) = {1};
uint8_t rsp0_stack[16384] __attribute__((aligned(4096)));
uint8_t ist_stack[16384] __attribute__((aligned(4096)));

int trap_entry(struct frame *f);

void gate_set(unsigned vector, const void *handler, unsigned sel, unsigned type, unsigned dpl,
              unsigned ist)
{
    uint64_t at = (uint64_t)handler;

    idt[vector] = (struct gate64){.low = (uint16_t)at,
                                  .sel = (uint16_t)sel,
                                  .ist = (uint8_t)ist,
                                  .type = (uint8_t)(0x80 | dpl << 5 | type),
                                  .mid = (uint16_t)(at >> 16),
                                  .high = (uint32_t)(at >> 32)};
}

void tables_load(void)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) p = {sizeof idt - 1, (uint64_t)idt};
    uint64_t at = (uint64_t)&tss;

    for (unsigned v = 0; v < 256; v++)
        gate_set(v, trap_stubs + v * 16, RING0_CODE, 14, v == 0x80 || v == BP || v == OF ? 3 : 0,
                 0);
    tss.rsp[0] = (uint64_t)rsp0_stack + sizeof rsp0_stack;
    tss.ist[0] = (uint64_t)ist_stack + sizeof ist_stack;
    tss.iomap = sizeof tss;
    gdt[7] = (sizeof tss - 1) | (at & 0xffffff) << 16 | 0x89ull << 40 | (at >> 24 & 0xff) << 56;
    gdt[8] = at >> 32;
    __asm__ volatile("lidt %0; ltr %w1" : : "m"(p), "r"(0x38) : "memory");
}

int trap_entry(struct frame *f)
{
    if (trap_hook && trap_hook(f))
        return 0;
    if (!trap_rsp) {
        print("Bail out! vector %d code %x at %llx\n", (int)f->vector, (unsigned)f->code,
              (unsigned long long)f->rip);
        guest_exit(2);
    }
    trap = *f;
    trap_cr2 = read_cr2();
    trap_at = (uint64_t)&f[1];
    trap_vector = (int)f->vector;
    return 1;
}

static void enter(uint64_t code)
{
    user_enter(code, (uint64_t)user_stack + sizeof user_stack, 2, USER_CODE64, USER_DATA);
}

int user_call(const void *code)
{
    return trap_call(enter, (uint64_t)code);
}

void boot_user_pages(void)
{
    extern char user_start[], user_end[];
    static uint64_t table[2][512] __attribute__((aligned(4096)));

    for (unsigned i = 0; i < 1024; i++)
        table[i / 512][i % 512] = (uint64_t)i << 12 | 3;
    for (uint64_t at = (uint64_t)user_start; at < (uint64_t)user_end; at += 4096)
        table[at >> 21 & 1][at >> 12 & 511] |= 4;
    boot_pd[0] = (uint64_t)table[0] | 7;
    boot_pd[1] = (uint64_t)table[1] | 7;
    write_cr3(read_cr3());
}
