/* Many rows through one matrix, a second kernel of the multiplication. */
#ifndef RXT_CUDA_GEMM_TILES_IMPL_H
#define RXT_CUDA_GEMM_TILES_IMPL_H

#include "kernels/cuda/gemm_impl.h"

/* False: too few rows, or not all through each expert; nothing was launched. */
CUDA_API bool gemm_tiles_launch(struct cuda_lane *ln, const struct gemm *g);

#endif
