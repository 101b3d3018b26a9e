#include "tests/ref/model_impl.h"

#include "kernels/base/bf16.h"
#include "tests/lib/test.h"

#include <math.h>

/* One expert: w1 [2F,D] or [F,D] and w2 [D,F] as a Linear holds them, or transposed ("stacked"). */
struct expert {
    const float *w1, *b1, *w2, *b2;
    int hidden;
    bool stacked;
};

static float output(const struct ref_model *m, const float *w, const float *b, bool stacked, int in,
                    int out, int o, const float *x)
{
    double sum = stacked ? plain_dot(w + o, out, x, in) : plain_dot(w + o * in, 1, x, in);
    return plain_round(m, sum + (b ? b[o] : 0));
}

static void run_expert(const struct ref_model *m, const json_t *cfg, const struct expert *e,
                       const float *x, int dim, float *y)
{
    bool gated = plain_bool(cfg, "use_gated", true);
    const char *act = plain_str(cfg, "ff_activation", "swish");
    int f = e->hidden, width = gated ? 2 * f : f;
    float *h = plain_floats(width);
    for (int o = 0; o < width; o++)
        h[o] = output(m, e->w1, e->b1, e->stacked, dim, width, o, x);
    for (int o = 0; o < f; o++) {
        float g = plain_round(m, plain_act(act, gated ? h[f + o] : h[o]));
        h[o] = gated ? plain_round(m, (double)h[o] * g) : g;
    }
    for (int o = 0; o < dim; o++)
        y[o] = output(m, e->w2, e->b2, e->stacked, f, dim, o, h);
    free(h);
}

/* A dense feed-forward or an expert of its own tensors. */
static struct expert dense_expert(const struct ref_model *m, const json_t *cfg, const char *name)
{
    bool gated = plain_bool(cfg, "use_gated", true);
    const char *fc1 = gated ? "fc1.linear" : "fc1";
    const struct file_tensor *w1 = plain_maybe(m, "%s.%s.weight", name, fc1);
    if (!w1)
        fail_msg("no tensor %s.%s.weight", name, fc1);
    return (struct expert){.w1 = w1->f,
                           .b1 = plain_weight(m, "%s.%s.bias", name, fc1),
                           .w2 = plain_weight(m, "%s.fc2.weight", name),
                           .b2 = plain_weight(m, "%s.fc2.bias", name),
                           .hidden = (int)w1->dim[0] / (gated ? 2 : 1)};
}

void plain_dense(const struct ref_model *m, const json_t *cfg, const char *name, const float *x,
                 int n, int dim, float *y)
{
    struct expert e = dense_expert(m, cfg, name);
    for (int t = 0; t < n; t++)
        run_expert(m, cfg, &e, x + t * dim, dim, y + t * dim);
}

/* Expert i of a stacked pair of tensors ("w1", "b1", ... or "shared_w1", ...). */
static struct expert stacked_expert(const struct ref_model *m, const json_t *cfg, const char *name,
                                    const char *prefix, int i, const char *bias_mode)
{
    const struct file_tensor *w1 = plain_maybe(m, "%s.%sw1", name, prefix);
    if (!w1)
        fail_msg("no tensor %s.%sw1", name, prefix);
    int dim = (int)w1->dim[1], width = (int)w1->dim[2];
    int hidden = width / (plain_bool(cfg, "use_gated", true) ? 2 : 1);
    struct expert e = {.w1 = w1->f + i * dim * width,
                       .w2 = plain_weight(m, "%s.%sw2", name, prefix) + i * hidden * dim,
                       .hidden = hidden,
                       .stacked = true};
    if (!strcmp(bias_mode, "local")) {
        e.b1 = plain_weight(m, "%s.%sb1", name, prefix) + i * width;
        e.b2 = plain_weight(m, "%s.%sb2", name, prefix) + i * dim;
    }
    return e;
}

static void softmax(const float *z, int n, double *p)
{
    double top = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++)
        top = fmax(top, z[i]);
    for (int i = 0; i < n; i++)
        sum += p[i] = exp(z[i] - top);
    for (int i = 0; i < n; i++)
        p[i] /= sum;
}

static float to_bf16(double v)
{
    return bf16_to_f32(bf16_from_f32((float)v));
}

/* Probabilities of all experts. amp: the product under bfloat16 autocast (spec 2.6). */
static void route(const float *w, bool amp, const float *x, int dim, int n, double *p)
{
    float *z = plain_floats(n);
    for (int e = 0; e < n; e++) {
        double sum = 0;
        for (int i = 0; i < dim; i++)
            sum += amp ? (double)to_bf16(x[i]) * to_bf16(w[e * dim + i])
                       : (double)x[i] * w[e * dim + i];
        z[e] = amp ? to_bf16(sum) : (float)sum;
    }
    softmax(z, n, p);
    free(z);
}

