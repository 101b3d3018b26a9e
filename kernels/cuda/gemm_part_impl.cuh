/* What the kernels of gemm.cu and gemm_tiles.cu share: weights on their way in, and the end of a
 * result. The two must give the same bits: an output is a chain of MMAs a range of k, then the tree
 * of pack_impl.h, then finish. */
#ifndef RXT_CUDA_GEMM_PART_IMPL_CUH
#define RXT_CUDA_GEMM_PART_IMPL_CUH

#include "kernels/cuda/gemm_impl.h"
#include "kernels/cuda/mma_impl.cuh"

/* Weights are read once a step, so they should leave the caches first. Zeros unless wanted. */
__device__ inline uint4 load_weights16(const void *p, bool wanted)
{
    uint4 v = {0, 0, 0, 0};
    if (wanted)
        v = __ldcs((const uint4 *)p);
    return v;
}
__device__ inline uint2 load_weights8(const void *p, bool wanted)
{
    uint2 v = {0, 0};
    if (wanted)
        v = __ldcs((const uint2 *)p);
    return v;
}

/* Where the rows of an item end. */
struct gemm_place {
    const float *bias; /* of its expert */
    void *out;
};

/* What the end of an output reads: asked for before its sums are there. */
struct gemm_early {
    float bias, gate_bias, before; /* 0 where there is none */
};

/* Biases of output n, or of hidden unit n. */
__device__ inline struct gemm_early bias_of(const struct gemm &g, const struct gemm_place &p,
                                            int32_t n)
{
    struct gemm_early e = {0.0f, 0.0f, 0.0f};
    if (n >= g.w.n)
        return e;
    if (p.bias)
        e.bias = p.bias[n];
    if (p.bias && g.end == GEMM_HIDDEN && g.gated)
        e.gate_bias = p.bias[g.w.n + n];
    return e;
}

/* What GEMM_ADD adds to; past L1, because a rehearsal reads it too. */
__device__ inline float before_of(const struct gemm &g, const struct gemm_place &p, int64_t row,
                                  int32_t n)
{
    return n < g.w.n ? widen(__ldcg((const bf16 *)p.out + row * g.out_stride + n)) // out[row,n]
                     : 0.0f;
}

/* Of output n of a row, or of hidden unit n. */
template <class T>
__device__ inline struct gemm_early early_of(const struct gemm &g, const struct gemm_place &p,
                                             int64_t row, int32_t n)
{
    struct gemm_early e = bias_of(g, p, n);
    if (g.end == GEMM_ADD && n < g.w.n)
        e.before = widen(((const T *)p.out)[row * g.out_stride + n]); // out[row,n]
    return e;
}

/* Output n of a row, y without bias; left behind if it is real. */
template <class T>
__device__ inline void finish(const struct gemm &g, const struct gemm_place &p,
                              const struct gemm_early &e, int64_t row, int32_t n, float y,
                              bool real = true)
{
    if (n >= g.w.n)
        return;
    y = y + e.bias;
    int64_t at = row * g.out_stride + n; // out[row,n]
    if (g.end == GEMM_F32) {
        y = g.round_bf16 ? rounded<bf16>(y) : y;
        if (real)
            ((float *)p.out)[at] = y;
    } else {
        T v = narrow<T>(g.end == GEMM_STORE ? y : e.before + rounded<T>(y));
        if (real)
            ((T *)p.out)[at] = v;
    }
}

/* Hidden unit `unit` of a row, out of a value and its gate without bias. Units beyond are zero,
 * because the next matrix reads them. */
template <class T>
__device__ inline void finish_hidden(const struct gemm &g, const struct gemm_place &p,
                                     const struct gemm_early &e, int64_t row, int32_t unit,
                                     float value, float gate, bool real = true)
{
    float h = 0.0f;
    if (unit < g.w.n) {
        float a = rounded<T>(value + e.bias);
        h = g.gated ? a * rounded<T>(act_of(g.act, rounded<T>(gate + e.gate_bias)))
                    : act_of(g.act, a);
    }
    if (real)
        ((T *)p.out)[row * g.out_stride + unit] = narrow<T>(h); // out[row,unit]
}

#endif
