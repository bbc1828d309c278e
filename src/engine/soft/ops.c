/* SPDX-License-Identifier: MIT */
/* The table of instruction handlers, put together from the parts' lists (ops.h). */
#include "engine/soft/ops.h"
#include "engine/soft/vec_ops.h"

#define SOFT_ENTRY(op, fn) [X86_##op] = fn,

soft_op_fn *const soft_op[X86_OP_COUNT] = {SOFT_OPS(SOFT_ENTRY)
#include "soft_vec_ops.inc" /* made by gen_thunks */
};
