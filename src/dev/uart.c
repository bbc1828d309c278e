/* SPDX-License-Identifier: MIT */
/* The 16550A UART, COM1 to COM4. National PC16550D data sheet.
 *
 * A byte written to the transmitter goes into an output buffer that the loop writes to the chardev;
 * while that is full, the transmitter is not empty, and the guest waits as it would for a slow
 * line. Input is taken only as the receive FIFO has room, so the host's end waits too. The line has
 * no speed: bytes arrive at once, and so does the FIFO's timeout interrupt. */
#include "dev/types.h"

#include <errno.h>

#define FIFO_LEN 16

enum {
    IER_RX = 0x01,
    IER_TX = 0x02,
    IER_LINE = 0x04,
    IER_MODEM = 0x08,
    IIR_NONE = 0x01,
    IIR_MODEM = 0x00,
    IIR_TX = 0x02,
    IIR_RX = 0x04,
    IIR_LINE = 0x06,
    IIR_TIMEOUT = 0x0c,
    IIR_FIFO = 0xc0,
    FCR_ENABLE = 0x01,
    FCR_CLEAR_RX = 0x02,
    FCR_CLEAR_TX = 0x04,
    LCR_DLAB = 0x80,
    MCR_DTR = 0x01,
    MCR_RTS = 0x02,
    MCR_OUT1 = 0x04,
    MCR_OUT2 = 0x08,
    MCR_LOOP = 0x10,
    LSR_DATA = 0x01,
    LSR_OVERRUN = 0x02,
    LSR_THRE = 0x20,
    LSR_EMPTY = 0x40,
    MSR_CTS = 0x10,
    MSR_DSR = 0x20,
    MSR_RI = 0x40,
    MSR_DCD = 0x80,
};

struct uart {
    struct device dev;
    struct region ports;
    struct chardev_front front;
    struct chardev_out out;
    struct call wanted; /* tells the chardev, in the loop, that the FIFO has room */
    uint8_t index;
    uint8_t ier, fcr, lcr, mcr, scratch;
    uint16_t divisor;
    uint8_t errors;  /* LSR bits 1-4 */
    uint8_t msr;     /* lines and what changed */
    bool irq;        /* the line, as last driven */
    bool tx_pending; /* THRE interrupt not yet acknowledged */
    uint8_t rx[FIFO_LEN], rx_head, rx_count;
};

static const uint16_t uart_port[BOARD_UARTS] = {0x3f8, 0x2f8, 0x3e8, 0x2e8};
static const uint8_t uart_irq[BOARD_UARTS] = {4, 3, 4, 3};

static struct uart *uart_of(struct device *dev)
{
    return container_of(dev, struct uart, dev);
}

static unsigned rx_size(const struct uart *u)
{
    return u->fcr & FCR_ENABLE ? FIFO_LEN : 1;
}

static unsigned rx_trigger(const struct uart *u)
{
    static const uint8_t level[] = {1, 4, 8, 14};

    return u->fcr & FCR_ENABLE ? level[u->fcr >> 6] : 1;
}

/* ---- interrupts ---- */

/* The most urgent cause, as in the interrupt identification register. */
static uint8_t uart_cause(const struct uart *u)
{
    if ((u->ier & IER_LINE) && u->errors)
        return IIR_LINE;
    if ((u->ier & IER_RX) && u->rx_count)
        return u->rx_count >= rx_trigger(u) ? IIR_RX : IIR_TIMEOUT;
    if ((u->ier & IER_TX) && u->tx_pending)
        return IIR_TX;
    if ((u->ier & IER_MODEM) && (u->msr & 15))
        return IIR_MODEM;
    return IIR_NONE;
}

static void uart_update(struct uart *u)
{
    bool irq = uart_cause(u) != IIR_NONE;

    if (irq == u->irq)
        return; /* most accesses: spares the interrupt controllers' locks */
    u->irq = irq;
    board_irq(u->dev.board, uart_irq[u->index], irq);
}

static uint8_t uart_lsr(const struct uart *u)
{
    uint8_t lsr = u->errors | (u->rx_count ? LSR_DATA : 0);

    return chardev_out_full(&u->out) ? lsr : lsr | LSR_THRE | LSR_EMPTY;
}

/* ---- data ---- */

static void rx_push(struct uart *u, uint8_t byte)
{
    if (u->rx_count == rx_size(u)) { /* loopback only: the host's side asks for room first */
        u->errors |= LSR_OVERRUN;
        return;
    }
    u->rx[(u->rx_head + u->rx_count++) % FIFO_LEN] = byte;
}

static uint8_t rx_pop(struct uart *u)
{
    uint8_t byte = u->rx[u->rx_head];

    if (!u->rx_count)
        return 0;
    u->rx_head = (u->rx_head + 1) % FIFO_LEN;
    if (!--u->rx_count && u->out.chardev && u->dev.board->loop)
        loop_post(u->dev.board->loop, &u->wanted);
    return byte;
}

