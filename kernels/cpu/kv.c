#include "kernels/cpu/kv_impl.h"

#include "kernels/base/mem.h"
#include "kernels/cpu/ops_impl.h"

static size_t heads_bytes(int32_t n_layer, int32_t n_head, int32_t dim, int32_t n_key)
{
    return (size_t)n_layer * (size_t)n_head * kv_floats(dim, n_key) * sizeof(float);
}

static struct kv_head head_in(float *heads, int32_t index, int32_t dim, int32_t n_key)
{
    return kv_head_at(heads + (size_t)index * kv_floats(dim, n_key), dim, n_key);
}

/* ---- of a turn ---- */

static size_t kv_bytes(const struct kv_config *c)
{
    return heads_bytes(c->n_layer, c->n_kv_head, c->head_dim, c->max_tokens);
}

size_t cpu_kv_plan(const struct backend *be, const struct kv_config *cfg)
{
    (void)be;
    return sizeof(struct cpu_kv) + kv_bytes(cfg);
}

enum rxt_status cpu_kv_create(struct kv **out, struct backend *be, const struct kv_config *cfg)
{
    (void)be;
    struct cpu_kv *kv = mem_alloc(sizeof *kv);
    if (!kv)
        return RXT_ENOMEM;
    kv->base.cfg = *cfg;
    kv->heads = mem_alloc(kv_bytes(cfg));
    if (!kv->heads) {
        mem_free(kv);
        return RXT_ENOMEM;
    }
    *out = &kv->base;
    return RXT_OK;
}

void cpu_kv_destroy(struct backend *be, struct kv *kv)
{
    (void)be;
    mem_free(((struct cpu_kv *)kv)->heads);
    mem_free(kv);
}

struct kv_head kv_head_of(const struct kv *kv, int32_t layer, int32_t head)
{
    const struct kv_config *c = &kv->cfg;
    return head_in(((const struct cpu_kv *)kv)->heads, layer * c->n_kv_head + head, c->head_dim,
                   c->max_tokens);
}

/* ---- of a memory ---- */

static size_t mem_kv_bytes(const struct mem_kv_config *c)
{
    return heads_bytes(c->n_layer, c->n_kv_head, c->head_dim, c->n_slot);
}

size_t cpu_mem_kv_plan(const struct backend *be, const struct mem_kv_config *cfg)
{
    (void)be;
    return sizeof(struct cpu_mem_kv) + mem_kv_bytes(cfg);
}

enum rxt_status cpu_mem_kv_create(struct mem_kv **out, struct backend *be,
                                  const struct mem_kv_config *cfg)
{
    (void)be;
    struct cpu_mem_kv *kv = mem_alloc(sizeof *kv);
    if (!kv)
        return RXT_ENOMEM;
    kv->base.cfg = *cfg;
    kv->heads = mem_alloc(mem_kv_bytes(cfg));
    if (!kv->heads) {
        mem_free(kv);
        return RXT_ENOMEM;
    }
    *out = &kv->base;
    return RXT_OK;
}

void cpu_mem_kv_destroy(struct backend *be, struct mem_kv *kv)
{
    (void)be;
    mem_free(((struct cpu_mem_kv *)kv)->heads);
    mem_free(kv);
}

struct kv_head mem_kv_head(const struct mem_kv *kv, int32_t layer, int32_t head)
{
    const struct mem_kv_config *c = &kv->cfg;
    return head_in(((const struct cpu_mem_kv *)kv)->heads, layer * c->n_kv_head + head, c->head_dim,
                   c->n_slot);
}
