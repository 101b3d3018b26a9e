/* Rows through tiles of weights: the one multiplication of the CUDA backend, dense or by expert. */
#ifndef RXT_CUDA_GEMM_IMPL_H
#define RXT_CUDA_GEMM_IMPL_H

#include "kernels/cuda/norm_impl.h"
#include "kernels/cuda/scratch_impl.h"

enum gemm_end {
    GEMM_STORE,  /* out[r,:] = y, in the compute dtype */
    GEMM_ADD,    /* out[r,:] += y */
    GEMM_F32,    /* out[r,:] = y in float32 */
    GEMM_HIDDEN, /* out[r,:] = act(y), or value . act(gate), the input of the next matrix */
    GEMM_KEYS,   /* y = [K|V] of key r, into blocks; gemm_tiles_launch only */
};

/* Rows [first, first + n) that go through one expert. Device memory. */
struct gemm_item {
    int32_t expert, first, n;
};
struct attend_seq;
#define GEMM_ITEM SCRATCH_ITEM /* the most rows of an item */
#define GEMM_NEAR 8            /* the most rows that any gemm normalises by itself */

struct gemm {
    struct tiles w;
    const void *data;  /* tiles; of expert e at data + e * expert_step elements */
    const float *bias; /* [n], of a gated first matrix [2n]; NULL: none */
    int64_t expert_step, bias_step;
    int32_t n_expert, n_row; /* dense: all rows go through expert 0, then all through expert 1.
                              * By items: rows of all items */

    /* Input, in rows of w.k values, 16-byte aligned, zeros where it was filled up. */
    const void *x;
    int64_t x_stride, x_step; /* x_step: elements to the rows of the next expert; dense */
    const int32_t *x_row;     /* by items: row r is x[x_row[r],:]; NULL: x[r,:] */

    /* Input that is not so yet: near.cols > 0, and then at most GEMM_NEAR rows, or those that
     * gemm_few_normalises. Every block makes norm(near) for itself, the first one leaves it in
     * `keep` too (NULL: does not), like x. */
    struct tensor near;
    bool has_norm;
    struct norm norm;
    void *keep;

    const struct gemm_item *item; /* NULL: dense */
    const int32_t *n_item;        /* device; at most max_item */
    int32_t max_item;
    bool item_early; /* the launch before goes by the same items: they are there before it ends,
                      * because it lets this one in only behind its own wait */

    enum gemm_end end;
    enum act act;    /* HIDDEN */
    bool gated;      /* HIDDEN */
    bool round_bf16; /* F32: the logits of a bf16 router */
    void *out;       /* [.., n], or for HIDDEN [.., filled up]; out_step: of the next expert */
    int64_t out_stride, out_step;
    const struct attend_seq *keys; /* KEYS: one, an argument; all rows from key 0 on */
    int32_t key_dim;               /* of a head, a multiple of 8 */
};

/* n of them in one launch, side by side; all have the same number of ranges. */
CUDA_API void gemm_launch(struct cuda_lane *ln, const struct gemm *g, int n);
#define GEMM_SIDE 2

/* What reads x [R,K], of any stride, through norm (or NULL): straight from there, in the blocks of
 * the gemm, or staged in scratch. row: rows in its place (host memory) or NULL. n_row is set. */
CUDA_API void gemm_input(struct cuda_lane *ln, struct gemm *g, struct tensor x, const int32_t *row,
                         const struct weight *norm);
/* The same for n gemms that read one x; gives the rows they read, in scratch. */
CUDA_API void *gemm_input_kept(struct cuda_lane *ln, struct gemm *g, int n, struct tensor x,
                               const struct weight *norm);
/* Input out of rows that were staged. */
CUDA_API void gemm_staged(struct gemm *g, const void *x);

#endif
