/* Mixture of experts on the device (spec 2.6): router, plan, experts and sum without the host
 * hearing what was chosen. */
#ifndef RXT_CUDA_MOE_IMPL_H
#define RXT_CUDA_MOE_IMPL_H

#include "kernels/cuda/linear_impl.h"

#define ROUTE_MAX_EXPERT 4096 /* so that the plan fits 48 KB of shared memory; more is ESHAPE */

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
 * expert lie together, filled up to groups of 8. */
struct route {
    int32_t n_row, n_expert, top_k, n_shared, dim;
    float *logits;        /* [R,E] */
    float *shared_logits; /* [R,Ns], turned into parts; NULL: one shared expert, of part 1 */
    int32_t *expert;      /* [R,K], by rank */
    float *share;         /* [R,K] */
    int32_t *slot;        /* [R,K] */
    int32_t *slot_row;    /* [slots]: -1 where a group is filled up */
    int32_t *n_group, *n_item;
    struct gemm_item *item;
    int32_t max_group, max_item;
};
/* logits -> expert, share, parts of the shared experts. */
CUDA_API void route_launch(struct cuda_lane *ln, const struct route *r);
/* expert -> slot, slot_row, n_group, item, n_item. */
CUDA_API void plan_launch(struct cuda_lane *ln, const struct route *r);
/* The rows of the slots, out of groups of all rows; k: filled up. */
CUDA_API void gather_launch(struct cuda_lane *ln, const struct route *r, void *groups,
                            const void *x, int32_t k);

struct moe_sum {
    struct route r;
    struct tensor x;
    const void *y;        /* [slots,D] */
    const void *y_shared; /* [Ns][R,D] */
    const float *bias, *shared_bias;
    float routed_scale, shared_scale;
};
/* x += routed + shared. */
CUDA_API void moe_sum_launch(struct cuda_lane *ln, const struct moe_sum *s);

void cuda_moe_destroy(struct cuda_backend *be, struct weight *w);

#endif
