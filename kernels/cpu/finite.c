#include "kernels/cpu/elementwise_impl.h"

#include "kernels/cpu/ops_impl.h"

enum rxt_status cpu_finite(struct lane *ln, bool *finite, struct tensor x)
{
    atomic_bool bad = false;
    const struct finite_job job = {x, &bad};
    lane_run(cpu_lane(ln), cpu_lane(ln)->be->k->finite_rows, &job, x.rows,
             8 * (uint64_t)x.rows * (uint64_t)x.cols);
    *finite = !bad;
    return RXT_OK;
}
