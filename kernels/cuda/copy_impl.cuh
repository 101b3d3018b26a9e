/* Copies into shared memory that a block does not wait for until it needs them (cp.async). */
#ifndef RXT_CUDA_COPY_IMPL_CUH
#define RXT_CUDA_COPY_IMPL_CUH

#include "kernels/cuda/device_impl.cuh"

/* 16 bytes, aligned to 16. */
__device__ inline void copy16(bf16 *to, const bf16 *from)
{
#ifdef __CUDACC__
    asm volatile(
        "cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((uint32_t)__cvta_generic_to_shared(to)),
        "l"(from));
#else
    memcpy(to, from, 16);
#endif
}
/* What was asked for since the last time is a chunk. */
__device__ inline void copies_commit()
{
#ifdef __CUDACC__
    asm volatile("cp.async.commit_group;");
#endif
}
/* All but the last `n` chunks of this thread have come. */
template <int n> __device__ inline void copies_wait()
{
#ifdef __CUDACC__
    asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
#endif
}

#endif
