/* SPDX-License-Identifier: MIT */
/* 64-bit guests: exceptions as values. trap_call(fn, arg) runs fn and returns the vector that ended
 * it (what it pushed is in `trap`), or -1 if it returned. A hook may handle an event and resume
 * instead. */
#ifndef HULL_GUEST_LIB64_H
#define HULL_GUEST_LIB64_H

#include "guest.h"

struct frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
    uint64_t vector, code, rip, cs, rflags, rsp, ss;
};

struct gate64 {
    uint16_t low, sel;
    uint8_t ist, type; /* type: P, DPL, type */
    uint16_t mid;
    uint32_t high, zero;
};

struct tss64 {
    uint32_t zero;
    uint64_t rsp[3], zero2, ist[7], zero3;
    uint16_t zero4, iomap;
} __attribute__((packed));

extern uint64_t gdt[];
extern struct gate64 idt[256];
extern struct tss64 tss;
extern struct frame trap;          /* the last event that ended a trap_call */
extern uint64_t trap_cr2, trap_at; /* CR2, and the handler's RSP at entry */
extern char trap_stubs[];
extern uint8_t user_stack[16384], rsp0_stack[16384], ist_stack[16384];

typedef void trap_fn(uint64_t arg);
int trap_call(trap_fn *fn, uint64_t arg);
/* True: handled, resume at the frame (which it may change). NULL: no hook. */
extern bool (*trap_hook)(struct frame *f);

void tables_load(void); /* IDT, TSS: main's first act */
void gate_set(unsigned vector, const void *handler, unsigned sel, unsigned type, unsigned dpl,
              unsigned ist);
_Noreturn void user_enter(uint64_t rip, uint64_t rsp, uint64_t rflags, uint64_t cs, uint64_t ss);
/* Runs code in ring 3 until it faults or executes INT 0x80 (vector 0x80). Its page must be user. */
int user_call(const void *code);

/* Makes the sections .user (ring 3 code) and .userdata accessible to ring 3, and nothing else. */
void boot_user_pages(void);
extern uint64_t boot_pml4[], boot_pdpt[], boot_pd[];

#endif
