#include "tests/ref/ref.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_EXPERT = 256, MAX_DIM = 4096 };

static void softmax(double *p, const float *logit, int n)
{
    double top = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++)
        top = logit[i] > top ? logit[i] : top;
    for (int i = 0; i < n; i++)
        sum += p[i] = exp(logit[i] - top);
    for (int i = 0; i < n; i++)
        p[i] /= sum;
}

/* logits[E] = Wr x, in the router's own precision. */
static void route(enum ref_mode mode, float *logit, const float *x, const struct moe_desc *d)
{
    enum ref_mode router = d->router_bf16 ? REF_BF16 : mode;
    const float *w = d->router.data;
    for (int e = 0; e < d->n_expert; e++) {
        double sum = 0;
        for (int k = 0; k < d->router.cols; k++)
            sum += (double)ref_round(router, x[k]) * ref_round(router, w[e * d->router.cols + k]);
        logit[e] = ref_round(router, sum);
    }
}

static int best(const double *p, const bool *taken, int n)
{
    int at = -1;
    for (int i = 0; i < n; i++)
        if (!taken[i] && (at < 0 || p[i] > p[at]))
            at = i;
    return at;
}

/* sum[D] += weight * y, one expert after another. */
static void add_expert(enum ref_mode mode, float *sum, const float *y, double weight, int dim)
{
    for (int i = 0; i < dim; i++)
        sum[i] = ref_round(mode, (double)sum[i] + ref_round(mode, weight * y[i]));
}

static void finish(enum ref_mode mode, float *sum, double scale, const struct host_vector *bias,
                   bool scale_first, int dim)
{
    for (int i = 0; i < dim; i++) {
        double b = bias->data ? ((const float *)bias->data)[i] : 0;
        double first = ref_round(mode, scale_first ? sum[i] * scale : sum[i] + b);
        sum[i] = ref_round(mode, scale_first ? first + b : first * scale);
    }
}

static void moe_row(enum ref_mode mode, float *out, const float *x, const struct moe_desc *d)
{
    int dim = d->router.cols, n = d->n_expert, n_shared = d->n_shared;
    float logit[MAX_EXPERT], y[MAX_DIM], shared[MAX_DIM];
    double p[MAX_EXPERT], chosen = 0;
    bool taken[MAX_EXPERT];
    int expert[MAX_EXPERT];
    assert(n <= MAX_EXPERT && n_shared <= MAX_EXPERT && dim <= MAX_DIM);
    double all = d->top_k + n_shared;
    double routed_scale = d->weighted_shared ? d->top_k / all : 1;
    double shared_scale = d->weighted_shared ? n_shared / all : 1;
    memset(out, 0, sizeof *out * (size_t)dim);
    memset(shared, 0, sizeof shared);
    memset(taken, 0, sizeof taken);

    route(mode, logit, x, d);
    softmax(p, logit, n);
    for (int k = 0; k < d->top_k; k++) {
        expert[k] = best(p, taken, n);
        taken[expert[k]] = true;
        chosen += p[expert[k]];
    }
    for (int k = 0; k < d->top_k; k++) {
        ref_ff(mode, y, x, 1, &d->expert[expert[k]]);
        add_expert(mode, out, y, p[expert[k]] / (chosen + 1e-9), dim);
    }
    finish(mode, out, routed_scale, &d->global_bias, true, dim);
    if (n_shared == 0)
        return;
    if (n_shared > 1) {
        ref_linear(mode, logit, x, 1, &d->shared_gate, NULL);
        softmax(p, logit, n_shared);
    }
    for (int s = 0; s < n_shared; s++) {
        ref_ff(mode, y, x, 1, &d->shared[s]);
        add_expert(mode, shared, y, n_shared > 1 ? p[s] : 1, dim);
    }
    finish(mode, shared, shared_scale, &d->shared_bias, false, dim);
    ref_add(mode, out, shared, dim);
}

void ref_moe(enum ref_mode mode, float *out, const float *x, int n_row, const struct moe_desc *d)
{
    for (int r = 0; r < n_row; r++)
        moe_row(mode, out + r * d->router.cols, x + r * d->router.cols, d);
}
