/* attend_many.cu - attention to a turn and to a memory on the matrix units, sequences of many rows.
 * Shapes   as attend.cu; bf16 heads of 16, 24, 32 and 64.
 * Launch   block = 32 rows (hd 64: 16) of a sequence and head, 8 warps: a round of 8 splits, a warp
 *          each, whose sums meet in shared memory, two rounds in turn; a warp merges 4 (2) rows, a
 *          lane a column. Keys and values come straight into registers, once for 32 rows.
 * Roofline hd 32, 512 tokens of 2 query heads a group, 4096 slots: 67 MB out of L2, 13 us (at 5
 *          TB/s); 16.8 M exponentials, 5 us. Predicted: 15; attend_parts.cu, by its 170 MB, 30.
 * Order    attend_tile_impl.cuh; splits are merged by rising index. */
#include "kernels/cuda/attend_impl.h"

#include "kernels/cuda/attend_tile_impl.cuh"

#define SPLITS 8 /* of a round: warps of a block */
#define LEAST_BLOCKS 96

template <int DIM> struct many {
    static constexpr int TILES = DIM < 64 ? 2 : 1, ROWS = 16 * TILES, OWN = ROWS / SPLITS;
    static constexpr int N = (DIM + 31) / 32; /* columns of a lane */
    static constexpr int SPLIT = DIM + 2;     /* o, l, top */
    /* of a row: 8 more than a multiple of 32, so that no bank is hit twice */
    static constexpr int ROW = (SPLITS * SPLIT + 23) / 32 * 32 + 8, ROUND = ROWS * ROW;
    static constexpr size_t BYTES = 2 * ROUND * sizeof(float);
};

/* Keys [first, last) of the sequence; a row may see fewer. */
template <int DIM, int TILES, bool CAUSAL>
__device__ inline void attend_split(struct sums<DIM, TILES> *t, const struct queries<DIM, TILES> *q,
                                    const struct attend_seq *s, int32_t kv_head, int32_t first,
                                    int32_t last, float scale, int32_t lane)
{
    int32_t whole = CAUSAL ? min(q->least, s->n_stored) : s->n_key;
    clear(t);
#pragma unroll 1
    for (int32_t key = first; key < last; key += KV_BLOCK) {
        const bf16 *block = block_of<bf16>(&s->keys, key / KV_BLOCK, kv_head);
        if (key + KV_BLOCK <= whole)
            attend_block<DIM, TILES, false, false, true>(t, q, block, key, s->n_stored, scale,
                                                         lane);
        else
            attend_block<DIM, TILES, CAUSAL, false>(t, q, block, key, s->n_stored, scale, lane);
    }
}

/* Sums of a split: round[row,split,:]. */
template <int DIM, int TILES>
__device__ inline void put_split(float *round, const struct sums<DIM, TILES> *t, int32_t split,
                                 int32_t lane)
{
#pragma unroll
    for (int m = 0; m < TILES; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float *to =
                round + (16 * m + 8 * r + lane / 4) * many<DIM>::ROW + split * many<DIM>::SPLIT;
#pragma unroll
            for (int d = 0; d < DIM / 8; d++)
                *(float2 *)(to + 8 * d + lane % 4 * 2) = {t->o[m][d][2 * r], t->o[m][d][2 * r + 1]};
            if (lane % 4 == 0)
                *(float2 *)(to + DIM) = {t->l[m][2 * r], t->top[m][r]};
        }
}

