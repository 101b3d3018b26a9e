/* Linear layers of the CPU backend, and the head, which is one over chosen rows. */
#ifndef RXT_CPU_LINEAR_IMPL_H
#define RXT_CPU_LINEAR_IMPL_H

#include "kernels/cpu/gemm_impl.h"

struct cpu_linear {
    struct weight base;
    struct packed w;
};

enum rxt_status cpu_weight_linear(struct weight **out, struct backend *be,
                                  const struct host_matrix *part, const struct host_vector *bias,
                                  int n_part, enum dtype storage);
void cpu_linear_destroy(struct weight *w);

struct scratch_need linear_need(const struct lane_limits *l);
/* The op without its end (lane_done), for ops that go on with the result. */
void linear_rows(struct cpu_lane *ln, struct tensor out, struct tensor x, const struct weight *norm,
                 const struct weight *linear);

enum rxt_status cpu_linear(struct lane *ln, struct tensor out, struct tensor x,
                           const struct weight *norm, const struct weight *linear);
enum rxt_status cpu_linear_add(struct lane *ln, struct tensor x, struct tensor c,
                               const struct weight *linear);
enum rxt_status cpu_head(struct lane *ln, struct tensor logits, struct tensor x, const int32_t *row,
                         const struct weight *norm, const struct weight *head);

#endif
