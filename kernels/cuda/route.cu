/* route.cu - the device side of a mixture: choice, plan, sum (spec 2.6).
 * Shapes   logits [R,E] f32; choices, shares and slots [R,K]; x [R,D].
 * Launch   choice: a warp a row, its E probabilities in registers, 8 rows a block; then the plan in
 *          one block, an expert or a choice a thread. Few choices: both in one block, a thread a
 *          choice, which counts those of lower experts, and of lower rows; of one row without a
 *          barrier. All three go through their code once ahead of the wait, and leave nothing
 *          behind (rehearse). Sum: a block of 256 a row, 2 values a thread; of 64, 8 values, where
 *          rows are not made of pairs.
 * Roofline all small beside the experts' bytes, and bound by latency. Measured, H200 (time stamps,
 *          in a step of beta-3b, a row of 384 experts): 3.6 us for a choice of ten rounds of two
 *          warp reductions each, 0.3 for its plan, 3.1 for the sum. By ranks, and a plan without
 *          barriers: 1.1 us less of a layer (a token 0.916 -> 0.893 ms, predicted 0.891). Since
 *          then about 1,000 clocks behind the logits in place of 2,400: 0.86 to 0.89 ms.
 * Order    softmax sums lane by lane, then warp_sum; the best is the larger, then the lower index;
 *          shares and results of a row are added by rank, then shared experts by number. The places
 *          of slots depend on the other rows, the results in them do not. Atomics count and set
 *          bits, which come out the same in any order. */
#include "kernels/cuda/moe_impl.h"

#include "kernels/cuda/device_impl.cuh"

#define THREADS 256 /* that choose */
#define WARPS (THREADS / 32)
#define PLAN_THREADS 1024
#define PLAN_WARPS (PLAN_THREADS / 32)
#define FEW_EXPERTS 384 /* 12 a lane */
#define FEW_CHOICES 128
#define PLAN_WORDS 32768 /* of bits */

/* ---- choice ---- */

/* The highest of the lanes' numbers, no NaN among them. */
__device__ inline float warp_max(float v)
{
    int32_t key = (int32_t)__float_as_uint(v); /* that grows with v: */
    key = key < 0 ? key ^ INT32_MAX : key;
    key = __reduce_max_sync(0xFFFFFFFFu, key);
    return __uint_as_float((uint32_t)(key < 0 ? key ^ INT32_MAX : key));
}

/* Softmax of p[n] in memory, in place, by a warp. What a lane has of it beside its first is seldom
 * there, and read again. */
