/* Rows through tiles of weights: the one multiplication of the CUDA backend, dense or by expert. */
#ifndef RXT_CUDA_GEMM_IMPL_H
#define RXT_CUDA_GEMM_IMPL_H

#include "kernels/cuda/cuda_impl.h"
#include "kernels/cuda/pack_impl.h"

enum gemm_end {
    GEMM_STORE,  /* out[r,:] = y, in the compute dtype */
    GEMM_ADD,    /* out[r,:] += y */
    GEMM_F32,    /* out[r,:] = y in float32 */
    GEMM_HIDDEN, /* out = act(y), or value . act(gate), as groups of 8 rows for the next matrix */
};

/* Up to 4 groups of 8 rows that go through one expert. Device memory. */
struct gemm_item {
    int32_t expert, first_group, n_group;
};
#define GEMM_GROUPS 4

struct gemm {
    struct tiles w;
    const void *data;  /* tiles; of expert e at data + e * expert_step elements */
    const float *bias; /* [n], of a gated first matrix [2n]; NULL: none */
    int64_t expert_step, bias_step;
    const void *x;                /* groups of 8 rows of w.k values, zeros where there is no row */
    int32_t n_row;                /* dense: rows that exist. By items: rows of all groups */
    const struct gemm_item *item; /* NULL: dense, expert 0 */
    const int32_t *n_item;        /* device; at most max_item */
    int32_t max_item;
    enum gemm_end end;
    enum act act;       /* HIDDEN */
    bool gated;         /* HIDDEN */
    bool round_bf16;    /* F32: the logits of a bf16 router */
    void *out;          /* STORE, ADD, F32: [.., n]; HIDDEN: groups */
    int64_t out_stride; /* HIDDEN: inputs of the next matrix, filled up */
};

CUDA_API void gemm_launch(struct cuda_lane *ln, const struct gemm *g);

#endif
