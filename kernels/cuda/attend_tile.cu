/* attend_tile.cu - attention of bf16 heads of 16, 24, 32 and 64 on the matrix units: a warp takes a
 * tile of 16 (or 32) rows of one sequence and key-value head through blocks of 64 keys.
 * Shapes   as attend.cu. A tile's rows are (token, query head of the group), so that a token of a
 *          group of 2 query heads is 2 rows.
 * Launch   chain (full attention): 4 warps on 4 tiles of a sequence and head, which go through its
 *          keys together: a ring of 4 blocks in shared memory, filled by cp.async. Tiles of 32 rows
 *          where there are many: half as many reads of shared memory.
 *          splits (turn, memory): few tiles: a warp a split, partial results in scratch, the block
 *          that is last to arrive merges them, a warp a row, 16 splits asked for at once (a block
 *          that has all of them merges in its shared memory); many tiles: a warp a tile, all its
 *          splits. Keys are asked for before the launch ahead has ended; new ones of a turn are
 *          stored by the warp that reads them, where a sequence is one tile.
 * Roofline decode: K and V once, memory-bound. Many rows: 4 hd + 32 flop a score on mma.sync and
 *          one exponential; at hd 32 the matrix units bind (9 MMAs a 256 scores, 60 % of the peak
 *          measured: 8.5 scores a clock and SM). Not timed by itself yet (docs/bench: whole steps).
 * Order    attend_impl.h. A lane's operands of both products are 16 bytes in a row of K, and of V
 *          as it lies, because the sums over hd and over keys may take their terms in any fixed
 *          order: word w of lane c is dims 2 (c hd/8 + w), and keys 32 G + 8 c + 2 w. Rows and
 *          columns of an MMA do not see each other, so neither the tile nor its size is in the
 *          bits. */
#include "kernels/cuda/attend_impl.h"

#include "kernels/cuda/attend_impl.cuh"
#include "kernels/cuda/copy_impl.cuh"
#include "kernels/cuda/mma_impl.cuh"

#define WARPS ATTEND_TILE_WARPS
#define NONE (-1e30f) /* the maximum of no key */

__device__ inline float exp2_of(float x)
{
#ifdef __CUDACC__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2f(x);
#endif
}

/* 2^n of a whole number n <= 0; 0 below -126. */
__device__ inline float power_of(float n)
{
    return __uint_as_float((uint32_t)((int32_t)max_or_b(n, -127.0f) + 127) << 23);
}

/* Two numbers as bf16, the first in the low half. */
__device__ inline uint32_t pair_of(float low, float high)
{
#ifdef __CUDACC__
    uint32_t w;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(w) : "f"(high), "f"(low));
    return w;
#else
    return (uint32_t)bf16_of(low) | (uint32_t)bf16_of(high) << 16;
#endif
}

template <int N> __device__ inline void load_words(uint32_t w[N], const bf16 *from)
{
    if (N % 4 == 0) {
#pragma unroll
        for (int i = 0; i < N / 4; i++) {
            uint4 v = *(const uint4 *)(from + 8 * i);
            w[4 * i] = v.x;
            w[4 * i + 1] = v.y;
            w[4 * i + 2] = v.z;
            w[4 * i + 3] = v.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; i++)
            w[i] = *(const uint32_t *)(from + 2 * i);
    }
}

/* Sums of tiles of rows in the layout of an MMA's C: rows g and g + 8, columns 2 c and 2 c + 1. */
template <int DIM, int TILES> struct sums {
    float o[TILES][DIM / 8][4];
    float l[TILES][4];   /* of p; each column the same */
    float top[TILES][2]; /* whole numbers */
};

/* A warp's queries: [row g, row g + 8][words]. */
template <int DIM, int TILES> struct queries {
    uint32_t w[TILES][2][DIM / 8];
    int32_t limit[TILES][2]; /* keys the row sees; not CAUSAL: all of the sequence */
    int32_t least, most;     /* of all rows */
};

/* c += q k of 16 rows and 8 keys. */
template <int DIM>
__device__ inline void multiply_keys(float c[4], const uint32_t q[2][DIM / 8],
                                     const uint32_t k[DIM / 8])
{
#pragma unroll
    for (int s = 0; s < DIM / 16; s++) {
        uint4 a = {q[0][2 * s], q[1][2 * s], q[0][2 * s + 1], q[1][2 * s + 1]};
        mma_k16(c, a, k[2 * s], k[2 * s + 1]);
    }
    if (DIM % 16) {
        uint2 a = {q[0][DIM / 8 - 1], q[1][DIM / 8 - 1]};
        mma_k8(c, a, k[DIM / 8 - 1]);
    }
}

