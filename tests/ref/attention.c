#include "tests/ref/ref.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

void ref_rope(enum ref_mode mode, float *x, int dim, const float *angle)
{
    for (int i = 0; i < dim / 2; i++) {
        float a = ref_round(mode, angle[i]);
        float c = ref_round(mode, cos((double)a)), s = ref_round(mode, sin((double)a));
        float u = x[2 * i], v = x[2 * i + 1];
        if (mode == REF_BF16) {
            x[2 * i] = ref_round(mode, ref_round(mode, u * c) - ref_round(mode, v * s));
            x[2 * i + 1] = ref_round(mode, ref_round(mode, u * s) + ref_round(mode, v * c));
        } else {
            x[2 * i] = (float)((double)u * c - (double)v * s);
            x[2 * i + 1] = (float)((double)u * s + (double)v * c);
        }
    }
}

/* Rows of n_head heads, rotated by position first + row if there are angles. */
static float *rotated(enum ref_mode mode, const float *x, int n_row, int n_head, int dim,
                      const float *angle, int first)
{
    size_t n = (size_t)n_row * (size_t)n_head * (size_t)dim;
    float *y = malloc(n * sizeof *y);
    assert(y);
    for (size_t i = 0; i < n; i++)
        y[i] = x[i];
    for (int r = 0; angle && r < n_row; r++)
        for (int h = 0; h < n_head; h++)
            ref_rope(mode, y + (r * n_head + h) * dim, dim, angle + (first + r) * (dim / 2));
    return y;
}

/* out[dim] = softmax(q . k / sqrt(dim)) v over n_key keys, `stride` values apart. In bf16 mode the
 * numerators are rounded, below a maximum that is a power of 2 (kernels/cuda/attend_impl.h). */
static void attend(enum ref_mode mode, float *out, const float *q, const float *k, const float *v,
                   int n_key, int stride, int dim)
{
    double *p = malloc((size_t)n_key * sizeof *p);
    assert(p);
    double top = -INFINITY, sum = 0;
    for (int t = 0; t < n_key; t++) {
        p[t] = 0;
        for (int i = 0; i < dim; i++)
            p[t] += (double)q[i] * k[t * stride + i];
        p[t] /= sqrt(dim);
        top = fmax(top, p[t]);
    }
    if (mode == REF_BF16)
        top = ceil(top / log(2)) * log(2);
    for (int t = 0; t < n_key; t++) {
        p[t] = exp(p[t] - top);
        if (mode == REF_BF16)
            p[t] = ref_round(mode, p[t]);
        sum += p[t];
    }
    for (int i = 0; i < dim; i++) {
        double o = 0;
        for (int t = 0; t < n_key; t++)
            o += p[t] * v[t * stride + i];
        out[i] = ref_round(mode, o / sum);
    }
    free(p);
}

void ref_attention(enum ref_mode mode, float *out, const struct ref_attention *a)
{
    int n_q = a->heads.n_q, n_kv = a->heads.n_kv, dim = a->heads.dim;
    int n_out = n_q > n_kv ? n_q : n_kv;
    float *q = rotated(mode, a->q, a->n_row, n_q, dim, a->angle_q, a->first);
    float *k = rotated(mode, a->k, a->n_key, n_kv, dim, a->angle_k, 0);
    for (int r = 0; r < a->n_row; r++)
        for (int h = 0; h < n_out; h++) {
            int hq = h % n_q, hk = n_q >= n_kv ? h / (n_q / n_kv) : h; /* spec 2.4 */
            float *o = out + (r * n_out + h) * dim;
            attend(mode, o, q + (r * n_q + hq) * dim, k + hk * dim, a->v + hk * dim,
                   a->causal ? a->first + r + 1 : a->n_key, n_kv * dim, dim);
            for (int i = 0; a->gate && i < dim; i++) {
                float g = ref_act(mode, a->heads.gate, a->gate[(r * n_out + h) * dim + i]);
                o[i] = ref_round(mode, (double)o[i] * g);
            }
        }
    free(q);
    free(k);
}
