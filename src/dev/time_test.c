/* SPDX-License-Identifier: MIT */
/* PIT, RTC, HPET and PM timer against a clock wound by hand. */
#include "dev/testboard.h"
#include "tap.h"

#define MS   1000000ULL
#define HPET 0xfed00000ULL

static bool near(uint64_t value, uint64_t want, uint64_t slack)
{
    return value + slack >= want && value <= want + slack;
}

/* ---- PIT ---- */

static void pit_load(unsigned n, uint8_t mode, uint16_t count)
{
    outb(0x43, (uint8_t)(n << 6 | 0x30 | mode << 1));
    outb((uint16_t)(0x40 + n), (uint8_t)count);
    outb((uint16_t)(0x40 + n), (uint8_t)(count >> 8));
}

static uint16_t pit_count(unsigned n)
{
    uint8_t low;

    outb(0x43, (uint8_t)(n << 6));
    low = inb((uint16_t)(0x40 + n));
    return (uint16_t)(low | inb((uint16_t)(0x40 + n)) << 8);
}

static void test_pit_periodic(void)
{
    tb.rises[0] = 0;
    pit_load(0, 2, 11932); /* 100 Hz */
    ok(tb.rises[0] == 0, "programming makes no tick");
    ok(pit_count(0) == 11932, "starts at the count");
    tb_pass(5 * MS);
    ok(near(pit_count(0), 5966, 2), "counts down: %u after half the period", pit_count(0));
    tb_pass(995 * MS);
    ok(near(tb.rises[0], 100, 1), "%u ticks in a second", tb.rises[0]);
    outb(0x43, 0xc2); /* read-back: count and status of channel 0 */
    ok((inb(0x40) & 0x3f) == 0x34, "status: mode 2, two bytes");
    inb(0x40);
    inb(0x40);
    tb.rises[0] = 0;
    pit_load(0, 3, 1193);
    tb_pass(100 * MS);
    ok(near(tb.rises[0], 100, 1), "mode 3 at 1 kHz: %u ticks in 100 ms", tb.rises[0]);
    pit_load(0, 2, 2);
    tb.rises[0] = 0;
    tb_pass(10 * MS);
    ok(tb.rises[0] > 10 && tb.rises[0] < 600, "600 kHz is not served at that rate: %u in 10 ms",
       tb.rises[0]);
}

static void test_pit_oneshot(void)
{
    tb.rises[0] = 0;
    pit_load(0, 4, 1193);
    tb_pass(MS / 2);
    ok(tb.rises[0] == 0, "mode 4: not yet");
    tb_pass(MS);
    ok(tb.rises[0] == 1, "once");
    tb_pass(100 * MS);
    ok(tb.rises[0] == 1, "and not again");
    pit_load(0, 0, 1193);
    ok(!tb.line[0], "mode 0: low at once");
    tb_pass(2 * MS);
    ok(tb.line[0] && tb.rises[0] == 2, "high at the end");
    outb(0x43, 0x30);
    ok(!tb.line[0], "low with the next control word");
    tb_pass(100 * MS);
    ok(tb.rises[0] == 2, "which stops it");
}

static void test_pit_channel2(void)
{
    uint16_t before;

    outb(0x61, 0);
    pit_load(2, 0, 0xffff);
    tb_pass(MS);
    ok(pit_count(2) == 0xffff && !(inb(0x61) & 0x20), "gate low: stands still");
    outb(0x61, 1);
    tb_pass(10 * MS);
    ok(near(pit_count(2), 0xffff - 11931, 3), "10 ms are %u ticks", 0xffff - pit_count(2));
    outb(0x61, 0);
    before = pit_count(2);
    tb_pass(20 * MS);
    ok(pit_count(2) == before, "gate low again: holds");
    outb(0x61, 1);
    tb_pass(44 * MS);
    ok(!(inb(0x61) & 0x20), "output low");
    tb_pass(2 * MS);
    ok(inb(0x61) & 0x20, "and high when the count is through, pauses not counted");
    outb(0x61, 0x0f);
    ok((inb(0x61) & 0x0f) == 0x0f, "speaker bits are kept");
    outb(0x43, 0xb1); /* mode 0, BCD */
    outb(0x42, 0x00);
    outb(0x42, 0x10);
    tb_pass(500 * 1000000ULL / 1193182 * 1000);
    ok(near(pit_count(2), 0x501, 3), "BCD counts in decimal: %x", pit_count(2));
    pit_load(2, 1, 1000);
    ok(inb(0x61) & 0x20, "mode 1 is high until triggered");
    outb(0x61, 0);
    outb(0x61, 1);
    ok(!(inb(0x61) & 0x20), "low from the trigger");
    tb_pass(MS);
    ok(inb(0x61) & 0x20, "for the count");
}

