/* gemm_few.cu - the multiplication of gemm.cu for the rows of a decode step, in little code.
 * Shapes   as gemm.cu, bf16, dense, one expert; fewer rows than gemm_tiles.cu takes, ranges of 8
 *          whole tiles at most; rows that lie as a multiplication reads them, or quick rows that
 *          every block normalises: up to 8, or as many as a launch has blocks for.
 * Launch   a block for 16 outputs and 8 or 16 rows, a warp for each range of k; above 4 rows to
 *          normalise, 8 warps. All weights of a warp, 4 KB, are asked for before the launch ahead
 *          has ended; then a block of a small grid goes through its code once, on whatever lies
 *          there, and leaves nothing behind (rehearse), so that behind the wait no instruction and
 *          no parameter comes out of L2.
 * Roofline latency: behind the wait a row out of L2 (0.4 us), a norm (0.2), 8 MMAs one behind the
 *          other (0.2) and the tree (0.1). gemm.cu, 36 to 43 KB of code, took 2.8 us a launch of
 *          one row and 3 with a norm (H200). Measured in its place, demo-15m, a step of 57
 *          launches: 241 -> 206 us for a row (predicted 165), 288 -> 223 for 8 (215); without the
 *          rehearsal 207 and 228. So 3 us a launch are left that are not code: the way from one
 *          launch to the next. Predicted, not measured: 64 rows 4.5 -> 2.5 us a launch.
 * Order    as gemm.cu, bit for bit. */
#include "kernels/cuda/gemm_few_impl.h"

#include "kernels/cuda/gemm_part_impl.cuh"
#include "kernels/cuda/gemm_tiles_impl.h"
#include "kernels/cuda/norm_row_impl.cuh"

#define HELD 8       /* tiles of a range */
#define NEAR_PAD 16  /* values behind a row in shared memory: no bank is hit twice */
#define REHEARSE 264 /* blocks of a launch that goes through its code twice: two for each SM */
#define GROUP 16     /* rows of a block where there are more than 8 */

struct few_set {
    int32_t first_blocks; /* of g[0] */
    int32_t rehearse;
    struct gemm g[GEMM_SIDE];
};

/* Result `at` of the n rows from `first` on: an output, or hidden unit, of a row. */
struct few_turn {
    int32_t column, row, output, number; /* column: row of the block; number: of the matrix */
    bool exists;
};
template <bool HIDDEN>
__device__ inline struct few_turn turn_of(int32_t at, int32_t m, int32_t first, int32_t n)
{
    const int each = HIDDEN ? 8 : 16;
    return {at / each, first + at / each, at % each, m * each + at % each, at / each < n};
}

/* NG groups of 8 rows a block. NEAR: rows come through shared memory, and through a norm if there
 * is one. */
template <int NG, bool NEAR, bool HIDDEN>
static __global__ void __launch_bounds__(32 * PACK_SLICES, 2)
    gemm_few(const __grid_constant__ struct few_set set)
{
    constexpr int TURNS = HIDDEN ? (NG + 1) / 2 : NG; /* of a thread, where 128 end a block */
    DYNAMIC_SHARED(bf16, near);                       // [8 * NG, k + NEAR_PAD]
    __shared__ float part[PACK_SLICES][16][8 * NG + 1];
    start_next();
    int32_t lane = (int32_t)threadIdx.x % 32, range = (int32_t)threadIdx.x / 32;
    int32_t block = (int32_t)blockIdx.x, side = block < set.first_blocks ? 0 : 1;
    const struct gemm &g = set.g[side];
    int32_t m = side == 0 ? block : block - set.first_blocks;
    int32_t first = (int32_t)blockIdx.y * 8 * NG;
    int32_t n = g.n_row - first < 8 * NG ? g.n_row - first : 8 * NG;
    bool multiplies = range < g.w.n_range;
    uint4 a[HELD];
    const bf16 *tile = (const bf16 *)g.data + tiles_at(&g.w, m, range, 0) + lane * 8;
#pragma unroll
    for (int j = 0; j < HELD; j++)
        a[j] = load_weights16(tile + j * PACK_TILE, multiplies && j < g.w.range_tile);
    struct quick_weight q;
    if (NEAR && g.has_norm)
        quick_ask(&q, &g.norm);
    struct gemm_place place = {g.bias, g.out};
    struct few_turn t[TURNS];
    struct gemm_early e[TURNS];
#pragma unroll
    for (int k = 0; k < TURNS; k++) {
        t[k] = turn_of<HIDDEN>((int32_t)threadIdx.x + k * (int32_t)blockDim.x, m, first, n);
        e[k] = bias_of(g, place, t[k].number);
    }
#pragma unroll 1
    for (int32_t pass = unknown(set.rehearse ? 0 : 1);; pass = unknown(1)) {
        bool real = pass == 1;
        if (real)
            wait_for_previous();
        if (!HIDDEN && g.end == GEMM_ADD)
#pragma unroll
            for (int k = 0; k < TURNS; k++)
                if (t[k].exists)
                    e[k].before = before_of(g, place, t[k].row, t[k].number);
        if (NEAR) {
#pragma unroll 1
            for (int32_t i = range; i < n; i += (int32_t)blockDim.x / 32)
                quick_row(near + i * (g.w.k + NEAR_PAD),
                          real && g.keep && block == 0 ? (bf16 *)g.keep + (first + i) * g.w.k
                                                       : nullptr, // keep[row,:]
                          (const bf16 *)g.near.data + (first + i) * g.near.stride, g.w.k,
                          g.has_norm ? &g.norm : nullptr, q); // near[row,:]
            __syncthreads();
        }
        if (multiplies) {
            float c[NG][4] = {};
            uint2 b[NG][HELD] = {};
#pragma unroll
            for (int i = 0; i < NG; i++) {
                int32_t r = 8 * i + lane / 4 < n ? 8 * i + lane / 4 : n - 1;
                const bf16 *x = NEAR ? near + r * (g.w.k + NEAR_PAD)
                                     : (const bf16 *)g.x + (first + r) * g.x_stride; // x[row,:]
                x += tiles_range_k(&g.w, range) + lane % 4 * 4;
#pragma unroll
                for (int j = 0; j < HELD; j++)
                    if (j < g.w.range_tile)
                        b[i][j] = NEAR ? *(const uint2 *)(x + 16 * j)
                                       : __ldcg((const uint2 *)(x + 16 * j));
            }
#pragma unroll
            for (int j = 0; j < HELD; j++)
                if (j < g.w.range_tile)
#pragma unroll
                    for (int i = 0; i < NG; i++)
                        mma_k16(c[i], a[j], b[i][j].x, b[i][j].y);
#pragma unroll
            for (int i = 0; i < NG; i++)
#pragma unroll
                for (int k = 0; k < 4; k++)
                    part[range][lane / 4 + k / 2 * 8][8 * i + lane % 4 * 2 + k % 2] = c[i][k];
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < TURNS; k++) {
            if (!t[k].exists)
                continue;
            auto sum = [&](int32_t o) {
                int32_t r = t[k].column;
                float y = (part[0][o][r] + part[1][o][r]) + (part[2][o][r] + part[3][o][r]);
                if (g.w.n_range == 8)
                    y = y + ((part[4][o][r] + part[5][o][r]) + (part[6][o][r] + part[7][o][r]));
                return y;
            };
            if (HIDDEN)
                finish_hidden<bf16>(g, place, e[k], t[k].row, t[k].number, sum(t[k].output),
                                    sum(t[k].output + 8), real);
            else
                finish<bf16>(g, place, e[k], t[k].row, t[k].number, sum(t[k].output), real);
        }
        if (real)
            return;
        __syncthreads();
    }
}

