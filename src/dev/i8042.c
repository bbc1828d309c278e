/* SPDX-License-Identifier: MIT */
/* The i8042 keyboard controller: ports 0x60 and 0x64, IRQ 1 (keyboard) and 12 (mouse), the reset
 * line.
 *
 * One byte at a time stands in the output buffer. It comes from the controller's own answer, else
 * from the keyboard or the mouse whose clock is on; reading it lets the next one in. */
#include "dev/ps2.h"
#include "dev/types.h"

#include <errno.h>

enum { /* status register */
       STAT_OUTPUT = 0x01,
       STAT_SYSTEM = 0x04,
       STAT_COMMAND = 0x08,
       STAT_UNLOCKED = 0x10,
       STAT_MOUSE = 0x20,
};

enum { /* command byte */
       MODE_KBD_IRQ = 0x01,
       MODE_MOUSE_IRQ = 0x02,
       MODE_SYSTEM = 0x04,
       MODE_KBD_OFF = 0x10,
       MODE_MOUSE_OFF = 0x20,
       MODE_TRANSLATE = 0x40, /* keyboard's set 2 codes to set 1, as PC software expects */
};

enum { PORT_RESET = 0x01, PORT_A20 = 0x02 }; /* output port; reset is active low */

enum source { FROM_NONE, FROM_CONTROLLER, FROM_KEYBOARD, FROM_MOUSE };

struct i8042 {
    struct device dev;
    struct region data, control;
    struct ps2 keyboard, mouse;
    uint8_t mode, port;
    uint8_t expect; /* the controller command whose parameter comes next; 0: none */
    bool last_was_command;
    uint8_t output, source; /* the buffer and who filled it: enum source */
    uint8_t answer;         /* the controller's, waiting for the buffer */
    uint8_t answer_source;  /* FROM_NONE: no answer waits */
    uint8_t ram[32];        /* byte 0 is `mode` */
};

static struct i8042 *i8042_of(struct device *dev)
{
    return container_of(dev, struct i8042, dev);
}

/* The keyboard only answers commands yet, so of the translation table just its id byte is needed.
 */
static uint8_t keyboard_byte(struct i8042 *c)
{
    uint8_t byte = ps2_pop(&c->keyboard);

    return (c->mode & MODE_TRANSLATE) && byte == 0x83 ? 0x41 : byte;
}

/* Fills the output buffer if it is empty, and sets both interrupt lines from it. */
static void i8042_update(struct i8042 *c)
{
    if (c->source == FROM_NONE && c->answer_source != FROM_NONE) {
        c->output = c->answer;
        c->source = c->answer_source;
        c->answer_source = FROM_NONE;
    } else if (c->source == FROM_NONE && c->keyboard.count && !(c->mode & MODE_KBD_OFF)) {
        c->output = keyboard_byte(c);
        c->source = FROM_KEYBOARD;
    } else if (c->source == FROM_NONE && c->mouse.count && !(c->mode & MODE_MOUSE_OFF)) {
        c->output = ps2_pop(&c->mouse);
        c->source = FROM_MOUSE;
    }
    board_irq(c->dev.board, 1, c->source && c->source != FROM_MOUSE && (c->mode & MODE_KBD_IRQ));
    board_irq(c->dev.board, 12, c->source == FROM_MOUSE && (c->mode & MODE_MOUSE_IRQ));
}

static void i8042_answer(struct i8042 *c, uint8_t byte, enum source source)
{
    c->answer = byte;
    c->answer_source = (uint8_t)source;
    c->source = FROM_NONE; /* the controller's answer replaces what was not read */
}

static void i8042_reset_pulse(struct i8042 *c)
{
    board_power(c->dev.board, POWER_RESET, 0);
}

static void i8042_port(struct i8042 *c, uint8_t value)
{
    if (!(value & PORT_RESET))
        i8042_reset_pulse(c);
    c->port = value | PORT_RESET; /* A20 is only remembered: it is never masked */
}

/* ---- port 0x64 ---- */

static void i8042_command(struct i8042 *c, uint8_t value)
{
    c->expect = 0;
    c->last_was_command = true;
    switch (value) {
    case 0xa7: c->mode |= MODE_MOUSE_OFF; break;
    case 0xa8: c->mode &= (uint8_t)~MODE_MOUSE_OFF; break;
    case 0xa9:
    case 0xab: i8042_answer(c, 0x00, FROM_CONTROLLER); break; /* both lines are well */
    case 0xaa:
        c->mode |= MODE_SYSTEM;
        i8042_answer(c, 0x55, FROM_CONTROLLER);
        break;
    case 0xad: c->mode |= MODE_KBD_OFF; break;
    case 0xae: c->mode &= (uint8_t)~MODE_KBD_OFF; break;
    case 0xc0: i8042_answer(c, 0x80, FROM_CONTROLLER); break; /* input port: not locked */
    case 0xd0: i8042_answer(c, c->port, FROM_CONTROLLER); break;
    case 0xd1:
    case 0xd2:
    case 0xd3:
    case 0xd4: c->expect = value; break;
    case 0xdd: c->port &= (uint8_t)~PORT_A20; break;
    case 0xdf: c->port |= PORT_A20; break;
    default:
        if (value >= 0x20 && value < 0x40)
            i8042_answer(c, value == 0x20 ? c->mode : c->ram[value & 31], FROM_CONTROLLER);
        else if (value >= 0x60 && value < 0x80)
            c->expect = value;
        else if (value >= 0xf0 && !(value & 1)) /* pulses the output bits that are 0 */
            i8042_reset_pulse(c);
    }
    i8042_update(c);
}

