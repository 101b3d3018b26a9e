#include "rxt/rxt_impl.h"

#include "kernels/base/arena.h"
#include "kernels/base/mem.h"

#define READ_BRANCHES 4 /* for the layers of a memory's K and V */

static int32_t at_least(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

int32_t attention_out(const struct heads *h)
{
    return at_least(h->n_q, h->n_kv) * h->dim;
}

int32_t attention_width(const struct heads *h, bool with_kv)
{
    int32_t width = (h->n_q + (with_kv ? 2 * h->n_kv : 0)) * h->dim;
    return width + (h->gate != ACT_NONE ? attention_out(h) : 0);
}

struct tensor worker_view(const struct rxt_worker *w, void *data, int32_t rows, int32_t cols)
{
    return (struct tensor){data, backend_act_dtype(w->m->be), rows, cols, cols};
}

enum rxt_status worker_check(const struct rxt_worker *w, const struct ragged *rows,
                             const int32_t *ids)
{
    const struct rxt_info *info = &w->m->info;
    if (rows->n_seq < 1 || rows->n_seq > w->max_seq || rows->offset[0] != 0)
        return RXT_ESHAPE;
    for (int32_t i = 0; i < rows->n_seq; i++) {
        int32_t first = rows->start ? rows->start[i] : 0;
        int32_t n = rows->offset[i + 1] - rows->offset[i];
        if (n < 1 || first < 0 || n > info->max_seq_len || first > info->max_seq_len - n)
            return RXT_ESHAPE;
    }
    if (rows->offset[rows->n_seq] > w->max_rows)
        return RXT_ESHAPE;
    for (int32_t r = 0; r < rows->offset[rows->n_seq]; r++)
        if (ids[r] < 0 || ids[r] >= info->n_vocab)
            return RXT_ESHAPE;
    return RXT_OK;
}

enum rxt_status layer_feed_forward(struct rxt_worker *w, struct tensor x,
                                   const struct layer_weights *l)
{
    return l->moe ? op_moe_add(w->ln, x, l->norm3, l->ff) : op_ff_add(w->ln, x, l->norm3, l->ff);
}

/* ---- create ----------------------------------------------------------------------------- */

/* Widths of the buffers: the widest of all attentions that the worker runs. */
struct widths {
    int32_t projected, context;
};

static void widen(struct widths *v, const struct heads *h, bool with_kv)
{
    v->projected = at_least(v->projected, attention_width(h, with_kv));
    v->context = at_least(v->context, attention_out(h));
}

static struct widths widths_of(const struct rxt_worker *w)
{
    const struct rxt_config *cfg = w->m->cfg;
    struct widths v = {0};
    if (w->answers) {
        widen(&v, &cfg->decoder.self, true);
        widen(&v, &cfg->decoder.cross, false);
    }
    if (w->memorizes)
        widen(&v, &cfg->encoder.self, true);
    return v;
}

static int32_t widest_hidden(const struct config_stack *s)
{
    int32_t dense = s->n_before + s->n_after > 0 ? s->dense_dim : 0;
    int32_t shared = s->moe.n_shared > 0 ? s->moe.shared_dim : 0;
    return at_least(s->ff_dim, at_least(dense, shared));
}

static int32_t active_experts(const struct config_moe *moe)
{
    return moe->top_k + at_least(moe->n_shared, 0);
}

static struct lane_limits limits_of(const struct rxt_worker *w, const struct widths *v)
{
    const struct rxt_model *m = w->m;
    const struct config_stack *d = &m->cfg->decoder, *e = &m->cfg->encoder;
    struct lane_limits lim = {.max_rows =
                                  at_least(at_least(w->max_rows, w->max_seq), m->info.n_slot),
                              .max_seq = w->max_seq,
                              .max_keys = at_least(m->info.max_seq_len, m->info.n_slot)};
    lim.max_width = at_least(v->projected, at_least(v->context, m->info.embed_dim));
    /* rxt_read_build runs on workers of every kind. */
    lim.max_branch = READ_BRANCHES;
    lim.max_width = at_least(lim.max_width, 2 * d->cross.n_kv * d->cross.dim);
    if (w->answers) {
        lim.max_width = at_least(lim.max_width, widest_hidden(d));
        lim.max_vocab = m->info.n_vocab;
        lim.max_expert = d->moe.n_expert;
        lim.max_active = active_experts(&d->moe);
    }
    if (w->memorizes) {
        struct stm_config stm = rxt_model_stm(m, DTYPE_F32);
        struct lane_limits memory = {0};
        stm_lane_limits(&stm, &m->w.memory, w->max_seq, w->max_rows, &memory);
        lim.max_rows = at_least(lim.max_rows, memory.max_rows);
        lim.max_seq = at_least(lim.max_seq, memory.max_seq);
        lim.max_keys = at_least(lim.max_keys, memory.max_keys);
        lim.max_width = at_least(lim.max_width, at_least(memory.max_width, widest_hidden(e)));
        lim.max_branch = at_least(lim.max_branch, memory.max_branch);
        lim.max_expert = at_least(lim.max_expert, e->moe.n_expert);
        lim.max_active = at_least(lim.max_active, active_experts(&e->moe));
    }
    return lim;
}

/* Cuts the activations; over an arena that plans, the tensors come out without data. */
static void cut(struct rxt_worker *w, struct arena *a, const struct widths *v)
{
    const struct rxt_info *info = &w->m->info;
    size_t rows = (size_t)w->max_rows, value = dtype_bytes(backend_act_dtype(w->m->be));
    w->projected = arena_cut(a, rows * (size_t)v->projected, value);
    w->context = arena_cut(a, rows * (size_t)v->context, value);
    if (w->answers) {
        w->x = worker_view(w, arena_cut(a, rows * (size_t)info->embed_dim, value), w->max_rows,
                           info->embed_dim);
        size_t logits = (size_t)w->max_seq * (size_t)info->n_vocab;
        w->logits = (struct tensor){arena_cut(a, logits, sizeof(float)), DTYPE_F32, w->max_seq,
                                    info->n_vocab, info->n_vocab};
    }
    for (int32_t i = 0; w->memorizes && i < info->n_layer; i++)
        w->ed[i] = worker_view(w, arena_cut(a, rows * (size_t)info->embed_dim, value), w->max_rows,
                               info->embed_dim);
}

static void cut_host(struct rxt_worker *w, struct arena *a)
{
    size_t n_layer = w->memorizes ? (size_t)w->m->info.n_layer : 0;
    size_t n_seq = w->answers ? (size_t)w->max_seq : 0;
    w->ed = arena_cut(a, n_layer, sizeof *w->ed);
    w->ed_view = arena_cut(a, n_layer, sizeof *w->ed_view);
    w->row = arena_cut(a, n_seq, sizeof *w->row);
    w->kv = arena_cut(a, n_seq, sizeof(struct kv *));
    w->mem = arena_cut(a, n_seq, sizeof(struct mem_kv *));
}

static enum rxt_status create_buffers(struct rxt_worker *w, const struct widths *v)
{
    struct arena plan = arena_plan();
    cut_host(w, &plan);
    TRY(arena_create(&w->host, plan.used));
    cut_host(w, &w->host);
    plan = arena_plan();
    cut(w, &plan, v);
    w->block = backend_alloc(w->m->be, plan.used);
    if (!w->block)
        return RXT_ENOMEM;
    plan = (struct arena){.base = w->block, .size = plan.used};
    cut(w, &plan, v);
    return RXT_OK;
}

enum rxt_status rxt_worker_create(struct rxt_worker **out, const struct rxt_model *m,
                                  const struct rxt_worker_config *cfg)
{
    enum rxt_status st;
    *out = NULL;
    if (cfg->max_rows < 0 || cfg->max_seq < 0)
        return RXT_EINVAL;
    if (cfg->max_seq > INT32_MAX / m->info.n_slot) /* the slots of that many memories are rows */
        return RXT_ESHAPE;
    struct rxt_worker *w = mem_alloc(sizeof *w);
    if (!w)
        return RXT_ENOMEM;
    w->m = m;
    w->max_rows = cfg->max_rows ? cfg->max_rows : m->info.max_seq_len;
    w->max_seq = cfg->max_seq ? cfg->max_seq : 1;
    w->answers = cfg->work != RXT_WORK_MEMORY;
    w->memorizes = cfg->work != RXT_WORK_ANSWER;
    struct widths v = widths_of(w);
    struct lane_limits lim = limits_of(w, &v);
    TRY_OR(fail, create_buffers(w, &v));
    TRY_OR(fail, lane_create(&w->ln, m->be, cfg->priority, &lim));
    if (w->memorizes) {
        struct stm_config stm = rxt_model_stm(m, DTYPE_F32);
        TRY_OR(fail,
               stm_updater_create(&w->updater, w->ln, &stm, &m->w.memory, w->max_seq, w->max_rows));
    }
    *out = w;
    return RXT_OK;
fail:
    rxt_worker_destroy(&w);
    return st;
}

void rxt_worker_destroy(struct rxt_worker **w)
{
    if (!*w)
        return;
    stm_updater_destroy(&(*w)->updater);
    lane_destroy(&(*w)->ln);
    backend_free((*w)->m->be, (*w)->block);
    arena_destroy(&(*w)->host);
    mem_free(*w);
    *w = NULL;
}

struct lane *rxt_worker_lane(struct rxt_worker *w)
{
    return w->ln;
}
