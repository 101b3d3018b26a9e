/* experts_few.cu - the experts of a mixture for up to 8 rows, behind their choice: both matrices of
 * those that were chosen and of shared ones, and the sum (spec 2.6), in little code.
 * Shapes   as gemm.cu, by items of up to 8 rows; D <= 512, F / 8 <= 48 and a tail.
 * Launch   two, of 8 warps a block. First matrix: a block for 2 tiles of 16 outputs of an expert, a
 *          warp a range of k. Second: for 32 outputs, a warp a slice; the block that is last to
 *          arrive at them adds up the experts of all rows, a warp a row, 2 columns a lane. It reads
 *          items and plan, and asks for its weights, ahead of its wait, because the first lets it
 *          in behind its own. Both go through their code once ahead of the wait (rehearse).
 * Roofline latency: weights out of DRAM (0.9 us), rows, MMAs and end (0.8); arrival and sum (1.3).
 *          gemm_rows twice and sum_pairs: 10.2 us for a row of beta-3b, 15.7 for 8 (H200, CUPTI).
 * Order    products: gemm.cu; sum: route.cu. Bit for bit. */
#include "kernels/cuda/experts_few_impl.h"

#include "kernels/cuda/gemm_part_impl.cuh"
#include "kernels/cuda/moe_sum_impl.cuh"

#define ROWS EXPERTS_FEW
#define WARPS 8
#define RANGES 4       /* of k in the first matrix */
#define UP_TILES 2     /* of 16 outputs, 8 hidden units: a block's */
#define UP_HELD 8      /* tiles of a range */
#define DOWN_TILES 2   /* of 16 outputs: a block's */
#define DOWN_HELD 3    /* tiles of a slice */
#define MOST_CHOSEN 32 /* experts of a row, a lane each */
#define BLOCKS 264     /* that are on the card together: two for each SM */

struct few_experts {
    struct moe_sum s;
    int32_t *arrived;       /* second matrix: [its pieces], zeros before and after */
    int32_t routed_blocks;  /* they come behind the shared ones, and go on */
    int32_t pieces[2];      /* of an expert: what one block takes at a time */
    uint64_t per_expert[2]; /* pack_inverse of it */
    struct gemm g[2];       /* routed, shared */
};

/* Item i of the plan, past L1; expert negative: there are no more. */
__device__ inline struct gemm_item item_at(const struct route &r, int32_t i)
{
    const struct gemm_item *at = r.item + (i < r.max_item ? i : 0);
    struct gemm_item it = {__ldcg(&at->expert), __ldcg(&at->first), __ldcg(&at->n)};
    if (i >= __ldcg(r.n_item))
        it.expert = -1;
    return it;
}

/* Where this block begins: piece `piece` of expert i of a side, of routed ones the i-th chosen. */
struct task {
    int32_t side, at, i, piece;

    __device__ task(const struct few_experts &s)
    {
        int32_t shared_blocks = (int32_t)gridDim.x - s.routed_blocks;
        side = (int32_t)blockIdx.x < shared_blocks ? 1 : 0;
        at = (int32_t)blockIdx.x - (side == 0 ? shared_blocks : 0);
        find(s);
    }
    __device__ void find(const struct few_experts &s)
    {
        i = pack_divide(at, s.per_expert[side]);
        piece = at - i * s.pieces[side];
    }
    __device__ void go_on(const struct few_experts &s)
    {
        at += s.routed_blocks;
        find(s);
    }
};

__device__ inline struct gemm_place place_of(const struct gemm &g, int32_t side, int32_t expert)
{
    size_t value = sizeof(bf16);
    return {g.bias ? g.bias + expert * g.bias_step : nullptr,
            side == 0 ? g.out : (char *)g.out + (size_t)(expert * g.out_step) * value};
}

/* ---- first matrix ---- */

