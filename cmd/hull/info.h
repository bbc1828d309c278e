/* SPDX-License-Identifier: MIT */
/* hull info's parts: each gathers JSON; info.c shows it. */
#ifndef HULL_INFO_H
#define HULL_INFO_H

#include <jansson.h>
#include <stdbool.h>

/* info_host.c: what the host offers and what limits machines on it. */
json_t *info_host(void);

/* info_cpu.c: CPU models and features on both engines. */
json_t *info_cpu(void);
void info_cpu_print(json_t *cpu);

#endif
