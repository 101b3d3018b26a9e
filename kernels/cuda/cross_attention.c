#include "kernels/cuda/kv_impl.h"

enum rxt_status cuda_cross_attention(struct lane *lane, const struct cross_attention *a)
{
    struct cuda_lane *ln = cuda_lane(lane);
    TRY(cuda_ready(ln));
    struct heads h = a->heads;
    int32_t q = h.n_q * h.dim;
    struct attend_job job = {
        .out = a->out,
        .q = tensor_cols(a->q, 0, q),
        .cos = rope_cos(a->rope),
        .sin = rope_sin(a->rope),
        .heads = h,
        .split = ATTEND_SPLIT_MEMORY,
        .n_seq = a->rows.n_seq,
        .n_row = a->q.rows,
        .seq = attend_sequences(ln, &a->rows),
    };
    for (int32_t i = 0; i < job.n_seq; i++) {
        job.seq[i].keys = mem_kv_keys(a->mem[i], lane->be->act_dtype, a->layer);
        job.seq[i].n_key = job.seq[i].n_stored = a->mem[i]->cfg.n_slot;
    }
    attend_cut(ln, &job);
    if (h.gate != ACT_NONE)
        job.gate = tensor_cols(a->q, q, a->out.cols);
    attend_launch(ln, &job);
    return cuda_done(ln);
}
