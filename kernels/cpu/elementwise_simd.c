#include "kernels/cpu/simd_impl.h"

#include "kernels/cpu/elementwise_impl.h"

/* Element (r,c) of t and the lanes after it, widened. */
SIMD_INLINE struct vec load_any(const struct tensor *t, int32_t r, int32_t c, int lanes)
{
    int64_t at = r * t->stride + c;
    if (t->dtype == DTYPE_BF16)
        return vec_load_bf16_n((const bf16 *)t->data + at, lanes);
    return vec_load_n((const float *)t->data + at, lanes);
}

void SIMD(convert_rows)(const void *arg, int32_t first, int32_t last, void *scratch)
{
    (void)scratch;
    const struct convert_job *job = arg;
    for (int32_t r = first; r < last; r++)
        for (int32_t c = 0; c < job->x.cols; c += VEC) {
            int lanes = vec_left(job->x.cols - c);
            struct vec x = load_any(&job->x, r, c, lanes);
            int64_t at = r * job->out.stride + c;
            if (job->out.dtype == DTYPE_BF16)
                vec_store_bf16_n((bf16 *)job->out.data + at, x, lanes);
            else
                vec_store_n((float *)job->out.data + at, x, lanes);
        }
}

/* 0 * x is 0 for every finite x and NaN for all others; a sum keeps it. */
void SIMD(finite_rows)(const void *arg, int32_t first, int32_t last, void *scratch)
{
    (void)scratch;
    const struct finite_job *job = arg;
    struct vec sum = vec_zero();
    for (int32_t r = first; r < last; r++)
        for (int32_t c = 0; c < job->x.cols; c += VEC)
            sum = vec_fma(load_any(&job->x, r, c, vec_left(job->x.cols - c)), vec_zero(), sum);
    if (!(vec_sum(sum) == 0.0f))
        atomic_store_explicit(job->bad, true, memory_order_relaxed);
}

void SIMD(mean_rows)(const void *arg, int32_t first, int32_t last, void *scratch)
{
    (void)scratch;
    const struct mean_job *job = arg;
    struct vec n = vec_set((float)job->n);
    for (int32_t r = first; r < last; r++)
        for (int32_t c = 0; c < job->out.cols; c += VEC) {
            int lanes = vec_left(job->out.cols - c);
            struct vec sum = load_any(&job->x[0], r, c, lanes);
            for (int32_t i = 1; i < job->n; i++)
                sum = vec_add(sum, load_any(&job->x[i], r, c, lanes));
            vec_store_n((float *)job->out.data + r * job->out.stride + c, vec_div(sum, n), lanes);
        }
}
