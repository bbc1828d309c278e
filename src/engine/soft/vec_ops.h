/* SPDX-License-Identifier: MIT */
/* The handlers of x87, MMX, SSE and AVX instructions. gen_thunks.c says which instruction has
 * which. */
#ifndef HULL_SOFT_VEC_OPS_H
#define HULL_SOFT_VEC_OPS_H

#include "engine/soft/soft.h"

soft_op_fn op_vec_move, op_vec_move_low; /* vec_move.c */
soft_op_fn op_vec, op_pcmpstr, op_emms;  /* vector.c */
soft_op_fn op_vmaskmov, op_maskmovdqu, op_maskmovq, op_gather, op_vzero, op_ldmxcsr,
    op_stmxcsr;                                                           /* vec_special.c */
soft_op_fn op_x87, op_fwait, op_x87_save_env, op_x87_load_env, op_fninit; /* x87.c */
soft_op_fn op_fxsave, op_fxrstor, op_xsave, op_xsaveopt, op_xsavec, op_xrstor, op_xgetbv,
    op_xsetbv; /* xsave.c */

#endif