__device__ inline void softmax(float *p, int32_t n, bool real)
{
    int32_t lane = (int32_t)threadIdx.x % 32;
    float own = lane < n ? __ldcg(p + lane) : -INFINITY, top = max_or_b(own, -INFINITY);
#pragma unroll 1
    for (int32_t i = lane + 32; i < n; i += 32)
        top = max_or_b(__ldcg(p + i), top); /* a NaN is passed over */
    top = warp_max(top);
    own = exp_below(own - top);
    float sum = lane < n ? own : 0.0f;
#pragma unroll 1
    for (int32_t i = lane + 32; i < n; i += 32)
        sum = sum + exp_below(__ldcg(p + i) - top);
    sum = warp_sum(sum);
    if (lane < n && real)
        p[lane] = own / sum;
#pragma unroll 1
    for (int32_t i = lane + 32; i < n; i += 32) {
        float part = exp_below(__ldcg(p + i) - top) / sum;
        if (real)
            p[i] = part;
    }
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

/* e / sum, sum from 1 to ROUTE_MAX_EXPERT: what the compiler makes of a division, but for its test
 * whether a remainder may be too small. So the bits are those of a division from 2^-90 on; what is
 * below comes out below. */
struct over {
    float sum, part;

    __device__ float operator()(float e) const
    {
        float q = e * part;
        return fmaf(part, fmaf(-sum, q, e), q);
    }
};
__device__ inline struct over over_of(float sum)
{
    float near = reciprocal_near(sum);
    return {sum, fmaf(near, fmaf(-sum, near, 1.0f), near)};
}

/* 1 if v is above `limit`, by less than 2^31. No predicate: a thread has 7 of them, and where they
 * run short the compiler leaves what could run side by side one behind the other. */
__device__ inline int32_t is_above(uint32_t v, uint32_t limit)
{
    return (int32_t)((limit - v) >> 31);
}

/* An expert and its probability as a number: the better one is the larger. None is 0. */
__device__ inline uint64_t choice_of(float p, int32_t expert)
{
    return (uint64_t)__float_as_uint(p) << 32 | ~(uint32_t)expert;
}
__device__ inline float probability(uint64_t choice)
{
    return __uint_as_float((uint32_t)(choice >> 32));
}
__device__ inline int32_t expert_of(uint64_t choice)
{
    return (int32_t) ~(uint32_t)choice;
}

#define AT_ONCE 32     /* choices that the lanes of a warp make side by side */
#define AHEAD_LANES 16 /* values of lanes on their way out of shared memory together */

/* What the lanes of a warp tell each other. */
struct meeting {
    alignas(16) uint32_t most[32];
    alignas(16) uint64_t candidate[AT_ONCE];
    alignas(16) float value[AT_ONCE]; /* of the chosen, by rank; 0 behind them */
};

/* The number below v, as one: v - 1 - x would become two instructions again. */
__device__ inline uint32_t one_below(uint32_t v)
{
    return (uint32_t)unknown((int32_t)(v - 1u));
}
/* How many of most[32] are at least v; bits of numbers from 0 on. */
__device__ inline int32_t count_at_least(const uint32_t most[32], uint32_t v)
{
    int32_t n = 0;
    uint32_t limit = one_below(v);
#pragma unroll
    for (int i = 0; i < 32; i++)
        n += is_above(most[i], limit);
    return n;
}
__device__ inline int32_t count_above(const uint64_t *candidate, int32_t n, uint64_t v)
{
    int32_t above = 0;
#pragma unroll 1
    for (int32_t first = 0; first < n; first += AHEAD_LANES)
#pragma unroll
        for (int i = 0; i < AHEAD_LANES; i++)
            above += (int32_t)((v - candidate[first + i]) >> 63);
    return above;
}
__device__ inline float sum_of(const float *value, int32_t n)
{
    float sum = 0.0f;
#pragma unroll 1
    for (int32_t first = 0; first < n; first += AHEAD_LANES)
#pragma unroll
        for (int i = 0; i < AHEAD_LANES; i++)
            sum = sum + value[first + i];
    return sum;
}

/* One after the other, each the best below the last: where more than AT_ONCE are as good as the
 * K-th, or that is next to nothing. p: what is to be divided by `all`. */
template <int N>
__device__ inline void choose_slowly(const struct route &r, int32_t row, float *p, float all,
                                     int32_t *near)
{
    int32_t lane = (int32_t)threadIdx.x % 32, left = r.n_expert - lane;
    int32_t *expert = r.expert + (int64_t)row * r.top_k; // expert[row,:]
    float *share = r.share + (int64_t)row * r.top_k;     // share[row,:]
    uint64_t last = UINT64_MAX;
    float sum = 0.0f;
#pragma unroll 1
    for (int i = 0; i < N; i++) { /* one copy of a division, numbers go from hand to hand */
        float q = p[0] / all;
#pragma unroll
        for (int j = 0; j < N - 1; j++)
            p[j] = p[j + 1];
        p[N - 1] = q == q ? q : NAN; /* all with the same bits */
    }
#pragma unroll 1
    for (int32_t k = 0; k < r.top_k; k++) {
        uint64_t best = 0;
#pragma unroll
        for (int j = 0; j < N; j++) {
            uint64_t choice = choice_of(p[j], lane + 32 * j);
            if (32 * j < left && choice < last && choice > best)
                best = choice;
        }
        uint32_t high = (uint32_t)(best >> 32), most = __reduce_max_sync(0xFFFFFFFFu, high);
        last = (uint64_t)most << 32 |
               __reduce_max_sync(0xFFFFFFFFu, high == most ? (uint32_t)best : 0u);
        sum = sum + probability(last);
        if (k % 32 == lane) {
            expert[k] = expert_of(last);
            share[k] = probability(last);
            if (near)
                near[k] = expert_of(last);
        }
    }
#pragma unroll 1
    for (int32_t k = lane; k < r.top_k; k += 32)
        share[k] = share[k] / (sum + 1e-9f);
    __syncwarp();
}

/* One row, by a warp; a lane has the experts lane, lane + 32, ..., N of them. As many lanes as
 * choices have an expert as good as the K-th best of the lanes' best: what is less is not chosen.
 * The others, seldom more than K + 2, each become a lane's, which counts the better ones. What is
 * not there has the numerator 0. near: the choices are left there too, unless it is NULL. Not real:
 * only there. */
template <int N>
__device__ inline void route_row(const struct route &r, int32_t row, struct meeting *m,
                                 int32_t *near, bool real)
{
    int32_t lane = (int32_t)threadIdx.x % 32, left = r.n_expert - lane;
    const float *logits = r.logits + (int64_t)row * r.n_expert; // logits[row,:]
    float p[N], q[N], top = -INFINITY, sum = 0.0f;
#pragma unroll
    for (int j = 0; j < N; j++)
        p[j] = 32 * j < left ? __ldcg(logits + lane + 32 * j) : -INFINITY;
    __syncwarp(); /* the row before has been read */
    m->candidate[lane] = 0;
    m->value[lane] = 0.0f;
#pragma unroll
    for (int j = 0; j < N; j++)
        top = fmaxf(top, p[j]); /* a NaN is passed over */
    top = warp_max(top);
    uint32_t most = 0;
#pragma unroll
    for (int j = 0; j < N; j++) { /* no branch and no predicate, so that they run side by side */
        p[j] = exp_below(p[j] - top);
        sum = sum + p[j];
        most = __float_as_uint(p[j]) > most ? __float_as_uint(p[j]) : most;
    }
    /* A quotient grows with its numerator: the K-th best is found while the sum is under way. */
    m->most[lane] = most;
    __syncwarp();
    bool reached = count_at_least(m->most, most) >= r.top_k;
    sum = warp_sum(sum);
    uint32_t least = __reduce_max_sync(0xFFFFFFFFu, reached ? most : 0u);
    bool plain = sum >= 1.0f && least >= 0x17800000u; /* 2^-80; no NaN among them */
    struct over over_sum = over_of(sum);
#pragma unroll
    for (int j = 0; j < N; j++)
        q[j] = over_sum(p[j]);
    least = __float_as_uint(over_sum(__uint_as_float(least)));
    int32_t n_own = 0, at = 0, n = 0;
    uint32_t limit = one_below(least);
#pragma unroll
    for (int j = 0; j < N; j++)
        n_own += is_above(__float_as_uint(q[j]), limit);
#pragma unroll
    for (int bit = 1; bit <= N; bit *= 2) {
        uint32_t lanes = __ballot_sync(0xFFFFFFFFu, n_own & bit);
        at += bit * __popc(lanes & ((1u << lane) - 1u));
        n += bit * __popc(lanes);
    }
    bool fits = plain && n <= AT_ONCE;
    if (!fits && real) {
        choose_slowly<N>(r, row, p, sum, near);
        return;
    }
    n = fits ? n : AT_ONCE;
#pragma unroll
    for (int j = 0; j < N; j++)
        if (fits && __float_as_uint(q[j]) >= least)
            m->candidate[at++] = choice_of(q[j], lane + 32 * j);
    __syncwarp();
    uint64_t own = m->candidate[lane];
    int32_t rank = count_above(m->candidate, n, own);
    bool chosen = lane < n && rank < r.top_k;
    if (chosen) {
        m->value[rank] = probability(own);
        if (near)
            near[rank] = expert_of(own);
    }
    __syncwarp();
    sum = sum_of(m->value, min(r.top_k, AT_ONCE)); /* a rehearsal may have more */
    if (chosen && real) {
        int64_t to = (int64_t)row * r.top_k + rank;
        r.expert[to] = expert_of(own);                  // expert[row,k]
        r.share[to] = probability(own) / (sum + 1e-9f); // share[row,k]
    }
}

/* ---- plan ---- */

/* The sum of v over the threads before this one; *all: over all of them. place: a value a warp. */
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
#pragma unroll
    for (int32_t i = 0; i < PLAN_WARPS; i++) {
        if (i < warp)
            before += place[i];
        *all += place[i];
    }
    return before + sum - v;
}

