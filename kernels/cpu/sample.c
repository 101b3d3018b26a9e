#include "kernels/cpu/sample_impl.h"

#include "kernels/cpu/ops_impl.h"

struct scratch_need sample_need(const struct lane_limits *l)
{
    size_t n = ((size_t)l->max_vocab + 15) / 16 * 16;
    return (struct scratch_need){.thread = sizeof(struct sample_place) + 12 * n + 2 * CPU_ALIGN};
}

enum rxt_status cpu_sample(struct lane *ln, int32_t *id, struct tensor logits,
                           const struct sampling *how)
{
    const struct sample_job job = {id, logits, how};
    /* some 50 operations a logit where it is drawn */
    lane_run(cpu_lane(ln), cpu_lane(ln)->be->k->sample_rows, &job, logits.rows,
             50 * (uint64_t)logits.rows * (uint64_t)logits.cols);
    return RXT_OK;
}
