/* SPDX-License-Identifier: MIT */
/* System instructions, segment loads, far transfers, descriptor tables: list of handlers for ops.c. */
#ifndef HULL_SOFT_OPS_SYS_H
#define HULL_SOFT_OPS_SYS_H

/* clang-format off */
#define SOFT_SYS_OPS(X)
/* clang-format on */

#endif