/* Columns of the rows that a warp merges. */
template <int DIM> struct merged_rows {
    float o[many<DIM>::OWN][many<DIM>::N], l[many<DIM>::OWN], top[many<DIM>::OWN];

    /* Goes on with the splits of a round, n of them; a split of which the row sees nothing changes
     * nothing. start: the first split of all is among them. */
    __device__ void add(const float *round, int32_t n, bool start, int32_t warp, int32_t lane)
    {
#pragma unroll 1
        for (int32_t split = 0; split < n; split++)
#pragma unroll
            for (int i = 0; i < many<DIM>::OWN; i++) {
                const float *from =
                    round + (warp * many<DIM>::OWN + i) * many<DIM>::ROW + split * many<DIM>::SPLIT;
                float split_l = from[DIM], split_top = from[DIM + 1];
                bool first = start && split == 0, empty = split_l == 0.0f;
                float high = empty ? top[i] : fmaxf(top[i], split_top);
                float before = power_of(top[i] - high);
                float now = empty ? 0.0f : power_of(split_top - high);
                l[i] = first ? split_l : empty ? l[i] : fmaf(l[i], before, split_l * now);
                top[i] = first ? split_top : high;
#pragma unroll
                for (int j = 0; j < many<DIM>::N; j++) {
                    float v = lane + 32 * j < DIM ? from[lane + 32 * j] : 0.0f;
                    float sum =
                        now == 0.0f && before == 1.0f ? o[i][j] : fmaf(o[i][j], before, v * now);
                    o[i][j] = first ? v : sum;
                }
            }
    }
};

template <int DIM, bool CAUSAL>
static __global__ void __launch_bounds__(32 * SPLITS, 1)
    attend_many(const __grid_constant__ struct attend_job job)
{
    using M = many<DIM>;
    DYNAMIC_SHARED(float, rounds);
    start_and_wait();
    int32_t lane = (int32_t)threadIdx.x % 32, warp = (int32_t)threadIdx.x / 32;
    struct place p = place_of<M::TILES>(&job, (int32_t)blockIdx.x, (int32_t)blockIdx.y);
    struct queries<DIM, M::TILES> q;
    load_queries<DIM, M::TILES>(&q, &job, &p, lane);
    struct merged_rows<DIM> all = {
    };
    int32_t n_split = (q.most + job.split - 1) / job.split, side = 0;
#pragma unroll 1
    for (int32_t begin = 0; begin < n_split; begin += SPLITS, side ^= 1) {
        float *round = rounds + side * M::ROUND;
        int32_t first = (begin + warp) * job.split;
        if (first < q.most) {
            struct sums<DIM, M::TILES> t;
            attend_split<DIM, M::TILES, CAUSAL>(&t, &q, p.s, p.kv_head, first,
                                                min(first + job.split, q.most), job.scale, lane);
            put_split<DIM, M::TILES>(round, &t, warp, lane);
        }
        __syncthreads();
        all.add(round, min(n_split - begin, SPLITS), begin == 0, warp, lane);
    }
#pragma unroll
    for (int i = 0; i < M::OWN; i++) {
        int32_t row = 0, head = 0;
        if (!row_of(&p, warp * M::OWN + i, &row, &head))
            continue;
#pragma unroll
        for (int j = 0; j < M::N; j++)
            if (lane + 32 * j < DIM)
                finish(&job, row, p.out_head + head, lane + 32 * j, all.o[i][j], all.l[i]);
    }
}

/* ---- launch ---- */

template <int DIM> static void launch(struct cuda_lane *ln, struct attend_job *job)
{
    number_tiles(job, many<DIM>::ROWS);
    job->seq = attend_put(ln, job->n_seq);
    dim3 grid((unsigned)job->n_tile, (unsigned)job->heads.n_kv);
    auto kernel = job->causal ? attend_many<DIM, true> : attend_many<DIM, false>;
    LAUNCH(kernel, grid, 32 * SPLITS, many<DIM>::BYTES, ln, *job);
}

/* Many rows: most tiles are full, and there are blocks for most of a card. */
extern "C" bool attend_many_fits(const struct attend_job *job)
{
    int32_t group = attend_group(&job->heads), rows = job->heads.dim < 64 ? 32 : 16, n_tile = 0;
    for (int32_t i = 0; i < job->n_seq; i++)
        n_tile += (job->seq[i].n_row * group + rows - 1) / rows;
    return n_tile * job->heads.n_kv >= LEAST_BLOCKS && job->n_row * group >= n_tile * rows / 2;
}

extern "C" void attend_many_launch(struct cuda_lane *ln, struct attend_job *job)
{
    with_head_size(job, [&](auto size) { launch<decltype(size)::dim>(ln, job); });
}
