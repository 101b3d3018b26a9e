#include "kernels/cpu/simd_impl.h"

#include "kernels/cpu/measure_impl.h"

/* Chains of multiply-adds in registers: each a vec, SIMD_FMA_VECS of them at a time. x is 16 zeros,
 * which the compiler does not know: were the parts of a vec alike, it would compute one of them. */
SIMD_INLINE struct vec chains(const float *x, int64_t rounds)
{
    struct vec a[SIMD_FMA_VECS], b = vec_set(x[0] + 0.5f);
#pragma GCC unroll 12
    for (int j = 0; j < SIMD_FMA_VECS; j++)
        a[j] = vec_add(vec_load(x), vec_set((float)j));
    for (int64_t i = 0; i < rounds; i++) {
#pragma GCC unroll 12
        for (int j = 0; j < SIMD_FMA_VECS; j++)
            a[j] = vec_fma(a[j], b, b);
    }
    struct vec sum = a[0];
    for (int j = 1; j < SIMD_FMA_VECS; j++)
        sum = vec_add(sum, a[j]);
    return sum;
}

void SIMD(measure_fma)(const void *arg, int32_t first, int32_t last, void *scratch)
{
    (void)arg;
    float *out = scratch;
    for (int j = 0; j < MEASURE_FMA_CHAINS; j += SIMD_FMA_VECS)
        out[0] = vec_sum(chains(out, (int64_t)(last - first) * MEASURE_FMA_ROUNDS)) < 0
                     ? 1.0F
                     : 0.0F; /* 0 */
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
