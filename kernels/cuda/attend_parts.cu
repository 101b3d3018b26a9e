/* attend_parts.cu - attention to a turn and to a memory on the matrix units, few tiles: a warp a
 * split.
 * Shapes   as attend.cu; bf16 heads of 16, 24, 32 and 64.
 * Launch   block = 4 splits of a tile. Where these are all (ONE) they are merged out of shared
 *          memory, else out of scratch by the block that is last to arrive; a warp a row, its 32
 *          columns in the lanes. New keys of a turn are stored by the warp that reads them, where a
 *          sequence is one tile; in a block that has all splits, on their way to its registers, so
 *          that it does not wait for what it has just written.
 * Roofline decode: K and V once, memory-bound; but at few rows a launch waits for each of its
 *          instructions. 143 KB of code took 8.9 us for a row of 64 tokens, and 10.8 for 4096 slots
 *          (H200), where one line of 128 bytes after the other came out of L2. So the code is
 *          short (one copy of everything), and a small launch goes through it once ahead of the
 *          wait, on whatever lies in memory, and leaves nothing behind: `rehearse`. All that a
 *          kernel may be writing then is read past L1. Then 6.0 and 8.1, 8.0 and 10.4 for 8 rows
 *          (CUPTI). A merge without a way out of its loop: 0.918 -> 0.889 ms a token of beta-3b.
 *          New keys in registers and partial results asked for early were to give 4.8 and 6.9; a
 *          token of beta-3b is as slow as before with them (0.92 ms).
 * Order    attend_tile_impl.cuh; splits are merged by rising index. */
#include "kernels/cuda/attend_impl.h"

#include "kernels/cuda/attend_tile_impl.cuh"

/* Blocks of a launch that goes through its code twice: two for each SM. */
#define REHEARSE 264

/* rotate<bf16>, of a pair. */
__device__ inline uint32_t rotated(uint32_t pair, float cos, float sin)
{
    float u = low_of(pair), v = high_of(pair);
    uint32_t even = pair_of(u * cos, v * sin), odd = pair_of(u * sin, v * cos);
    return pair_of(low_of(even) - high_of(even), low_of(odd) + high_of(odd));
}

/* Past L1. near: 16 bytes (N % 4 == 0) or 4 lie so that they come at once. */
template <int N> __device__ inline void load_past(uint32_t w[N], const bf16 *from, bool wide)
{
    if (!wide) {
#pragma unroll
        for (int i = 0; i < N; i++)
            w[i] = (uint32_t)__ldcg(from + 2 * i) | (uint32_t)__ldcg(from + 2 * i + 1) << 16;
        return;
    }
#pragma unroll
    for (int i = 0; i < N / 4; i++) {
        uint4 v = __ldcg((const uint4 *)(from + 8 * i));
        w[4 * i] = v.x;
        w[4 * i + 1] = v.y;
        w[4 * i + 2] = v.z;
        w[4 * i + 3] = v.w;
    }
#pragma unroll
    for (int i = N / 4 * 4; i < N; i++)
        w[i] = __ldcg((const uint32_t *)(from + 2 * i));
}

/* A lane's words of a block of 64 keys. Those of heads of 64 come when they are needed: registers
 * would spill. */
template <int DIM> struct ahead {
    static constexpr bool ALL = DIM < 64;
    uint32_t k[8][DIM / 8], v[ALL ? 2 : 1][DIM / 8][4];

    __device__ void load_keys(const bf16 *block, int32_t lane)
    {
        int32_t g = lane / 4, c = lane % 4;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            int32_t key = j / 4 * 32 + g / 2 * 8 + j % 4 * 2 + g % 2;
            load_past<DIM / 8>(k[j], block + key_element(DIM, key, c * (DIM / 4)), true);
        }
    }
    /* Keys 32 h to 32 h + 31. */
    __device__ void load_half(int at, const bf16 *block, int h, int32_t lane)
    {
        int32_t g = lane / 4, c = lane % 4;
#pragma unroll
        for (int d = 0; d < DIM / 8; d++)
            load_past<4>(v[at][d],
                         block + KV_BLOCK * DIM +
                             value_element(DTYPE_BF16, DIM, 32 * h + 8 * c, 8 * d + g),
                         true);
    }
    __device__ void load_values(const bf16 *block, int32_t lane)
    {
        load_half(0, block, 0, lane);
        load_half(ALL ? 1 : 0, block, 1, lane);
    }
};

