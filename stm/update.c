/* Memory attention, spec 2.7: all reads are of the old memories, results go to the spares. The
 * memories of a batch are packed one below the other (rows [N*S]); every op treats a row, a slot or
 * a memory alone, in an order fixed by its shape, so each result is the same bits as alone. */
#include "stm/updater_impl.h"

#include "kernels/base/mem.h"

/* One call of stm_update. */
struct pass {
    struct stm_updater *u;
    struct stm *const *m;
    struct stm_spare *const *spare;
    struct ragged slots; /* rows of each memory */
    struct ragged rows;  /* of ED */
    int32_t n_row;       /* N*S */
    struct stm_observer *observer;
};

static struct tensor matrix(const struct pass *p, void *data, int32_t rows, int32_t cols)
{
    return (struct tensor){
        .data = data,
        .dtype = backend_act_dtype(p->u->be),
        .rows = rows,
        .cols = cols,
        .stride = cols,
    };
}

/* [N*S,D] */
static struct tensor memories(const struct pass *p, void *data)
{
    return matrix(p, data, p->n_row, p->u->cfg.embed_dim);
}

/* [N*S,D] of the old memories, layer k of the current group. */
static struct tensor old_of(const struct pass *p, int k)
{
    struct stm_updater *u = p->u;
    size_t layer_bytes = (size_t)u->n_memory * (size_t)u->cfg.n_slot * (size_t)u->cfg.embed_dim *
                         dtype_bytes(backend_act_dtype(u->be));
    return memories(p, (char *)u->old + (size_t)k * layer_bytes);
}

/* Packs the old memories of layers first .. first + G, in the dtype of activations. */
static enum rxt_status gather(const struct pass *p, int first)
{
    int32_t n_slot = p->u->cfg.n_slot;
    for (int k = 0; k < p->u->group_size; k++)
        for (int i = 0; i < p->slots.n_seq; i++)
            TRY(op_convert(p->u->ln, tensor_rows(old_of(p, k), p->slots.offset[i], n_slot),
                           stm_read(p->m[i], first + k)));
    return RXT_OK;
}

/* m = norm_m(mean over the layers of the group), [N*S,D]. */
static enum rxt_status group_mean(const struct pass *p)
{
    struct stm_updater *u = p->u;
    struct tensor m = memories(p, u->mean);
    for (int k = 0; k < u->group_size; k++)
        u->member[k] = old_of(p, k);
    TRY(op_mean(u->ln, m, u->member, u->group_size));
    return op_norm(u->ln, m, m, u->w->norm_m);
}

/* What one attention reads: rows of the memories ask, rows of `kv_rows` answer. */
struct inputs {
    struct tensor q, kv;
    const struct weight *q_norm, *kv_norm; /* NULL: normalised already */
    const struct weight *rope;             /* of the keys; NULL without */
    struct ragged kv_rows;
};

/* result = Wo attn(Wq norm(q), Wkv norm(kv)) + bo, memory by memory. */
static enum rxt_status attend(const struct pass *p, const struct stm_attention *a,
                              const struct inputs *in)
{
    struct stm_updater *u = p->u;
    const struct heads *h = &a->heads;
    int32_t n_out = (h->n_q > h->n_kv ? h->n_q : h->n_kv) * h->dim, n_kv = h->n_kv * h->dim;
    struct tensor q = matrix(p, u->q, p->n_row, h->n_q * h->dim);
    struct tensor kv = matrix(p, u->kv, in->kv.rows, 2 * n_kv);
    struct tensor context = matrix(p, u->context, p->n_row, n_out);
    TRY(op_linear(u->ln, q, in->q, in->q_norm, a->q));
    TRY(op_linear(u->ln, kv, in->kv, in->kv_norm, a->kv));
    const struct full_attention full = {
        .out = context,
        .q = q,
        .k = tensor_cols(kv, 0, n_kv),
        .v = tensor_cols(kv, n_kv, n_kv),
        .heads = *h,
        .rope_k = in->rope,
        .q_rows = p->slots,
        .kv_rows = in->kv_rows,
    };
    TRY(op_full_attention(u->ln, &full));
    return op_linear(u->ln, memories(p, u->result), context, NULL, a->out);
}

