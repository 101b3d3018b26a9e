#include "kernels/cuda/kv_impl.h"

#include "kernels/base/mem.h"

static size_t block_bytes(enum dtype act, int32_t dim)
{
    return (size_t)kv_block_elements(dim) * dtype_bytes(act);
}

/* ---- of a turn ---- */

/* 64 tokens over all layers and heads. */
static size_t token_block(const struct backend *be, const struct kv_config *c)
{
    return (size_t)c->n_layer * (size_t)c->n_kv_head * block_bytes(be->act_dtype, c->head_dim);
}

size_t cuda_kv_plan(const struct backend *be, const struct kv_config *c)
{
    size_t n = (size_t)kv_blocks(c->max_tokens);
    return sizeof(struct cuda_kv) + n * (token_block(be, c) + sizeof(char *));
}

enum rxt_status cuda_kv_create(struct kv **out, struct backend *b, const struct kv_config *cfg)
{
    size_t n = (size_t)kv_blocks(cfg->max_tokens), step = token_block(b, cfg);
    struct cuda_kv *kv = mem_alloc(sizeof *kv);
    char **table = mem_alloc_n(n, sizeof *table);
    enum rxt_status st = RXT_ENOMEM;
    if (!kv || !table)
        goto fail;
    kv->base.cfg = *cfg;
    kv->blocks = cuda_alloc(b, n * step);
    if (!kv->blocks)
        goto fail;
    for (size_t i = 0; i < n; i++)
        table[i] = kv->blocks + i * step;
    TRY_OR(fail, cuda_alloc_put(cuda_backend(b), (void **)&kv->table, table, n * sizeof *table));
    mem_free(table);
    *out = &kv->base;
    return RXT_OK;
fail:
    if (kv)
        cuda_free(b, kv->blocks);
    mem_free(kv);
    mem_free(table);
    return st;
}

void cuda_kv_destroy(struct backend *b, struct kv *base)
{
    struct cuda_kv *kv = (struct cuda_kv *)base;
    cuda_free(b, kv->blocks);
    cuda_free(b, kv->table);
    mem_free(kv);
}

struct attend_keys kv_keys(const struct kv *base, enum dtype act, int32_t layer)
{
    const struct cuda_kv *kv = (const struct cuda_kv *)base;
    int64_t head = (int64_t)block_bytes(act, base->cfg.head_dim);
    return (struct attend_keys){
        .table = kv->table,
        .head_step = head,
        .layer = layer * base->cfg.n_kv_head * head,
    };
}

/* ---- of a memory ---- */

static size_t mem_bytes(const struct backend *be, const struct mem_kv_config *c)
{
    return (size_t)c->n_layer * (size_t)c->n_kv_head * (size_t)kv_blocks(c->n_slot) *
           block_bytes(be->act_dtype, c->head_dim);
}

size_t cuda_mem_kv_plan(const struct backend *be, const struct mem_kv_config *c)
{
    return sizeof(struct cuda_mem_kv) + mem_bytes(be, c);
}

enum rxt_status cuda_mem_kv_create(struct mem_kv **out, struct backend *b,
                                   const struct mem_kv_config *cfg)
{
    struct cuda_mem_kv *kv = mem_alloc(sizeof *kv);
    if (!kv)
        return RXT_ENOMEM;
    kv->base.cfg = *cfg;
    kv->blocks = cuda_alloc(b, mem_bytes(b, cfg));
    if (!kv->blocks) {
        mem_free(kv);
        return RXT_ENOMEM;
    }
    *out = &kv->base;
    return RXT_OK;
}

void cuda_mem_kv_destroy(struct backend *b, struct mem_kv *base)
{
    struct cuda_mem_kv *kv = (struct cuda_mem_kv *)base;
    cuda_free(b, kv->blocks);
    mem_free(kv);
}

struct attend_keys mem_kv_keys(const struct mem_kv *base, enum dtype act, int32_t layer)
{
    const struct mem_kv_config *c = &base->cfg;
    int64_t block = (int64_t)block_bytes(act, c->head_dim);
    int64_t head = kv_blocks(c->n_slot) * block;
    return (struct attend_keys){
        .base = ((const struct cuda_mem_kv *)base)->blocks + layer * c->n_kv_head * head,
        .block_step = block,
        .head_step = head,
    };
}
