/* moe_few.cu - the experts of the rows of a decode step, in two launches, in little code
 * (spec 2.6). Shapes   up to 8 rows [D] that are normed already, their logits [E] and those of
 * shared experts; x [R,D]. bf16, up to 384 experts of which 10 are chosen, 2 shared ones; what more
 * there may be of is below. Launch   up: a block for 8 hidden units of a chosen expert and a row,
 * or of a shared expert and all rows, a warp for each range of k; every warp chooses for itself.
 * down: a block for 16 columns of all experts of a row, a warp a slice; it chooses ahead of the
 * wait, because `up` lets it in behind its own, when the logits are there, so that all of its
 * weights are on their way while `up` runs. So the results of the experts meet in one block, which
 * adds them to x, and nobody plans. Few blocks go through their code once ahead of the wait and
 *          leave nothing behind (rehearse).
 * Roofline latency; an expert that several rows chose comes out of L2 again. A row: up: logits out
 *          of L2 (0.4 us), softmax and 10 rounds (0.8), weights out of DRAM (0.9; 5.9 MB of 12
 *          experts, 1.3), MMAs and tree (0.4). down: hidden units out of L2 (0.4), MMAs, tree and
 *          sum (0.5). Measured before as choice, up, down and sum, H200: 9.3 to 14 us a layer with
 *          what lies between. Predicted: 4 and 2; 8 rows: 7 and 6 instead of 23.
 * Order    as gemm.cu and route.cu, bit for bit: the same chains and trees, choice_impl.cuh,
 *          pair_impl.cuh. */
#include "kernels/cuda/moe_few_impl.h"

#include "kernels/cuda/choice_impl.cuh"
#include "kernels/cuda/gemm_part_impl.cuh"
#include "kernels/cuda/pair_impl.cuh"

#define EXPERTS 384 /* 12 a lane */
#define SHARED 2
#define ROWS 8
#define UP_TILES 8   /* of a range */
#define REHEARSE 660 /* blocks of 128 threads: five for each SM */
/* What a warp of `down` holds: so many chosen experts of so many tiles a slice, and shared ones. */
#define CHOSEN 10
#define CHOSEN_TILES 1
#define SHARED_TILES 3
#define WIDE_CHOSEN 4
#define WIDE_TILES 2
#define WIDE_SHARED_TILES 4

struct few_job {
    struct moe_sum s;
    uint64_t per_expert[2]; /* pack_inverse of the blocks of `up` of one */
    int64_t first_blocks;   /* of `up`: those of g[0] */
    int64_t rehearse;
    struct gemm g[2]; /* chosen and shared experts; of one matrix */
};

/* ---- up ---- */

