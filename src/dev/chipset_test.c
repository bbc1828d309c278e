/* SPDX-License-Identifier: MIT */
/* Host bridge, LPC bridge, power management, i8042, debug and panic ports. */
#include "dev/testboard.h"
#include "tap.h"

static uint32_t config(uint32_t bdf, uint32_t reg)
{
    bus_write(&tb.pio, 0xcf8, 0x80000000 | bdf << 8 | reg, 4);
    return (uint32_t)bus_read(&tb.pio, 0xcfc, 4);
}

static void config_put(uint32_t bdf, uint32_t reg, uint32_t value)
{
    bus_write(&tb.pio, 0xcf8, 0x80000000 | bdf << 8 | reg, 4);
    bus_write(&tb.pio, 0xcfc, value, 4);
}

static bool powered(enum power_event what)
{
    bool yes = tb.powers == 1 && tb.power == what;

    tb.powers = 0;
    return yes;
}

static void test_hostbridge(void)
{
    ok(config(0, 0) == 0x29c08086 && config(0xf8, 0) == 0x29188086, "both bridges by ports");
    ok(rd32(0xb0000000) == 0x29c08086 && rd32(0xb00f8000) == 0x29188086, "and by ECAM");
    ok(config(0x100, 0) == UINT32_MAX && rd32(0xb8000000) == UINT32_MAX, "nobody else");
    ok(bus_read(&tb.mmio, 0xb0000002, 2) == 0x29c0 && bus_read(&tb.mmio, 0xb0000001, 1) == 0x80,
       "ECAM takes bytes and words");
    ok(bus_read(&tb.mmio, 0xb0000000, 8) == 0x29c08086 + (uint64_t)rd32(0xb0000004) * (1ULL << 32),
       "and is read 8 bytes at once");
    config(0, 0);
    ok(bus_read(&tb.pio, 0xcfe, 2) == 0x29c0 && inb(0xcff) == 0x29, "narrow data port accesses");
    ok(bus_read(&tb.pio, 0xcf8, 4) == 0x80000000, "the address reads back");
    bus_write(&tb.pio, 0xcf8, 0, 4);
    ok(bus_read(&tb.pio, 0xcfc, 4) == UINT32_MAX, "without the enable bit nothing answers");
    ok(config(0, 0x60) == 0xb0000001, "PCIEXBAR after reset");
    config_put(0, 0x60, 0xd0000003);
    ok(rd32(0xd0000000) == 0x29c08086 && rd32(0xb0000000) == UINT32_MAX && tb.mmio.count >= 3,
       "ECAM moves");
    ok(!bus_find(&tb.mmio, 0xd8000000, 4), "and shrinks to 128 buses");
    config_put(0, 0x60, 0xd0000000);
    ok(rd32(0xd0000000) == UINT32_MAX, "and goes");
    board_reset(&tb.board);
    ok(rd32(0xb0000000) == 0x29c08086, "and comes back with reset");
    outb(0xcf9, 0x02);
    ok(tb.powers == 0 && inb(0xcf9) == 0x02, "cf9: armed");
    outb(0xcf9, 0x06);
    ok(powered(POWER_RESET), "reset");
}

static void test_lpc(void)
{
    ok(config(0xf8, 0x40) == 0x601 && bus_find(&tb.pio, 0x600, 4), "PM base after reset");
    config_put(0xf8, 0x40, 0xb000);
    ok(bus_find(&tb.pio, 0xb008, 4) && !bus_find(&tb.pio, 0x608, 4), "PM base moves");
    config_put(0xf8, 0x40, 0x600);
    config_put(0xf8, 0x44, 0);
    ok(!bus_find(&tb.pio, 0x600, 1), "and can be off");
    config_put(0xf8, 0x44, 0x80);
    ok(config(0xf8, 0x60) == 0x80808080, "PIRQs are off");
    config_put(0xf8, 0x60, 0x0b0a8005);
    ok(tb.board.irqchip->route[0] == 5 && tb.board.irqchip->route[2] == 10, "and routed");
    config_put(0xf8, 0xf0, 0xfed1c001);
    wr32(0xfed1f140, 0x3210);
    ok(rd32(0xfed1f140) == 0x3210 && rd32(0xfed1c000) == 0, "RCBA window");
    ok(inb(0x92) == 2, "A20 is on");
    outb(0x92, 3);
    ok(powered(POWER_RESET) && inb(0x92) == 3, "fast reset");
    outb(0x80, 0x42);
    ok(inb(0x80) == 0x42, "POST port");
    board_reset(&tb.board);
    ok(tb.board.irqchip->route[0] == 0x80 && !bus_find(&tb.mmio, 0xfed1c000, 4), "reset undoes it");
}

