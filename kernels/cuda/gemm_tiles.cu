/* gemm_tiles.cu - the multiplication of gemm.cu for many rows: prefill, encoder, memory attention.
 * Shapes   as gemm.cu, bf16, dense (all rows through each of n experts); 128 rows and more, of a
 *          head 17; ranges of a multiple of 32 inputs.
 * Launch   a block of 2 warpgroups: for 128 outputs x 128 rows, 64 outputs each, or, where that
 *          would leave most SMs idle or there are 8 ranges, for 64 x 64, 32 rows each, two blocks
 *          an SM. Weights and rows come through shared memory, a ring of STAGES chunks of 16 STEPS
 *          inputs that cp.async fills: weights in fragment order, which a lane takes into
 *          registers, rows as wgmma reads them. A group of products is always under way while
 *          weights of the next are loaded. All sums are in registers, two ranges at a time: no
 *          product waits between the two.
 * Roofline 128 x 128: 256 KB out of L2 for 8.4 M multiply-adds at K 512: 6.2 us a block by L2 (41
 *          bytes a ns and SM), 2.3 by wgmma, 3.0 by shared memory (80 KB a chunk). Norm, K and V of
 *          a memory's layer, 64 such blocks: 8.5 us (H200), 10.1 by mma.sync. 64 x 64: 128 KB, 3.1
 *          us by L2.
 * Order    as gemm.cu, bit for bit: a chain of the same MMAs a range, the same tree, the same end.
 *          wgmma sums as mma.sync does. A step of 16 inputs takes them in their order, gemm.cu in
 *          that of a lane's 4: the bits are the same (H200, test_gemm.c), an MMA adds up its 16
 *          products wherever they stand. A tile's size is in none of it. */
#include "kernels/cuda/gemm_tiles_impl.h"

#include "kernels/cuda/attend_impl.cuh"
#include "kernels/cuda/copy_impl.cuh"
#include "kernels/cuda/gemm_end_impl.cuh"
#include "kernels/cuda/wgmma_impl.cuh"

#define LEAST_ROWS 128
#define LEAST_ROWS_WIDE 17 /* of a matrix of so many tiles, such as a head */
#define WIDE_TILES 512
#define LEAST_BLOCKS 64 /* of large tiles */
#define GROUP_TILES 4   /* of 16 outputs, those of a warpgroup */
#define MOST_ROWS 128   /* of a block */
#define STAGES 6        /* two of them are read by products, the others are on their way */
#define AHEAD (STAGES - 2)

/* Of a block of OVER warpgroups for other outputs times BESIDE for other rows, 8 NG each; EIGHT:
 * there may be 8 ranges. */
template <int OVER, int BESIDE, int NG, int STEPS, bool EIGHT> struct shape {
    static constexpr int THREADS = 128 * OVER * BESIDE, STEP = STEPS;
    static constexpr int M_TILES = GROUP_TILES * OVER, GROUP_ROWS = 8 * NG, SUMS = NG * 4;
    static constexpr int ROWS = GROUP_ROWS * BESIDE;
    static constexpr int CHUNK = 16 * STEPS, HALF = STEPS / 2; /* steps of a group of products */
    static constexpr int WEIGHTS = M_TILES * STEPS * PACK_TILE, STAGE = ROWS * CHUNK + WEIGHTS;
    static constexpr int OUT_STEP = 16 * M_TILES + 4;
    /* 16-byte pieces of a chunk that a thread copies; rows and pieces of weights that the threads
     * of a block take at once */
    static constexpr int PIECES_M = WEIGHTS / 8 / THREADS, PIECES_ROW = ROWS * CHUNK / 8 / THREADS;
    static constexpr int ROWS_AT_ONCE = THREADS * 8 / CHUNK;
    static constexpr int ALIGN = near_rows<CHUNK>::ALIGN;
    static constexpr size_t RING = STAGES * STAGE * sizeof(bf16),
                            OUT = ROWS * OUT_STEP * sizeof(float);
    static constexpr size_t SHARED = (RING > OUT ? RING : OUT) + ALIGN;
    static_assert(ROWS <= MOST_ROWS && ROWS_AT_ONCE % 8 == 0 &&
                      GROUP_ROWS * CHUNK * sizeof(bf16) % ALIGN == 0 &&
                      STAGE * sizeof(bf16) % ALIGN == 0,
                  "rows lie as wgmma asks");
};

