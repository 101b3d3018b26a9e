#include "kernels/cpu/full_attention_impl.h"

#include "kernels/cpu/ops_impl.h"
#include "kernels/cpu/rope_impl.h"

#define PACK_WIDTH 512 /* of keys, and of values, that are packed at once: 16 heads of 32 */

/* n_head heads of every sequence: [seq][head]. */
struct pack {
    float *data;
    int64_t *first_key; /* of a sequence, padding included */
    const struct ragged *rows;
    int32_t n_head, dim;
};

static struct kv_head head_of_pack(const void *arg, int32_t seq, int32_t head)
{
    const struct pack *p = arg;
    int32_t n_key = p->rows->offset[seq + 1] - p->rows->offset[seq];
    int64_t keys = p->first_key[seq] * p->n_head + (int64_t)kv_room(n_key) * head;
    return kv_head_at(p->data + keys * (p->dim + kv_width(p->dim)), p->dim, n_key);
}

/* Floats of scratch for each key; a single head of any size fits. */
static size_t pack_floats(const struct lane_limits *l)
{
    int32_t width = l->max_width < PACK_WIDTH ? l->max_width : PACK_WIDTH;
    return 2 * (size_t)width + 64;
}

static size_t pack_keys(const struct lane_limits *l)
{
    return (size_t)l->max_rows + 15 * (size_t)l->max_seq;
}

struct scratch_need full_attention_need(const struct lane_limits *l)
{
    struct scratch_need need = attend_need();
    need.shared = pack_keys(l) * pack_floats(l) * sizeof(float) +
                  (size_t)l->max_seq * sizeof(int64_t) + 2 * CPU_ALIGN;
    return need;
}

enum rxt_status cpu_full_attention(struct lane *base, const struct full_attention *a)
{
    struct cpu_lane *ln = cpu_lane(base);
    struct heads h = a->heads;
    size_t head_floats = (size_t)h.dim + (size_t)kv_width(h.dim);
    struct pack pack = {.rows = &a->kv_rows, .dim = h.dim};
    pack.first_key = lane_cut(ln, (size_t)a->kv_rows.n_seq, sizeof *pack.first_key);
    int64_t n_key = 0;
    for (int32_t seq = 0; seq < a->kv_rows.n_seq; seq++) {
        pack.first_key[seq] = n_key;
        n_key += kv_room(a->kv_rows.offset[seq + 1] - a->kv_rows.offset[seq]);
    }
    int32_t most = (int32_t)(pack_floats(&base->limits) / head_floats);
    pack.data = lane_cut(ln, (size_t)n_key * (size_t)(most < h.n_kv ? most : h.n_kv),
                         head_floats * sizeof(float));
    for (int32_t head = 0; head < h.n_kv; head += most) {
        pack.n_head = h.n_kv - head < most ? h.n_kv - head : most;
        struct store_job store = {
            .n_head = pack.n_head,
            .dim = h.dim,
            .from_zero = true,
            .k = tensor_cols(a->k, head * h.dim, pack.n_head * h.dim),
            .v = tensor_cols(a->v, head * h.dim, pack.n_head * h.dim),
            .rows = a->kv_rows,
            .rope = rope_rotation(a->rope_k),
            .head_of = head_of_pack,
            .arg = &pack,
        };
        store_run(ln, &store);
        struct attend_job attend = {
            .heads = h,
            .out = a->out,
            .q = a->q,
            .gate = a->gate_in,
            .rows = a->q_rows,
            .rope = rope_rotation(a->rope_q),
            .first_head = head,
            .head_of = head_of_pack,
            .arg = &pack,
        };
        attend_run(ln, &attend, pack.n_head);
    }
    lane_done(ln);
    return RXT_OK;
}
