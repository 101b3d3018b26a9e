#include "rxt/rxt_impl.h"

#include "kernels/base/mem.h"

/* x += SelfAttn(norm1(x)), every row of an interaction seeing all of it. */
static enum rxt_status self_attention(struct rxt_worker *w, struct tensor x,
                                      const struct layer_weights *l, const struct ragged *rows)
{
    const struct attention_weights *a = &l->self;
    const struct heads *h = &a->heads;
    const struct weight *rope = w->m->w.encoder.rope;
    struct tensor all = worker_view(w, w->projected, x.rows, attention_width(h, true));
    struct tensor context = worker_view(w, w->context, x.rows, attention_out(h));
    int32_t q = h->n_q * h->dim, kv = h->n_kv * h->dim;
    struct full_attention full = {.out = context,
                                  .q = tensor_cols(all, 0, q),
                                  .k = tensor_cols(all, q, kv),
                                  .v = tensor_cols(all, q + kv, kv),
                                  .heads = *h,
                                  .rope_q = rope,
                                  .rope_k = rope,
                                  .q_rows = *rows,
                                  .kv_rows = *rows};
    if (h->gate != ACT_NONE)
        full.gate_in = tensor_cols(all, q + 2 * kv, attention_out(h));
    TRY(op_linear(w->ln, all, x, l->norm1, a->in));
    TRY(op_full_attention(w->ln, &full));
    return op_linear_add(w->ln, x, context, a->out);
}

/* An interaction on its way through the encoder. */
struct encoding {
    struct stm_feed base;
    struct rxt_worker *w;
    const struct ragged *rows;
    const int32_t *ids;
};

/* ed_view[layer] = the residual stream behind the layer, unnormalised. Spec 2.5. */
static enum rxt_status run_layer(struct stm_feed *base, int layer)
{
    struct encoding *e = (struct encoding *)base;
    struct rxt_worker *w = e->w;
    const struct layer_weights *l = &w->m->w.encoder.layer[layer];
    struct tensor x = w->ed_view[layer];
    if (layer == 0)
        TRY(op_embed(w->ln, x, w->m->w.embedding, e->ids));
    else
        TRY(op_convert(w->ln, x, w->ed_view[layer - 1]));
    TRY(self_attention(w, x, l, e->rows));
    return layer_feed_forward(w, x, l);
}

static struct encoding begin(struct rxt_worker *w, const struct ragged *rows, const int32_t *ids)
{
    for (int32_t i = 0; i < w->m->w.encoder.n_layer; i++)
        w->ed_view[i] = tensor_rows(w->ed[i], 0, rows->offset[rows->n_seq]);
    return (struct encoding){.base = {run_layer}, .w = w, .rows = rows, .ids = ids};
}

static enum rxt_status encode(struct encoding *e)
{
    struct lane *ln = e->w->ln;
    enum rxt_status st = RXT_OK;
    lane_step_begin(ln);
    for (int32_t i = 0; i < e->w->m->w.encoder.n_layer && st == RXT_OK; i++)
        st = run_layer(&e->base, i);
    enum rxt_status ended = lane_step_end(ln);
    return st == RXT_OK ? ended : st;
}

static enum rxt_status check(const struct rxt_worker *w, const struct ragged *rows,
                             const int32_t *ids)
{
    if (!w->memorizes)
        return RXT_EINVAL;
    if (rows->start)
        return RXT_ESHAPE; /* an interaction is encoded whole, from position 0 */
    return worker_check(w, rows, ids);
}

enum rxt_status rxt_memorize(struct rxt_worker *w, const struct ragged *rows, const int32_t *ids,
                             const struct tensor **ed)
{
    TRY(check(w, rows, ids));
    struct encoding e = begin(w, rows, ids);
    hot_enter();
    enum rxt_status st = encode(&e);
    hot_leave();
    *ed = w->ed_view;
    return st;
}

enum rxt_status rxt_update(struct rxt_worker *w, struct stm *const m[],
                           struct stm_spare *const spare[], const struct ragged *rows,
                           const int32_t *ids, bool *bad)
{
    TRY(check(w, rows, ids));
    struct encoding e = begin(w, rows, ids);
    return stm_update(w->updater, m, spare, rows->n_seq, w->ed_view, rows, &e.base, bad);
}
