/* SPDX-License-Identifier: MIT */
/* The 8259 pair, the IOAPIC and the lines between them. */
#include "dev/testboard.h"
#include "tap.h"

#define REDIRECT(pin) (0x10 + 2 * (pin))

/* As a PC's firmware does: vectors 8 and 0x70, everything unmasked. */
static void pic_init(uint8_t icw4)
{
    outb(0x20, 0x11);
    outb(0x21, 0x08);
    outb(0x21, 0x04);
    outb(0x21, icw4);
    outb(0xa0, 0x11);
    outb(0xa1, 0x70);
    outb(0xa1, 0x02);
    outb(0xa1, icw4);
    outb(0x21, 0);
    outb(0xa1, 0);
}

static void line(unsigned gsi, bool level)
{
    board_irq(&tb.board, gsi, level);
}

static void pulse(unsigned gsi)
{
    line(gsi, true);
    line(gsi, false);
}

static int ack(void)
{
    return irqchip_ack(&tb.board);
}

static void test_pic_basics(void)
{
    pic_init(0x01);
    ok(!tb.intr && ack() == -1, "nothing asked, nothing acknowledged");
    pulse(4);
    ok(tb.intr, "a rise is remembered");
    ok(ack() == 0x0c && !tb.intr, "IRQ 4 is vector 0c");
    outb(0x20, 0x0b);
    ok(inb(0x20) == 0x10, "in service");
    outb(0x20, 0x0a);
    ok(inb(0x20) == 0, "and no longer asked");
    pulse(5);
    ok(!tb.intr, "a lower priority waits");
    pulse(1);
    ok(tb.intr && ack() == 0x09, "a higher one does not");
    outb(0x20, 0x20);
    ok(!tb.intr, "EOI ends the highest");
    outb(0x20, 0x20);
    ok(tb.intr && ack() == 0x0d, "then the lower gets its turn");
    outb(0x20, 0x65);
    outb(0x20, 0x0b);
    ok(inb(0x20) == 0, "specific EOI");
    outb(0x21, 0x02);
    pulse(1);
    ok(!tb.intr && inb(0x21) == 0x02, "masked");
    outb(0x21, 0);
    ok(tb.intr && ack() == 0x09, "unmasked: still asked");
    outb(0x20, 0x20);
    line(6, true);
    line(6, true);
    ok(ack() == 0x0e, "held high");
    outb(0x20, 0x20);
    ok(!tb.intr, "makes one interrupt");
    line(6, false);
}

static void test_pic_cascade(void)
{
    pic_init(0x01);
    pulse(12);
    ok(tb.intr && ack() == 0x74, "IRQ 12 comes through the slave");
    outb(0x20, 0x0b);
    outb(0xa0, 0x0b);
    ok(inb(0x20) == 0x04 && inb(0xa0) == 0x10, "in service in both");
    pulse(14);
    pulse(8);
    ok(!tb.intr, "the master holds back even a higher one of the slave");
    outb(0xa0, 0x20);
    outb(0x20, 0x20);
    ok(tb.intr && ack() == 0x70, "after both EOIs, IRQ 8");
    outb(0xa0, 0x20);
    outb(0x20, 0x20);
    ok(tb.intr && ack() == 0x76, "and then IRQ 14, though the slave never fell silent");
    outb(0xa0, 0x20);
    outb(0x20, 0x20);
    ok(!tb.intr, "done");
    pic_init(0x11); /* special fully nested */
    pulse(12);
    ack();
    pulse(8);
    ok(tb.intr && ack() == 0x70, "special fully nested: a higher one of the slave passes");
    pic_init(0x01);
    line(2, true);
    ok(!tb.intr, "there is no IRQ 2 pin");
    line(2, false);
}

static void test_pic_modes(void)
{
    pic_init(0x03); /* automatic EOI */
    pulse(3);
    ok(ack() == 0x0b, "automatic EOI");
    outb(0x20, 0x0b);
    ok(inb(0x20) == 0, "leaves nothing in service");
    pic_init(0x01);
    outb(0x20, 0xc2); /* lowest: 2, so 3 is highest */
    pulse(1);
    pulse(3);
    ok(ack() == 0x0b && !tb.intr, "rotated priorities: 3 before 1");
    outb(0x20, 0xa0); /* rotate on EOI: now 3 is lowest */
    ok(ack() == 0x09, "then 1");
    outb(0x20, 0x20);
    outb(0x20, 0xc7);
    pulse(3);
    ack();
    outb(0x21, 0x08);
    outb(0x20, 0x68); /* special mask: what is in service but masked does not block */
    pulse(5);
    ok(tb.intr && ack() == 0x0d, "special mask mode lets lower ones pass");
    pic_init(0x01);
    pulse(7);
    outb(0x20, 0x0c);
    ok(inb(0x20) == 0x87 && !tb.intr, "poll acknowledges");
    outb(0x20, 0x0c);
    ok(inb(0x20) == 0x00, "and says when there is nothing");
    outb(0x20, 0x20);
}

