#include "tests/ref/model_impl.h"

#include "tests/lib/test.h"

#include <math.h>

/* Memory attention of one memory: everything that stays the same while its layers are walked. */
struct memory {
    const struct ref_model *m;
    const struct plain_part *part;
    int n_layer, n_slot, dim;
    const char *name; /* "memory_attention.model" */
};

/* y [S,D] = the memory norm `name` of x, of the kind norm_type. Spec 2.7. */
static void memory_norm(const struct memory *a, const char *name, const float *x, float *y)
{
    const struct ref_model *m = a->m;
    const char *kind = plain_str(a->part->cfg, "norm_type", "classic-rms");
    if (!strcmp(kind, "classic-rms")) {
        plain_norm(m, name, false, x, a->n_slot, a->dim, y);
        return;
    }
    bool by_slot = !strcmp(kind, "positional");
    bool per_dim = !by_slot || plain_bool(a->part->cfg, "norm_per_dim_scale", false);
    const float *scale = plain_weight(m, "%s.scale", name),
                *gate = plain_weight(m, "%s.gate", name);
    const float *ema = by_slot ? plain_weight(m, "%s.ema_rms", name) : NULL;
    if (!strcmp(kind, "layer")) {
        char inner[220];
        snprintf(inner, sizeof inner, "%s.norm", name);
        plain_norm(m, inner, true, x, a->n_slot, a->dim, y);
    }
    for (int s = 0; s < a->n_slot; s++) {
        const float *in = x + s * a->dim;
        float *out = y + s * a->dim;
        double rms = by_slot ? ema[s] : sqrt(plain_dot(in, 1, in, a->dim) / a->dim);
        double mix = plain_act("sigmoid", gate[by_slot ? s : 0]);
        for (int i = 0; i < a->dim; i++) {
            double n = !strcmp(kind, "layer") ? out[i] : in[i] / sqrt(rms + 1e-6);
            n = plain_round(m, n * scale[per_dim ? i : s]);
            out[i] = plain_round(m, mix * n + (1 - mix) * in[i]);
        }
    }
}

/* out [S,D] = the residual gate `name` between old and new. Spec 2.7. */
static void gate(const struct memory *a, const char *name, const float *old, const float *new_,
                 float *out)
{
    const struct ref_model *m = a->m;
    const json_t *cfg = a->part->cfg;
    const char *type = plain_str(cfg, "residual_gate_type", "static");
    bool per_slot = plain_bool(cfg, "residual_per_slot_gate", true);
    bool learned = !strcmp(plain_str(cfg, "residual_gate_slot_status_type", "mean"), "linear");
    int n_slot = a->n_slot, dim = a->dim;
    float *status = plain_floats(n_slot), *z = plain_floats(n_slot), *sum = plain_floats(dim);

    double whole = 0;
    for (int s = 0; s < n_slot; s++) {
        for (int i = 0; i < dim; i++)
            sum[i] = plain_round(m, (double)new_[s * dim + i] + old[s * dim + i]);
        double v = 0;
        if (learned && strcmp(type, "static") != 0)
            v = plain_dot(plain_weight(m, "%s.slot_status.weight", name), 1, sum, dim) +
                plain_weight(m, "%s.slot_status.bias", name)[0];
        else
            for (int i = 0; i < dim; i++)
                v += (double)sum[i] / dim;
        status[s] = plain_round(m, v);
        whole += v / n_slot;
    }
    for (int s = 0; s < n_slot; s++) {
        if (!strcmp(type, "linear")) {
            const float *w = plain_weight(m, "%s.gate.weight", name);
            const float *b = plain_weight(m, "%s.gate.bias", name);
            int row = per_slot ? s : 0;
            z[s] = plain_round(m, plain_dot(w + row * n_slot, 1, status, n_slot) + b[row]);
        } else {
            float g = plain_weight(m, "%s.gate", name)[per_slot ? s : 0];
            bool fixed = !strcmp(type, "static");
            z[s] = fixed ? g : plain_round(m, g * (per_slot ? status[s] : plain_round(m, whole)));
        }
    }
    bool tanh_form = plain_bool(cfg, "use_tanh_residual_gate", true);
    for (int s = 0; s < n_slot; s++) {
        float g = plain_round(m, tanh_form ? tanh(z[s]) : plain_act("sigmoid", z[s]));
        float keep = plain_round(m, 1.0 - g), take = tanh_form ? plain_round(m, 1.0 + g) : g;
        for (int i = 0; i < dim; i++) {
            int at = s * dim + i;
            out[at] = plain_round(m, (double)plain_round(m, (double)take * new_[at]) +
                                         (double)plain_round(m, (double)keep * old[at]));
        }
    }
    free(status);
    free(z);
    free(sum);
}

static void add_or_gate(const struct memory *a, bool gated, const char *name, const float *old,
                        const float *new_, float *out)
{
    if (gated) {
        gate(a, name, old, new_, out);
        return;
    }
    for (int i = 0; i < a->n_slot * a->dim; i++)
        out[i] = plain_round(a->m, (double)new_[i] + old[i]);
}

