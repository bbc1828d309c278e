/* SPDX-License-Identifier: MIT */
/* What the host has in huge pages. */
#ifndef HULL_MEM_HOST_H
#define HULL_MEM_HOST_H

#include <stdbool.h>
#include <stdint.h>

/* Transparent huge pages are made of anonymous memory that asks for them, but not of memfds. */
bool host_huge_anonymous(void);
/* Reserved pages of 2 MiB: all, and those that a mapping can still have (some the kernel makes when
 * asked for). */
uint64_t host_huge_total(void);
uint64_t host_huge_free(void);

#endif
