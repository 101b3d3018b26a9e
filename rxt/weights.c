#include "rxt/weights_impl.h"

#include "kernels/base/mem.h"
#include "rxt/safetensors_impl.h"

#include <assert.h>

/* What every step of packing needs. */
struct packing {
    struct backend *be;
    const struct checkpoint *ck;
    enum dtype storage;
    int32_t max_seq_len;
};

/* Gives the pages of the files back that were read so far: while gigabytes are packed, file and
 * copy need not be resident together. The embedding is used where it lies. */
static void drop_pages(const struct packing *p)
{
    const struct host_matrix *lies = &p->ck->embedding;
    if (p->ck->files)
        safetensors_drop(p->ck->files, lies->data,
                         (size_t)lies->rows * (size_t)lies->cols * dtype_bytes(lies->dtype));
}

static enum rxt_status norm(const struct packing *p, struct weight **out, const struct norm_desc *d)
{
    return weight_norm(out, p->be, d);
}

/* The parts one below the other, absent ones left out; no biases. */
static enum rxt_status stacked(const struct packing *p, struct weight **out,
                               const struct host_matrix *const part[], int n)
{
    struct host_matrix present[4];
    int n_present = 0;
    for (int i = 0; i < n; i++)
        if (part[i]->data)
            present[n_present++] = *part[i];
    return weight_linear(out, p->be, present, NULL, n_present, p->storage);
}

static enum rxt_status output(const struct packing *p, struct weight **out,
                              const struct ckpt_attention *a)
{
    return weight_linear(out, p->be, &a->out, a->out_bias.data ? &a->out_bias : NULL, 1,
                         p->storage);
}

static enum rxt_status self_attention(const struct packing *p, struct attention_weights *w,
                                      const struct ckpt_attention *a, const struct heads *heads)
{
    const struct host_matrix *const parts[] = {&a->q, &a->k, &a->v, &a->gate};
    w->heads = *heads;
    TRY(stacked(p, &w->in, parts, 4));
    return output(p, &w->out, a);
}

static enum rxt_status cross_attention(const struct packing *p, struct layer_weights *w,
                                       const struct ckpt_attention *a, const struct heads *heads)
{
    const struct host_matrix *const read[] = {&a->q, &a->gate};
    const struct host_matrix *const kept[] = {&a->k, &a->v};
    w->cross.heads = *heads;
    TRY(stacked(p, &w->cross.in, read, 2));
    TRY(stacked(p, &w->cross_kv, kept, 2));
    return output(p, &w->cross.out, a);
}

static enum rxt_status layer(const struct packing *p, struct layer_weights *w,
                             const struct ckpt_layer *l, const struct config_stack *cfg)
{
    w->stateful = l->stateful;
    w->moe = l->moe;
    TRY(norm(p, &w->norm1, &l->norm1));
    TRY(norm(p, &w->norm3, &l->norm3));
    TRY(self_attention(p, &w->self, &l->self, &cfg->self));
    if (l->stateful) {
        TRY(norm(p, &w->norm2, &l->norm2));
        TRY(norm(p, &w->stm_norm, &l->stm_norm));
        TRY(cross_attention(p, w, &l->cross, &cfg->cross));
    }
    if (l->moe)
        return weight_moe(&w->ff, p->be, &l->experts.desc, p->storage);
    return weight_ff(&w->ff, p->be, &l->ff, p->storage);
}

static enum rxt_status rope(const struct packing *p, struct weight **out, const struct ckpt_rope *r)
{
    if (r->none)
        return RXT_OK;
    int32_t half = r->head_dim / 2;
    float *angle = mem_alloc_n((size_t)p->max_seq_len * (size_t)half, sizeof *angle);
    if (!angle)
        return RXT_ENOMEM;
    checkpoint_rope(r, p->max_seq_len, angle);
    enum rxt_status st = weight_rope(out, p->be, angle, p->max_seq_len, half);
    mem_free(angle);
    return st;
}

static enum rxt_status stack(const struct packing *p, struct stack_weights *w,
                             const struct ckpt_stack *s, const struct config_stack *cfg)
{
    w->layer = mem_alloc_n((size_t)s->n_layer, sizeof *w->layer);
    if (!w->layer)
        return RXT_ENOMEM;
    w->n_layer = s->n_layer;
    for (int32_t i = 0; i < s->n_layer; i++) {
        TRY(layer(p, &w->layer[i], &s->layer[i], cfg));
        drop_pages(p);
    }
    return rope(p, &w->rope, &s->rope);
}

/* ---- memory attention ------------------------------------------------------------------- */

static enum rxt_status memory_attention(const struct packing *p, struct stm_attention *w,
                                        const struct ckpt_attention *a, const struct heads *heads)
{
    const struct host_matrix *const q[] = {&a->q}, *const kv[] = {&a->k, &a->v};
    if (!a->q.data)
        return RXT_OK; /* the variant has no such attention */
    w->heads = *heads;
    TRY(stacked(p, &w->q, q, 1));
    TRY(stacked(p, &w->kv, kv, 2));
    return output(p, &w->out, a);
}

