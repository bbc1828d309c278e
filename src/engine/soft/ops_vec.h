/* SPDX-License-Identifier: MIT */
/* x87, MMX, SSE and AVX instructions: list of handlers for ops.c. */
#ifndef HULL_SOFT_OPS_VEC_H
#define HULL_SOFT_OPS_VEC_H

/* clang-format off */
#define SOFT_VEC_OPS(X)
/* clang-format on */

#endif
