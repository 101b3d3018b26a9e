#include "tests/ref/model.h"

#include "tests/lib/test.h"
#include "tests/ref/model_impl.h"

#include <math.h>

/* ---- open ------------------------------------------------------------------------------- */

/* Angles [seq_len, hd/2] of a component: any alias of the file's table, else computed; none with
 * use_nope. Spec 2.3, 3.3. */
static float *angles(const struct ref_model *m, const struct plain_part *p)
{
    if (plain_bool(p->cfg, "use_nope", false))
        return NULL;
    int half = p->head_dim / 2;
    float *out = plain_floats(p->seq_len * half);
    size_t prefix = strlen(p->name);
    for (int i = 0; i < m->file.n; i++) {
        const struct file_tensor *t = &m->file.tensor[i];
        size_t len = strlen(t->name);
        if (!strncmp(t->name, p->name, prefix) && len > 11 &&
            !strcmp(t->name + len - 11, ".rope.cache")) {
            assert_int_equal(t->n, p->seq_len * half);
            memcpy(out, t->f, t->n * sizeof *out);
            return out;
        }
    }
    float base = (float)plain_int(p->cfg, "rope_base", 10000);
    for (int pos = 0; pos < p->seq_len; pos++)
        for (int i = 0; i < half; i++) {
            float inv = 1 / (float)pow(base, 2.0 * i / p->head_dim);
            out[pos * half + i] = (float)pos * inv;
        }
    return out;
}

static void open_part(struct ref_model *m, struct plain_part *p, const char *name,
                      const char *object)
{
    p->name = name;
    p->cfg = json_object_get(m->cfg, object);
    assert_non_null(p->cfg);
    p->dim = plain_int(p->cfg, "embed_dim", 512);
    p->head_dim = p->dim / plain_int(p->cfg, "att_heads", 16);
    p->n_layer = plain_int(p->cfg, "num_layers", 12);
    p->seq_len = plain_int(p->cfg, "seq_len", 1024);
    p->angle = angles(m, p);
}

struct ref_model *ref_model_open(const char *dir, bool bf16)
{
    struct ref_model *m = calloc(1, sizeof *m);
    assert_non_null(m);
    char path[512];
    json_error_t err;
    snprintf(path, sizeof path, "%s/config.json", dir);
    m->cfg = json_load_file(path, 0, &err);
    if (!m->cfg)
        fail_msg("%s: %s", path, err.text);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    tensor_file_read(&m->file, path);
    m->bf16 = bf16;
    m->split = !strcmp(plain_str(m->cfg, "rope_layout", "interleaved"), "split");
    open_part(m, &m->decoder, "decoder.model", "decoder_config");
    open_part(m, &m->encoder, "encoder.model", "encoder_config");
    open_part(m, &m->memory, "memory_attention.model", "memory_attention_config");
    return m;
}

void ref_model_close(struct ref_model *m)
{
    free(m->decoder.angle);
    free(m->encoder.angle);
    free(m->memory.angle);
    tensor_file_free(&m->file);
    json_decref(m->cfg);
    free(m);
}

struct ref_shape ref_model_shape(const struct ref_model *m)
{
    const json_t *cfg = m->decoder.cfg;
    return (struct ref_shape){m->decoder.n_layer, plain_int(cfg, "stm_size", 1024), m->decoder.dim,
                              plain_int(cfg, "vocab_size", 20000)};
}

/* ---- layers ----------------------------------------------------------------------------- */

static void embed(const struct ref_model *m, const int *ids, int n, float *x)
{
    const struct file_tensor *table = plain_maybe(m, "encoder.model.embedding.weight");
    if (!table)
        table = plain_maybe(m, "decoder.model.embedding.weight");
    assert_non_null(table);
    int dim = m->decoder.dim;
    for (int t = 0; t < n; t++)
        memcpy(x + t * dim, table->f + ids[t] * dim, (size_t)dim * sizeof *x);
}

static void add(const struct ref_model *m, float *x, const float *y, int n)
{
    for (int i = 0; i < n; i++)
        x[i] = plain_round(m, (double)x[i] + y[i]);
}

static const char *gate_of(const json_t *cfg, bool on)
{
    return on ? plain_str(cfg, "gated_attention_activation", "sigmoid") : NULL;
}

