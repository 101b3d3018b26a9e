#include "kernels/cuda/attend_impl.h"

/* The blocks of each sequence of keys lie in scratch behind one another. */
static void place_keys(struct attend_seq *seq, const struct full_attention *a, char *blocks,
                       size_t block)
{
    for (int32_t i = 0; i < a->kv_rows.n_seq; i++) {
        int32_t n = a->kv_rows.offset[i + 1] - a->kv_rows.offset[i];
        int64_t head = (int64_t)block * kv_blocks(n);
        seq[i].keys = (struct attend_keys){
            .base = blocks,
            .block_step = (int64_t)block,
            .head_step = head,
        };
        seq[i].n_key = seq[i].n_stored = n;
        blocks += head * a->heads.n_kv;
    }
}

/* Keys and values are first put into blocks in scratch, rotated: once, not once a query row. */
enum rxt_status cuda_full_attention(struct lane *lane, const struct full_attention *a)
{
    struct cuda_lane *ln = cuda_lane(lane);
    TRY(cuda_ready(ln));
    struct heads h = a->heads;
    enum dtype act = lane->be->act_dtype;
    size_t block = (size_t)kv_block_elements(h.dim) * dtype_bytes(act), n_block = 0;
    for (int32_t i = 0; i < a->kv_rows.n_seq; i++)
        n_block += (size_t)kv_blocks(a->kv_rows.offset[i + 1] - a->kv_rows.offset[i]);
    char *blocks = cuda_cut(ln, n_block * (size_t)h.n_kv, block);
    struct store_job store = {
        .k = a->k,
        .v = a->v,
        .cos = rope_cos(a->rope_k),
        .sin = rope_sin(a->rope_k),
        .n_head = h.n_kv,
        .dim = h.dim,
        .from_zero = true,
        .n_seq = a->kv_rows.n_seq,
        .n_row = a->k.rows,
        .seq = attend_sequences(ln, &a->kv_rows),
    };
    place_keys(store.seq, a, blocks, block);
    store_launch(ln, &store);
    struct attend_job attend = {
        .out = a->out,
        .q = a->q,
        .cos = rope_cos(a->rope_q),
        .sin = rope_sin(a->rope_q),
        .heads = h,
        .split = ATTEND_SPLIT_FULL,
        .chain = true,
        .n_seq = a->q_rows.n_seq,
        .n_row = a->q.rows,
        .seq = attend_sequences(ln, &a->q_rows),
    };
    place_keys(attend.seq, a, blocks, block);
    if (h.gate != ACT_NONE)
        attend.gate = a->gate_in;
    attend_launch(ln, &attend);
    return cuda_done(ln);
}
