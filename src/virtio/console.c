/* SPDX-License-Identifier: MIT */
/* virtio-console (virtio 1.2, 5.3): a console and named ports over chardevs.
 *
 *   guest -> host   chain -> port's out buffer -> chardev    full: the queue waits until writable()
 *   host -> guest   chardev asks for room -> a chain is filled; no chain or port closed: no room
 *
 * With ports besides the console the MULTIPORT feature is offered, and a pair of control queues
 * says what exists and what is open. What the guest still has to be told is a set of flags for each
 * port, not a queue of messages, so nothing grows while the guest offers no buffers.
 *
 * The order of columns and rows in the RESIZE message differs between kernels before and
 * after 6.15, so a machine does best to put its console into a device of its own: without MULTIPORT
 * the size lies in the configuration, where all agree. */
#include "dev/chardev.h"
#include "virtio/devices.h"
#include <errno.h>
#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>

enum {
    PORTS_MAX = 17,      /* the console is port 0, named ports follow */
    OUT_MAX = 64 * 1024, /* drivers send less than this at once */
    NAME_MAX_LEN = 64,
    CONTROL_RX = 2,
    CONTROL_TX = 3,
};

enum {
    TELL_ADD = 1,
    TELL_CONSOLE = 2,
    TELL_NAME = 4,
    TELL_SIZE = 8,
    TELL_OPEN = 16,
    TELL_ALL = 31
};

struct virtio_console;

struct port {
    struct virtio_console *console;
    struct chardev *chardev; /* the caller's; NULL: no such port */
    struct chardev_front front;
    char name[NAME_MAX_LEN];
    bool ready, guest_open;    /* said by the guest */
    bool host_open, told_open; /* the host's side, and what the guest knows of it */
    uint8_t tell;              /* TELL_*: to be said to the guest */
    struct chain *chain;       /* one longer than `out`, partly read */
    uint32_t out_at, out_end;  /* bytes [at, end) of `out` wait for the chardev */
    uint8_t *out;
};

struct virtio_console {
    struct virtio v;
    struct port port[PORTS_MAX];
    uint16_t count; /* up to the last port that exists */
    uint16_t columns, rows;
};

static struct virtio_console *console_of(struct virtio *v)
{
    return container_of(v, struct virtio_console, v);
}

static unsigned port_number(const struct port *p)
{
    return (unsigned)(p - p->console->port);
}

static unsigned rx_index(const struct port *p)
{
    return port_number(p) ? 2 * port_number(p) + 2 : 0;
}

static bool is_console(const struct port *p)
{
    return port_number(p) == 0;
}

static bool multiport(const struct virtio_console *c)
{
    return virtio_has(&c->v, VIRTIO_CONSOLE_F_MULTIPORT);
}

/* ---- guest to host ---- */

/* Gives the chardev what is in `out`. False: it is full and writable() will come. */
static bool out_flush(struct port *p)
{
    p->out_at += (uint32_t)chardev_write(p->chardev, p->out + p->out_at, p->out_end - p->out_at);
    return p->out_at == p->out_end;
}

static void out_kick(struct port *p, struct queue *q)
{
    while (p->out_at == p->out_end || out_flush(p)) {
        size_t part;

        if (!p->chain)
            p->chain = queue_next(q);
        if (!p->chain)
            return;
        part = min_size(chain_left(p->chain), OUT_MAX);
        chain_read(p->chain, p->out, part);
        p->out_at = 0;
        p->out_end = (uint32_t)part;
        if (!chain_left(p->chain)) {
            chain_finish(p->chain);
            p->chain = NULL;
        }
    }
}

/* The rest of an over-long chain is lost: only a driver that sends more than OUT_MAX at once, to a
 * reader that does not read, across a pause or reset, has one. */
static void out_drop(struct port *p)
{
    if (!p->chain)
        return;
    log_guest(&p->console->v.dev.limit, "%s: port %u: %zu bytes are lost", p->console->v.dev.id,
              port_number(p), chain_left(p->chain));
    chain_finish(p->chain);
    p->chain = NULL;
}

