/* SPDX-License-Identifier: MIT */
/* The table of instruction handlers, put together from the parts' lists (ops.h). */
#include "engine/soft/ops.h"

#define SOFT_ENTRY(op, fn) [X86_##op] = fn,

soft_op_fn *const soft_op[X86_OP_COUNT] = {SOFT_OPS(SOFT_ENTRY)};
