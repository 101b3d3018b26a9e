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
    lane_run(ln, ln->be->k->gemm, job, n_item, work);
}
