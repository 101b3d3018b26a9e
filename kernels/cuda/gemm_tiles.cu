/* gemm_tiles.cu - the multiplication of gemm.cu for many rows: prefill, encoder, memory attention.
 * Shapes   as gemm.cu, bf16, dense (all rows through each of n experts); 128 rows and more, of a
 *          head 17; ranges of a multiple of 32 inputs.
 * Launch   a block of 8 warps, 2 x 4 of them, for 128 outputs x 128 rows (a warp 64 x 32) or, where
 *          that would leave most SMs idle or there are 8 ranges, 64 x 64 (a warp 32 x 16). Weights
 *          and rows come through shared memory, a ring of STAGES chunks of 16 STEPS inputs that
 *          cp.async fills; weights lie there in fragment order too. Of the sums of ranges that are
 *          done the first wait in registers, the others in shared memory.
 * Roofline 128 x 128: 256 KB out of L2 for 8.4 M multiply-adds at K 512, 96 KB out of shared memory
 *          for 512 MMAs: L2 (6.2 us a block), shared memory (768 clocks a chunk) and mma.sync (845
 *          at 60 % of the peak) are near each other. A block took 12.1 us on a full card (H200,
 *          32768 rows), 15 with the end for keys, when every row waited for its bias; predicted
 *          now: 9 and 10.
 * Order    as gemm.cu, bit for bit: the same MMAs in the same chains, the same tree, the same end.
 *          The tree is a binary counter: after range i, as many sums are taken back as i has ones
 *          at its end. A tile's size is in none of it. */
#include "kernels/cuda/gemm_tiles_impl.h"

#include "kernels/cuda/attend_impl.cuh"
#include "kernels/cuda/copy_impl.cuh"
#include "kernels/cuda/gemm_end_impl.cuh"

#define LEAST_ROWS 128
#define LEAST_ROWS_WIDE 17 /* of a matrix of so many tiles, such as a head */
#define WIDE_TILES 512
#define LEAST_BLOCKS 64 /* of large tiles */
#define WARPS 8
#define BLOCK (32 * WARPS)
#define WARPS_M 2
#define WARPS_ROW (WARPS / WARPS_M)
#define LINE_PAD 16 /* values between the rows of a chunk: no bank is hit twice */
#define STAGES 4

/* Of a block whose warps have MT tiles of 16 outputs and NG groups of 8 rows. */
template <int MT, int NG, int STEPS> struct shape {
    static constexpr int M_TILES = MT * WARPS_M, ROWS = 8 * NG * WARPS_ROW, SUMS = MT * NG * 4;
    static constexpr int CHUNK = 16 * STEPS, LINE = CHUNK + LINE_PAD;
    static constexpr int WEIGHTS = M_TILES * STEPS * PACK_TILE, STAGE = WEIGHTS + ROWS * LINE;
    static constexpr int OUT_STEP = 16 * M_TILES + 4;
    /* 16-byte pieces of a chunk that a thread copies */
    static constexpr int PIECES_M = WEIGHTS / 8 / BLOCK, PIECES_ROW = ROWS * CHUNK / 8 / BLOCK;
    static constexpr size_t RING = STAGES * STAGE * sizeof(bf16) > ROWS *OUT_STEP * sizeof(float)
                                       ? STAGES *STAGE * sizeof(bf16)
                                       : ROWS *OUT_STEP * sizeof(float);
};

/* ---- into shared memory ---- */

/* Where a thread's pieces of the next chunk lie. */
template <class S> struct source {
    const bf16 *weights, *row[S::PIECES_ROW];
    int32_t tile[S::PIECES_M]; /* elements from `weights` */
    int32_t j;                 /* tiles of the range that were asked for */

    /* A tile or row beyond is the last one: nobody reads its sums. */
    __device__ source(const struct gemm &g, const bf16 *data, const bf16 *x, int32_t m, int32_t r)
        : weights(data), j(0)
    {
        int32_t at = (int32_t)threadIdx.x;
        constexpr int PER_TILE = S::WEIGHTS / S::M_TILES / 8, PER_ROW = S::CHUNK / 8;
#pragma unroll
        for (int i = 0; i < S::PIECES_M; i++) {
            int32_t piece = at + i * BLOCK, t = m + piece / PER_TILE;
            tile[i] = (int32_t)tiles_at(&g.w, t < g.w.n_tile ? t : g.w.n_tile - 1, 0, 0) +
                      piece % PER_TILE * 8;
        }
#pragma unroll
        for (int i = 0; i < S::PIECES_ROW; i++) {
            int32_t piece = at + i * BLOCK, from = r + piece / PER_ROW;
            row[i] = x + (from < g.n_row ? from : g.n_row - 1) * g.x_stride + piece % PER_ROW * 8;
        }
    }
    __device__ void ask_rows(bf16 *stage)
    {
        constexpr int PER_ROW = S::CHUNK / 8;
#pragma unroll
        for (int i = 0; i < S::PIECES_ROW; i++) {
            int32_t piece = (int32_t)threadIdx.x + i * BLOCK;
            copy16(stage + S::WEIGHTS + piece / PER_ROW * S::LINE + piece % PER_ROW * 8, row[i]);
            row[i] += S::CHUNK;
        }
    }
    __device__ void ask_weights(bf16 *stage, const struct gemm &g)
    {
#pragma unroll
        for (int i = 0; i < S::PIECES_M; i++)
            copy16(stage + ((int32_t)threadIdx.x + i * BLOCK) * 8, weights + tile[i]);
        j += S::CHUNK / 16;
        weights += S::CHUNK * 16;
        if (j == g.w.range_tile) {
            weights += g.w.range_step - (int64_t)j * PACK_TILE;
            j = 0;
        }
    }
};