static void front_writable(struct chardev_front *f)
{
    struct port *p = container_of(f, struct port, front);

    if (out_flush(p))
        virtio_kick(&p->console->v, rx_index(p) + 1);
}

/* ---- host to guest ---- */

static struct queue *rx_queue(struct port *p)
{
    return &p->console->v.queue[rx_index(p)].q;
}

static size_t front_room(struct chardev_front *f)
{
    struct port *p = container_of(f, struct port, front);
    struct chain *c;
    size_t room;

    if (p->console->v.life != VIRTIO_RUNNING || !(p->guest_open || is_console(p)))
        return 0;
    c = queue_next(rx_queue(p));
    if (!c)
        return 0;
    room = chain_room(c);
    chain_putback(c);
    return room;
}

/* A guest that changes the chain between room and here loses what does not fit. */
static void front_receive(struct chardev_front *f, const uint8_t *bytes, size_t len)
{
    struct port *p = container_of(f, struct port, front);
    struct chain *c = queue_next(rx_queue(p));

    if (!c)
        return;
    chain_write(c, bytes, min_size(len, chain_room(c)));
    chain_finish(c);
}

/* ---- control queues ---- */

static bool tell(struct port *p, struct queue *q, uint16_t event, uint16_t value, const void *more,
                 size_t len)
{
    struct virtio_console_control h = {.id = port_number(p), .event = event, .value = value};
    struct chain *c = queue_next(q);

    if (!c)
        return false;
    if (chain_write(c, &h, sizeof h))
        chain_write(c, more, min_size(len, chain_room(c)));
    chain_finish(c);
    return true;
}

static bool tell_one(struct port *p, struct queue *q, uint8_t what)
{
    uint16_t size[2] = {p->console->columns, p->console->rows};

    switch (what) {
    case TELL_ADD: return tell(p, q, VIRTIO_CONSOLE_PORT_ADD, 1, NULL, 0);
    case TELL_CONSOLE: return tell(p, q, VIRTIO_CONSOLE_CONSOLE_PORT, 1, NULL, 0);
    case TELL_NAME: return tell(p, q, VIRTIO_CONSOLE_PORT_NAME, 1, p->name, strlen(p->name) + 1);
    case TELL_SIZE: return tell(p, q, VIRTIO_CONSOLE_RESIZE, 1, size, sizeof size);
    case TELL_OPEN:
        if (!tell(p, q, VIRTIO_CONSOLE_PORT_OPEN, p->host_open, NULL, 0))
            return false;
        p->told_open = p->host_open;
        return true;
    default: return true;
    }
}

/* Says what there is to say, for as long as the guest offers buffers. */
static void control_flush(struct virtio_console *c)
{
    struct queue *q = &c->v.queue[CONTROL_RX].q;

    if (c->v.life != VIRTIO_RUNNING || !multiport(c))
        return;
    for (unsigned i = 0; i < c->count; i++) {
        struct port *p = &c->port[i];

        for (uint8_t bit = TELL_ADD; bit <= TELL_OPEN; bit = (uint8_t)(bit << 1)) {
            if (!(p->tell & bit) || (bit != TELL_ADD && !p->ready))
                continue;
            if (!tell_one(p, q, bit))
                return;
            p->tell &= (uint8_t)~bit;
        }
    }
}

static void control_message(struct virtio_console *c, const struct virtio_console_control *h)
{
    struct port *p = h->id < c->count ? &c->port[h->id] : NULL;

    if (h->event == VIRTIO_CONSOLE_DEVICE_READY) {
        for (unsigned i = 0; i < c->count; i++)
            if (c->port[i].chardev && h->value == 1)
                c->port[i].tell |= TELL_ADD;
        return;
    }
    if (!p || !p->chardev)
        return;
    if (h->event == VIRTIO_CONSOLE_PORT_READY && h->value == 1) {
        p->ready = true;
        p->tell |= is_console(p) ? TELL_CONSOLE | TELL_OPEN : TELL_NAME;
        if (is_console(p) && c->columns && c->rows)
            p->tell |= TELL_SIZE;
        if (p->host_open)
            p->tell |= TELL_OPEN;
    } else if (h->event == VIRTIO_CONSOLE_PORT_OPEN) {
        p->guest_open = h->value != 0;
        if (p->guest_open)
            chardev_wanted(p->chardev);
    }
}

