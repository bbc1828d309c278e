/* SPDX-License-Identifier: MIT */
/* The 16550: FIFOs, interrupts, loopback, flow control in both directions; the debug console. */
#include "dev/testboard.h"
#include "tap.h"

/* A host's end in memory that takes `room` bytes and then says "not now". */
struct fake {
    struct chardev c;
    char taken[32768];
    size_t count, room;
    unsigned wants;
};

static size_t fake_write(struct chardev *c, const uint8_t *bytes, size_t len)
{
    struct fake *f = container_of(c, struct fake, c);
    size_t n = min_size(min_size(len, f->room), sizeof f->taken - f->count);

    memcpy(f->taken + f->count, bytes, n);
    f->count += n;
    f->room -= n;
    return n;
}

static void fake_wanted(struct chardev *c)
{
    container_of(c, struct fake, c)->wants++;
}

static void fake_close(struct chardev *c)
{
    c->front = NULL;
}

static const struct chardev_ops fake_ops = {fake_write, fake_wanted, fake_close};
static struct fake host, log_host;
static struct loop *loop;

static void turn(void)
{
    for (int i = 0; i < 3; i++)
        loop_turn(loop, 0);
}

static bool sent(const char *text)
{
    bool same;

    turn();
    same = host.count == strlen(text) && !memcmp(host.taken, text, host.count);
    host.count = 0;
    return same;
}

static size_t receive(const char *text)
{
    struct chardev_front *f = host.c.front;
    size_t n = min_size(strlen(text), f->ops->room(f));

    f->ops->receive(f, (const uint8_t *)text, n);
    return n;
}

#define COM(n) (0x3f8 + (n))

static void test_registers(void)
{
    outb(COM(7), 0x5a);
    ok(inb(COM(7)) == 0x5a, "scratch");
    outb(COM(3), 0x83);
    outb(COM(0), 0x01);
    outb(COM(1), 0x00);
    ok(inb(COM(0)) == 1 && inb(COM(1)) == 0 && inb(COM(3)) == 0x83, "divisor behind DLAB");
    outb(COM(3), 0x03);
    outb(COM(1), 0xff);
    ok(inb(COM(1)) == 0x0f, "four interrupt bits exist");
    outb(COM(1), 0);
    ok(inb(COM(5)) == 0x60 && inb(COM(6)) == 0xb0, "idle line, modem ready");
    ok(inb(COM(2)) == 0x01, "no interrupt, no FIFO");
    outb(COM(2), 0xc7);
    ok(inb(COM(2)) == 0xc1, "a 16550A: FIFO on");
}

static void test_transmit(void)
{
    tb.rises[4] = 0;
    for (const char *p = "hello"; *p; p++)
        outb(COM(0), (uint8_t)*p);
    ok(host.count == 0, "nothing is written in the vCPU's thread");
    ok(sent("hello"), "all at once in the loop");
    ok(tb.rises[4] == 0, "no interrupt unless asked for");
    outb(COM(1), 0x02);
    ok(tb.line[4] && inb(COM(2)) == 0xc2, "enabled while empty: THRE at once");
    ok(!tb.line[4] && inb(COM(2)) == 0xc1, "reading the cause acknowledges it");
    outb(COM(0), 'x');
    ok(tb.line[4], "sent: empty again");
    outb(COM(0), 'y');
    ok(tb.line[4] && sent("xy"), "more");
    outb(COM(1), 0);
    ok(!tb.line[4], "disabled");
    outb(COM(1), 2);
    ok(tb.line[4], "disabled and enabled: THRE again, as drivers test");
    inb(COM(2));
    outb(COM(1), 0);
}

static void test_slow_host(void)
{
    unsigned n = 0;

    host.room = 10;
    while ((inb(COM(5)) & 0x20) && n < 20000) {
        outb(COM(0), (uint8_t)('a' + n % 26));
        n++;
    }
    ok(n == CHARDEV_OUT_MAX && !(inb(COM(5)) & 0x60), "a full buffer: not empty after %u bytes", n);
    outb(COM(1), 2);
    ok(!tb.line[4], "no THRE now");
    turn();
    ok(host.count == 10 && (inb(COM(5)) & 0x20), "some went: room again");
    ok(!tb.line[4], "but no interrupt until all is out");
    host.room = SIZE_MAX;
    host.c.front->ops->writable(host.c.front);
    turn();
    ok(host.count == n && tb.line[4], "the host goes on: all %zu bytes, and THRE", host.count);
    for (unsigned i = 0; i < n; i++)
        if (host.taken[i] != (char)('a' + i % 26))
            n = 0;
    ok(n, "in order");
    host.count = 0;
    inb(COM(2));
    outb(COM(1), 0);
}

