/* SPDX-License-Identifier: MIT */
/* The two things on the end of the i8042's cables: a keyboard and a mouse that answer commands. */
#ifndef HULL_DEV_PS2_H
#define HULL_DEV_PS2_H

#include "field/field.h"

#define PS2_QUEUE 32

struct ps2 {
    bool mouse;
    bool scanning;                            /* sends events on its own */
    uint8_t expect;                           /* the command whose parameter comes next; 0: none */
    uint8_t rate, resolution, leds, scan_set; /* settings that commands read back */
    bool wrap, remote, scaling;
    uint8_t knock[2]; /* the last two sample rates: 200, 100, 80 turns on the wheel */
    bool wheel;
    uint8_t queue[PS2_QUEUE], head, count; /* bytes for the host */
};

extern const struct field ps2_state[];

void ps2_reset(struct ps2 *p, bool mouse);
void ps2_write(struct ps2 *p, uint8_t byte); /* from the host */
uint8_t ps2_pop(struct ps2 *p);              /* count > 0 */

#endif
