/* Rows of activations times packed matrices: the one inner loop of linear layers, feed-forwards,
 * experts and the head. Each output is one fused multiply-add chain over k = 0 .. K-1 starting at
 * zero, then + bias, whatever the tile, the number of rows or the instruction set. */
#ifndef RXT_CPU_GEMM_IMPL_H
#define RXT_CPU_GEMM_IMPL_H

#include "kernels/cpu/cpu_impl.h"
#include "kernels/cpu/packed_impl.h"

/* What happens to y = W x + b. */
enum gemm_end {
    GEMM_STORE, /* out = y */
    GEMM_ADD,   /* out += y */
    GEMM_ACT,   /* out = act(y), or value . act(gate) of a gated matrix */
};

/* n_row rows of the batch from first_row on, through one matrix. */
struct gemm_group {
    const struct packed *w;
    enum act act; /* for GEMM_ACT */
    int32_t first_row, n_row;
    /* filled by gemm_run */
    int32_t first_item, n_block;
    bool by_rows;
};

struct gemm_job {
    struct gemm_group *group; /* n_group of them */
    int32_t n_group;
    const float *x; /* row r of the batch is x[x_row ? x_row[r] : r, :] */
    int64_t x_stride;
    const int32_t *x_row;
    float *out; /* out[r,:] */
    int64_t out_stride;
    enum gemm_end end;
};

/* Runs the job on the lane's threads; all groups are one task. */
void gemm_run(struct cpu_lane *ln, struct gemm_job *job);

/* The usual job: all rows of x (or those that row names, one for each of out) through one matrix.
 * act: for GEMM_ACT. */
void gemm_rows(struct cpu_lane *ln, struct tensor out, struct tensor x, const int32_t *row,
               const struct packed *w, enum gemm_end end, enum act act);

#endif
