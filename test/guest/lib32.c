/* SPDX-License-Identifier: MIT */
/* Tables and exception entry of 32-bit guests; see lib32.h. */
#include "lib32.h"

uint64_t idt[256] __attribute__((aligned(16)));
struct tss32 tss __attribute__((aligned(16)));
struct frame trap;
uint32_t trap_cr2, trap_at, trap_esp;
int trap_vector;
bool (*trap_hook)(struct frame *f);
uint8_t user_stack[8192] __attribute__((aligned(4096)));
uint8_t ring0_stack[8192] __attribute__((aligned(4096)));

int trap_entry(struct frame *f);

void gate_set(unsigned vector, const void *handler, unsigned sel, unsigned type, unsigned dpl)
{
    uint32_t at = (uint32_t)handler;

    idt[vector] = (at & 0xffff) | (uint64_t)sel << 16 | (uint64_t)(0x80 | dpl << 5 | type) << 40 |
                  (uint64_t)(at >> 16) << 48;
}

uint64_t descriptor(uint32_t base, uint32_t limit, unsigned type, unsigned dpl, bool wide)
{
    bool pages = limit > 0xfffff;
    uint32_t l = pages ? limit >> 12 : limit;

    return (l & 0xffff) | (uint64_t)(base & 0xffffff) << 16 |
           (uint64_t)(0x80 | dpl << 5 | type) << 40 | (uint64_t)(l >> 16) << 48 |
           (uint64_t)wide << 54 | (uint64_t)pages << 55 | (uint64_t)(base >> 24) << 56;
}

void tables_load(void)
{
    struct {
        uint16_t limit;
        uint32_t base;
    } __attribute__((packed)) p = {sizeof idt - 1, (uint32_t)idt};

    for (unsigned v = 0; v < 256; v++)
        gate_set(v, trap_stubs + v * 16, RING0_CODE, 14, v == 0x80 || v == BP || v == OF ? 3 : 0);
    tss.esp0 = (uint32_t)ring0_stack + sizeof ring0_stack;
    tss.ss0 = RING0_DATA;
    tss.iomap = sizeof tss;
    gdt[5] = descriptor((uint32_t)&tss, sizeof tss - 1, 9, 0, false);
    __asm__ volatile("lidt %0; ltr %w1" : : "m"(p), "r"(0x28) : "memory");
}

int trap_entry(struct frame *f)
{
    if (trap_hook && trap_hook(f))
        return 0;
    if (!trap_esp) {
        print("Bail out! vector %d code %x at %x:%x\n", (int)f->vector, f->code, f->cs, f->eip);
        guest_exit(2);
    }
    trap = *f;
    trap_cr2 = read_cr2();
    trap_at = (uint32_t)&f->eip;
    trap_vector = (int)f->vector;
    return 1;
}

static void enter(uint32_t code)
{
    uint32_t frame[] = {USER_DATA, (uint32_t)user_stack + sizeof user_stack, 2, USER_CODE32, code};

    iret_frame(frame, 5);
}

int user_call(const void *code)
{
    return trap_call(enter, (uint32_t)code);
}

void real_run(const void *code, size_t size)
{
    extern char real_start[], real_end[];
    void real_call(void);

    memcpy((void *)0x8000, real_start, (size_t)(real_end - real_start));
    memcpy((void *)0x9000, code, size);
    real_call();
}
