#include "kernels/cpu/elementwise_impl.h"

#include "kernels/cpu/ops_impl.h"

enum rxt_status cpu_convert(struct lane *ln, struct tensor out, struct tensor x)
{
    const struct convert_job job = {out, x};
    lane_run(cpu_lane(ln), cpu_lane(ln)->be->k->convert_rows, &job, x.rows,
             (uint64_t)x.rows * (uint64_t)x.cols);
    return RXT_OK;
}
