/* The CPU backend's row of every op of kernels/backend_impl.h. */
#include "kernels/cpu/ops_impl.h"

#include "kernels/base/mem.h"
#include "kernels/cpu/ff_impl.h"
#include "kernels/cpu/linear_impl.h"
#include "kernels/cpu/measure_impl.h"
#include "kernels/cpu/moe_impl.h"
#include "kernels/cpu/rope_impl.h"

static void weight_free(struct backend *be, struct weight *w)
{
    (void)be;
    switch (w->kind) {
    case WEIGHT_LINEAR:
        cpu_linear_destroy(w);
        break;
    case WEIGHT_FF:
        cpu_ff_destroy(w);
        break;
    case WEIGHT_MOE:
        cpu_moe_destroy(w);
        break;
    case WEIGHT_ROPE:
        cpu_rope_destroy(w);
        break;
    case WEIGHT_NORM:
    case WEIGHT_TABLE:
    case WEIGHT_GATE: /* one block */
        mem_free(w);
        break;
    }
}

const struct backend_ops cpu_ops = {
    .destroy = cpu_destroy,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .measure = cpu_measure,
    .lane_create = cpu_lane_create,
    .lane_destroy = cpu_lane_destroy,
    .lane_bytes = cpu_lane_bytes,
    .sync = cpu_sync,
    .step_begin = cpu_step_begin,
    .step_end = cpu_step_end,
    .branch = cpu_branch,
    .give_way = cpu_give_way,
    .rest = cpu_rest,
    .upload = cpu_copy,
    .download = cpu_copy,
    .copy = cpu_copy,
    .weight_destroy = weight_free,
    .weight_linear = cpu_weight_linear,
    .weight_table = cpu_weight_table,
    .weight_norm = cpu_weight_norm,
    .weight_rope = cpu_weight_rope,
    .weight_ff = cpu_weight_ff,
    .weight_moe = cpu_weight_moe,
    .weight_gate = cpu_weight_gate,
    .kv_plan = cpu_kv_plan,
    .kv_create = cpu_kv_create,
    .kv_destroy = cpu_kv_destroy,
    .mem_kv_plan = cpu_mem_kv_plan,
    .mem_kv_create = cpu_mem_kv_create,
    .mem_kv_destroy = cpu_mem_kv_destroy,
    .embed = cpu_embed,
    .linear = cpu_linear,
    .linear_add = cpu_linear_add,
    .self_attention = cpu_self_attention,
    .cross_attention = cpu_cross_attention,
    .full_attention = cpu_full_attention,
    .ff_add = cpu_ff_add,
    .moe_add = cpu_moe_add,
    .head = cpu_head,
    .sample = cpu_sample,
    .mem_kv = cpu_mem_kv,
    .norm = cpu_norm,
    .mean = cpu_mean,
    .gate = cpu_gate,
    .gate_store = cpu_gate_store,
    .convert = cpu_convert,
    .finite = cpu_finite,
};