/* Shared memory of the plan. */
struct plan {
    int32_t *count; /* [E]: choices of an expert, then the first slot that is free */
    uint32_t *bits; /* [E,words]: the rows of a piece that chose it */
    int32_t words;
};

__device__ inline int32_t expert_within(const struct route &r, int32_t e)
{
    return (uint32_t)e < (uint32_t)r.n_expert ? e : 0;
}

/* f(i, expert, row within the piece) of the choices of the rows [row, row + n_row). A rehearsal
 * finds anything in their place. */
template <class F>
__device__ inline void for_choices(const struct route &r, int32_t row, int32_t n_row, F f)
{
    const int AHEAD = 4; /* under way together */
    int32_t n = n_row * r.top_k;
    const int32_t *expert = r.expert + (int64_t)row * r.top_k; // expert[row,:]
#pragma unroll 1
    for (int32_t first = (int32_t)threadIdx.x; first < n; first += AHEAD * PLAN_THREADS) {
        int32_t e[AHEAD] = {};
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            int32_t i = first + a * PLAN_THREADS;
            if (i < n)
                e[a] = expert_within(r, __ldcg(expert + i));
        }
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            int32_t i = first + a * PLAN_THREADS;
            if (i < n)
                f(i, e[a], i / r.top_k);
        }
    }
}