static void control_kick(struct virtio_console *c, struct queue *q)
{
    struct virtio_console_control h;
    struct chain *chain;

    while ((chain = queue_next(q)) != NULL) {
        if (chain_read(chain, &h, sizeof h))
            control_message(c, &h);
        chain_finish(chain);
    }
    control_flush(c);
}

static void front_connected(struct chardev_front *f, bool yes)
{
    struct port *p = container_of(f, struct port, front);

    p->host_open = yes || is_console(p);
    if (p->ready && p->host_open != p->told_open)
        p->tell |= TELL_OPEN;
    control_flush(p->console);
}

void virtio_console_resize(struct device *dev, uint16_t columns, uint16_t rows)
{
    struct virtio_console *c = dev ? container_of(dev, struct virtio_console, v.dev) : NULL;
    uint16_t size[2] = {columns, rows};

    if (!c || (c->columns == columns && c->rows == rows))
        return;
    c->columns = columns;
    c->rows = rows;
    virtio_config_set(&c->v, 0, size, sizeof size, true);
    if (c->port[0].ready)
        c->port[0].tell |= TELL_SIZE;
    control_flush(c);
}

/* ---- life ---- */

/* A console without a host side: what the guest says vanishes, so that it does not wait for ever.
 */
static void out_vanish(struct queue *q)
{
    struct chain *c;

    while ((c = queue_next(q)) != NULL)
        chain_finish(c);
}

static void console_kick(struct virtio *v, struct queue *q)
{
    struct virtio_console *c = console_of(v);
    unsigned number = q->index < 2 ? 0 : q->index / 2u - 1;

    if (q->index == CONTROL_RX)
        control_flush(c);
    else if (q->index == CONTROL_TX)
        control_kick(c, q);
    else if (number < c->count && q->index % 2)
        c->port[number].chardev ? out_kick(&c->port[number], q) : out_vanish(q);
    else if (number < c->count && c->port[number].chardev)
        chardev_wanted(c->port[number].chardev);
}

static bool console_start(struct virtio *v, uint64_t features, struct err *err)
{
    return true;
}

static void console_pause(struct virtio *v)
{
    for (unsigned i = 0; i < console_of(v)->count; i++)
        out_drop(&console_of(v)->port[i]);
}

static void console_queue_stop(struct virtio *v, struct queue *q)
{
    for (unsigned i = 0; i < console_of(v)->count; i++)
        if (console_of(v)->port[i].chain && console_of(v)->port[i].chain->q == q)
            out_drop(&console_of(v)->port[i]);
}

static void console_stop(struct virtio *v)
{
    console_pause(v);
    for (unsigned i = 0; i < console_of(v)->count; i++) {
        struct port *p = &console_of(v)->port[i];

        p->ready = p->guest_open = p->told_open = false;
        p->tell = 0;
    }
}

/* The other side may have come or gone while the guest stood still, or since it was saved. */
static void console_resume(struct virtio *v)
{
    struct virtio_console *c = console_of(v);

    for (unsigned i = 0; i < c->count; i++) {
        struct port *p = &c->port[i];

        if (p->ready && p->host_open != p->told_open)
            p->tell |= TELL_OPEN;
    }
    control_flush(c);
}

static const struct virtio_ops console_ops = {
    .id = VIRTIO_ID_CONSOLE,
    .queue_size = 64,
    .class_code = 0x078000,
    .start = console_start,
    .kick = console_kick,
    .stop = console_stop,
    .queue_stop = console_queue_stop,
    .pause = console_pause,
    .resume = console_resume,
};