static __global__ void __launch_bounds__(128, 6) few_up(const __grid_constant__ struct few_job job)
{
    __shared__ float part[4][16][ROWS + 1];
    int32_t lane = (int32_t)threadIdx.x % 32, range = (int32_t)threadIdx.x / 32;
    int32_t block = (int32_t)blockIdx.x, first_blocks = (int32_t)job.first_blocks;
    int32_t side = block < first_blocks ? 0 : 1;
    const struct gemm &g = job.g[side];
    const struct route &r = job.s.r;
    block -= side * first_blocks;
    int32_t i = pack_divide(block, job.per_expert[side]), m = block - i * g.w.n_tile;
    /* A chosen expert, i of all rows', has one row; a shared one has all. */
    int32_t row = side == 0 ? i / r.top_k : 0, n = side == 0 ? 1 : r.n_row;
    int32_t column = lane / 4 < n ? lane / 4 : n - 1;
    int32_t unit = (int32_t)threadIdx.x % 8, at = (int32_t)threadIdx.x / 8; /* a result of `at` */
    uint4 a[UP_TILES];
    const bf16 *tile = (const bf16 *)g.data + tiles_at(&g.w, m, range, 0) + lane * 8;
    if (side == 1)
#pragma unroll
        for (int j = 0; j < UP_TILES; j++)
            a[j] = load_weights16(tile + i * g.expert_step + j * PACK_TILE, j < g.w.range_tile);
#pragma unroll 1
    for (int32_t pass = unknown(job.rehearse ? 0 : 1);; pass = unknown(1)) {
        bool real = pass == 1;
        if (real)
            wait_and_start();
        const bf16 *x = (const bf16 *)g.x + (row + column) * g.x_stride; // x[row,:]
        x += tiles_range_k(&g.w, range) + lane % 4 * 4;
        uint2 b[UP_TILES] = {};
#pragma unroll
        for (int j = 0; j < UP_TILES; j++)
            if (j < g.w.range_tile)
                b[j] = __ldcg((const uint2 *)(x + 16 * j));
        int32_t expert = i;
        if (side == 0) {
            struct choice c = choose<EXPERTS / 32>(r.logits + row * r.n_expert, // logits[row,:]
                                                   r.n_expert, r.top_k);
            expert = __shfl_sync(0xFFFFFFFFu, c.expert, i - row * r.top_k);
#pragma unroll
            for (int j = 0; j < UP_TILES; j++)
                a[j] = load_weights16(tile + expert * g.expert_step + j * PACK_TILE,
                                      real && j < g.w.range_tile);
        }
        struct gemm_place place = {g.bias ? g.bias + expert * g.bias_step : nullptr, g.out};
        struct gemm_early e = {0.0f, 0.0f, 0.0f};
        if (at < n)
            e = bias_of(g, place, 8 * m + unit);
        float c[4] = {};
#pragma unroll
        for (int j = 0; j < UP_TILES; j++)
            if (j < g.w.range_tile)
                mma_k16(c, a[j], b[j].x, b[j].y);
#pragma unroll
        for (int k = 0; k < 4; k++)
            part[range][lane / 4 + k / 2 * 8][lane % 4 * 2 + k % 2] = c[k];
        __syncthreads();
        if (at < n) {
            auto sum = [&](int32_t o) {
                return (part[0][o][at] + part[1][o][at]) + (part[2][o][at] + part[3][o][at]);
            };
            finish_hidden<bf16>(g, place, e, i * n + at, 8 * m + unit, sum(unit), sum(unit + 8),
                                real);
        }
        if (real)
            return;
        __syncthreads();
    }
}

/* ---- down and sum ---- */

/* Weights of one slice and 16 columns; data: of the slice and columns, tail: of its tail. */
template <int TILES> struct slice {
    uint4 a[TILES];
    uint2 tail;

    __device__ void ask(const struct tiles &t, const bf16 *data, const bf16 *tail_data, bool wanted)
    {
#pragma unroll
        for (int j = 0; j < TILES; j++)
            a[j] = load_weights16(data + j * PACK_TILE, wanted && j < t.range_tile);
        tail = load_weights8(tail_data, wanted && t.tail);
    }
    /* Its chain, with the slice's hidden units h, into part[16]. */
    __device__ void multiply(float *part, const struct tiles &t, const bf16 *h, int32_t lane) const
    {
        float c[4] = {};
#pragma unroll
        for (int j = 0; j < TILES; j++)
            if (j < t.range_tile) {
                uint2 b = *(const uint2 *)(h + 16 * j + lane % 4 * 4);
                mma_k16(c, a[j], b.x, b.y);
            }
        if (t.tail)
            mma_k8(c, tail, *(const uint32_t *)(h + 16 * t.range_tile + lane % 4 * 2));
        if (lane % 4 == 0) { /* all columns are the same row */
            part[lane / 4] = c[0];
            part[lane / 4 + 8] = c[2];
        }
    }
};

/* What softmax of route.cu makes of up to 32 numbers, a lane each. */
__device__ inline float part_of_shared(const struct route &r, int32_t row, int32_t lane)
{
    bool exists = lane < r.n_shared;
    float v = exists && r.shared_logits ? __ldcg(r.shared_logits + row * r.n_shared + lane)
                                        : -INFINITY; // shared_logits[row,:]
    float top = warp_max(max_or_b(v, -INFINITY));
    float sum = warp_sum(exists ? 0.0f + exp_below(v - top) : 0.0f);
    return r.shared_logits ? exp_below(v - top) / sum : 1.0f;
}

