/* experts_few.cu - a mixture for up to 8 rows behind the logits of its router: choice, both
 * matrices of the experts that were chosen and of shared ones, and the sum (spec 2.6).
 * Shapes   logits [R,E] f32, E <= 384; x [R,D] bf16, D <= 512, through R * K choices, 128 at most.
 *          Choice k of row r has slot r * K + k of hidden rows and results. F / 8 <= 48 and a tail.
 * Launch   two, of 8 warps a block. Every block of routed experts chooses for itself, a warp a row:
 *          that takes less than a launch that chooses and one more that hears of it. First matrix:
 *          a block for 2 tiles of 16 outputs of an expert, a warp a range of k. Second: for 64
 *          outputs, a warp a slice; the block that is last to arrive at them adds up the experts of
 *          all rows, a warp a row, 2 columns a lane. It may read the logits ahead of its wait,
 *          because the first lets it in behind its own: so it has chosen, and asked for its
 *          weights, when the first one ends. Column r of an MMA is row r, whether it chose the
 *          expert or not. Both go through their code once ahead of the wait (rehearse).
 * Roofline latency: behind the first wait logits (0.4 us), choice (0.8), weights out of DRAM (0.9),
 *          MMAs and end (0.4); behind the second rows (0.4), MMAs and end (0.4), arrival (0.7), sum
 *          (0.6). As four launches 14.1 us for a row of beta-3b, 24.2 for 8 (H200, CUPTI).
 *          Predicted: 6.5 and 8.
 * Order    choice: route_row_impl.cuh; products: gemm.cu; sum: route.cu. Bit for bit. */
#include "kernels/cuda/experts_few_impl.h"

#include "kernels/cuda/gemm_part_impl.cuh"
#include "kernels/cuda/moe_sum_impl.cuh"
#include "kernels/cuda/route_row_impl.cuh"

#define ROWS EXPERTS_FEW
#define WARPS 8
#define RANGES 4       /* of k in the first matrix */
#define UP_TILES 2     /* of 16 outputs, 8 hidden units: a block's */
#define UP_HELD 8      /* tiles of a range */
#define DOWN_TILES 4   /* of 16 outputs: a block's */
#define DOWN_HELD 3    /* tiles of a slice */
#define MOST_CHOSEN 32 /* experts of a row */
#define MOST_SHARED 8
#define BLOCKS 264 /* that are on the card together: two for each SM */
#define EXPERT_WORDS (FEW_EXPERTS / 32)

struct few_experts {
    struct moe_sum s;
    int32_t *arrived;       /* second matrix: [its pieces], zeros before and after */
    int32_t routed_blocks;  /* they come behind the shared ones, and go on */
    int32_t pieces[2];      /* of an expert: what one block takes at a time */
    uint64_t per_expert[2]; /* pack_inverse of it */
    struct gemm g[2];       /* routed, shared */
};

/* What all rows chose. */
struct choices {
    int32_t expert[FEW_CHOICES]; /* [R,K] */
    float share[FEW_CHOICES];
    float part[ROWS][MOST_SHARED]; /* of shared experts */
    uint32_t bits[EXPERT_WORDS];   /* experts that some row chose */
};

/* Parts of the shared experts of a row, by a warp: what route.cu's softmax does with them. */
__device__ inline void choose_parts(const struct route &r, int32_t row, float *part)
{
    int32_t lane = (int32_t)threadIdx.x % 32;
    const float *logits = r.shared_logits + (int64_t)row * r.n_shared; // logits[row,:]
    float own = lane < r.n_shared ? __ldcg(logits + lane) : -INFINITY;
    own = exp_below(own - warp_max(max_or_b(own, -INFINITY)));
    float sum = warp_sum(lane < r.n_shared ? own : 0.0f);
    if (lane < r.n_shared)
        part[lane] = own / sum;
}

