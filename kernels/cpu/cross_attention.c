#include "kernels/cpu/ops_impl.h"

#include "kernels/cpu/kv_impl.h"
#include "kernels/cpu/rope_impl.h"

static struct kv_head head_of_memory(const void *arg, int32_t seq, int32_t head)
{
    const struct cross_attention *a = arg;
    return mem_kv_head(a->mem[seq], a->layer, head);
}

enum rxt_status cpu_cross_attention(struct lane *ln, const struct cross_attention *a)
{
    struct heads h = a->heads;
    struct attend_job job = {
        .heads = h,
        .out = a->out,
        .q = tensor_cols(a->q, 0, h.n_q * h.dim),
        .rows = a->rows,
        .rope = rope_rotation(a->rope),
        .head_of = head_of_memory,
        .arg = a,
    };
    if (h.gate != ACT_NONE)
        job.gate = tensor_cols(a->q, h.n_q * h.dim, heads_out(h) * h.dim);
    attend_run(cpu_lane(ln), &job, h.n_kv);
    return RXT_OK;
}