/* Hidden units of n experts, behind one another, to `to`; `step` from one to the next. */
__device__ inline void copy_units(bf16 *to, const bf16 *from, int32_t n, int32_t k, int32_t step)
{
#pragma unroll 1
    for (int32_t e = (int32_t)threadIdx.x / 32; e < n; e += (int32_t)blockDim.x / 32)
#pragma unroll 1
        for (int32_t i = 8 * ((int32_t)threadIdx.x % 32); i < k; i += 256)
            *(uint4 *)(to + e * k + i) = __ldcg((const uint4 *)(from + e * step + i));
}

/* C chosen experts at most, of TILES tiles a slice, and shared ones of S. */
template <int C, int TILES, int S>
static __global__ void __launch_bounds__(32 * PACK_SLICES, 1)
    few_down(const __grid_constant__ struct few_job job)
{
    DYNAMIC_SHARED(bf16, units); // hidden units of all experts
    __shared__ float part[C + SHARED][PACK_SLICES][16];
    __shared__ float y[C + SHARED][16], share[C + SHARED];
    start_next();
    int32_t lane = (int32_t)threadIdx.x % 32, range = (int32_t)threadIdx.x / 32;
    int32_t m = (int32_t)blockIdx.x, row = (int32_t)blockIdx.y;
    const struct gemm &g = job.g[0], &gs = job.g[1];
    const struct moe_sum &s = job.s;
    int32_t n = s.r.top_k, n_shared = s.r.n_shared;
    struct slice<S> ws[SHARED];
    struct slice<TILES> w[C];
    const bf16 *data = (const bf16 *)gs.data + tiles_at(&gs.w, m, range, 0) + lane * 8;
    const bf16 *tail = (const bf16 *)gs.data + tiles_tail_at(&gs.w, m, range) + lane * 4;
#pragma unroll
    for (int i = 0; i < SHARED; i++)
        ws[i].ask(gs.w, data + i * gs.expert_step, tail + i * gs.expert_step, i < n_shared);
    struct choice chosen = choose<EXPERTS / 32>(s.r.logits + row * s.r.n_expert, // logits[row,:]
                                                s.r.n_expert, n);
    data = (const bf16 *)g.data + tiles_at(&g.w, m, range, 0) + lane * 8;
    tail = (const bf16 *)g.data + tiles_tail_at(&g.w, m, range) + lane * 4;
#pragma unroll
    for (int i = 0; i < C; i++) {
        int64_t at = __shfl_sync(0xFFFFFFFFu, chosen.expert, i) * g.expert_step;
        w[i].ask(g.w, data + at, tail + at, i < n);
    }
    float of_shared = part_of_shared(s.r, row, lane);
    if (range == 0 && lane < n)
        share[lane] = chosen.share;
    if (range == 1 && lane < n_shared)
        share[n + lane] = of_shared;
    int32_t at = (int32_t)threadIdx.x / 16, o = (int32_t)threadIdx.x % 16; /* a result of `at` */
    int32_t column = 16 * m + o, expert = __shfl_sync(0xFFFFFFFFu, chosen.expert, at);
    float bias = 0.0f;
    if (at < n && g.bias && column < g.w.n)
        bias = g.bias[expert * g.bias_step + column];
    if (at >= n && at < n + n_shared && gs.bias && column < g.w.n)
        bias = gs.bias[(at - n) * gs.bias_step + column];
    int32_t first = 2 * (int32_t)threadIdx.x; /* of the columns that a thread of 8 ends */
    bool ends = threadIdx.x < 8 && 16 * m + first < s.r.dim;
    bf16 *x = (bf16 *)s.x.data + row * s.x.stride + 16 * m + first;  // x[row,:]
    const bf16 *from = (const bf16 *)g.x + (int64_t)row * n * g.w.k; // of the row's experts
    const bf16 *from_shared = (const bf16 *)gs.x + (int64_t)row * gs.w.k;
#pragma unroll 1
    for (int32_t pass = unknown(job.rehearse ? 0 : 1);; pass = unknown(1)) {
        bool real = pass == 1;
        if (real)
            wait_for_previous();
        struct pair before = {};
        if (ends)
            before = pair_at(x);
        copy_units(units, from, n, g.w.k, g.w.k);
        copy_units(units + n * g.w.k, from_shared, n_shared, gs.w.k, s.r.n_row * gs.w.k);
        __syncthreads();
        const bf16 *h = units + tiles_range_k(&g.w, range);
#pragma unroll
        for (int i = 0; i < C; i++)
            if (i < n)
                w[i].multiply(part[i][range], g.w, h + i * g.w.k, lane);
        h = units + n * g.w.k + tiles_range_k(&gs.w, range);
#pragma unroll
        for (int i = 0; i < SHARED; i++)
            if (i < n_shared)
                ws[i].multiply(part[n + i][range], gs.w, h + i * gs.w.k, lane);
        __syncthreads();
        if (at < n + n_shared) {
            float v[PACK_SLICES];
#pragma unroll
            for (int k = 0; k < PACK_SLICES; k++)
                v[k] = part[at][k][o];
            float sum = ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
            y[at][o] = rounded<bf16>(sum + bias);
        }
        __syncthreads();
        if (ends) {
            struct pair sum = {}, shared = {};
#pragma unroll 1
            for (int32_t k = 0; k < n; k++)
                add_pair(&sum, share[k], {{y[k][first], y[k][first + 1]}});
            add_pair_bias(&sum, s.routed_scale, s.bias, 16 * m + first);
            if (n_shared > 0) {
#pragma unroll 1
                for (int32_t k = n; k < n + n_shared; k++)
                    add_pair(&shared, share[k], {{y[k][first], y[k][first + 1]}});
                add_pair_bias(&shared, 1.0f, s.shared_bias, 16 * m + first);
                add_pair(&sum, s.shared_scale, shared);
            }
            if (real)
                *(uint32_t *)x = pair_of(before.v[0] + sum.v[0], before.v[1] + sum.v[1]);
        }
        if (real)
            return;
    }
}