/* Keys [first, last) of the sequence; a holds the first block of them. Rows 8 to 15 of the tile
 * exist if `lower`. */
template <int DIM, bool CAUSAL>
__device__ inline void attend_part(struct sums<DIM, 1> *t, struct ahead<DIM> *a,
                                   const struct queries<DIM, 1> *q, const struct attend_seq *s,
                                   int32_t kv_head, int32_t first, int32_t last, float scale,
                                   bool lower, int32_t lane)
{
    int32_t c = lane % 4, n = s->n_stored;
    clear(t);
#pragma unroll 1
    for (int32_t key = first; key < last; key += KV_BLOCK) {
        const bf16 *block = block_of<bf16>(&s->keys, key / KV_BLOCK, kv_head);
        const bf16 *next = block;
        bool more = key + KV_BLOCK < last;
        float score[8][4];
        uint32_t p[8][2];
        if (!ahead<DIM>::ALL)
            a->load_keys(block, lane);
#pragma unroll
        for (int j = 0; j < 8; j++) {
#pragma unroll
            for (int i = 0; i < 4; i++)
                score[j][i] = 0.0f;
            multiply_keys<DIM>(score[j], q->w[0], a->k[j]);
        }
        if (key + KV_BLOCK > (CAUSAL ? q->least : n)) {
#pragma unroll
            for (int j = 0; j < 8; j++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    if (key + j / 4 * 32 + c * 8 + j % 4 * 2 + i % 2 >=
                        (CAUSAL ? q->limit[0][i / 2] : n))
                        score[j][i] = -INFINITY;
        }
        numerators<DIM, 1>(p, t, 0, score, scale, lower);
        if (more && ahead<DIM>::ALL) { /* the registers of the scores are free */
            next = block_of<bf16>(&s->keys, key / KV_BLOCK + 1, kv_head);
            a->load_keys(next, lane);
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            constexpr bool ALL = ahead<DIM>::ALL;
            int at = ALL ? h : 0;
            if (!ALL)
                a->load_half(0, block, h, lane);
            if (key + 32 * h + 32 > n)
#pragma unroll
                for (int d = 0; d < DIM / 8; d++)
#pragma unroll
                    for (int w = 0; w < 4; w++)
                        a->v[at][d][w] = existing(a->v[at][d][w], key + 32 * h + 8 * c + 2 * w, n);
            if (CAUSAL && key + 32 * h + 32 > q->least && q->least < n)
#pragma unroll
                for (int d = 0; d < DIM / 8; d++)
                    keep_numbers<DIM, 1>(a->v[at][d], t, d, q->limit, key + 32 * h, lane);
#pragma unroll
            for (int j = 4 * h; j < 4 * h + 4; j += 2) {
                uint4 w = {p[j][0], p[j][1], p[j + 1][0], p[j + 1][1]};
#pragma unroll
                for (int d = 0; d < DIM / 8; d++)
                    mma_k16(t->o[0][d], w, a->v[at][d][j % 4], a->v[at][d][j % 4 + 1]);
                mma_k16(t->l[0], w, 0x3F803F80u, 0x3F803F80u); /* ones */
            }
        }
        if (more && ahead<DIM>::ALL)
            a->load_values(next, lane);
    }
}

/* Partial results, o [hd], l, top: [row,head,split] in scratch; where one block has all splits,
 * [row of the tile,split] in its shared memory. */
template <int DIM, bool ONE>
__device__ inline float *partial_of(const struct attend_job *job, float *near, int32_t i,
                                    int32_t row, int32_t head, int32_t split)
{
    if (ONE)
        return near + (i * WARPS + split) * (DIM + 2);
    return job->partial +
           (((int64_t)row * attend_outputs(&job->heads) + head) * job->n_split + split) * (DIM + 2);
}
template <bool ONE> __device__ inline float partial(const float *p)
{
    return ONE ? *p : __ldcg(p);
}

template <int DIM, bool ONE>
__device__ inline void store_partial(const struct attend_job *job, const struct place *p,
                                     const struct sums<DIM, 1> *t, float *near, int32_t split,
                                     bool real, int32_t lane)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int32_t row = 0, head = 0, i = 8 * r + lane / 4;
        if (!row_of(p, i, &row, &head) || !(ONE || real))
            continue;
        float *to = partial_of<DIM, ONE>(job, near, i, row, p->out_head + head, split);
#pragma unroll
        for (int d = 0; d < DIM / 8; d++)
            *(float2 *)(to + 8 * d + lane % 4 * 2) = {t->o[0][d][2 * r], t->o[0][d][2 * r + 1]};
        if (lane % 4 == 0)
            *(float2 *)(to + DIM) = {t->l[0][2 * r], t->top[0][r]};
    }
}

