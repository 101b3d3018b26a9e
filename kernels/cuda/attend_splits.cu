/* attend_splits.cu - attention to a turn and to a memory on the matrix units: keys in splits.
 * Shapes   as attend.cu; bf16 heads of 16, 24, 32 and 64.
 * Launch   few tiles: a warp a split, partial results in scratch, the block that is last to arrive
 *          merges them, a warp a row, 16 splits asked for at once (a block that has all of them
 *          merges in its shared memory); many tiles: a warp a tile, all its splits. Keys are asked
 *          for before the launch ahead has ended; new ones of a turn are stored by the warp that
 *          reads them, where a sequence is one tile.
 * Roofline decode: K and V once, memory-bound. Cross attention of 64 rows to 4096 slots took 59 us
 *          (H200) when one warp merged a tile, 4 splits at once; predicted: 15.
 * Order    attend_tile_impl.cuh; splits are merged by rising index. */
#include "kernels/cuda/attend_impl.h"

#include "kernels/cuda/attend_tile_impl.cuh"

/* Keys [first, last) of the sequence. */
template <int DIM, int TILES, bool CAUSAL>
__device__ inline void attend_keys_of(struct sums<DIM, TILES> *t,
                                      const struct queries<DIM, TILES> *q,
                                      const struct attend_seq *s, int32_t kv_head, int32_t first,
                                      int32_t last, float scale, int32_t lane)
{
    clear(t);
    for (int32_t key = first; key < last; key += KV_BLOCK)
        attend_block<DIM, TILES, CAUSAL, false>(
            t, q, block_of<bf16>(&s->keys, key / KV_BLOCK, kv_head), key, s->n_stored, scale, lane);
}

/* Asks for keys [first, last) of a head, so that they are in L2 when they are read. What of them is
 * not written yet comes anew. */
template <int DIM>
__device__ inline void ask_keys(const struct attend_keys *k, int32_t kv_head, int32_t first,
                                int32_t last, int32_t lane)
{
    const int32_t line = 128 / (int32_t)sizeof(bf16);
    for (int32_t key = first; key < last; key += KV_BLOCK) {
        const bf16 *block = block_of<bf16>(k, key / KV_BLOCK, kv_head);
        for (int32_t i = lane * line; i < 2 * KV_BLOCK * DIM; i += 32 * line)
            prefetch(block + i);
    }
}

/* Goes on from the splits before; a split of which the row sees nothing changes nothing. */
__device__ inline void merge(float *top, float *l, float split_top, float split_l, float *before,
                             float *now)
{
    bool empty = split_l == 0.0f;
    float high = empty ? *top : fmaxf(*top, split_top);
    *before = power_of(*top - high);
    *now = empty ? 0.0f : power_of(split_top - high);
    *top = high;
    *l = empty ? *l : fmaf(*l, *before, split_l * *now);
}
__device__ inline float merged(float o, float split_o, float before, float now)
{
    return now == 0.0f && before == 1.0f ? o : fmaf(o, before, split_o * now);
}

/* Partial results, o [hd], l, top: [row,head,split] in scratch; where one block has all splits
 * (near) [row of the tile,split] in its shared memory. */
template <int DIM>
__device__ inline float *partial_of(const struct attend_job *job, float *near, int32_t i,
                                    int32_t row, int32_t head, int32_t split)
{
    if (near)
        return near + (i * WARPS + split) * (DIM + 2);
    return job->partial +
           (((int64_t)row * attend_outputs(&job->heads) + head) * job->n_split + split) * (DIM + 2);
}

template <int DIM>
__device__ inline void store_partial(const struct attend_job *job, const struct place *p,
                                     const struct sums<DIM, 1> *t, float *near, int32_t split,
                                     int32_t lane)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int32_t row = 0, head = 0, i = 8 * r + lane / 4;
        if (!row_of(p, i, &row, &head))
            continue;
        float *to = partial_of<DIM>(job, near, i, row, p->out_head + head, split);
#pragma unroll
        for (int d = 0; d < DIM / 8; d++)
#pragma unroll
            for (int e = 0; e < 2; e++)
                to[8 * d + lane % 4 * 2 + e] = t->o[0][d][2 * r + e];
        if (lane % 4 == 0) {
            to[DIM] = t->l[0][2 * r];
            to[DIM + 1] = t->top[0][r];
        }
    }
}

/* A number of a partial result: in shared memory, or in scratch, where another block wrote it. */
template <bool NEAR> __device__ inline float partial(const float *p)
{
    return NEAR ? *p : __ldcg(p);
}

/* Column `lane` and those 32 further of a row's splits: `at` splits behind the first, as many as
 * are asked for at once. */
template <int DIM, bool NEAR> struct partials {
    static constexpr int COLUMNS = (DIM + 31) / 32, AHEAD = NEAR ? WARPS : 16 / COLUMNS;
    float o[AHEAD][COLUMNS], l[AHEAD], top[AHEAD];

    __device__ void load(const float *row, int32_t at, int32_t n, int32_t lane)
    {
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            int32_t split = at + a < n ? at + a : n - 1;
            const float *from = row + split * (DIM + 2);
            l[a] = partial<NEAR>(from + DIM);
            top[a] = partial<NEAR>(from + DIM + 1);
#pragma unroll
            for (int j = 0; j < COLUMNS; j++)
                o[a][j] = lane + 32 * j < DIM ? partial<NEAR>(from + lane + 32 * j) : 0.0f;
        }
    }
};

