/* Attention of bf16 heads of 16, 24, 32 and 64 on the matrix units: what attend_chain.cu and
 * attend_splits.cu share. A warp takes a tile of 16 (or 32) rows of one sequence and key-value head
 * through blocks of 64 keys. A tile's rows are (token, query head of the group), so that a token of
 * a group of 2 query heads is 2 rows. Order    attend_impl.h. A lane's operands of both products
 * are 16 bytes in a row of K, and of V as it lies, because the sums over hd and over keys may take
 * their terms in any fixed order: word w of lane c is dims 2 (c hd/8 + w), and keys 32 G + 8 c + 2
 * w. Rows and columns of an MMA do not see each other, so neither the tile nor its size is in the
 *          bits. */
#ifndef RXT_CUDA_ATTEND_TILE_IMPL_CUH
#define RXT_CUDA_ATTEND_TILE_IMPL_CUH

#include "kernels/cuda/attend_impl.cuh"
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

/* What was summed for half a tile's rows, by a whole power of 2. */
template <int DIM, int TILES>
__device__ inline void fade_row(struct sums<DIM, TILES> *t, int m, int r, float fade)
{
    t->l[m][2 * r] = t->l[m][2 * r] * fade;
    t->l[m][2 * r + 1] = t->l[m][2 * r + 1] * fade;
#pragma unroll
    for (int d = 0; d < DIM / 8; d++) {
        t->o[m][d][2 * r] = t->o[m][d][2 * r] * fade;
        t->o[m][d][2 * r + 1] = t->o[m][d][2 * r + 1] * fade;
    }
}

/* The numerators of tile m as the A operands of P V, from its scores; what was summed before fades
 * where a row's maximum rises. Rows 8 to 15 exist if `lower`. */
template <int DIM, int TILES>
__device__ inline void numerators(uint32_t p[8][2], struct sums<DIM, TILES> *t, int m,
                                  const float s[8][4], float scale, bool lower = true)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (r == 1 && !lower) {
#pragma unroll
            for (int j = 0; j < 8; j++)
                p[j][1] = 0;
            return;
        }
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
            fade_row(t, m, r, fade);
        }
#pragma unroll
        for (int j = 0; j < 8; j++)
            p[j][r] = pair_of(exp2_of(fmaf(s[j][2 * r], scale, -top)),
                              exp2_of(fmaf(s[j][2 * r + 1], scale, -top)));
    }
}

/* What numerators does, with the same bits, for all tiles of a warp: the ways from scores to a
 * maximum lie side by side, and one branch does all that fades, so that exponentials and products
 * follow in one piece. */
template <int DIM, int TILES>
__device__ inline void numerators_of_all(uint32_t p[TILES][8][2], struct sums<DIM, TILES> *t,
                                         const float s[TILES][8][4], float scale)
{
    float top[TILES][2];
    bool rises = false;
#pragma unroll
    for (int m = 0; m < TILES; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float high[8];
#pragma unroll
            for (int j = 0; j < 8; j++)
                high[j] = fmaxf(s[m][j][2 * r], s[m][j][2 * r + 1]);
#pragma unroll
            for (int apart = 4; apart > 0; apart /= 2)
#pragma unroll
                for (int j = 0; j < apart; j++)
                    high[j] = fmaxf(high[j], high[j + apart]);
            top[m][r] = high[0];
        }
#pragma unroll
    for (int apart = 1; apart <= 2; apart *= 2)
#pragma unroll
        for (int m = 0; m < TILES; m++)
#pragma unroll
            for (int r = 0; r < 2; r++)
                top[m][r] = fmaxf(top[m][r], __shfl_xor_sync(0xFFFFFFFFu, top[m][r], apart));
#pragma unroll
    for (int m = 0; m < TILES; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            top[m][r] = fmaxf(t->top[m][r], ceilf(top[m][r] * scale));
            rises = rises || top[m][r] != t->top[m][r];
        }
    if (__any_sync(0xFFFFFFFFu, rises))
#pragma unroll
        for (int m = 0; m < TILES; m++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                float fade = top[m][r] != t->top[m][r] ? power_of(t->top[m][r] - top[m][r]) : 1.0f;
                t->top[m][r] = top[m][r];
                fade_row(t, m, r, fade);
            }
#pragma unroll
    for (int m = 0; m < TILES; m++)
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int r = 0; r < 2; r++)
                p[m][j][r] = pair_of(exp2_of(fmaf(s[m][j][2 * r], scale, -t->top[m][r])),
                                     exp2_of(fmaf(s[m][j][2 * r + 1], scale, -t->top[m][r])));
}

/* The block of keys from `first` on, of which the sequence has n (in all). NEAR: in shared memory.
 * WHOLE: it has all of them, and all rows see them. */
template <int DIM, int TILES, bool CAUSAL, bool NEAR, bool WHOLE = false>
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
    if (!WHOLE && first + KV_BLOCK > (CAUSAL ? q->least : n)) {
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
    if (WHOLE)
        numerators_of_all<DIM, TILES>(p, t, s, scale);
    else
#pragma unroll
        for (int m = 0; m < TILES; m++)
            numerators<DIM, TILES>(p[m], t, m, s[m], scale);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (!EARLY)
            load_values<DIM, TILES, CAUSAL>(v[h], t, q, values, first + 32 * h,
                                            WHOLE ? INT32_MAX : n, lane);
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
    p.group = attend_group(&job->heads);
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

/* Rows of heads that may be read and written 16 bytes at a time. */
__device__ inline bool lies_well(const struct tensor *t)
{
    return t->stride % 8 == 0 && (uintptr_t)t->data % 16 == 0;
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
            for (int w = 0; w < DIM / 8; w++)
                q->w[m][r][w] = 0;
            if (exists && lies_well(&job->q))
                load_words<DIM / 8>(q->w[m][r], x);
            else if (exists)
#pragma unroll
                for (int w = 0; w < DIM / 8; w++)
                    q->w[m][r][w] = (uint32_t)x[2 * w] | (uint32_t)x[2 * w + 1] << 16;
            if (exists && job->cos)
#pragma unroll
                for (int w = 0; w < DIM / 8; w++) {
                    float even = low_of(q->w[m][r][w]), odd = high_of(q->w[m][r][w]);
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

/* Numbers the tiles of `rows` rows. */
static inline void number_tiles(struct attend_job *job, int32_t rows)
{
    job->n_tile = attend_number_tiles(job->seq, job->n_seq, attend_group(&job->heads), rows);
}

/* log2 e / sqrt(hd) */
static inline float attend_scale(int32_t dim)
{
    return 1.44269504f / sqrtf((float)dim);
}

/* The launch for the head size of the job: 16, 24, 32 or 64. */
template <int DIM> struct head_size {
    static constexpr int dim = DIM;
};

template <typename F> static void with_head_size(const struct attend_job *job, F launch)
{
    switch (job->heads.dim) {
    case 16:
        launch(head_size<16>());
        break;
    case 24:
        launch(head_size<24>());
        break;
    case 32:
        launch(head_size<32>());
        break;
    default:
        launch(head_size<64>());
    }
}

#endif