/* What a lane finishes of a row: columns lane and lane + 32. */
template <int DIM> struct columns {
    static constexpr int N = (DIM + 31) / 32;
    float gate[N] = {};

    __device__ void load(const struct attend_job *job, const struct place *p, int32_t i,
                         int32_t lane)
    {
        int32_t row = 0, head = 0;
        if (job->heads.gate == ACT_NONE || !row_of(p, i, &row, &head))
            return;
        const bf16 *from = (const bf16 *)job->gate.data + row * job->gate.stride +
                           (int64_t)(p->out_head + head) * DIM; // gate[row,head,:]
#pragma unroll
        for (int j = 0; j < N; j++)
            gate[j] = lane + 32 * j < DIM ? widen(__ldcg(from + lane + 32 * j)) : 0.0f;
    }
};

/* Row i of the tile, a lane a column. A split of which the row sees nothing changes nothing. Lane k
 * knows by how much the sums of splits at .. at + k - 1 fade when split at + k comes (before), and
 * that one (now): maxima are whole numbers, so that no order of theirs is in the bits. Lanes behind
 * the last split fade nothing and add nothing: a way out of the loop would make the compiler gather
 * the warp before every shuffle (0.65 us a launch). */
template <int DIM, bool ONE>
__device__ inline void merge_row(const struct attend_job *job, const struct place *p,
                                 const struct columns<DIM> *c, float *near, int32_t i, bool real,
                                 int32_t lane)
{
    constexpr int N = columns<DIM>::N, MOST = ONE ? WARPS : 32, AHEAD = ONE ? WARPS : 16 / N;
    int32_t row = 0, head = 0;
    if (!row_of(p, i, &row, &head))
        return;
    int32_t n_key = job->causal ? p->s->start + row - p->s->first_row + 1 : p->s->n_key;
    int32_t n = (n_key + job->split - 1) / job->split;
    const float *from = partial_of<DIM, ONE>(job, near, i, row, p->out_head + head, 0);
    float o[N] = {}, l = 0.0f, top = 0.0f, v[AHEAD][N];
    auto ask = [&](int32_t split) {
#pragma unroll
        for (int a = 0; a < AHEAD; a++)
#pragma unroll
            for (int j = 0; j < N; j++)
                v[a][j] = split + a < n && lane + 32 * j < DIM
                              ? partial<ONE>(from + (split + a) * (DIM + 2) + lane + 32 * j)
                              : 0.0f;
    };
    ask(0);
#pragma unroll 1
    for (int32_t at = 0; at < n; at += MOST) {
        int32_t many = n - at < MOST ? n - at : MOST;
        float own_l = 0.0f, own_top = NONE;
        const float *splits = from + at * (DIM + 2);
        if (lane < many) {
            own_l = partial<ONE>(splits + lane * (DIM + 2) + DIM);
            own_top = partial<ONE>(splits + lane * (DIM + 2) + DIM + 1);
        }
        bool first = at == 0 && lane == 0;
        float high = own_l == 0.0f && !first ? NONE : own_top;
#pragma unroll
        for (int apart = 1; apart < MOST; apart *= 2) {
            float other = __shfl_up_sync(0xFFFFFFFFu, high, apart);
            high = lane >= apart ? fmaxf(high, other) : high;
        }
        high = at > 0 ? fmaxf(high, top) : high;
        float old = __shfl_up_sync(0xFFFFFFFFu, high, 1);
        old = lane == 0 ? top : old;
        float before = power_of(old - high);
        float now = own_l == 0.0f ? 0.0f : power_of(own_top - high);
        top = __shfl_sync(0xFFFFFFFFu, high, many - 1);
#pragma unroll 1
        for (int32_t k = 0; k < many; k += AHEAD) {
#pragma unroll
            for (int a = 0; a < AHEAD; a++) {
                float fade = __shfl_sync(0xFFFFFFFFu, before, k + a);
                float part = __shfl_sync(0xFFFFFFFFu, now, k + a);
                float split_l = __shfl_sync(0xFFFFFFFFu, own_l, k + a);
                bool start = a == 0 && at + k == 0, none = part == 0.0f && fade == 1.0f;
#pragma unroll
                for (int j = 0; j < N; j++) {
                    float sum = none ? o[j] : fmaf(o[j], fade, v[a][j] * part);
                    o[j] = start ? v[a][j] : sum;
                }
                float sum = split_l == 0.0f ? l : fmaf(l, fade, split_l * part);
                l = start ? split_l : sum;
            }
            if (at + k + AHEAD < n)
                ask(at + k + AHEAD);
        }
    }
#pragma unroll
    for (int j = 0; j < N; j++) {
        float v = rounded<bf16>(o[j] / l);
        if (job->heads.gate != ACT_NONE)
            v = v * rounded<bf16>(act_of(job->heads.gate, c->gate[j])); // gate[row,head,d]
        if (real && lane + 32 * j < DIM)
            ((bf16 *)job->out.data)[row * job->out.stride + (int64_t)(p->out_head + head) * DIM +
                                    lane + 32 * j] = bf16_of(v); // out[row,head,d]
    }
}