/* ---- into shared memory ---- */

/* Where piece p of weights lies in a stage, 8 values each. Two lanes of four read a piece each by
 * halves (weights_of): of the rows of a tile every other two have their pieces exchanged, so that
 * no bank is hit twice. */
__device__ inline int32_t weights_piece(int32_t p)
{
    return (p ^ (p >> 3 & 1) << 1) * 8;
}

/* Where a thread's pieces of the next chunk lie. */
template <class S> struct source {
    const bf16 *weights, *rows;
    int32_t tile[S::PIECES_M];  /* elements from `weights` */
    int32_t row[S::PIECES_ROW]; /* elements from `rows` */
    int32_t j;                  /* tiles of the range that were asked for */

    /* A tile or row beyond is the last one: nobody reads its sums. */
    __device__ source(const struct gemm &g, const bf16 *data, const bf16 *x, int32_t m, int32_t r)
        : weights(data), rows(x + r * g.x_stride), j(0)
    {
        int32_t at = (int32_t)threadIdx.x, left = g.n_row - 1 - r;
        constexpr int PER_TILE = S::WEIGHTS / S::M_TILES / 8, PER_ROW = S::CHUNK / 8;
#pragma unroll
        for (int i = 0; i < S::PIECES_M; i++) {
            int32_t piece = at + i * S::THREADS;
            tile[i] = (int32_t)tiles_at(&g.w, min(m + piece / PER_TILE, g.w.n_tile - 1), 0, 0) +
                      piece % PER_TILE * 8;
        }
#pragma unroll
        for (int i = 0; i < S::PIECES_ROW; i++)
            row[i] = min(at / PER_ROW + i * S::ROWS_AT_ONCE, left) * (int32_t)g.x_stride +
                     at % PER_ROW * 8;
    }
    __device__ void ask_rows(bf16 *stage)
    {
        constexpr int PER_ROW = S::CHUNK / 8;
        int32_t at = (int32_t)threadIdx.x;
        bf16 *to = stage + near_rows<S::CHUNK>::piece(at / PER_ROW, at % PER_ROW);
#pragma unroll
        for (int i = 0; i < S::PIECES_ROW; i++)
            copy16(to + i * S::ROWS_AT_ONCE * S::CHUNK, rows + row[i]);
        rows += S::CHUNK;
    }
    __device__ void ask_weights(bf16 *stage, const struct gemm &g)
    {
        bf16 *to = stage + S::ROWS * S::CHUNK + weights_piece((int32_t)threadIdx.x);
#pragma unroll
        for (int i = 0; i < S::PIECES_M; i++)
            copy16(to + i * S::THREADS * 8, weights + tile[i]);
        j += S::STEP;
        weights += S::CHUNK * 16;
        if (j == g.w.range_tile) {
            weights += g.w.range_step - (int64_t)j * PACK_TILE;
            j = 0;
        }
    }
};

/* ---- products ---- */

/* This lane's weights of 16 inputs as the A fragment of mma.m16n8k16, in the order of the inputs: a
 * tile gives a lane 4 of them that lie together, its first 2 and the second 2 as a pair of rows. */
__device__ inline uint4 weights_of(const bf16 *tile)
{
    int32_t lane = (int32_t)threadIdx.x % 32;
    int32_t at = weights_piece(lane / 4 * 4 + lane % 4 / 2) + lane % 2 * 4;
    uint2 low = *(const uint2 *)(tile + at), high = *(const uint2 *)(tile + (at ^ 16));
    return {low.x, low.y, high.x, high.y};
}

