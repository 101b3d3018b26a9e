/* The experts of up to 8 rows, out of their logits: choice, both matrices and their sum. */
#ifndef RXT_CUDA_MOE_FEW_IMPL_H
#define RXT_CUDA_MOE_FEW_IMPL_H

#include "kernels/cuda/moe_impl.h"

/* up, down: of chosen experts, then of shared ones if there are any. */
CUDA_API bool moe_few_fits(const struct cuda_lane *ln, const struct moe_sum *s,
                           const struct gemm *up, const struct gemm *down);
CUDA_API void moe_few_launch(struct cuda_lane *ln, const struct moe_sum *s, const struct gemm *up,
                             const struct gemm *down);

#endif
