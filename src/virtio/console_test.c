/* SPDX-License-Identifier: MIT */
/* virtio-console over chardevs that record: the plain console, ports and their control messages, a
 * host side that is full or away, sizes, saving, nonsense from the guest. */
#include "dev/chardev.h"
#include "virtio/devices.h"
#include "virtio/testguest.h"
#include <linux/virtio_console.h>
#include <stdlib.h>

#define ALL (~0ULL)

struct recorder {
    struct chardev c;
    size_t room, len; /* bytes that write() will take, bytes taken */
    unsigned wanted;
    char text[200000];
};

static struct guest g;
static struct recorder host[3];
static struct device *dev;
static gpa in_at, out_at;

static size_t recorder_write(struct chardev *c, const uint8_t *bytes, size_t len)
{
    struct recorder *r = container_of(c, struct recorder, c);
    size_t part = min_size(len, min_size(r->room, sizeof r->text - r->len));

    memcpy(r->text + r->len, bytes, part);
    r->len += part;
    r->room -= part;
    return part;
}

static void recorder_wanted(struct chardev *c)
{
    container_of(c, struct recorder, c)->wanted++;
}

static const struct chardev_ops recorder_ops = {recorder_write, recorder_wanted, NULL};

static struct device *console_new(const char *id, unsigned ports)
{
    struct device *d;
    struct err err;

    for (unsigned i = 0; i < 3; i++) {
        host[i].c = (struct chardev){.ops = &recorder_ops, .loop = g.loop};
        host[i].room = SIZE_MAX;
        host[i].len = 0;
    }
    d = virtio_console_new(id, &host[0].c);
    for (unsigned i = 1; i <= ports; i++)
        virtio_console_add_port(d, i == 1 ? "org.qemu.guest_agent.0" : "other", &host[i].c, &err);
    return d;
}

static void begin(uint64_t features)
{
    g.heap = 0x10000;
    in_at = guest_alloc(&g, 64 * 4096, 4096);
    out_at = guest_alloc(&g, 256 * KiB, 4096);
    if (!guest_begin(&g, features, container_of(dev, struct virtio, dev)->queue_count, 32))
        ok(false, "the driver cannot begin");
}

static void say(unsigned queue, const char *text, size_t len)
{
    struct guest_buf buf = {out_at, (uint32_t)len, false};

    memcpy(guest_ptr(&g, out_at, len), text, len);
    guest_add(&g, queue, &buf, 1);
    guest_kick(&g, queue);
    guest_settle(&g);
}

static void give(unsigned queue, unsigned count, uint32_t len)
{
    for (unsigned i = 0; i < count; i++) {
        struct guest_buf buf = {in_at + (queue * 4 + i % 4) * 1024, len, true};
        guest_add(&g, queue, &buf, 1);
    }
    guest_kick(&g, queue);
    guest_settle(&g);
}

static size_t hear(struct recorder *r, const char *text)
{
    size_t room = r->c.front->ops->room(r->c.front), len = min_size(room, strlen(text));

    if (len)
        r->c.front->ops->receive(r->c.front, (const uint8_t *)text, len);
    guest_settle(&g);
    return len;
}

static void test_console(uint64_t features, const char *name)
{
    uint32_t len;

    begin(features);
    host[0].len = 0;
    say(1, "login: ", 7);
    ok(host[0].len == 7 && !memcmp(host[0].text, "login: ", 7) && guest_used(&g, 1, NULL) >= 0,
       "%s: out", name);
    ok(hear(&host[0], "root") == 0, "no buffer: no room");
    host[0].wanted = 0;
    give(0, 2, 16);
    ok(host[0].wanted > 0 && hear(&host[0], "root\n") == 5, "a buffer: the host is asked");
    ok(guest_used(&g, 0, &len) >= 0 && len == 5 && !memcmp(guest_ptr(&g, in_at, 5), "root\n", 5),
       "in");
    ok(hear(&host[0], "a line longer than the buffer") == 16, "as much as fits");
}

