/* SPDX-License-Identifier: MIT */
/* The stepper: one instruction on a state that is handed in and out. */
#include "engine/soft/step.h"
#include "engine/x86/model.h"
#include "tap.h"
#include <stdlib.h>

static struct vm vm;
static struct mem mem;
static struct bus mmio, pio;
static struct cpu_model model;
static struct region card;
static uint8_t bytes[16];
static unsigned accesses;
static struct soft_stepper *stepper;
static struct vcpu_state *state;
static struct err err;

static uint64_t card_read(void *dev, uint64_t offset, unsigned size)
{
    accesses++;
    return 0x0101010101010101ull;
}

static void card_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    accesses++;
    memcpy(bytes + offset, &value, size);
}

static const struct region_ops card_ops = {card_read, card_write, 1, 8};

/* Real mode at 0:1000, DS at the card. */
static enum vcpu_exit step(const void *code, size_t len)
{
    state->seg[1].base = state->seg[1].sel = 0;
    state->seg[3].sel = 0xffff;
    state->seg[3].base = 0xffff0;
    state->rip = 0x1000;
    accesses = 0;
    mem_write(&mem, 0x1000, code, len);
    return soft_stepper_run(stepper, state, &err);
}

#define STEP(code) step(code, sizeof code - 1)

static void test_moves(void)
{
    uint64_t tsc = state->tsc = 1234;

    state->cr4 = 0x600;
    for (unsigned i = 0; i < 16; i++)
        state->xsave[160 + 16 + i] = (uint8_t)(i + 1); /* XMM1 */
    state->xsave[512] = 3;
    state->lapic.regs[0x80] = 0x20;
    state->kvm_system_time = 0x3001;
    state->nmi_pending = true;
    ok(STEP("\x0f\x11\x0e\x10\x00") == VCPU_KICKED, "movups [0x10], xmm1");
    ok(accesses == 2 && bytes[0] == 1 && bytes[15] == 16, "reaches the device");
    ok(state->rip == 0x1005, "and is over");
    ok(state->tsc == tsc && state->lapic.regs[0x80] == 0x20 && state->kvm_system_time == 0x3001 &&
           state->nmi_pending && !*(uint8_t *)mem_at(&mem, 0x3000, 1),
       "what is not the instruction's stays");
    ok(STEP("\x66\x0f\xfc\x0e\x10\x00") == VCPU_KICKED && state->xsave[176] == 2 &&
           state->xsave[191] == 17,
       "paddb xmm1, [0x10] changes the register");
    ok(STEP("\x90") == VCPU_KICKED && state->rip == 0x1001 && accesses == 0, "one NOP is one NOP");
}

static void test_memory(void)
{
    ok(mem_log_start(&mem, &err), "the dirty log starts");
    state->reg[4] = 0x8000;
    state->seg[2].base = state->seg[2].sel = 0;
    ok(STEP("\x50") == VCPU_KICKED && state->reg[4] == 0x7ffe, "push ax");
    memset(mem.region[0].dirty, 0, 8);
    soft_stepper_dirty(stepper, &mem.region[0]);
    ok(mem.region[0].dirty[0] == BIT(7), "the page it wrote is dirty (%llx)",
       (unsigned long long)mem.region[0].dirty[0]);
}

static void test_faults(void)
{
    const uint16_t vector[] = {0x2000, 0};

    mem_write(&mem, 6 * 4, vector, sizeof vector);
    state->reg[4] = 0x8000;
    ok(STEP("\x0f\x0b") == VCPU_KICKED && state->rip == 0x2000 && state->reg[4] == 0x7ffa,
       "UD2 is delivered to the guest");
    state->idt.limit = 0;
    ok(STEP("\x0f\x0b") == VCPU_SHUTDOWN, "without an IDT it is a triple fault");
    state->cr0 |= 0x80000000; /* paging without protection */
    ok(STEP("\x90") == VCPU_BROKEN && err.text[0] && state->rip == 0x1000,
       "an impossible state is refused: %s", err.text);
}

int main(void)
{
    state = calloc(1, sizeof *state);
    mem_init(&mem);
    bus_init(&mmio, BIT(40));
    bus_init(&pio, 0x10000);
    vm_init(&vm);
    vm.mem = &mem;
    vm.mmio = &mmio;
    vm.pio = &pio;
    card = (struct region){.name = "card", .base = MiB, .size = 16, .ops = &card_ops};
    if (!cpu_model_parse(&model, "", &err) || !mem_add(&mem, "ram", 0, MiB, false, &err) ||
        !bus_add(&mmio, &card, &err))
        return 1;
    vcpu_state_reset(state, true, 0);
    stepper = soft_stepper_open(&vm, &model, &err);
    ok(stepper != NULL && !mem.watcher, "a stepper opens, and watches nothing");
    test_moves();
    test_memory();
    test_faults();
    soft_stepper_close(stepper);
    vm_close(&vm);
    mem_close(&mem);
    bus_close(&mmio);
    bus_close(&pio);
    free(state);
    return tap_done();
}
