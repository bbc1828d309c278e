/* SPDX-License-Identifier: MIT */
/* The ways that a machine goes down or starts again. What must be remembered over a reset is in the
 * CMOS, for memory is loaded anew. */
#include "long.h"

#define MARK 0x60 /* CMOS byte: resets so far */

static inline uint8_t cmos(uint8_t reg)
{
    uint8_t v;

    outb(0x70, reg);
    __asm__ volatile("inb $0x71, %0" : "=a"(v));
    return v;
}

static void cmos_write(uint8_t reg, uint8_t v)
{
    outb(0x70, reg);
    outb(0x71, v);
}

_Noreturn void state_halt(void);

static void reset(uintptr_t how)
{
    long_set_up();
    note(cmos(MARK));
    if (cmos(MARK) == 0x5a) {
        cmos_write(MARK, 0);
        return;
    }
    cmos_write(MARK, 0x5a);
    wrmsr(0xc0000082, 0x1234); /* gone afterwards */
    write_dr0(0x5555);
    switch (how) {
    case 0:
        outb(0xcf9, 2);
        outb(0xcf9, 6);
        break;
    case 1: outb(0x64, 0xfe); break;
    case 2: outb(0x92, 1); break;
    }
    state_halt();
}

static void reset_and_look(uintptr_t how)
{
    reset(how);
    note(rdmsr(0xc0000082));
    note(read_dr0());
    note(rdmsr(0x1b));
}

static void triple_fault(uintptr_t unused)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) none = {0, 0};

    long_set_up();
    __asm__ volatile("lidt %0; ud2" : : "m"(none));
}

static void power_off(uintptr_t unused)
{
    long_set_up();
    outb(0xf4, 42);
    state_halt();
}

const struct state_case cases_end[] = {
    {"reset_cf9", reset_and_look, 0},     {"reset_keyboard", reset_and_look, 1},
    {"reset_port_92", reset_and_look, 2}, {"triple_fault", triple_fault, 0},
    {"exit_code", power_off, 0},          {0}};

const struct state_case *const state_lists[] = {cases_modes, cases_system, cases_interrupts,
                                                cases_end, NULL};
