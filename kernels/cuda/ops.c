/* The CUDA backend's row of every op of kernels/backend_impl.h. */
#include "kernels/cuda/cuda_impl.h"

const struct backend_ops cuda_ops = {
    .destroy = cuda_destroy,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .lane_create = cuda_lane_create,
    .lane_destroy = cuda_lane_destroy,
    .lane_bytes = cuda_lane_bytes,
    .sync = cuda_sync,
    .give_way = cuda_give_way,
    .upload = cuda_upload,
    .download = cuda_download,
    .copy = cuda_copy,
    .convert = cuda_convert,
};