static void rx_clear(struct uart *u)
{
    u->rx_head = u->rx_count = 0;
    if (u->out.chardev && u->dev.board->loop)
        loop_post(u->dev.board->loop, &u->wanted);
}

static void tx(struct uart *u, uint8_t byte)
{
    if (u->mcr & MCR_LOOP)
        rx_push(u, byte);
    else
        chardev_out_put(&u->out, byte);
    u->tx_pending = !chardev_out_full(&u->out); /* empty again at once, unless the host is slow */
}

static void uart_drained(struct chardev_out *o)
{
    struct uart *u = container_of(o, struct uart, out);

    if (o->count == 0)
        u->tx_pending = true;
    uart_update(u);
}

/* ---- modem lines ---- */

/* The other end is always there and ready; in loopback the outputs come back as inputs. */
static void uart_modem(struct uart *u)
{
    uint8_t lines = MSR_CTS | MSR_DSR | MSR_DCD, changed;

    if (u->mcr & MCR_LOOP)
        lines = (uint8_t)((u->mcr & MCR_RTS ? MSR_CTS : 0) | (u->mcr & MCR_DTR ? MSR_DSR : 0) |
                          (u->mcr & MCR_OUT1 ? MSR_RI : 0) | (u->mcr & MCR_OUT2 ? MSR_DCD : 0));
    changed = (lines ^ u->msr) & 0xf0;
    if (lines & MSR_RI)
        changed &= (uint8_t)~MSR_RI; /* the ring bit tells of the trailing edge only */
    u->msr = (uint8_t)(lines | (u->msr & 15) | changed >> 4);
}

/* ---- registers ---- */

static void fcr_write(struct uart *u, uint8_t value)
{
    if ((value ^ u->fcr) & FCR_ENABLE)
        value |= FCR_CLEAR_RX | FCR_CLEAR_TX;
    u->fcr = value & FCR_ENABLE ? value & 0xc9 : 0;
    if (value & FCR_CLEAR_RX)
        rx_clear(u);
    if (value & FCR_CLEAR_TX)
        u->tx_pending = true; /* bytes under way are as good as sent */
}

static uint8_t iir_read(struct uart *u)
{
    uint8_t cause = uart_cause(u);

    if (cause == IIR_TX)
        u->tx_pending = false;
    return u->fcr & FCR_ENABLE ? cause | IIR_FIFO : cause;
}

static uint64_t uart_read(void *dev, uint64_t offset, unsigned size)
{
    struct uart *u = dev;
    uint8_t value = 0;

    switch (offset) {
    case 0: value = u->lcr & LCR_DLAB ? (uint8_t)u->divisor : rx_pop(u); break;
    case 1: value = u->lcr & LCR_DLAB ? u->divisor >> 8 : u->ier; break;
    case 2: value = iir_read(u); break;
    case 3: value = u->lcr; break;
    case 4: value = u->mcr; break;
    case 5:
        value = uart_lsr(u);
        u->errors = 0;
        break;
    case 6:
        value = u->msr;
        u->msr &= 0xf0;
        break;
    case 7: value = u->scratch; break;
    }
    uart_update(u);
    return value;
}

static void ier_write(struct uart *u, uint8_t value)
{
    /* Enabling the interrupt while the transmitter is empty raises it: drivers rely on this. */
    if ((value & ~u->ier & IER_TX) && !chardev_out_full(&u->out))
        u->tx_pending = true;
    u->ier = value & 0x0f;
}

static void uart_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct uart *u = dev;
    uint8_t byte = (uint8_t)value;

    switch (offset) {
    case 0:
        if (u->lcr & LCR_DLAB)
            u->divisor = (u->divisor & 0xff00) | byte;
        else
            tx(u, byte);
        break;
    case 1:
        if (u->lcr & LCR_DLAB)
            u->divisor = (uint16_t)((u->divisor & 0xff) | byte << 8);
        else
            ier_write(u, byte);
        break;
    case 2: fcr_write(u, byte); break;
    case 3: u->lcr = byte; break;
    case 4:
        u->mcr = byte & 0x1f;
        uart_modem(u);
        break;
    case 7: u->scratch = byte; break;
    }
    uart_update(u);
}

static const struct region_ops uart_ops = {uart_read, uart_write, 1, 1};

/* ---- the chardev's side, in the loop ---- */

static size_t uart_room(struct chardev_front *f)
{
    struct uart *u = container_of(f, struct uart, front);
    size_t room;

    pthread_mutex_lock(&u->dev.lock);
    room = u->mcr & MCR_LOOP || u->rx_count > rx_size(u) ? 0 : rx_size(u) - u->rx_count;
    pthread_mutex_unlock(&u->dev.lock);
    return room;
}