static void test_pic_level(void)
{
    pic_init(0x01);
    outb(0x4d0, 0xff);
    outb(0x4d1, 0xff);
    ok(inb(0x4d0) == 0xf8 && inb(0x4d1) == 0xde, "ELCR: not timer, keyboard, cascade, RTC, FPU");
    line(5, true);
    ok(ack() == 0x0d, "level");
    outb(0x20, 0x20);
    ok(tb.intr && ack() == 0x0d, "asks again while high");
    line(5, false);
    outb(0x20, 0x20);
    ok(!tb.intr, "and stops when it falls");
    line(11, true);
    line(11, false);
    ok(!tb.intr, "a level that went is forgotten");
    outb(0x4d0, 0);
    outb(0x4d1, 0);
}

static void test_pirq(void)
{
    pic_init(0x01);
    outb(0x4d1, 0x0c);
    line(16, true);
    ok(!tb.intr, "PIRQA is not routed after reset");
    irqchip_route(&tb.board, 0, 10);
    ok(tb.intr && ack() == 0x72, "routed to IRQ 10");
    irqchip_route(&tb.board, 1, 10);
    line(17, true);
    line(16, false);
    outb(0xa0, 0x20);
    outb(0x20, 0x20);
    ok(tb.intr, "two PIRQs on one IRQ: high until both fall");
    line(17, false);
    ok(!tb.intr, "now");
    irqchip_route(&tb.board, 0, 8);
    line(16, true);
    ok(!tb.intr, "IRQ 8 cannot be routed to");
    line(16, false);
    irqchip_route(&tb.board, 0, 0x80);
    irqchip_route(&tb.board, 1, 0x80);
}

/* ---- IOAPIC ---- */

static uint32_t ioapic(uint8_t reg)
{
    wr32(0xfec00000, reg);
    return rd32(0xfec00010);
}

static void ioapic_put(uint8_t reg, uint32_t value)
{
    wr32(0xfec00000, reg);
    wr32(0xfec00010, value);
}

static void test_ioapic_edge(void)
{
    ok(ioapic(1) == 0x00170020, "24 pins, version 20");
    ok(ioapic(REDIRECT(5)) == 0x10000, "masked after reset");
    ioapic_put(0, 0x0f000000);
    ok(ioapic(0) == 0x0f000000 && ioapic(2) == 0x0f000000, "id, arbitration id");
    tb.msis = 0;
    ioapic_put(REDIRECT(4) + 1, 0x03000000);
    ioapic_put(REDIRECT(4), 0x0834 | 0x100);
    line(4, true);
    ok(tb.msis == 1 && tb.msi.address == 0xfee03004 && tb.msi.data == 0x134,
       "edge: logical, lowest priority, vector 34, destination 3");
    line(4, true);
    ok(tb.msis == 1, "no second message while high");
    line(4, false);
    ioapic_put(REDIRECT(4), 0x10034);
    pulse(4);
    ioapic_put(REDIRECT(4), 0x34);
    ok(tb.msis == 1, "an edge while masked is lost");
    pulse(4);
    ok(tb.msis == 2, "the next is not");
    ioapic_put(REDIRECT(2), 0x30);
    pulse(0);
    ok(tb.msis == 3 && tb.msi.data == 0x30, "IRQ 0 arrives at pin 2");
    ioapic_put(REDIRECT(0), 0x31);
    pulse(0);
    ok(tb.msis == 4 && tb.msi.data == 0x30, "and not at pin 0");
    line(24, true);
    line(1000, true);
    ok(tb.msis == 4, "lines that do not exist");
    ioapic_put(REDIRECT(24), 0x55);
    ok(ioapic(REDIRECT(24)) == 0, "registers that do not exist");
}

static void test_ioapic_level(void)
{
    tb.msis = 0;
    ioapic_put(REDIRECT(17), 0x18041); /* masked, level */
    line(17, true);
    ok(tb.msis == 0, "masked");
    ioapic_put(REDIRECT(17), 0x8041);
    ok(tb.msis == 1 && tb.msi.data == 0xc041, "unmasked while asserted: sent as a level message");
    ok(ioapic(REDIRECT(17)) == 0xc041, "remote IRR");
    line(17, false);
    line(17, true);
    ok(tb.msis == 1, "no more until the EOI");
    irqchip_eoi(&tb.board, 0x40);
    ok(tb.msis == 1, "an EOI of another vector is not it");
    irqchip_eoi(&tb.board, 0x41);
    ok(tb.msis == 2, "EOI with the line still up: again");
    line(17, false);
    irqchip_eoi(&tb.board, 0x41);
    ok(tb.msis == 2 && ioapic(REDIRECT(17)) == 0x8041, "EOI with the line down: quiet");
    line(17, true);
    line(17, false);
    wr32(0xfec00040, 0x41);
    ok(tb.msis == 3 && ioapic(REDIRECT(17)) == 0x8041, "EOI through the register");
    line(17, true);
    ioapic_put(REDIRECT(17), 0x41);
    ioapic_put(REDIRECT(17), 0x18041);
    ok(ioapic(REDIRECT(17)) == 0x18041, "a turn through edge mode clears remote IRR");
    ioapic_put(REDIRECT(17), 0xffffffff);
    ok(ioapic(REDIRECT(17)) == 0x1afff, "read-only bits stay");
    line(17, false);
}

int main(void)
{
    tb_full(NULL, NULL);
    test_pic_basics();
    test_pic_cascade();
    test_pic_modes();
    test_pic_level();
    test_pirq();
    test_ioapic_edge();
    test_ioapic_level();
    tb_close();
    return tap_done();
}