static __global__ void __launch_bounds__(32 * WARPS, 3)
    experts_few_up(const __grid_constant__ struct few_experts s)
{
    __shared__ float part[UP_TILES][RANGES][16][ROWS + 1];
    int32_t lane = (int32_t)threadIdx.x % 32, warp = (int32_t)threadIdx.x / 32;
    int32_t range = warp % RANGES, tile = warp / RANGES;
    struct task t(s);
    const struct route &r = s.s.r;
    const struct gemm &g = s.g[t.side];
    bool routed = t.side == 0;
    /* What a thread ends: unit `unit` of tile `of` of row `row`. */
    int32_t unit = lane % 8, row = (int32_t)threadIdx.x / 8 % ROWS, of = (int32_t)threadIdx.x / 64;
    if (!routed && UP_TILES * t.piece + tile < g.w.n_tile && lane % 8 == 0)
        for (int32_t j = 0; j < g.w.range_tile; j++) /* there is time until the plan is there */
            prefetch((const bf16 *)g.data + t.i * g.expert_step +
                     tiles_at(&g.w, UP_TILES * t.piece + tile, range, j) + lane * 8);
#pragma unroll 1
    for (int32_t pass = unknown(0); pass < 2; pass = unknown(pass + 1)) {
        bool real = pass == 1;
        if (real)
            wait_and_start();
#pragma unroll 1
        for (bool more = true; more; more = real && routed) {
            struct gemm_item it = {t.i, 0, r.n_row};
            if (routed)
                it = item_at(r, t.i);
            if (!real)
                it = {0, 0, 1}; /* anything may lie there */
            if (it.expert < 0)
                break;
            uint4 a[UP_HELD];
            uint2 b[UP_HELD] = {};
            const bf16 *weights = (const bf16 *)g.data + it.expert * g.expert_step +
                                  tiles_at(&g.w, UP_TILES * t.piece + tile, range, 0) + lane * 8;
            bool wanted = real && UP_TILES * t.piece + tile < g.w.n_tile;
#pragma unroll
            for (int j = 0; j < UP_HELD; j++)
                a[j] = load_weights16(weights + j * PACK_TILE, wanted && j < g.w.range_tile);
            int32_t x_row = lane / 4 < it.n ? lane / 4 : it.n - 1;
            if (routed && real && r.n_row > 1)
                x_row = __ldcg(r.slot_row + it.first + x_row);
            else if (routed)
                x_row = 0;
            const bf16 *x = (const bf16 *)g.x + x_row * g.x_stride + tiles_range_k(&g.w, range) +
                            lane % 4 * 4; // x[row,:]
#pragma unroll
            for (int j = 0; j < UP_HELD; j++)
                if (j < g.w.range_tile)
                    b[j] = __ldcg((const uint2 *)(x + 16 * j));
            int32_t number = (UP_TILES * t.piece + of) * 8 + unit;
            struct gemm_place place = place_of(g, t.side, it.expert);
            struct gemm_early early = bias_of(g, place, number);
            float sum[4] = {};
#pragma unroll
            for (int j = 0; j < UP_HELD; j++)
                if (j < g.w.range_tile)
                    mma_k16(sum, a[j], b[j].x, b[j].y);
#pragma unroll
            for (int i = 0; i < 4; i++)
                part[tile][range][lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2] = sum[i];
            __syncthreads();
            if (row < it.n && of < UP_TILES && number < 8 * g.w.n_tile) {
                auto y = [&](int32_t o) {
                    return (part[of][0][o][row] + part[of][1][o][row]) +
                           (part[of][2][o][row] + part[of][3][o][row]);
                };
                finish_hidden<bf16>(g, place, early, it.first + row, number, y(unit), y(unit + 8),
                                    real);
            }
            __syncthreads();
            if (real)
                t.go_on(s);
        }
    }
}

/* ---- second matrix ---- */

/* x += routed + shared of the block's columns from `column` on, by a warp a row; own_slot,
 * own_share: of choice `lane` of its row. */
