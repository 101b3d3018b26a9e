/* What self-, cross- and full attention share: how keys and values lie, and the job that attends to
 * them.
 *
 * One head of one sequence: keys lie in blocks of 16, transposed, so that lanes run
 * across keys and a score is one chain over hd; values lie row by row, padded to the width that
 * fills vectors, so that lanes run across hd:
 *   k[t / 16][hd][16]      keys rounded up to 16
 *   v[t][width]            width = 16, 32 or a multiple of 64
 *
 * Order of a row's sums, all counted from key 0, so that neither the chunk of a prefill nor the
 * other rows can move it:
 *   score    one fma chain over hd, log2(e)/sqrt(hd) being in q
 *   blocks   of 128 keys in rising order; the running maximum, and a factor 2^(old - new) where it
 *            rises
 *   sum of p lane = key mod 16, one chain a lane, tree of vec_sum at the end
 *   p . v    within a block, c = 64 / width (at least 1) interleaved chains over keys mod c, added
 *            two apart, then one apart; then fma(total, factor, block)
 *   out      divided by the sum once, then times the gate
 * Keys beyond a row's own are never multiplied: what lies there may be NaN. */
#ifndef RXT_CPU_ATTEND_IMPL_H
#define RXT_CPU_ATTEND_IMPL_H

#include "kernels/cpu/cpu_impl.h"

#define ATTEND_ROWS 24  /* query vectors of one item of a job, at most: 4 tiles of 6 */
#define ATTEND_KEYS 128 /* keys of one block */
#define STORE_ROWS 16   /* rows of one item of a store job: a block of keys, if it begins there */

/* One head of one sequence: what the ops find through a job's `head_of`. */
struct kv_head {
    float *k, *v;
    int32_t n_key; /* filled, or about to be */
};

/* Floats of a row of values. */
static inline int32_t kv_width(int32_t dim)
{
    return dim <= 16 ? 16 : dim <= 32 ? 32 : (dim + 63) / 64 * 64;
}
/* Keys that there is room for, and the floats of them and their values. */
static inline int32_t kv_room(int32_t n_key)
{
    return (n_key + 15) / 16 * 16;
}
static inline size_t kv_floats(int32_t dim, int32_t n_key)
{
    return (size_t)kv_room(n_key) * (size_t)(dim + kv_width(dim));
}
/* A head over kv_floats(dim, n_key) floats. */
static inline struct kv_head kv_head_at(float *data, int32_t dim, int32_t n_key)
{
    return (struct kv_head){data, data + (size_t)kv_room(n_key) * (size_t)dim, n_key};
}

/* cos and sin of a table of angles, [n_pos, hd/2]; NULL: no rotation. */
struct rotation {
    const float *cos, *sin;
};

/* Query vectors that share a key-value head, and attention heads: spec 2.4. */
static inline int32_t heads_group(struct heads h)
{
    return h.n_q > h.n_kv ? h.n_q / h.n_kv : 1;
}
static inline int32_t heads_out(struct heads h)
{
    return h.n_q > h.n_kv ? h.n_q : h.n_kv;
}

/* What a job does is cut into pieces of one key-value head of one sequence. The items of a task are
 * the pieces, sequence by sequence. By rows: all heads of some rows are neighbours and pieces
 * are even, so that a row stays with the core that has it. Else all rows of a head, in whole
 * pieces: of a causal job each costs more than the one before. */
struct pieces {
    const struct ragged *rows;
    int32_t n_head;
    int32_t row_vectors; /* vectors of a head in one row: G queries, or 1 key */
    int32_t size;        /* vectors of a piece, at most */
    bool by_rows;
};
int32_t pieces_count(const struct pieces *p);
/* The item's sequence, its number there, head, and vectors [first, last) of that. */
struct piece {
    int32_t item, seq, in_seq, head, first, last;
};
struct piece piece_at(const struct pieces *p, int32_t item);
void piece_next(struct piece *at, const struct pieces *p);

/* out = gate(softmax(q . k) v). Vector i of a head is its query head i mod G in row i / G of the
 * sequence, G = heads_group. */
struct attend_job {
    struct heads heads;
    struct tensor out, q, gate; /* gate: read if heads.gate is not ACT_NONE */
    struct ragged rows;
    struct pieces pieces; /* row_vectors G, size ATTEND_ROWS */
    struct rotation rope;
    bool causal; /* a row sees the keys 0 to its own position; else all */
    int32_t first_head;
    struct kv_head (*head_of)(const void *arg, int32_t seq, int32_t head); /* from first_head on */
    const void *arg;
};

/* Puts rows of k (rotated by their position) and v into heads, at the key that is their position
 * or, from_zero, their place in the sequence.
 * Columns are n_head heads, which are those of head_of. */
struct store_job {
    int32_t n_head, dim;
    bool from_zero;
    struct tensor k, v;
    struct ragged rows;
    struct pieces pieces; /* of one "head": STORE_ROWS rows with all of theirs */
    struct rotation rope;
    struct kv_head (*head_of)(const void *arg, int32_t seq, int32_t head);
    const void *arg;
};

/* Fill in `pieces` and run the job; attend_run for n_head key-value heads from first_head on. */
void store_run(struct cpu_lane *ln, struct store_job *job);
void attend_run(struct cpu_lane *ln, struct attend_job *job, int32_t n_head);
/* Of every op that runs them: a working place for each thread. */
struct scratch_need attend_need(void);

/* The vectors of one piece, and what the block of keys in work has of them. */
struct attend_place {
    _Alignas(64) float q[ATTEND_ROWS * BACKEND_HEAD_MAX];
    _Alignas(64) float total[ATTEND_ROWS * BACKEND_HEAD_MAX];
    _Alignas(64) float s[ATTEND_ROWS * ATTEND_KEYS];
    _Alignas(64) float part[6 * 64]; /* chains of a tile's rows */
    _Alignas(64) float sum[ATTEND_ROWS * 16];
    float top[ATTEND_ROWS], fade[ATTEND_ROWS]; /* maximum so far; factor of what is older */
    int32_t limit[ATTEND_ROWS];                /* keys that a vector sees; rising */
    int32_t n;
};

#endif