/* The residual gates of a layer but the one of memory self-attention. */
static void blend(const struct memory *a, const char *list, int i, const float *old,
                  const float *new_, float *out)
{
    char name[200];
    snprintf(name, sizeof name, "%s.%s.%d", a->name, list, i);
    if (plain_bool(a->part->cfg, "disable_residual", false))
        memmove(out, new_, (size_t)(a->n_slot * a->dim) * sizeof *out);
    else
        add_or_gate(a, plain_bool(a->part->cfg, "use_gated_residual", false), name, old, new_, out);
}

static void attend(const struct memory *a, const char *list, int i, const char *type,
                   const char *groups, const char *query_groups, bool rotate, const float *q,
                   const float *kv, int n_keys, float *out)
{
    struct plain_attention how = {.rotate_k = rotate};
    char name[200];
    plain_heads(a->part->cfg, type, groups, query_groups, &how);
    snprintf(name, sizeof name, "%s.%s.%d", a->name, list, i);
    plain_attend(a->m, a->part, name, &how, q, a->n_slot, kv, n_keys, out);
}

/* norm(mean over the layers of the group of layer i), slot by slot. */
static void group_mean(const struct memory *a, const float *stm, int i, int n_group, float *out)
{
    int size = a->n_layer / n_group, first = i / size * size, n = a->n_slot * a->dim;
    float *mean = plain_floats(n);
    char name[160];
    for (int k = 0; k < n; k++) {
        double sum = 0;
        for (int j = first; j < first + size; j++)
            sum += stm[j * n + k];
        mean[k] = plain_round(a->m, sum / size);
    }
    snprintf(name, sizeof name, "%s.mean_stm_norm", a->name);
    memory_norm(a, name, mean, out);
    free(mean);
}

/* x [S,D] = what layer i hands to its main attention. Spec 2.7, table of variants. */
static void before_main(const struct memory *a, const char *variant, const float *stm, int i,
                        float *x)
{
    const json_t *cfg = a->part->cfg;
    int n = a->n_slot * a->dim;
    const float *old = stm + i * n;
    char name[200];
    memcpy(x, old, (size_t)n * sizeof *x);
    if (!strcmp(variant, "simple"))
        return;
    float *normed = plain_floats(n), *u = plain_floats(n), *kv = plain_floats(n);
    if (!strcmp(variant, "self")) {
        snprintf(name, sizeof name, "%s.self_memory_norm_layers.%d", a->name, i);
        memory_norm(a, name, old, normed);
        attend(a, "self_attention_layers", i, "self_att_type", "self_att_groups",
               "self_att_query_groups", false, normed, normed, a->n_slot, u);
        snprintf(name, sizeof name, "%s.self_residual_gate_layers.%d", a->name, i);
        add_or_gate(a, plain_bool(cfg, "use_gate_for_self_attention", false), name, old, u, x);
    } else {
        bool grouped = !strcmp(variant, "grouped-self-interlayer");
        snprintf(name, sizeof name, "%s.mean_memory_norm_layers.%d", a->name, i);
        memory_norm(a, name, old, normed);
        group_mean(a, stm, i, grouped ? plain_int(cfg, "num_groups", 1) : 1, kv);
        if (strcmp(variant, "interlayer") != 0)
            blend(a, "interlayer_gate_layers", i, normed, kv, kv);
        attend(a, "mean_attention_layers", i, "interlayer_att_type", "interlayer_att_groups",
               "interlayer_att_query_groups", false, normed, kv, a->n_slot, u);
        blend(a, "mean_residual_gate_layers", i, old, u, x);
    }
    free(normed);
    free(u);
    free(kv);
}

void ref_remember(const struct ref_model *m, const float *ed, int n, const float *stm, float *out)
{
    const struct memory a = {
        m, &m->memory, m->memory.n_layer, ref_model_shape(m).n_slot, m->memory.dim, m->memory.name};
    const char *variant = plain_str(m->cfg, "memory_attention_variant", "interlayer");
    int values = a.n_slot * a.dim;
    float *x = plain_floats(values), *q = plain_floats(values), *u = plain_floats(values);
    float *kv = plain_floats(n * a.dim);
    char name[200];
    for (int i = 0; i < a.n_layer; i++) {
        before_main(&a, variant, stm, i, x);
        snprintf(name, sizeof name, "%s.memory_norm_layers.%d", a.name, i);
        memory_norm(&a, name, x, q);
        snprintf(name, sizeof name, "%s.memory_input_norm_layers.%d", a.name, i);
        plain_norm(m, name, false, ed + i * n * a.dim, n, a.dim, kv);
        attend(&a, "attention_layers", i, "att_type", "att_groups", "att_query_groups", true, q, kv,
               n, u);
        blend(&a, "residual_gate_layers", i, x, u, out + i * values);
    }
    free(x);
    free(q);
    free(u);
    free(kv);
}
