/* attend.cu - rows of keys and values into their blocks, and attention over blocks.
 * Shapes   q, k, v, gate, out [R, heads*hd] of any stride; blocks of 64 keys (pack_impl.h); hd up
 *          to 256.
 * Launch   store: grid rows x heads, block 64; whole memories: 32 keys x heads. attend: grid rows x
 *          heads, 8 warps; a warp takes a split, 8 splits make a round. It serves f32, and heads
 *          that the kernels of attend_tile_impl.cuh have no tiles for.
 * Roofline decode reads each key and value once a query head: memory-bound, 2 hd values a key;
 *          K and V are read Hq/Hk times, out of L1 and L2. Plain fmaf, to check by, not for speed.
 *          Not timed by itself yet (docs/bench: whole steps).
 * Order    attend_impl.h. */
#include "kernels/cuda/attend_impl.h"

#include "kernels/cuda/attend_impl.cuh"

#define WARPS 8
#define COLUMNS (BACKEND_HEAD_MAX / 32) /* of a head, for each lane */

/* ---- store ---- */

template <class T> static __global__ void store_rows(const __grid_constant__ struct store_job job)
{
    start_and_wait();
    int32_t head = (int32_t)blockIdx.y, dim = job.dim;
    for (int32_t r = (int32_t)blockIdx.x; r < job.n_row; r += (int32_t)gridDim.x) {
        const struct attend_seq *s = seq_with<&attend_seq::first_row>(&job, r);
        int32_t i = r - s->first_row, at = job.from_zero ? i : s->start + i;
        T *block = block_of<T>(&s->keys, at / KV_BLOCK, head);
        const T *k = (const T *)job.k.data + r * job.k.stride + head * dim; // k[r,head,:]
        const T *v = (const T *)job.v.data + r * job.v.stride + head * dim; // v[r,head,:]
        T *to_v = block + KV_BLOCK * dim;
        for (int32_t d = (int32_t)threadIdx.x; d < dim; d += (int32_t)blockDim.x)
            to_v[value_element(dtype_of<T>::value, dim, at % KV_BLOCK, d)] = v[d];
        if (!job.cos) {
            for (int32_t d = (int32_t)threadIdx.x; d < dim; d += (int32_t)blockDim.x)
                block[key_element(dim, at % KV_BLOCK, d)] = k[d];
            continue;
        }
        int64_t angle = (int64_t)(s->start + i) * (dim / 2); // cos[position,:]
        for (int32_t j = (int32_t)threadIdx.x; j < dim / 2; j += (int32_t)blockDim.x) {
            float even = widen(k[2 * j]), odd = widen(k[2 * j + 1]);
            rotate<T>(&even, &odd, job.cos + angle + j, job.sin + angle + j);
            int32_t to = key_element(dim, at % KV_BLOCK, 2 * j);
            block[to] = narrow<T>(even);
            block[to + 1] = narrow<T>(odd);
        }
    }
}

/* All keys of the sequences from 0 on: block = 32 of them and a head. Each thread writes 8 values
 * of a column at once; the tail of the last 32 becomes zeros. */
static __global__ void store_tiles(const __grid_constant__ struct store_job job)
{
    start_and_wait();
    int32_t head = (int32_t)blockIdx.y, dim = job.dim;
    const struct attend_seq *s = seq_with<&attend_seq::first_tile>(&job, (int32_t)blockIdx.x);
    int32_t first = ((int32_t)blockIdx.x - s->first_tile) * 32, n = s->n_row - first;
    bf16 *block = block_of<bf16>(&s->keys, first / KV_BLOCK, head);
    bf16 *values = block + KV_BLOCK * dim + value_element(DTYPE_BF16, dim, first % KV_BLOCK, 0);
    const bf16 *k = (const bf16 *)job.k.data + (s->first_row + first) * job.k.stride + head * dim;
    const bf16 *v = (const bf16 *)job.v.data + (s->first_row + first) * job.v.stride + head * dim;
    for (int32_t i = (int32_t)threadIdx.x; i < 4 * dim; i += (int32_t)blockDim.x) {
        int32_t d = i % dim, row = i / dim * 8;
        uint32_t w[4];
#pragma unroll
        for (int32_t j = 0; j < 4; j++) {
            w[j] = 0;
            if (row + 2 * j < n)
                w[j] = v[(row + 2 * j) * job.v.stride + d];
            if (row + 2 * j + 1 < n)
                w[j] |= (uint32_t)v[(row + 2 * j + 1) * job.v.stride + d] << 16;
        }
        *(uint4 *)(values + d * 32 + row) = {w[0], w[1], w[2], w[3]};
    }
    for (int32_t i = (int32_t)threadIdx.x; i < 16 * dim; i += (int32_t)blockDim.x) {
        int32_t row = i / (dim / 2), j = i % (dim / 2);
        if (row >= n)
            break;
        const bf16 *from = k + row * job.k.stride + 2 * j;
        bf16 *to = block + key_element(dim, (first + row) % KV_BLOCK, 2 * j);
        float even = widen(from[0]), odd = widen(from[1]);
        if (job.cos) {
            int64_t angle = (int64_t)(s->start + first + row) * (dim / 2) + j; // cos[position,j]
            rotate<bf16>(&even, &odd, job.cos + angle, job.sin + angle);
        }
        to[0] = bf16_of(even);
        to[1] = bf16_of(odd);
    }
}