/* Slots and items of all experts; count becomes the first slot of each. */
__device__ inline void plan_experts(const struct route &r, const struct plan &s, uint64_t *place,
                                    bool real)
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
            if (real)
                r.item[item++] = it;
        }
        slot += n;
    }
    if (threadIdx.x == 0 && real)
        *r.n_item = (int32_t)all;
}

/* A choice lies behind those of the lower rows, which are the bits below its own: rows of a piece,
 * 32 words of them, at a time. */
__device__ inline void plan_slots(const struct route &r, const struct plan &s, uint64_t *place,
                                  int32_t n_all, bool real)
{
    int32_t piece = 32 * s.words;
    for (int32_t i = (int32_t)threadIdx.x; i < r.n_expert * (s.words + 1); i += PLAN_THREADS)
        s.bits[i] = 0; /* and the counts behind them */
    __syncthreads();
    for_choices(r, 0, n_all, [&](int32_t, int32_t e, int32_t in) {
        atomicAdd(&s.count[e], 1);
        if (in < piece)
            atomicOr(&s.bits[e * s.words + in / 32], 1u << in % 32);
    });
    __syncthreads();
    plan_experts(r, s, place, real);
    __syncthreads();
#pragma unroll 1
    for (int32_t row = 0;;) {
        int32_t n_row = n_all - row < piece ? n_all - row : piece;
        for_choices(r, row, n_row, [&](int32_t i, int32_t e, int32_t in) {
            int32_t slot = s.count[e];
            const uint32_t *bits = s.bits + e * s.words; // bits[e,:]
            for (int32_t w = 0; w < in / 32; w++)
                slot += __popc(bits[w]);
            slot += __popc(bits[in / 32] & ((1u << in % 32) - 1u));
            if (real) {
                r.slot[(int64_t)row * r.top_k + i] = slot; // slot[row,k]
                r.slot_row[slot] = row + in;
            }
        });
        row += piece;
        if (row >= n_all)
            return;
        __syncthreads();
        for (int32_t e = (int32_t)threadIdx.x; e < r.n_expert; e += PLAN_THREADS)
            for (int32_t w = 0; w < s.words; w++) {
                s.count[e] += __popc(s.bits[e * s.words + w]);
                s.bits[e * s.words + w] = 0;
            }
        __syncthreads();
        for_choices(r, row, n_all - row < piece ? n_all - row : piece,
                    [&](int32_t, int32_t e, int32_t in) {
                        atomicOr(&s.bits[e * s.words + in / 32], 1u << in % 32);
                    });
        __syncthreads();
    }
}