static void test_pit_latch(void)
{
    uint8_t low;

    pit_load(0, 2, 0x8000);
    tb_pass(MS);
    outb(0x43, 0x00);
    tb_pass(5 * MS);
    low = inb(0x40);
    ok(near(low | inb(0x40) << 8, 0x8000 - 1193, 3), "a latched count waits to be read");
    outb(0x43, 0x10 | 0x04); /* low byte only */
    outb(0x40, 200);
    ok(inb(0x40) == 200 && inb(0x40) == 200, "one-byte access");
    outb(0x43, 0x20 | 0x04); /* high byte only */
    outb(0x40, 0x12);
    ok(inb(0x40) == 0x12, "of the high byte too");
}

/* ---- RTC ---- */

static uint8_t cmos(uint8_t index)
{
    outb(0x70, index);
    return inb(0x71);
}

static void cmos_put(uint8_t index, uint8_t value)
{
    outb(0x70, index);
    outb(0x71, value);
}

static void test_rtc_time(void)
{
    ok(cmos(0) == 0x20 && cmos(2) == 0x13 && cmos(4) == 0x22 && cmos(7) == 0x14 &&
           cmos(8) == 0x11 && cmos(9) == 0x23 && cmos(0x32) == 0x20 && cmos(6) == 0x03,
       "2023-11-14 22:13:20, a Tuesday, in BCD");
    ok(cmos(0x0d) == 0x80 && cmos(0x0a) == 0x26 && cmos(0x0b) == 0x02, "registers A, B and D");
    tb_pass(2000 * MS);
    ok(cmos(0) == 0x22, "two seconds on");
    tb_pass(1000 * MS - 100000);
    ok(cmos(0x0a) & 0x80, "update in progress just before the second ends");
    tb_pass(200000);
    ok(!(cmos(0x0a) & 0x80) && cmos(0) == 0x23, "and not after");
    cmos_put(0x0b, 0x06);
    ok(cmos(4) == 22 && cmos(0x32) == 20, "binary");
    cmos_put(0x0b, 0x00);
    ok(cmos(4) == (0x10 | 0x80), "12-hour: 10 PM");
    cmos_put(0x0b, 0x82);
    cmos_put(0, 0x59);
    cmos_put(2, 0x59);
    cmos_put(4, 0x23);
    cmos_put(7, 0x28);
    cmos_put(8, 0x02);
    cmos_put(9, 0x24);
    tb_pass(5000 * MS);
    ok(cmos(0) == 0x59, "SET holds it");
    cmos_put(0x0b, 0x02);
    tb_pass(1000 * MS);
    ok(cmos(0) == 0 && cmos(2) == 0 && cmos(4) == 0 && cmos(7) == 0x29 && cmos(8) == 0x02,
       "set to 2024-02-28 23:59:59: a second later it is the 29th");
    cmos_put(0x50, 0xa5);
    ok(cmos(0x50) == 0xa5 && cmos(0xd0) == 0xa5,
       "CMOS bytes; the NMI bit is not part of the index");
    board_reset(&tb.board);
    ok(cmos(0x50) == 0xa5 && cmos(7) == 0x29, "both survive a reset");
}

