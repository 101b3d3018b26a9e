#include "stm/stm_impl.h"

#include "kernels/base/mem.h"

/* ---- shape ------------------------------------------------------------------------------ */

size_t stm_bytes(const struct stm_config *cfg)
{
    size_t n;
    if (cfg->n_layer <= 0 || cfg->n_slot <= 0 || cfg->embed_dim <= 0 ||
        (cfg->dtype != DTYPE_F32 && cfg->dtype != DTYPE_BF16) ||
        __builtin_mul_overflow((size_t)cfg->n_layer, (size_t)cfg->n_slot, &n) ||
        __builtin_mul_overflow(n, (size_t)cfg->embed_dim, &n) ||
        __builtin_mul_overflow(n, dtype_bytes(cfg->dtype), &n))
        return 0;
    return n;
}

bool stm_dims_equal(const struct stm_config *a, const struct stm_config *b)
{
    return a->n_layer == b->n_layer && a->n_slot == b->n_slot && a->embed_dim == b->embed_dim;
}

struct tensor stm_layer(const struct stm_config *cfg, void *values, int layer)
{
    assert(layer >= 0 && layer < cfg->n_layer);
    size_t layer_bytes = stm_bytes(cfg) / (size_t)cfg->n_layer;
    return (struct tensor){
        .data = (char *)values + (size_t)layer * layer_bytes,
        .dtype = cfg->dtype,
        .rows = cfg->n_slot,
        .cols = cfg->embed_dim,
        .stride = cfg->embed_dim,
    };
}

/* ---- create ----------------------------------------------------------------------------- */

/* A memory of zeros. */
static enum rxt_status create_empty(struct stm **out, struct backend *be,
                                    const struct stm_config *cfg)
{
    *out = NULL;
    size_t bytes = stm_bytes(cfg);
    if (bytes == 0)
        return RXT_ESHAPE;
    struct stm *m = mem_alloc(sizeof *m);
    if (!m)
        return RXT_ENOMEM;
    *m = (struct stm){.be = be, .cfg = *cfg, .values = backend_alloc(be, bytes)};
    if (!m->values) {
        stm_destroy(&m);
        return RXT_ENOMEM;
    }
    *out = m;
    return RXT_OK;
}

enum rxt_status stm_create(struct stm **out, struct lane *ln, const struct stm_config *cfg,
                           enum stm_init init, uint64_t seed)
{
    TRY(create_empty(out, lane_backend(ln), cfg));
    enum rxt_status st = stm_fill(ln, cfg, (*out)->values, init, seed);
    if (st != RXT_OK)
        stm_destroy(out);
    return st;
}

enum rxt_status stm_clone(struct stm **out, struct lane *ln, const struct stm *m)
{
    TRY(create_empty(out, m->be, &m->cfg));
    (*out)->version = m->version;
    enum rxt_status st = lane_copy(ln, (*out)->values, m->values, stm_bytes(&m->cfg));
    enum rxt_status waited = lane_sync(ln);
    st = st == RXT_OK ? waited : st;
    if (st != RXT_OK)
        stm_destroy(out);
    return st;
}

void stm_destroy(struct stm **m)
{
    if (!m || !*m)
        return;
    backend_free((*m)->be, (*m)->values);
    mem_free(*m);
    *m = NULL;
}

/* ---- read ------------------------------------------------------------------------------- */

uint64_t stm_version(const struct stm *m)
{
    return m->version;
}

const struct stm_config *stm_config_of(const struct stm *m)
{
    return &m->cfg;
}

struct tensor stm_read(const struct stm *m, int layer)
{
    return stm_layer(&m->cfg, m->values, layer);
}

/* ---- change ----------------------------------------------------------------------------- */

enum rxt_status stm_commit(struct stm *m, struct stm_spare *spare, uint64_t base)
{
    assert(spare->be == m->be);
    if (m->version != base)
        return RXT_ESTALE;
    if (!stm_dims_equal(&m->cfg, &spare->cfg) || m->cfg.dtype != spare->cfg.dtype)
        return RXT_ESHAPE;
    TRY(spare->content);
    void *old = m->values;
    m->values = spare->values;
    m->version++;
    spare->values = old;
    spare->content = RXT_EINVAL;
    return RXT_OK;
}

enum rxt_status stm_import(struct stm *m, struct lane *ln, uint64_t version, const void *values,
                           size_t bytes)
{
    if (bytes != stm_bytes(&m->cfg))
        return RXT_ESHAPE;
    TRY(lane_upload(ln, m->values, values, bytes));
    m->version = version;
    return RXT_OK;
}

enum rxt_status stm_restart(struct stm *m, struct lane *ln, uint64_t version, enum stm_init init,
                            uint64_t seed)
{
    TRY(stm_fill(ln, &m->cfg, m->values, init, seed));
    m->version = version;
    return RXT_OK;
}
