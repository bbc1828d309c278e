/* SPDX-License-Identifier: MIT */
/* Commands of a PS/2 keyboard and mouse: reset, identification and settings. No keys move yet.
 *
 * Each command is acknowledged, some with more bytes or with one parameter to come. A mouse becomes
 * a wheel mouse (id 3) after the sample rates 200, 100, 80. */
#include "dev/ps2.h"

enum { ACK = 0xfa, RESEND = 0xfe, SELF_TEST_OK = 0xaa };

static void push(struct ps2 *p, uint8_t byte)
{
    if (p->count < PS2_QUEUE)
        p->queue[(p->head + p->count++) % PS2_QUEUE] = byte;
}

uint8_t ps2_pop(struct ps2 *p)
{
    uint8_t byte = p->queue[p->head];

    p->head = (p->head + 1) % PS2_QUEUE;
    p->count--;
    return byte;
}

static void defaults(struct ps2 *p)
{
    p->scanning = !p->mouse;
    p->rate = 100;
    p->resolution = 2;
    p->leds = 0;
    p->scan_set = 2;
    p->remote = p->scaling = false;
}

void ps2_reset(struct ps2 *p, bool mouse)
{
    memset(p, 0, sizeof *p);
    p->mouse = mouse;
    defaults(p);
}

/* The parameter of the command in `expect`. */
static void parameter(struct ps2 *p, uint8_t byte)
{
    uint8_t command = p->expect;

    p->expect = 0;
    push(p, ACK);
    switch (command) {
    case 0xed: p->leds = byte & 7; break;
    case 0xf0:
        if (byte == 0)
            push(p, p->scan_set);
        else if (byte <= 3)
            p->scan_set = byte;
        break;
    case 0xe8: p->resolution = byte & 3; break;
    case 0xf3:
        if (p->mouse && byte == 80 && p->knock[0] == 200 && p->knock[1] == 100)
            p->wheel = true;
        p->knock[0] = p->knock[1];
        p->knock[1] = p->rate = byte;
        break;
    }
}

static void reset_command(struct ps2 *p)
{
    ps2_reset(p, p->mouse);
    push(p, ACK);
    push(p, SELF_TEST_OK);
    if (p->mouse)
        push(p, 0);
}

static void keyboard_command(struct ps2 *p, uint8_t byte)
{
    switch (byte) {
    case 0xed:
    case 0xf0:
    case 0xf3:
        p->expect = byte;
        push(p, ACK);
        break;
    case 0xee: push(p, 0xee); break; /* echo */
    case 0xf2:
        push(p, ACK);
        push(p, 0xab);
        push(p, 0x83);
        break;
    case 0xf4:
        p->scanning = true;
        push(p, ACK);
        break;
    case 0xf5:
    case 0xf6:
        defaults(p);
        p->scanning = byte == 0xf6;
        push(p, ACK);
        break;
    case 0xff: reset_command(p); break;
    default: push(p, RESEND);
    }
}

static void push_packet(struct ps2 *p) /* nothing moved, no button is down */
{
    push(p, 0x08);
    push(p, 0);
    push(p, 0);
    if (p->wheel)
        push(p, 0);
}

static void push_status(struct ps2 *p)
{
    push(p, (uint8_t)(p->remote << 6 | p->scanning << 5 | p->scaling << 4));
    push(p, p->resolution);
    push(p, p->rate);
}

static void mouse_command(struct ps2 *p, uint8_t byte)
{
    if (p->wrap && byte != 0xec && byte != 0xff) {
        push(p, byte);
        return;
    }
    if (byte == 0xff) {
        reset_command(p);
        return;
    }
    push(p, ACK);
    switch (byte) {
    case 0xe6:
    case 0xe7: p->scaling = byte == 0xe7; break;
    case 0xe8:
    case 0xf3: p->expect = byte; break;
    case 0xe9: push_status(p); break;
    case 0xea:
    case 0xf0: p->remote = byte == 0xf0; break;
    case 0xeb: push_packet(p); break;
    case 0xec:
    case 0xee: p->wrap = byte == 0xee; break;
    case 0xf2: push(p, p->wheel ? 3 : 0); break;
    case 0xf4:
    case 0xf5: p->scanning = byte == 0xf4; break;
    case 0xf6: defaults(p); break;
    default:
        p->count--; /* not acknowledged after all */
        push(p, RESEND);
    }
}

void ps2_write(struct ps2 *p, uint8_t byte)
{
    p->head = p->count = 0; /* a command ends what was being sent */
    if (p->expect)
        parameter(p, byte);
    else if (p->mouse)
        mouse_command(p, byte);
    else
        keyboard_command(p, byte);
}

/* clang-format off */
const struct field ps2_state[] = {
    FIELD(struct ps2, mouse, 1),
    FIELD(struct ps2, scanning, 1),
    FIELD(struct ps2, expect, 0xff),
    FIELD(struct ps2, rate, 0xff),
    FIELD(struct ps2, resolution, 3),
    FIELD(struct ps2, leds, 7),
    FIELD(struct ps2, scan_set, 3),
    FIELD(struct ps2, wrap, 1),
    FIELD(struct ps2, remote, 1),
    FIELD(struct ps2, scaling, 1),
    FIELD_ARRAY(struct ps2, knock, 0xff),
    FIELD(struct ps2, wheel, 1),
    FIELD_ARRAY(struct ps2, queue, 0xff),
    FIELD(struct ps2, head, PS2_QUEUE - 1),
    FIELD(struct ps2, count, PS2_QUEUE),
    {0},
};
/* clang-format on */
