/* Tensors of the decoder and of the memory encoder: spec 2.5, 3.2. */
#include "rxt/checkpoint_bind_impl.h"

#include "kernels/base/mem.h"

void bind_norm(struct bind *b, const char *prefix, bool rms, int32_t dim, struct norm_desc *out)
{
    *out = (struct norm_desc){.kind = rms ? NORM_RMS : NORM_LAYER, .dim = dim};
    out->weight = bind_vector(b, prefix, "weight", dim);
    if (!rms)
        out->bias = bind_vector(b, prefix, "bias", dim);
}

void bind_attention(struct bind *b, const char *prefix, const struct heads *h, int32_t embed_dim,
                    bool out_bias, struct ckpt_attention *out)
{
    int32_t rows_q = h->n_q * h->dim, rows_kv = h->n_kv * h->dim;
    int32_t rows_out = rows_q > rows_kv ? rows_q : rows_kv; /* Ho * hd */
    *out = (struct ckpt_attention){0};
    out->q = bind_matrix(b, prefix, "q_proj.weight", rows_q, embed_dim);
    out->k = bind_matrix(b, prefix, "k_proj.weight", rows_kv, embed_dim);
    out->v = bind_matrix(b, prefix, "v_proj.weight", rows_kv, embed_dim);
    if (h->gate != ACT_NONE)
        out->gate = bind_matrix(b, prefix, "gate_proj.weight", rows_out, embed_dim);
    out->out = bind_matrix(b, prefix, "out_proj.weight", embed_dim, rows_out);
    if (out_bias)
        out->out_bias = bind_vector(b, prefix, "out_proj.bias", embed_dim);
}

static void bind_layer(struct bind *b, const char *prefix, const struct config_stack *s,
                       bool stateful, enum config_layer kind, int32_t dense_dim,
                       struct ckpt_layer *out)
{
    struct bind_name ff = bind_join(prefix, "ff.");
    int32_t d = s->embed_dim;
    out->stateful = stateful;
    out->moe = kind == CONFIG_LAYER_MOE;
    bind_norm(b, bind_join(prefix, "norm1.").text, s->rms_norm, d, &out->norm1);
    bind_attention(b, bind_join(prefix, "attention.").text, &s->self, d, s->out_bias, &out->self);
    if (stateful) {
        bind_norm(b, bind_join(prefix, "norm2.").text, s->rms_norm, d, &out->norm2);
        bind_norm(b, bind_join(prefix, "stm_norm.").text, s->rms_norm, d, &out->stm_norm);
        bind_attention(b, bind_join(prefix, "memory_cross_attention.").text, &s->cross, d,
                       s->out_bias, &out->cross);
    }
    bind_norm(b, bind_join(prefix, "norm3.").text, s->rms_norm, d, &out->norm3);
    if (out->moe)
        bind_moe(b, ff.text, s, &out->experts);
    else
        bind_ff(b, ff.text, s, dense_dim, &out->ff);
}

static bool create_layers(struct bind *b, const struct config_stack *s, struct ckpt_stack *out)
{
    out->n_layer = config_n_layer(s);
    out->layer = mem_alloc_n((size_t)out->n_layer, sizeof *out->layer);
    if (!out->layer)
        b->st = rxt_fail(b->err, RXT_ENOMEM, "out of memory for %d layers", out->n_layer);
    return out->layer != NULL;
}

/* n layers named list.0., list.1., ... that are the layers first, first + 1, ... of the stack. */
static void bind_layers(struct bind *b, const char *prefix, const char *list,
                        const struct config_stack *s, int32_t first, int32_t n, bool is_decoder,
                        struct ckpt_stack *out)
{
    for (int32_t i = 0; i < n && b->st == RXT_OK; i++) {
        bool stateful = config_layer_stateful(s, first + i);
        bind_layer(b, bind_join(prefix, "%s.%d.", list, i).text, s, is_decoder && stateful,
                   config_layer_kind(s, first + i), stateful ? s->ff_dim : s->dense_dim,
                   &out->layer[first + i]);
    }
}

static void permute_keys(struct ckpt_stack *s, const int32_t *row_of)
{
    for (int32_t i = 0; i < s->n_layer; i++) {
        if (s->layer[i].stateful)
            s->layer[i].cross.k.row_of = row_of;
    }
}

static void bind_stack_rope(struct bind *b, const char *prefix, const struct config_stack *s,
                            struct ckpt_stack *out)
{
    out->rope.none = s->nope;
    if (!s->nope)
        bind_rope(b, prefix, s->rope_base, s->self.dim, s->seq_len, &out->rope);
}

void bind_decoder(struct bind *b, const char *prefix, const int32_t *permute)
{
    struct checkpoint *ck = b->ck;
    const struct config_stack *s = &ck->config.decoder;
    struct ckpt_stack *out = &ck->decoder;
    b->count = &ck->count.decoder;
    if (!create_layers(b, s, out))
        return;
    bind_layers(b, prefix, "stateless_layers", s, 0, s->n_before, true, out);
    bind_layers(b, prefix, "layers", s, s->n_before, s->n_layer, true, out);
    bind_layers(b, prefix, "final_stateless_layers", s, s->n_before + s->n_layer, s->n_after, true,
                out);
    if (s->head_norm != CONFIG_HEAD_NONE)
        bind_norm(b, bind_join(prefix, "head_norm.").text, s->head_norm == CONFIG_HEAD_RMS,
                  s->embed_dim, &ck->head_norm);
    ck->head = bind_matrix(b, prefix, "head.weight", s->n_vocab, s->embed_dim);
    ck->head_bias = bind_vector(b, prefix, "head.bias", s->n_vocab);
    bind_stack_rope(b, prefix, s, out);
    permute_keys(out, permute);
}

void bind_encoder(struct bind *b, const char *prefix)
{
    struct checkpoint *ck = b->ck;
    const struct config_stack *s = &ck->config.encoder;
    b->count = &ck->count.encoder;
    if (!create_layers(b, s, &ck->encoder))
        return;
    bind_layers(b, prefix, "layers", s, 0, s->n_layer, false, &ck->encoder);
    bind_stack_rope(b, prefix, s, &ck->encoder);
}