static const struct chardev_front_ops front_ops = {front_room, front_receive, front_writable,
                                                   front_connected};

static bool console_attach(struct device *dev, struct board *board, struct err *err)
{
    struct virtio_console *c = container_of(dev, struct virtio_console, v.dev);
    struct virtio_console_config *config = (struct virtio_console_config *)c->v.config;

    for (unsigned i = 0; i < c->count; i++) {
        if (!c->port[i].chardev)
            continue;
        c->port[i].out = malloc(OUT_MAX);
        if (!c->port[i].out)
            return err_set(err, ENOMEM, "no memory for a port's buffer");
    }
    config->cols = c->columns;
    config->rows = c->rows;
    config->max_nr_ports = c->count;
    c->v.config_len = offsetof(struct virtio_console_config, emerg_wr);
    c->v.offered = BIT(VIRTIO_CONSOLE_F_SIZE);
    c->v.queue_count = 2;
    if (c->count > 1) {
        c->v.offered |= BIT(VIRTIO_CONSOLE_F_MULTIPORT);
        c->v.queue_count = (uint16_t)(2 * c->count + 2);
    }
    if (!virtio_pci_attach(&c->v, board, &console_ops, -1, err))
        return false;
    for (unsigned i = 0; i < c->count; i++)
        if (c->port[i].chardev)
            chardev_set_front(c->port[i].chardev, &c->port[i].front);
    return true;
}

static void console_detach(struct device *dev)
{
    struct virtio_console *c = container_of(dev, struct virtio_console, v.dev);

    for (unsigned i = 0; i < c->count; i++) {
        struct port *p = &c->port[i];

        if (p->chardev && p->chardev->front == &p->front)
            chardev_set_front(p->chardev, NULL);
    }
    virtio_detach(dev);
    for (unsigned i = 0; i < c->count; i++) {
        free(c->port[i].out);
        c->port[i].out = NULL;
    }
}

static const struct field port_state[] = {
    FIELD(struct port, ready, 1),
    FIELD(struct port, guest_open, 1),
    FIELD(struct port, told_open, 1),
    FIELD(struct port, tell, TELL_ALL),
    {0},
};

static const struct field console_state[] = {
    FIELD_TABLE(struct virtio_console, v, virtio_state),
    FIELD_TABLES(struct virtio_console, port, port_state),
    {0},
};

const struct device_type virtio_console_type = {
    .name = "virtio-console",
    .size = sizeof(struct virtio_console),
    .state = console_state,
    .state_version = 1,
    .attach = console_attach,
    .reset = virtio_reset,
    .pause = virtio_pause,
    .resume = virtio_resume,
    .restored = virtio_restored,
    .detach = console_detach,
};

static void port_open(struct virtio_console *c, unsigned number, struct chardev *chardev)
{
    struct port *p = &c->port[number];

    p->console = c;
    p->chardev = chardev;
    p->front.ops = &front_ops;
    p->host_open = number == 0;
}

struct device *virtio_console_new(const char *id, struct chardev *console)
{
    struct device *dev = device_new(&virtio_console_type, id);
    struct virtio_console *c;

    if (!dev)
        return NULL;
    c = container_of(dev, struct virtio_console, v.dev);
    c->count = 1;
    port_open(c, 0, console);
    return dev;
}

bool virtio_console_add_port(struct device *dev, const char *name, struct chardev *chardev,
                             struct err *err)
{
    struct virtio_console *c = container_of(dev, struct virtio_console, v.dev);

    if (c->count == PORTS_MAX)
        return err_set(err, ENOSPC, "port %s: there are %d already", name, PORTS_MAX - 1);
    if (!*name || strlen(name) >= NAME_MAX_LEN)
        return err_set(err, EINVAL, "port name \"%.80s\": 1 to %d bytes", name, NAME_MAX_LEN - 1);
    snprintf(c->port[c->count].name, NAME_MAX_LEN, "%s", name);
    port_open(c, c->count, chardev);
    c->count++;
    return true;
}