/* ---- launching ---- */

static bool is_near(const struct gemm *g)
{
    return g->near.cols > 0;
}

static unsigned groups_of(const struct gemm *g)
{
    return ((unsigned)g->n_row + GROUP - 1) / GROUP;
}

extern "C" bool gemm_few_normalises(const struct gemm *g, struct tensor x, const struct norm *norm)
{
    return g->n_row <= GEMM_FEW && (unsigned)g->w.n_tile * groups_of(g) <= REHEARSE &&
           g->n_expert == 1 && !g->item && g->w.range_tile <= HELD && !g->w.tail &&
           norm_is_quick(x, g->w.k, norm);
}

extern "C" bool gemm_few_fits(const struct gemm *g, int n)
{
    bool fits = true;
    for (int i = 0; i < n; i++)
        fits = fits && !g[i].item && g[i].n_expert == 1 && g[i].n_row <= GEMM_FEW &&
               !gemm_tiles_fits(&g[i]) && g[i].w.range_tile <= HELD && !g[i].w.tail &&
               g[i].w.n_range == g->w.n_range && g[i].end != GEMM_KEYS &&
               (g[i].end == GEMM_HIDDEN) == (g->end == GEMM_HIDDEN) &&
               is_near(&g[i]) == is_near(g) &&
               (!is_near(g) ||
                norm_is_quick(g[i].near, g[i].w.k, g[i].has_norm ? &g[i].norm : nullptr));
    return fits;
}

extern "C" void gemm_few_launch(struct cuda_lane *ln, const struct gemm *g, int n)
{
    struct few_set set = {};
    unsigned grid = 0, warps = (unsigned)g->w.n_range;
    for (int i = 0; i < n; i++) {
        set.g[i] = g[i];
        grid += (unsigned)g[i].w.n_tile;
    }
    set.first_blocks = g->w.n_tile;
    unsigned groups = groups_of(g);
    set.rehearse = grid * groups <= REHEARSE;
    size_t bytes = 0;
    if (is_near(g)) {
        int32_t rows = g->n_row < GROUP ? g->n_row : GROUP;
        bytes = (size_t)rows * (size_t)(g->w.k + NEAR_PAD) * sizeof(bf16);
        warps = g->n_row > 4 ? PACK_SLICES : warps;
    }
    bool hidden = g->end == GEMM_HIDDEN;
    bool near = is_near(g), one = g->n_row <= 8;
    auto kernel = hidden ? near  ? one ? gemm_few<1, true, true> : gemm_few<2, true, true>
                            : one ? gemm_few<1, false, true>
                                 : gemm_few<2, false, true>
                  : near ? one ? gemm_few<1, true, false> : gemm_few<2, true, false>
                  : one ? gemm_few<1, false, false>
                         : gemm_few<2, false, false>;
    LAUNCH(kernel, dim3(grid, groups), 32 * warps, bytes, ln, set);
}
