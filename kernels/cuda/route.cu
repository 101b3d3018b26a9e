/* route.cu - the device side of a mixture: choice, plan, gathered rows, sum (spec 2.6).
 * Shapes   logits [R,E] f32; choices [R,K]; slots in groups of 8; x [R,D].
 * Launch   choice: a block of 128 a row, E floats of shared memory. Plan: one block, a thread an
 *          expert. Gather: a block a group. Sum: a block a row.
 * Roofline all small beside the experts' bytes; the plan reads R*K choices once for each expert
 *          out of L1. Measured: not yet on a card.
 * Order    softmax sums as in norm.cu; the best is the larger, then the lower index; shares and
 *          results of a row are added by rank, then shared experts by number. The places of slots
 *          depend on the other rows, the results in them do not. No atomics. */
#include "kernels/cuda/moe_impl.h"

#include "kernels/cuda/device_impl.cuh"

#define THREADS 128

/* Softmax of p[n] in shared memory, in place. */
__device__ inline void softmax(float *p, int32_t n, float *place)
{
    float top = -INFINITY;
    for (int32_t i = 0; i < n; i++)
        top = max_or_b(p[i], top); /* a NaN is passed over */
    __syncthreads();
    float sum = 0.0f;
    for (int32_t i = (int32_t)threadIdx.x; i < n; i += THREADS) {
        p[i] = exp_below(p[i] - top);
        sum = sum + p[i];
    }
    sum = block_sum<THREADS>(sum, place);
    for (int32_t i = (int32_t)threadIdx.x; i < n; i += THREADS)
        p[i] = p[i] / sum;
    __syncthreads();
}

#define TAKEN (-2.0f)     /* in place of a probability that was chosen */
#define NO_NUMBER (-1.0f) /* NaN is less than nothing, but can be chosen */

/* The index of the largest of p[n], the lowest among equals; all threads get it. */
__device__ inline int32_t best_of(const float *p, int32_t n, float *place, int32_t *index)
{
    float best = 2.0f * TAKEN;
    int32_t at = 0;
    for (int32_t i = (int32_t)threadIdx.x; i < n; i += THREADS) {
        float v = p[i] == p[i] ? p[i] : NO_NUMBER;
        if (v > best) {
            best = v;
            at = i;
        }
    }
    place[threadIdx.x] = best;
    index[threadIdx.x] = at;
    for (int apart = THREADS / 2; apart > 0; apart /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < apart) {
            float other = place[threadIdx.x + apart];
            int32_t there = index[threadIdx.x + apart];
            if (other > place[threadIdx.x] ||
                (other == place[threadIdx.x] && there < index[threadIdx.x])) {
                place[threadIdx.x] = other;
                index[threadIdx.x] = there;
            }
        }
    }
    __syncthreads();
    at = index[0];
    __syncthreads();
    return at;
}

/* Block = row. */
static __global__ void route_rows(const __grid_constant__ struct route r)
{
    DYNAMIC_SHARED(float, p); // [max(E, Ns)]
    __shared__ float place[THREADS];
    __shared__ int32_t index[THREADS];
    for (int32_t row = (int32_t)blockIdx.x; row < r.n_row; row += (int32_t)gridDim.x) {
        const float *logits = r.logits + (int64_t)row * r.n_expert; // logits[row,:]
        int32_t *expert = r.expert + (int64_t)row * r.top_k;        // expert[row,:]
        float *share = r.share + (int64_t)row * r.top_k;            // share[row,:]
        for (int32_t i = (int32_t)threadIdx.x; i < r.n_expert; i += THREADS)
            p[i] = logits[i];
        __syncthreads();
        softmax(p, r.n_expert, place);
        float sum = 0.0f;
        for (int32_t k = 0; k < r.top_k; k++) {
            int32_t at = best_of(p, r.n_expert, place, index);
            sum = sum + p[at];
            __syncthreads();
            if (threadIdx.x == 0) {
                expert[k] = at;
                share[k] = p[at];
                p[at] = TAKEN;
            }
            __syncthreads();
        }
        if (threadIdx.x == 0)
            for (int32_t k = 0; k < r.top_k; k++)
                share[k] = share[k] / (sum + 1e-9f);
        if (r.shared_logits) {
            float *parts = r.shared_logits + (int64_t)row * r.n_shared; // shared_logits[row,:]
            for (int32_t i = (int32_t)threadIdx.x; i < r.n_shared; i += THREADS)
                p[i] = parts[i];
            __syncthreads();
            softmax(p, r.n_shared, place);
            for (int32_t i = (int32_t)threadIdx.x; i < r.n_shared; i += THREADS)
                parts[i] = p[i];
        }
        __syncthreads();
    }
}

extern "C" void route_launch(struct cuda_lane *ln, const struct route *r)
{
    int32_t n = r->n_expert > r->n_shared ? r->n_expert : r->n_shared;
    LAUNCH(route_rows, grid_rows(r->n_row), THREADS, (size_t)n * sizeof(float), ln, *r);
}

