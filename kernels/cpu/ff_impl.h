/* Feed-forward layers of the CPU backend; also the experts of cpu/moe.c. */
#ifndef RXT_CPU_FF_IMPL_H
#define RXT_CPU_FF_IMPL_H

#include "kernels/cpu/gemm_impl.h"

struct cpu_ff {
    struct weight base;
    struct packed w1, w2;
    enum act act;
};

/* Fills *out. ENOMEM; *out is then empty. */
enum rxt_status ff_fill(struct cpu_ff *out, struct pool *pool, const struct ff_desc *d,
                        enum dtype storage);
void ff_empty(struct cpu_ff *w);

enum rxt_status cpu_weight_ff(struct weight **out, struct backend *be, const struct ff_desc *d,
                              enum dtype storage);
void cpu_ff_destroy(struct weight *w);

struct scratch_need ff_need(const struct lane_limits *l);
enum rxt_status cpu_ff_add(struct lane *ln, struct tensor x, const struct weight *norm,
                           const struct weight *ff);

#endif
