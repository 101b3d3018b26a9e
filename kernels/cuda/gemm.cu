/* gemm.cu - rows of activations through tiles of weights, with what happens to the result: rows of
 * experts, and what neither gemm_few.cu (few rows) nor gemm_tiles.cu (many) takes.
 * Shapes   x: rows of K values; weights: tiles of pack_impl.h; out by enum gemm_end. K a multiple
 *          of 64, any number of rows and outputs.
 * Launch   a block an item (rows of one expert, or 8 NG rows of all) and MT tiles of 16 outputs, a
 *          warp for each range of k (4 or 8). bf16: mma.sync m16n8k16, weights on M in fragment
 *          order, rows on N, 8 NG rows at a time. A warp first asks for all weights of its range, 4
 *          KB in 8 loads of 16 bytes a lane, then makes or loads the rows, and keeps the weights
 *          for all rows of the item. MT 4: ranges of 1 or 2 tiles, the down matrix of an expert.
 *          By items of few rows (NG 1) there are at most as many blocks as the card has room for,
 *          and each goes on: of 8 rows that could have 80 experts and have 16, 1,500 of 2,040
 *          blocks started, waited and read that there is nothing for them.
 *          f32: a lane a row, plain fmaf.
 *          Weights of a dense matrix and of its norm are asked for before the launch ahead has
 *          ended; those of an expert's second matrix too (item_early).
 * Roofline memory-bound: every weight byte once for the rows of an item. 20 warps an SM have 80 KB
 *          in flight. Measured, H200 (CUPTI), experts' two matrices of beta-3b: 4.3 and 2.8 us for
 *          a row, 7.3 and 5.8 for 8. Blocks that go on: route.cu.
 * Order    a range of k is one chain (of MMAs, of fmaf), ranges are added in the tree of
 *          pack_impl.h, then the bias. Rows are columns of the MMA: none sees another. NG and MT
 *          change nothing in it. */
#include "kernels/cuda/gemm_impl.h"

#include "kernels/cuda/gemm_few_impl.h"
#include "kernels/cuda/gemm_items_impl.h"
#include "kernels/cuda/gemm_part_impl.cuh"
#include "kernels/cuda/gemm_tiles_impl.h"
#include "kernels/cuda/norm_row_impl.cuh"

#include <assert.h>

#define HELD 8                        /* tiles of weights that a warp has in flight */
#define NEAR_PAD 16                   /* values behind a near row: no bank is hit twice */
#define NEAR_BYTES ((size_t)32 << 10) /* of near rows */
#define NEAR_TILES 512                /* more blocks than that do not normalise by themselves */
#define MAX_BLOCK (1 << 24)           /* what pack_divide takes */
#define BY_ITEMS 264                  /* blocks of 8 warps by items: 2 for each SM */

struct gemm_set {
    int32_t n;
    struct gemm g[GEMM_SIDE];
    int32_t n_block[GEMM_SIDE];
    uint64_t per_item[GEMM_SIDE], per_expert[GEMM_SIDE]; /* pack_inverse of blocks, of items */
};

/* Sums of the tiles of a block: v[range][output][row]; rows apart by one float more, so that no
 * bank is hit twice. */
template <int MT, int NG> struct parts {
    float v[PACK_SLICES][16 * MT][8 * NG + 1];
};

/* The weights of a warp: HELD / MT tiles of its range for MT tiles of outputs, and the tails. */
template <class T, int MT> struct held;
template <int MT> struct held<bf16, MT> {
    uint4 a[MT][HELD / MT];
    uint2 tail[MT];
};
template <int MT> struct held<float, MT> {
};

template <int MT>
__device__ inline void hold(struct held<bf16, MT> *h, const struct tiles &w, const bf16 *data,
                            int32_t m, int32_t range, int32_t first)
{
    int32_t lane = (int32_t)threadIdx.x % 32;
#pragma unroll
    for (int mt = 0; mt < MT; mt++) {
        const bf16 *tile = data + tiles_at(&w, m + mt, range, first) + lane * 8;
#pragma unroll
        for (int j = 0; j < HELD / MT; j++)
            h->a[mt][j] =
                load_weights16(tile + j * PACK_TILE, m + mt < w.n_tile && first + j < w.range_tile);
        h->tail[mt] = load_weights8(data + tiles_tail_at(&w, m + mt, range) + lane * 4,
                                    m + mt < w.n_tile && w.tail);
    }
}
template <int MT>
__device__ inline void hold(struct held<float, MT> *, const struct tiles &, const float *, int32_t,
                            int32_t, int32_t)
{
}

