/* gemm_tiles.cu - the multiplication of gemm.cu for many rows: prefill, encoder, memory attention.
 * Shapes   as gemm.cu, bf16, dense (all rows through each of n experts); 128 rows and more.
 * Launch   a block of 8 warps for 128 outputs x 64 rows; a warp for 32 x 32. Rows come through
 *          shared memory, a ring of STAGES chunks of 64 inputs that cp.async fills; weights in
 *          fragment order go from L2 straight into registers, a chunk ahead, and two warps find
 *          them in L1. One set of sums in registers; those of ranges that are done wait in shared
 *          memory, so that two blocks fit an SM (of 8 ranges: one).
 * Roofline 192 KB out of L2 for 4.2 M multiply-adds at K 512: bound by L2, not by the MMA.
 *          Predicted: 40 % of what mma.sync can do (590 TFLOP/s), 4096 x 512 x 256 in 6 us.
 *          Not timed by itself yet (docs/bench: whole steps).
 * Order    as gemm.cu, bit for bit: the same MMAs in the same chains, the same tree, the same end.
 *          The tree is a binary counter: after range i, as many sums are taken back as i has ones
 *          at its end. */
#include "kernels/cuda/gemm_tiles_impl.h"

#include "kernels/cuda/gemm_part_impl.cuh"

#define LEAST_ROWS 128
#define WARPS 8
#define BLOCK (32 * WARPS)
#define M_TILES 8          /* of 16 outputs, of a block */
#define ROWS 64            /* of a block */
#define MT 2               /* tiles of outputs of a warp */
#define NG 4               /* groups of 8 rows of a warp */
#define CHUNK 64           /* inputs of a chunk */
#define STEPS (CHUNK / 16) /* MMAs of a chunk */
#define LINE_PAD 16        /* values between the rows of a chunk: no bank is hit twice */
#define LINE (CHUNK + LINE_PAD)
#define STAGES 4
#define STAGE (ROWS * LINE) /* values */
#define SUMS (MT * NG * 4)  /* of a thread */
#define OUT_STEP (16 * M_TILES + 1)

/* ---- rows into shared memory ---- */

__device__ inline void copy16(bf16 *to, const bf16 *from)
{
#ifdef __CUDACC__
    asm volatile(
        "cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((uint32_t)__cvta_generic_to_shared(to)),
        "l"(from));
#else
    memcpy(to, from, 16);
#endif
}
/* What was asked for since the last time is a chunk. */
__device__ inline void copies_commit()
{
#ifdef __CUDACC__
    asm volatile("cp.async.commit_group;");
#endif
}
/* All but the last `n` chunks of this thread have come. */
template <int n> __device__ inline void copies_wait()
{
#ifdef __CUDACC__
    asm volatile("cp.async.wait_group %0;" ::"n"(n));
#endif
}

/* Inputs [first, first + CHUNK) of the rows of x from `row` on; a row beyond is the last one. */
__device__ inline void ask_rows(bf16 *stage, const struct gemm &g, const bf16 *x, int32_t row,
                                int32_t first)
{
    for (int32_t i = (int32_t)threadIdx.x; i < ROWS * CHUNK / 8; i += BLOCK) {
        int32_t r = i / (CHUNK / 8), at = i % (CHUNK / 8) * 8;
        int32_t from = row + r < g.n_row ? row + r : g.n_row - 1;
        copy16(stage + r * LINE + at,
               x + from * g.x_stride + first + at); // x[from,first + at]
    }
}

/* ---- weights into registers ---- */

/* A lane's way through the weights of its tiles, 16 inputs a step, range after range. */
struct way {
    const bf16 *p[MT];
    int32_t j, left; /* of a range, of all steps */
};

__device__ inline struct way way_of(const struct gemm &g, const bf16 *data, int32_t m)
{
    struct way w;
#pragma unroll
    for (int mt = 0; mt < MT; mt++) { /* a tile beyond is the first one: nobody reads its sums */
        int32_t tile = m + mt < g.w.n_tile ? m + mt : 0;
        w.p[mt] = data + tiles_at(&g.w, tile, 0, 0) + (int32_t)threadIdx.x % 32 * 8;
    }
    w.j = 0;
    w.left = g.w.k / 16;
    return w;
}

__device__ inline void take_weights(uint4 a[MT], struct way *w, const struct gemm &g)
{
    if (w->left == 0)
        return;
    int64_t step = PACK_TILE;
    if (++w->j == g.w.range_tile) {
        step = g.w.range_step - (int64_t)(g.w.range_tile - 1) * PACK_TILE;
        w->j = 0;
    }
    if (--w->left == 0)
        step = 0;
#pragma unroll
    for (int mt = 0; mt < MT; mt++) {
        a[mt] = *(const uint4 *)w->p[mt];
        w->p[mt] += step;
    }
}

/* ---- sums ---- */

/* Sums c of range `range` into the tree; after the last range c is the result. kept[d][i][thread]:
 * no bank is hit twice. */
__device__ inline void add_range(float *kept, float c[SUMS], int32_t range, int32_t n_range,
                                 int32_t *depth)
{
    for (int32_t ones = range; ones & 1; ones >>= 1) {
        --*depth;
#pragma unroll
        for (int i = 0; i < SUMS; i++)
            c[i] = kept[(*depth * SUMS + i) * BLOCK + (int32_t)threadIdx.x] + c[i];
    }
    if (range + 1 == n_range)
        return;
#pragma unroll
    for (int i = 0; i < SUMS; i++) {
        kept[(*depth * SUMS + i) * BLOCK + (int32_t)threadIdx.x] = c[i];
        c[i] = 0.0f;
    }
    ++*depth;
}

