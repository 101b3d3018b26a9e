/* Compiled once per instruction set; see simd_impl.h. What it computes, and in which order:
 * attend_impl.h. */
#include "kernels/cpu/simd_impl.h"

#include "kernels/cpu/attend_impl.h"
#include "kernels/cpu/math_impl.h"
#include "kernels/cpu/tsan_impl.h"

#include <math.h>

#define KEYS ATTEND_KEYS
#define MAX_ROWS 6 /* of a tile; SIMD_TILE_ROWS of them fit the registers */
#define TILE_ROWS SIMD_TILE_ROWS
#define PART 64 /* floats of a row's chains: 4 vecs, whatever the head size */

/* 2^x for x <= 0; 0 below -126.5, so that a masked score of -inf weighs nothing at all. */
SIMD_INLINE struct vec exp2_below(struct vec x)
{
    const struct vec magic = vec_set(0x1.8p23f); /* adding it rounds to a whole number */
    x = vec_max(vec_set(-127.0f), x);            /* vec_pow2 of -127 is 0; a NaN stays */
    struct vec bias = vec_add(x, magic);
    struct vec f = vec_sub(x, vec_sub(bias, magic));
    /* minimax on [-1/2, 1/2] with value 1 at 0; relative error 2.2e-8 before rounding */
    struct vec p = vec_set(0x1.470b48p-13f);
    p = vec_fma(p, f, vec_set(0x1.5f7276p-10f));
    p = vec_fma(p, f, vec_set(0x1.3b270ep-7f));
    p = vec_fma(p, f, vec_set(0x1.c6ae72p-5f));
    p = vec_fma(p, f, vec_set(0x1.ebfbe2p-3f));
    p = vec_fma(p, f, vec_set(0x1.62e432p-1f));
    p = vec_fma(p, f, vec_set(1.0f));
    return vec_mul(p, vec_pow2(bias));
}

/* Interleaved pairs (spec 2.3), times `scale`. */
static void rotate(float *out, const float *x, int32_t dim, struct rotation rope, int64_t position,
                   float scale)
{
    if (!rope.cos) {
        for (int32_t i = 0; i < dim; i += VEC) {
            int lanes = vec_left(dim - i);
            vec_store_n(out + i, vec_mul(vec_load_n(x + i, lanes), vec_set(scale)), lanes);
        }
        return;
    }
    const float *c = rope.cos + position * (dim / 2);
    const float *s = rope.sin + position * (dim / 2);
    for (int32_t i = 0; i < dim / 2; i++) {
        float u = x[2 * i], v = x[2 * i + 1];
        out[2 * i] = fmaf(u, c[i], -(v * s[i])) * scale;
        out[2 * i + 1] = fmaf(v, c[i], u * s[i]) * scale;
    }
}

/* Row by row, all heads of a row one after another: the rows are read in the order they lie in. */
void SIMD(store_keys)(const void *arg, int32_t first, int32_t last, void *scratch)
{
    (void)scratch;
    const struct store_job *job = arg;
    int32_t dim = job->dim, width = kv_width(dim);
    float key[BACKEND_HEAD_MAX];
    struct piece at = piece_at(&job->pieces, first);
    for (; at.item < last; piece_next(&at, &job->pieces)) {
        int32_t start = job->rows.start ? job->rows.start[at.seq] : 0;
        for (int32_t i = at.first; i < at.last; i++) {
            int64_t row = job->rows.offset[at.seq] + i, t = job->from_zero ? i : start + i;
            const float *k = (const float *)job->k.data + row * job->k.stride; // k[row,:]
            const float *v = (const float *)job->v.data + row * job->v.stride; // v[row,:]
            for (int32_t head = 0; head < job->n_head; head++, k += dim, v += dim) {
                struct kv_head to = job->head_of(job->arg, at.seq, head);
                float *to_k = to.k + t / VEC * VEC * dim + t % VEC; // k[t / 16,:,t % 16]
                float *to_v = to.v + t * width;                     // v[t,:]
                rotate(key, k, dim, job->rope, start + i, 1.0f);
                for (int32_t d = 0; d < dim; d++)
                    to_k[d * VEC] = key[d];
                for (int32_t d = 0; d < width; d += VEC)
                    vec_store(to_v + d,
                              d < dim ? vec_load_n(v + d, vec_left(dim - d)) : vec_zero());
            }
        }
    }
}

/* ---- scores ---- */

