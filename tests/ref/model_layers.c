#include "tests/ref/model_impl.h"

#include "kernels/base/bf16.h"
#include "tests/lib/test.h"

#include <math.h>

int plain_int(const json_t *cfg, const char *field, int otherwise)
{
    const json_t *v = json_object_get(cfg, field);
    return json_is_integer(v) ? (int)json_integer_value(v) : otherwise;
}

bool plain_bool(const json_t *cfg, const char *field, bool otherwise)
{
    const json_t *v = json_object_get(cfg, field);
    return json_is_boolean(v) ? json_is_true(v) : otherwise;
}

const char *plain_str(const json_t *cfg, const char *field, const char *otherwise)
{
    const json_t *v = json_object_get(cfg, field);
    return json_is_string(v) ? json_string_value(v) : otherwise;
}

const struct file_tensor *plain_maybe(const struct ref_model *m, const char *fmt, ...)
{
    char name[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    return tensor_file_find(&m->file, name);
}

const float *plain_weight(const struct ref_model *m, const char *fmt, ...)
{
    char name[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    return tensor_file_get(&m->file, name)->f;
}

float *plain_floats(int n)
{
    float *p = calloc((size_t)n, sizeof *p);
    assert_non_null(p);
    return p;
}

float plain_round(const struct ref_model *m, double v)
{
    return m->bf16 ? bf16_to_f32(bf16_from_f32((float)v)) : (float)v;
}

double plain_dot(const float *a, int step, const float *b, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)a[i * step] * b[i];
    return sum;
}

double plain_act(const char *name, double v)
{
    if (!strcmp(name, "relu"))
        return v > 0 ? v : 0;
    if (!strcmp(name, "gelu"))
        return v * 0.5 * (1 + erf(v / sqrt(2)));
    if (!strcmp(name, "silu") || !strcmp(name, "swish"))
        return v / (1 + exp(-v));
    if (!strcmp(name, "sigmoid"))
        return 1 / (1 + exp(-v));
    assert_string_equal(name, "linear");
    return v;
}

void plain_linear(const struct ref_model *m, const char *name, const float *x, int rows, int in,
                  float *y, int out)
{
    const float *w = plain_weight(m, "%s.weight", name);
    const struct file_tensor *b = plain_maybe(m, "%s.bias", name);
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < out; o++)
            y[r * out + o] =
                plain_round(m, plain_dot(w + o * in, 1, x + r * in, in) + (b ? b->f[o] : 0));
}

void plain_norm(const struct ref_model *m, const char *name, bool layer_norm, const float *x,
                int rows, int dim, float *y)
{
    const float *w = plain_weight(m, "%s.weight", name);
    const float *b = layer_norm ? plain_weight(m, "%s.bias", name) : NULL;
    for (int r = 0; r < rows; r++) {
        const float *in = x + r * dim;
        double mean = 0, square = 0;
        for (int i = 0; layer_norm && i < dim; i++)
            mean += (double)in[i] / dim;
        for (int i = 0; i < dim; i++)
            square += (in[i] - mean) * (in[i] - mean) / dim;
        double scale = 1 / sqrt(square + (layer_norm ? 1e-5 : 1.1920929e-7));
        for (int i = 0; i < dim; i++)
            y[r * dim + i] = plain_round(m, (in[i] - mean) * scale * w[i] + (b ? b[i] : 0));
    }
}

void plain_heads(const json_t *cfg, const char *type, const char *groups, const char *query_groups,
                 struct plain_attention *a)
{
    int heads = plain_int(cfg, "att_heads", 16);
    const char *kind = plain_str(cfg, type, "sqa");
    a->n_q = !strcmp(kind, "sqa") ? plain_int(cfg, query_groups, 0) : heads;
    a->n_kv = !strcmp(kind, "mha") ? heads : !strcmp(kind, "mqa") ? 1 : plain_int(cfg, groups, 1);
}

void plain_cross_heads(const json_t *cfg, struct plain_attention *a)
{
    bool own = json_is_integer(json_object_get(cfg, "cross_att_groups"));
    bool own_q = json_is_integer(json_object_get(cfg, "cross_att_query_groups"));
    plain_heads(cfg, "cross_att_type", own ? "cross_att_groups" : "att_groups",
                own_q ? "cross_att_query_groups" : "att_query_groups", a);
}

/* Rotates one head of a token. In: pairs side by side; out: side by side, or in two halves with
 * the older layout. In bfloat16 the angle, cos, sin, products and sums are rounded. Spec 2.3. */