/* The block's results, through shared memory so that rows are written in one piece. */
__device__ inline void end_block(const struct gemm &g, const struct gemm_place &place, float *out,
                                 const float c[SUMS], int32_t m, int32_t row, int32_t warp_m,
                                 int32_t warp_row)
{
    int32_t lane = (int32_t)threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < SUMS; i++) {
        int32_t mt = i / (NG * 4), group = i / 4 % NG, at = i % 4;
        int32_t o = warp_m * 16 * MT + 16 * mt + lane / 4 + at / 2 * 8;
        out[(warp_row * 8 * NG + 8 * group + lane % 4 * 2 + at % 2) * OUT_STEP + o] = c[i];
    }
    __syncthreads();
    bool hidden = g.end == GEMM_HIDDEN;
    int32_t bits = hidden ? 6 : 7; /* of an output */
    for (int32_t at = (int32_t)threadIdx.x; at < ROWS << bits; at += BLOCK) {
        int32_t r = at >> bits, o = at & ((1 << bits) - 1);
        if (row + r >= g.n_row)
            break;
        const float *y = out + r * OUT_STEP;
        int32_t n = hidden ? m * 8 + o : m * 16 + o;
        struct gemm_early e = early_of<bf16>(g, place, row + r, n);
        if (!hidden)
            finish<bf16>(g, place, e, row + r, n, y[o]);
        else if (m + o / 8 < g.w.n_tile)
            finish_hidden<bf16>(g, place, e, row + r, n, y[o / 8 * 16 + o % 8],
                                y[o / 8 * 16 + o % 8 + 8]);
    }
}

static __global__ void __launch_bounds__(BLOCK, 2) gemm_tiles(const __grid_constant__ struct gemm g)
{
    DYNAMIC_SHARED(bf16, ring); // [STAGES][ROWS][LINE], then the kept sums
    float *kept = (float *)(ring + STAGES * STAGE);
    start_and_wait();
    int32_t warp = (int32_t)threadIdx.x / 32, lane = (int32_t)threadIdx.x % 32;
    int32_t warp_m = warp % 4, warp_row = warp / 4;
    int32_t each = (g.n_row + ROWS - 1) / ROWS, expert = (int32_t)blockIdx.y / each;
    int32_t m = (int32_t)blockIdx.x * M_TILES, row = ((int32_t)blockIdx.y - expert * each) * ROWS;
    const bf16 *x = (const bf16 *)g.x + expert * g.x_step;
    int32_t own = m + warp_m * MT, n_chunk = g.w.k / CHUNK, depth = 0;
    float c[SUMS] = {};
    uint4 a[STEPS][MT];
    struct way way = way_of(g, (const bf16 *)g.data + expert * g.expert_step, own);
    for (int32_t i = 0; i < STAGES - 1; i++) {
        if (i < n_chunk)
            ask_rows(ring + i * STAGE, g, x, row, i * CHUNK);
        copies_commit();
    }
#pragma unroll
    for (int s = 0; s < STEPS - 1; s++)
        take_weights(a[s], &way, g);
    for (int32_t chunk = 0, range = 0, j = 0; chunk < n_chunk; chunk++) {
        copies_wait<STAGES - 2>();
        __syncthreads();
        if (chunk + STAGES - 1 < n_chunk)
            ask_rows(ring + (chunk + STAGES - 1) % STAGES * STAGE, g, x, row,
                     (chunk + STAGES - 1) * CHUNK);
        copies_commit();
        const bf16 *b =
            ring + chunk % STAGES * STAGE + (warp_row * 8 * NG + lane / 4) * LINE + lane % 4 * 4;
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            uint2 in[NG];
            take_weights(a[(s + STEPS - 1) % STEPS], &way, g);
#pragma unroll
            for (int group = 0; group < NG; group++)
                in[group] = *(const uint2 *)(b + group * 8 * LINE + s * 16);
#pragma unroll
            for (int mt = 0; mt < MT; mt++)
#pragma unroll
                for (int group = 0; group < NG; group++)
                    mma_k16(c + (mt * NG + group) * 4, a[s][mt], in[group].x, in[group].y);
            if (++j == g.w.range_tile) {
                add_range(kept, c, range++, g.w.n_range, &depth);
                j = 0;
            }
        }
    }
    __syncthreads();
    size_t value = g.end == GEMM_F32 ? sizeof(float) : sizeof(bf16);
    struct gemm_place place = {g.bias ? g.bias + expert * g.bias_step : nullptr,
                               (char *)g.out + (size_t)(expert * g.out_step) * value};
    end_block(g, place, kept, c, m, row, warp_m, warp_row);
}

extern "C" bool gemm_tiles_launch(struct cuda_lane *ln, const struct gemm *g)
{
    if (g->item || g->n_row < LEAST_ROWS || g->near.cols > 0 || g->w.tail)
        return false;
    size_t n_kept = g->w.n_range == 8 ? 3 : 2;
    size_t bytes = STAGES * STAGE * sizeof(bf16) + n_kept * SUMS * BLOCK * sizeof(float);
    dim3 grid((unsigned)(g->w.n_tile + M_TILES - 1) / M_TILES,
              (unsigned)((g->n_row + ROWS - 1) / ROWS * g->n_expert));
    LAUNCH(gemm_tiles, grid, BLOCK, bytes, ln, *g);
    return true;
}