/* ---- sums ---- */

/* Sums of ranges that wait: the first in registers, others as at[d][i][thread]: no bank is hit
 * twice. */
template <int SUMS> struct kept {
    float first[SUMS], *at;
    int32_t depth;

    __device__ float *place(int i)
    {
        return at + ((depth - 1) * SUMS + i) * BLOCK + (int32_t)threadIdx.x;
    }
    /* Sums c of range `range` into the tree; after the last range c is the result. */
    __device__ void add(float c[SUMS], int32_t range, int32_t n_range)
    {
#pragma unroll 1
        for (int32_t ones = range; ones & 1; ones >>= 1) {
            depth--;
            if (depth == 0) {
#pragma unroll
                for (int i = 0; i < SUMS; i++)
                    c[i] = first[i] + c[i];
            } else {
#pragma unroll
                for (int i = 0; i < SUMS; i++)
                    c[i] = *place(i) + c[i];
            }
        }
        if (range + 1 == n_range)
            return;
        if (depth == 0) {
#pragma unroll
            for (int i = 0; i < SUMS; i++)
                first[i] = c[i];
        } else {
#pragma unroll
            for (int i = 0; i < SUMS; i++)
                *place(i) = c[i];
        }
#pragma unroll
        for (int i = 0; i < SUMS; i++)
            c[i] = 0.0f;
        depth++;
    }
};

/* A chunk of one range. */
template <int MT, int NG, int STEPS>
__device__ inline void multiply(float *c, const bf16 *stage, int32_t warp_m, int32_t warp_row)
{
    using S = shape<MT, NG, STEPS>;
    int32_t lane = (int32_t)threadIdx.x % 32;
    const bf16 *a = stage + warp_m * MT * STEPS * PACK_TILE + lane * 8;
    const bf16 *b = stage + S::WEIGHTS + (warp_row * 8 * NG + lane / 4) * S::LINE + lane % 4 * 4;
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        uint4 w[MT];
        uint2 in[NG];
#pragma unroll
        for (int mt = 0; mt < MT; mt++)
            w[mt] = *(const uint4 *)(a + (mt * STEPS + s) * PACK_TILE);
#pragma unroll
        for (int group = 0; group < NG; group++)
            in[group] = *(const uint2 *)(b + group * 8 * S::LINE + s * 16);
#pragma unroll
        for (int mt = 0; mt < MT; mt++)
#pragma unroll
            for (int group = 0; group < NG; group++)
                mma_k16(c + (mt * NG + group) * 4, w[mt], in[group].x, in[group].y);
    }
}

/* ---- results ---- */

template <class S>
__device__ inline void end_hidden(const struct gemm &g, const struct gemm_place &place,
                                  const float *out, int32_t m, int32_t row)
{
    constexpr int EACH = S::M_TILES; /* pieces of a row */
    int32_t i = (int32_t)threadIdx.x % EACH, n = 8 * (m + i);
    if (m + i >= g.w.n_tile)
        return;
    const struct biases bias(g, place.bias, n);
#pragma unroll 1
    for (int32_t r = (int32_t)threadIdx.x / EACH; r < S::ROWS && row + r < g.n_row;
         r += BLOCK / EACH) {
        float y[8], gate[8];
        load8(y, out + r * S::OUT_STEP + 16 * i, 0, 8);
        load8(gate, out + r * S::OUT_STEP + 16 * i + 8, 0, 8);
        finish_hidden8(g, place.out, row + r, n, y, gate, bias);
    }
}

