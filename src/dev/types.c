/* SPDX-License-Identifier: MIT */
/* The list of device types, and the standard board made of them. */
#include "dev/types.h"

const struct device_type *const device_types[] = {
    &irqchip_type, &pic_type,      &ioapic_type,    &hostbridge_type, &pm_type,
    &lpc_type,     &pit_type,      &rtc_type,       &hpet_type,       &i8042_type,
    &uart_type,    &debugcon_type, &debugexit_type, &pvpanic_type,    NULL,
};

static bool wanted(const struct device_type *t, const struct board_parts *parts)
{
    if (t == &hpet_type)
        return !parts->no_hpet;
    if (t == &i8042_type)
        return !parts->no_i8042;
    if (t == &pvpanic_type)
        return !parts->no_pvpanic;
    if (t == &debugexit_type)
        return parts->debug_exit;
    return t != &uart_type && t != &debugcon_type; /* those are made with their streams */
}

bool board_attach(struct board *board, const struct board_parts *parts, struct err *err)
{
    for (const struct device_type *const *t = device_types; *t; t++)
        if (wanted(*t, parts) && !device_attach(board, device_new(*t, (*t)->name), err))
            return false;
    for (unsigned i = 0; i < BOARD_UARTS; i++)
        if (parts->serial[i] && !device_attach(board, uart_new(i, parts->serial[i]), err))
            return false;
    return !parts->debugcon || device_attach(board, debugcon_new(parts->debugcon), err);
}
