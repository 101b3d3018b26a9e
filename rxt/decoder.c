#include "rxt/rxt_impl.h"

#include "kernels/base/mem.h"

#include <assert.h>

/* x += SelfAttn(norm1(x)); K and V of the new rows are kept as layer `index` of each slot. */
static enum rxt_status self_attention(struct rxt_worker *w, struct tensor x,
                                      const struct layer_weights *l, const struct ragged *rows,
                                      int32_t index)
{
    const struct attention_weights *a = &l->self;
    struct tensor qkv = worker_view(w, w->projected, x.rows, attention_width(&a->heads, true));
    struct tensor context = worker_view(w, w->context, x.rows, attention_out(&a->heads));
    TRY(op_linear(w->ln, qkv, x, l->norm1, a->in));
    TRY(op_self_attention(w->ln, &(struct self_attention){.out = context,
                                                          .qkv = qkv,
                                                          .heads = a->heads,
                                                          .rope = w->m->w.decoder.rope,
                                                          .rows = *rows,
                                                          .kv = w->kv,
                                                          .layer = index}));
    return op_linear_add(w->ln, x, context, a->out);
}

/* x += CrossAttn(norm2(x), memory): reads layer `index` of each sequence's K/V. */
static enum rxt_status cross_attention(struct rxt_worker *w, struct tensor x,
                                       const struct layer_weights *l, const struct ragged *rows,
                                       int32_t index)
{
    const struct attention_weights *a = &l->cross;
    struct tensor q = worker_view(w, w->projected, x.rows, attention_width(&a->heads, false));
    struct tensor context = worker_view(w, w->context, x.rows, attention_out(&a->heads));
    TRY(op_linear(w->ln, q, x, l->norm2, a->in));
    if (w->probe)
        TRY(read_probe_layer(w->probe, q, l, rows, index));
    TRY(op_cross_attention(w->ln, &(struct cross_attention){.out = context,
                                                            .q = q,
                                                            .heads = a->heads,
                                                            .rope = w->m->w.decoder.rope,
                                                            .rows = *rows,
                                                            .mem = w->mem,
                                                            .layer = index}));
    return op_linear_add(w->ln, x, context, a->out);
}

/* The residual stream of all rows behind the last layer. Spec 2.5. */
static enum rxt_status run_layers(struct rxt_worker *w, const struct rxt_batch *b, struct tensor x)
{
    const struct stack_weights *d = &w->m->w.decoder;
    int32_t stateful = 0;
    TRY(op_embed(w->ln, x, w->m->w.embedding, b->ids));
    for (int32_t i = 0; i < d->n_layer; i++) {
        const struct layer_weights *l = &d->layer[i];
        TRY(self_attention(w, x, l, &b->rows, i));
        if (l->stateful)
            TRY(cross_attention(w, x, l, &b->rows, stateful++));
        TRY(layer_feed_forward(w, x, l));
    }
    return RXT_OK;
}

static enum rxt_status check(struct rxt_worker *w, const struct rxt_batch *b)
{
    if (!w->answers)
        return RXT_EINVAL;
    TRY(worker_check(w, &b->rows, b->ids));
    for (int32_t i = 0; i < b->rows.n_seq; i++) {
        assert(b->slot[i]->m == w->m && b->read[i]->m == w->m);
        w->kv[i] = b->slot[i]->kv;
        w->mem[i] = b->read[i]->kv;
    }
    return RXT_OK;
}

static enum rxt_status head(struct rxt_worker *w, struct tensor x, int32_t n)
{
    const struct model_weights *m = &w->m->w;
    if (n == 0)
        return RXT_OK;
    return op_head(w->ln, tensor_rows(w->logits, 0, n), x, w->row, m->head_norm, m->head);
}

static struct tensor residual(const struct rxt_worker *w, const struct ragged *rows)
{
    return tensor_rows(w->x, 0, rows->offset[rows->n_seq]);
}

static enum rxt_status forward(struct rxt_worker *w, const struct rxt_batch *b)
{
    struct tensor x = residual(w, &b->rows);
    int32_t n = 0;
    for (int32_t i = 0; i < b->rows.n_seq; i++)
        if (!b->want || b->want[i])
            w->row[n++] = b->rows.offset[i + 1] - 1;
    lane_step_begin(w->ln);
    enum rxt_status st = run_layers(w, b, x);
    if (st == RXT_OK)
        st = head(w, x, n);
    enum rxt_status ended = lane_step_end(w->ln);
    TRY(st);
    TRY(ended);
    w->n_logits = n;
    return RXT_OK;
}

enum rxt_status rxt_forward(struct rxt_worker *w, const struct rxt_batch *b)
{
    w->n_logits = 0;
    TRY(check(w, b));
    hot_enter();
    enum rxt_status st = forward(w, b);
    hot_leave();
    return st;
}

enum rxt_status rxt_forward_all(struct rxt_worker *w, const struct rxt_batch *b, float *out)
{
    w->n_logits = 0;
    TRY(check(w, b));
    struct tensor x = residual(w, &b->rows);
    TRY(run_layers(w, b, x));
    for (int32_t first = 0; first < x.rows; first += w->max_seq) {
        int32_t n = x.rows - first < w->max_seq ? x.rows - first : w->max_seq;
        for (int32_t i = 0; i < n; i++)
            w->row[i] = first + i;
        TRY(head(w, x, n));
        TRY(lane_download(w->ln, out + (size_t)first * (size_t)w->logits.cols, w->logits.data,
                          (size_t)n * (size_t)w->logits.cols * sizeof *out));
    }
    return RXT_OK;
}

struct tensor rxt_logits(struct rxt_worker *w)
{
    return tensor_rows(w->logits, 0, w->n_logits);
}