/* ---- launching ---- */

extern "C" bool moe_few_fits(const struct cuda_lane *ln, const struct moe_sum *s,
                             const struct gemm *up, const struct gemm *down)
{
    const struct route *r = &s->r;
    bool wide = down->w.range_tile > 1;
    bool fits = ln->base.be->act_dtype == DTYPE_BF16 && r->n_row <= ROWS &&
                r->n_expert <= EXPERTS && r->top_k <= (wide ? WIDE_CHOSEN : CHOSEN) &&
                r->n_shared <= SHARED && r->dim % 2 == 0 && s->x.stride % 2 == 0 &&
                (uintptr_t)s->x.data % 4 == 0 && up[0].w.range_tile <= UP_TILES &&
                down[0].w.range_tile <= WIDE_TILES;
    if (r->n_shared > 0)
        fits = fits && up[1].w.range_tile <= UP_TILES &&
               down[1].w.range_tile <= (wide ? WIDE_SHARED_TILES : SHARED_TILES);
    return fits;
}

extern "C" void moe_few_launch(struct cuda_lane *ln, const struct moe_sum *s, const struct gemm *up,
                               const struct gemm *down)
{
    int n = s->r.n_shared > 0 ? 2 : 1;
    int32_t n_row = s->r.n_row, blocks[2] = {};
    const int32_t count[2] = {s->r.top_k, s->r.n_shared};
    struct few_job job = {};
    job.s = *s;
    size_t units = 0;
    for (int i = 0; i < n; i++) {
        job.g[i] = up[i];
        job.per_expert[i] = pack_inverse(up[i].w.n_tile);
        blocks[i] = (i == 0 ? n_row : 1) * count[i] * up[i].w.n_tile;
        units += (size_t)count[i] * (size_t)down[i].w.k;
    }
    job.first_blocks = blocks[0];
    job.rehearse = blocks[0] + blocks[1] <= REHEARSE;
    LAUNCH(few_up, (unsigned)(blocks[0] + blocks[1]), 128, 0, ln, job);
    for (int i = 0; i < n; i++)
        job.g[i] = down[i];
    auto kernel = down->w.range_tile > 1 ? few_down<WIDE_CHOSEN, WIDE_TILES, WIDE_SHARED_TILES>
                                         : few_down<CHOSEN, CHOSEN_TILES, SHARED_TILES>;
    LAUNCH(kernel, dim3((unsigned)down->w.n_tile, (unsigned)n_row), 32 * PACK_SLICES,
           units * sizeof(bf16), ln, job);
}