/* One block; thread e has the experts e, e + blockDim.x, ... */
static __global__ void plan_slots(const __grid_constant__ struct route r)
{
    DYNAMIC_SHARED(int32_t, first_group); // [E + 1], then first_item [E + 1]
    int32_t *first_item = first_group + r.n_expert + 1;
    int64_t n_choice = (int64_t)r.n_row * r.top_k;
    for (int32_t e = (int32_t)threadIdx.x; e < r.n_expert; e += (int32_t)blockDim.x) {
        int32_t n = 0;
        for (int64_t i = 0; i < n_choice; i++)
            n += r.expert[i] == e;
        first_group[e + 1] = (n + 7) / 8;
        first_item[e + 1] = ((n + 7) / 8 + GEMM_GROUPS - 1) / GEMM_GROUPS;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        first_group[0] = first_item[0] = 0;
        for (int32_t e = 0; e < r.n_expert; e++) {
            first_group[e + 1] += first_group[e];
            first_item[e + 1] += first_item[e];
        }
        *r.n_group = first_group[r.n_expert];
        *r.n_item = first_item[r.n_expert];
    }
    __syncthreads();
    for (int32_t e = (int32_t)threadIdx.x; e < r.n_expert; e += (int32_t)blockDim.x) {
        int32_t slot = 8 * first_group[e], last = 8 * first_group[e + 1];
        if (slot == last)
            continue;
        for (int64_t i = 0; i < n_choice; i++)
            if (r.expert[i] == e) {
                r.slot[i] = slot;
                r.slot_row[slot++] = (int32_t)(i / r.top_k);
            }
        for (; slot < last; slot++)
            r.slot_row[slot] = -1;
        int32_t group = first_group[e];
        for (int32_t i = first_item[e]; i < first_item[e + 1]; i++, group += GEMM_GROUPS) {
            int32_t n = first_group[e + 1] - group;
            r.item[i].expert = e;
            r.item[i].first_group = group;
            r.item[i].n_group = n < GEMM_GROUPS ? n : GEMM_GROUPS;
        }
    }
}

extern "C" void plan_launch(struct cuda_lane *ln, const struct route *r)
{
    size_t bytes = 2 * ((size_t)r->n_expert + 1) * sizeof(int32_t);
    LAUNCH(plan_slots, 1, 512, bytes, ln, *r);
}

/* Block = group. A row of a group is 8 values of every 64. */
template <class T>
static __global__ void gather_groups(const __grid_constant__ struct route r, T *groups, const T *x,
                                     int32_t k)
{
    for (int32_t g = (int32_t)blockIdx.x; g < *r.n_group; g += (int32_t)gridDim.x) {
        T *to = groups + (int64_t)g * 8 * k; // groups[g,:,:]
        for (int32_t i = (int32_t)threadIdx.x; i < 8 * k; i += (int32_t)blockDim.x) {
            int32_t row = r.slot_row[8 * g + i / 8 % 8];
            T v = narrow<T>(0.0f);
            if (row >= 0) // x[row / 8,:,row % 8]
                v = x[(int64_t)(row / 8) * 8 * k + group_element(i / 64 * 8 + i % 8, row % 8)];
            to[i] = v;
        }
    }
}

extern "C" void gather_launch(struct cuda_lane *ln, const struct route *r, void *groups,
                              const void *x, int32_t k)
{
    if (ln->base.be->act_dtype == DTYPE_BF16)
        LAUNCH(gather_groups<bf16>, grid_rows(r->max_group), 256, 0, ln, *r, (bf16 *)groups,
               (const bf16 *)x, k);
    else
        LAUNCH(gather_groups<float>, grid_rows(r->max_group), 256, 0, ln, *r, (float *)groups,
               (const float *)x, k);
}

/* Rounded where spec 6.1 rounds: every product, every sum. Block = row. */
template <class T> static __global__ void sum_rows(const __grid_constant__ struct moe_sum s)
{
    for (int32_t row = (int32_t)blockIdx.x; row < s.r.n_row; row += (int32_t)gridDim.x) {
        const int32_t *slot = s.r.slot + (int64_t)row * s.r.top_k; // slot[row,:]
        const float *share = s.r.share + (int64_t)row * s.r.top_k; // share[row,:]
        T *x = (T *)s.x.data + row * s.x.stride;                   // x[row,:]
        for (int32_t i = (int32_t)threadIdx.x; i < s.r.dim; i += THREADS) {
            float sum = 0.0f;
            for (int32_t k = 0; k < s.r.top_k; k++) {
                float y = widen(((const T *)s.y)[(int64_t)slot[k] * s.r.dim + i]); // y[slot,i]
                sum = rounded<T>(sum + rounded<T>(share[k] * y));
            }
            sum = rounded<T>(rounded<T>(sum * s.routed_scale) + (s.bias ? s.bias[i] : 0.0f));
            float shared = 0.0f;
            for (int32_t e = 0; e < s.r.n_shared; e++) {
                int64_t at = (int64_t)e * s.r.n_row + row;
                float y = widen(((const T *)s.y_shared)[at * s.r.dim + i]); // y_shared[e,row,i]
                float part =
                    s.r.shared_logits ? s.r.shared_logits[(int64_t)row * s.r.n_shared + e] : 1.0f;
                shared = rounded<T>(shared + rounded<T>(part * y));
            }
            if (s.r.n_shared > 0) {
                shared = rounded<T>(shared + (s.shared_bias ? s.shared_bias[i] : 0.0f));
                sum = rounded<T>(sum + rounded<T>(shared * s.shared_scale));
            }
            x[i] = narrow<T>(widen(x[i]) + sum);
        }
    }
}

extern "C" void moe_sum_launch(struct cuda_lane *ln, const struct moe_sum *s)
{
    if (ln->base.be->act_dtype == DTYPE_BF16)
        LAUNCH(sum_rows<bf16>, grid_rows(s->r.n_row), THREADS, 0, ln, *s);
    else
        LAUNCH(sum_rows<float>, grid_rows(s->r.n_row), THREADS, 0, ln, *s);
}
