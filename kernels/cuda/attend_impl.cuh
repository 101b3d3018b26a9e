/* What the kernels of attention share, plain and on the matrix units. */
#ifndef RXT_CUDA_ATTEND_IMPL_CUH
#define RXT_CUDA_ATTEND_IMPL_CUH

#include "kernels/cuda/attend_impl.h"
#include "kernels/cuda/device_impl.cuh"

/* Block b of a head. */
template <class T>
__device__ inline T *block_of(const struct attend_keys *k, int32_t b, int32_t head)
{
    char *at = k->table ? k->table[b] + k->layer : k->base + b * k->block_step;
    return (T *)(at + head * k->head_step);
}

/* The last sequence whose first row or tile, as `first` says, is not behind `at`. */
template <int32_t attend_seq::*first, class Job>
__device__ inline const struct attend_seq *seq_with(const Job *job, int32_t at)
{
    int32_t low = 0, high = job->n_seq - 1;
    while (low < high) {
        int32_t middle = (low + high + 1) / 2;
        if (job->seq[middle].*first <= at)
            low = middle;
        else
            high = middle - 1;
    }
    return &job->seq[low];
}

/* Values 2 i and 2 i + 1 of a head, rotated by its position (spec 2.3); in bf16 every step is
 * rounded. */
template <class T>
__device__ inline void rotate(float *even, float *odd, const float *cos, const float *sin)
{
    float u = *even, v = *odd, c = *cos, s = *sin;
    if (dtype_of<T>::value == DTYPE_BF16) {
        *even = rounded<T>(rounded<T>(u * c) - rounded<T>(v * s));
        *odd = rounded<T>(rounded<T>(u * s) + rounded<T>(v * c));
    } else {
        *even = fmaf(u, c, -(v * s));
        *odd = fmaf(v, c, u * s);
    }
}

#endif