/* Rows first, first + step, ... of the tile, a lane a column. */
template <int DIM, bool NEAR>
__device__ inline void merge_partials(const struct attend_job *job, const struct place *p,
                                      float *near, int32_t first, int32_t step, int32_t lane)
{
    constexpr int COLUMNS = partials<DIM, NEAR>::COLUMNS, AHEAD = partials<DIM, NEAR>::AHEAD;
#pragma unroll 1
    for (int32_t i = first; i < 16; i += step) {
        int32_t row = 0, head = 0;
        if (!row_of(p, i, &row, &head))
            return;
        int32_t n_key = job->causal ? p->s->start + row - p->s->first_row + 1 : p->s->n_key;
        int32_t n = (n_key + job->split - 1) / job->split;
        const float *from = partial_of<DIM>(job, near, i, row, p->out_head + head, 0);
        float o[COLUMNS] = {}, l = 0.0f, top = 0.0f;
#pragma unroll 1
        for (int32_t at = 0; at < n; at += AHEAD) {
            struct partials<DIM, NEAR> part;
            part.load(from, at, n, lane);
#pragma unroll
            for (int a = 0; a < AHEAD; a++) {
                float before = 0.0f, now = 1.0f;
                if (at + a >= n)
                    break;
                if (at + a == 0) {
                    l = part.l[0];
                    top = part.top[0];
                } else {
                    merge(&top, &l, part.top[a], part.l[a], &before, &now);
                }
#pragma unroll
                for (int j = 0; j < COLUMNS; j++)
                    o[j] = at + a == 0 ? part.o[0][j] : merged(o[j], part.o[a][j], before, now);
            }
        }
#pragma unroll
        for (int j = 0; j < COLUMNS; j++)
            if (lane + 32 * j < DIM)
                finish(job, row, p->out_head + head, lane + 32 * j, o[j], l);
    }
}

/* Whether this block is the last of the n that call it; zero it leaves behind. What the blocks
 * wrote before can then be read. */
__device__ inline bool arrives_last(int32_t *arrived, int32_t n)
{
    __shared__ int32_t before;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0)
        before = atomicAdd(arrived, 1);
    __syncthreads();
    if (before != n - 1)
        return false;
    __threadfence();
    if (threadIdx.x == 0)
        *arrived = 0;
    return true;
}

/* The new rows of the sequence whose keys are [first, last), into their blocks: by the warp that
 * reads them next, which nobody else does in this launch. */
template <int DIM>
__device__ inline void store_new(const struct attend_job *job, const struct place *p, int32_t first,
                                 int32_t last, int32_t lane)
{
    const struct attend_seq *s = p->s;
    int32_t begin = first > s->start ? first : s->start;
    for (int32_t at = begin; at < last && at < s->start + s->n_row; at++) {
        int64_t row = s->first_row + at - s->start;
        bf16 *block = block_of<bf16>(&s->keys, at / KV_BLOCK, p->kv_head);
        const bf16 *k = (const bf16 *)job->k.data + row * job->k.stride + p->kv_head * DIM;
        const bf16 *v = (const bf16 *)job->v.data + row * job->v.stride + p->kv_head * DIM;
#pragma unroll
        for (int32_t d = lane; d < DIM; d += 32)
            block[KV_BLOCK * DIM + value_element(DTYPE_BF16, DIM, at % KV_BLOCK, d)] = v[d];
        int32_t j = lane; /* of DIM / 2 <= 32 pairs */
        if (j >= DIM / 2)
            continue;
        float even = widen(k[2 * j]), odd = widen(k[2 * j + 1]);
        int64_t angle = (int64_t)at * (DIM / 2) + j; // cos[position,j]
        if (job->cos)
            rotate<bf16>(&even, &odd, job->cos + angle, job->sin + angle);
        *(uint32_t *)(block + key_element(DIM, at % KV_BLOCK, 2 * j)) = pair_of(even, odd);
    }
    __syncwarp();
}

