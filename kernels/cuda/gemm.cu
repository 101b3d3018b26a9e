/* gemm.cu - rows of activations through tiles of weights, with what happens to the result.
 * Shapes   x: groups of 8 rows [K/8][8][8]; weights: tiles of pack_impl.h; out by enum gemm_end.
 *          K a multiple of 64, any number of rows and outputs.
 * Launch   grid (tiles of 16 outputs) x (items of up to 4 groups = 32 rows), a warp for each range
 *          of k (4 or 8). bf16: mma.sync m16n8k16, weights on M in fragment order, rows on N, so
 *          that a lane's operands are one 16-byte and two 4-byte loads, coalesced and aligned by
 *          construction, and there is no tail to get wrong. f32: a lane a row, plain fmaf.
 * Roofline decode: every weight byte once, memory-bound. 32 rows an item: 32 flop a weight byte
 *          (bf16), still memory-bound in L2; larger tiles come with later kernels.
 *          Measured: not yet on a card.
 * Order    a range of k is one chain (of MMAs, of fmaf), ranges are added in the tree of
 *          pack_impl.h, then the bias. Rows are columns of the MMA: none sees another, unused ones
 *          are zero. */
#include "kernels/cuda/gemm_impl.h"

#include "kernels/cuda/mma_impl.cuh"

#define ROWS (8 * GEMM_GROUPS)
#define PAD 33 /* floats a row of `part`: no bank is hit twice */

/* Sums of the tile of a block: part[range][output][row]. */
struct parts {
    float v[PACK_SLICES][16][PAD];
};

/* One range of the tile m, of n_group groups whose first is x. Lane: of the MMA. */
__device__ inline void multiply(struct parts *s, const struct tiles *w, const bf16 *data, int32_t m,
                                int32_t range, const bf16 *x, int32_t n_group, int32_t lane)
{
    float c[GEMM_GROUPS][4] = {{0}};
    int64_t group = (int64_t)w->k * 8; // elements
    int32_t first = tiles_range_k(w, range);
    for (int32_t j = 0; j < w->range_tile; j++) {
        uint4 a = *(const uint4 *)(data + tiles_at(w, m, range, j) + lane * 8);
        const bf16 *b = x + group_element(first + 16 * j, 0) + lane * 2;
#pragma unroll
        for (int32_t g = 0; g < GEMM_GROUPS; g++)
            if (g < n_group)
                mma_k16(c[g], a, *(const uint32_t *)(b + g * group),
                        *(const uint32_t *)(b + g * group + 64));
    }
    if (w->tail) {
        uint2 a = *(const uint2 *)(data + tiles_tail_at(w, m, range) + lane * 4);
        const bf16 *b = x + group_element(first + 16 * w->range_tile, 0) + lane * 2;
#pragma unroll
        for (int32_t g = 0; g < GEMM_GROUPS; g++)
            if (g < n_group)
                mma_k8(c[g], a, *(const uint32_t *)(b + g * group));
    }
#pragma unroll
    for (int32_t g = 0; g < GEMM_GROUPS; g++)
#pragma unroll
        for (int32_t i = 0; i < 4; i++)
            s->v[range][lane / 4 + i / 2 * 8][g * 8 + lane % 4 * 2 + i % 2] = c[g][i];
}

/* The same in float32: lane = row. */
__device__ inline void multiply(struct parts *s, const struct tiles *w, const float *data,
                                int32_t m, int32_t range, const float *x, int32_t n_group,
                                int32_t lane)
{
    float c[16] = {0};
    if (lane / 8 < n_group) {
        int32_t first = tiles_range_k(w, range), whole = 16 * w->range_tile;
        const float *row = x + (int64_t)(lane / 8) * w->k * 8; // x[group,:,:]
        for (int32_t i = 0; i < whole + 8 * w->tail; i++) {
            const float *a = i < whole ? data + tiles_at(w, m, range, i / 16) + i % 16 * 16
                                       : data + tiles_tail_at(w, m, range) + (i - whole) * 16;
            float b = row[group_element(first + i, lane % 8)];
            for (int32_t o = 0; o < 16; o++)
                c[o] = fmaf(a[o], b, c[o]);
        }
    }
    for (int32_t o = 0; o < 16; o++)
        s->v[range][o][lane] = c[o];
}

/* y of an output and a row, without bias. */
__device__ inline float sum_of(const struct parts *s, int32_t n_range, int32_t o, int32_t row)
{
    float sum = (s->v[0][o][row] + s->v[1][o][row]) + (s->v[2][o][row] + s->v[3][o][row]);
    if (n_range == 8)
        sum = sum + ((s->v[4][o][row] + s->v[5][o][row]) + (s->v[6][o][row] + s->v[7][o][row]));
    return sum;
}