/* The new rows of the sequence whose keys are [first, last), into their blocks: by the warp that
 * reads them next, which nobody else does in this launch. */
template <int DIM>
__device__ inline void store_new(const struct attend_job *job, const struct place *p, int32_t first,
                                 int32_t last, bool real, int32_t lane)
{
    const struct attend_seq *s = p->s;
    int32_t at = first > s->start ? first : s->start;
#pragma unroll 1
    for (; at < last && at < s->start + s->n_row; at++) {
        int64_t row = s->first_row + at - s->start;
        bf16 *block = block_of<bf16>(&s->keys, at / KV_BLOCK, p->kv_head);
        const bf16 *k = (const bf16 *)job->k.data + row * job->k.stride + p->kv_head * DIM;
        const bf16 *v = (const bf16 *)job->v.data + row * job->v.stride + p->kv_head * DIM;
        int32_t j = lane < DIM / 2 ? lane : 0;       /* of DIM / 2 <= 32 pairs */
        int64_t angle = (int64_t)at * (DIM / 2) + j; // cos[position,j]
        bf16 even = __ldcg(k + 2 * j), odd = __ldcg(k + 2 * j + 1);
        bf16 value[2] = {__ldcg(v + 2 * j), __ldcg(v + 2 * j + 1)};
        uint32_t pair = (uint32_t)even | (uint32_t)odd << 16;
        pair = job->cos ? rotated(pair, job->cos[angle], job->sin[angle])
                        : pair_of(low_of(pair), high_of(pair));
        if (!real || lane >= DIM / 2)
            continue;
        *(uint32_t *)(block + key_element(DIM, at % KV_BLOCK, 2 * j)) = pair;
#pragma unroll
        for (int e = 0; e < 2; e++)
            block[KV_BLOCK * DIM + value_element(DTYPE_BF16, DIM, at % KV_BLOCK, 2 * j + e)] =
                value[e];
    }
    __syncwarp();
}

/* A new row of a turn, on its way into its block: a lane's words of its key, rotated, and values of
 * columns lane / 4 of 8. */