static __global__ void __launch_bounds__(PLAN_THREADS, 1)
    route_plan(const __grid_constant__ struct route r, int32_t words)
{
    DYNAMIC_SHARED(uint32_t, bits); // [E,words], then count [E]
    __shared__ uint64_t place[PLAN_WARPS];
    start_next();
#pragma unroll 1
    for (int32_t pass = unknown(0); pass < 2; pass = unknown(pass + 1)) {
        bool real = pass == 1;
        if (real)
            wait_for_previous();
        plan_slots(r, {(int32_t *)bits + r.n_expert * words, bits, words}, place,
                   real ? r.n_row : 1, real);
        __syncthreads();
    }
}

/* ---- choice of many rows ---- */

/* A warp a row. */
template <int N>
static __global__ void __launch_bounds__(THREADS, 1)
    route_rows(const __grid_constant__ struct route r)
{
    __shared__ struct meeting meeting[WARPS];
    start_next();
    int32_t warp = (int32_t)threadIdx.x / 32, first = (int32_t)blockIdx.x * WARPS + warp;
#pragma unroll 1
    for (int32_t pass = unknown(0); pass < 2; pass = unknown(pass + 1)) {
        bool real = pass == 1;
        if (real)
            wait_for_previous();
#pragma unroll 1
        for (int32_t row = first; row < r.n_row; row += (int32_t)gridDim.x * WARPS) {
            route_row<N>(r, row, &meeting[warp], nullptr, real);
            if (r.shared_logits)
                softmax(r.shared_logits + (int64_t)row * r.n_shared, r.n_shared, real);
            if (!real)
                break;
        }
    }
}

/* ---- few choices ---- */

/* How many of value[n] are below v, and equal to it: all, and of the first `before`. Behind n, up
 * to whole COUNT_AHEAD, there is NO_EXPERT, which is neither. */
#define NO_EXPERT INT32_MAX
#define COUNT_AHEAD 16
struct counted {
    int32_t below, same, same_before;
};
__device__ inline struct counted count_of(const int32_t *value, int32_t n, int32_t v,
                                          int32_t before)
{
    struct counted c = {};
#pragma unroll 1
    for (int32_t first = 0; first < n; first += COUNT_AHEAD)
#pragma unroll
        for (int i = 0; i < COUNT_AHEAD; i++) {
            int32_t other = value[first + i];
            c.below += is_above((uint32_t)v, (uint32_t)other);
            c.same += other == v;
            c.same_before += other == v && first + i < before;
        }
    return c;
}

/* Choice i of all, a thread; an expert has one item, in the thread that is its first. chosen,
 * first: room for FEW_CHOICES; n_lead: 0, and again in the end. */
__device__ inline void plan_few(const struct route &r, const int32_t *chosen, int32_t *first,
                                int32_t *n_lead, bool real)
{
    int32_t i = (int32_t)threadIdx.x, n = r.n_row * r.top_k, own = NO_EXPERT;
    if (i < n)
        own = chosen[i];
    struct counted c = {};
    if (i < n)
        c = count_of(chosen, n, own, i);
    bool leads = i < n && c.same_before == 0;
    int32_t slot = c.below + c.same_before;
    if (i < FEW_CHOICES)
        first[i] = leads ? own : NO_EXPERT;
    if (leads)
        atomicAdd(n_lead, 1);
    if (i < n && real) {
        r.slot[i] = slot; // slot[row,k]
        r.slot_row[slot] = i / r.top_k;
    }
    __syncthreads();
    if (leads) {
        struct counted lead = count_of(first, n, own, 0);
        if (real)
            r.item[lead.below] = {own, slot, c.same};
    }
    if (i == 0) {
        if (real)
            *r.n_item = *n_lead;
        *n_lead = 0;
    }
}

/* The same for one row, by a warp, in any order: each expert has one choice. */
__device__ inline void plan_one(const struct route &r, const int32_t *chosen, bool real)
{
    int32_t lane = (int32_t)threadIdx.x % 32;
#pragma unroll 1
    for (int32_t k = lane; k < r.top_k; k += 32) {
        int32_t own = chosen[k], slot = count_of(chosen, r.top_k, own, 0).below;
        if (real) {
            r.slot[k] = slot; // slot[0,k]
            r.slot_row[slot] = 0;
            r.item[slot] = {own, slot, 1};
        }
    }
    if (lane == 0 && real)
        *r.n_item = r.top_k;
}

