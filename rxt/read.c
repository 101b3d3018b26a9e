#include "rxt/rxt_impl.h"

#include "kernels/base/mem.h"

enum rxt_status rxt_read_create(struct rxt_read **out, const struct rxt_model *m)
{
    *out = NULL;
    struct rxt_read *r = mem_alloc(sizeof *r);
    if (!r)
        return RXT_ENOMEM;
    r->m = m;
    struct mem_kv_config cfg = model_mem_kv_config(m);
    enum rxt_status st = mem_kv_create(&r->kv, m->be, &cfg);
    if (st == RXT_OK)
        *out = r;
    else
        mem_free(r);
    return st;
}

void rxt_read_destroy(struct rxt_read **r)
{
    if (!*r)
        return;
    mem_kv_destroy((*r)->m->be, &(*r)->kv);
    mem_free(*r);
    *r = NULL;
}

static bool fits(const struct stm_config *have, const struct stm_config *want)
{
    return have->n_layer == want->n_layer && have->n_slot == want->n_slot &&
           have->embed_dim == want->embed_dim;
}

/* Layers do not see each other: they go to the branches of the lane in turn. */
static enum rxt_status build(struct rxt_read *r, struct rxt_worker *w, const struct stm *memory)
{
    const struct rxt_model *m = r->m;
    int32_t layer = 0, n_branch = lane_branches(w->ln);
    for (int32_t i = 0; i < m->w.decoder.n_layer; i++) {
        const struct layer_weights *l = &m->w.decoder.layer[i];
        if (!l->stateful)
            continue;
        lane_branch(w->ln, layer % n_branch, layer % n_branch);
        TRY(op_mem_kv(w->ln, r->kv, layer, stm_read(memory, layer), l->stm_norm, l->cross_kv));
        layer++;
    }
    return RXT_OK;
}

enum rxt_status rxt_read_build(struct rxt_read *r, struct rxt_worker *w, const struct stm *memory)
{
    struct stm_config want = rxt_model_stm(r->m, DTYPE_F32);
    if (!fits(stm_config_of(memory), &want))
        return RXT_ESHAPE;
    lane_step_begin(w->ln);
    enum rxt_status st = build(r, w, memory);
    enum rxt_status ended = lane_step_end(w->ln);
    TRY(st);
    TRY(ended);
    TRY(lane_sync(w->ln));
    r->version = stm_version(memory);
    return RXT_OK;
}

uint64_t rxt_read_version(const struct rxt_read *r)
{
    return r->version;
}
