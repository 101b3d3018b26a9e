/* route.cu - the device side of a mixture: choice, plan, sum (spec 2.6).
 * Shapes   logits [R,E] f32; choices, shares and slots [R,K]; x [R,D].
 * Launch   choice: a warp a row, its E probabilities in registers. Plan: one block, an expert or a
 *          choice a thread; for 1024 choices at most both are one launch. Sum: a block of 64 a row,
 *          8 values a thread.
 * Roofline all small beside the experts' bytes, and bound by latency: a choice costs two warp
 *          reductions for each of K, the plan 6 barriers. Predicted: 4 us for 64 rows of 384
 *          experts, 3 us for the sum. Not timed by itself yet (docs/bench: whole steps).
 * Order    softmax sums lane by lane, then warp_sum; the best is the larger, then the lower index;
 *          shares and results of a row are added by rank, then shared experts by number. The
 *          places of slots depend on the other rows, the results in them do not. Atomics count
 *          and set bits, which come out the same in any order. */
#include "kernels/cuda/moe_impl.h"

#include "kernels/cuda/device_impl.cuh"

#define WARPS 4 /* of a block that chooses only */
#define PLAN_THREADS 1024
#define FEW_EXPERTS 512  /* 16 a lane */
#define FEW_CHOICES 1024 /* chosen and planned by one block */
#define PLAN_WORDS 32768 /* of bits */

/* ---- choice ---- */

/* A probability as a number that grows with it: 0 was chosen already, 1 is not a number, which is
 * less than nothing, but can be chosen. */
static __device__ inline uint32_t key_of(float p)
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

/* Softmax of p[n] in memory, in place, by a warp. */
__device__ inline void softmax(float *p, int32_t n)
{
    float top = -INFINITY, sum = 0.0f;
    int32_t lane = (int32_t)threadIdx.x % 32;
    for (int32_t i = lane; i < n; i += 32)
        top = max_or_b(p[i], top); /* a NaN is passed over */
    top = warp_max(top);
    for (int32_t i = lane; i < n; i += 32)
        sum = sum + exp_below(p[i] - top);
    sum = warp_sum(sum);
    for (int32_t i = lane; i < n; i += 32)
        p[i] = exp_below(p[i] - top) / sum;
}

/* One row, by a warp; a lane has the experts lane, lane + 32, ..., N of them. */
template <int N> __device__ inline void route_row(const struct route &r, int32_t row)
{
    int32_t lane = (int32_t)threadIdx.x % 32;
    const float *logits = r.logits + (int64_t)row * r.n_expert; // logits[row,:]
    uint32_t key[N]; /* first a logit's bits, then a probability's, then its key */
    float top = -INFINITY, sum = 0.0f;
#pragma unroll
    for (int j = 0; j < N; j++) {
        float v = lane + 32 * j < r.n_expert ? logits[lane + 32 * j] : -INFINITY;
        key[j] = __float_as_uint(v);
        top = max_or_b(v, top);
    }
    top = warp_max(top);
#pragma unroll
    for (int j = 0; j < N; j++)
        if (lane + 32 * j < r.n_expert) {
            float p = exp_below(__uint_as_float(key[j]) - top);
            key[j] = __float_as_uint(p);
            sum = sum + p;
        }
    sum = warp_sum(sum);
#pragma unroll
    for (int j = 0; j < N; j++)
        key[j] = lane + 32 * j < r.n_expert ? key_of(__uint_as_float(key[j]) / sum) : 0;
    float own = 0.0f;
    int32_t chosen = 0;
    sum = 0.0f;
    for (int32_t k = 0; k < r.top_k; k++) {
        uint32_t best = 0;
        int32_t at = 0;
#pragma unroll
        for (int j = 0; j < N; j++)
            if (key[j] > best) {
                best = key[j];
                at = j;
            }
        uint32_t most = __reduce_max_sync(0xFFFFFFFFu, best);
        uint32_t index = best == most ? (uint32_t)(lane + 32 * at) : UINT32_MAX;
        index = __reduce_min_sync(0xFFFFFFFFu, index);
#pragma unroll
        for (int j = 0; j < N; j++)
            if (index == (uint32_t)(lane + 32 * j))
                key[j] = 0;
        float v = key_value(most);
        sum = sum + v;
        if (k % 32 == lane) {
            own = v;
            chosen = (int32_t)index;
        }
        if (k % 32 == 31 || k + 1 == r.top_k) {
            int64_t at = (int64_t)row * r.top_k + k / 32 * 32 + lane;
            if (lane <= k % 32) {
                r.expert[at] = chosen;                                      // expert[row,k]
                r.share[at] = k + 1 == r.top_k ? own / (sum + 1e-9f) : own; // share[row,k]
            }
        }
    }
    for (int32_t k = lane; k < (r.top_k - 1) / 32 * 32; k += 32) { /* before the last 32 */
        float *share = r.share + (int64_t)row * r.top_k + k;       // share[row,k]
        *share = *share / (sum + 1e-9f);
    }
    if (r.shared_logits)
        softmax(r.shared_logits + (int64_t)row * r.n_shared, r.n_shared);
}

