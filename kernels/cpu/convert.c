#include "kernels/cpu/elementwise_impl.h"

#include "kernels/cpu/ops_impl.h"

#define ELEMENT_WORK 20 /* as in struct task; measured in a memory update */

void convert_run(struct cpu_lane *ln, const struct convert_job *job)
{
    lane_run(ln, ln->be->k->convert_rows, job, job->x.rows,
             ELEMENT_WORK * (uint64_t)job->x.rows * (uint64_t)job->x.cols);
}

enum rxt_status cpu_convert(struct lane *ln, struct tensor out, struct tensor x)
{
    const struct convert_job job = {out, x};
    convert_run(cpu_lane(ln), &job);
    return RXT_OK;
}
