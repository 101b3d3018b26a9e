/* gemm_items.cu - the multiplication of gemm.cu for experts of a prefill or a large batch.
 * Shapes   as gemm.cu, bf16; items of up to 64 rows, and dense experts (shared ones) beside them;
 *          ends GEMM_STORE and GEMM_HIDDEN.
 * Launch   blocks that stay, two an SM, of 4 warps; each takes pieces of work in turn, an item and
 *          64 outputs. A warp has one range of k (of 8: two, one behind the other) for all outputs
 *          and rows of its piece, so neither weights nor rows are shared: fragments come straight
 *          into registers, those of two tiles at once (few rows: of 8). gemm_rows reads the rows of
 *          an item once for 16 outputs, in 2 to 8 steps, and starts a block for every item there
 *          may be: 9,456 for 64 tokens of Beta that choose 25 of 384 experts.
 * Roofline 64 rows x 64 outputs, K 512: 128 KB out of L2 for 512 MMAs; by L2 (41 bytes a ns and SM)
 *          3.1 us, by mma.sync at 60 % of the peak 0.5. 64 tokens that choose 25 experts: 150
 *          pieces, one a block. Predicted: 4 us, and 3 for the second matrix; 512 tokens (120
 *          items): 20 and 10.
 * Order    as gemm.cu, bit for bit: one chain a range, (0+1)+(2+3) of them; of 8 the two of a warp
 *          first. */
#include "kernels/cuda/gemm_items_impl.h"

#include "kernels/cuda/gemm_end_impl.cuh"

#include <assert.h>

#define LEAST_ROWS 256 /* of items, choices */
#define ROWS GEMM_ITEM
#define M_TILES 4
#define OUTPUTS (16 * M_TILES)
#define WARPS 4
#define BLOCK (32 * WARPS)
#define BLOCKS 264             /* two for each of 132 SMs */
#define OUT_STEP (OUTPUTS + 4) /* floats of a row of sums: no bank is hit twice */
#define SUM_BYTES (WARPS * ROWS * OUT_STEP * sizeof(float))

struct items_set {
    struct gemm g[GEMM_SIDE];
    int32_t n_m[GEMM_SIDE];       /* pieces of an item */
    uint64_t per_item[GEMM_SIDE]; /* pack_inverse of them */
    uint64_t per_expert;          /* of g[1]: of the items of an expert */
    int32_t each, n_dense;        /* of g[1]: items of an expert, pieces of all */
};

/* Rows of a piece and where they come from: row 8 i + lane / 4 of it at x + at[i]. */
template <int NG> struct piece {
    const bf16 *data, *x;
    int32_t m, at[NG];
};

/* c[mt][group] of one range. KT: tiles of k under way together. TAIL: a range may end with one. */
template <int NG, int KT, bool TAIL>
__device__ inline void multiply(float c[M_TILES][NG][4], const struct tiles &w,
                                const struct piece<NG> &p, int32_t range)
{
    int32_t lane = (int32_t)threadIdx.x % 32;
    const bf16 *x = p.x + tiles_range_k(&w, range) + lane % 4 * 4, *data = p.data + lane * 8;
    int32_t weights[M_TILES]; /* elements; of an expert */
    uint2 tail[M_TILES];
    uint32_t x_tail[NG];
#pragma unroll
    for (int mt = 0; mt < M_TILES; mt++) {
        int32_t m = min(p.m + mt, w.n_tile - 1); /* nobody reads the sums of one beyond */
        weights[mt] = (int32_t)tiles_at(&w, m, range, 0);
        if (TAIL)
            tail[mt] = load_weights8(p.data + tiles_tail_at(&w, m, range) + lane * 4, w.tail);
    }
    if (TAIL)
#pragma unroll
        for (int i = 0; i < NG; i++)
            x_tail[i] =
                w.tail ? *(const uint32_t *)(x + (p.at[i] + 16 * w.range_tile - lane % 4 * 2)) : 0;
#pragma unroll 1
    for (int32_t first = 0; first < w.range_tile; first += KT) {
        uint4 a[KT][M_TILES];
        uint2 b[KT][NG];
#pragma unroll
        for (int j = 0; j < KT; j++)
#pragma unroll
            for (int mt = 0; mt < M_TILES; mt++)
                a[j][mt] = load_weights16(data + (weights[mt] + (first + j) * PACK_TILE),
                                          first + j < w.range_tile);
#pragma unroll
        for (int j = 0; j < KT; j++)
#pragma unroll
            for (int i = 0; i < NG; i++) {
                int32_t step = first + j < w.range_tile ? first + j : first;
                b[j][i] = *(const uint2 *)(x + (p.at[i] + 16 * step));
            }
#pragma unroll
        for (int j = 0; j < KT; j++)
            if (first + j < w.range_tile)
#pragma unroll
                for (int mt = 0; mt < M_TILES; mt++)
#pragma unroll
                    for (int i = 0; i < NG; i++)
                        mma_k16(c[mt][i], a[j][mt], b[j][i].x, b[j][i].y);
    }
    if (TAIL && w.tail)
#pragma unroll
        for (int mt = 0; mt < M_TILES; mt++)
#pragma unroll
            for (int i = 0; i < NG; i++)
                mma_k8(c[mt][i], tail[mt], x_tail[i]);
}