static uint16_t pm16(uint16_t reg)
{
    return (uint16_t)bus_read(&tb.pio, 0x600 + reg, 2);
}

static void pm16_put(uint16_t reg, uint16_t value)
{
    bus_write(&tb.pio, 0x600 + reg, value, 2);
}

static void test_pm(void)
{
    ok(!(pm16(4) & 1) && !pm_power_button(&tb.board), "before ACPI mode nobody hears the button");
    pm16_put(0, 0xffff);
    outb(0xb2, 2);
    ok(pm16(4) & 1, "ACPI mode on");
    pm16_put(2, 0x100);
    ok(!tb.line[9] && pm_power_button(&tb.board) && tb.line[9] && (pm16(0) & 0x100),
       "power button: status and SCI");
    outb(0x601, 1);
    ok(!tb.line[9] && !(pm16(0) & 0x100), "cleared by a byte");
    pm16_put(0x28, 0x0004);
    pm_gpe(&tb.board, 2);
    pm_gpe(&tb.board, 40);
    ok(tb.line[9] && pm16(0x20) == 4 && pm16(0x24) == 0x100, "general-purpose events");
    pm16_put(0x20, 4);
    ok(!tb.line[9], "cleared; the other is not enabled");
    pm16_put(4, 0x1c01);
    ok(tb.powers == 0 && pm16(4) == 0x1c01, "a sleep type alone does nothing");
    pm16_put(4, 0x3c01);
    ok(powered(POWER_OFF) && pm16(4) == 0x1c01, "S5: off; the enable bit reads 0");
    bus_write(&tb.pio, 0x604, 0x2001, 4);
    ok(powered(POWER_OFF), "what firmware writes: off");
    pm16_put(4, 0x3401);
    ok(powered(POWER_SUSPEND), "S3");
    outb(0xb2, 3);
    ok(!(pm16(4) & 1), "ACPI mode off");
    board_reset(&tb.board);
    ok(pm16(2) == 0 && pm16(4) == 0 && pm16(0x24) == 0, "reset");
}

/* ---- i8042 ---- */

static uint8_t answer(void) /* waits as a driver does; 0xee: nothing came */
{
    return inb(0x64) & 1 ? inb(0x60) : 0xee;
}

static void to_mouse(uint8_t byte)
{
    outb(0x64, 0xd4);
    outb(0x60, byte);
}

static void test_i8042_controller(void)
{
    ok(!(inb(0x64) & 3), "nothing to read, ready for commands");
    outb(0x64, 0xaa);
    ok(answer() == 0x55 && (inb(0x64) & 4), "self test");
    outb(0x64, 0x20);
    ok(answer() == 0x65, "command byte");
    outb(0x64, 0x60);
    outb(0x60, 0x03);
    outb(0x64, 0x20);
    ok(answer() == 0x03, "written");
    outb(0x64, 0xab);
    ok(answer() == 0, "keyboard line");
    outb(0x64, 0xa9);
    ok(answer() == 0, "mouse line");
    outb(0x64, 0xa7);
    outb(0x64, 0x20);
    ok(answer() == 0x23, "mouse off");
    outb(0x64, 0xa8);
    outb(0x64, 0xd3);
    outb(0x60, 0x5a);
    ok((inb(0x64) & 0x21) == 0x21 && inb(0x60) == 0x5a, "loopback through the mouse's buffer");
    ok(tb.rises[12] == 1 && !tb.line[12], "with its interrupt");
    outb(0x64, 0xd0);
    ok(answer() == 3, "output port: A20 on, no reset");
    outb(0x64, 0xd1);
    outb(0x60, 0x01);
    outb(0x64, 0xd0);
    ok(answer() == 1 && tb.powers == 0, "A20 off is remembered");
    outb(0x64, 0xfe);
    ok(powered(POWER_RESET), "reset pulse");
    outb(0x64, 0xd1);
    outb(0x60, 0x02);
    ok(powered(POWER_RESET), "reset through the output port");
    outb(0x64, 0xff);
    ok(tb.powers == 0, "a pulse of no line does nothing");
}