/* One layer `name` over x [n,D]. slots: its layer of the STM [S,D], or NULL. Spec 2.5. */
static void layer(const struct ref_model *m, const struct plain_part *p, const char *name,
                  bool causal, bool moe, const float *slots, int n_slot, float *x, int n)
{
    const json_t *cfg = p->cfg;
    bool ln = !plain_bool(cfg, "use_rms_norm", true);
    bool gated = plain_bool(cfg, "use_gated_attention", false);
    float *h = plain_floats(n * p->dim), *y = plain_floats(n * p->dim);
    char part[200];

    struct plain_attention self = {.causal = causal, .rotate_q = true, .rotate_k = true};
    plain_heads(cfg, "self_att_type", "att_groups", "att_query_groups", &self);
    self.gate = gate_of(cfg, gated);
    snprintf(part, sizeof part, "%s.norm1", name);
    plain_norm(m, part, ln, x, n, p->dim, h);
    snprintf(part, sizeof part, "%s.attention", name);
    plain_attend(m, p, part, &self, h, n, h, n, y);
    add(m, x, y, n * p->dim);

    if (slots) {
        struct plain_attention cross = {.rotate_q = true};
        plain_cross_heads(cfg, &cross);
        cross.gate = gate_of(cfg, plain_bool(cfg, "use_gated_cross_attention", gated));
        float *kv = plain_floats(n_slot * p->dim);
        snprintf(part, sizeof part, "%s.stm_norm", name);
        plain_norm(m, part, ln, slots, n_slot, p->dim, kv);
        snprintf(part, sizeof part, "%s.norm2", name);
        plain_norm(m, part, ln, x, n, p->dim, h);
        snprintf(part, sizeof part, "%s.memory_cross_attention", name);
        plain_attend(m, p, part, &cross, h, n, kv, n_slot, y);
        add(m, x, y, n * p->dim);
        free(kv);
    }

    snprintf(part, sizeof part, "%s.norm3", name);
    plain_norm(m, part, ln, x, n, p->dim, h);
    snprintf(part, sizeof part, "%s.ff", name);
    if (moe)
        plain_moe(m, cfg, part, h, n, p->dim, y);
    else
        plain_dense(m, cfg, part, h, n, p->dim, y);
    add(m, x, y, n * p->dim);
    free(h);
    free(y);
}

static void stateless(const struct ref_model *m, const char *field, const char *name, float *x,
                      int n)
{
    const json_t *list = json_object_get(m->decoder.cfg, field);
    for (size_t i = 0; i < json_array_size(list); i++) {
        char full[160];
        snprintf(full, sizeof full, "decoder.model.%s.%zu", name, i);
        bool moe = !strcmp(json_string_value(json_array_get(list, i)), "moe");
        layer(m, &m->decoder, full, true, moe, NULL, 0, x, n);
    }
}

void ref_decode(const struct ref_model *m, const int *ids, int n, const float *stm, float *logits)
{
    const struct plain_part *p = &m->decoder;
    struct ref_shape s = ref_model_shape(m);
    float *x = plain_floats(n * s.dim);
    embed(m, ids, n, x);
    stateless(m, "stateless_layers_config", "stateless_layers", x, n);
    for (int i = 0; i < s.n_layer; i++) {
        char name[160];
        snprintf(name, sizeof name, "decoder.model.layers.%d", i);
        layer(m, p, name, true, plain_bool(p->cfg, "use_moe", false), stm + i * s.n_slot * s.dim,
              s.n_slot, x, n);
    }
    stateless(m, "final_stateless_layers_config", "final_stateless_layers", x, n);
    if (plain_bool(p->cfg, "use_head_norm", false))
        plain_norm(m, "decoder.model.head_norm",
                   !strcmp(plain_str(p->cfg, "head_norm_type", "layer_norm"), "layer_norm"), x, n,
                   s.dim, x);
    plain_linear(m, "decoder.model.head", x, n, s.dim, logits, s.n_vocab);
    free(x);
}

void ref_encode(const struct ref_model *m, const int *ids, int n, float *ed)
{
    const struct plain_part *p = &m->encoder;
    float *x = plain_floats(n * p->dim);
    embed(m, ids, n, x);
    for (int i = 0; i < p->n_layer; i++) {
        char name[160];
        snprintf(name, sizeof name, "encoder.model.layers.%d", i);
        layer(m, p, name, false, plain_bool(p->cfg, "use_moe", false), NULL, 0, x, n);
        memcpy(ed + i * n * p->dim, x, (size_t)(n * p->dim) * sizeof *x);
    }
    free(x);
}