static void test_full(void)
{
    static char text[150000];
    struct chardev_front *f;

    begin(ALL);
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)(i * 7);
    host[0].len = 0;
    host[0].room = 10;
    say(1, text, sizeof text);
    ok(host[0].len == 10 && guest_used(&g, 1, NULL) < 0, "the host is full: the guest waits");
    f = host[0].c.front;
    host[0].room = 100000;
    f->ops->writable(f);
    host[0].room = SIZE_MAX;
    f->ops->writable(f);
    ok(host[0].len == sizeof text && !memcmp(host[0].text, text, sizeof text) &&
           guest_used(&g, 1, NULL) >= 0,
       "then all of it, in order");
    host[0].len = host[0].room = 0;
    say(1, text, sizeof text);
    dev->type->pause(dev);
    ok(guest_used(&g, 1, NULL) >= 0, "a pause does not wait for a reader");
    dev->type->resume(dev);
    host[0].room = SIZE_MAX;
    f->ops->writable(f);
    ok(host[0].len == 65536, "what was buffered still goes out");
}

static void test_size(void)
{
    unsigned irqs;

    begin(ALL);
    irqs = g.msis[0];
    virtio_console_resize(dev, 132, 43);
    ok(guest_config(&g, 0, 4) == (43 << 16 | 132) && g.msis[0] == irqs + 1,
       "size, with an interrupt");
    virtio_console_resize(dev, 132, 43);
    virtio_console_resize(NULL, 1, 1);
    ok(g.msis[0] == irqs + 1, "the same size: none");
}

/* ---- ports ---- */

static void control(uint32_t id, uint16_t event, uint16_t value)
{
    struct virtio_console_control h = {id, event, value};

    say(3, (const char *)&h, sizeof h);
    guest_used(&g, 3, NULL);
}

/* The next control message from the device, "" if there is none: "event port value text". */
static const char *message(void)
{
    static char text[100];
    struct virtio_console_control h;
    uint32_t len;
    int id = guest_used(&g, 2, &len);
    gpa at = in_at + (2 * 4 + 0) * 1024;

    text[0] = 0;
    if (id < 0)
        return text;
    memcpy(&h, guest_ptr(&g, at, 8), 8);
    if (h.event == VIRTIO_CONSOLE_RESIZE)
        snprintf(text, sizeof text, "%u %u %u %ux%u", h.event, h.id, h.value,
                 le16(guest_ptr(&g, at + 8, 2)), le16(guest_ptr(&g, at + 10, 2)));
    else
        snprintf(text, sizeof text, "%u %u %u %.*s", h.event, h.id, h.value, (int)(len - 8),
                 (char *)guest_ptr(&g, at + 8, len - 8));
    return text;
}

/* Gives one buffer and takes the message that comes. */
static bool told(const char *want)
{
    struct guest_buf buf = {in_at + 2 * 4 * 1024, 128, true};
    const char *got;

    guest_add(&g, 2, &buf, 1);
    guest_kick(&g, 2);
    guest_settle(&g);
    got = message();
    return ok(!strcmp(got, want), "told \"%s\"%s%s", want, strcmp(got, want) ? ", not " : "",
              strcmp(got, want) ? got : "");
}

