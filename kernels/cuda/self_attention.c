#include "kernels/cuda/kv_impl.h"
#include "kernels/cuda/scratch_impl.h"

void attend_cut(struct cuda_lane *ln, struct attend_job *job)
{
    job->partial_floats = scratch_partials(&ln->base.limits, ln->base.be->act_dtype);
    job->partial = cuda_cut(ln, job->partial_floats, sizeof *job->partial);
    job->arrived = ln->arrived;
}

int32_t attend_sequences(struct attend_seq *seq, const struct ragged *g, int32_t first)
{
    int32_t n = g->n_seq - first < ATTEND_SEQ ? g->n_seq - first : ATTEND_SEQ;
    for (int32_t i = 0; i < n; i++)
        seq[i] = (struct attend_seq){
            .first_row = g->offset[first + i] - g->offset[first],
            .n_row = g->offset[first + i + 1] - g->offset[first + i],
            .start = g->start ? g->start[first + i] : 0,
        };
    return n;
}

enum rxt_status cuda_self_attention(struct lane *lane, const struct self_attention *a)
{
    struct cuda_lane *ln = cuda_lane(lane);
    TRY(cuda_ready(ln));
    struct heads h = a->heads;
    int32_t q = h.n_q * h.dim, kv = h.n_kv * h.dim;
    struct store_job store = {
        .cos = rope_cos(a->rope),
        .sin = rope_sin(a->rope),
        .n_head = h.n_kv,
        .dim = h.dim,
    };
    struct attend_job attend = {
        .cos = store.cos,
        .sin = store.sin,
        .heads = h,
        .split = ATTEND_SPLIT_TURN,
        .causal = true,
    };
    attend_cut(ln, &attend);
    for (int32_t first = 0; first < a->rows.n_seq; first += ATTEND_SEQ) {
        int32_t n = attend_sequences(attend.seq, &a->rows, first), row = a->rows.offset[first];
        int32_t n_row = a->rows.offset[first + n] - row;
        struct tensor qkv = tensor_rows(a->qkv, row, n_row);
        for (int32_t i = 0; i < n; i++) {
            attend.seq[i].keys = kv_keys(a->kv[first + i], lane->be->act_dtype, a->layer);
            attend.seq[i].n_stored = attend.seq[i].start + attend.seq[i].n_row;
            store.seq[i] = attend.seq[i];
        }
        store.n_seq = attend.n_seq = n;
        store.n_row = attend.n_row = n_row;
        store.k = tensor_cols(qkv, q, kv);
        store.v = tensor_cols(qkv, q + kv, kv);
        store_launch(ln, &store);
        attend.out = tensor_rows(a->out, row, n_row);
        attend.q = tensor_cols(qkv, 0, q);
        if (h.gate != ACT_NONE)
            attend.gate = tensor_cols(qkv, q + 2 * kv, a->out.cols);
        attend_launch(ln, &attend);
    }
    return cuda_done(ln);
}
