#include "kernels/cuda/attend_impl.h"

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
        .cos = rope_cos(a->rope_k),
        .sin = rope_sin(a->rope_k),
        .n_head = h.n_kv,
        .dim = h.dim,
        .from_zero = true,
    };
    struct attend_job attend = {
        .cos = rope_cos(a->rope_q),
        .sin = rope_sin(a->rope_q),
        .heads = h,
        .split = ATTEND_SPLIT_FULL,
        .chain = true,
    };
    for (int32_t first = 0; first < a->q_rows.n_seq; first += ATTEND_SEQ) {
        int32_t n = attend_sequences(attend.seq, &a->q_rows, first);
        int32_t q_row = a->q_rows.offset[first], k_row = a->kv_rows.offset[first];
        (void)attend_sequences(store.seq, &a->kv_rows, first);
        for (int32_t i = 0; i < n; i++) {
            int64_t head = (int64_t)block * kv_blocks(store.seq[i].n_row);
            store.seq[i].keys = (struct attend_keys){
                .base = blocks,
                .block_step = (int64_t)block,
                .head_step = head,
            };
            attend.seq[i].keys = store.seq[i].keys;
            attend.seq[i].n_key = attend.seq[i].n_stored = store.seq[i].n_row;
            blocks += head * h.n_kv;
        }
        store.n_seq = attend.n_seq = n;
        store.n_row = a->kv_rows.offset[first + n] - k_row;
        attend.n_row = a->q_rows.offset[first + n] - q_row;
        store.k = tensor_rows(a->k, k_row, store.n_row);
        store.v = tensor_rows(a->v, k_row, store.n_row);
        store_launch(ln, &store);
        attend.out = tensor_rows(a->out, q_row, attend.n_row);
        attend.q = tensor_rows(a->q, q_row, attend.n_row);
        if (h.gate != ACT_NONE)
            attend.gate = tensor_rows(a->gate_in, q_row, attend.n_row);
        attend_launch(ln, &attend);
    }
    return cuda_done(ln);
}