/* Word w of 2 values, of keys first and first + 1, without those from n on. */
__device__ inline uint32_t existing(uint32_t w, int32_t first, int32_t n)
{
    return first + 1 < n ? w : first < n ? w & 0xFFFFu : 0u;
}

/* Values that are no numbers become 0 in v (a lane's words of column g of 8, of 32 keys from
 * `first` on) and NaN in the sums o of the rows that see them: so a row does not depend on what
 * stands behind it. */
template <int DIM, int TILES>
__device__ inline void keep_numbers(uint32_t v[4], struct sums<DIM, TILES> *t, int32_t d,
                                    const int32_t limit[TILES][2], int32_t first, int32_t lane)
{
    int32_t c = lane % 4, bad = INT32_MAX;
#pragma unroll
    for (int w = 3; w >= 0; w--) {
        int32_t key = first + 8 * c + 2 * w;
        if ((v[w] & 0x7F800000u) == 0x7F800000u) {
            v[w] &= 0xFFFFu;
            bad = key + 1;
        }
        if ((v[w] & 0x7F80u) == 0x7F80u) {
            v[w] &= 0xFFFF0000u;
            bad = key;
        }
    }
    if (!__any_sync(0xFFFFFFFFu, bad != INT32_MAX))
        return;
    bad = min(bad, __shfl_xor_sync(0xFFFFFFFFu, bad, 1));
    bad = min(bad, __shfl_xor_sync(0xFFFFFFFFu, bad, 2));
#pragma unroll
    for (int e = 0; e < 2; e++) {
        int32_t from = __shfl_sync(0xFFFFFFFFu, bad, (2 * c + e) * 4);
#pragma unroll
        for (int m = 0; m < TILES; m++)
#pragma unroll
            for (int r = 0; r < 2; r++)
                if (limit[m][r] > from)
                    t->o[m][d][2 * r + e] = NAN;
    }
}

/* A lane's values of 32 keys from `first` on; the sequence has n keys. */
template <int DIM, int TILES, bool CAUSAL>
__device__ inline void load_values(uint32_t v[DIM / 8][4], struct sums<DIM, TILES> *t,
                                   const struct queries<DIM, TILES> *q, const bf16 *values,
                                   int32_t first, int32_t n, int32_t lane)
{
    int32_t g = lane / 4, c = lane % 4;
#pragma unroll
    for (int d = 0; d < DIM / 8; d++)
        load_words<4>(v[d],
                      values + value_element(DTYPE_BF16, DIM, first % KV_BLOCK + 8 * c, 8 * d + g));
    if (first + 32 > n)
#pragma unroll
        for (int d = 0; d < DIM / 8; d++)
#pragma unroll
            for (int w = 0; w < 4; w++)
                v[d][w] = existing(v[d][w], first + 8 * c + 2 * w, n);
    if (CAUSAL && first + 32 > q->least && q->least < n)
#pragma unroll
        for (int d = 0; d < DIM / 8; d++)
            keep_numbers<DIM, TILES>(v[d], t, d, q->limit, first, lane);
}

/* The numerators of tile m as the A operands of P V, from its scores; what was summed before fades
 * where a row's maximum rises. */
template <int DIM, int TILES>
__device__ inline void numerators(uint32_t p[8][2], struct sums<DIM, TILES> *t, int m,
                                  const float s[8][4], float scale)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float high = s[0][2 * r];
#pragma unroll
        for (int j = 0; j < 8; j++)
            high = fmaxf(high, fmaxf(s[j][2 * r], s[j][2 * r + 1]));
        high = fmaxf(high, __shfl_xor_sync(0xFFFFFFFFu, high, 1));
        high = fmaxf(high, __shfl_xor_sync(0xFFFFFFFFu, high, 2));
        float top = fmaxf(t->top[m][r], ceilf(high * scale));
        if (top != t->top[m][r]) {
            float fade = power_of(t->top[m][r] - top);
            t->top[m][r] = top;
            t->l[m][2 * r] = t->l[m][2 * r] * fade;
            t->l[m][2 * r + 1] = t->l[m][2 * r + 1] * fade;
#pragma unroll
            for (int d = 0; d < DIM / 8; d++) {
                t->o[m][d][2 * r] = t->o[m][d][2 * r] * fade;
                t->o[m][d][2 * r + 1] = t->o[m][d][2 * r + 1] * fade;
            }
        }
#pragma unroll
        for (int j = 0; j < 8; j++)
            p[j][r] = pair_of(exp2_of(fmaf(s[j][2 * r], scale, -top)),
                              exp2_of(fmaf(s[j][2 * r + 1], scale, -top)));
    }
}