/* Of all rows, a warp each. PARTS: with those of the shared experts. */
template <bool PARTS> __device__ inline void choose_all(struct choices *c, const struct route &r)
{
    int32_t row = (int32_t)threadIdx.x / 32;
    if (threadIdx.x < EXPERT_WORDS)
        c->bits[threadIdx.x] = 0;
    __syncthreads();
    if (row < r.n_row) {
        int32_t first = row * r.top_k;
        (void)choose<EXPERT_WORDS>(
            r.logits + (int64_t)row * r.n_expert, r.n_expert, r.top_k, // logits[row,:]
            [&](int32_t k, int32_t expert) {
                c->expert[first + k] = expert;
                atomicOr(&c->bits[expert / 32], 1u << expert % 32);
            },
            [&](int32_t k, float share) { c->share[first + k] = share; });
        if (PARTS && r.shared_logits)
            choose_parts(r, row, c->part[row]);
    }
    __syncthreads();
}

/* Expert i of those that some row chose, by rising index; negative: there are no more. */
__device__ inline int32_t expert_of(const struct choices &c, int32_t i)
{
    int32_t at = -1;
    uint32_t word = 0;
#pragma unroll
    for (int w = 0; w < EXPERT_WORDS; w++) {
        int32_t n = __popc(c.bits[w]);
        bool here = at < 0 && i < n;
        word = here ? c.bits[w] : word;
        at = here ? w : at;
        i -= at < 0 ? n : 0;
    }
    if (at < 0)
        return -1;
    for (; i > 0; i--)
        word &= word - 1;
    return 32 * at + __popc((word & (0u - word)) - 1u);
}
__device__ inline int32_t experts_of(const struct choices &c)
{
    int32_t n = 0;
#pragma unroll
    for (int w = 0; w < EXPERT_WORDS; w++)
        n += __popc(c.bits[w]);
    return n;
}

/* The slot of a row's choice of an expert; negative: it chose others. */
__device__ inline int32_t slot_of(const struct choices &c, const struct route &r, int32_t row,
                                  int32_t expert)
{
    int32_t slot = -1;
    if (row < r.n_row)
#pragma unroll 5
        for (int32_t k = row * r.top_k; k < (row + 1) * r.top_k; k++)
            slot = c.expert[k] == expert ? k : slot;
    return slot;
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
    __shared__ struct choices c;
    __shared__ float part[UP_TILES][RANGES][16][ROWS + 1];
    int32_t lane = (int32_t)threadIdx.x % 32, warp = (int32_t)threadIdx.x / 32;
    int32_t range = warp % RANGES, tile = warp / RANGES;
    struct task t(s);
    const struct route &r = s.s.r;
    const struct gemm &g = s.g[t.side];
    bool routed = t.side == 0;
    auto weights_of =
        [&](int32_t expert) { /* a warp's first tile */
                              return (const bf16 *)g.data + expert * g.expert_step +
                                     tiles_at(&g.w, UP_TILES * t.piece + tile, range, 0) + lane * 8;
        };
    if (!routed && UP_TILES * t.piece + tile < g.w.n_tile && lane % 8 == 0)
        for (int32_t j = 0; j < g.w.range_tile; j++) /* which leaves time until routed ones chose */
            prefetch(weights_of(t.i) + j * PACK_TILE);
    /* What a thread ends: unit `unit` of tile `of` of row `row`. */
    int32_t unit = lane % 8, row = (int32_t)threadIdx.x / 8 % ROWS, of = (int32_t)threadIdx.x / 64;
    int32_t x_row = lane / 4 < r.n_row ? lane / 4 : r.n_row - 1;
    const bf16 *x = (const bf16 *)g.x + x_row * g.x_stride + tiles_range_k(&g.w, range) +
                    lane % 4 * 4; // x[row,:]
#pragma unroll 1
    for (int32_t pass = unknown(0); pass < 2; pass = unknown(pass + 1)) {
        bool real = pass == 1;
        if (real)
            wait_and_start();
        if (routed)
            choose_all<false>(&c, r);
#pragma unroll 1
        for (bool more = true; more; more = real && routed) {
            int32_t expert = routed ? expert_of(c, t.i) : t.i;
            if (expert < 0)
                break;
            uint4 a[UP_HELD];
            uint2 b[UP_HELD] = {};
            const bf16 *weights = weights_of(expert);
            bool wanted = real && UP_TILES * t.piece + tile < g.w.n_tile;
#pragma unroll
            for (int j = 0; j < UP_HELD; j++)
                a[j] = load_weights16(weights + j * PACK_TILE, wanted && j < g.w.range_tile);
#pragma unroll
            for (int j = 0; j < UP_HELD; j++)
                if (j < g.w.range_tile)
                    b[j] = __ldcg((const uint2 *)(x + 16 * j));
            int32_t number = (UP_TILES * t.piece + of) * 8 + unit;
            struct gemm_place place = place_of(g, t.side, expert);
            struct gemm_early early = {};
            int32_t to = -1;
            if (of < UP_TILES && number < 8 * g.w.n_tile) {
                to = routed ? slot_of(c, r, row, expert) : row < r.n_row ? row : -1;
                early = bias_of(g, place, number);
            }
            float sum[4] = {};
#pragma unroll
            for (int j = 0; j < UP_HELD; j++)
                if (j < g.w.range_tile)
                    mma_k16(sum, a[j], b[j].x, b[j].y);
#pragma unroll
            for (int i = 0; i < 4; i++)
                part[tile][range][lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2] = sum[i];
            __syncthreads();
            if (to >= 0) {
                auto y = [&](int32_t o) {
                    return (part[of][0][o][row] + part[of][1][o][row]) +
                           (part[of][2][o][row] + part[of][3][o][row]);
                };
                finish_hidden<bf16>(g, place, early, to, number, y(unit), y(unit + 8), real);
            }
            __syncthreads();
            if (real)
                t.go_on(s);
        }
    }
}