/* Block = 4 splits of a tile, or (without partial results) 4 tiles. */
template <int DIM, bool CAUSAL>
static __global__ void __launch_bounds__(32 * WARPS, 1)
    attend_splits(const __grid_constant__ struct attend_job job)
{
    __shared__ float near[16 * WARPS * (DIM + 2)];
    start_next();
    int32_t lane = (int32_t)threadIdx.x % 32, warp = (int32_t)threadIdx.x / 32;
    int32_t tile = (int32_t)blockIdx.x, split = (int32_t)blockIdx.z * WARPS + warp;
    if (!job.in_parts) {
        split = 0;
        tile = tile * WARPS + warp;
        if (tile >= job.n_tile) {
            wait_for_previous();
            return;
        }
    }
    struct place p = place_of<1>(&job, tile, (int32_t)blockIdx.y);
    ask_keys<DIM>(&p.s->keys, p.kv_head, split * job.split,
                  min(split * job.split + job.split, p.s->n_stored), lane);
    wait_for_previous();
    struct queries<DIM, 1> q;
    struct sums<DIM, 1> t;
    load_queries<DIM, 1>(&q, &job, &p, lane);
    int32_t last = split * job.split + job.split;
    if (CAUSAL && job.k.data)
        store_new<DIM>(&job, &p, split * job.split, job.in_parts ? last : q.most, lane);
    if (job.in_parts) {
        bool one = gridDim.z == 1;
        if (split * job.split < q.most) {
            attend_keys_of<DIM, 1, CAUSAL>(&t, &q, p.s, p.kv_head, split * job.split,
                                           last < q.most ? last : q.most, job.scale, lane);
            store_partial<DIM>(&job, &p, &t, one ? near : nullptr, split, lane);
        }
        if (one) {
            __syncthreads();
            merge_partials<DIM, true>(&job, &p, near, warp, WARPS, lane);
        } else if (arrives_last(job.arrived + (int64_t)tile * gridDim.y + blockIdx.y,
                                (int32_t)gridDim.z))
            merge_partials<DIM, false>(&job, &p, nullptr, warp, WARPS, lane);
        return;
    }
    struct sums<DIM, 1> all;
    clear(&all);
    for (int32_t first = 0; first < q.most; first += job.split) {
        last = first + job.split;
        attend_keys_of<DIM, 1, CAUSAL>(&t, &q, p.s, p.kv_head, first, last < q.most ? last : q.most,
                                       job.scale, lane);
        if (first == 0) {
            all = t;
            continue;
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float before = 0.0f, now = 0.0f;
            merge(&all.top[0][r], &all.l[0][2 * r], t.top[0][r], t.l[0][2 * r], &before, &now);
#pragma unroll
            for (int d = 0; d < DIM / 8; d++)
#pragma unroll
                for (int e = 0; e < 2; e++)
                    all.o[0][d][2 * r + e] =
                        merged(all.o[0][d][2 * r + e], t.o[0][d][2 * r + e], before, now);
        }
    }
    finish_tiles<DIM, 1>(&job, &p, &all, lane);
}

/* ---- launch ---- */

static unsigned blocks_of(int32_t n_tile)
{
    return (unsigned)((n_tile + WARPS - 1) / WARPS);
}

/* The most keys that a row sees. */
static int32_t most_keys(const struct attend_job *job)
{
    int32_t most = 0;
    for (int32_t i = 0; i < job->n_seq; i++) {
        const struct attend_seq *s = &job->seq[i];
        int32_t n = job->causal ? s->start + s->n_row : s->n_key;
        most = n > most ? n : most;
    }
    return most;
}

/* Splits that lie in whole blocks of the grid, and seldom another number of them. */
static int32_t round_splits(int32_t n)
{
    int32_t grid = WARPS;
    while (grid < n)
        grid *= 2;
    return grid;
}

template <int DIM> static void launch(struct cuda_lane *ln, struct attend_job *job)
{
    unsigned heads = (unsigned)job->heads.n_kv;
    int32_t n_split = (most_keys(job) + job->split - 1) / job->split;
    number_tiles(job, 16);
    job->n_split = round_splits(n_split);
    size_t floats =
        (size_t)job->n_row * (size_t)attend_outputs(&job->heads) * (size_t)job->n_split * (DIM + 2);
    job->in_parts =
        n_split > 1 && job->n_tile * (int32_t)heads < ATTEND_MANY && floats <= job->partial_floats;
    dim3 grid(blocks_of(job->n_tile), heads);
    if (job->in_parts)
        grid = dim3((unsigned)job->n_tile, heads, (unsigned)(job->n_split / WARPS));
    job->seq = attend_put(ln, job->n_seq);
    if (job->causal || DIM == 64) /* of 64 without: registers spill */
        LAUNCH((attend_splits<DIM, true>), grid, 32 * WARPS, 0, ln, *job);
    else
        LAUNCH((attend_splits<DIM, DIM == 64>), grid, 32 * WARPS, 0, ln, *job);
}

/* Whether each sequence is one tile: then its warps can store what they read. */
extern "C" bool attend_tile_stores(const struct cuda_lane *ln, const struct attend_job *job)
{
    bool one = job->causal && attend_tile_fits(ln, job);
    for (int32_t i = 0; i < job->n_seq; i++)
        one = one && job->seq[i].n_row * attend_group(&job->heads) <= 16;
    return one;
}

extern "C" void attend_splits_launch(struct cuda_lane *ln, struct attend_job *job)
{
    job->scale = attend_scale(job->heads.dim);
    switch (job->heads.dim) {
    case 16:
        launch<16>(ln, job);
        break;
    case 24:
        launch<24>(ln, job);
        break;
    case 32:
        launch<32>(ln, job);
        break;
    default:
        launch<64>(ln, job);
    }
}