/* out = gate(old, new) of one layer. */
static enum rxt_status blend(const struct pass *p, int layer, enum stm_gate which,
                             struct tensor out, struct tensor old, struct tensor new_)
{
    const struct stm_layer_weights *w = &p->u->w->layer[layer];
    const struct weight *gate[] = {
        [STM_GATE_MAIN] = w->gate,
        [STM_GATE_MEAN] = w->gate_mean,
        [STM_GATE_INTERLAYER] = w->gate_interlayer,
        [STM_GATE_SELF] = w->gate_self,
    };
    if (p->observer)
        TRY(p->observer->on_gate(p->observer, layer, which, old, new_, gate[which]));
    return op_gate(p->u->ln, out, old, new_, gate[which]);
}

/* x = gate_self(M, Attn_self(n, n)), n = norm_self(M) */
static enum rxt_status self_step(const struct pass *p, int layer, struct tensor old,
                                 struct tensor x)
{
    struct stm_updater *u = p->u;
    const struct stm_layer_weights *w = &u->w->layer[layer];
    struct tensor normed = memories(p, u->normed);
    TRY(op_norm(u->ln, normed, old, w->norm_self));
    TRY(attend(p, &w->self, &(struct inputs){.q = normed, .kv = normed, .kv_rows = p->slots}));
    return blend(p, layer, STM_GATE_SELF, x, old, memories(p, u->result));
}

/* x = gate_mean(M, Attn_mean(n, c)), n = norm_mean(M); c = m, or gate_il(old = n, new = m). */
static enum rxt_status mean_step(const struct pass *p, int layer, struct tensor old,
                                 struct tensor x)
{
    struct stm_updater *u = p->u;
    const struct stm_layer_weights *w = &u->w->layer[layer];
    struct tensor normed = memories(p, u->normed), c = memories(p, u->mean);
    TRY(op_norm(u->ln, normed, old, w->norm_mean));
    if (u->w->variant != STM_INTERLAYER) { /* x is free until the end of this step */
        TRY(blend(p, layer, STM_GATE_INTERLAYER, x, normed, c));
        c = x;
    }
    TRY(attend(p, &w->mean, &(struct inputs){.q = normed, .kv = c, .kv_rows = p->slots}));
    return blend(p, layer, STM_GATE_MEAN, x, old, memories(p, u->result));
}

/* result = gate(X, Attn_main(norm_mem(X), norm_in(ED))), X as the variant says. */
static enum rxt_status layer_step(const struct pass *p, int layer, struct tensor old,
                                  struct tensor ed)
{
    struct stm_updater *u = p->u;
    const struct stm_layer_weights *w = &u->w->layer[layer];
    struct tensor x = old, result = memories(p, u->result);
    if (u->w->variant != STM_SIMPLE) {
        x = memories(p, u->x);
        TRY(u->w->variant == STM_SELF ? self_step(p, layer, old, x) : mean_step(p, layer, old, x));
    }
    const struct inputs in = {
        .q = x,
        .kv = ed,
        .q_norm = w->norm_mem,
        .kv_norm = w->norm_input,
        .rope = u->w->rope,
        .kv_rows = p->rows,
    };
    TRY(attend(p, &w->main, &in));
    return blend(p, layer, STM_GATE_MAIN, result, x, result);
}

/* Rounds the results of a layer into the spares. What counts is what will be stored: a finite
 * float32 may be beyond bf16. */