/* ---- second matrix ---- */

/* x += routed + shared of 64 columns from `column` on, by a warp a row. */
__device__ inline void sum_columns(const struct few_experts &s, const struct choices &c,
                                   int32_t column, bool real)
{
    const struct route &r = s.s.r;
    int32_t row = (int32_t)threadIdx.x / 32, i = column + 2 * ((int32_t)threadIdx.x % 32);
    int32_t dim = r.dim, n = r.top_k, first = row * n;
    if (row >= r.n_row || i >= dim)
        return;
    bf16 *x = (bf16 *)s.s.x.data + row * s.s.x.stride + i;                      // x[row,i]
    const bf16 *y = (const bf16 *)s.s.y + (int64_t)first * dim + i;             // y[slot,i]
    const bf16 *y_shared = (const bf16 *)s.s.y_shared + (int64_t)row * dim + i; // y_shared[e,row,i]
    struct pair sum = {}, shared = {}, before = pair_at(x), of_shared[SHARED_AHEAD];
    auto part = [&](int32_t e) { return r.shared_logits ? c.part[row][e] : 1.0f; };
#pragma unroll
    for (int e = 0; e < SHARED_AHEAD; e++) /* under way together with the routed */
        if (e < r.n_shared)
            of_shared[e] = pair_at(y_shared + (int64_t)e * r.n_row * dim);
#pragma unroll 1
    for (int32_t k = 0; k < n; k += SUM_AHEAD) {
        struct pair v[SUM_AHEAD];
#pragma unroll
        for (int a = 0; a < SUM_AHEAD; a++)
            v[a] = pair_at(y + (int64_t)(k + a < n ? k + a : n - 1) * dim);
#pragma unroll
        for (int a = 0; a < SUM_AHEAD; a++)
            if (k + a < n)
                add_pair(&sum, c.share[first + k + a], v[a]);
    }
    add_pair_bias(&sum, s.s.routed_scale, s.s.bias, i);
    if (r.n_shared > 0) {
#pragma unroll
        for (int e = 0; e < SHARED_AHEAD; e++)
            if (e < r.n_shared)
                add_pair(&shared, part(e), of_shared[e]);
#pragma unroll 1
        for (int32_t e = SHARED_AHEAD; e < r.n_shared; e++)
            add_pair(&shared, part(e), pair_at(y_shared + (int64_t)e * r.n_row * dim));
        add_pair_bias(&shared, 1.0f, s.s.shared_bias, i);
        add_pair(&sum, s.s.shared_scale, shared);
    }
    if (real)
        *(uint32_t *)x = pair_of(before.v[0] + sum.v[0], before.v[1] + sum.v[1]);
}