extern "C" void store_launch(struct cuda_lane *ln, struct store_job *job)
{
    if (job->n_row == 0)
        return;
    if (ln->base.be->act_dtype == DTYPE_BF16 && job->from_zero && job->dim % 8 == 0) {
        int32_t n_tile = attend_number_tiles(job->seq, job->n_seq, 1, 32);
        job->seq = attend_put(ln, job->n_seq);
        LAUNCH(store_tiles, dim3((unsigned)n_tile, (unsigned)job->n_head), 128, 0, ln, *job);
        return;
    }
    job->seq = attend_put(ln, job->n_seq);
    dim3 grid(grid_rows(job->n_row), (unsigned)job->n_head);
    if (ln->base.be->act_dtype == DTYPE_BF16)
        LAUNCH(store_rows<bf16>, grid, 64, 0, ln, *job);
    else
        LAUNCH(store_rows<float>, grid, 64, 0, ln, *job);
}

/* ---- attend ---- */

/* Of a block, behind one another: q [hd]; a warp's scores [64]; of the splits of a round maximum,
 * sum and p.v [hd]. */
struct attend_place {
    float *q, *p, *top, *sum, *total;
};

__device__ inline struct attend_place places(float *shared, int32_t dim)
{
    struct attend_place a;
    a.q = shared;
    a.p = a.q + dim;
    a.top = a.p + WARPS * KV_BLOCK;
    a.sum = a.top + WARPS;
    a.total = a.sum + WARPS;
    return a;
}
static size_t place_bytes(int32_t dim)
{
    return sizeof(float) * (size_t)(dim + WARPS * KV_BLOCK + 2 * WARPS + WARPS * dim);
}

/* The warp's scores of up to 64 keys of a block; the highest. */
template <class T>
__device__ inline float score_block(float *p, const float *q, const T *block, int32_t n,
                                    int32_t dim, int32_t lane)
{
    float top = -INFINITY;
    for (int32_t t = lane; t < KV_BLOCK; t += 32) {
        float score = -INFINITY;
        if (t < n) {
            score = 0.0f;
            for (int32_t d = 0; d < dim; d++)
                score = fmaf(q[d], widen(block[key_element(dim, t, d)]), score);
        }
        p[t] = score;
        top = max_or_b(score, top);
    }
    for (int apart = 16; apart > 0; apart /= 2)
        top = max_or_b(__shfl_xor_sync(0xFFFFFFFFu, top, apart), top);
    return top;
}

/* One split of a query head by one warp: keys [first, last). */
template <class T>
__device__ inline void attend_split(struct attend_place *a, const struct attend_keys *keys,
                                    int32_t head, int32_t first, int32_t last, int32_t dim,
                                    int32_t warp, int32_t lane)
{
    float top = -INFINITY, sum = 0.0f, total[COLUMNS];
    float *p = a->p + warp * KV_BLOCK; // p[warp,:]
#pragma unroll
    for (int32_t j = 0; j < COLUMNS; j++)
        total[j] = 0.0f;
    for (int32_t key = first; key < last; key += KV_BLOCK) {
        int32_t n = last - key < KV_BLOCK ? last - key : KV_BLOCK;
        const T *block = block_of<T>(keys, key / KV_BLOCK, head);
        const T *values = block + KV_BLOCK * dim;
        float high = score_block(p, a->q, block, n, dim, lane);
        high = max_or_b(top, dtype_of<T>::value == DTYPE_BF16 ? ceilf(high) : high);
        float fade = key == first ? 0.0f : exp2_below(top - high), part = 0.0f;
        top = high;
        for (int32_t t = lane; t < n; t += 32) {
            float e = rounded<T>(exp2_below(p[t] - top));
            p[t] = e;
            part = part + e;
        }
        for (int apart = 16; apart > 0; apart /= 2)
            part = part + __shfl_xor_sync(0xFFFFFFFFu, part, apart);
        sum = key == first ? part : fmaf(sum, fade, part);
        __syncwarp();
#pragma unroll
        for (int32_t j = 0; j < COLUMNS; j++) {
            int32_t d = lane + 32 * j;
            if (d < dim) {
                float c = key == first ? 0.0f : total[j] * fade;
                for (int32_t t = 0; t < n; t++)
                    c = fmaf(p[t], widen(values[value_element(dtype_of<T>::value, dim, t, d)]), c);
                total[j] = c;
            }
        }
        __syncwarp();
    }
    if (lane == 0) {
        a->top[warp] = top;
        a->sum[warp] = sum;
    }
#pragma unroll
    for (int32_t j = 0; j < COLUMNS; j++)
        if (lane + 32 * j < dim)
            a->total[warp * dim + lane + 32 * j] = total[j];
}