__device__ inline void sum_columns(const struct few_experts &s, int32_t column, int32_t own_slot,
                                   float own_share, bool real)
{
    const struct route &r = s.s.r;
    int32_t row = (int32_t)threadIdx.x / 32, two = 2 * ((int32_t)threadIdx.x % 32), dim = r.dim;
    int32_t n = r.top_k, i = two < 16 * DOWN_TILES && column + two < dim ? column + two : column;
    if (row >= r.n_row)
        return;
    const float *part = r.shared_logits ? r.shared_logits + row * r.n_shared : nullptr;
    bf16 *x = (bf16 *)s.s.x.data + row * s.s.x.stride + i;                      // x[row,i]
    const bf16 *y = (const bf16 *)s.s.y + i;                                    // y[:,i]
    const bf16 *y_shared = (const bf16 *)s.s.y_shared + (int64_t)row * dim + i; // y_shared[:,row,i]
    struct pair sum = {}, shared = {}, before = pair_at(x), of_shared[SHARED_AHEAD];
#pragma unroll
    for (int e = 0; e < SHARED_AHEAD; e++) /* under way together with the routed */
        if (e < r.n_shared)
            of_shared[e] = pair_at(y_shared + (int64_t)e * r.n_row * dim);
#pragma unroll 1
    for (int32_t k = 0; k < n; k += SUM_AHEAD) {
        struct pair v[SUM_AHEAD];
        float share[SUM_AHEAD];
#pragma unroll
        for (int a = 0; a < SUM_AHEAD; a++) {
            int32_t of = k + a < n ? k + a : n - 1;
            int32_t slot = __shfl_sync(0xFFFFFFFFu, own_slot, of);
            share[a] = __shfl_sync(0xFFFFFFFFu, own_share, of);
            v[a] = pair_at(y + (int64_t)slot * dim);
        }
#pragma unroll
        for (int a = 0; a < SUM_AHEAD; a++)
            if (k + a < n)
                add_pair(&sum, share[a], v[a]);
    }
    add_pair_bias(&sum, s.s.routed_scale, s.s.bias, i);
    if (r.n_shared > 0) {
#pragma unroll
        for (int e = 0; e < SHARED_AHEAD; e++)
            if (e < r.n_shared)
                add_pair(&shared, part ? __ldcg(part + e) : 1.0f, of_shared[e]);
#pragma unroll 1
        for (int32_t e = SHARED_AHEAD; e < r.n_shared; e++)
            add_pair(&shared, part ? __ldcg(part + e) : 1.0f,
                     pair_at(y_shared + (int64_t)e * r.n_row * dim));
        add_pair_bias(&shared, 1.0f, s.s.shared_bias, i);
        add_pair(&sum, s.s.shared_scale, shared);
    }
    if (real && i == column + two)
        *(uint32_t *)x = pair_of(before.v[0] + sum.v[0], before.v[1] + sum.v[1]);
}

static __global__ void __launch_bounds__(32 * WARPS, 2)
    experts_few_down(const __grid_constant__ struct few_experts s)
{
    __shared__ float part[PACK_SLICES][16 * DOWN_TILES][ROWS + 1];
    start_next();
    int32_t lane = (int32_t)threadIdx.x % 32, slice = (int32_t)threadIdx.x / 32;
    struct task t(s);
    const struct route &r = s.s.r;
    const struct gemm &g = s.g[t.side];
    bool routed = t.side == 0;
    uint4 a[DOWN_TILES][DOWN_HELD];
    uint2 tail[DOWN_TILES];
    struct gemm_item it = {t.i, 0, r.n_row};
    auto hold = [&]() {
        if (routed)
            it = item_at(r, t.i); /* it is there: see above */
        const bf16 *data = (const bf16 *)g.data + it.expert * g.expert_step;
#pragma unroll
        for (int mt = 0; mt < DOWN_TILES; mt++) {
            int32_t m = DOWN_TILES * t.piece + mt;
            const bf16 *tile = data + tiles_at(&g.w, m, slice, 0) + lane * 8;
            bool wanted = m < g.w.n_tile && it.expert >= 0;
#pragma unroll
            for (int j = 0; j < DOWN_HELD; j++)
                a[mt][j] = load_weights16(tile + j * PACK_TILE, wanted && j < g.w.range_tile);
            tail[mt] =
                load_weights8(data + tiles_tail_at(&g.w, m, slice) + lane * 4, wanted && g.w.tail);
        }
    };
    hold();
    int32_t all = __ldcg(r.n_item) + r.n_shared;
    int32_t row = slice, o = 2 * lane; /* a thread ends outputs o and o + 1 of a warp's row */
    bool has = row < r.n_row && lane < r.top_k;
    int32_t own_slot = has ? __ldcg(r.slot + row * r.top_k + lane) : 0; // slot[row,k]
    float own_share = has ? __ldcg(r.share + row * r.top_k + lane) : 0; // share[row,k]
#pragma unroll 1
    for (int32_t pass = unknown(0); pass < 2; pass = unknown(pass + 1)) {
        bool real = pass == 1;
        if (real)
            wait_for_previous();
#pragma unroll 1
        for (bool more = true; more && it.expert >= 0; more = real && routed) {
            int32_t x_row = lane / 4 < it.n ? lane / 4 : it.n - 1;
            const bf16 *x = (const bf16 *)g.x + (routed ? 0 : it.expert * g.x_step) +
                            (it.first + x_row) * g.x_stride +
                            tiles_range_k(&g.w, slice); // x[row,:]
            uint2 b[DOWN_HELD] = {};
            uint32_t b_tail = 0;
#pragma unroll
            for (int j = 0; j < DOWN_HELD; j++)
                if (j < g.w.range_tile)
                    b[j] = __ldcg((const uint2 *)(x + 16 * j + lane % 4 * 4));
            if (g.w.tail)
                b_tail = __ldcg((const uint32_t *)(x + 16 * g.w.range_tile + lane % 4 * 2));
#pragma unroll
            for (int mt = 0; mt < DOWN_TILES; mt++) {
                float sum[4] = {};
#pragma unroll
                for (int j = 0; j < DOWN_HELD; j++)
                    if (j < g.w.range_tile)
                        mma_k16(sum, a[mt][j], b[j].x, b[j].y);
                if (g.w.tail)
                    mma_k8(sum, tail[mt], b_tail);
#pragma unroll
                for (int i = 0; i < 4; i++)
                    part[slice][16 * mt + lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2] = sum[i];
            }
            __syncthreads();
            int32_t number = 16 * DOWN_TILES * t.piece + o;
            if (row < it.n && o < 16 * DOWN_TILES && number < r.dim) {
                struct gemm_place place = place_of(g, t.side, it.expert);
                float y[2];
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    auto of = [&](int range) { return part[range][o + i][row]; };
                    y[i] =
                        ((of(0) + of(1)) + (of(2) + of(3))) + ((of(4) + of(5)) + (of(6) + of(7)));
                    y[i] = y[i] + (place.bias ? place.bias[number + i] : 0.0f);
                }
                if (real)
                    *(uint32_t *)((bf16 *)place.out + (int64_t)(it.first + row) * g.out_stride +
                                  number) = pair_of(y[0], y[1]); // out[row,number]
            }
            if (arrives_last(s.arrived + t.piece, all, real))
                sum_columns(s, 16 * DOWN_TILES * t.piece, own_slot, own_share, real);
            if (!real || !routed)
                break;
            t.go_on(s);
            hold();
        }
    }
}