/* Output o of tile m for a row; in_item: the row's column in `part`. */
template <class T>
__device__ inline void finish(const struct gemm *g, const struct parts *s, const float *bias,
                              int32_t m, int32_t o, int64_t row, int32_t in_item)
{
    int32_t n = m * 16 + o;
    if (n >= g->w.n || row >= g->n_row)
        return;
    float y = sum_of(s, g->w.n_range, o, in_item) + (bias ? bias[n] : 0.0f);
    int64_t at = row * g->out_stride + n; // out[row,n]
    if (g->end == GEMM_F32)
        ((float *)g->out)[at] = g->round_bf16 ? rounded<bf16>(y) : y;
    else if (g->end == GEMM_STORE)
        ((T *)g->out)[at] = narrow<T>(y);
    else
        ((T *)g->out)[at] = narrow<T>(widen(((T *)g->out)[at]) + rounded<T>(y));
}

/* Hidden unit o < 8 of tile m; its gate is output o + 8. Units and rows beyond are zero, because
 * the next matrix reads them. */
template <class T>
__device__ inline void finish_hidden(const struct gemm *g, const struct parts *s, const float *bias,
                                     int32_t m, int32_t o, int64_t row, int32_t in_item)
{
    int32_t unit = m * 8 + o;
    float h = 0.0f;
    if (unit < g->w.n && row < g->n_row) {
        float a = rounded<T>(sum_of(s, g->w.n_range, o, in_item) + (bias ? bias[unit] : 0.0f));
        if (g->gated) {
            float gate =
                sum_of(s, g->w.n_range, o + 8, in_item) + (bias ? bias[g->w.n + unit] : 0.0f);
            h = a * rounded<T>(act_of(g->act, rounded<T>(gate)));
        } else {
            h = act_of(g->act, a);
        }
    }
    int64_t group = row / 8 * 8 * g->out_stride; // out[row / 8,:,:]
    ((T *)g->out)[group + group_element(unit, (int32_t)(row % 8))] = narrow<T>(h);
}

template <class T> static __global__ void gemm_rows(const __grid_constant__ struct gemm g)
{
    __shared__ struct parts s;
    int32_t m = (int32_t)blockIdx.x, range = (int32_t)threadIdx.x / 32;
    int32_t lane = (int32_t)threadIdx.x % 32;
    int32_t n_item = g.item ? *g.n_item : (g.n_row + ROWS - 1) / ROWS;
    for (int32_t i = (int32_t)blockIdx.y; i < n_item; i += (int32_t)gridDim.y) {
        struct gemm_item item = {0, i * GEMM_GROUPS, (g.n_row + 7) / 8 - i * GEMM_GROUPS};
        if (g.item)
            item = g.item[i];
        int32_t n_group = item.n_group < GEMM_GROUPS ? item.n_group : GEMM_GROUPS;
        const T *x = (const T *)g.x + (int64_t)item.first_group * 8 * g.w.k; // x[group,:,:]
        const T *data = (const T *)g.data + item.expert * g.expert_step;
        const float *bias = g.bias ? g.bias + item.expert * g.bias_step : nullptr;
        multiply(&s, &g.w, data, m, range, x, n_group, lane);
        __syncthreads();
        int32_t outputs = g.end == GEMM_HIDDEN ? 8 : 16;
        for (int32_t at = (int32_t)threadIdx.x; at < outputs * 8 * n_group;
             at += (int32_t)blockDim.x) {
            int32_t o = at % outputs, in_item = at / outputs;
            int64_t row = (int64_t)item.first_group * 8 + in_item;
            if (g.end == GEMM_HIDDEN)
                finish_hidden<T>(&g, &s, bias, m, o, row, in_item);
            else
                finish<T>(&g, &s, bias, m, o, row, in_item);
        }
        __syncthreads();
    }
}

extern "C" void gemm_launch(struct cuda_lane *ln, const struct gemm *g)
{
    int32_t n_item = g->item ? g->max_item : (g->n_row + ROWS - 1) / ROWS;
    dim3 grid((unsigned)g->w.n_tile, grid_rows(n_item));
    unsigned block = 32u * (unsigned)g->w.n_range;
    if (ln->base.be->act_dtype == DTYPE_BF16)
        LAUNCH(gemm_rows<bf16>, grid, block, 0, ln, *g);
    else
        LAUNCH(gemm_rows<float>, grid, block, 0, ln, *g);
}
