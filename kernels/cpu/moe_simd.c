#include "kernels/cpu/simd_impl.h"

#include "kernels/cpu/math_impl.h"
#include "kernels/cpu/moe_impl.h"

#include <math.h>

/* rounded[r,:] = x[r,:] as bf16. */
void SIMD(moe_round)(const void *arg, int32_t first, int32_t last, void *scratch)
{
    (void)scratch;
    const struct moe_job *job = arg;
    int32_t dim = job->w->dim;
    for (int32_t r = first; r < last; r++) {
        const float *x = job->x + r * job->x_stride;  // x[r,:]
        float *out = job->rounded + (int64_t)r * dim; // rounded[r,:]
        for (int32_t i = 0; i < dim; i += VEC) {
            int n = vec_left(dim - i);
            vec_store_n(out + i, vec_round_bf16(vec_load_n(x + i, n)), n);
        }
    }
}

/* Softmax in place. */
static void softmax(float *p, int32_t n, bool round_bf16)
{
    struct vec top = vec_set(-INFINITY);
    for (int32_t i = 0; i < n; i += VEC) {
        int k = vec_left(n - i);
        struct vec v = vec_load_n(p + i, k);
        if (round_bf16)
            v = vec_round_bf16(v);
        vec_store_n(p + i, v, k);
        top = vec_max(top, vec_pick(v, k, top)); /* lanes that are not there must not win */
    }
    struct vec most = vec_set(vec_top(top)), sum = vec_zero();
    for (int32_t i = 0; i < n; i += VEC) {
        int k = vec_left(n - i);
        struct vec e = vec_keep(vec_exp(vec_sub(vec_load_n(p + i, k), most)), k);
        sum = vec_add(sum, e);
        vec_store_n(p + i, e, k);
    }
    struct vec all = vec_set(vec_sum(sum));
    for (int32_t i = 0; i < n; i += VEC) {
        int k = vec_left(n - i);
        vec_store_n(p + i, vec_div(vec_load_n(p + i, k), all), k);
    }
}

/* The n_best largest of p by rank, the lower index first among equals; NaN is less than nothing. */
static void choose(int32_t *expert, const float *p, int32_t n, int32_t n_best)
{
    for (int32_t i = 0; i < n; i++) {
        int32_t at = i < n_best ? i : n_best;
        while (at > 0 && p[i] > p[expert[at - 1]]) {
            if (at < n_best)
                expert[at] = expert[at - 1];
            at--;
        }
        if (at < n_best)
            expert[at] = i;
    }
}

/* logits -> expert, share; shared_logits -> their parts. */
void SIMD(moe_route)(const void *arg, int32_t first, int32_t last, void *scratch)
{
    (void)scratch;
    const struct moe_job *job = arg;
    const struct cpu_moe *w = job->w;
    for (int32_t r = first; r < last; r++) {
        float *p = job->logits + (int64_t)r * w->n_expert;     // logits[r,:]
        int32_t *expert = job->expert + (int64_t)r * w->top_k; // expert[r,:]
        float *share = job->share + (int64_t)r * w->top_k;     // share[r,:]
        softmax(p, w->n_expert, w->router_bf16);
        choose(expert, p, w->n_expert, w->top_k);
        float sum = 0.0f;
        for (int32_t k = 0; k < w->top_k; k++)
            sum += p[expert[k]];
        for (int32_t k = 0; k < w->top_k; k++)
            share[k] = p[expert[k]] / (sum + 1e-9f);
        if (w->n_shared > 1)
            softmax(job->shared_logits + (int64_t)r * w->n_shared, w->n_shared, false);
    }
}

/* x[r,:] += routed + shared, from the results in y. */
void SIMD(moe_sum)(const void *arg, int32_t first, int32_t last, void *scratch)
{
    (void)scratch;
    const struct moe_job *job = arg;
    const struct cpu_moe *w = job->w;
    for (int32_t r = first; r < last; r++) {
        const int32_t *slot = job->slot + (int64_t)r * w->top_k;
        const float *share = job->share + (int64_t)r * w->top_k;
        const float *part = job->shared_logits + (int64_t)r * w->n_shared;
        float *x = job->x + r * job->x_stride; // x[r,:]
        for (int32_t i = 0; i < w->dim; i += VEC) {
            int n = vec_left(w->dim - i);
            struct vec sum = vec_zero();
            for (int32_t k = 0; k < w->top_k; k++) {
                const float *y = job->y + (int64_t)slot[k] * w->dim + i; // y[slot,i:]
                sum = vec_fma(vec_set(share[k]), vec_load_n(y, n), sum);
            }
            sum = vec_fma(sum, vec_set(w->routed_scale), vec_load_n(w->bias + i, n));
            struct vec shared = vec_zero();
            for (int32_t s = 0; s < w->n_shared; s++) {
                int64_t at = job->first_shared + (int64_t)s * job->n_row + r;
                const float *y = job->y + at * w->dim + i; // y[at,i:]
                struct vec a = vec_set(w->n_shared > 1 ? part[s] : 1.0f);
                shared = vec_fma(a, vec_load_n(y, n), shared);
            }
            shared = vec_add(shared, vec_load_n(w->shared_bias + i, n));
            sum = vec_fma(shared, vec_set(w->shared_scale), sum);
            vec_store_n(x + i, vec_add(vec_load_n(x + i, n), sum), n);
        }
    }
}