static uint64_t control_read(void *dev, uint64_t offset, unsigned size)
{
    struct i8042 *c = dev;

    return STAT_UNLOCKED | (c->source ? STAT_OUTPUT : 0u) |
           (c->source == FROM_MOUSE ? STAT_MOUSE : 0u) |
           (c->mode & MODE_SYSTEM ? STAT_SYSTEM : 0u) | (c->last_was_command ? STAT_COMMAND : 0u);
}

static void control_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    i8042_command(dev, (uint8_t)value);
}

/* ---- port 0x60 ---- */

static uint64_t data_read(void *dev, uint64_t offset, unsigned size)
{
    struct i8042 *c = dev;
    uint8_t byte = c->output;

    if (c->source) {
        c->source = FROM_NONE;
        /* lines fall first, so that the next byte makes an edge */
        board_irq(c->dev.board, 1, false);
        board_irq(c->dev.board, 12, false);
        i8042_update(c);
    }
    return byte;
}

static void data_write(void *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct i8042 *c = dev;
    uint8_t byte = (uint8_t)value, expect = c->expect;

    c->expect = 0;
    c->last_was_command = false;
    switch (expect) {
    case 0:
        c->mode &= (uint8_t)~MODE_KBD_OFF; /* writing to the keyboard turns its clock on */
        ps2_write(&c->keyboard, byte);
        break;
    case 0xd1: i8042_port(c, byte); break;
    case 0xd2: i8042_answer(c, byte, FROM_KEYBOARD); break;
    case 0xd3: i8042_answer(c, byte, FROM_MOUSE); break;
    case 0xd4: ps2_write(&c->mouse, byte); break;
    case 0x60: c->mode = byte; break;
    default: c->ram[expect & 31] = byte; break;
    }
    i8042_update(c);
}

static const struct region_ops control_ops = {control_read, control_write, 1, 1};
static const struct region_ops data_ops = {data_read, data_write, 1, 1};

/* ---- the device ---- */

static void i8042_reset(struct device *dev)
{
    struct i8042 *c = i8042_of(dev);

    pthread_mutex_lock(&dev->lock);
    ps2_reset(&c->keyboard, false);
    ps2_reset(&c->mouse, true);
    c->mode =
        MODE_KBD_IRQ | MODE_SYSTEM | MODE_MOUSE_OFF | MODE_TRANSLATE; /* as firmware leaves it */
    c->port = PORT_RESET | PORT_A20;
    c->expect = c->output = c->source = c->answer = c->answer_source = 0;
    c->last_was_command = false;
    memset(c->ram, 0, sizeof c->ram);
    i8042_update(c);
    pthread_mutex_unlock(&dev->lock);
}

static bool i8042_attach(struct device *dev, struct board *board, struct err *err)
{
    struct i8042 *c = i8042_of(dev);

    c->data = (struct region){"i8042-data", 0x60, 1, &data_ops, c, &dev->lock};
    c->control = (struct region){"i8042-control", 0x64, 1, &control_ops, c, &dev->lock};
    i8042_reset(dev);
    return bus_add(board->pio, &c->data, err) && bus_add(board->pio, &c->control, err);
}

static void i8042_detach(struct device *dev)
{
    bus_remove(dev->board->pio, &i8042_of(dev)->data);
    bus_remove(dev->board->pio, &i8042_of(dev)->control);
}

static bool i8042_restored(struct device *dev, struct err *err)
{
    struct i8042 *c = i8042_of(dev);

    if (c->keyboard.mouse || !c->mouse.mouse)
        return err_set(err, EINVAL, "keyboard and mouse are exchanged");
    pthread_mutex_lock(&dev->lock);
    i8042_update(c);
    pthread_mutex_unlock(&dev->lock);
    return true;
}

/* clang-format off */
static const struct field i8042_state[] = {
    FIELD_TABLE(struct i8042, keyboard, ps2_state),
    FIELD_TABLE(struct i8042, mouse, ps2_state),
    FIELD(struct i8042, mode, 0xff),
    FIELD(struct i8042, port, 0xff),
    FIELD(struct i8042, expect, 0xff),
    FIELD(struct i8042, last_was_command, 1),
    FIELD(struct i8042, output, 0xff),
    FIELD(struct i8042, source, FROM_MOUSE),
    FIELD(struct i8042, answer, 0xff),
    FIELD(struct i8042, answer_source, FROM_MOUSE),
    FIELD_BYTES(struct i8042, ram),
    {0},
};
/* clang-format on */

const struct device_type i8042_type = {
    .name = "i8042",
    .size = sizeof(struct i8042),
    .state = i8042_state,
    .state_version = 1,
    .attach = i8042_attach,
    .reset = i8042_reset,
    .restored = i8042_restored,
    .detach = i8042_detach,
};
