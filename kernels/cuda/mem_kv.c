#include "kernels/cuda/gemm_tiles_impl.h"
#include "kernels/cuda/kv_impl.h"
#include "kernels/cuda/linear_impl.h"

/* [K|V] in scratch, then into blocks. */
static void store_apart(struct cuda_lane *ln, struct gemm *g, const struct mem_kv *out,
                        struct attend_keys keys)
{
    enum dtype act = ln->base.be->act_dtype;
    int32_t width = out->cfg.n_kv_head * out->cfg.head_dim;
    struct tensor y = {NULL, act, g->n_row, 2 * width, 2 * width};
    y.data = cuda_cut(ln, (size_t)y.rows * (size_t)y.cols, dtype_bytes(act));
    g->end = GEMM_STORE;
    g->out = y.data;
    g->out_stride = y.stride;
    gemm_launch(ln, g, 1);
    const struct ragged rows = {.n_seq = 1, .offset = (const int32_t[]){0, g->n_row}};
    struct store_job store = {
        .k = tensor_cols(y, 0, width),
        .v = tensor_cols(y, width, width),
        .n_head = out->cfg.n_kv_head,
        .dim = out->cfg.head_dim,
        .n_seq = 1,
        .n_row = g->n_row,
        .from_zero = true,
        .seq = attend_sequences(ln, &rows),
    };
    store.seq[0].keys = keys;
    store_launch(ln, &store);
}

enum rxt_status cuda_mem_kv(struct lane *lane, struct mem_kv *out, int32_t layer, struct tensor stm,
                            const struct weight *norm, const struct weight *kv)
{
    struct cuda_lane *ln = cuda_lane(lane);
    TRY(cuda_ready(ln));
    enum dtype act = lane->be->act_dtype;
    struct gemm g = linear_gemm(&((const struct cuda_linear *)kv)->l, stm.rows);
    void *staged = stage_cut(ln, stm.rows, stm.cols);
    stage_memory(ln, staged, stm, norm);
    gemm_staged(&g, staged);
    g.end = GEMM_KEYS;
    g.key_dim = out->cfg.head_dim;
    if (act == DTYPE_BF16 && g.key_dim % 8 == 0 && gemm_tiles_fits(&g)) {
        struct attend_seq *seq = args_room(ln, sizeof *seq);
        *seq = (struct attend_seq){.keys = mem_kv_keys(out, act, layer)};
        g.keys = args_put(ln, sizeof *seq);
        gemm_tiles_launch(ln, &g);
    } else {
        store_apart(ln, &g, out, mem_kv_keys(out, act, layer));
    }
    return cuda_done(ln);
}
