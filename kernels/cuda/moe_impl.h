/* Mixture of experts on the device (spec 2.6): router, plan, experts and sum without the host
 * hearing what was chosen. */
#ifndef RXT_CUDA_MOE_IMPL_H
#define RXT_CUDA_MOE_IMPL_H

#include "kernels/cuda/linear_impl.h"

#define ROUTE_MAX_EXPERT 2048 /* so that a lane keeps its part of a row in registers */

struct cuda_moe {
    struct weight base;
    int32_t n_expert, top_k, n_shared, dim;
    bool router_bf16;
    struct linear router, shared_gate; /* the latter only with two shared experts or more */
    struct experts routed, shared;
    float *bias, *shared_bias; /* [dim] or NULL */
    float routed_scale, shared_scale;
};

/* A call; all pointers are scratch. A row has a slot for each expert it chose; the slots of an
 * expert lie together, in the order of their rows. */
struct route {
    int32_t n_row, n_expert, top_k, n_shared, dim;
    float *logits;        /* [R,E] */
    float *shared_logits; /* [R,Ns], turned into parts; NULL: one shared expert, of part 1 */
    int32_t *expert;      /* [R,K], by rank */
    float *share;         /* [R,K] */
    int32_t *slot;        /* [R,K] */
    int32_t *slot_row;    /* [R*K] */
    int32_t *n_item;
    struct gemm_item *item;
    int32_t max_item;
};
/* logits -> expert, share, parts of the shared experts; then slot, slot_row, item, n_item. */
CUDA_API void route_launch(struct cuda_lane *ln, const struct route *r);

struct moe_sum {
    struct route r;
    struct tensor x;
    const void *y;        /* [R*K,D], by slot */
    const void *y_shared; /* [Ns][R,D] */
    const float *bias, *shared_bias;
    float routed_scale, shared_scale;
};
/* x += routed + shared. */
CUDA_API void moe_sum_launch(struct cuda_lane *ln, const struct moe_sum *s);

void cuda_moe_destroy(struct cuda_backend *be, struct weight *w);

#endif