static void test_rtc_interrupts(void)
{
    uint8_t c;

    cmos(0x0c);
    tb.rises[8] = 0;
    cmos_put(0x0b, 0x12);
    tb_pass(1000 * MS);
    ok(tb.rises[8] == 1 && tb.line[8], "update interrupt");
    tb_pass(1000 * MS);
    ok(tb.rises[8] == 1, "held until register C is read");
    c = cmos(0x0c);
    ok((c & 0x90) == 0x90 && !tb.line[8] && cmos(0x0c) == 0, "which tells and clears: %02x", c);
    tb_pass(1000 * MS);
    ok(tb.rises[8] == 2, "then the next");
    cmos(0x0c);
    cmos_put(0x0b, 0x42);
    tb.rises[8] = 0;
    for (int i = 0; i < 100; i++) {
        tb_pass(MS);
        cmos(0x0c);
    }
    ok(near(tb.rises[8], 100, 3), "periodic at 1024 Hz: %u in 100 ms", tb.rises[8]);
    cmos_put(0x0b, 0x02);
    cmos_put(0x0a, 0x20);
    cmos(0x0c);
    tb_pass(100 * MS);
    ok(!(cmos(0x0c) & 0x40), "rate 0: no periodic flag");
    cmos_put(1, (uint8_t)(cmos(0) + 2)); /* seconds are below 7 here */
    cmos_put(3, 0xff);
    cmos_put(5, 0xff);
    cmos_put(0x0b, 0x22);
    tb.rises[8] = 0;
    tb_pass(1000 * MS);
    ok(tb.rises[8] == 0, "alarm: not yet");
    tb_pass(1000 * MS);
    ok(tb.rises[8] == 1 && (cmos(0x0c) & 0xa0) == 0xa0, "with minutes and hours ignored, on time");
    cmos_put(0x0b, 0x02);
    tb_pass(2000 * MS);
    ok((cmos(0x0c) & 0x90) == 0x10, "flags come without interrupts too");
}

/* ---- HPET ---- */

static uint64_t rd64(uint64_t addr)
{
    return bus_read(&tb.mmio, addr, 8);
}

static void test_hpet_counter(void)
{
    uint64_t before;

    ok(rd64(HPET) == 0x009896808086a201, "capabilities: 10 ns, 3 timers, 64 bits, legacy");
    ok(rd64(HPET + 0xf0) == 0, "stopped at 0");
    tb_pass(MS);
    ok(rd64(HPET + 0xf0) == 0, "and stays");
    wr32(HPET + 0x10, 1);
    tb_pass(MS);
    ok(rd64(HPET + 0xf0) == 100000, "100000 ticks a millisecond");
    wr32(HPET + 0x10, 0);
    before = rd64(HPET + 0xf0);
    tb_pass(MS);
    ok(rd64(HPET + 0xf0) == before, "stopped");
    bus_write(&tb.mmio, HPET + 0xf0, 0xfffffffffULL, 8);
    ok(rd32(HPET + 0xf4) == 0xf && rd32(HPET + 0xf0) == 0xffffffff, "written, read by halves");
    wr32(HPET + 0xf4, 0);
    ok(rd64(HPET + 0xf0) == 0xffffffff, "written by halves");
    bus_write(&tb.mmio, HPET + 0xf0, 0, 8);
}