static __global__ void __launch_bounds__(32 * WARPS, 2)
    experts_few_down(const __grid_constant__ struct few_experts s)
{
    __shared__ struct choices c;
    __shared__ float part[PACK_SLICES][16 * DOWN_TILES][ROWS + 1];
    start_next();
    int32_t lane = (int32_t)threadIdx.x % 32, slice = (int32_t)threadIdx.x / 32;
    struct task t(s);
    const struct route &r = s.s.r;
    const struct gemm &g = s.g[t.side];
    bool routed = t.side == 0;
    uint4 a[DOWN_TILES][DOWN_HELD];
    uint2 tail[DOWN_TILES];
    int32_t expert = t.i;
    auto hold = [&]() {
        const bf16 *data = (const bf16 *)g.data + expert * g.expert_step;
#pragma unroll
        for (int mt = 0; mt < DOWN_TILES; mt++) {
            int32_t m = DOWN_TILES * t.piece + mt;
            const bf16 *tile = data + tiles_at(&g.w, m, slice, 0) + lane * 8;
            bool wanted = m < g.w.n_tile && expert >= 0;
#pragma unroll
            for (int j = 0; j < DOWN_HELD; j++)
                a[mt][j] = load_weights16(tile + j * PACK_TILE, wanted && j < g.w.range_tile);
            tail[mt] =
                load_weights8(data + tiles_tail_at(&g.w, m, slice) + lane * 4, wanted && g.w.tail);
        }
    };
    if (!routed)
        hold();
    choose_all<true>(&c, r); /* the logits are there: see above */
    if (routed) {
        expert = expert_of(c, t.i);
        hold();
    }
    int32_t all = experts_of(c) + r.n_shared;
    /* What a thread ends: outputs 2 lane and 2 lane + 1 of a warp's row. */
    int32_t row = slice, o = 2 * lane;
#pragma unroll 1
    for (int32_t pass = unknown(0); pass < 2; pass = unknown(pass + 1)) {
        bool real = pass == 1;
        if (real)
            wait_for_previous();
        if (real && blockIdx.x == 0 && (int32_t)threadIdx.x < r.n_row * r.top_k)
            r.expert[threadIdx.x] = c.expert[threadIdx.x]; // expert[row,k]
#pragma unroll 1
        for (bool more = true; more && expert >= 0; more = real && routed) {
            int32_t x_row = lane / 4, to = row < r.n_row ? row : -1;
            const bf16 *x = (const bf16 *)g.x;
            if (routed) {
                x_row = slot_of(c, r, lane / 4, expert);
                to = slot_of(c, r, row, expert);
            } else {
                x += expert * g.x_step;
            }
            x_row = x_row < 0 || (!routed && x_row >= r.n_row) ? 0 : x_row; /* nobody's column */
            x += x_row * g.x_stride + tiles_range_k(&g.w, slice);           // x[slot,:]
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
            if (to >= 0 && number < r.dim) {
                struct gemm_place place = place_of(g, t.side, expert);
                float y[2];
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    auto of = [&](int range) { return part[range][o + i][row]; };
                    y[i] =
                        ((of(0) + of(1)) + (of(2) + of(3))) + ((of(4) + of(5)) + (of(6) + of(7)));
                    y[i] = y[i] + (place.bias ? place.bias[number + i] : 0.0f);
                }
                if (real)
                    *(uint32_t *)((bf16 *)place.out + (int64_t)to * g.out_stride + number) =
                        pair_of(y[0], y[1]); // out[slot,number]
            }
            if (arrives_last(s.arrived + t.piece, all, real))
                sum_columns(s, c, 16 * DOWN_TILES * t.piece, real);
            if (!real || !routed)
                break;
            t.go_on(s);
            expert = expert_of(c, t.i);
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
                r->n_row * r->top_k <= FEW_CHOICES && r->top_k <= MOST_CHOSEN &&
                r->n_expert <= FEW_EXPERTS && r->n_shared <= MOST_SHARED &&
                pieces_of(down, DOWN_TILES) <= CUDA_ARRIVED;
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
