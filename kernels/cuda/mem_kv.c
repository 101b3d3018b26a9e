#include "kernels/cuda/kv_impl.h"
#include "kernels/cuda/linear_impl.h"

enum rxt_status cuda_mem_kv(struct lane *lane, struct mem_kv *out, int32_t layer, struct tensor stm,
                            const struct weight *norm, const struct weight *kv)
{
    struct cuda_lane *ln = cuda_lane(lane);
    TRY(cuda_ready(ln));
    enum dtype act = lane->be->act_dtype;
    int32_t width = out->cfg.n_kv_head * out->cfg.head_dim;
    struct gemm g = linear_gemm(&((const struct cuda_linear *)kv)->l, stm.rows);
    struct tensor y = {NULL, act, stm.rows, kv->rows, kv->rows};
    y.data = cuda_cut(ln, (size_t)y.rows * (size_t)y.cols, dtype_bytes(act));
    void *staged = stage_cut(ln, stm.rows, stm.cols);
    stage_memory(ln, staged, stm, norm);
    gemm_staged(&g, staged);
    g.out = y.data;
    g.out_stride = y.stride;
    gemm_launch(ln, &g, 1);
    const struct ragged rows = {.n_seq = 1, .offset = (const int32_t[]){0, stm.rows}};
    struct store_job store = {
        .k = tensor_cols(y, 0, width),
        .v = tensor_cols(y, width, width),
        .n_head = out->cfg.n_kv_head,
        .dim = out->cfg.head_dim,
        .n_seq = 1,
        .n_row = stm.rows,
        .from_zero = true,
        .seq = attend_sequences(ln, &rows),
    };
    store.seq[0].keys = mem_kv_keys(out, act, layer);
    store_launch(ln, &store);
    return cuda_done(ln);
}
