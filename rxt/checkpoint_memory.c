/* Tensors of memory attention: spec 2.7, 3.2. */
#include "rxt/checkpoint_bind_impl.h"

#include "kernels/base/mem.h"

static void bind_memory_norm(struct bind *b, const char *prefix, const struct config_memory *m,
                             struct norm_desc *out)
{
    int32_t d = m->embed_dim;
    *out = (struct norm_desc){.dim = d};
    switch (m->norm) {
    case CONFIG_NORM_CLASSIC_RMS:
        bind_norm(b, prefix, true, d, out);
        return;
    case CONFIG_NORM_LAYER:
        out->kind = NORM_MIX_LAYER;
        out->weight = bind_vector(b, prefix, "norm.weight", d);
        out->bias = bind_vector(b, prefix, "norm.bias", d);
        break;
    case CONFIG_NORM_ADAPTIVE:
        bind_ignore(b, prefix, "ema_rms"); /* used in training only */
        out->kind = NORM_MIX_RMS;
        break;
    case CONFIG_NORM_RMS:
        out->kind = NORM_MIX_RMS;
        break;
    case CONFIG_NORM_POSITIONAL:
        out->kind = NORM_MIX_SLOT;
        out->scale_by_slot = !m->norm_per_dim;
        out->scale = m->norm_per_dim ? bind_vector(b, prefix, "scale", d)
                                     : bind_vector_2d(b, prefix, "scale", m->n_slot, 1);
        out->gate = bind_vector_2d(b, prefix, "gate", m->n_slot, 1);
        out->ema_rms = bind_statistic(b, prefix, "ema_rms", m->n_slot, 1);
        return;
    }
    out->scale = bind_vector(b, prefix, "scale", d);
    out->gate = bind_vector(b, prefix, "gate", 1);
}

/* Switched off, or static, a gate reads no status; the file may hold its tensors all the same. */
static void bind_gate(struct bind *b, const char *prefix, const struct config_memory *m, bool on,
                      struct gate_desc *out)
{
    const struct config_gate *g = &m->gate;
    int32_t n = g->per_slot ? m->n_slot : 1;
    *out = (struct gate_desc){.kind = on ? g->kind : GATE_ADD,
                              .tanh = g->tanh,
                              .per_slot = g->per_slot,
                              .n_slot = m->n_slot,
                              .dim = m->embed_dim};
    if (out->kind == GATE_LINEAR) {
        out->w = bind_matrix(b, prefix, "gate.weight", n, m->n_slot);
        out->b = bind_vector(b, prefix, "gate.bias", n);
    } else if (out->kind == GATE_STATIC || out->kind == GATE_ELEMENTWISE) {
        out->g = g->per_slot ? bind_vector_2d(b, prefix, "gate", n, 1)
                             : bind_vector(b, prefix, "gate", 1);
    }
    if (out->kind != GATE_LINEAR && out->kind != GATE_ELEMENTWISE) {
        bind_ignore(b, prefix, "slot_status.weight");
        bind_ignore(b, prefix, "slot_status.bias");
    } else if (g->linear_status) {
        out->status_w = bind_vector_2d(b, prefix, "slot_status.weight", 1, m->embed_dim);
        out->status_b = bind_vector(b, prefix, "slot_status.bias", 1);
    }
}

static void bind_mean(struct bind *b, const char *prefix, const struct config_memory *m, int32_t i,
                      struct ckpt_memory_layer *out)
{
    bind_attention(b, bind_join(prefix, "mean_attention_layers.%d.", i).text, &m->mean,
                   m->embed_dim, true, &out->mean);
    bind_memory_norm(b, bind_join(prefix, "mean_memory_norm_layers.%d.", i).text, m,
                     &out->norm_mean);
    bind_gate(b, bind_join(prefix, "mean_residual_gate_layers.%d.", i).text, m, true,
              &out->gate_mean);
    if (m->variant != STM_INTERLAYER)
        bind_gate(b, bind_join(prefix, "interlayer_gate_layers.%d.", i).text, m, true,
                  &out->gate_interlayer);
}

static void bind_self(struct bind *b, const char *prefix, const struct config_memory *m, int32_t i,
                      struct ckpt_memory_layer *out)
{
    bind_attention(b, bind_join(prefix, "self_attention_layers.%d.", i).text, &m->self,
                   m->embed_dim, true, &out->self);
    bind_memory_norm(b, bind_join(prefix, "self_memory_norm_layers.%d.", i).text, m,
                     &out->norm_self);
    bind_gate(b, bind_join(prefix, "self_residual_gate_layers.%d.", i).text, m, m->self_gate,
              &out->gate_self);
}

void bind_memory(struct bind *b, const char *prefix, const int32_t *permute)
{
    const struct config_memory *m = &b->ck->config.memory;
    struct ckpt_memory *out = &b->ck->memory;
    b->count = &b->ck->count.memory;
    out->layer = mem_alloc_n((size_t)m->n_layer, sizeof *out->layer);
    if (!out->layer) {
        b->st = rxt_fail(b->err, RXT_ENOMEM, "out of memory for %d layers", m->n_layer);
        return;
    }
    for (int32_t i = 0; i < m->n_layer && b->st == RXT_OK; i++) {
        struct ckpt_memory_layer *layer = &out->layer[i];
        bind_attention(b, bind_join(prefix, "attention_layers.%d.", i).text, &m->main, m->embed_dim,
                       true, &layer->main);
        layer->main.q.row_of = permute;
        bind_norm(b, bind_join(prefix, "memory_input_norm_layers.%d.", i).text, true, m->embed_dim,
                  &layer->norm_input);
        bind_memory_norm(b, bind_join(prefix, "memory_norm_layers.%d.", i).text, m,
                         &layer->norm_mem);
        bind_gate(b, bind_join(prefix, "residual_gate_layers.%d.", i).text, m, true, &layer->gate);
        if (stm_variant_has_mean(m->variant))
            bind_mean(b, prefix, m, i, layer);
        if (m->variant == STM_SELF)
            bind_self(b, prefix, m, i, layer);
    }
    if (stm_variant_has_mean(m->variant))
        bind_memory_norm(b, bind_join(prefix, "mean_stm_norm.").text, m, &out->norm_m);
    bind_rope(b, prefix, m->rope_base, m->main.dim, m->seq_len, &out->rope);
}