static void uart_receive(struct chardev_front *f, const uint8_t *bytes, size_t len)
{
    struct uart *u = container_of(f, struct uart, front);

    pthread_mutex_lock(&u->dev.lock);
    for (size_t i = 0; i < len; i++)
        rx_push(u, bytes[i]);
    uart_update(u);
    pthread_mutex_unlock(&u->dev.lock);
}

static void uart_writable(struct chardev_front *f)
{
    chardev_out_writable(&container_of(f, struct uart, front)->out);
}

static const struct chardev_front_ops uart_front_ops = {
    .room = uart_room,
    .receive = uart_receive,
    .writable = uart_writable,
};

static void uart_wanted(struct call *call)
{
    chardev_wanted(container_of(call, struct uart, wanted)->out.chardev);
}

/* ---- the device ---- */

struct device *uart_new(unsigned index, struct chardev *chardev)
{
    struct device *dev;
    char id[16];

    snprintf(id, sizeof id, "uart%u", index);
    dev = device_new(&uart_type, id);
    if (dev) {
        uart_of(dev)->index = index % BOARD_UARTS;
        uart_of(dev)->out.chardev = chardev;
    }
    return dev;
}

static void uart_reset(struct device *dev)
{
    struct uart *u = uart_of(dev);

    pthread_mutex_lock(&dev->lock);
    u->ier = u->fcr = u->lcr = u->mcr = u->scratch = u->errors = 0;
    u->divisor = 12; /* 9600 */
    u->tx_pending = false;
    rx_clear(u);
    uart_modem(u);
    u->msr &= 0xf0;
    uart_update(u);
    pthread_mutex_unlock(&dev->lock);
}

static bool uart_attach(struct device *dev, struct board *board, struct err *err)
{
    struct uart *u = uart_of(dev);

    u->front.ops = &uart_front_ops;
    u->wanted.run = uart_wanted;
    u->out.loop = board->loop;
    u->out.lock = &dev->lock;
    u->out.drained = uart_drained;
    chardev_out_open(&u->out);
    uart_reset(dev);
    u->ports = (struct region){"uart", uart_port[u->index], 8, &uart_ops, u, &dev->lock};
    if (!bus_add(board->pio, &u->ports, err))
        return false;
    if (u->out.chardev)
        chardev_set_front(u->out.chardev, &u->front);
    return true;
}

static void uart_detach(struct device *dev)
{
    struct uart *u = uart_of(dev);

    bus_remove(dev->board->pio, &u->ports);
    if (!u->out.chardev)
        return;
    chardev_out_close(&u->out);
    if (u->out.chardev->front == &u->front)
        chardev_set_front(u->out.chardev, NULL);
    if (dev->board->loop)
        loop_unpost(dev->board->loop, &u->wanted);
}

static bool uart_restored(struct device *dev, struct err *err)
{
    struct uart *u = uart_of(dev);

    if (u->rx_count > rx_size(u))
        return err_set(err, EINVAL, "%u bytes received without a FIFO", u->rx_count);
    pthread_mutex_lock(&dev->lock);
    u->irq = uart_cause(u) != IIR_NONE;
    board_irq(dev->board, uart_irq[u->index], u->irq);
    pthread_mutex_unlock(&dev->lock);
    chardev_out_writable(&u->out);
    return true;
}

/* clang-format off */
static const struct field out_state[] = { /* what the guest sent and the host has not taken */
    FIELD(struct chardev_out, head, CHARDEV_OUT_MAX - 1),
    FIELD(struct chardev_out, count, CHARDEV_OUT_MAX),
    FIELD_BYTES(struct chardev_out, ring),
    {0},
};

static const struct field uart_state[] = {
    FIELD(struct uart, ier, 0x0f),
    FIELD(struct uart, fcr, 0xff),
    FIELD(struct uart, lcr, 0xff),
    FIELD(struct uart, mcr, 0x1f),
    FIELD(struct uart, scratch, 0xff),
    FIELD(struct uart, divisor, 0xffff),
    FIELD(struct uart, errors, 0x1e),
    FIELD(struct uart, msr, 0xff),
    FIELD(struct uart, tx_pending, 1),
    FIELD_ARRAY(struct uart, rx, 0xff),
    FIELD(struct uart, rx_head, FIFO_LEN - 1),
    FIELD(struct uart, rx_count, FIFO_LEN),
    FIELD_TABLE(struct uart, out, out_state),
    {0},
};
/* clang-format on */

const struct device_type uart_type = {
    .name = "uart",
    .size = sizeof(struct uart),
    .state = uart_state,
    .state_version = 1,
    .attach = uart_attach,
    .reset = uart_reset,
    .restored = uart_restored,
    .detach = uart_detach,
};