static enum rxt_status scatter(const struct pass *p, int layer)
{
    struct stm_updater *u = p->u;
    struct tensor result = memories(p, u->result);
    for (int i = 0; i < p->slots.n_seq; i++) {
        struct stm_spare *s = p->spare[i];
        struct tensor out = stm_layer(&s->cfg, s->values, layer);
        TRY(op_convert(u->ln, out, tensor_rows(result, p->slots.offset[i], u->cfg.n_slot)));
        TRY(op_finite(u->ln, &u->finite[layer * p->slots.n_seq + i], out));
    }
    return RXT_OK;
}

static enum rxt_status run(const struct pass *p, const struct tensor *ed)
{
    const struct stm_updater *u = p->u;
    for (int first = 0; first < u->cfg.n_layer; first += u->group_size) {
        TRY(gather(p, first));
        if (stm_variant_has_mean(u->w->variant))
            TRY(group_mean(p));
        for (int k = 0; k < u->group_size; k++) {
            TRY(layer_step(p, first + k, old_of(p, k), ed[first + k]));
            TRY(scatter(p, first + k));
        }
    }
    return RXT_OK;
}

/* Everything the ops could refuse, before any of them has run. */
static bool fits(const struct pass *p, const struct tensor *ed)
{
    const struct stm_updater *u = p->u;
    int n = p->slots.n_seq;
    const int32_t *offset = p->rows.offset;
    if (p->rows.n_seq != n || p->rows.start || offset[0] != 0 || offset[n] > u->n_token)
        return false;
    for (int i = 0; i < n; i++)
        if (offset[i + 1] <= offset[i] || !stm_dims_equal(&p->m[i]->cfg, &u->cfg) ||
            !stm_dims_equal(&p->spare[i]->cfg, &u->cfg) ||
            p->spare[i]->cfg.dtype != p->m[i]->cfg.dtype)
            return false;
    for (int l = 0; l < u->cfg.n_layer; l++)
        if (ed[l].rows != offset[n] || ed[l].cols != u->cfg.embed_dim ||
            ed[l].dtype != backend_act_dtype(u->be))
            return false;
    return true;
}

/* What the lane found, memory by memory. */
static enum rxt_status judge(const struct pass *p, bool *bad)
{
    const struct stm_updater *u = p->u;
    enum rxt_status st = RXT_OK;
    for (int i = 0; i < p->slots.n_seq; i++) {
        bool finite = true;
        for (int l = 0; l < u->cfg.n_layer; l++)
            finite = finite && u->finite[l * p->slots.n_seq + i];
        p->spare[i]->content = finite ? RXT_OK : RXT_ENONFINITE;
        if (bad)
            bad[i] = !finite;
        if (!finite)
            st = RXT_ENONFINITE;
    }
    return st;
}

enum rxt_status stm_update_observed(struct stm_updater *u, struct stm *const m[],
                                    struct stm_spare *const spare[], int n, const struct tensor *ed,
                                    const struct ragged *rows, bool *bad,
                                    struct stm_observer *observer)
{
    if (n <= 0 || n > u->n_memory)
        return RXT_ESHAPE;
    for (int i = 0; i < n; i++)
        spare[i]->content = RXT_EINVAL;
    const struct pass p = {
        .u = u,
        .m = m,
        .spare = spare,
        .slots = {.n_seq = n, .offset = u->slot_offset},
        .rows = *rows,
        .n_row = n * u->cfg.n_slot,
        .observer = observer,
    };
    if (!fits(&p, ed))
        return RXT_ESHAPE;
    hot_enter();
    lane_step_begin(u->ln);
    enum rxt_status st = run(&p, ed);
    enum rxt_status ended = lane_step_end(u->ln);
    enum rxt_status waited = lane_sync(u->ln); /* also after a failure: ops may be under way */
    hot_leave();
    TRY(st);
    TRY(ended);
    TRY(waited);
    return judge(&p, bad);
}

enum rxt_status stm_update(struct stm_updater *u, struct stm *const m[],
                           struct stm_spare *const spare[], int n, const struct tensor *ed,
                           const struct ragged *rows, bool *bad)
{
    return stm_update_observed(u, m, spare, n, ed, rows, bad, NULL);
}