/* s[r,16 j + lane] = q[r,:] . key; one chain over hd a score. */
SIMD_INLINE void score_tile(float *s, const float *q, const float *k, int32_t dim, int n_row,
                            int n_vec)
{
    struct vec acc[MAX_ROWS][4], key[4];
#pragma GCC unroll 8
    for (int r = 0; r < n_row; r++)
#pragma GCC unroll 8
        for (int j = 0; j < n_vec; j++)
            acc[r][j] = vec_zero();
    for (int32_t i = 0; i < dim; i++) {
#pragma GCC unroll 8
        for (int j = 0; j < n_vec; j++)
            key[j] = vec_load(k + (j * dim + i) * VEC);
#pragma GCC unroll 8
        for (int r = 0; r < n_row; r++) {
            struct vec x = vec_set(q[r * dim + i]);
#pragma GCC unroll 8
            for (int j = 0; j < n_vec; j++)
                acc[r][j] = vec_fma(x, key[j], acc[r][j]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < n_row; r++)
#pragma GCC unroll 8
        for (int j = 0; j < n_vec; j++)
            vec_store(s + r * KEYS + j * VEC, acc[r][j]);
}

SIMD_INLINE void score_rows(float *s, const float *q, const float *k, int32_t dim, int32_t n_vec,
                            int n_row)
{
    int32_t j = 0;
    for (; j + SIMD_TILE_VECS(n_row) <= n_vec; j += SIMD_TILE_VECS(n_row))
        score_tile(s + j * VEC, q, k + j * dim * VEC, dim, n_row, SIMD_TILE_VECS(n_row));
    for (; j < n_vec; j++)
        score_tile(s + j * VEC, q, k + j * dim * VEC, dim, n_row, 1);
}

/* ---- p . v ---- */

/* part[r,4 vecs]: 4 chains over the steps [from, to) of c = 4 >> shift keys each; vec i of a step
 * belongs to its key i >> shift. `more`: goes on from part, else from 0. */
SIMD_INLINE void weigh_tile(float *part, const float *p, const float *v, int32_t v_step,
                            int32_t from, int32_t to, bool more, int shift, int n_row)
{
    const int n_vec = SIMD_TILE_VECS(n_row); /* divides 4 */
    for (int at = 0; at < 4; at += n_vec) {
        struct vec acc[MAX_ROWS][4], value[4];
#pragma GCC unroll 8
        for (int r = 0; r < n_row; r++)
#pragma GCC unroll 8
            for (int j = 0; j < n_vec; j++)
                acc[r][j] = more ? vec_load(part + r * PART + (at + j) * VEC) : vec_zero();
        for (int32_t t = from; t < to; t++) {
#pragma GCC unroll 8
            for (int j = 0; j < n_vec; j++)
                value[j] = vec_load(v + (int64_t)t * v_step + (at + j) * VEC);
#pragma GCC unroll 8
            for (int r = 0; r < n_row; r++)
#pragma GCC unroll 8
                for (int j = 0; j < n_vec; j++) {
                    float x = p[r * KEYS + t * (4 >> shift) + ((at + j) >> shift)];
                    acc[r][j] = vec_fma(vec_set(x), value[j], acc[r][j]);
                }
        }
#pragma GCC unroll 8
        for (int r = 0; r < n_row; r++)
#pragma GCC unroll 8
            for (int j = 0; j < n_vec; j++)
                vec_store(part + r * PART + (at + j) * VEC, acc[r][j]);
    }
}

/* The keys [4 >> shift) * step, n) of one row that do not fill a step. */
SIMD_INLINE void weigh_rest(float *part, const float *p, const float *v, int32_t v_step,
                            int32_t step, int32_t n, int shift)
{
    int32_t key = step * (4 >> shift);
    for (int j = 0; key + (j >> shift) < n; j++) {
        struct vec value = vec_load(v + (int64_t)step * v_step + j * VEC);
        struct vec x = vec_set(p[key + (j >> shift)]);
        vec_store(part + j * VEC, vec_fma(x, value, vec_load(part + j * VEC)));
    }
}

/* part[r,:] of rows that see n[r] keys of the block (rising): together as far as the first row
 * sees, then each its own rest. */
SIMD_INLINE void weigh_rows(float *part, const float *p, const float *v, int32_t v_step,
                            const int32_t *n, int shift, int n_row)
{
    int32_t step_keys = 4 >> shift, common = n[0] / step_keys;
    weigh_tile(part, p, v, v_step, 0, common, false, shift, n_row);
    for (int r = 0; r < n_row; r++) {
        int32_t step = n[r] / step_keys;
        if (step > common)
            weigh_tile(part + r * PART, p + r * KEYS, v, v_step, common, step, true, shift, 1);
        if (n[r] % step_keys)
            weigh_rest(part + r * PART, p + r * KEYS, v, v_step, step, n[r], shift);
    }
}

/* ---- a tile of rows against a block of keys ---- */

/* Masks what row r does not see of its last vec, then raises its maximum to that of s[0,n) and
 * fades what was summed before. */
SIMD_INLINE void raise_row(struct attend_place *b, int r, int32_t n, bool first)
{
    static const float lane[VEC] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    float *s = b->s + r * KEYS;
    int32_t last = (n - 1) / VEC * VEC;
    struct vec high =
        vec_lt(vec_load(lane), vec_set((float)(n - last)), vec_load(s + last), vec_set(-INFINITY));
    vec_store(s + last, high);
    for (int32_t j = 0; j < last; j += VEC)
        high = vec_max(high, vec_load(s + j));
    float top = vec_top(high);
    if (first) {
        b->top[r] = top;
        vec_store(b->sum + r * VEC, vec_zero());
    } else if (top > b->top[r]) {
        struct vec fade = exp2_below(vec_set(b->top[r] - top));
        b->top[r] = top;
        vec_store_n(&b->fade[r], fade, 1);
        vec_store(b->sum + r * VEC, vec_mul(vec_load(b->sum + r * VEC), fade));
    } else {
        b->fade[r] = 1.0f;
    }
}

/* Scores -> p, 0 in the masked lanes; adds them to the sums of the row's lanes. */
SIMD_INLINE void soften_row(struct attend_place *b, int r, int32_t n)
{
    float *s = b->s + r * KEYS;
    struct vec top = vec_set(b->top[r]), sum = vec_load(b->sum + r * VEC);
    for (int32_t j = 0; j < n; j += VEC) {
        struct vec p = exp2_below(vec_sub(vec_load(s + j), top));
        vec_store(s + j, p);
        sum = vec_add(sum, p);
    }
    vec_store(b->sum + r * VEC, sum);
}

/* total = total * fade + the chains of the block. */
SIMD_INLINE void merge_row(float *total, const float *part, float fade, bool first, int shift)
{
    struct vec sum[4];
    int n = 4;
    for (int j = 0; j < 4; j++)
        sum[j] = vec_load(part + j * VEC);
    for (int apart = 2; apart >= 1 << shift; apart /= 2, n /= 2)
        for (int j = 0; j < apart; j++)
            sum[j] = vec_add(sum[j], sum[j + apart]);
    struct vec f = vec_set(fade);
    for (int j = 0; j < n; j++)
        vec_store(total + j * VEC, first ? sum[j] : vec_fma(vec_load(total + j * VEC), f, sum[j]));
}

/* One call for each number of rows, so that the tile is a constant to the compiler. */
#define FOR_ROWS(n_row, call) \
    switch (n_row) {          \
    case 1:                   \
        call(1);              \
        break;                \
    case 2:                   \
        call(2);              \
        break;                \
    case 3:                   \
        call(3);              \
        break;                \
    case 4:                   \
        call(4);              \
        break;                \
    case 5:                   \
        call(5);              \
        break;                \
    default:                  \
        call(6);              \
    }

SIMD_INLINE void weigh_by_width(float *part, const float *p, const float *v, int32_t width,
                                const int32_t *n, int n_row, int shift)
{
    int32_t v_step = width < 64 ? 64 : width;
#define WEIGH(rows) weigh_rows(part, p, v, v_step, n, shift, rows)
    FOR_ROWS(n_row, WEIGH)
#undef WEIGH
}

static WITHOUT_TSAN void score(float *s, const float *q, const float *k, int32_t dim, int32_t n_vec,
                               int n_row)
{
#define SCORE(rows) score_rows(s, q, k, dim, n_vec, rows)
    FOR_ROWS(n_row, SCORE)
#undef SCORE
}

static WITHOUT_TSAN void weigh(float *part, const float *p, const float *v, int32_t width,
                               const int32_t *n, int n_row, int shift)
{
    if (shift == 0)
        weigh_by_width(part, p, v, width, n, n_row, 0);
    else if (shift == 1)
        weigh_by_width(part, p, v, width, n, n_row, 1);
    else
        weigh_by_width(part, p, v, width, n, n_row, 2);
}

/* Adds the keys [at, at + KEYS) to the vectors that see some of them: all from `r0` on. */
static void attend_block(struct attend_place *b, struct kv_head from, int32_t at, int r0,
                         int32_t dim)
{
    const int n_vector = b->n;
    int32_t width = kv_width(dim), n[ATTEND_ROWS];
    int shift = width <= 16 ? 0 : width <= 32 ? 1 : 2;
    const float *k = from.k + (int64_t)at * dim, *v = from.v + (int64_t)at * width;
    for (int r = r0; r < n_vector; r++)
        n[r] = b->limit[r] - at < KEYS ? b->limit[r] - at : KEYS;
    for (int r = r0; r < n_vector; r += TILE_ROWS) {
        int rows = n_vector - r < TILE_ROWS ? n_vector - r : TILE_ROWS;
        score(b->s + r * KEYS, b->q + r * dim, k, dim, (n[r + rows - 1] + VEC - 1) / VEC, rows);
    }
    for (int r = r0; r < n_vector; r++)
        raise_row(b, r, n[r], at == 0);
    for (int r = r0; r < n_vector; r++)
        soften_row(b, r, n[r]);
    for (int r = r0; r < n_vector; r += TILE_ROWS) {
        int rows = n_vector - r < TILE_ROWS ? n_vector - r : TILE_ROWS;
        for (int32_t col = 0; col < width; col += PART) {
            weigh(b->part, b->s + r * KEYS, v + col, width, n + r, rows, shift);
            for (int i = 0; i < rows; i++)
                merge_row(b->total + (r + i) * width + col, b->part + i * PART, b->fade[r + i],
                          at == 0, shift);
        }
    }
}

/* Row and query head of the vectors of a piece, one after another. */
struct cursor {
    int64_t row;   /* of the batch */
    int32_t place; /* of the row in its interaction */
    int32_t group, g, head;
};
SIMD_INLINE struct cursor cursor_at(const struct attend_job *job, const struct piece *at)
{
    int32_t group = job->pieces.row_vectors, row = at->first / group;
    return (struct cursor){
        .row = job->rows.offset[at->seq] + row,
        .place = (job->rows.start ? job->rows.start[at->seq] : 0) + row,
        .group = group,
        .g = at->first % group,
        .head = (job->first_head + at->head) * group + at->first % group,
    };
}
SIMD_INLINE void cursor_next(struct cursor *c)
{
    c->head++;
    if (++c->g < c->group)
        return;
    c->g = 0;
    c->head -= c->group;
    c->row++;
    c->place++;
}

static void take_queries(struct attend_place *b, const struct attend_job *job,
                         const struct piece *at, int32_t n_key)
{
    int32_t dim = job->heads.dim;
    float scale = (float)(1.4426950408889634 / sqrt((double)dim)); /* log2(e) / sqrt(hd) */
    struct cursor c = cursor_at(job, at);
    b->n = at->last - at->first;
    for (int32_t i = 0; i < b->n; i++, cursor_next(&c)) {
        const float *q = (const float *)job->q.data + c.row * job->q.stride; // q[row,head,:]
        rotate(b->q + i * dim, q + c.head % job->heads.n_q * dim, dim, job->rope, c.place, scale);
        b->limit[i] = job->causal ? c.place + 1 : n_key;
    }
}

static void give_contexts(const struct attend_place *b, const struct attend_job *job,
                          const struct piece *at)
{
    int32_t dim = job->heads.dim, width = kv_width(dim);
    enum act act = job->heads.gate;
    struct cursor c = cursor_at(job, at);
    for (int32_t i = 0; i < b->n; i++, cursor_next(&c)) {
        float *out = (float *)job->out.data + c.row * job->out.stride + c.head * dim;
        const float *gate = job->gate.data; // gate[row,head,:], as out
        if (act != ACT_NONE)
            gate += c.row * job->gate.stride + c.head * dim;
        struct vec sum = vec_set(vec_sum(vec_load(b->sum + i * VEC)));
        for (int32_t d = 0; d < dim; d += VEC) {
            int lanes = vec_left(dim - d);
            struct vec o = vec_div(vec_load(b->total + i * width + d), sum);
            if (act != ACT_NONE)
                o = vec_mul(o, vec_act(act, vec_load_n(gate + d, lanes)));
            vec_store_n(out + d, o, lanes);
        }
    }
}

void SIMD(attend)(const void *arg, int32_t first, int32_t last, void *scratch)
{
    const struct attend_job *job = arg;
    struct attend_place *b = scratch;
    struct piece at = piece_at(&job->pieces, first);
    for (; at.item < last; piece_next(&at, &job->pieces)) {
        struct kv_head from = job->head_of(job->arg, at.seq, at.head);
        take_queries(b, job, &at, from.n_key);
#ifdef TELLS_TSAN
        int32_t dim = job->heads.dim, n_key = b->limit[b->n - 1];
        __tsan_read_range(from.k, (size_t)(kv_room(n_key) * dim) * sizeof *from.k);
        __tsan_read_range(from.v, (size_t)(n_key * kv_width(dim)) * sizeof *from.v);
#endif
        int r0 = 0;
        for (int32_t key = 0; key < b->limit[b->n - 1]; key += KEYS) {
            while (b->limit[r0] <= key)
                r0++;
            attend_block(b, from, key, r0, job->heads.dim);
        }
        give_contexts(b, job, &at);
    }
}