/* The shared part of one token; false if the layer has none. */
static bool shared_part(const struct ref_model *m, const json_t *cfg, const char *name, bool legacy,
                        const float *x, int dim, float *y)
{
    const char *mode = plain_str(cfg, "moe_shared_experts_bias_mode", "local");
    int n = plain_int(cfg, "num_shared_experts", 1);
    char full[220];
    if (n == 0)
        return false;
    float *one = plain_floats(dim), *z = plain_floats(n);
    double q[64] = {1};
    if (n > 1) {
        snprintf(full, sizeof full, "%s.shared_expert_gate", name);
        plain_linear(m, full, x, 1, dim, z, n);
        softmax(z, n, q);
    }
    memset(y, 0, (size_t)dim * sizeof *y);
    for (int s = 0; s < n; s++) {
        struct expert e;
        if (legacy || n == 1) {
            snprintf(full, sizeof full, legacy ? "%s.shared_experts.%d" : "%s.shared_expert", name,
                     s);
            e = dense_expert(m, cfg, full);
        } else {
            e = stacked_expert(m, cfg, name, "shared_", s, mode);
        }
        run_expert(m, cfg, &e, x, dim, one);
        for (int i = 0; i < dim; i++)
            y[i] = plain_round(m, y[i] + (double)plain_round(m, q[s] * one[i]));
    }
    const struct file_tensor *bias = plain_maybe(m, "%s.shared_experts_bias", name);
    for (int i = 0; bias && i < dim; i++)
        y[i] = plain_round(m, (double)y[i] + bias->f[i]);
    free(one);
    free(z);
    return true;
}

void plain_moe(const struct ref_model *m, const json_t *cfg, const char *name, const float *x,
               int n, int dim, float *y)
{
    int n_expert = plain_int(cfg, "num_experts", 1), top_k = plain_int(cfg, "moe_top_k", 1);
    int n_shared = plain_int(cfg, "num_shared_experts", 1);
    bool legacy = plain_maybe(m, "%s.experts.0.fc2.weight", name) != NULL;
    bool weighted = plain_bool(cfg, "moe_use_weighted_shared_experts", false);
    bool amp = plain_bool(cfg, "router_amp", false) &&
               !strcmp(plain_str(cfg, "router_dtype", "float32"), "bfloat16");
    const char *mode = plain_str(cfg, "moe_bias_mode", "global");
    const float *router = plain_weight(m, "%s.router.gate.weight", name);
    const struct file_tensor *bias = legacy ? NULL : plain_maybe(m, "%s.global_bias", name);
    float *one = plain_floats(dim), *shared = plain_floats(dim);
    double *p = calloc((size_t)n_expert, sizeof *p);
    assert_non_null(p);
    for (int t = 0; t < n; t++) {
        const float *in = x + t * dim;
        float *out = y + t * dim;
        int chosen[64];
        double sum = 1e-9;
        route(router, amp, in, dim, n_expert, p);
        for (int k = 0; k < top_k; k++) {
            int best = -1;
            for (int e = 0; e < n_expert; e++) {
                bool taken = false;
                for (int j = 0; j < k; j++)
                    taken = taken || chosen[j] == e;
                if (!taken && (best < 0 || p[e] > p[best]))
                    best = e;
            }
            chosen[k] = best;
            sum += p[best];
        }
        memset(out, 0, (size_t)dim * sizeof *out);
        for (int k = 0; k < top_k; k++) {
            struct expert e;
            if (legacy) {
                char full[220];
                snprintf(full, sizeof full, "%s.experts.%d", name, chosen[k]);
                e = dense_expert(m, cfg, full);
            } else {
                e = stacked_expert(m, cfg, name, "", chosen[k], mode);
            }
            run_expert(m, cfg, &e, in, dim, one);
            for (int i = 0; i < dim; i++)
                out[i] =
                    plain_round(m, out[i] + (double)plain_round(m, p[chosen[k]] / sum * one[i]));
        }
        double routed_share = weighted ? (double)top_k / (top_k + n_shared) : 1;
        double shared_share = weighted ? (double)n_shared / (top_k + n_shared) : 1;
        bool any = shared_part(m, cfg, name, legacy, in, dim, shared);
        for (int i = 0; i < dim; i++) {
            double v = plain_round(m, out[i] * (any ? routed_share : 1));
            v = plain_round(m, v + (bias ? bias->f[i] : 0));
            out[i] = plain_round(m, v + (any ? plain_round(m, shared[i] * shared_share) : 0));
        }
    }
    free(one);
    free(shared);
    free(p);
}
