/* Items of many rows, a third kernel of the multiplication. */
#ifndef RXT_CUDA_GEMM_ITEMS_IMPL_H
#define RXT_CUDA_GEMM_ITEMS_IMPL_H

#include "kernels/cuda/gemm_impl.h"

/* bf16; g[0] by items, g[1] (n == 2) dense. False: few rows, or not such a pair. */
CUDA_API bool gemm_items_fits(const struct gemm *g, int n);
CUDA_API void gemm_items_launch(struct cuda_lane *ln, const struct gemm *g, int n);

#endif