/* A column of the context so far. */
struct merged {
    float top, sum, total;
};

/* Merges the n splits of a round into column d. */
__device__ inline void merge_round(struct merged *m, const struct attend_place *a, int32_t n,
                                   int32_t dim, int32_t d, bool is_first)
{
    for (int32_t w = 0; w < n; w++) {
        float top = a->top[w], sum = a->sum[w], total = a->total[w * dim + d];
        if (is_first && w == 0) {
            m->top = top;
            m->sum = sum;
            m->total = total;
            continue;
        }
        float high = max_or_b(m->top, top);
        float before = exp2_below(m->top - high), now = exp2_below(top - high);
        m->top = high;
        m->sum = fmaf(m->sum, before, sum * now);
        m->total = fmaf(m->total, before, total * now);
    }
}

template <class T> static __global__ void attend_rows(const __grid_constant__ struct attend_job job)
{
    DYNAMIC_SHARED(float, shared);
    start_and_wait();
    int32_t dim = job.heads.dim, head = (int32_t)blockIdx.y;
    int32_t n_q = job.heads.n_q, n_kv = job.heads.n_kv;
    int32_t q_head = head % n_q, kv_head = n_q >= n_kv ? head / (n_q / n_kv) : head;
    int32_t warp = (int32_t)threadIdx.x / 32, lane = (int32_t)threadIdx.x % 32;
    int32_t column = (int32_t)threadIdx.x; /* of the head; the block has BACKEND_HEAD_MAX threads */
    struct attend_place a = places(shared, dim);
    float scale = 1.44269504f / sqrtf((float)dim); /* log2 e / sqrt(hd) */
    for (int32_t r = (int32_t)blockIdx.x; r < job.n_row; r += (int32_t)gridDim.x) {
        const struct attend_seq *s = seq_with<&attend_seq::first_row>(&job, r);
        int32_t position = s->start + (r - s->first_row);
        int32_t n_key = job.causal ? position + 1 : s->n_key;
        const T *q = (const T *)job.q.data + r * job.q.stride + q_head * dim; // q[r,head,:]
        if (!job.cos && column < dim)
            a.q[column] = widen(q[column]) * scale;
        if (job.cos && column < dim / 2) {
            float even = widen(q[2 * column]), odd = widen(q[2 * column + 1]);
            int64_t angle = (int64_t)position * (dim / 2) + column; // cos[position,column]
            rotate<T>(&even, &odd, job.cos + angle, job.sin + angle);
            a.q[2 * column] = even * scale;
            a.q[2 * column + 1] = odd * scale;
        }
        __syncthreads();
        struct merged m = {0.0f, 0.0f, 0.0f};
        for (int32_t first = 0; first < n_key; first += WARPS * job.split) {
            int32_t from = first + warp * job.split;
            int32_t left = n_key - first, n = (left + job.split - 1) / job.split;
            if (from < n_key)
                attend_split<T>(&a, &s->keys, kv_head, from,
                                n_key - from < job.split ? n_key : from + job.split, dim, warp,
                                lane);
            __syncthreads();
            if (column < dim)
                merge_round(&m, &a, n < WARPS ? n : WARPS, dim, column, first == 0);
            __syncthreads();
        }
        if (column < dim) {
            float o = rounded<T>(m.total / m.sum);
            int64_t at = (int64_t)head * dim + column;
            if (job.heads.gate != ACT_NONE) {
                float gate = widen(((const T *)job.gate.data)[r * job.gate.stride + at]);
                o = o * rounded<T>(act_of(job.heads.gate, gate)); // gate[r,head,column]
            }
            ((T *)job.out.data)[r * job.out.stride + at] = narrow<T>(o); // out[r,head,column]
        }
        __syncthreads();
    }
}

extern "C" bool attend_tile_fits(const struct cuda_lane *ln, const struct attend_job *job)
{
    int32_t dim = job->heads.dim;
    return ln->base.be->act_dtype == DTYPE_BF16 &&
           (dim == 16 || dim == 24 || dim == 32 || dim == 64) && attend_group(&job->heads) <= 16;
}

extern "C" void attend_launch(struct cuda_lane *ln, struct attend_job *job)
{
    if (job->n_row == 0)
        return;
    if (attend_tile_fits(ln, job)) {
        (job->chain ? attend_chain_launch : attend_splits_launch)(ln, job);
        return;
    }
    int32_t n = attend_outputs(&job->heads);
    dim3 grid(grid_rows(job->n_row), (unsigned)n);
    size_t bytes = place_bytes(job->heads.dim);
    job->seq = attend_put(ln, job->n_seq);
    if (ln->base.be->act_dtype == DTYPE_BF16)
        LAUNCH(attend_rows<bf16>, grid, 32 * WARPS, bytes, ln, *job);
    else
        LAUNCH(attend_rows<float>, grid, 32 * WARPS, bytes, ln, *job);
}