/* What GEMM_ADD reads is asked for a few rows at a time. */
template <class S>
__device__ inline void end_rows(const struct gemm &g, const struct gemm_place &place,
                                const float *out, int32_t m, int32_t row)
{
    constexpr int EACH = 2 * S::M_TILES, STEP = BLOCK / EACH; /* pieces of a row; rows at once */
    constexpr int AHEAD = S::ROWS / STEP < 4 ? S::ROWS / STEP : 4;
    int32_t i = (int32_t)threadIdx.x % EACH, n = m * 16 + 8 * i;
    const struct biases bias(g, place.bias, n);
#pragma unroll 1
    for (int32_t r = (int32_t)threadIdx.x / EACH; r < S::ROWS && row + r < g.n_row;
         r += AHEAD * STEP) {
        float before[AHEAD][8] = {};
#pragma unroll
        for (int k = 0; k < AHEAD; k++)
            if (g.end == GEMM_ADD && row + r + k * STEP < g.n_row)
                load8(before[k], (const bf16 *)place.out + (row + r + k * STEP) * g.out_stride, n,
                      g.w.n); // out[row,:]
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            float y[8];
            load8(y, out + (r + k * STEP) * S::OUT_STEP + 8 * i, 0, 8);
            if (row + r + k * STEP < g.n_row)
                finish8(g, place.out, row + r + k * STEP, n, y, bias.of, before[k]);
        }
    }
}

/* 8 rows of column o from row r on: in another order for each of the 4 lanes of a column, so that
 * no bank is hit twice. */
template <class S>
__device__ inline void load_column(float y[8], const float *out, int32_t r, int32_t o)
{
    int32_t turn = (int32_t)threadIdx.x % 4;
    float t[8], half[8];
#pragma unroll
    for (int j = 0; j < 8; j++) {
        t[j] = out[(r + (j + 2 * turn) % 8) * S::OUT_STEP + o];
    }
#pragma unroll
    for (int j = 0; j < 8; j++)
        half[j] = turn & 1 ? t[(j + 6) % 8] : t[j];
#pragma unroll
    for (int j = 0; j < 8; j++)
        y[j] = turn & 2 ? half[(j + 4) % 8] : half[j];
}

/* K and V of the block's rows into their blocks of keys, as store_tiles of attend.cu does: a thread
 * 8 values of a key, or one value of 8 keys. Keys beyond are zeros up to the end of 32. */
template <class S>
__device__ inline void end_keys(const struct gemm &g, const float *bias, const float *out,
                                int32_t m, int32_t row)
{
    constexpr int EACH = 2 * S::M_TILES;
    const struct attend_keys keys = g.keys->keys;
    int32_t dim = g.key_dim, width = g.w.n / 2, thread = (int32_t)threadIdx.x;
    int32_t n = m * 16 + thread % EACH * 8, head = n / dim, d = n % dim;
    if (n < width) {
        const struct biases b(g, bias, n);
#pragma unroll 2
        for (int32_t r = thread / EACH; r < S::ROWS && row + r < g.n_row; r += BLOCK / EACH) {
            float y[8];
            load8(y, out + r * S::OUT_STEP + thread % EACH * 8, 0, 8);
#pragma unroll
            for (int j = 0; j < 8; j++)
                y[j] = y[j] + b.of[j];
            store8(block_of<bf16>(&keys, (row + r) / KV_BLOCK, head) +
                       key_element(dim, (row + r) % KV_BLOCK, d),
                   0, 8, y);
        }
    }
#pragma unroll 1
    for (int32_t o = thread / 4; o < 16 * S::M_TILES; o += BLOCK / 4) {
        n = m * 16 + o - width;
        if (n < 0 || n >= width)
            continue;
        float b = bias ? bias[width + n] : 0.0f;
        head = n / dim;
        d = n % dim;
#pragma unroll 2
        for (int32_t r = thread % 4 * 8; r < S::ROWS; r += 32) {
            if ((row + r) / 32 * 32 >= g.n_row)
                break;
            float y[8];
            load_column<S>(y, out, r, o);
#pragma unroll
            for (int j = 0; j < 8; j++)
                y[j] = row + r + j < g.n_row ? y[j] + b : 0.0f;
            store8(block_of<bf16>(&keys, (row + r) / KV_BLOCK, head) + KV_BLOCK * dim +
                       value_element(DTYPE_BF16, dim, (row + r) % KV_BLOCK, d),
                   0, 8, y);
        }
    }
}

/* The block's results, through shared memory so that rows are written in pieces of 16 bytes. */
template <int MT, int NG, int STEPS>
__device__ inline void end_block(const struct gemm &g, const struct gemm_place &place, float *out,
                                 const float *c, int32_t m, int32_t row, int32_t warp_m,
                                 int32_t warp_row)
{
    using S = shape<MT, NG, STEPS>;
    int32_t lane = (int32_t)threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < S::SUMS; i++) {
        int32_t mt = i / (NG * 4), group = i / 4 % NG, at = i % 4;
        int32_t o = warp_m * 16 * MT + 16 * mt + lane / 4 + at / 2 * 8;
        out[(warp_row * 8 * NG + 8 * group + lane % 4 * 2 + at % 2) * S::OUT_STEP + o] = c[i];
    }
    __syncthreads();
    if (g.end == GEMM_KEYS)
        end_keys<S>(g, place.bias, out, m, row);
    else if (g.end == GEMM_HIDDEN)
        end_hidden<S>(g, place, out, m, row);
    else
        end_rows<S>(g, place, out, m, row);
}

