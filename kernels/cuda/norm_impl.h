/* Norms of the CUDA backend, and rows on their way into a multiplication. */
#ifndef RXT_CUDA_NORM_IMPL_H
#define RXT_CUDA_NORM_IMPL_H

#include "kernels/cuda/cuda_impl.h"
#include "kernels/cuda/pack_impl.h"

/* What a kernel needs of a norm; the vectors in device memory, NULL where the kind has none. */
struct norm {
    enum norm_kind kind;
    int32_t dim, n_slot; /* n_slot 0: nothing depends on the slot */
    float eps;
    bool scale_by_slot;
    float *weight, *bias, *scale, *gate, *ema_rms;
};
struct cuda_norm {
    struct weight base;
    struct norm norm;
    float *vectors; /* the block all of them lie in */
};

/* out[n_row, pack_fill(cols)]: rows of x as a gemm reads them, those it has or the n_row that `row`
 * names (host memory): normalised if norm is not NULL, in the compute dtype, zeros behind cols.
 * as_bf16: also rounded to bf16. x in either dtype. */
CUDA_API void stage_rows(struct cuda_lane *ln, void *out, struct tensor x, const int32_t *row,
                         int32_t n_row, const struct weight *norm, bool as_bf16);
/* The same of a memory, all rows, which lies elsewhere in the next step of this shape. */
CUDA_API void stage_memory(struct cuda_lane *ln, void *out, struct tensor x,
                           const struct weight *norm);
/* Scratch of them. */
CUDA_API void *stage_cut(struct cuda_lane *ln, int32_t n_row, int32_t cols);

#endif