/* The chunks of a block, one behind the other. */
template <class S> struct chunks {
    bf16 *ring;          // [STAGES][rows, weights]
    int32_t here, left;  /* the next one's place in the ring; how many were not asked for */
    int32_t tile, group; /* of this warp's outputs, of its rows */
    struct source<S> from;

    __device__ chunks(const struct gemm &g, bf16 *ring_, const struct source<S> &from_)
        : ring(ring_), here(0), left(g.w.k / S::CHUNK), from(from_)
    {
        /* exchanged, so that ptxas sees that all lanes agree */
        int32_t warp = __shfl_sync(0xFFFFFFFFu, (int32_t)threadIdx.x / 32, 0);
        tile = warp % S::M_TILES;
        group = warp / S::M_TILES;
    }
    /* Weights are asked for ahead of the wait: nobody writes them. */
    __device__ void begin(const struct gemm &g)
    {
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            if (i < left)
                from.ask_weights(ring + i * S::STAGE, g);
        wait_for_previous();
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            if (i < left)
                from.ask_rows(ring + i * S::STAGE);
            copies_commit();
        }
        left -= AHEAD;
    }
    __device__ void ask(const struct gemm &g)
    {
        if (left > 0) {
            bf16 *stage = ring + here + (here < 2 * S::STAGE ? AHEAD : AHEAD - STAGES) * S::STAGE;
            from.ask_weights(stage, g);
            from.ask_rows(stage);
        }
        copies_commit();
        left--;
    }
    /* c (+)= the next one; its second half stays under way. Once all are here, all are done with
     * the one before last. */
    __device__ void multiply(float (&c)[S::SUMS], const struct gemm &g, bool add)
    {
        copies_wait<AHEAD - 1>();
        stores_before_products();
        __syncthreads();
        const bf16 *rows = ring + here + group * S::GROUP_ROWS * S::CHUNK;
        const bf16 *tiles = ring + here + S::ROWS * S::CHUNK + tile * S::STEP * PACK_TILE;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint4 a[S::HALF];
#pragma unroll
            for (int i = 0; i < S::HALF; i++)
                a[i] = weights_of(tiles + (half * S::HALF + i) * PACK_TILE);
            products_begin();
#pragma unroll
            for (int i = 0; i < S::HALF; i++)
                multiply_near<S::CHUNK>(c, a[i], rows, half * S::HALF + i,
                                        add || half > 0 || i > 0);
            products_commit();
            if (half == 0)
                ask(g);
            products_wait<1>();
        }
        here = here + S::STAGE < STAGES * S::STAGE ? here + S::STAGE : 0;
    }
    /* c = the next range; its last products stay under way. */
    __device__ void range(float (&c)[S::SUMS], const struct gemm &g)
    {
#pragma unroll 1
        for (int32_t j = 0; j < g.w.range_tile; j += S::STEP)
            multiply(c, g, j > 0);
    }
    /* Of the next two ranges, one sum each. */
    __device__ void two_ranges(float (&c)[2][S::SUMS], const struct gemm &g)
    {
        settle(c[0]);
        settle(c[1]);
        range(c[0], g);
        range(c[1], g);
        products_wait<0>();
        settle(c[0]);
        settle(c[1]);
    }
};

/* c[0] = the sum of the next four ranges, (0+1)+(2+3). */
template <class S>
__device__ inline void four_ranges(float (&c)[2][S::SUMS], struct chunks<S> &chunks,
                                   const struct gemm &g)
{
    float first[S::SUMS];
    chunks.two_ranges(c, g);
#pragma unroll
    for (int i = 0; i < S::SUMS; i++)
        first[i] = c[0][i] + c[1][i];
    chunks.two_ranges(c, g);
#pragma unroll
    for (int i = 0; i < S::SUMS; i++)
        c[0][i] = first[i] + (c[0][i] + c[1][i]);
}

