/* The experts of a mixture and their sum for the rows of a decode step, in two launches of little
 * code, where it would be three (gemm.cu, route.cu). */
#ifndef RXT_CUDA_EXPERTS_FEW_IMPL_H
#define RXT_CUDA_EXPERTS_FEW_IMPL_H

#include "kernels/cuda/moe_impl.h"

#define EXPERTS_FEW 8 /* rows at most */

/* The two matrices of the routed experts and, n == 2, of the shared ones; s as moe_sum_launch takes
 * it. False: too many rows, or another kind of mixture. */
CUDA_API bool experts_few_fits(const struct cuda_lane *ln, const struct gemm *up,
                               const struct gemm *down, int n, const struct moe_sum *s);
/* Behind route_launch: x += routed + shared. */
CUDA_API void experts_few_launch(struct cuda_lane *ln, const struct gemm *up,
                                 const struct gemm *down, int n, const struct moe_sum *s);

#endif
