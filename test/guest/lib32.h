/* SPDX-License-Identifier: MIT */
/* 32-bit guests: the same as lib64.h, for protected mode without paging, v8086 and real mode. */
#ifndef HULL_GUEST_LIB32_H
#define HULL_GUEST_LIB32_H

#include "guest.h"

struct frame {
    uint32_t gs, fs, es, ds, edi, esi, ebp, esp_here, ebx, edx, ecx, eax;
    uint32_t vector, code, eip, cs, eflags, esp, ss, v_es, v_ds, v_fs,
        v_gs; /* from esp on: only if pushed */
};

struct tss32 {
    uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp,
        esi, edi;
    uint32_t es, cs, ss, ds, fs, gs, ldt;
    uint16_t trap, iomap;
    uint8_t io[32 + 1];
} __attribute__((packed));

extern uint64_t gdt[];
extern uint64_t idt[256];
extern struct tss32 tss;
extern struct frame trap;
extern uint32_t trap_cr2, trap_at; /* trap_at: ESP before the handler's first push of its own */
extern char trap_stubs[];
extern uint8_t user_stack[8192], ring0_stack[8192];
extern bool (*trap_hook)(struct frame *f);

typedef void trap_fn(uint32_t arg);
int trap_call(trap_fn *fn, uint32_t arg);
_Noreturn void iret_frame(const uint32_t *words, unsigned count);
void tables_load(void);
void gate_set(unsigned vector, const void *handler, unsigned sel, unsigned type, unsigned dpl);
uint64_t descriptor(uint32_t base, uint32_t limit, unsigned type, unsigned dpl,
                    bool wide);               /* byte limit */
int user_call(const void *code);              /* in ring 3, until a fault or INT 0x80 */
void real_run(const void *code, size_t size); /* in real mode at 0:9000; ends with a near RET */

#endif