/* The sums of a warp's ranges: sums[warp,row,output]. */
template <int NG, int KT, bool TAIL>
__device__ inline void multiply_item(float *sums, const struct gemm &g, const bf16 *data,
                                     const bf16 *x, const struct gemm_item &item, int32_t m)
{
    int32_t lane = (int32_t)threadIdx.x % 32, warp = (int32_t)threadIdx.x / 32;
    int32_t each = g.w.n_range / WARPS;
    struct piece<NG> p;
    p.data = data;
    p.x = x;
    p.m = m;
#pragma unroll
    for (int i = 0; i < NG; i++) {
        int32_t r = 8 * i + lane / 4;
        r = item.first + (r < item.n ? r : item.n - 1); /* beyond: a column that nobody reads */
        p.at[i] = (int32_t)((g.x_row ? __ldcg(g.x_row + r) : r) * g.x_stride);
    }
    float *to = sums + (warp * ROWS + lane % 4 * 2) * OUT_STEP + lane / 4;
#pragma unroll 1
    for (int32_t i = 0; i < each; i++) {
        float c[M_TILES][NG][4] = {};
        multiply<NG, KT, TAIL>(c, g.w, p, warp * each + i);
#pragma unroll
        for (int mt = 0; mt < M_TILES; mt++)
#pragma unroll
            for (int group = 0; group < NG; group++)
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    float *at = to + (8 * group + j % 2) * OUT_STEP + 16 * mt + j / 2 * 8;
                    *at = i == 0 ? c[mt][group][j] : *at + c[mt][group][j];
                }
    }
}

/* 8 outputs from o on of a row. */
__device__ inline void sum8(float y[8], const float *sums, int32_t row, int32_t o)
{
    float v[WARPS][8];
#pragma unroll
    for (int w = 0; w < WARPS; w++)
        load8(v[w], sums + (w * ROWS + row) * OUT_STEP + o, 0, 8);
#pragma unroll
    for (int j = 0; j < 8; j++)
        y[j] = (v[0][j] + v[1][j]) + (v[2][j] + v[3][j]);
}

__device__ inline void end_item(const struct gemm &g, const struct gemm_place &place,
                                const float *sums, const struct gemm_item &item, int32_t m)
{
    bool hidden = g.end == GEMM_HIDDEN;
    int32_t bits = hidden ? 2 : 3; /* pieces of a row: M_TILES, or twice as many */
    int32_t i = (int32_t)threadIdx.x & ((1 << bits) - 1);
    int32_t n = hidden ? 8 * (m + i) : 16 * m + 8 * i;
    if (n >= (hidden ? 8 * g.w.n_tile : g.w.n))
        return;
    const struct biases bias(g, place.bias, n);
#pragma unroll 1
    for (int32_t r = (int32_t)threadIdx.x >> bits; r < item.n; r += BLOCK >> bits) {
        float y[8], gate[8];
        const float none[8] = {};
        if (!hidden) {
            sum8(y, sums, r, 8 * i);
            finish8(g, place.out, item.first + r, n, y, bias.of, none);
            continue;
        }
        sum8(y, sums, r, 16 * i);
        sum8(gate, sums, r, 16 * i + 8);
        finish_hidden8(g, place.out, item.first + r, n, y, gate, bias);
    }
}

