/* SPDX-License-Identifier: MIT */
/* Integer, string and branch instructions: list of handlers for ops.c. */
#ifndef HULL_SOFT_OPS_INT_H
#define HULL_SOFT_OPS_INT_H

/* clang-format off */
#define SOFT_INT_OPS(X)
/* clang-format on */

#endif
