/* Memory attention, spec 2.7: all reads are of the old memories, results go to the spares. Layers
 * do not wait for each other but where they share a mean, so they go to branches of the lane in
 * turn, each from its first op to its last. Attention over all slots, which fills a device for
 * long, goes to a branch of its own, so that it never waits for room beside another one in front of
 * short ops. Branch 0 makes ED, whose layers the last third of a layer reads, one by one. What the
 * layers of a group share is made while those of the group before are under way. The memories of a
 * batch are packed one below the other (rows [N*S]); every op treats a row, a slot or a memory
 * alone, in an order fixed by its shape, so each result is the same bits as alone. */
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
    struct stm_feed *feed;
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

/* Of one layer of the most memories that the updater takes. */
static size_t layer_bytes(const struct stm_updater *u)
{
    return (size_t)u->n_memory * (size_t)u->cfg.n_slot * (size_t)u->cfg.embed_dim *
           dtype_bytes(backend_act_dtype(u->be));
}

/* [N*S,D] of the old memories, later X, of layer `layer`. */
static struct tensor old_of(const struct pass *p, int layer)
{
    const struct stm_updater *u = p->u;
    return memories(p, (char *)u->old + (size_t)(layer % u->together) * layer_bytes(u));
}

/* [N*S,D] of the mean of the group of a layer. */
static struct tensor mean_of(const struct pass *p, int layer)
{
    const struct stm_updater *u = p->u;
    return memories(p, (char *)u->mean +
                           (size_t)(layer % u->together / u->group_size) * layer_bytes(u));
}

/* The activations that layer i works with. */
static const struct stm_work *work_of(const struct pass *p, int i)
{
    return &p->u->work[i % p->u->n_work];
}

/* The branch of layer i. */
static int32_t branch_of(const struct pass *p, int i)
{
    return STM_BRANCH_LAYERS + i % p->u->n_work;
}

/* Goes on on this branch, behind `after` too; nothing on a lane without branches. */
static void go_on(const struct pass *p, int32_t branch, int32_t after)
{
    if (p->u->n_work > 1)
        lane_branch(p->u->ln, branch, after);
}

/* Packs the old memories of a layer, in the dtype of activations. */
static enum rxt_status gather(const struct pass *p, int layer)
{
    for (int i = 0; i < p->slots.n_seq; i++)
        TRY(op_convert(p->u->ln,
                       tensor_rows(old_of(p, layer), p->slots.offset[i], p->u->cfg.n_slot),
                       stm_read(p->m[i], layer)));
    return RXT_OK;
}

/* m = norm_m(mean over the layers of the group from `first` on), [N*S,D]. */
static enum rxt_status group_mean(const struct pass *p, int first)
{
    struct stm_updater *u = p->u;
    struct tensor m = mean_of(p, first);
    for (int k = 0; k < u->group_size; k++)
        u->member[k] = old_of(p, first + k);
    TRY(op_mean(u->ln, m, u->member, u->group_size));
    return op_norm(u->ln, m, m, u->w->norm_m);
}

/* What one attention reads: rows of the memories ask, rows of `kv_rows` answer. */
struct inputs {
    struct tensor q, kv;
    const struct weight *q_norm, *kv_norm; /* NULL: normalised already */
    const struct weight *rope;             /* of the keys; NULL without */
    struct ragged kv_rows;
    int layer;
    bool all_slots; /* answer */
};

/* result = Wo attn(Wq norm(q), Wkv norm(kv)) + bo, memory by memory. */
static enum rxt_status attend(const struct pass *p, const struct stm_work *k,
                              const struct stm_attention *a, const struct inputs *in)
{
    struct stm_updater *u = p->u;
    const struct heads *h = &a->heads;
    int32_t n_out = (h->n_q > h->n_kv ? h->n_q : h->n_kv) * h->dim, n_kv = h->n_kv * h->dim;
    struct tensor q = matrix(p, k->q, p->n_row, h->n_q * h->dim);
    struct tensor kv = matrix(p, k->kv, in->kv.rows, 2 * n_kv);
    struct tensor context = matrix(p, k->context, p->n_row, n_out);
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
    if (in->all_slots)
        go_on(p, STM_BRANCH_ATTENTION, branch_of(p, in->layer));
    TRY(op_full_attention(u->ln, &full));
    if (in->all_slots)
        go_on(p, branch_of(p, in->layer), STM_BRANCH_ATTENTION);
    return op_linear(u->ln, memories(p, k->result), context, NULL, a->out);
}

/* A gate of a layer that is about to blend old and new. */
static enum rxt_status gate_of(const struct pass *p, int layer, enum stm_gate which,
                               struct tensor old, struct tensor new_, const struct weight **gate)
{
    const struct stm_layer_weights *w = &p->u->w->layer[layer];
    const struct weight *all[] = {
        [STM_GATE_MAIN] = w->gate,
        [STM_GATE_MEAN] = w->gate_mean,
        [STM_GATE_INTERLAYER] = w->gate_interlayer,
        [STM_GATE_SELF] = w->gate_self,
    };
    *gate = all[which];
    return p->observer ? p->observer->on_gate(p->observer, layer, which, old, new_, *gate) : RXT_OK;
}

/* out = gate(old, new) of one layer. */
static enum rxt_status blend(const struct pass *p, int layer, enum stm_gate which,
                             struct tensor out, struct tensor old, struct tensor new_)
{
    const struct weight *gate;
    TRY(gate_of(p, layer, which, old, new_, &gate));
    return op_gate(p->u->ln, out, old, new_, gate);
}

