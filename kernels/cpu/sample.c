#include "kernels/cpu/sample_impl.h"

#include "kernels/cpu/ops_impl.h"

/* Of a logit, as in struct task. Measured: 5 for the highest, 180 for a draw from all, 400 from the
 * top k, 1000 by top p. */
#define LOGIT_WORK 400

struct scratch_need sample_need(const struct lane_limits *l)
{
    size_t n = ((size_t)l->max_vocab + 15) / 16 * 16;
    return (struct scratch_need){.thread = sizeof(struct sample_place) + 12 * n + 2 * CPU_ALIGN};
}

enum rxt_status cpu_sample(struct lane *ln, int32_t *id, struct tensor logits,
                           const struct sampling *how)
{
    const struct sample_job job = {id, logits, how};
    lane_run(cpu_lane(ln), cpu_lane(ln)->be->k->sample_rows, &job, logits.rows,
             LOGIT_WORK * (uint64_t)logits.rows * (uint64_t)logits.cols);
    return RXT_OK;
}