/* ---- plan ---- */

/* The sum of v over the threads before this one; *all: over all of them. place: 32 values. */
__device__ inline uint64_t sum_before(uint64_t v, uint64_t *place, uint64_t *all)
{
    int32_t lane = (int32_t)threadIdx.x % 32, warp = (int32_t)threadIdx.x / 32;
    uint64_t sum = v;
#pragma unroll
    for (int apart = 1; apart < 32; apart *= 2) {
        uint64_t other = __shfl_up_sync(0xFFFFFFFFu, sum, apart);
        if (lane >= apart)
            sum += other;
    }
    if (lane == 31)
        place[warp] = sum;
    __syncthreads();
    uint64_t before = 0;
    *all = 0;
    for (int32_t i = 0; i < (int32_t)blockDim.x / 32; i++) {
        if (i < warp)
            before += place[i];
        *all += place[i];
    }
    __syncthreads();
    return before + sum - v;
}

/* Shared memory of the plan. */
struct plan {
    int32_t *count; /* [E]: choices of an expert, then the first slot that is free */
    uint32_t *bits; /* [E,words]: the rows of a piece that chose it */
    int32_t words;
};

/* Slots and items of all experts; count becomes the first slot of each. */
__device__ inline void plan_experts(const struct route &r, const struct plan &s, uint64_t *place)
{
    int32_t each = (r.n_expert + PLAN_THREADS - 1) / PLAN_THREADS;
    int32_t first = (int32_t)threadIdx.x * each;
    int32_t last = first + each < r.n_expert ? first + each : r.n_expert;
    uint64_t own = 0, all; /* slots << 32, items */
    for (int32_t e = first; e < last; e++)
        own += (uint64_t)s.count[e] << 32 | (uint64_t)((s.count[e] + GEMM_ITEM - 1) / GEMM_ITEM);
    uint64_t before = sum_before(own, place, &all);
    int32_t slot = (int32_t)(before >> 32), item = (int32_t)before;
    for (int32_t e = first; e < last; e++) {
        int32_t n = s.count[e];
        s.count[e] = slot;
        for (int32_t i = 0; i < n; i += GEMM_ITEM) {
            struct gemm_item it = {e, slot + i, n - i < GEMM_ITEM ? n - i : GEMM_ITEM};
            r.item[item++] = it;
        }
        slot += n;
    }
    if (threadIdx.x == 0)
        *r.n_item = (int32_t)all;
}