static enum rxt_status memory_layer(const struct packing *p, struct stm_layer_weights *w,
                                    const struct ckpt_memory_layer *l,
                                    const struct config_memory *cfg)
{
    bool has_mean = stm_variant_has_mean(cfg->variant), has_self = cfg->variant == STM_SELF;
    bool has_interlayer = has_mean && cfg->variant != STM_INTERLAYER;
    TRY(memory_attention(p, &w->main, &l->main, &cfg->main));
    TRY(memory_attention(p, &w->mean, &l->mean, &cfg->mean));
    TRY(memory_attention(p, &w->self, &l->self, &cfg->self));
    TRY(norm(p, &w->norm_input, &l->norm_input));
    TRY(norm(p, &w->norm_mem, &l->norm_mem));
    TRY(weight_gate(&w->gate, p->be, &l->gate));
    if (has_mean) {
        TRY(norm(p, &w->norm_mean, &l->norm_mean));
        TRY(weight_gate(&w->gate_mean, p->be, &l->gate_mean));
    }
    if (has_interlayer)
        TRY(weight_gate(&w->gate_interlayer, p->be, &l->gate_interlayer));
    if (has_self) {
        TRY(norm(p, &w->norm_self, &l->norm_self));
        TRY(weight_gate(&w->gate_self, p->be, &l->gate_self));
    }
    return RXT_OK;
}

static enum rxt_status memory(const struct packing *p, struct stm_weights *w,
                              const struct ckpt_memory *m, const struct config_memory *cfg)
{
    w->variant = cfg->variant;
    w->n_layer = cfg->n_layer;
    w->n_group = cfg->n_group;
    w->layer = mem_alloc_n((size_t)cfg->n_layer, sizeof *w->layer);
    if (!w->layer)
        return RXT_ENOMEM;
    if (stm_variant_has_mean(cfg->variant))
        TRY(norm(p, &w->norm_m, &m->norm_m));
    for (int32_t i = 0; i < cfg->n_layer; i++)
        TRY(memory_layer(p, &w->layer[i], &m->layer[i], cfg));
    return rope(p, &w->rope, &m->rope);
}

/* ---- all --------------------------------------------------------------------------------- */

static enum rxt_status pack(const struct packing *p, struct model_weights *w,
                            const struct checkpoint *ck)
{
    const struct host_vector *bias = ck->head_bias.data ? &ck->head_bias : NULL;
    TRY(weight_table(&w->embedding, p->be, &ck->embedding));
    if (ck->head_norm.weight.data)
        TRY(norm(p, &w->head_norm, &ck->head_norm));
    TRY(weight_linear(&w->head, p->be, &ck->head, bias, 1, p->storage));
    TRY(stack(p, &w->decoder, &ck->decoder, &ck->config.decoder));
    TRY(stack(p, &w->encoder, &ck->encoder, &ck->config.encoder));
    return memory(p, &w->memory, &ck->memory, &ck->config.memory);
}

enum rxt_status weights_create(struct model_weights *w, struct backend *be,
                               const struct checkpoint *ck, enum dtype storage, int32_t max_seq_len,
                               struct rxt_error *err)
{
    const struct packing p = {be, ck, storage, max_seq_len};
    assert(!ck->config.single);
    enum rxt_status st = pack(&p, w, ck);
    if (st != RXT_OK) {
        weights_destroy(w, be);
        return rxt_fail(err, st, "cannot pack the weights: %s", rxt_status_text(st));
    }
    drop_pages(&p);
    return RXT_OK;
}

/* Calls visit for every weight of the model. */
static void for_each(struct model_weights *w, void (*visit)(void *arg, struct weight **one),
                     void *arg)
{
    struct stack_weights *const stacks[] = {&w->decoder, &w->encoder};
    visit(arg, &w->embedding);
    visit(arg, &w->head_norm);
    visit(arg, &w->head);
    for (int s = 0; s < 2; s++) {
        visit(arg, &stacks[s]->rope);
        for (int32_t i = 0; i < stacks[s]->n_layer; i++) {
            struct layer_weights *l = &stacks[s]->layer[i];
            struct weight **const each[] = {&l->norm1,    &l->norm2,    &l->norm3,    &l->stm_norm,
                                            &l->self.in,  &l->self.out, &l->cross.in, &l->cross.out,
                                            &l->cross_kv, &l->ff};
            for (size_t k = 0; k < sizeof each / sizeof *each; k++)
                visit(arg, each[k]);
        }
    }
    visit(arg, &w->memory.norm_m);
    visit(arg, &w->memory.rope);
    for (int32_t i = 0; w->memory.layer && i < w->memory.n_layer; i++) {
        struct stm_layer_weights *l = &w->memory.layer[i];
        struct stm_attention *const attentions[] = {&l->main, &l->mean, &l->self};
        struct weight **const each[] = {&l->norm_input,      &l->norm_mem, &l->norm_mean,
                                        &l->norm_self,       &l->gate,     &l->gate_mean,
                                        &l->gate_interlayer, &l->gate_self};
        for (size_t k = 0; k < sizeof each / sizeof *each; k++)
            visit(arg, each[k]);
        for (int k = 0; k < 3; k++) {
            visit(arg, &attentions[k]->q);
            visit(arg, &attentions[k]->kv);
            visit(arg, &attentions[k]->out);
        }
    }
}

static void destroy_one(void *be, struct weight **w)
{
    weight_destroy(be, w);
}

void weights_destroy(struct model_weights *w, struct backend *be)
{
    for_each(w, destroy_one, be);
    mem_free(w->decoder.layer);
    mem_free(w->encoder.layer);
    mem_free(w->memory.layer);
    *w = (struct model_weights){0};
}

static void add_bytes(void *sum, struct weight **w)
{
    if (*w)
        *(size_t *)sum += weight_bytes(*w);
}

size_t weights_bytes(const struct model_weights *w)
{
    size_t sum = 0;
    for_each((struct model_weights *)w, add_bytes, &sum); /* add_bytes changes none of them */
    return sum;
}
