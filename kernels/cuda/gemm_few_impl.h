/* The rows of a decode step through one matrix, or two side by side: a third kernel of the
 * multiplication. */
#ifndef RXT_CUDA_GEMM_FEW_IMPL_H
#define RXT_CUDA_GEMM_FEW_IMPL_H

#include "kernels/cuda/gemm_impl.h"

#define GEMM_FEW 127 /* rows at most */

/* Whether its blocks make norm(x) themselves (norm NULL: x), of more rows than GEMM_NEAR: then
 * gemm_few_fits. bf16. */
CUDA_API bool gemm_few_normalises(const struct gemm *g, struct tensor x, const struct norm *norm);
/* bf16; false: too many rows, by items, or a matrix or input of another kind. */
CUDA_API bool gemm_few_fits(const struct gemm *g, int n);
CUDA_API void gemm_few_launch(struct cuda_lane *ln, const struct gemm *g, int n);

#endif
