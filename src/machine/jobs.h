/* SPDX-License-Identifier: MIT */
/* The machine's side of block jobs: their events, and the commands that steer them. */
#ifndef HULL_MACHINE_JOBS_H
#define HULL_MACHINE_JOBS_H

#include "machine/machine.h"

void machine_jobs_open(struct machine *m);

#endif