template <int DIM> struct fresh {
    uint32_t k[DIM / 8];
    bf16 v[DIM / 8];

    __device__ void load(const struct attend_job *job, const struct place *p, int32_t at,
                         int32_t lane)
    {
        int32_t g = lane / 4, c = lane % 4;
        int64_t row = p->s->first_row + at - p->s->start;
        load_past<DIM / 8>(k,
                           (const bf16 *)job->k.data + row * job->k.stride + p->kv_head * DIM +
                               c * (DIM / 4), // k[row,head,:]
                           job->wide);
        const bf16 *from = (const bf16 *)job->v.data + row * job->v.stride + p->kv_head * DIM + g;
#pragma unroll
        for (int d = 0; d < DIM / 8; d++)
            v[d] = __ldcg(from + 8 * d); // v[row,head,:]
    }
    /* Into the words of its block, and if real into the block. */
    __device__ void put(struct ahead<DIM> *a, const struct attend_job *job, bf16 *block,
                        int32_t position, bool real, int32_t lane)
    {
        int32_t at = position % KV_BLOCK, g = lane / 4, c = lane % 4, half = at / 32, in = at % 32;
        int64_t angle = (int64_t)position * (DIM / 2) + c * (DIM / 8); // cos[position,:]
        uint32_t keep = in % 2 ? 0xFFFFu : 0xFFFF0000u;
#pragma unroll
        for (int i = 0; i < DIM / 8; i++) {
            k[i] = job->cos ? rotated(k[i], job->cos[angle + i], job->sin[angle + i])
                            : pair_of(low_of(k[i]), high_of(k[i]));
            if (real && g == 0)
                *(uint32_t *)(block + key_element(DIM, at, c * (DIM / 4) + 2 * i)) = k[i];
#pragma unroll
            for (int j = 0; j < 8; j++)
                a->k[j][i] = at == j / 4 * 32 + g / 2 * 8 + j % 4 * 2 + g % 2 ? k[i] : a->k[j][i];
        }
#pragma unroll
        for (int d = 0; d < DIM / 8; d++) {
            uint32_t own = in % 2 ? (uint32_t)v[d] << 16 : v[d];
            if (real && c == 0)
                block[KV_BLOCK * DIM + value_element(DTYPE_BF16, DIM, at, 8 * d + g)] = v[d];
#pragma unroll
            for (int h = 0; h < 2; h++)
#pragma unroll
                for (int w = 0; w < 4; w++)
                    a->v[h][d][w] = h == half && c == in / 8 && w == in % 8 / 2
                                        ? (a->v[h][d][w] & keep) | own
                                        : a->v[h][d][w];
        }
    }
};

/* load_queries of attend_tile_impl.cuh, past L1, and only what exists. */
template <int DIM>
__device__ inline void ask_queries(struct queries<DIM, 1> *q, const struct attend_job *job,
                                   const struct place *p, bool lower, int32_t lane)
{
    int32_t g = lane / 4, c = lane % 4, rows = p->s->n_row * p->group - p->first;
    int32_t last = (rows < 16 ? rows : 16) - 1;
    int32_t from = p->s->start + p->first / p->group,
            to = p->s->start + (p->first + last) / p->group;
    q->least = job->causal ? from + 1 : p->s->n_key;
    q->most = job->causal ? to + 1 : p->s->n_key;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int32_t row = 0, head = 0;
        bool exists = row_of(p, 8 * r + g, &row, &head);
        q->limit[0][r] = q->least;
#pragma unroll
        for (int w = 0; w < DIM / 8; w++)
            q->w[0][r][w] = 0;
        if (r == 1 && !lower)
            return;
        if (!exists)
            continue;
        int32_t position = p->s->start + row - p->s->first_row;
        const bf16 *x = (const bf16 *)job->q.data + row * job->q.stride + (p->q_head + head) * DIM +
                        c * (DIM / 4); // q[row,head,:]
        int64_t angle = (int64_t)position * (DIM / 2) + c * (DIM / 8);
        q->limit[0][r] = job->causal ? position + 1 : p->s->n_key;
        load_past<DIM / 8>(q->w[0][r], x, job->wide);
        if (job->cos)
#pragma unroll
            for (int w = 0; w < DIM / 8; w++)
                q->w[0][r][w] = rotated(q->w[0][r][w], job->cos[angle + w], job->sin[angle + w]);
    }
}

/* Asks for keys [first, last) of a head, so that they are in L2 when they are read. What of them is
 * not written yet comes anew. */
template <int DIM>
__device__ inline void ask_keys(const struct attend_keys *k, int32_t kv_head, int32_t first,
                                int32_t last, int32_t lane)
{
    const int32_t line = 128 / (int32_t)sizeof(bf16);
#pragma unroll 1
    for (int32_t key = first; key < last; key += KV_BLOCK) {
        const bf16 *block = block_of<bf16>(k, key / KV_BLOCK, kv_head);
        for (int32_t i = lane * line; i < 2 * KV_BLOCK * DIM; i += 32 * line)
            prefetch(block + i);
    }
}

