/* SPDX-License-Identifier: MIT */
/* All device types of the board, and what the machine must say to make one of each. */
#ifndef HULL_DEV_TYPES_H
#define HULL_DEV_TYPES_H

#include "bus/device.h"
#include "dev/chardev.h"

extern const struct device_type irqchip_type, pic_type, ioapic_type, pit_type, rtc_type, hpet_type,
    hostbridge_type, lpc_type, pm_type, uart_type, i8042_type, debugcon_type, debugexit_type,
    pvpanic_type;

/* NULL-terminated, in the order in which they must be attached. */
extern const struct device_type *const device_types[];

#define BOARD_UARTS 4

struct board_parts {                     /* zeroed: the bare board of a direct-booted machine */
    struct chardev *serial[BOARD_UARTS]; /* lent; NULL: no such UART */
    struct chardev *debugcon;            /* lent; NULL: none */
    bool no_hpet, no_i8042, no_pvpanic;
    bool debug_exit;
};

/* Attaches the whole board in the right order. On failure what was attached stays for board_close.
 */
bool board_attach(struct board *board, const struct board_parts *parts, struct err *err);

/* The human presses the power button: an ACPI event. False if the guest has no ear for it. */
bool pm_power_button(struct board *board);
/* Raises general-purpose event `n` (0-63), for hot-plug and the like. */
void pm_gpe(struct board *board, unsigned n);

/* Before attach: the stream and place of a UART (index 0-3: COM1-COM4) or debug console. */
struct device *uart_new(unsigned index, struct chardev *chardev);
struct device *debugcon_new(struct chardev *chardev);

#endif