/* The block of keys from `first` on, of which the sequence has n (in all). NEAR: in shared memory.
 */
template <int DIM, int TILES, bool CAUSAL, bool NEAR>
__device__ inline void attend_block(struct sums<DIM, TILES> *t, const struct queries<DIM, TILES> *q,
                                    const bf16 *block, int32_t first, int32_t n, float scale,
                                    int32_t lane)
{
    int32_t g = lane / 4, c = lane % 4;
    float s[TILES][8][4];
    constexpr bool EARLY = !NEAR && DIM < 64; /* values, where there are registers for them */
    uint32_t v[2][DIM / 8][4], p[TILES][8][2];
    const bf16 *values = block + KV_BLOCK * DIM;
#pragma unroll
    for (int j = 0; j < 8; j++) {
        uint32_t k[DIM / 8];
        int32_t key = j / 4 * 32 + g / 2 * 8 + j % 4 * 2 + g % 2;
        load_words<DIM / 8>(k, block + key_element(DIM, key, c * (DIM / 4)));
#pragma unroll
        for (int m = 0; m < TILES; m++) {
#pragma unroll
            for (int i = 0; i < 4; i++)
                s[m][j][i] = 0.0f;
            multiply_keys<DIM>(s[m][j], q->w[m], k);
        }
    }
    if (EARLY) {
        load_values<DIM, TILES, CAUSAL>(v[0], t, q, values, first, n, lane);
        load_values<DIM, TILES, CAUSAL>(v[1], t, q, values, first + 32, n, lane);
    }
    if (first + KV_BLOCK > (CAUSAL ? q->least : n)) {
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int32_t key = first + j / 4 * 32 + c * 8 + j % 4 * 2 + i % 2;
#pragma unroll
                for (int m = 0; m < TILES; m++)
                    if (key >= (CAUSAL ? q->limit[m][i / 2] : n))
                        s[m][j][i] = -INFINITY;
            }
    }
#pragma unroll
    for (int m = 0; m < TILES; m++)
        numerators<DIM, TILES>(p[m], t, m, s[m], scale);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (!EARLY)
            load_values<DIM, TILES, CAUSAL>(v[h], t, q, values, first + 32 * h, n, lane);
#pragma unroll
        for (int m = 0; m < TILES; m++)
#pragma unroll
            for (int j = 4 * h; j < 4 * h + 4; j += 2) {
                uint4 a = {p[m][j][0], p[m][j][1], p[m][j + 1][0], p[m][j + 1][1]};
#pragma unroll
                for (int d = 0; d < DIM / 8; d++)
                    mma_k16(t->o[m][d], a, v[h][d][j % 4], v[h][d][j % 4 + 1]);
                mma_k16(t->l[m], a, 0x3F803F80u, 0x3F803F80u); /* ones */
            }
    }
}

template <int DIM, int TILES> __device__ inline void clear(struct sums<DIM, TILES> *t)
{
#pragma unroll
    for (int m = 0; m < TILES; m++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            t->l[m][i] = 0.0f;
            t->top[m][i / 2] = NONE;
#pragma unroll
            for (int d = 0; d < DIM / 8; d++)
                t->o[m][d][i] = 0.0f;
        }
}

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

/* ---- where a tile's rows come from and go to ---- */

struct place {
    const struct attend_seq *s;
    int32_t first; /* row of the tile, within the sequence, times query heads of a group */
    int32_t group; /* query heads of a group */
    int32_t kv_head, q_head, out_head; /* the latter two: first of the group */
};

template <int TILES>
__device__ inline struct place place_of(const struct attend_job *job, int32_t tile, int32_t head)
{
    struct place p;
    bool grouped = job->heads.n_q >= job->heads.n_kv;
    p.s = seq_with<&attend_seq::first_tile>(job, tile);
    p.first = (tile - p.s->first_tile) * 16 * TILES;
    p.group = grouped ? job->heads.n_q / job->heads.n_kv : 1;
    p.kv_head = head;
    p.q_head = grouped ? head * p.group : head % job->heads.n_q;
    p.out_head = grouped ? p.q_head : head;
    return p;
}

/* Row i of the tile: row of the launch, and how many heads behind the first; false: none. */
__device__ inline bool row_of(const struct place *p, int32_t i, int32_t *row, int32_t *head)
{
    int32_t at = p->first + i, token = at / p->group;
    *row = p->s->first_row + token;
    *head = at % p->group;
    return token < p->s->n_row;
}

