/* The CUDA backend's row of every op of kernels/backend_impl.h. */
#include "kernels/cuda/cuda_impl.h"

#define ROW(result, name, args) .name = cuda_##name,
const struct backend_ops cuda_ops = {BACKEND_OPS(ROW)};
#undef ROW
