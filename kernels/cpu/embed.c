#include "kernels/cpu/embed_impl.h"

#include "kernels/base/mem.h"
#include "kernels/cpu/ops_impl.h"
#include "kernels/host_impl.h"

enum rxt_status cpu_weight_table(struct weight **out, struct backend *be,
                                 const struct host_matrix *m)
{
    (void)be;
    struct cpu_table *w = mem_alloc(sizeof *w);
    if (!w)
        return RXT_ENOMEM;
    w->m = *m;
    w->base.bytes = sizeof *w;
    *out = &w->base;
    return RXT_OK;
}

struct embed_job {
    struct tensor out;
    const struct host_matrix *m;
    const int32_t *id;
};

/* Item = row. */
static void embed_rows(const void *arg, int32_t first, int32_t last, void *scratch)
{
    (void)scratch;
    const struct embed_job *job = arg;
    const struct host_matrix *m = job->m;
    for (int32_t r = first; r < last; r++) {
        float *out = (float *)job->out.data + r * job->out.stride; // out[r,:]
        host_row_read(out, m, job->id[r], 0, m->cols);             // table[id[r],:]
    }
}

enum rxt_status cpu_embed(struct lane *ln, struct tensor out, const struct weight *table,
                          const int32_t *id)
{
    const struct embed_job job = {out, &((const struct cpu_table *)table)->m, id};
    /* rows of a table lie in memory, not in a cache */
    lane_run(cpu_lane(ln), embed_rows, &job, out.rows,
             100 * (uint64_t)out.rows * (uint64_t)out.cols);
    return RXT_OK;
}