static void test_i8042_devices(void)
{
    tb.rises[1] = tb.rises[12] = 0;
    outb(0x60, 0xff);
    ok(tb.rises[1] == 1 && answer() == 0xfa && answer() == 0xaa && answer() == 0xee,
       "keyboard reset");
    ok(tb.rises[1] == 2, "an interrupt for each byte");
    outb(0x60, 0xf2);
    ok(answer() == 0xfa && answer() == 0xab && answer() == 0x83, "keyboard id");
    outb(0x64, 0x60);
    outb(0x60, 0x43);
    outb(0x60, 0xf2);
    ok(answer() == 0xfa && answer() == 0xab && answer() == 0x41, "keyboard id, translated");
    outb(0x60, 0xed);
    ok(answer() == 0xfa, "LEDs");
    outb(0x60, 0x02);
    ok(answer() == 0xfa && answer() == 0xee, "and their parameter");
    outb(0x60, 0xf0);
    answer();
    outb(0x60, 0);
    ok(answer() == 0xfa && answer() == 2, "scan code set 2");
    outb(0x60, 0x99);
    ok(answer() == 0xfe, "unknown: resend");
    to_mouse(0xff);
    ok((inb(0x64) & 0x20) && answer() == 0xfa && answer() == 0xaa && answer() == 0, "mouse reset");
    to_mouse(0xf2);
    ok(answer() == 0xfa && answer() == 0, "a plain mouse");
    for (unsigned i = 0; i < 3; i++) {
        to_mouse(0xf3);
        answer();
        to_mouse(i == 0 ? 200 : i == 1 ? 100 : 80);
        answer();
    }
    to_mouse(0xf2);
    ok(answer() == 0xfa && answer() == 3, "that becomes a wheel mouse");
    to_mouse(0xe9);
    ok(answer() == 0xfa && answer() == 0x00 && answer() == 2 && answer() == 80, "status");
    to_mouse(0xeb);
    ok(answer() == 0xfa && answer() == 8 && answer() == 0 && answer() == 0 && answer() == 0,
       "a packet, on request");
    outb(0x64, 0xad);
    outb(0x64, 0xa7);
    to_mouse(0xf2);
    ok(answer() == 0xee, "a line that is off says nothing");
    outb(0x64, 0xa8);
    ok(answer() == 0xfa, "until it is on again");
}

static void test_debug(void)
{
    ok(inb(0x505) == 3, "pvpanic says what it knows");
    outb(0x505, 2);
    ok(tb.powers == 0, "a crash kernel is not a panic yet");
    outb(0x505, 1);
    ok(powered(POWER_PANIC), "panic");
    bus_write(&tb.pio, 0xf4, 0x1234, 4);
    ok(powered(POWER_DEBUG_EXIT) && tb.power_code == 0x1234, "debug exit, with the code");
    outb(0xf4, 7);
    ok(powered(POWER_DEBUG_EXIT) && tb.power_code == 7, "a byte will do");
}

int main(void)
{
    tb_full(NULL, NULL);
    test_hostbridge();
    test_lpc();
    test_pm();
    test_i8042_controller();
    test_i8042_devices();
    test_debug();
    tb_close();
    return tap_done();
}
