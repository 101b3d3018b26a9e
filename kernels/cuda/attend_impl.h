/* Attention over keys and values in blocks of 64 (pack_impl.h): what the three ops share.
 *
 * Order of a query head's sums. The keys are cut into splits of fixed size, counted from key 0: 64
 * of a turn, 128 of a memory; a full attention on the matrix units is one split. Inside a split,
 * blocks of 64 keys follow one another: the block's maximum; p = 2^(score - maximum); sum and p.v
 * go on from the block before, faded by the rise of the maximum. The splits are then merged by
 * rising index, the same way.
 *   bf16: maxima are rounded up to whole numbers (of log2), so that to fade is exact, but for what
 *   falls below 2^-126. p is rounded to bf16 and the sum is that of rounded p. How p rounds may
 *   depend on the maximum, by the last bit of score - maximum: but the maxima of a row come from
 *   its own keys only, block by block. In the tile kernels, products and sum are MMAs.
 *   Plain kernel: a score is one fmaf chain over hd; the sum of p is that of lane l (keys l and
 *   l + 32) through the xor tree 16, 8, 4, 2, 1; p.v is one chain a column, key by key. */
#ifndef RXT_CUDA_ATTEND_IMPL_H
#define RXT_CUDA_ATTEND_IMPL_H

#include "kernels/cuda/cuda_impl.h"
#include "kernels/cuda/pack_impl.h"
#include "kernels/cuda/scratch_impl.h"
#include "kernels/cuda/table_impl.h"

#include <assert.h>

#define ATTEND_SPLIT_TURN 64
#define ATTEND_SPLIT_MEMORY 128
#define ATTEND_SPLIT_FULL 512 /* plain kernel only */

#define ATTEND_TILE_WARPS 4
/* Tiles times heads from which a launch fills the card without cutting keys into splits: 8 warps
 * for each of 132 SMs. */
#define ATTEND_MANY 1056
/* Blocks of 128 rows times heads from which a full attention takes tiles of 32 rows. */
#define ATTEND_WIDE 128

/* Where the blocks of a sequence's layer lie. Block b of a head: table ? table[b] : base + b *
 * block_step, then + head * head_step; bytes. */
struct attend_keys {
    char *base;
    char *const *table;                   /* device memory */
    int64_t block_step, head_step, layer; /* layer: added where there is a table */
};

struct attend_seq {
    struct attend_keys keys;
    int32_t first_row, n_row;
    int32_t start;      /* position of its first row */
    int32_t n_key;      /* that every row sees; causal: its own position and those before */
    int32_t n_stored;   /* keys that are there; what lies behind them in their block is anything */
    int32_t first_tile; /* store: of 32 keys; tile kernels: of rows */
};
static_assert(sizeof(struct attend_seq) <= ARGS_SEQ, "an op has arguments of three a sequence");

/* Rows of k and v into their blocks; row i of a sequence becomes key at + i. */
struct store_job {
    struct tensor k, v; /* [R, n_head*hd] */
    const float *cos, *sin;
    int32_t n_head, dim, n_seq, n_row;
    bool from_zero; /* at = 0, else at = start */
    struct attend_seq
        *seq; /* room for arguments (attend_sequences), then where kernels find them */
};
CUDA_API void store_launch(struct cuda_lane *ln, struct store_job *job);

struct attend_job {
    struct tensor out, q, gate;
    const float *cos, *sin;
    struct heads heads;
    int32_t split, n_seq, n_row;
    bool causal;
    bool chain; /* one split */
    /* of attend_splits.cu, attend_parts.cu and attend_chain.cu */
    struct tensor k, v; /* rows that are not in their blocks yet; k.data NULL: all are */
    bool in_parts;
    bool wide, rehearse; /* attend_parts.cu */
    float *partial;      /* scratch of partial_floats */
    size_t partial_floats;
    int32_t *arrived; /* [tiles,heads], zeros before and after */
    float scale;
    int32_t n_tile, n_split;
    struct attend_seq *seq; /* as above */
};
CUDA_API void attend_launch(struct cuda_lane *ln, struct attend_job *job);

/* What attend_launch calls for bf16 heads of 16, 24, 32 and 64. */
CUDA_API bool attend_tile_fits(const struct cuda_lane *ln, const struct attend_job *job);
/* Whether it takes k and v, instead of a launch that stores them. */
CUDA_API bool attend_tile_stores(const struct cuda_lane *ln, const struct attend_job *job);
CUDA_API void attend_chain_launch(struct cuda_lane *ln, struct attend_job *job);
CUDA_API void attend_splits_launch(struct cuda_lane *ln, struct attend_job *job);
/* What attend_splits_launch calls for sequences of many rows. */
CUDA_API bool attend_many_fits(const struct attend_job *job);
CUDA_API void attend_many_launch(struct cuda_lane *ln, struct attend_job *job);
/* And for few tiles. */
CUDA_API void attend_parts_launch(struct cuda_lane *ln, struct attend_job *job);

/* Query heads of a key-value head; heads of the output. */
static inline PACK_BOTH int32_t attend_group(const struct heads *h)
{
    return h->n_q >= h->n_kv ? h->n_q / h->n_kv : 1;
}
static inline PACK_BOTH int32_t attend_outputs(const struct heads *h)
{
    return h->n_q > h->n_kv ? h->n_q : h->n_kv;
}

/* Scratch for the partial results of a job of up to n_row rows. */
CUDA_API void attend_cut(struct cuda_lane *ln, struct attend_job *job);

/* The sequences of g, in room for arguments; keys, n_key and n_stored are still to be filled. The
 * launch comes next: it puts them. */
struct attend_seq *attend_sequences(struct cuda_lane *ln, const struct ragged *g);
CUDA_API struct attend_seq *attend_put(struct cuda_lane *ln, int32_t n_seq);

/* Gives each sequence its first tile, `rows` of its rows times `group` in one; the number of them.
 */
static inline int32_t attend_number_tiles(struct attend_seq *seq, int32_t n_seq, int32_t group,
                                          int32_t rows)
{
    int32_t n_tile = 0;
    for (int32_t i = 0; i < n_seq; i++) {
        seq[i].first_tile = n_tile;
        n_tile += (seq[i].n_row * group + rows - 1) / rows;
    }
    return n_tile;
}

static inline const float *rope_cos(const struct weight *rope)
{
    return rope ? ((const struct cuda_rope_table *)rope)->cos : NULL;
}
static inline const float *rope_sin(const struct weight *rope)
{
    return rope ? ((const struct cuda_rope_table *)rope)->sin : NULL;
}

#endif