/* M becomes x = gate_self(M, Attn_self(n, n)), n = norm_self(M) */
static enum rxt_status self_step(const struct pass *p, int layer)
{
    const struct stm_layer_weights *w = &p->u->w->layer[layer];
    const struct stm_work *k = work_of(p, layer);
    struct tensor x = old_of(p, layer), normed = memories(p, k->normed);
    const struct inputs in = {
        .q = normed, .kv = normed, .kv_rows = p->slots, .layer = layer, .all_slots = true};
    TRY(op_norm(p->u->ln, normed, x, w->norm_self));
    TRY(attend(p, k, &w->self, &in));
    return blend(p, layer, STM_GATE_SELF, x, x, memories(p, k->result));
}

/* M becomes x = gate_mean(M, Attn_mean(n, c)), n = norm_mean(M); c = m, or gate_il(old = n,
 * new = m). */
static enum rxt_status mean_step(const struct pass *p, int layer)
{
    const struct stm_layer_weights *w = &p->u->w->layer[layer];
    const struct stm_work *k = work_of(p, layer);
    struct tensor x = old_of(p, layer), normed = memories(p, k->normed), c = mean_of(p, layer);
    TRY(op_norm(p->u->ln, normed, x, w->norm_mean));
    if (p->u->w->variant != STM_INTERLAYER) {
        TRY(blend(p, layer, STM_GATE_INTERLAYER, memories(p, k->c), normed, c));
        c = memories(p, k->c);
    }
    const struct inputs in = {
        .q = normed, .kv = c, .kv_rows = p->slots, .layer = layer, .all_slots = true};
    TRY(attend(p, k, &w->mean, &in));
    return blend(p, layer, STM_GATE_MEAN, x, x, memories(p, k->result));
}

/* M becomes X, as the variant says. */
static enum rxt_status first_step(const struct pass *p, int layer)
{
    if (p->u->w->variant == STM_SIMPLE)
        return RXT_OK;
    go_on(p, branch_of(p, layer), branch_of(p, layer));
    return p->u->w->variant == STM_SELF ? self_step(p, layer) : mean_step(p, layer);
}

/* The next layer of ED. */
static enum rxt_status feed(const struct pass *p, int layer)
{
    if (!p->feed)
        return RXT_OK;
    go_on(p, 0, 0);
    return p->feed->layer(p->feed, layer);
}

/* The spares become gate(X, Attn_main(norm_mem(X), norm_in(ED))). Whether it is finite is asked of
 * what is stored: a finite float32 may be beyond bf16. */
static enum rxt_status main_step(const struct pass *p, int layer, struct tensor ed)
{
    struct stm_updater *u = p->u;
    const struct stm_layer_weights *w = &u->w->layer[layer];
    const struct stm_work *k = work_of(p, layer);
    struct tensor x = old_of(p, layer), result = memories(p, k->result);
    const struct inputs in = {
        .q = x,
        .kv = ed,
        .q_norm = w->norm_mem,
        .kv_norm = w->norm_input,
        .rope = u->w->rope,
        .kv_rows = p->rows,
        .layer = layer,
    };
    go_on(p, branch_of(p, layer), 0);
    TRY(attend(p, k, &w->main, &in));
    const struct weight *gate;
    TRY(gate_of(p, layer, STM_GATE_MAIN, x, result, &gate));
    for (int i = 0; i < p->slots.n_seq; i++) {
        struct stm_spare *s = p->spare[i];
        struct tensor old = tensor_rows(x, p->slots.offset[i], u->cfg.n_slot);
        struct tensor new_ = tensor_rows(result, p->slots.offset[i], u->cfg.n_slot);
        TRY(op_gate_store(u->ln, stm_layer(&s->cfg, s->values, layer),
                          &u->finite[layer * p->slots.n_seq + i], new_, old, new_, gate));
    }
    return RXT_OK;
}

/* What the layers of the group from `first` on read. The first group takes the branches of layers,
 * which have nothing to do yet. */
static enum rxt_status begin_group(const struct pass *p, int first)
{
    const struct stm_updater *u = p->u;
    for (int l = first; l < first + u->group_size; l++) {
        int32_t branch = first == 0 ? branch_of(p, l) : STM_BRANCH_GROUP;
        go_on(p, branch, branch);
        TRY(gather(p, l));
        go_on(p, STM_BRANCH_GROUP, branch);
    }
    return stm_variant_has_mean(u->w->variant) ? group_mean(p, first) : RXT_OK;
}

static enum rxt_status run(const struct pass *p, const struct tensor *ed)
{
    const struct stm_updater *u = p->u;
    bool ahead = u->n_work > 1; /* groups are begun one ahead of their layers */
    for (int l = 0; l < u->cfg.n_layer; l++) {
        int next = l + u->group_size;
        if (l % u->group_size == 0) {
            if (l == 0 || !ahead)
                TRY(begin_group(p, l));
            for (int i = 0; i < u->n_work; i++)
                go_on(p, branch_of(p, i), STM_BRANCH_GROUP);
            if (ahead && next < u->cfg.n_layer)
                TRY(begin_group(p, next));
        }
        TRY(first_step(p, l));
        TRY(feed(p, l));
        TRY(main_step(p, l, ed[l]));
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
                                    const struct ragged *rows, struct stm_feed *feed, bool *bad,
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
        .feed = feed,
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
                           const struct ragged *rows, struct stm_feed *feed, bool *bad)
{
    return stm_update_observed(u, m, spare, n, ed, rows, feed, bad, NULL);
}
