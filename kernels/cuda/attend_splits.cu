/* attend_splits.cu - attention to a turn and to a memory on the matrix units: keys in splits.
 * Shapes   as attend.cu; bf16 heads of 16, 24, 32 and 64.
 * Launch   few tiles: attend_parts.cu, a warp a split; many tiles: here, a warp a tile, all its
 *          splits. Keys are asked for before the launch ahead has ended; new ones of a turn are
 *          stored by the warp that reads them, where a sequence is one tile.
 * Roofline decode: K and V once, memory-bound. H200, in a step: 10.5 us for a row of a turn of up
 *          to 64 tokens, 11.7 for 8 of them, because the code is long and cold; attend_parts.cu
 *          takes 5.1 for a row, so few tiles of one split go there too. Predicted: 5 and 6.
 * Order    attend_tile_impl.cuh; splits are merged by rising index. */
#include "kernels/cuda/attend_impl.h"

#include "kernels/cuda/attend_tile_impl.cuh"

/* Tiles times heads from which a launch of one split is better off here: two blocks for each SM, of
 * which attend_parts.cu takes one for each of them. */
#define ONE_SPLIT_MANY 264

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

/* Block = 4 tiles. */
template <int DIM, bool CAUSAL>
static __global__ void __launch_bounds__(32 * WARPS, 1)
    attend_splits(const __grid_constant__ struct attend_job job)
{
    start_next();
    int32_t lane = (int32_t)threadIdx.x % 32, warp = (int32_t)threadIdx.x / 32;
    int32_t tile = (int32_t)blockIdx.x * WARPS + warp;
    if (tile >= job.n_tile) {
        wait_for_previous();
        return;
    }
    struct place p = place_of<1>(&job, tile, (int32_t)blockIdx.y);
    ask_keys<DIM>(&p.s->keys, p.kv_head, 0, min(job.split, p.s->n_stored), lane);
    wait_for_previous();
    struct queries<DIM, 1> q;
    struct sums<DIM, 1> t;
    load_queries<DIM, 1>(&q, &job, &p, lane);
    if (CAUSAL && job.k.data)
        store_new<DIM>(&job, &p, 0, q.most, lane);
    struct sums<DIM, 1> all;
    clear(&all);
    for (int32_t first = 0; first < q.most; first += job.split) {
        int32_t last = first + job.split;
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
    job->in_parts = job->n_tile * (int32_t)heads < (n_split > 1 ? ATTEND_MANY : ONE_SPLIT_MANY) &&
                    floats <= job->partial_floats;
    job->seq = attend_put(ln, job->n_seq);
    if (job->in_parts) {
        attend_parts_launch(ln, job);
        return;
    }
    dim3 grid(blocks_of(job->n_tile), heads);
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
    if (!job->k.data && attend_many_fits(job)) {
        attend_many_launch(ln, job);
        return;
    }
    with_head_size(job, [&](auto size) { launch<decltype(size)::dim>(ln, job); });
}