/* Rows, and parts of shared experts, a warp each; at most GEMM_ITEM rows. */
template <int N>
static __global__ void __launch_bounds__(THREADS, 1)
    route_few(const __grid_constant__ struct route r)
{
    alignas(16) __shared__ int32_t chosen[FEW_CHOICES], first[FEW_CHOICES];
    __shared__ struct meeting meeting[WARPS];
    __shared__ int32_t n_lead;
    start_next();
    int32_t warp = (int32_t)threadIdx.x / 32, tasks = r.shared_logits ? 2 * r.n_row : r.n_row;
    if (threadIdx.x < FEW_CHOICES)
        chosen[threadIdx.x] = NO_EXPERT;
    if (threadIdx.x == 0)
        n_lead = 0;
    __syncthreads();
#pragma unroll 1
    for (int32_t pass = unknown(0); pass < 2; pass = unknown(pass + 1)) {
        bool real = pass == 1;
        if (real)
            wait_for_previous();
#pragma unroll 1
        for (int32_t task = warp; task < tasks; task += WARPS)
            if (task < r.n_row)
                route_row<N>(r, task, &meeting[warp], chosen + task * r.top_k, real);
            else
                softmax(r.shared_logits + (int64_t)(task - r.n_row) * r.n_shared, r.n_shared, real);
        if (r.n_row > 1) {
            __syncthreads();
            plan_few(r, chosen, first, &n_lead, real);
            __syncthreads();
        } else if (warp == 0) {
            plan_one(r, chosen, real);
        }
    }
}

