#include "kernels/cpu/simd_impl.h"

#include "kernels/cpu/math_impl.h"
#include "kernels/cpu/norm_impl.h"

#include <math.h>

static float mean_square(const float *x, int32_t n)
{
    struct vec sum = vec_zero();
    for (int32_t i = 0; i < n; i += VEC) {
        struct vec a = vec_load_n(x + i, vec_left(n - i));
        sum = vec_fma(a, a, sum);
    }
    return vec_sum(sum) / (float)n;
}

/* 1 / sqrt(variance + eps), and the mean. */
static float layer_factor(const float *x, int32_t n, float eps, struct vec *mean)
{
    struct vec sum = vec_zero();
    for (int32_t i = 0; i < n; i += VEC)
        sum = vec_add(sum, vec_load_n(x + i, vec_left(n - i)));
    *mean = vec_set(vec_sum(sum) / (float)n);
    sum = vec_zero();
    for (int32_t i = 0; i < n; i += VEC) {
        int k = vec_left(n - i);
        struct vec a = vec_keep(vec_sub(vec_load_n(x + i, k), *mean), k);
        sum = vec_fma(a, a, sum);
    }
    return 1.0f / sqrtf(vec_sum(sum) / (float)n + eps);
}

static void rms(const struct cpu_norm *w, float *out, const float *x)
{
    int32_t n = w->dim;
    struct vec factor = vec_set(1.0f / sqrtf(mean_square(x, n) + w->eps));
    for (int32_t i = 0; i < n; i += VEC) {
        int k = vec_left(n - i);
        struct vec a = vec_mul(vec_load_n(x + i, k), factor);
        vec_store_n(out + i, vec_mul(a, vec_load_n(w->weight + i, k)), k);
    }
}

static void layer(const struct cpu_norm *w, float *out, const float *x)
{
    int32_t n = w->dim;
    struct vec mean, factor = vec_set(layer_factor(x, n, w->eps, &mean));
    for (int32_t i = 0; i < n; i += VEC) {
        int k = vec_left(n - i);
        struct vec a = vec_mul(vec_sub(vec_load_n(x + i, k), mean), factor);
        a = vec_fma(a, vec_load_n(w->weight + i, k), vec_load_n(w->bias + i, k));
        vec_store_n(out + i, a, k);
    }
}

/* out = open * scale * normalised(x) + (1 - open) * x. The kinds that divide by the root of the
 * RMS do so twice rooted: a quirk of the model (spec 2.7). */
static void mix(const struct cpu_norm *w, float *out, const float *x, int32_t slot)
{
    int32_t n = w->dim;
    struct vec mean = vec_zero(), factor;
    if (w->kind == NORM_MIX_LAYER)
        factor = vec_set(layer_factor(x, n, w->eps, &mean));
    else if (w->kind == NORM_MIX_RMS)
        factor = vec_set(1.0f / sqrtf(sqrtf(mean_square(x, n)) + w->eps));
    else
        factor = vec_set(1.0f / sqrtf(w->ema_rms[slot] + w->eps));
    struct vec open = vec_sigmoid(vec_set(w->gate[slot])), rest = vec_sub(vec_set(1.0f), open);
    for (int32_t i = 0; i < n; i += VEC) {
        int k = vec_left(n - i);
        struct vec a = vec_load_n(x + i, k), y = vec_mul(vec_sub(a, mean), factor);
        if (w->kind == NORM_MIX_LAYER)
            y = vec_fma(y, vec_load_n(w->weight + i, k), vec_load_n(w->bias + i, k));
        struct vec scale = w->scale_by_slot ? vec_set(w->scale[slot]) : vec_load_n(w->scale + i, k);
        y = vec_fma(open, vec_mul(scale, y), vec_mul(rest, a));
        vec_store_n(out + i, y, k);
    }
}

void SIMD(norm_rows)(const void *arg, int32_t first, int32_t last, void *scratch)
{
    (void)scratch;
    const struct norm_job *job = arg;
    const struct cpu_norm *w = job->norm;
    for (int32_t r = first; r < last; r++) {
        int32_t row = job->row ? job->row[r] : r;
        float *out = job->out + r * job->out_stride;   // out[r,:]
        const float *x = job->x + row * job->x_stride; // x[row[r],:]
        if (w->kind == NORM_RMS)
            rms(w, out, x);
        else if (w->kind == NORM_LAYER)
            layer(w, out, x);
        else
            mix(w, out, x, w->n_slot > 0 ? row % w->n_slot : 0);
    }
}