template <int DIM, bool CAUSAL, bool ONE>
static __global__ void __launch_bounds__(32 * WARPS, DIM < 64 && !ONE ? 3 : 1)
    attend_parts(const __grid_constant__ struct attend_job job)
{
    __shared__ float2 place[ONE ? 16 * WARPS * (DIM + 2) / 2 : 1];
    float *near = (float *)place;
    start_next();
    int32_t lane = (int32_t)threadIdx.x % 32, warp = (int32_t)threadIdx.x / 32;
    int32_t first = ((int32_t)blockIdx.z * WARPS + warp) * job.split, last = first + job.split;
    struct place p = place_of<1>(&job, (int32_t)blockIdx.x, (int32_t)blockIdx.y);
    struct attend_seq s = *p.s;
    bool lower = s.n_row * p.group - p.first > 8;
    p.s = &s;
    ask_keys<DIM>(&s.keys, p.kv_head, first, min(last, s.n_stored), lane);
#pragma unroll 1
    for (int32_t pass = unknown(job.rehearse ? 0 : 1); pass < 2; pass = unknown(pass + 1)) {
        bool real = pass == 1;
        struct queries<DIM, 1> q;
        struct sums<DIM, 1> t;
        struct ahead<DIM> a;
        struct columns<DIM> c;
        if (real)
            wait_for_previous();
        /* New rows of this split. Where its keys come early, and there are registers for it, they
         * meet them there; else they are stored first. */
        constexpr bool ALL = ahead<DIM>::ALL, MEET = CAUSAL && ALL && ONE;
        int32_t at = first > s.start ? first : s.start, end = min(last, s.start + s.n_row);
        bool stores = job.k.data && at < end;
        /* A split of a turn is one block of K/V: all its new rows go into that. */
        static_assert(ATTEND_SPLIT_TURN == KV_BLOCK);
        bf16 *block = nullptr;
        struct fresh<DIM> f;
        if (CAUSAL && !MEET && stores)
            store_new<DIM>(&job, &p, first, last, real, lane);
        if (MEET && stores)
            f.load(&job, &p, at, lane);
        if (ALL && first < s.n_stored) {
            block = block_of<bf16>(&s.keys, first / KV_BLOCK, p.kv_head);
            a.load_keys(block, lane);
            a.load_values(block, lane);
        }
        ask_queries<DIM>(&q, &job, &p, lower, lane);
        c.load(&job, &p, warp, lane);
        if constexpr (MEET)
#pragma unroll 1
            while (stores && at < end) {
                f.put(&a, &job, block, at, real, lane);
                if (++at < end)
                    f.load(&job, &p, at, lane);
            }
        if (first < q.most) {
            attend_part<DIM, CAUSAL>(&t, &a, &q, &s, p.kv_head, first, min(last, q.most), job.scale,
                                     lower, lane);
            store_partial<DIM, ONE>(&job, &p, &t, near, first / job.split, real, lane);
        }
        if (ONE)
            __syncthreads();
        else if (!arrives_last(job.arrived + (int64_t)blockIdx.x * gridDim.y + blockIdx.y,
                               (int32_t)gridDim.z, real))
            return;
#pragma unroll 1
        for (int32_t i = warp; i < 16; i += WARPS) {
            if (i > warp)
                c.load(&job, &p, i, lane);
            merge_row<DIM, ONE>(&job, &p, &c, near, i, real, lane);
            if (!real)
                break;
        }
        __syncthreads();
    }
}

/* ---- launch ---- */

/* Whether rows of q and k come 16 bytes (heads of 32 and 64) or 4 at a time. */
static bool is_wide(const struct tensor *t, int32_t dim)
{
    int32_t bytes = dim % 32 == 0 ? 16 : 4;
    return (uintptr_t)t->data % (uintptr_t)bytes == 0 && t->stride * 2 % bytes == 0;
}

template <int DIM, bool ONE>
static void launch_of_splits(struct cuda_lane *ln, struct attend_job *job, dim3 grid)
{
    if (job->causal)
        LAUNCH((attend_parts<DIM, true, ONE>), grid, 32 * WARPS, 0, ln, *job);
    else
        LAUNCH((attend_parts<DIM, false, ONE>), grid, 32 * WARPS, 0, ln, *job);
}

template <int DIM> static void launch(struct cuda_lane *ln, struct attend_job *job)
{
    dim3 grid((unsigned)job->n_tile, (unsigned)job->heads.n_kv, (unsigned)(job->n_split / WARPS));
    job->wide = is_wide(&job->q, DIM) && (!job->k.data || is_wide(&job->k, DIM));
    job->rehearse = (int64_t)grid.x * grid.y * grid.z <= REHEARSE;
    if (grid.z == 1)
        launch_of_splits<DIM, true>(ln, job, grid);
    else
        launch_of_splits<DIM, false>(ln, job, grid);
}

extern "C" void attend_parts_launch(struct cuda_lane *ln, struct attend_job *job)
{
    with_head_size(job, [&](auto size) { launch<decltype(size)::dim>(ln, job); });
}
