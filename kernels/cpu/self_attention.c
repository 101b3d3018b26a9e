#include "kernels/cpu/ops_impl.h"

#include "kernels/cpu/kv_impl.h"
#include "kernels/cpu/rope_impl.h"

static struct kv_head head_of_turn(const void *arg, int32_t seq, int32_t head)
{
    const struct self_attention *a = arg;
    return kv_head_of(a->kv[seq], a->layer, head);
}

enum rxt_status cpu_self_attention(struct lane *ln, const struct self_attention *a)
{
    struct heads h = a->heads;
    int32_t q = h.n_q * h.dim, kv = h.n_kv * h.dim;
    struct store_job store = {
        .n_head = h.n_kv,
        .dim = h.dim,
        .k = tensor_cols(a->qkv, q, kv),
        .v = tensor_cols(a->qkv, q + kv, kv),
        .rows = a->rows,
        .rope = rope_rotation(a->rope),
        .head_of = head_of_turn,
        .arg = a,
    };
    store_run(cpu_lane(ln), &store);
    struct attend_job attend = {
        .heads = h,
        .out = a->out,
        .q = tensor_cols(a->qkv, 0, q),
        .rows = a->rows,
        .rope = store.rope,
        .causal = true,
        .head_of = head_of_turn,
        .arg = a,
    };
    if (h.gate != ACT_NONE)
        attend.gate = tensor_cols(a->qkv, q + 2 * kv, heads_out(h) * h.dim);
    attend_run(cpu_lane(ln), &attend, h.n_kv);
    return RXT_OK;
}
