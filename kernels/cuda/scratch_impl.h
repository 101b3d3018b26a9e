/* The scratch memory of a lane: what each op cuts at the most, from the limits. Plain C. */
#ifndef RXT_CUDA_SCRATCH_IMPL_H
#define RXT_CUDA_SCRATCH_IMPL_H

#include "kernels/backend.h"

#define SCRATCH_ALIGN 256 /* of device memory and of scratch cuts */

/* Bytes that count items of size bytes take, alignment included. */
size_t scratch_cut(size_t count, size_t size);
/* Bytes of the op that needs most, of all and of those that any branch takes. */
size_t scratch_need(const struct lane_limits *l, enum dtype act);
size_t scratch_need_branch(const struct lane_limits *l, enum dtype act);
/* Floats for partial results of attention, at most 32 MB. */
size_t scratch_partials(const struct lane_limits *l, enum dtype act);

#define SCRATCH_ITEM 64 /* the most rows of an item */

/* Items of a mixture call at most: the rows of each expert, SCRATCH_ITEM at a time. */
size_t scratch_items(size_t n_row, size_t n_chosen, size_t n_expert);

/* Bytes of arguments of one op at the most: two numbers a row and three ARGS_SEQ a sequence, which
 * is what the sequences of one attention, or an address and its like, may take. */
#define ARGS_SEQ 64
size_t args_need_op(const struct lane_limits *l);
/* Of a step: as many as 96 launches with sequences have for each of two attentions, or the encoder
 * and the update of 21 layers. More is two steps. */
size_t args_need(const struct lane_limits *l);

#endif
