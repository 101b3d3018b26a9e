#include "kernels/cuda/kv_impl.h"

enum rxt_status cuda_cross_attention(struct lane *lane, const struct cross_attention *a)
{
    struct cuda_lane *ln = cuda_lane(lane);
    TRY(cuda_ready(ln));
    struct heads h = a->heads;
    int32_t q = h.n_q * h.dim;
    struct attend_job job = {
        .cos = rope_cos(a->rope),
        .sin = rope_sin(a->rope),
        .heads = h,
        .split = ATTEND_SPLIT_MEMORY,
    };
    attend_cut(ln, &job);
    for (int32_t first = 0; first < a->rows.n_seq; first += ATTEND_SEQ) {
        int32_t n = attend_sequences(job.seq, &a->rows, first), row = a->rows.offset[first];
        struct tensor rows = tensor_rows(a->q, row, a->rows.offset[first + n] - row);
        for (int32_t i = 0; i < n; i++) {
            job.seq[i].keys = mem_kv_keys(a->mem[first + i], lane->be->act_dtype, a->layer);
            job.seq[i].n_key = job.seq[i].n_stored = a->mem[first + i]->cfg.n_slot;
        }
        job.n_seq = n;
        job.n_row = rows.rows;
        job.out = tensor_rows(a->out, row, rows.rows);
        job.q = tensor_cols(rows, 0, q);
        if (h.gate != ACT_NONE)
            job.gate = tensor_cols(rows, q, a->out.cols);
        attend_launch(ln, &job);
    }
    return cuda_done(ln);
}
