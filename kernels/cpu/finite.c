#include "kernels/cpu/elementwise_impl.h"

#include "kernels/cpu/ops_impl.h"

#define ELEMENT_WORK 8 /* as in struct task; measured */

enum rxt_status cpu_finite(struct lane *ln, bool *finite, struct tensor x)
{
    atomic_bool bad = false;
    const struct finite_job job = {x, &bad};
    lane_run(cpu_lane(ln), cpu_lane(ln)->be->k->finite_rows, &job, x.rows,
             ELEMENT_WORK * (uint64_t)x.rows * (uint64_t)x.cols);
    *finite = !bad;
    return RXT_OK;
}