/* Rows of an item: where row r < n of it lies. */
template <class T> struct rows {
    const T *x;
    int64_t stride;
    const int32_t *index; /* NULL: r itself */
    int32_t n;
};
/* A row beyond is the last one: a column of the MMA that nobody reads. */
template <class T> __device__ inline const T *row_at(const struct rows<T> &x, int32_t r)
{
    r = r < x.n ? r : x.n - 1;
    return x.x + (x.index ? x.index[r] : r) * x.stride;
}

/* One range of the tiles m on, for the 8 NG rows from r0 on; h holds the range's first tiles, and
 * where it is longer, its last ones in the end. */
template <int MT, int NG>
__device__ inline void multiply(struct parts<MT, NG> *s, struct held<bf16, MT> *h,
                                const struct tiles &w, const bf16 *data, int32_t m, int32_t range,
                                const struct rows<bf16> &x, int32_t r0)
{
    constexpr int KT = HELD / MT;
    int32_t lane = (int32_t)threadIdx.x % 32;
    const bf16 *row[NG];
    float c[MT][NG][4] = {};
#pragma unroll
    for (int g = 0; g < NG; g++)
        row[g] = row_at(x, r0 + 8 * g + lane / 4) + tiles_range_k(&w, range);
    uint32_t b_tail[NG];
#pragma unroll
    for (int g = 0; g < NG; g++)
        b_tail[g] = w.tail ? *(const uint32_t *)(row[g] + 16 * w.range_tile + lane % 4 * 2) : 0;
#pragma unroll 1
    for (int32_t first = 0; first < w.range_tile; first += KT) {
        if (w.range_tile > KT && (first > 0 || r0 > 0))
            hold(h, w, data, m, range, first);
        uint2 b[KT][NG];
#pragma unroll
        for (int j = 0; j < KT; j++)
#pragma unroll
            for (int g = 0; g < NG; g++) {
                int32_t tile = first + j < w.range_tile ? first + j : first;
                b[j][g] = *(const uint2 *)(row[g] + 16 * tile + lane % 4 * 4);
            }
#pragma unroll
        for (int j = 0; j < KT; j++)
            if (first + j < w.range_tile)
#pragma unroll
                for (int mt = 0; mt < MT; mt++)
#pragma unroll
                    for (int g = 0; g < NG; g++)
                        mma_k16(c[mt][g], h->a[mt][j], b[j][g].x, b[j][g].y);
    }
    if (w.tail)
#pragma unroll
        for (int mt = 0; mt < MT; mt++)
#pragma unroll
            for (int g = 0; g < NG; g++)
                mma_k8(c[mt][g], h->tail[mt], b_tail[g]);
#pragma unroll
    for (int mt = 0; mt < MT; mt++)
#pragma unroll
        for (int g = 0; g < NG; g++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                s->v[range][16 * mt + lane / 4 + i / 2 * 8][g * 8 + lane % 4 * 2 + i % 2] =
                    c[mt][g][i];
}

/* The same in float32: lane = row. */
template <int MT, int NG>
__device__ inline void multiply(struct parts<MT, NG> *s, struct held<float, MT> *,
                                const struct tiles &w, const float *data, int32_t m, int32_t range,
                                const struct rows<float> &x, int32_t r0)
{
    static_assert(MT == 1 && NG == 4, "a lane a row");
    int32_t lane = (int32_t)threadIdx.x % 32;
    float c[16] = {};
    if (r0 + lane < x.n) {
        int32_t whole = 16 * w.range_tile;
        const float *row = row_at(x, r0 + lane) + tiles_range_k(&w, range);
        for (int32_t i = 0; i < whole + 8 * w.tail; i++) {
            const float *a = i < whole ? data + tiles_at(&w, m, range, i / 16) + i % 16 * 16
                                       : data + tiles_tail_at(&w, m, range) + (i - whole) * 16;
            for (int32_t o = 0; o < 16; o++)
                c[o] = fmaf(a[o], row[i], c[o]);
        }
    }
    for (int32_t o = 0; o < 16; o++)
        s->v[range][o][lane] = c[o];
}

/* y of an output and a row, without bias. */
template <int MT, int NG>
__device__ inline float sum_of(const struct parts<MT, NG> &s, int32_t n_range, int32_t o,
                               int32_t row)
{
    float sum = (s.v[0][o][row] + s.v[1][o][row]) + (s.v[2][o][row] + s.v[3][o][row]);
    if (n_range == 8)
        sum = sum + ((s.v[4][o][row] + s.v[5][o][row]) + (s.v[6][o][row] + s.v[7][o][row]));
    return sum;
}

/* The results that a thread ends: result `at` of n rows, outputs 16 (hidden units 8) of MT tiles
 * of a row. */
template <int MT> struct turn {
    static constexpr int M_BITS = MT == 4 ? 2 : 0;
    static_assert(MT == 1 << M_BITS, "no divisions");
    int32_t at, bits;

    __device__ turn(const struct gemm &g, int32_t at_) : at(at_), bits(g.end == GEMM_HIDDEN ? 3 : 4)
    {
    }
    __device__ bool within(int32_t n) const
    {
        return at < n << (bits + M_BITS);
    }
    __device__ int32_t row() const
    {
        return at >> (bits + M_BITS);
    }
    __device__ int32_t tile() const
    {
        return at >> bits & (MT - 1);
    }
    __device__ int32_t output() const
    {
        return at & ((1 << bits) - 1);
    }
    /* Of the matrix, or hidden unit, m being the first tile. */
    __device__ int32_t number(int32_t m) const
    {
        return ((m + tile()) << bits) + output();
    }
};

/* What the block's n rows from `row` on become; m: its first tile; e: of this thread's first. */
template <class T, int MT, int NG>
__device__ inline void end_rows(const struct gemm &g, const struct gemm_place &p,
                                const struct parts<MT, NG> &s, struct gemm_early e, int32_t m,
                                int64_t row, int32_t n)
{
#pragma unroll 1
    for (struct turn<MT> t(g, (int32_t)threadIdx.x); t.within(n);) {
        int32_t o = 16 * t.tile() + t.output(), r = t.row();
        if (m + t.tile() < g.w.n_tile) {
            float y = sum_of(s, g.w.n_range, o, r);
            if (g.end == GEMM_HIDDEN)
                finish_hidden<T>(g, p, e, row + r, t.number(m), y,
                                 sum_of(s, g.w.n_range, o + 8, r));
            else
                finish<T>(g, p, e, row + r, t.number(m), y);
        }
        t.at += (int32_t)blockDim.x;
        if (t.within(n))
            e = early_of<T>(g, p, row + t.row(), t.number(m));
    }
}

/* to[n_row, k + NEAR_PAD] = norm(near), and to g.keep. A warp a row. */
template <class T> __device__ inline void make_near(const struct gemm &g, T *to, bool keep)
{
    size_t value = g.near.dtype == DTYPE_BF16 ? sizeof(bf16) : sizeof(float);
#pragma unroll 1
    for (int32_t r = (int32_t)threadIdx.x / 32; r < g.n_row; r += (int32_t)blockDim.x / 32) {
        const void *x = (const char *)g.near.data + (size_t)(r * g.near.stride) * value;
        T *row = to + r * (g.w.k + NEAR_PAD);
        put_row(row, g.w.k, x, g.near.dtype, g.near.cols, g.has_norm ? &g.norm : nullptr,
                g.norm.n_slot > 0 ? r % g.norm.n_slot : 0, false);
        __syncwarp();
        if (keep)
#pragma unroll 1
            for (int32_t i = (int32_t)threadIdx.x % 32; i < g.w.k; i += 32)
                ((T *)g.keep)[(int64_t)r * g.w.k + i] = row[i]; // keep[r,i]
    }
    __syncthreads();
}

/* Block `block` of a gemm; false: by items, and there is none for it. NEAR: it may make its input.
 * Who has waited may wait again. */
template <class T, int MT, int NG, bool NEAR>
__device__ inline bool run_block(const struct gemm &g, struct parts<MT, NG> &s, T *near,
                                 int32_t block, uint64_t per_item, uint64_t per_expert)
{
    int32_t i = pack_divide(block, per_item), range = (int32_t)threadIdx.x / 32;
    int32_t m = (block - i * ((g.w.n_tile + MT - 1) / MT)) * MT;
    struct gemm_item item;
    struct held<T, MT> h;
    const bool by_items = g.item; /* which let the next launch in late */
    if (by_items) {
        if (!g.item_early)
            wait_and_start();
        const struct gemm_item *at = &g.item[i < g.max_item ? i : 0];
        item = {__ldcg(&at->expert), __ldcg(&at->first), __ldcg(&at->n)};
        if (i >= __ldcg(g.n_item)) {
            if (g.item_early)
                wait_and_start();
            return false;
        }
    } else {
        start_next();
        int32_t each = (g.n_row + 8 * NG - 1) / (8 * NG);
        item.expert = pack_divide(i, per_expert);
        item.first = (i - item.expert * each) * 8 * NG;
        item.n = g.n_row - item.first < 8 * NG ? g.n_row - item.first : 8 * NG;
    }
    const T *data = (const T *)g.data + item.expert * g.expert_step;
    hold(&h, g.w, data, m, range, 0);
    if (!by_items)
        wait_for_previous();
    else if (g.item_early)
        wait_and_start();
    struct rows<T> x = {
        (const T *)g.x, g.x_stride, nullptr, item.n
    };
    struct gemm_place place = {g.bias ? g.bias + item.expert * g.bias_step : nullptr, g.out};
    if (!by_items) {
        size_t value = g.end == GEMM_F32 ? sizeof(float) : sizeof(T);
        x.x += item.expert * g.x_step;
        place.out = (char *)g.out + (size_t)(item.expert * g.out_step) * value;
    }
    if (NEAR && g.near.cols > 0) {
        make_near(g, near, g.keep && block == 0);
        x = {near, g.w.k + NEAR_PAD, nullptr, item.n};
    } else if (g.x_row) {
        x.index = g.x_row + item.first;
    } else {
        x.x += item.first * g.x_stride;
    }
#pragma unroll 1
    for (int32_t r0 = 0; r0 < item.n; r0 += 8 * NG) {
        int32_t n = item.n - r0 < 8 * NG ? item.n - r0 : 8 * NG;
        struct turn<MT> t(g, (int32_t)threadIdx.x);
        struct gemm_early e = {};
        if (t.within(n))
            e = early_of<T>(g, place, item.first + r0 + t.row(), t.number(m));
        multiply(&s, &h, g.w, data, m, range, x, r0);
        __syncthreads();
        end_rows<T>(g, place, s, e, m, item.first + r0, n);
        __syncthreads();
    }
    return true;
}

/* Whether blocks by items go on. */
template <int NG, bool NEAR> constexpr bool GO_ON = NG == 1 && !NEAR;

/* Spelt out for each side, so that what it reads of its gemm are constants of the launch. */
template <class T, int MT, int NG, bool NEAR>
static __global__ void __launch_bounds__(32 * PACK_SLICES, NG == 4               ? 1
                                                           : MT * NG > 1 || NEAR ? 2
                                                                                 : 3)
    gemm_rows(const __grid_constant__ struct gemm_set set)
{
    DYNAMIC_SHARED(T, near);
    __shared__ struct parts<MT, NG> s;
    int32_t block = (int32_t)blockIdx.x;
    if (block < set.n_block[0])
#pragma unroll 1
        while (run_block<T, MT, NG, NEAR>(set.g[0], s, near, block, set.per_item[0],
                                          set.per_expert[0]) &&
               GO_ON<NG, NEAR> && set.g[0].item)
            block += set.n_block[0];
    else
        run_block<T, MT, NG, NEAR>(set.g[1], s, near, block - set.n_block[0], set.per_item[1],
                                   set.per_expert[1]);
}

/* ---- launching ---- */

template <class T, int MT, int NG, bool NEAR>
static void launch(struct cuda_lane *ln, const struct gemm *g, int n)
{
    struct gemm_set set = {};
    size_t near = 0;
    set.n = n;
    unsigned grid = 0;
    for (int i = 0; i < n; i++) {
        int32_t each = (g[i].n_row + 8 * NG - 1) / (8 * NG), n_m = (g[i].w.n_tile + MT - 1) / MT;
        set.g[i] = g[i];
        int64_t n_item = g[i].item ? g[i].max_item : (int64_t)each * g[i].n_expert;
        assert(n_item * n_m < MAX_BLOCK && n_item * n_m * n_m < (int64_t)1 << 40);
        set.n_block[i] = (int32_t)n_item * n_m;
        assert(!g[i].item || i == 0);
        if (GO_ON<NG, NEAR> && g[i].item && set.n_block[i] > BY_ITEMS * 8 / g->w.n_range)
            set.n_block[i] = BY_ITEMS * 8 / g->w.n_range;
        set.per_item[i] = pack_inverse(n_m);
        set.per_expert[i] = pack_inverse(each);
        grid += (unsigned)set.n_block[i];
        size_t bytes = (size_t)g[i].n_row * (size_t)(g[i].w.k + NEAR_PAD) * sizeof(T);
        if (g[i].near.cols > 0 && bytes > near)
            near = bytes;
    }
    auto kernel = gemm_rows<T, MT, NG, NEAR>;
    LAUNCH(kernel, grid, 32u * (unsigned)g->w.n_range, near, ln, set);
}

extern "C" void gemm_launch(struct cuda_lane *ln, const struct gemm *g, int n)
{
    if (ln->base.be->act_dtype == DTYPE_F32) {
        launch<float, 1, 4, true>(ln, g, n);
        return;
    }
    if (gemm_few_fits(g, n)) {
        gemm_few_launch(ln, g, n);
        return;
    }
    assert(g->near.cols == 0 || g->n_row <= GEMM_NEAR);
    while (n > 0 && gemm_tiles_fits(&g[n - 1])) /* many rows are better off alone */
        gemm_tiles_launch(ln, &g[--n]);
    if (n == 0)
        return;
    if (gemm_items_fits(g, n)) {
        gemm_items_launch(ln, g, n);
        return;
    }
    /* rows of an expert, if they were equally chosen */
    int32_t n_row = g->item ? (g->n_row + g->n_expert - 1) / g->n_expert : g->n_row;
    bool thin = g->w.range_tile <= 2;
    if (g->near.cols > 0)
        launch<bf16, 1, 1, true>(ln, g, n);
    else if (thin && n_row <= 8)
        launch<bf16, 4, 1, false>(ln, g, n);
    else if (thin)
        launch<bf16, 4, 2, false>(ln, g, n);
    else if (n_row <= 8)
        launch<bf16, 1, 1, false>(ln, g, n);
    else if (n_row <= 16)
        launch<bf16, 1, 2, false>(ln, g, n);
    else
        launch<bf16, 1, 4, false>(ln, g, n);
}

extern "C" void gemm_staged(struct gemm *g, const void *x)
{
    g->x = x;
    g->x_stride = g->w.k;
}

/* Whether the blocks of the gemm may make its input. */
static bool can_be_near(struct cuda_lane *ln, const struct gemm *g, struct tensor x,
                        const struct weight *norm)
{
    enum dtype act = ln->base.be->act_dtype;
    size_t bytes = GEMM_NEAR * (size_t)(g->w.k + NEAR_PAD) * dtype_bytes(act);
    if (g->n_row > GEMM_NEAR)
        return act == DTYPE_BF16 &&
               gemm_few_normalises(g, x, norm ? &((const struct cuda_norm *)norm)->norm : nullptr);
    return bytes <= NEAR_BYTES && g->w.n_tile <= NEAR_TILES;
}

static void set_near(struct gemm *g, struct tensor x, const struct weight *norm)
{
    g->near = x;
    g->has_norm = norm != nullptr;
    if (norm)
        g->norm = ((const struct cuda_norm *)norm)->norm;
}

extern "C" void gemm_input(struct cuda_lane *ln, struct gemm *g, struct tensor x,
                           const int32_t *row, const struct weight *norm)
{
    bool plain = x.dtype == ln->base.be->act_dtype && x.cols == g->w.k && x.stride % 8 == 0 &&
                 (uintptr_t)x.data % 16 == 0;
    if (plain && !row && !norm) {
        g->x = x.data;
        g->x_stride = x.stride;
    } else if (!row && can_be_near(ln, g, x, norm)) {
        set_near(g, x, norm);
    } else {
        void *staged = stage_cut(ln, g->n_row, x.cols);
        stage_rows(ln, staged, x, row, g->n_row, norm, false);
        gemm_staged(g, staged);
    }
}

extern "C" void *gemm_input_kept(struct cuda_lane *ln, struct gemm *g, int n, struct tensor x,
                                 const struct weight *norm)
{
    void *kept = stage_cut(ln, g->n_row, x.cols);
    bool near = can_be_near(ln, g, x, norm);
    if (!near)
        stage_rows(ln, kept, x, NULL, g->n_row, norm, false);
    for (int i = 0; i < n; i++)
        if (near)
            set_near(&g[i], x, norm);
        else
            gemm_staged(&g[i], kept);
    g->keep = near ? kept : nullptr;
    return kept;
}
