/* Norms of the CPU backend: the weight, and rows through it for the ops that fuse a norm.
 *
 * Order of a row's sums: 16 lanes and vec_sum; mean = sum / D; then 1 / sqrt. */
#ifndef RXT_CPU_NORM_IMPL_H
#define RXT_CPU_NORM_IMPL_H

#include "kernels/cpu/cpu_impl.h"

struct cpu_norm {
    struct weight base;
    enum norm_kind kind;
    int32_t dim, n_slot; /* n_slot 0: nothing depends on the slot */
    float eps;
    bool scale_by_slot;
    float *weight, *bias;          /* [D]; what the kind does not have is NULL */
    float *scale, *gate, *ema_rms; /* of the mixes: [D] or [S]; [1] or [S]; [S] */
};

/* A task: out[r,:] = norm(x[row ? row[r] : r,:]). Item = row. */
struct norm_job {
    const struct cpu_norm *norm;
    float *out;
    const float *x;
    const int32_t *row;
    int64_t out_stride, x_stride;
};

enum rxt_status cpu_weight_norm(struct weight **out, struct backend *be, const struct norm_desc *d);

/* Shared scratch of norm_rows: max_rows rows of max_width. */
struct scratch_need norm_need(const struct lane_limits *l);
/* x.rows rows, those of x or the ones that row names, normalised into shared scratch of the lane
 * (stride = cols), lent until lane_done. norm NULL: x itself; then row must be NULL too. */
struct tensor norm_rows(struct cpu_lane *ln, struct tensor x, const int32_t *row,
                        const struct weight *norm);

#endif