/* Outputs of the M_TILES tiles from m on, of an item. */
template <bool TAIL>
__device__ inline void run_piece(float *sums, const struct gemm &g, const struct gemm_item &item,
                                 int32_t m)
{
    const bf16 *data = (const bf16 *)g.data + item.expert * g.expert_step, *x = (const bf16 *)g.x;
    bf16 *out = (bf16 *)g.out;
    if (!g.item) {
        x += item.expert * g.x_step;
        out += item.expert * g.out_step;
    }
    if (item.n <= 16)
        multiply_item<2, TAIL ? 2 : 8, TAIL>(sums, g, data, x, item, m);
    else if (item.n <= 32)
        multiply_item<4, TAIL ? 2 : 4, TAIL>(sums, g, data, x, item, m);
    else
        multiply_item<8, TAIL ? 1 : 2, TAIL>(sums, g, data, x, item, m);
    __syncthreads();
    end_item(g, {g.bias ? g.bias + item.expert * g.bias_step : nullptr, out}, sums, item, m);
    __syncthreads();
}

/* Dense experts first, which are known to be there. */
template <bool TAIL>
static __global__ void __launch_bounds__(BLOCK, 2)
    gemm_items(const __grid_constant__ struct items_set set)
{
    DYNAMIC_SHARED(float, sums);
    wait_and_start();
    int32_t n = set.n_dense + __ldcg(set.g[0].n_item) * set.n_m[0];
#pragma unroll 1
    for (int32_t at = (int32_t)blockIdx.x; at < n; at += (int32_t)gridDim.x) {
        int32_t side = at < set.n_dense, piece = side ? at : at - set.n_dense;
        const struct gemm &g = set.g[side];
        int32_t i = pack_divide(piece, set.per_item[side]);
        struct gemm_item item;
        if (side) {
            item.expert = pack_divide(i, set.per_expert);
            item.first = (i - item.expert * set.each) * ROWS;
            item.n = min(g.n_row - item.first, ROWS);
        } else {
            item = {__ldcg(&g.item[i].expert), __ldcg(&g.item[i].first), __ldcg(&g.item[i].n)};
        }
        run_piece<TAIL>(sums, g, item, (piece - i * set.n_m[side]) * M_TILES);
    }
}

extern "C" bool gemm_items_fits(const struct gemm *g, int n)
{
    bool fits = g->item && g->n_row >= LEAST_ROWS;
    for (int i = 0; i < n; i++)
        fits = fits && (i == 0 || !g[i].item) && g[i].near.cols == 0 &&
               (g[i].end == GEMM_STORE || g[i].end == GEMM_HIDDEN) &&
               g[i].n_row * g[i].x_stride <= INT32_MAX && tiles_fit_int32(&g[i].w);
    return fits;
}

extern "C" void gemm_items_launch(struct cuda_lane *ln, const struct gemm *g, int n)
{
    struct items_set set = {};
    for (int i = 0; i < n; i++) {
        set.g[i] = g[i];
        set.n_m[i] = (g[i].w.n_tile + M_TILES - 1) / M_TILES;
        set.per_item[i] = pack_inverse(set.n_m[i]);
    }
    if (n == 2) {
        set.each = (g[1].n_row + ROWS - 1) / ROWS;
        set.per_expert = pack_inverse(set.each);
        set.n_dense = set.each * g[1].n_expert * set.n_m[1];
    }
    bool tail = g[0].w.tail || (n == 2 && g[1].w.tail);
    auto kernel = tail ? gemm_items<true> : gemm_items<false>;
    LAUNCH(kernel, BLOCKS, BLOCK, SUM_BYTES, ln, set);
}
