/* The end of 8 results at once, what gemm_tiles.cu and gemm_items.cu share: the bits of finish and
 * finish_hidden, in pieces of 16 bytes. */
#ifndef RXT_CUDA_GEMM_END_IMPL_CUH
#define RXT_CUDA_GEMM_END_IMPL_CUH

#include "kernels/cuda/gemm_part_impl.cuh"

/* A thread has the same outputs of every row that it ends, so it asks for their biases once. */
struct biases {
    float of[8], of_gate[8]; /* 0 where there is none */

    __device__ biases(const struct gemm &g, const float *bias, int32_t n) : of(), of_gate()
    {
        if (bias)
            load8(of, bias, n, g.w.n);
        if (bias && g.end == GEMM_HIDDEN && g.gated)
            load8(of_gate, bias + g.w.n, n, g.w.n);
    }
};

/* Outputs n to n + 7 of a row, y without bias; before: what GEMM_ADD adds to. */
__device__ inline void finish8(const struct gemm &g, void *to, int64_t row, int32_t n,
                               const float y[8], const float bias[8], const float before[8])
{
    float v[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        v[i] = y[i] + bias[i];
        if (g.end == GEMM_ADD)
            v[i] = before[i] + rounded<bf16>(v[i]);
        else if (g.end == GEMM_F32 && g.round_bf16)
            v[i] = rounded<bf16>(v[i]);
    }
    if (g.end == GEMM_F32)
        store8((float *)to + row * g.out_stride, n, g.w.n, v);
    else
        store8((bf16 *)to + row * g.out_stride, n, g.w.n, v); // out[row,:]
}

/* Hidden units n to n + 7 of a row out of a tile's values and gates; zeros beyond. */
__device__ inline void finish_hidden8(const struct gemm &g, void *to, int64_t row, int32_t n,
                                      const float value[8], const float gate[8],
                                      const struct biases &bias)
{
    float v[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        float a = rounded<bf16>(value[i] + bias.of[i]);
        float h = g.gated
                      ? a * rounded<bf16>(act_of(g.act, rounded<bf16>(gate[i] + bias.of_gate[i])))
                      : act_of(g.act, a);
        v[i] = n + i < g.w.n ? h : 0.0f;
    }
    store8((bf16 *)to + row * g.out_stride, n, n + 8, v); // out[row,n]
}

#endif