/* Slots of the rows [row, row + 32 words): a choice lies behind those of the lower rows. */
__device__ inline void plan_rows(const struct route &r, const struct plan &s, int32_t row)
{
    int32_t n_row = r.n_row - row < 32 * s.words ? r.n_row - row : 32 * s.words;
    int32_t n = n_row * r.top_k;
    const int32_t *expert = r.expert + (int64_t)row * r.top_k; // expert[row,:]
    for (int32_t i = (int32_t)threadIdx.x; i < r.n_expert * s.words; i += PLAN_THREADS)
        s.bits[i] = 0;
    __syncthreads();
    for (int32_t i = (int32_t)threadIdx.x; i < n; i += PLAN_THREADS) {
        int32_t in = i / r.top_k;
        atomicOr(&s.bits[expert[i] * s.words + in / 32], 1u << in % 32);
    }
    __syncthreads();
    for (int32_t i = (int32_t)threadIdx.x; i < n; i += PLAN_THREADS) {
        int32_t e = expert[i], in = i / r.top_k, slot = s.count[e];
        const uint32_t *bits = s.bits + e * s.words; // bits[e,:]
        for (int32_t w = 0; w < in / 32; w++)
            slot += __popc(bits[w]);
        slot += __popc(bits[in / 32] & ((1u << in % 32) - 1u));
        r.slot[(int64_t)row * r.top_k + i] = slot; // slot[row,k]
        r.slot_row[slot] = row + in;
    }
    __syncthreads();
    for (int32_t e = (int32_t)threadIdx.x; e < r.n_expert; e += PLAN_THREADS)
        for (int32_t w = 0; w < s.words; w++)
            s.count[e] += __popc(s.bits[e * s.words + w]);
    __syncthreads();
}

__device__ inline void plan_slots(const struct route &r, const struct plan &s, uint64_t *place)
{
    for (int32_t e = (int32_t)threadIdx.x; e < r.n_expert; e += PLAN_THREADS)
        s.count[e] = 0;
    __syncthreads();
    for (int32_t i = (int32_t)threadIdx.x; i < r.n_row * r.top_k; i += PLAN_THREADS)
        atomicAdd(&s.count[r.expert[i]], 1);
    __syncthreads();
    plan_experts(r, s, place);
    __syncthreads();
    for (int32_t row = 0; row < r.n_row; row += 32 * s.words)
        plan_rows(r, s, row);
}

/* Chooses with all its warps; plan: one block of PLAN_THREADS that then plans, or does only that
 * (N 0). */
template <int N, bool PLANS>
static __global__ void __launch_bounds__(PLANS ? PLAN_THREADS : 32 * WARPS)
    route_rows(const __grid_constant__ struct route r, int32_t words)
{
    if constexpr (N > 0) {
        int32_t n_warp = (int32_t)(blockDim.x / 32);
        for (int32_t row = (int32_t)blockIdx.x * n_warp + (int32_t)threadIdx.x / 32; row < r.n_row;
             row += (int32_t)gridDim.x * n_warp)
            route_row<N>(r, row);
    }
    if constexpr (PLANS) {
        DYNAMIC_SHARED(uint32_t, bits); // [E,words], then count [E]
        __shared__ uint64_t place[PLAN_THREADS / 32];
        __syncthreads();
        plan_slots(r, {(int32_t *)bits + r.n_expert * words, bits, words}, place);
    }
}

extern "C" void route_launch(struct cuda_lane *ln, const struct route *r)
{
    int32_t words = (r->n_row + 31) / 32, most = PLAN_WORDS / r->n_expert;
    words = words < most ? words : most;
    size_t bytes = (size_t)r->n_expert * (size_t)(words + 1) * sizeof(int32_t);
    bool few = r->n_expert <= FEW_EXPERTS;
    if (few && (int64_t)r->n_row * r->top_k <= FEW_CHOICES) {
        auto kernel = route_rows<FEW_EXPERTS / 32, true>;
        LAUNCH(kernel, 1, PLAN_THREADS, bytes, ln, *r, words);
        return;
    }
    unsigned grid = grid_rows((r->n_row + WARPS - 1) / WARPS);
    auto choose =
        few ? route_rows<FEW_EXPERTS / 32, false> : route_rows<ROUTE_MAX_EXPERT / 32, false>;
    LAUNCH(choose, grid, 32 * WARPS, 0, ln, *r, words);
    auto plan = route_rows<0, true>;
    LAUNCH(plan, 1, PLAN_THREADS, bytes, ln, *r, words);
}