extern "C" void route_launch(struct cuda_lane *ln, const struct route *r)
{
    if (r->n_row * r->top_k <= FEW_CHOICES && r->n_row <= GEMM_ITEM && r->n_expert <= FEW_EXPERTS) {
        LAUNCH(route_few<FEW_EXPERTS / 32>, 1, THREADS, 0, ln, *r);
        return;
    }
    int32_t words = (r->n_row + 31) / 32, most = PLAN_WORDS / r->n_expert;
    words = words < most ? words : most;
    size_t bytes = (size_t)r->n_expert * (size_t)(words + 1) * sizeof(int32_t);
    unsigned grid = grid_rows((r->n_row + WARPS - 1) / WARPS);
    auto kernel = r->n_expert <= FEW_EXPERTS ? route_rows<FEW_EXPERTS / 32>
                                             : route_rows<ROUTE_MAX_EXPERT / 32>;
    LAUNCH(kernel, grid, THREADS, 0, ln, *r);
    LAUNCH(route_plan, 1, PLAN_THREADS, bytes, ln, *r, words);
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
    start_and_wait();
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

/* ---- the same for rows of pairs ---- */

/* Two columns a thread, little code: a row of a decode step waits for each of its loads. */
#define PAIR_THREADS 256
#define SHARED_AHEAD 2   /* results of shared experts under way together */
#define PAIR_REHEARSE 16 /* rows of a launch that goes through its code once ahead of the wait */

struct pair {
    float v[2];
};
__device__ inline struct pair unpacked(uint32_t w)
{
    return {{low_of(w), high_of(w)}};
}
/* Past L1: a rehearsal reads it too. */
__device__ inline struct pair pair_at(const bf16 *p)
{
    return unpacked(__ldcg((const uint32_t *)p));
}

__device__ inline void add_pair(struct pair *sum, float share, const struct pair &y)
{
    struct pair part = unpacked(pair_of(share * y.v[0], share * y.v[1]));
    *sum = unpacked(pair_of(sum->v[0] + part.v[0], sum->v[1] + part.v[1]));
}
__device__ inline void add_pair_bias(struct pair *sum, float scale, const float *bias, int32_t i)
{
    struct pair part = unpacked(pair_of(sum->v[0] * scale, sum->v[1] * scale));
    *sum = unpacked(
        pair_of(part.v[0] + (bias ? bias[i] : 0.0f), part.v[1] + (bias ? bias[i + 1] : 0.0f)));
}

static __global__ void __launch_bounds__(PAIR_THREADS)
    sum_pairs(const __grid_constant__ struct moe_sum s)
{
    start_next();
    int32_t dim = s.r.dim, row = (int32_t)blockIdx.x, n = s.r.top_k;
    const int32_t *slot = s.r.slot + (int64_t)row * n; // slot[row,:]
    const float *share = s.r.share + (int64_t)row * n; // share[row,:]
    const float *part =
        s.r.shared_logits ? s.r.shared_logits + (int64_t)row * s.r.n_shared : nullptr;
    const bf16 *y_shared = (const bf16 *)s.y_shared + (int64_t)row * dim;
    bf16 *x = (bf16 *)s.x.data + row * s.x.stride; // x[row,:]
    int32_t at[SUM_AHEAD];
    float part_of[SUM_AHEAD], shared_part[SHARED_AHEAD];
    auto ask = [&](int32_t first) {
#pragma unroll
        for (int a = 0; a < SUM_AHEAD; a++) {
            int32_t k = first + a < n ? first + a : n - 1;
            at[a] = __ldcg(slot + k);
            part_of[a] = __ldcg(share + k);
        }
    };
    ask(0); /* there already: the experts let this launch in behind their own wait */
#pragma unroll
    for (int e = 0; e < SHARED_AHEAD; e++)
        shared_part[e] = part && e < s.r.n_shared ? __ldcg(part + e) : 1.0f;
#pragma unroll 1
    for (int32_t pass = unknown(gridDim.x <= PAIR_REHEARSE ? 0 : 1); pass < 2;
         pass = unknown(pass + 1)) {
        bool real = pass == 1;
        if (real)
            wait_for_previous();
#pragma unroll 1
        for (int32_t i = 2 * (int32_t)threadIdx.x; i < dim; i += 2 * PAIR_THREADS) {
            const bf16 *y = (const bf16 *)s.y + i;
            struct pair sum = {}, shared = {}, before = pair_at(x + i), of_shared[SHARED_AHEAD];
#pragma unroll
            for (int e = 0; e < SHARED_AHEAD; e++) /* under way together with the routed */
                if (e < s.r.n_shared)
                    of_shared[e] = pair_at(y_shared + (int64_t)e * s.r.n_row * dim + i);
#pragma unroll 1
            for (int32_t first = 0; first < n; first += SUM_AHEAD) {
                struct pair v[SUM_AHEAD];
                if (n > SUM_AHEAD)
                    ask(first);
#pragma unroll
                for (int a = 0; a < SUM_AHEAD; a++)
                    v[a] = pair_at(y + (int64_t)at[a] * dim);
#pragma unroll
                for (int a = 0; a < SUM_AHEAD; a++)
                    if (first + a < n)
                        add_pair(&sum, part_of[a], v[a]);
            }
            add_pair_bias(&sum, s.routed_scale, s.bias, i);
            if (s.r.n_shared > 0) {
#pragma unroll
                for (int e = 0; e < SHARED_AHEAD; e++)
                    if (e < s.r.n_shared)
                        add_pair(&shared, shared_part[e], of_shared[e]);
#pragma unroll 1
                for (int32_t e = SHARED_AHEAD; e < s.r.n_shared; e++)
                    add_pair(&shared, part ? __ldcg(part + e) : 1.0f,
                             pair_at(y_shared + (int64_t)e * s.r.n_row * dim + i));
                add_pair_bias(&shared, 1.0f, s.shared_bias, i);
                add_pair(&sum, s.shared_scale, shared);
            }
            if (real)
                *(uint32_t *)(x + i) = pair_of(before.v[0] + sum.v[0], before.v[1] + sum.v[1]);
        }
    }
}

static bool are_pairs(const struct moe_sum *s)
{
    return s->r.dim % 2 == 0 && s->x.stride % 2 == 0 && (uintptr_t)s->x.data % 4 == 0;
}

extern "C" void moe_sum_launch(struct cuda_lane *ln, const struct moe_sum *s)
{
    if (ln->base.be->act_dtype == DTYPE_BF16 && are_pairs(s))
        LAUNCH(sum_pairs, (unsigned)s->r.n_row, PAIR_THREADS, 0, ln, *s);
    else if (ln->base.be->act_dtype == DTYPE_BF16)
        LAUNCH(sum_rows<bf16>, grid_rows(s->r.n_row), SUM_THREADS, 0, ln, *s);
    else
        LAUNCH(sum_rows<float>, grid_rows(s->r.n_row), SUM_THREADS, 0, ln, *s);
}
