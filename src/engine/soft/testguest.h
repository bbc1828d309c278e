/* SPDX-License-Identifier: MIT */
/* A small machine for the engine's tests and benchmarks: RAM, a 64-bit flat guest with
 * identity-mapped 2 MiB pages, an exit port. Code is position-independent bytes, copied to
 * GUEST_CODE. */
#ifndef HULL_SOFT_TESTGUEST_H
#define HULL_SOFT_TESTGUEST_H

#include "engine/soft/block.h"
#include "engine/soft/tlb.h"

#define GUEST_RAM   (16 * MiB)
#define GUEST_GDT   0x1000
#define GUEST_IDT   0x2000
#define GUEST_PML4  0x10000 /* and the tables behind it, to 0x20000 */
#define GUEST_STUBS 0x20000 /* exception handlers: 16 bytes each */
#define GUEST_CODE  0x100000
#define GUEST_DATA  0x200000
#define GUEST_STACK 0x400000 /* grows down */
#define GUEST_VIRTUAL                                                                              \
    0x40000000 /* 2 MiB of 4 KiB pages: page tables at GUEST_PT map what a test wants */
#define GUEST_PT   0x13000
#define GUEST_CPUS 4
#define EXIT_PORT  0xf4

/* Machine code between two labels of the test program. */
#define GUEST_CODE_BYTES(name, text)                                                               \
    extern const uint8_t name[], name##_end[];                                                     \
    __asm__(".pushsection .rodata\n" #name ":\n" text "\nout %al, $0xf4\n" #name                   \
            "_end:\n.popsection\n")

struct guest {
    struct vm vm;
    struct mem mem;
    struct bus mmio, pio;
    struct vcpu vcpu[GUEST_CPUS];
    struct region exit_port, device;
    struct soft_cpu *cpu, *cpus[GUEST_CPUS]; /* cpu is cpus[0] */
    struct soft_vm *soft;
    struct vcpu_state msr;
    bool exited; /* the exit port was written; with several vCPUs by any */
    /* the device at GUEST_DEVICE: what was written last, how often it was read */
    uint64_t device_value, device_reads, device_writes;
};
#define GUEST_DEVICE                                                                               \
    0x10000000 /* 64 KiB of MMIO, mapped by the identity map's second GiB-less part */

/* One vCPU; guest_open_smp makes GUEST_CPUS. */
bool guest_open_smp(struct guest *g, unsigned cpus, struct err *err);
bool guest_open(struct guest *g, struct err *err);
void guest_close(struct guest *g);
/* Registers to 0, flags cleared, RSP at the stack, RIP at GUEST_CODE with `code` there. */
void guest_code_on(struct guest *g, unsigned cpu, uint64_t at, const uint8_t *code,
                   const uint8_t *end);
void guest_code(struct guest *g, const uint8_t *code, const uint8_t *end);
/* Runs until the exit port is written. False: it shut down. */
bool guest_run(struct guest *g);

#endif