/* ---- sum ---- */

#define SUM_THREADS 64
#define SUM_AHEAD 10 /* results under way together */

/* sum[8] += part * y[i..i+7] of n rows of results, each addition rounded; y(k), part(k): of row k.
 */
template <class T, class Row, class Part>
__device__ inline void add_results(float sum[8], int32_t n, int32_t i, int32_t dim, Row y,
                                   Part part)
{
    for (int32_t first = 0; first < n; first += SUM_AHEAD) {
        float v[SUM_AHEAD][8], share[SUM_AHEAD];
#pragma unroll
        for (int a = 0; a < SUM_AHEAD; a++) {
            int32_t k = first + a < n ? first + a : n - 1;
            share[a] = part(k);
            load8(v[a], y(k), i, dim);
        }
#pragma unroll
        for (int a = 0; a < SUM_AHEAD; a++)
            if (first + a < n)
#pragma unroll
                for (int j = 0; j < 8; j++)
                    sum[j] = rounded<T>(sum[j] + rounded<T>(share[a] * v[a][j]));
    }
}

/* sum += bias, rounded. */
template <class T>
__device__ inline void add_bias(float sum[8], const float *bias, int32_t i, int32_t dim)
{
    float b[8] = {};
    if (bias)
        load8(b, bias, i, dim);
#pragma unroll
    for (int j = 0; j < 8; j++)
        sum[j] = rounded<T>(sum[j] + b[j]);
}

/* Rounded where spec 6.1 rounds: every product, every sum. Block = row. */
template <class T> static __global__ void sum_rows(const __grid_constant__ struct moe_sum s)
{
    int32_t dim = s.r.dim;
    for (int32_t row = (int32_t)blockIdx.x; row < s.r.n_row; row += (int32_t)gridDim.x) {
        const int32_t *slot = s.r.slot + (int64_t)row * s.r.top_k; // slot[row,:]
        const float *share = s.r.share + (int64_t)row * s.r.top_k; // share[row,:]
        const float *part =
            s.r.shared_logits ? s.r.shared_logits + (int64_t)row * s.r.n_shared : nullptr;
        const T *y = (const T *)s.y, *y_shared = (const T *)s.y_shared;
        T *x = (T *)s.x.data + row * s.x.stride; // x[row,:]
        for (int32_t i = 8 * (int32_t)threadIdx.x; i < dim; i += 8 * SUM_THREADS) {
            float sum[8] = {}, shared[8] = {}, before[8];
            load8(before, x, i, dim);
            add_results<T>(
                sum, s.r.top_k, i, dim, [&](int32_t k) { return y + (int64_t)slot[k] * dim; },
                [&](int32_t k) { return share[k]; });
#pragma unroll
            for (int j = 0; j < 8; j++)
                sum[j] = rounded<T>(sum[j] * s.routed_scale);
            add_bias<T>(sum, s.bias, i, dim);
            if (s.r.n_shared > 0) {
                add_results<T>(
                    shared, s.r.n_shared, i, dim,
                    [&](int32_t e) { return y_shared + ((int64_t)e * s.r.n_row + row) * dim; },
                    [&](int32_t e) { return part ? part[e] : 1.0f; });
                add_bias<T>(shared, s.shared_bias, i, dim);
#pragma unroll
                for (int j = 0; j < 8; j++)
                    sum[j] = rounded<T>(sum[j] + rounded<T>(shared[j] * s.shared_scale));
            }
#pragma unroll
            for (int j = 0; j < 8; j++)
                before[j] = before[j] + sum[j];
            store8(x, i, dim, before);
        }
    }
}

extern "C" void moe_sum_launch(struct cuda_lane *ln, const struct moe_sum *s)
{
    if (ln->base.be->act_dtype == DTYPE_BF16)
        LAUNCH(sum_rows<bf16>, grid_rows(s->r.n_row), SUM_THREADS, 0, ln, *s);
    else
        LAUNCH(sum_rows<float>, grid_rows(s->r.n_row), SUM_THREADS, 0, ln, *s);
}