static void test_ports(void)
{
    struct chardev_front *f = host[1].c.front;

    begin(ALL);
    ok(g.features & BIT(VIRTIO_CONSOLE_F_MULTIPORT) && guest_config(&g, 4, 4) == 3, "three ports");
    control(UINT32_MAX, VIRTIO_CONSOLE_DEVICE_READY, 1);
    told("1 0 1 ");
    told("1 1 1 ");
    told("1 2 1 ");
    control(0, VIRTIO_CONSOLE_PORT_READY, 1);
    told("4 0 1 ");
    told("6 0 1 ");
    control(1, VIRTIO_CONSOLE_PORT_READY, 1);
    told("7 1 1 org.qemu.guest_agent.0");
    f->ops->connected(f, true);
    guest_settle(&g);
    told("6 1 1 ");
    virtio_console_resize(dev, 80, 25);
    told("5 0 1 80x25");
    give(4, 1, 64);
    ok(hear(&host[1], "{}") == 0, "the guest's side is closed: no room");
    host[1].wanted = 0;
    control(1, VIRTIO_CONSOLE_PORT_OPEN, 1);
    ok(host[1].wanted == 1 && hear(&host[1], "{\"execute\"}") == 11 && guest_used(&g, 4, NULL) >= 0,
       "open: in");
    host[1].len = 0;
    say(5, "{\"return\"}", 10);
    ok(host[1].len == 10 && !memcmp(host[1].text, "{\"return\"}", 10), "and out");
    f->ops->connected(f, false);
    guest_settle(&g);
    dev->type->pause(dev);
    dev->type->resume(dev);
    told("6 1 0 ");
    control(9, VIRTIO_CONSOLE_PORT_READY, 1);
    control(1, 99, 1);
    ok(guest_read(&g, g.common + VIRTIO_PCI_COMMON_STATUS, 1) == 15, "nonsense changes nothing");
    begin(ALL & ~BIT(VIRTIO_CONSOLE_F_MULTIPORT));
    host[0].len = 0;
    say(1, "plain", 5);
    ok(host[0].len == 5, "without MULTIPORT the console still works");
}

static void test_random(void)
{
    uint64_t random = 17;

    begin(ALL);
    for (unsigned i = 0; i < 3000; i++) {
        unsigned queue = guest_random(&random) % 8, n = 1 + guest_random(&random) % 3;
        struct guest_buf buf[3];
        uint8_t *p = guest_ptr(&g, out_at, 64);

        for (unsigned k = 0; k < 12; k++)
            p[k] = (uint8_t)(guest_random(&random) % 9);
        put_le32(p, (uint32_t)(guest_random(&random) % 4));
        p[5] = p[7] = 0;
        for (unsigned k = 0; k < n; k++)
            buf[k] = (struct guest_buf){out_at + 64 * (k + 1) * (queue != 3),
                                        (uint32_t)(guest_random(&random) % 64), queue % 2 == 0};
        g.heap = out_at + 128 * KiB;
        if (guest_add(&g, queue, buf, n) < 0)
            begin(i & 1 ? ALL : 0);
        guest_kick(&g, queue);
        hear(&host[i % 3], "some bytes");
        host[i % 3].room = guest_random(&random) % 100;
        host[i % 3].len = 0;
        host[i % 3].c.front->ops->writable(host[i % 3].c.front);
        host[1].c.front->ops->connected(host[1].c.front, i & 4);
    }
    ok(guest_reset(&g), "3000 random chains");
}

int main(void)
{
    struct device *fresh, *bare;

    log_setup("test", LOG_ERROR);
    if (!ok(guest_open(&g), "machine"))
        return tap_done();
    dev = guest_attach(&g, console_new("console0", 0));
    ok(guest_probe(&g, guest_slot(dev)) && !(g.features & BIT(VIRTIO_CONSOLE_F_MULTIPORT)),
       "found");
    test_console(0, "split");
    test_console(BIT(VIRTIO_F_RING_PACKED), "packed");
    test_console(ALL, "everything");
    test_full();
    test_size();
    device_free(dev);
    dev = guest_attach(&g, console_new("ports0", 2));
    guest_probe(&g, guest_slot(dev));
    test_ports();
    ok(guest_check_registers(&g, dev, 4, 20000), "20000 random register accesses do no harm");
    test_random();
    begin(ALL);
    control(UINT32_MAX, VIRTIO_CONSOLE_DEVICE_READY, 1);
    told("1 0 1 ");
    fresh = guest_attach(&g, console_new("ports1", 2));
    ok(guest_check_state(&g, dev, fresh),
       "state: saved, restored, saved again; cut streams are refused");
    device_free(dev);
    dev = fresh;
    guest_settle(&g);
    told("1 1 1 ");
    device_free(dev);
    bare = virtio_console_new("bare", NULL);
    dev = guest_attach(&g, bare);
    guest_probe(&g, guest_slot(dev));
    begin(ALL);
    say(1, "to nobody", 9);
    ok(guest_used(&g, 1, NULL) >= 0, "a console without a host side swallows");
    guest_close(&g);
    return tap_done();
}
