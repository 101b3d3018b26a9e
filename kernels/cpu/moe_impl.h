/* Mixture of experts of the CPU backend (spec 2.6).
 *
 * A call runs router, experts and sum over the whole batch: a row has a slot for each of its
 * experts, and the slots of one expert lie together, so that its weights are read once a call
 * (shared experts follow, with a slot for every row). The sum takes a row's slots in the order of
 * rank again, so that it does not depend on who else chose the same experts. */
#ifndef RXT_CPU_MOE_IMPL_H
#define RXT_CPU_MOE_IMPL_H

#include "kernels/cpu/ff_impl.h"

struct cpu_moe {
    struct weight base;
    int32_t n_expert, top_k, n_shared, dim, width;
    bool router_bf16;
    struct packed router, shared_gate; /* the latter only with two shared experts or more */
    struct cpu_ff *ff;                 /* [n_expert + n_shared] */
    float *bias, *shared_bias;         /* [dim], zeros if absent */
    float routed_scale, shared_scale;
};

/* Tasks over rows r; see cpu/moe_simd.c. */
struct moe_job {
    const struct cpu_moe *w;
    float *x; /* in moe_round the rows to round, in moe_sum the rows to add to */
    int64_t x_stride;
    float *rounded;       /* [R,dim]: rows for a bf16 router */
    float *logits;        /* [R,E], turned into probabilities */
    float *shared_logits; /* [R,Ns], likewise */
    int32_t *expert;      /* [R,K]: chosen, by rank */
    float *share;         /* [R,K]: their parts */
    const int32_t *slot;  /* [R,K]: row of y of this choice */
    const float *y;       /* [slots,dim]: results; that of shared expert s of row r lies at
                           * first_shared + s * R + r */
    int32_t first_shared, n_row;
};

enum rxt_status cpu_weight_moe(struct weight **out, struct backend *be, const struct moe_desc *d,
                               enum dtype storage);
void cpu_moe_destroy(struct weight *w);

struct scratch_need moe_need(const struct lane_limits *l);
enum rxt_status cpu_moe_add(struct lane *ln, struct tensor x, const struct weight *norm,
                            const struct weight *moe);

#endif