static void rotate(const struct ref_model *m, const struct plain_part *p, int pos, float *x)
{
    int half = p->head_dim / 2;
    float y[512];
    assert_true(p->head_dim <= 512 && pos < p->seq_len);
    for (int i = 0; i < half; i++) {
        float angle = plain_round(m, p->angle[pos * half + i]);
        float c = plain_round(m, cos(angle)), s = plain_round(m, sin(angle));
        float u = x[2 * i], v = x[2 * i + 1];
        float r0 =
            plain_round(m, plain_round(m, (double)u * c) - (double)plain_round(m, (double)v * s));
        float r1 =
            plain_round(m, plain_round(m, (double)u * s) + (double)plain_round(m, (double)v * c));
        y[m->split ? i : 2 * i] = r0;
        y[m->split ? i + half : 2 * i + 1] = r1;
    }
    memcpy(x, y, (size_t)p->head_dim * sizeof *x);
}

/* context [n, Ho*hd] of q [n, Hq*hd] over k and v [n_keys, Hk*hd]. Spec 2.4. */
static void weigh(const struct ref_model *m, const struct plain_attention *a, int hd,
                  const float *q, int n, const float *k, const float *v, int n_keys, float *context)
{
    int n_out = a->n_q > a->n_kv ? a->n_q : a->n_kv;
    double *p = calloc((size_t)n_keys, sizeof *p);
    assert_non_null(p);
    for (int t = 0; t < n; t++)
        for (int h = 0; h < n_out; h++) {
            int hq = a->n_q >= a->n_kv ? h : h % a->n_q;
            int hk = a->n_q >= a->n_kv ? h / (a->n_q / a->n_kv) : h;
            int seen = a->causal ? t + 1 : n_keys;
            double top = -INFINITY, sum = 0;
            for (int j = 0; j < seen; j++) {
                p[j] = plain_dot(q + (t * a->n_q + hq) * hd, 1, k + (j * a->n_kv + hk) * hd, hd) /
                       sqrt(hd);
                top = fmax(top, p[j]);
            }
            for (int j = 0; j < seen; j++)
                sum += p[j] = exp(p[j] - top);
            for (int i = 0; i < hd; i++) {
                double value = 0;
                for (int j = 0; j < seen; j++)
                    value += p[j] / sum * v[(j * a->n_kv + hk) * hd + i];
                context[(t * n_out + h) * hd + i] = plain_round(m, value);
            }
        }
    free(p);
}

void plain_attend(const struct ref_model *m, const struct plain_part *part, const char *name,
                  const struct plain_attention *a, const float *x, int n, const float *kv,
                  int n_keys, float *out)
{
    int hd = part->head_dim, dim = part->dim;
    int n_out = a->n_q > a->n_kv ? a->n_q : a->n_kv;
    float *q = plain_floats(n * a->n_q * hd), *context = plain_floats(n * n_out * hd);
    float *k = plain_floats(n_keys * a->n_kv * hd), *v = plain_floats(n_keys * a->n_kv * hd);
    char sub[220];
    snprintf(sub, sizeof sub, "%s.q_proj", name);
    plain_linear(m, sub, x, n, dim, q, a->n_q * hd);
    snprintf(sub, sizeof sub, "%s.k_proj", name);
    plain_linear(m, sub, kv, n_keys, dim, k, a->n_kv * hd);
    snprintf(sub, sizeof sub, "%s.v_proj", name);
    plain_linear(m, sub, kv, n_keys, dim, v, a->n_kv * hd);
    for (int t = 0; part->angle && a->rotate_q && t < n; t++)
        for (int h = 0; h < a->n_q; h++)
            rotate(m, part, t, q + (t * a->n_q + h) * hd);
    for (int t = 0; part->angle && a->rotate_k && t < n_keys; t++)
        for (int h = 0; h < a->n_kv; h++)
            rotate(m, part, t, k + (t * a->n_kv + h) * hd);
    weigh(m, a, hd, q, n, k, v, n_keys, context);
    if (a->gate) {
        float *g = plain_floats(n * n_out * hd);
        snprintf(sub, sizeof sub, "%s.gate_proj", name);
        plain_linear(m, sub, x, n, dim, g, n_out * hd);
        for (int i = 0; i < n * n_out * hd; i++)
            context[i] =
                plain_round(m, (double)context[i] * plain_round(m, plain_act(a->gate, g[i])));
        free(g);
    }
    snprintf(sub, sizeof sub, "%s.out_proj", name);
    plain_linear(m, sub, context, n, n_out * hd, out, dim);
    free(q);
    free(k);
    free(v);
    free(context);
}