/* ---- launching ---- */

static int32_t pieces_of(const struct gemm *g, int32_t tiles)
{
    return (g->w.n_tile + tiles - 1) / tiles;
}

extern "C" bool experts_few_fits(const struct cuda_lane *ln, const struct gemm *up,
                                 const struct gemm *down, int n, const struct moe_sum *s)
{
    const struct route *r = &s->r;
    bool fits = ln->base.be->act_dtype == DTYPE_BF16 && moe_sum_of_pairs(s) && r->n_row <= ROWS &&
                r->top_k <= MOST_CHOSEN && pieces_of(down, DOWN_TILES) <= CUDA_ARRIVED;
    for (int i = 0; i < n; i++)
        fits = fits && up[i].w.range_tile <= UP_HELD && !up[i].w.tail &&
               down[i].w.range_tile <= DOWN_HELD;
    return fits;
}

/* One of the two matrices, of both kinds of experts. */
static struct few_experts set_of(const struct gemm *g, int n, int32_t tiles,
                                 const struct moe_sum *s, unsigned *grid)
{
    struct few_experts f = {};
    f.s = *s;
    for (int i = 0; i < n; i++) {
        f.g[i] = g[i];
        f.pieces[i] = pieces_of(&g[i], tiles);
        f.per_expert[i] = pack_inverse(f.pieces[i]);
    }
    int32_t shared_blocks = n == 2 ? f.pieces[1] * s->r.n_shared : 0;
    int32_t room = BLOCKS - shared_blocks > BLOCKS / 2 ? BLOCKS - shared_blocks : BLOCKS / 2;
    f.routed_blocks = s->r.max_item * f.pieces[0];
    f.routed_blocks = f.routed_blocks < room ? f.routed_blocks : room;
    *grid = (unsigned)(shared_blocks + f.routed_blocks);
    return f;
}

extern "C" void experts_few_launch(struct cuda_lane *ln, const struct gemm *up,
                                   const struct gemm *down, int n, const struct moe_sum *s)
{
    unsigned grid;
    struct few_experts f = set_of(up, n, UP_TILES, s, &grid);
    LAUNCH(experts_few_up, grid, 32 * WARPS, 0, ln, f);
    f = set_of(down, n, DOWN_TILES, s, &grid);
    f.arrived = ln->arrived;
    LAUNCH(experts_few_down, grid, 32 * WARPS, 0, ln, f);
}
