#include "kernels/cpu/simd_impl.h"

#include "kernels/cpu/norm_impl.h"

#include <math.h>

static void rms(const struct cpu_norm *w, float *out, const float *x)
{
    int32_t n = w->dim;
    struct vec sum = vec_zero();
    for (int32_t i = 0; i < n; i += VEC) {
        struct vec a = vec_load_n(x + i, vec_left(n - i));
        sum = vec_fma(a, a, sum);
    }
    struct vec scale = vec_set(1.0f / sqrtf(vec_sum(sum) / (float)n + w->eps));
    for (int32_t i = 0; i < n; i += VEC) {
        int k = vec_left(n - i);
        struct vec a = vec_mul(vec_load_n(x + i, k), scale);
        vec_store_n(out + i, vec_mul(a, vec_load_n(w->weight + i, k)), k);
    }
}

static void layer(const struct cpu_norm *w, float *out, const float *x)
{
    int32_t n = w->dim;
    struct vec sum = vec_zero();
    for (int32_t i = 0; i < n; i += VEC)
        sum = vec_add(sum, vec_load_n(x + i, vec_left(n - i)));
    struct vec mean = vec_set(vec_sum(sum) / (float)n);
    sum = vec_zero();
    for (int32_t i = 0; i < n; i += VEC) {
        int k = vec_left(n - i);
        struct vec a = vec_keep(vec_sub(vec_load_n(x + i, k), mean), k);
        sum = vec_fma(a, a, sum);
    }
    struct vec scale = vec_set(1.0f / sqrtf(vec_sum(sum) / (float)n + w->eps));
    for (int32_t i = 0; i < n; i += VEC) {
        int k = vec_left(n - i);
        struct vec a = vec_mul(vec_sub(vec_load_n(x + i, k), mean), scale);
        a = vec_fma(a, vec_load_n(w->weight + i, k), vec_load_n(w->bias + i, k));
        vec_store_n(out + i, a, k);
    }
}

void SIMD(norm_rows)(const void *arg, int32_t first, int32_t last, void *scratch)
{
    (void)scratch;
    const struct norm_job *job = arg;
    for (int32_t r = first; r < last; r++) {
        float *out = job->out + r * job->out_stride;                            // out[r,:]
        const float *x = job->x + (job->row ? job->row[r] : r) * job->x_stride; // x[row[r],:]
        if (job->norm->kind == NORM_RMS)
            rms(job->norm, out, x);
        else
            layer(job->norm, out, x);
    }
}
