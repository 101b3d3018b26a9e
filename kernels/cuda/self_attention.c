#include "kernels/cuda/kv_impl.h"
#include "kernels/cuda/scratch_impl.h"

void attend_cut(struct cuda_lane *ln, struct attend_job *job)
{
    job->partial_floats = scratch_partials(&ln->base.limits, ln->base.be->act_dtype);
    job->partial = cuda_cut(ln, job->partial_floats, sizeof *job->partial);
    job->arrived = ln->arrived;
}

struct attend_seq *attend_sequences(struct cuda_lane *ln, const struct ragged *g)
{
    struct attend_seq *seq = args_room(ln, (size_t)g->n_seq * sizeof *seq);
    for (int32_t i = 0; i < g->n_seq; i++)
        seq[i] = (struct attend_seq){
            .first_row = g->offset[i],
            .n_row = g->offset[i + 1] - g->offset[i],
            .start = g->start ? g->start[i] : 0,
        };
    return seq;
}

struct attend_seq *attend_put(struct cuda_lane *ln, int32_t n_seq)
{
    return args_put(ln, (size_t)n_seq * sizeof(struct attend_seq));
}

static struct attend_seq *sequences(struct cuda_lane *ln, const struct self_attention *a)
{
    struct attend_seq *seq = attend_sequences(ln, &a->rows);
    for (int32_t i = 0; i < a->rows.n_seq; i++) {
        seq[i].keys = kv_keys(a->kv[i], ln->base.be->act_dtype, a->layer);
        seq[i].n_stored = seq[i].start + seq[i].n_row;
    }
    return seq;
}

enum rxt_status cuda_self_attention(struct lane *lane, const struct self_attention *a)
{
    struct cuda_lane *ln = cuda_lane(lane);
    TRY(cuda_ready(ln));
    struct heads h = a->heads;
    int32_t q = h.n_q * h.dim, kv = h.n_kv * h.dim;
    struct attend_job attend = {
        .out = a->out,
        .q = tensor_cols(a->qkv, 0, q),
        .cos = rope_cos(a->rope),
        .sin = rope_sin(a->rope),
        .heads = h,
        .split = ATTEND_SPLIT_TURN,
        .n_seq = a->rows.n_seq,
        .n_row = a->qkv.rows,
        .causal = true,
        .seq = sequences(ln, a),
    };
    struct store_job store = {
        .k = tensor_cols(a->qkv, q, kv),
        .v = tensor_cols(a->qkv, q + kv, kv),
        .cos = attend.cos,
        .sin = attend.sin,
        .n_head = h.n_kv,
        .dim = h.dim,
        .n_seq = a->rows.n_seq,
        .n_row = a->qkv.rows,
        .seq = attend.seq,
    };
    if (attend_tile_stores(ln, &attend)) {
        attend.k = store.k;
        attend.v = store.v;
    } else {
        store_launch(ln, &store);
        attend.seq = sequences(ln, a);
    }
    attend_cut(ln, &attend);
    if (h.gate != ACT_NONE)
        attend.gate = tensor_cols(a->qkv, q + 2 * kv, a->out.cols);
    attend_launch(ln, &attend);
    return cuda_done(ln);
}