static void test_receive(void)
{
    char got[17] = {0};

    outb(COM(2), 0x87); /* FIFO, trigger at 8 */
    tb.rises[4] = 0;
    outb(COM(1), 0x01);
    ok(receive("ab") == 2 && tb.line[4], "below the trigger: an interrupt after the timeout");
    ok(inb(COM(2)) == 0xcc && (inb(COM(5)) & 1), "character timeout, data ready");
    ok(inb(COM(0)) == 'a' && inb(COM(0)) == 'b' && !tb.line[4], "read");
    ok(!(inb(COM(5)) & 1) && inb(COM(0)) == 0, "empty");
    ok(receive("0123456789abcdefXYZ") == 16, "the FIFO takes 16, the rest stays with the host");
    ok(inb(COM(2)) == 0xc4 && receive("!") == 0, "trigger reached, full");
    host.wants = 0;
    for (unsigned i = 0; i < 16; i++)
        got[i] = (char)inb(COM(0));
    turn();
    ok(!strcmp(got, "0123456789abcdef") && host.wants == 1, "all in order, then more is wanted");
    receive("zz");
    outb(COM(2), 0x83);
    ok(!(inb(COM(5)) & 1) && !tb.line[4], "FIFO cleared");
    outb(COM(2), 0);
    ok(receive("12") == 1 && inb(COM(2)) == 0x04 && inb(COM(0)) == '1', "without FIFO, one byte");
    outb(COM(2), 0x07);
    outb(COM(1), 0);
}

static void test_loopback(void)
{
    outb(COM(4), 0x1b);
    ok((inb(COM(6)) & 0xf0) == 0xb0, "loopback: DTR, RTS, OUT2 come back");
    outb(COM(4), 0x14);
    ok((inb(COM(6)) & 0xf0) == 0x40, "OUT1 as ring");
    outb(COM(1), 0x08);
    outb(COM(4), 0x12);
    ok(tb.line[4] && inb(COM(2)) == 0xc0 && (inb(COM(6)) & 0x0f) == 0x05 && !tb.line[4],
       "modem status interrupt: CTS rose, RI fell");
    outb(COM(1), 0x04);
    for (unsigned i = 0; i < 17; i++)
        outb(COM(0), (uint8_t)i);
    ok(inb(COM(0)) == 0 && inb(COM(0)) == 1, "bytes come back");
    ok(tb.line[4] && inb(COM(2)) == 0xc6 && (inb(COM(5)) & 2) && !tb.line[4], "overrun");
    ok(receive("x") == 0, "nothing from outside meanwhile");
    turn();
    ok(host.count == 0, "and nothing goes out");
    outb(COM(4), 0x0b);
    outb(COM(2), 0x07);
    outb(COM(1), 0);
}

static void test_debugcon(void)
{
    ok(inb(0x402) == 0xe9, "debug console is there");
    outb(0x402, 'o');
    outb(0x402, 'k');
    turn();
    ok(log_host.count == 2 && !memcmp(log_host.taken, "ok", 2), "and writes");
}

int main(void)
{
    struct board_parts parts = {.serial = {&host.c, NULL, NULL, &log_host.c}};
    struct err err;

    host.c.ops = log_host.c.ops = &fake_ops;
    host.room = log_host.room = SIZE_MAX;
    loop = loop_open(&err);
    tb_open(loop);
    ok(board_attach(&tb.board, &parts, &err), "a board with COM1 and COM4");
    ok(bus_find(&tb.pio, 0x2e8, 8) && !bus_find(&tb.pio, 0x2f8, 1), "and no others");
    device_free(board_device(&tb.board, "uart3"));
    ok(!log_host.c.front, "COM4 is gone");
    ok(device_attach(&tb.board, debugcon_new(&log_host.c), &err), "debugcon");
    test_registers();
    test_transmit();
    test_slow_host();
    test_receive();
    test_loopback();
    test_debugcon();
    outb(COM(0), '!');
    tb_close();
    ok(host.count == 1, "what was in the buffer is written when the device goes");
    loop_close(loop);
    return tap_done();
}
