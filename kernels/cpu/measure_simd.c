#include "kernels/cpu/simd_impl.h"

#include "kernels/cpu/measure_impl.h"

/* Multiply-adds in registers. */
void SIMD(measure_fma)(const void *arg, int32_t first, int32_t last, void *scratch)
{
    (void)arg;
    float *out = scratch;
    struct vec a[MEASURE_FMA_CHAINS], b = vec_set(out[0] + 0.5f);
#pragma GCC unroll 12
    for (int j = 0; j < MEASURE_FMA_CHAINS; j++)
        a[j] = vec_set((float)j);
    for (int64_t i = 0; i < (int64_t)(last - first) * MEASURE_FMA_ROUNDS; i++) {
#pragma GCC unroll 12
        for (int j = 0; j < MEASURE_FMA_CHAINS; j++)
            a[j] = vec_fma(a[j], b, b);
    }
    struct vec sum = a[0];
    for (int j = 1; j < MEASURE_FMA_CHAINS; j++)
        sum = vec_add(sum, a[j]);
    out[1] = vec_sum(sum);
}

/* Loads, with as little else as possible. */
void SIMD(measure_read)(const void *arg, int32_t first, int32_t last, void *scratch)
{
    const struct measure_job *job = arg;
    const char *from = job->from + (size_t)first * MEASURE_READ_BYTES;
    size_t n = (size_t)(last - first) * MEASURE_READ_BYTES / sizeof(float);
    const float *p = (const float *)(const void *)from;
    struct vec a[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++)
        a[j] = vec_zero();
    for (size_t i = 0; i < n; i += 4 * VEC) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            a[j] = vec_max(a[j], vec_load(p + i + (size_t)j * VEC));
    }
    ((float *)scratch)[1] = vec_top(vec_max(vec_max(a[0], a[1]), vec_max(a[2], a[3])));
}
