#include "stm/updater_impl.h"

#include "kernels/base/arena.h"
#include "kernels/base/mem.h"

/* Columns of the widest projections of any attention in use. */
struct widths {
    int32_t q, kv, context;
};

static int32_t max(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

static void widen(struct widths *w, const struct stm_attention *a)
{
    const struct heads *h = &a->heads;
    w->q = max(w->q, h->n_q * h->dim);
    w->kv = max(w->kv, 2 * h->n_kv * h->dim);
    w->context = max(w->context, max(h->n_q, h->n_kv) * h->dim);
}

bool stm_variant_has_mean(enum stm_variant v)
{
    return v != STM_SIMPLE && v != STM_SELF;
}

static struct widths widths_of(const struct stm_weights *w)
{
    struct widths out = {0};
    for (int i = 0; i < w->n_layer; i++) {
        widen(&out, &w->layer[i].main);
        if (w->variant == STM_SELF)
            widen(&out, &w->layer[i].self);
        if (stm_variant_has_mean(w->variant))
            widen(&out, &w->layer[i].mean);
    }
    return out;
}

void stm_lane_limits(const struct stm_config *cfg, const struct stm_weights *w, int n_memory,
                     int n_token, struct lane_limits *out)
{
    struct widths widths = widths_of(w);
    *out = (struct lane_limits){
        .max_rows = max(n_memory * cfg->n_slot, n_token),
        .max_seq = n_memory,
        .max_keys = max(cfg->n_slot, n_token),
        .max_width = max(max(cfg->embed_dim, widths.q), max(widths.kv, widths.context)),
        .max_branch = STM_ALL_BRANCHES,
    };
}

/* Run over an arena of no memory it plans, run over the real one it cuts (arena.h). */
static void cut_activations(struct stm_updater *u, struct arena *a)
{
    struct widths widths = widths_of(u->w);
    size_t rows = (size_t)u->n_memory * (size_t)u->cfg.n_slot;
    size_t kv_rows = rows > (size_t)u->n_token ? rows : (size_t)u->n_token;
    size_t value = dtype_bytes(backend_act_dtype(u->be)), row = (size_t)u->cfg.embed_dim * value;
    size_t n_mean = stm_variant_has_mean(u->w->variant) ? (size_t)(u->together / u->group_size) : 0;
    u->old = arena_cut(a, rows * (size_t)u->together, row);
    u->mean = arena_cut(a, rows * n_mean, row);
    for (int32_t i = 0; i < u->n_work; i++) {
        struct stm_work *k = &u->work[i];
        k->normed = arena_cut(a, rows, row);
        k->c = arena_cut(a, n_mean > 0 ? rows : 0, row);
        k->result = arena_cut(a, rows, row);
        k->q = arena_cut(a, rows, (size_t)widths.q * value);
        k->context = arena_cut(a, rows, (size_t)widths.context * value);
        k->kv = arena_cut(a, kv_rows, (size_t)widths.kv * value);
    }
}

static enum rxt_status allocate(struct stm_updater *u)
{
    u->slot_offset = mem_alloc_n((size_t)u->n_memory + 1, sizeof *u->slot_offset);
    u->finite = mem_alloc_n((size_t)u->n_memory * (size_t)u->cfg.n_layer, sizeof *u->finite);
    u->member = mem_alloc_n((size_t)u->group_size, sizeof *u->member);
    if (!u->slot_offset || !u->finite || !u->member)
        return RXT_ENOMEM;
    for (int i = 0; i <= u->n_memory; i++)
        u->slot_offset[i] = i * u->cfg.n_slot;

    struct arena plan = arena_plan();
    cut_activations(u, &plan);
    u->block = backend_alloc(u->be, plan.used);
    if (!u->block)
        return RXT_ENOMEM;
    struct arena real = {.base = u->block, .size = plan.used};
    cut_activations(u, &real);
    return RXT_OK;
}

static bool weights_fit(const struct stm_config *cfg, const struct stm_weights *w)
{
    return w->n_layer == cfg->n_layer && w->n_group > 0 && w->n_layer % w->n_group == 0 &&
           (w->n_group == 1 || w->variant == STM_GROUPED_SELF_INTERLAYER);
}

enum rxt_status stm_updater_create(struct stm_updater **out, struct lane *ln,
                                   const struct stm_config *cfg, const struct stm_weights *w,
                                   int n_memory, int n_token)
{
    *out = NULL;
    if (stm_bytes(cfg) == 0 || n_memory <= 0 || n_token <= 0 ||
        n_memory > INT32_MAX / cfg->n_slot || !weights_fit(cfg, w))
        return RXT_ESHAPE;
    struct stm_updater *u = mem_alloc(sizeof *u);
    if (!u)
        return RXT_ENOMEM;
    *u = (struct stm_updater){
        .ln = ln,
        .be = lane_backend(ln),
        .cfg = *cfg,
        .w = w,
        .n_memory = n_memory,
        .n_token = n_token,
        .group_size = stm_variant_has_mean(w->variant) ? w->n_layer / w->n_group : 1,
        .n_work = 1,
    };
    u->together = u->group_size;
    if (lane_branches(ln) >= STM_ALL_BRANCHES) {
        u->n_work = STM_BRANCHES;
        u->together = w->n_layer;
    }
    enum rxt_status st = allocate(u);
    if (st != RXT_OK)
        stm_updater_destroy(&u);
    *out = u;
    return st;
}

void stm_updater_destroy(struct stm_updater **u)
{
    if (!u || !*u)
        return;
    backend_free((*u)->be, (*u)->block);
    mem_free((*u)->member);
    mem_free((*u)->finite);
    mem_free((*u)->slot_offset);
    mem_free(*u);
    *u = NULL;
}
