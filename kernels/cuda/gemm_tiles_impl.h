/* Many rows through one matrix, a second kernel of the multiplication. */
#ifndef RXT_CUDA_GEMM_TILES_IMPL_H
#define RXT_CUDA_GEMM_TILES_IMPL_H

#include "kernels/cuda/gemm_impl.h"

/* bf16; false: too few rows, or not all through each expert. */
CUDA_API bool gemm_tiles_fits(const struct gemm *g);
CUDA_API void gemm_tiles_launch(struct cuda_lane *ln, const struct gemm *g);

#endif