static void test_hpet_timers(void)
{
    wr32(HPET + 0x10, 3); /* legacy replacement */
    tb.rises[0] = tb.rises[8] = 0;
    wr32(HPET + 0x100, 0x14c); /* on, periodic, set, 32-bit */
    wr32(HPET + 0x108, rd32(HPET + 0xf0) + 100000);
    wr32(HPET + 0x108, 100000);
    tb_pass(10 * MS + MS / 2);
    ok(tb.rises[0] == 10, "timer 0 replaces the PIT: %u ticks in 10 ms", tb.rises[0]);
    pit_load(0, 2, 1193);
    tb.rises[0] = 0;
    wr32(HPET + 0x100, 0);
    tb_pass(10 * MS);
    ok(tb.rises[0] == 0, "and the PIT is silent");
    wr32(HPET + 0x120, 0x104); /* timer 1, 32-bit one-shot */
    wr32(HPET + 0x128, rd32(HPET + 0xf0) + 50000);
    tb_pass(MS);
    ok(tb.rises[8] == 1, "timer 1 replaces the RTC");
    tb_pass(20 * MS);
    ok(tb.rises[8] == 1, "once");
    wr32(HPET + 0x120, 0);
    wr32(HPET + 0x10, 1);
    tb.rises[11] = 0;
    wr32(HPET + 0x140, 11 << 9 | 2 | 4); /* timer 2, level, pin 11 */
    ok(rd64(HPET + 0x140) >> 32 == 0xc00, "pins 10 and 11 are offered");
    wr32(HPET + 0x148, rd32(HPET + 0xf0) + 1000);
    wr32(HPET + 0x14c, 0);
    tb_pass(MS);
    ok(tb.line[11] && rd32(HPET + 0x20) == 4, "level: held");
    wr32(HPET + 0x20, 4);
    ok(!tb.line[11] && rd32(HPET + 0x20) == 0, "until its status is cleared");
    tb.msis = 0;
    bus_write(&tb.mmio, HPET + 0x150, 0xfee0200000004055ULL, 8);
    wr32(HPET + 0x140, 0x4004);
    wr32(HPET + 0x148, rd32(HPET + 0xf0) + 1000);
    tb_pass(MS);
    ok(tb.msis == 1 && tb.msi.address == 0xfee02000 && tb.msi.data == 0x4055, "as a message");
}

static void test_hpet_wrap(void)
{
    wr32(HPET + 0x10, 0);
    bus_write(&tb.mmio, HPET + 0xf0, 0xfffff000, 8);
    tb.rises[10] = 0;
    wr32(HPET + 0x120, 10 << 9 | 0x104);
    wr32(HPET + 0x128, 0x1000);
    wr32(HPET + 0x10, 1);
    tb_pass(MS / 20);
    ok(tb.rises[10] == 0, "32-bit comparator: not before the wrap");
    tb_pass(MS);
    ok(tb.rises[10] == 1, "but after it");
    board_pause(&tb.board);
    wr32(HPET + 0x128, rd32(HPET + 0xf0) + 100);
    tb.host_ns += 100 * MS;
    devtimer_run(&tb.board);
    ok(tb.rises[10] == 1, "nothing fires while the board is paused");
    board_resume(&tb.board);
    tb_pass(MS);
    ok(tb.rises[10] == 2, "it does after resume");
}

/* ---- PM timer ---- */

static void test_pm_timer(void)
{
    uint32_t before = (uint32_t)bus_read(&tb.pio, 0x608, 4);

    tb_pass(1000 * MS);
    ok(near((uint32_t)bus_read(&tb.pio, 0x608, 4) - before, 3579545, 1), "3579545 Hz");
    outb(0xb2, 2);
    bus_write(&tb.pio, 0x600, 1, 2);
    bus_write(&tb.pio, 0x602, 1, 2);
    ok(!tb.line[9], "no SCI");
    tb.host_ns += 600000 * MS; /* 2^31 ticks are 599.9 s */
    devtimer_run(&tb.board);
    ok(tb.line[9] && (bus_read(&tb.pio, 0x600, 2) & 1), "the top bit changed: SCI");
    bus_write(&tb.pio, 0x600, 1, 2);
    ok(!tb.line[9], "cleared");
}

int main(void)
{
    tb_full(NULL, NULL);
    test_pit_periodic();
    test_pit_oneshot();
    test_pit_channel2();
    test_pit_latch();
    tb_close();
    tb_full(NULL, NULL);
    test_rtc_time();
    test_rtc_interrupts();
    test_hpet_counter();
    test_hpet_timers();
    test_hpet_wrap();
    test_pm_timer();
    tb_close();
    return tap_done();
}
