#include "kernels/cpu/gemm_impl.h"

#define BLOCK 32    /* rows of an item: enough to reuse a panel, few enough to share out */
#define ROWS_EACH 8 /* of a thread: enough that each thread may read the whole matrix */
/* Of a matrix that each may read: their own caches keep it. */
#define SMALL_BYTES ((size_t)1 << 20)

/* Which items are neighbours, and so one thread's. By rows: all panels of some rows, where the
 * matrix is small or the smaller factor. Else all rows of some panels: each weight is read by one
 * thread only. Blocks of a small matrix are a multiple of the threads: where the job is one group
 * and the pool cuts it at once, a thread's rows are those that it has of an op that goes row by
 * row. */
static void cut(struct gemm_group *g, int32_t n_thread)
{
    size_t row_bytes = (size_t)g->w->columns * dtype_bytes(g->w->dtype);
    bool shares = g->n_row >= ROWS_EACH * n_thread && row_bytes * (size_t)g->w->k <= SMALL_BYTES;
    g->by_rows = shares || row_bytes <= (size_t)g->n_row * sizeof(float);
    g->n_block = (g->n_row + BLOCK - 1) / BLOCK;
    if (shares)
        g->n_block = (g->n_block + n_thread - 1) / n_thread * n_thread;
}

void gemm_run(struct cpu_lane *ln, struct gemm_job *job)
{
    int32_t n_item = 0, n_thread = pool_threads(ln->be->pool);
    uint64_t work = 0;
    for (int32_t i = 0; i < job->n_group; i++) {
        struct gemm_group *g = &job->group[i];
        cut(g, n_thread);
        g->first_item = n_item;
        n_item += g->w->n_panel * g->n_block;
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
