/* SPDX-License-Identifier: MIT */
/* What the 64-bit state images share. */
#ifndef HULL_GUEST_LONG_H
#define HULL_GUEST_LONG_H

#include "../lib64.h"
#include "state.h"

void long_set_up(void);     /* tables, ring 3's pages, FPU */
void note_trap(int vector); /* the frame in `trap` */

extern const struct state_case cases_modes[], cases_system[], cases_interrupts[], cases_end[];

#endif
