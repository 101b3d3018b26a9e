/* The choice of experts of a row by a warp (spec 2.6): route.cu for a launch of its own,
 * experts_few.cu for blocks of experts that choose for themselves. Both must give the same bits. */
#ifndef RXT_CUDA_ROUTE_ROW_IMPL_CUH
#define RXT_CUDA_ROUTE_ROW_IMPL_CUH

#include "kernels/cuda/device_impl.cuh"

#define FEW_EXPERTS 384 /* 12 a lane */
#define FEW_CHOICES 128

/* A probability as a number that grows with it: 0 was chosen already, 1 is not a number, which is
 * less than nothing, but can be chosen. */
__device__ inline uint32_t key_of(float p)
{
    return p == p ? __float_as_uint(p) + 2u : 1u;
}
__device__ inline float key_value(uint32_t key)
{
    return key > 1 ? __uint_as_float(key - 2u) : NAN;
}

__device__ inline float warp_max(float v)
{
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2)
        v = max_or_b(__shfl_xor_sync(0xFFFFFFFFu, v, apart), v);
    return v;
}

/* A lane's best key and which of its N it is; the first of equal ones. */
struct best {
    uint32_t key;
    int32_t at;
};
/* The better of two, a being the first. */
__device__ inline struct best better(struct best a, struct best b)
{
    return b.key > a.key ? b : a;
}
/* Of 4 at a time, which is shorter than a chain. */
template <int N> __device__ inline struct best best_of(const uint32_t key[N])
{
    static_assert(N % 4 == 0, "fours");
    struct best all = {0, 0};
#pragma unroll
    for (int j = 0; j < N; j += 4) {
        struct best low = better({key[j], j}, {key[j + 1], j + 1});
        struct best high = better({key[j + 2], j + 2}, {key[j + 3], j + 3});
        all = j == 0 ? better(low, high) : better(all, better(low, high));
    }
    return all;
}

__device__ inline float reciprocal_near(float v)
{
#ifdef __CUDACC__
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(v));
    return y;
#else
    return 1.0f / v;
#endif
}

/* The bits of n / sum, n from 0 to 1, for all of a warp: where no remainder can be too small, what
 * the compiler makes of a division, but for its test of each; else that. */
template <int N> __device__ inline void divide(uint32_t n[N], float sum)
{
    float least = 1.0f; /* of those that are not 0; a NaN among them is one in the sum */
#pragma unroll
    for (int j = 0; j < N; j++) {
        float p = __uint_as_float(n[j]);
        least = fminf(least, p == 0.0f ? 1.0f : p);
    }
    bool plain = sum >= 1.0f && sum <= 0x1p20f && least >= 0x1p-90f;
    if (__any_sync(0xFFFFFFFFu, !plain)) {
#pragma unroll
        for (int j = 0; j < N; j++)
            n[j] = __float_as_uint(__uint_as_float(n[j]) / sum);
        return;
    }
    float near = reciprocal_near(sum);
    float part = fmaf(near, fmaf(-sum, near, 1.0f), near);
#pragma unroll
    for (int j = 0; j < N; j++) {
        float p = __uint_as_float(n[j]), q = p * part;
        n[j] = __float_as_uint(fmaf(part, fmaf(-sum, q, p), q));
    }
}

/* The top_k experts of a row of logits; a lane has the experts lane, lane + 32, ..., N of them.
 * expert(k, e): of the lane that has it. share(k, p): of lane k % 32; the last 32 are parts of the
 * sum, which is given back, those before are not yet divided by it. */
template <int N, class Expert, class Share>
__device__ inline float choose(const float *logits, int32_t n_expert, int32_t top_k, Expert expert,
                               Share share)
{
    int32_t lane = (int32_t)threadIdx.x % 32;
    uint32_t key[N]; /* first a logit's bits, then a probability's, then its key */
    float top = -INFINITY, sum = 0.0f;
#pragma unroll
    for (int j = 0; j < N; j++) {
        float v = lane + 32 * j < n_expert ? __ldcg(logits + lane + 32 * j) : -INFINITY;
        key[j] = __float_as_uint(v);
        top = max_or_b(v, top);
    }
    top = warp_max(top);
#pragma unroll
    for (int j = 0; j < N; j++) { /* without a branch, so that they run side by side */
        float p = exp_below(__uint_as_float(key[j]) - top);
        p = lane + 32 * j < n_expert ? p : 0.0f;
        key[j] = __float_as_uint(p);
        sum = sum + p;
    }
    sum = warp_sum(sum);
    divide<N>(key, sum);
#pragma unroll
    for (int j = 0; j < N; j++)
        key[j] = lane + 32 * j < n_expert ? key_of(__uint_as_float(key[j])) : 0;
    struct best own_best = best_of<N>(key);
    float own = 0.0f;
    sum = 0.0f;
#pragma unroll 1
    for (int32_t k = 0; k < top_k; k++) {
        uint32_t most = __reduce_max_sync(0xFFFFFFFFu, own_best.key);
        uint32_t index = (uint32_t)(lane + 32 * own_best.at);
        bool wins = own_best.key == most;
        uint32_t winners = __ballot_sync(0xFFFFFFFFu, wins);
        if (winners & (winners - 1)) /* seldom: the lowest of them */
            wins = index == __reduce_min_sync(0xFFFFFFFFu, wins ? index : UINT32_MAX);
        if (wins) {
            expert(k, (int32_t)index);
#pragma unroll
            for (int j = 0; j < N; j++)
                if (j == own_best.at)
                    key[j] = 0;
            own_best = best_of<N>(key);
        }
        float v = key_value(most);
        sum = sum + v;
        own = k % 32 == lane ? v : own;
        if (k % 32 == 31 || k + 1 == top_k) {
            int32_t at = k / 32 * 32 + lane;
            if (lane <= k % 32)
                share(at, k + 1 == top_k ? own / (sum + 1e-9f) : own);
        }
    }
    return sum;
}

#endif