template <int MT, int NG, int STEPS>
static __global__ void __launch_bounds__(BLOCK, MT == 4 ? 1 : 2)
    gemm_tiles(const __grid_constant__ struct gemm g)
{
    using S = shape<MT, NG, STEPS>;
    DYNAMIC_SHARED(bf16, ring); // [STAGES][weights, rows], then the kept sums
    start_next();
    int32_t warp = (int32_t)threadIdx.x / 32;
    int32_t warp_m = warp % WARPS_M, warp_row = warp / WARPS_M;
    int32_t each = (g.n_row + S::ROWS - 1) / S::ROWS, expert = (int32_t)blockIdx.y / each;
    int32_t m = (int32_t)blockIdx.x * S::M_TILES;
    int32_t row = ((int32_t)blockIdx.y - expert * each) * S::ROWS;
    int32_t n_chunk = g.w.k / S::CHUNK;
    struct source<S> from(g, (const bf16 *)g.data + expert * g.expert_step,
                          (const bf16 *)g.x + expert * g.x_step, m, row);
    struct kept<S::SUMS> kept = {
    };
    kept.at = (float *)((char *)ring + S::RING);
    float c[S::SUMS] = {};
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++)
        if (i < n_chunk)
            from.ask_weights(ring + i * S::STAGE, g);
    wait_for_previous(); /* nobody writes weights */
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) {
        if (i < n_chunk)
            from.ask_rows(ring + i * S::STAGE);
        copies_commit();
    }
#pragma unroll 1
    for (int32_t chunk = 0, range = 0, j = 0; chunk < n_chunk; chunk++) {
        copies_wait<STAGES - 2>();
        __syncthreads();
        if (chunk + STAGES - 1 < n_chunk) {
            bf16 *stage = ring + (chunk + STAGES - 1) % STAGES * S::STAGE;
            from.ask_weights(stage, g);
            from.ask_rows(stage);
        }
        copies_commit();
        multiply<MT, NG, STEPS>(c, ring + chunk % STAGES * S::STAGE, warp_m, warp_row);
        j += STEPS;
        if (j == g.w.range_tile) {
            kept.add(c, range++, g.w.n_range);
            j = 0;
        }
    }
    __syncthreads();
    size_t value = g.end == GEMM_F32 ? sizeof(float) : sizeof(bf16);
    struct gemm_place place = {g.bias ? g.bias + expert * g.bias_step : nullptr,
                               (char *)g.out + (size_t)(expert * g.out_step) * value};
    end_block<MT, NG, STEPS>(g, place, (float *)ring, c, m, row, warp_m, warp_row);
}

/* ---- launching ---- */

template <int MT, int NG, int STEPS> static dim3 grid_of(const struct gemm *g)
{
    using S = shape<MT, NG, STEPS>;
    return dim3((unsigned)((g->w.n_tile + S::M_TILES - 1) / S::M_TILES),
                (unsigned)((g->n_row + S::ROWS - 1) / S::ROWS * g->n_expert));
}

template <int MT, int NG, int STEPS> static void launch(struct cuda_lane *ln, const struct gemm *g)
{
    using S = shape<MT, NG, STEPS>;
    size_t n_kept = g->w.n_range == 8 ? 2 : 1;
    LAUNCH((gemm_tiles<MT, NG, STEPS>), (grid_of<MT, NG, STEPS>(g)), BLOCK,
           S::RING + n_kept * S::SUMS * BLOCK * sizeof(float), ln, *g);
}

extern "C" bool gemm_tiles_fits(const struct gemm *g)
{
    int32_t least = g->w.n_tile >= WIDE_TILES ? LEAST_ROWS_WIDE : LEAST_ROWS;
    return !g->item && g->n_row >= least && g->near.cols == 0 && !g->w.tail &&
           g->w.range_tile % 2 == 0;
}

extern "C" void gemm_tiles_launch(struct cuda_lane *ln, const struct gemm *g)
{
    dim3 large = grid_of<4, 4, 4>(g);
    if (g->w.range_tile % 4 == 0 && g->w.n_range == 4 && large.x * large.y >= LEAST_BLOCKS &&
        g->n_row > 64)
        launch<4, 4, 4>(ln, g);
    else if (g->w.range_tile % 4 == 0)
        launch<2, 2, 4>(ln, g);
    else
        launch<2, 2, 2>(ln, g);
}
