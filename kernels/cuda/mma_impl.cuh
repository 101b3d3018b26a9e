/* The matrix instructions of a warp: mma.sync, bf16 in, float32 out. wgmma_impl.cuh has those of a
 * warpgroup, with the same sums (plan F: one class of bits). */
#ifndef RXT_CUDA_MMA_IMPL_CUH
#define RXT_CUDA_MMA_IMPL_CUH

#include "kernels/cuda/device_impl.cuh"

/* c += A B, the fragments of PTX ISA "Matrix Fragments for mma.m16n8k16 / m16n8k8", .bf16. */
__device__ inline void mma_k16(float c[4], uint4 a, uint32_t b0, uint32_t b1)
{
#ifdef __CUDACC__
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
#else
    emulate_mma_k16(c, a, b0, b1);
#endif
}

__device__ inline void mma_k8(float c[4], uint2 a, uint32_t b)
{
#ifdef __CUDACC__
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a.x), "r"(a.y), "r"(b));
#else
    emulate_mma_k8(c, a, b);
#endif
}

#endif