template <int DIM, int TILES>
__device__ inline void load_queries(struct queries<DIM, TILES> *q, const struct attend_job *job,
                                    const struct place *p, int32_t lane)
{
    int32_t g = lane / 4, c = lane % 4, rows = p->s->n_row * p->group - p->first;
    int32_t last = (rows < 16 * TILES ? rows : 16 * TILES) - 1;
    int32_t from = p->s->start + p->first / p->group,
            to = p->s->start + (p->first + last) / p->group;
    q->least = job->causal ? from + 1 : p->s->n_key;
    q->most = job->causal ? to + 1 : p->s->n_key;
#pragma unroll
    for (int m = 0; m < TILES; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int32_t row = 0, head = 0;
            bool exists = row_of(p, 16 * m + 8 * r + g, &row, &head);
            int32_t position = p->s->start + row - p->s->first_row;
            const bf16 *x = (const bf16 *)job->q.data + row * job->q.stride +
                            (p->q_head + head) * DIM + c * (DIM / 4); // q[row,head,:]
            int64_t angle = (int64_t)position * (DIM / 2) + c * (DIM / 8);
            q->limit[m][r] = job->causal ? position + 1 : p->s->n_key;
#pragma unroll
            for (int w = 0; w < DIM / 8; w++) {
                q->w[m][r][w] = 0;
                if (!exists)
                    continue;
                float even = widen(x[2 * w]), odd = widen(x[2 * w + 1]);
                if (job->cos)
                    rotate<bf16>(&even, &odd, job->cos + angle + w, job->sin + angle + w);
                q->w[m][r][w] = pair_of(even, odd);
            }
            if (!exists)
                q->limit[m][r] = q->least;
        }
}

/* Column d of an output: o / l, through its gate. */
__device__ inline void finish(const struct attend_job *job, int32_t row, int32_t head, int32_t d,
                              float o, float l)
{
    float v = rounded<bf16>(o / l);
    int64_t at = (int64_t)head * job->heads.dim + d;
    if (job->heads.gate != ACT_NONE) {
        float gate = widen(((const bf16 *)job->gate.data)[row * job->gate.stride + at]);
        v = v * rounded<bf16>(act_of(job->heads.gate, gate)); // gate[row,head,d]
    }
    ((bf16 *)job->out.data)[row * job->out.stride + at] = bf16_of(v); // out[row,head,d]
}

template <int DIM, int TILES>
__device__ inline void finish_tiles(const struct attend_job *job, const struct place *p,
                                    const struct sums<DIM, TILES> *t, int32_t lane)
{
#pragma unroll
    for (int m = 0; m < TILES; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int32_t row = 0, head = 0;
            if (!row_of(p, 16 * m + 8 * r + lane / 4, &row, &head))
                continue;
#pragma unroll
            for (int d = 0; d < DIM / 8; d++)
#pragma unroll
                for (int e = 0; e < 2; e++)
                    finish(job, row, p->out_head + head, 8 * d + lane % 4 * 2 + e,
                           t->o[m][d][2 * r + e], t->l[m][2 * r]);
        }
}

/* ---- one chain of blocks ---- */

#define STAGES 4 /* blocks of keys and values in shared memory */

template <int DIM> struct ring {
    static constexpr int STAGE = 2 * KV_BLOCK * DIM; /* values */
    static constexpr size_t BYTES = STAGES * STAGE * sizeof(bf16);

    static __device__ void ask(bf16 *stage, const bf16 *block)
    {
#pragma unroll
        for (int i = 0; i < STAGE / 8 / (32 * WARPS); i++) {
            int32_t at = (i * 32 * WARPS + (int32_t)threadIdx.x) * 8;
            copy16(stage + at, block + at);
        }
    }
};

/* This warp's tile of the four of a block. */
template <int TILES> __device__ inline struct place place_of_warp(const struct attend_job *job)
{
    struct place p = place_of<TILES * WARPS>(job, (int32_t)blockIdx.x, (int32_t)blockIdx.y);
    p.first += (int32_t)threadIdx.x / 32 * 16 * TILES;
    return p;
}