/* ---- results ---- */

/* Where output o of row r of a block waits: of 128 outputs each 32 have their pieces of 4 exchanged
 * in another way, so that no bank is hit twice by lanes that read 8 or 16 each. */
template <class S> __device__ inline int32_t out_at(int32_t r, int32_t o)
{
    return r * S::OUT_STEP + (o ^ (o >> 5 & 3) << 2);
}

/* Outputs o to o + 7 of row r, o a multiple of 8. */
template <class S>
__device__ inline void load_sums(float y[8], const float *out, int32_t r, int32_t o)
{
    float4 a = *(const float4 *)(out + out_at<S>(r, o));
    float4 b = *(const float4 *)(out + out_at<S>(r, o + 4));
    y[0] = a.x, y[1] = a.y, y[2] = a.z, y[3] = a.w;
    y[4] = b.x, y[5] = b.y, y[6] = b.z, y[7] = b.w;
}

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
         r += S::THREADS / EACH) {
        float y[8], gate[8];
        load_sums<S>(y, out, r, 16 * i);
        load_sums<S>(gate, out, r, 16 * i + 8);
        finish_hidden8(g, place.out, row + r, n, y, gate, bias);
    }
}

/* What GEMM_ADD reads is asked for a few rows at a time. */
template <class S>
__device__ inline void end_rows(const struct gemm &g, const struct gemm_place &place,
                                const float *out, int32_t m, int32_t row)
{
    constexpr int EACH = 2 * S::M_TILES,
                  STEP = S::THREADS / EACH; /* pieces of a row; rows at once */
    constexpr int AT_ONCE = S::ROWS / STEP < 4 ? S::ROWS / STEP : 4;
    int32_t i = (int32_t)threadIdx.x % EACH, n = m * 16 + 8 * i;
    const struct biases bias(g, place.bias, n);
#pragma unroll 1
    for (int32_t r = (int32_t)threadIdx.x / EACH; r < S::ROWS && row + r < g.n_row;
         r += AT_ONCE * STEP) {
        float before[AT_ONCE][8] = {};
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
            if (g.end == GEMM_ADD && row + r + k * STEP < g.n_row)
                load8(before[k], (const bf16 *)place.out + (row + r + k * STEP) * g.out_stride, n,
                      g.w.n); // out[row,:]
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            float y[8];
            load_sums<S>(y, out, r + k * STEP, 8 * i);
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
        t[j] = out[out_at<S>(r + (j + 2 * turn) % 8, o)];
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
        for (int32_t r = thread / EACH; r < S::ROWS && row + r < g.n_row; r += S::THREADS / EACH) {
            float y[8];
            load_sums<S>(y, out, r, thread % EACH * 8);
#pragma unroll
            for (int j = 0; j < 8; j++)
                y[j] = y[j] + b.of[j];
            store8(block_of<bf16>(&keys, (row + r) / KV_BLOCK, head) +
                       key_element(dim, (row + r) % KV_BLOCK, d),
                   0, 8, y);
        }
    }
#pragma unroll 1
    for (int32_t o = thread / 4; o < 16 * S::M_TILES; o += S::THREADS / 4) {
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
template <class S>
__device__ inline void end_block(const struct gemm &g, const struct gemm_place &place, float *out,
                                 const float *c, int32_t m, int32_t row)
{
    int32_t warp = (int32_t)threadIdx.x / 32, lane = (int32_t)threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < S::SUMS; i++) {
        int32_t o = 16 * (warp % S::M_TILES) + lane / 4 + i % 4 / 2 * 8;
        int32_t r = warp / S::M_TILES * S::GROUP_ROWS + i / 4 * 8 + lane % 4 * 2 + i % 2;
        out[out_at<S>(r, o)] = c[i];
    }
    __syncthreads();
    if (g.end == GEMM_KEYS)
        end_keys<S>(g, place.bias, out, m, row);
    else if (g.end == GEMM_HIDDEN)
        end_hidden<S>(g, place, out, m, row);
    else
        end_rows<S>(g, place, out, m, row);
}

template <int OVER, int BESIDE, int NG, int STEPS, bool EIGHT>
static __global__ void __launch_bounds__(128 * OVER * BESIDE, OVER == 2 ? 1 : 2)
    gemm_tiles(const __grid_constant__ struct gemm g)
{
    using S = shape<OVER, BESIDE, NG, STEPS, EIGHT>;
    DYNAMIC_SHARED(bf16, shared);
    start_next();
    bf16 *ring = near_rows<S::CHUNK>::first(shared);
    int32_t each = (g.n_row + S::ROWS - 1) / S::ROWS, expert = (int32_t)blockIdx.y / each;
    int32_t m = (int32_t)blockIdx.x * S::M_TILES;
    int32_t row = ((int32_t)blockIdx.y - expert * each) * S::ROWS;
    struct chunks<S> chunks(g, ring,
                            {g, (const bf16 *)g.data + expert * g.expert_step,
                             (const bf16 *)g.x + expert * g.x_step, m, row});
    float c[2][S::SUMS] = {};
    chunks.begin(g);
    four_ranges(c, chunks, g);
    if (EIGHT && g.w.n_range == 8) {
        float first[S::SUMS];
#pragma unroll
        for (int i = 0; i < S::SUMS; i++)
            first[i] = c[0][i];
        four_ranges(c, chunks, g);
#pragma unroll
        for (int i = 0; i < S::SUMS; i++)
            c[0][i] = first[i] + c[0][i];
    }
    __syncthreads();
    size_t value = g.end == GEMM_F32 ? sizeof(float) : sizeof(bf16);
    struct gemm_place place = {g.bias ? g.bias + expert * g.bias_step : nullptr,
                               (char *)g.out + (size_t)(expert * g.out_step) * value};
    end_block<S>(g, place, (float *)ring, c[0], m, row);
}

/* ---- launching ---- */

template <class S> static dim3 grid_of(const struct gemm *g)
{
    return dim3((unsigned)((g->w.n_tile + S::M_TILES - 1) / S::M_TILES),
                (unsigned)((g->n_row + S::ROWS - 1) / S::ROWS * g->n_expert));
}

template <int OVER, int BESIDE, int NG, int STEPS, bool EIGHT>
static void launch(struct cuda_lane *ln, const struct gemm *g)
{
    using S = shape<OVER, BESIDE, NG, STEPS, EIGHT>;
    LAUNCH((gemm_tiles<OVER, BESIDE, NG, STEPS, EIGHT>), grid_of<S>(g), S::THREADS, S::SHARED, ln,
           *g);
}

#define MOST_BLOCKS_Y 65535 /* of a grid; a block has 64 rows or more */

extern "C" bool gemm_tiles_fits(const struct gemm *g)
{
    int32_t least = g->w.n_tile >= WIDE_TILES ? LEAST_ROWS_WIDE : LEAST_ROWS;
    return !g->item && g->n_row >= least && g->near.cols == 0 && !g->w.tail &&
           g->w.range_tile % 2 == 0 && g->x_stride < INT32_MAX / MOST_ROWS &&
           tiles_fit_int32(&g->w) && ((int64_t)g->n_row + 63) / 64 * g->n_expert <= MOST_BLOCKS_Y;
}

extern "C" void gemm_tiles_launch(struct cuda_lane *ln, const struct gemm *g)
{
    dim3 large = grid_of<shape<2, 1, 16, 4, false>>(g);
    if (g->w.range_tile % 4 == 0 && g->w.n_range == 4 && large.x * large.y >= LEAST_BLOCKS &&
        g->n_row > 64)
        launch<2, 1, 16, 4, false>(ln, g);
    else if (g->w.range_tile % 4 == 0)
        launch<1, 2, 4, 4, true>(ln, g);
    else
        launch<1, 2, 4, 2, true>(ln, g);
}
