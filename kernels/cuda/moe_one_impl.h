/* The experts of a lone row, out of its logits: choice, both matrices and their sum. */
#ifndef RXT_CUDA_MOE_ONE_IMPL_H
#define RXT_CUDA_MOE_ONE_IMPL_H

#include "kernels/cuda/moe_impl.h"

/* up, down: of chosen experts, then of shared ones if there are any. */
CUDA_API bool moe_one_fits(const struct cuda_lane *ln, const struct moe_sum *s,
                           const struct gemm *up, const struct gemm *down);
CUDA_API void moe_one_launch(struct cuda_lane *ln, const struct moe_sum *s, const struct gemm *up,
                             const struct gemm *down);

#endif