/* Block = 4 tiles of a sequence and head, one behind the other. */
template <int DIM, int TILES>
static __global__ void __launch_bounds__(32 * WARPS, DIM <= 32 ? 5 - TILES : 2)
    attend_chain(const __grid_constant__ struct attend_job job)
{
    DYNAMIC_SHARED(bf16, keys);
    start_and_wait();
    int32_t lane = (int32_t)threadIdx.x % 32;
    struct place p = place_of_warp<TILES>(&job);
    bool active = p.first < p.s->n_row * p.group;
    int32_t n_key = p.s->n_key;
    const bf16 *from = block_of<bf16>(&p.s->keys, 0, p.kv_head);
    int64_t step = p.s->keys.block_step / (int64_t)sizeof(bf16);
    struct queries<DIM, TILES> q = {
    };
    struct sums<DIM, TILES> t;
    for (int32_t key = 0; key < (STAGES - 1) * KV_BLOCK; key += KV_BLOCK, from += step) {
        if (key < n_key)
            ring<DIM>::ask(keys + key / KV_BLOCK * ring<DIM>::STAGE, from);
        copies_commit();
    }
    clear(&t);
    if (active)
        load_queries<DIM, TILES>(&q, &job, &p, lane);
#pragma unroll 1
    for (int32_t key = 0; key < n_key; key += KV_BLOCK, from += step) {
        int32_t next = key + (STAGES - 1) * KV_BLOCK;
        copies_wait<STAGES - 2>();
        __syncthreads();
        if (next < n_key)
            ring<DIM>::ask(keys + next / KV_BLOCK % STAGES * ring<DIM>::STAGE, from);
        copies_commit();
        if (active)
            attend_block<DIM, TILES, false, true>(&t, &q,
                                                  keys + key / KV_BLOCK % STAGES * ring<DIM>::STAGE,
                                                  key, n_key, job.scale, lane);
    }
    p = place_of_warp<TILES>(&job); /* once more, instead of registers for it all along */
    if (active)
        finish_tiles<DIM, TILES>(&job, &p, &t, lane);
}

/* ---- splits ---- */

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
    int32_t n_out = job->heads.n_q > job->heads.n_kv ? job->heads.n_q : job->heads.n_kv;
    return job->partial + (((int64_t)row * n_out + head) * job->n_split + split) * (DIM + 2);
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

/* Numbers the tiles of `rows` rows. */
static void number_tiles(struct attend_job *job, int32_t rows)
{
    int32_t group = job->heads.n_q >= job->heads.n_kv ? job->heads.n_q / job->heads.n_kv : 1;
    job->n_tile = attend_number_tiles(job->seq, job->n_seq, group, rows);
}

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

template <int DIM, int TILES>
static void launch_chain_of(struct cuda_lane *ln, struct attend_job *job)
{
    number_tiles(job, 16 * TILES * WARPS);
    job->seq = attend_put(ln, job->n_seq);
    LAUNCH((attend_chain<DIM, TILES>), dim3((unsigned)job->n_tile, (unsigned)job->heads.n_kv),
           32 * WARPS, ring<DIM>::BYTES, ln, *job);
}

template <int DIM> static void launch_chain(struct cuda_lane *ln, struct attend_job *job)
{
    number_tiles(job, 32 * WARPS);
    if (DIM <= 32 && job->n_tile * job->heads.n_kv >= ATTEND_WIDE)
        launch_chain_of<DIM, DIM <= 32 ? 2 : 1>(ln, job);
    else
        launch_chain_of<DIM, 1>(ln, job);
}

template <int DIM> static void launch(struct cuda_lane *ln, struct attend_job *job)
{
    unsigned heads = (unsigned)job->heads.n_kv;
    int32_t n_split = (most_keys(job) + job->split - 1) / job->split;
    job->scale = 1.44269504f / sqrtf((float)DIM); /* log2 e / sqrt(hd) */
    if (job->chain) {
        launch_chain<DIM>(ln, job);
        return;
    }
    number_tiles(job, 16);
    int32_t n_out = job->heads.n_q > job->heads.n_kv ? job->heads.n_q : job->heads.n_kv;
    job->n_split = round_splits(n_split);
    size_t floats = (size_t)job->n_row * (size_t)n_out * (size_t)job->n_split * (DIM + 2);
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
    int32_t n_q = job->heads.n_q, n_kv = job->heads.n_kv, group = n_q >= n_kv ? n_q / n_kv : 1;
    bool one = job->causal && attend_tile_fits(ln, job);
    for (int32_t i = 0; i < job->n_seq; i++)
        one = one && job->seq[i].n_row * group <= 16;
    return one;
}

extern "C" bool attend_tile_fits(const struct cuda_lane *ln, const struct attend_job *job)
{
    int32_t dim = job->heads.dim, n_q = job->heads.n_q, n_kv = job->heads.n_kv;
    return ln->base.be->act_dtype == DTYPE_BF16 &&
           (dim == 16 || dim == 24 || dim == 32 || dim == 64) && (n_q < n_kv || n_q / n_kv <= 16);
}

extern "C" void attend_tile_launch(struct cuda_lane *ln, struct attend_job *job)
{
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
