#include "kernels/cpu/gemm_impl.h"

void gemm_run(struct cpu_lane *ln, struct gemm_job *job)
{
    int32_t n_item = 0;
    uint64_t work = 0;
    for (int32_t i = 0; i < job->n_group; i++) {
        struct gemm_group *g = &job->group[i];
        g->first_item = n_item;
        n_item += g->w->n_panel * gemm_blocks(g);
        work += 2 * (uint64_t)g->n_row * (uint64_t)g->w->columns * (uint64_t)g->w->k;
    }
    int32_t first_row = job->group[0].first_row;
    const float *x = job->x + (job->x_row ? job->x_row[first_row] : first_row) * job->x_stride;
    lane_run_on(ln, ln->be->k->gemm, job, n_item, work, x,
                (size_t)job->group[0].w->k * sizeof *x); // x[first_row,:]
}

void gemm_rows(struct cpu_lane *ln, struct tensor out, struct tensor x, const int32_t *row,
               const struct packed *w, enum gemm_end end, enum act act)
{
    struct gemm_group all = {.w = w, .act = act, .n_row = out.rows};
    struct gemm_job job = {
        .group = &all,
        .n_group = 1,
        .x = x.data,
        .x_stride = x.stride,
        .x_row = row,
        .out = out.data,
        .out_stride = out.stride,
        .end = end,
    };
    gemm_run(ln, &job);
}
