/* SPDX-License-Identifier: MIT */
/* The instruction handlers of each part, as lists: X(op, function) makes soft_op[X86_op] =
 * function. A part adds a handler by adding a line to its own list; declarations follow from the
 * lists. */
#ifndef HULL_SOFT_OPS_H
#define HULL_SOFT_OPS_H

#include "engine/soft/ops_int.h"
#include "engine/soft/ops_sys.h"
#include "engine/soft/ops_vec.h"
#include "engine/soft/soft.h"

#define SOFT_OPS(X) SOFT_INT_OPS(X) SOFT_SYS_OPS(X) SOFT_VEC_OPS(X)

#define SOFT_DECLARE(op, fn) soft_op_fn fn;
SOFT_OPS(SOFT_DECLARE)
#undef SOFT_DECLARE

#endif
