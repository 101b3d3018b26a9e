/* Experts of a checkpoint. Two layouts: stacked tensors for all experts of a layer, transposed
 * (w1 [E,D,2F]), or one dense feed-forward an expert (legacy). Both end as one descriptor an
 * expert. Spec 2.6, 3.2. */
#include "rxt/checkpoint_bind_impl.h"

#include "kernels/base/mem.h"

void bind_ff(struct bind *b, const char *prefix, const struct config_stack *s, int32_t hidden,
             struct ff_desc *out)
{
    int32_t d = s->embed_dim, rows = s->ff_gated ? 2 * hidden : hidden;
    struct bind_name fc1 = bind_join(prefix, s->ff_gated ? "fc1.linear." : "fc1.");
    struct bind_name fc2 = bind_join(prefix, "fc2.");
    *out = (struct ff_desc){.gated = s->ff_gated, .act = s->ff_act};
    out->w1 = bind_matrix(b, fc1.text, "weight", rows, d);
    out->b1 = bind_vector(b, fc1.text, "bias", rows);
    out->w2 = bind_matrix(b, fc2.text, "weight", d, hidden);
    out->b2 = bind_vector(b, fc2.text, "bias", d);
}

/* An array of n descriptors. It is as long as the file says experts are there, or bounded by
 * CONFIG_MAX_EXPERTS. */
static struct ff_desc *create_descs(struct bind *b, int32_t n)
{
    struct ff_desc *out = b->st == RXT_OK ? mem_alloc_n((size_t)n, sizeof *out) : NULL;
    if (!out && b->st == RXT_OK)
        b->st = rxt_fail(b->err, RXT_ENOMEM, "out of memory for %d experts", n);
    return out;
}

/* The names of stacked tensors. */
struct stacked {
    const char *w1, *w2, *b1, *b2;
};

static struct ff_desc *bind_stacked(struct bind *b, const char *prefix, const struct stacked *name,
                                    const struct config_stack *s, int32_t n, int32_t hidden,
                                    bool biases)
{
    int32_t d = s->embed_dim, rows = s->ff_gated ? 2 * hidden : hidden;
    struct host_matrix b1 = {0}, b2 = {0};
    struct host_matrix w1 = bind_stack(b, prefix, name->w1, n, rows, d);
    struct host_matrix w2 = bind_stack(b, prefix, name->w2, n, d, hidden);
    if (biases) {
        b1 = bind_matrix(b, prefix, name->b1, n, rows);
        b2 = bind_matrix(b, prefix, name->b2, n, d);
    }
    struct ff_desc *out = create_descs(b, n);
    for (int32_t e = 0; out && e < n; e++)
        out[e] = (struct ff_desc){.gated = s->ff_gated,
                                  .act = s->ff_act,
                                  .w1 = bind_slice(w1, e),
                                  .w2 = bind_slice(w2, e),
                                  .b1 = bind_row(b1, e),
                                  .b2 = bind_row(b2, e)};
    return out;
}

/* One dense feed-forward an expert, at prefix + "{e}.". */
static struct ff_desc *bind_each(struct bind *b, const char *prefix, const struct config_stack *s,
                                 int32_t n, int32_t hidden)
{
    struct ff_desc *out = create_descs(b, n);
    for (int32_t e = 0; out && e < n && b->st == RXT_OK; e++)
        bind_ff(b, bind_join(prefix, "%d.", e).text, s, hidden, &out[e]);
    return out;
}

static void bind_shared(struct bind *b, const char *prefix, const struct config_stack *s,
                        bool legacy, struct ckpt_moe *out)
{
    static const struct stacked names = {"shared_w1", "shared_w2", "shared_b1", "shared_b2"};
    const struct config_moe *m = &s->moe;
    struct bind_name each = bind_join(prefix, "shared_experts."); /* legacy, any number */
    struct bind_name one = bind_join(prefix, "shared_expert.");   /* a lone one */
    if (legacy && (m->n_shared > 1 || bind_has_prefix(b, each.text))) {
        out->shared = bind_each(b, each.text, s, m->n_shared, m->shared_dim);
    } else if (m->n_shared == 1) {
        out->shared = create_descs(b, 1);
        if (out->shared)
            bind_ff(b, one.text, s, m->shared_dim, out->shared);
    } else {
        out->shared = bind_stacked(b, prefix, &names, s, m->n_shared, m->shared_dim,
                                   m->shared_bias == CONFIG_BIAS_LOCAL);
    }
    if (m->n_shared > 1)
        out->desc.shared_gate =
            bind_matrix(b, prefix, "shared_expert_gate.weight", m->n_shared, s->embed_dim);
    /* A lone shared expert has biases of its own, and the global one only where the file has it. */
    if (!legacy && m->shared_bias == CONFIG_BIAS_GLOBAL &&
        (m->n_shared > 1 || bind_has(b, prefix, "shared_experts_bias")))
        out->desc.shared_bias = bind_vector(b, prefix, "shared_experts_bias", s->embed_dim);
}

void bind_moe(struct bind *b, const char *prefix, const struct config_stack *s,
              struct ckpt_moe *out)
{
    static const struct stacked names = {"w1", "w2", "b1", "b2"};
    const struct config_moe *m = &s->moe;
    struct bind_name each = bind_join(prefix, "experts.");
    bool legacy = bind_has_prefix(b, each.text);
    struct moe_desc *desc = &out->desc;
    desc->n_expert = m->n_expert;
    desc->top_k = m->top_k;
    desc->n_shared = m->n_shared;
    desc->router_bf16 = m->router_bf16;
    desc->weighted_shared = m->weighted_shared;
    desc->router = bind_matrix(b, prefix, "router.gate.weight", m->n_expert, s->embed_dim);
    if (legacy) {
        out->expert = bind_each(b, each.text, s, m->n_expert, s->ff_dim);
    } else {
        out->expert = bind_stacked(b, prefix, &names, s, m->n_expert, s->ff_dim,
                                   m->bias == CONFIG_BIAS_LOCAL);
        if (m->bias == CONFIG_BIAS_GLOBAL)
            desc->global_bias = bind_vector(b, prefix, "global_bias", s->embed_dim);
    }
    if (m->n_shared > 0)
        bind_shared(b, prefix, s, legacy, out);
    desc->expert = out->expert;
    desc->shared = out->shared;
}
