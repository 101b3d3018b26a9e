/* struct vec as an array: the oracle of the other two, and the way under valgrind or on other
 * machines; see simd_impl.h. fmaf rounds once everywhere, in hardware or not. */
#ifndef RXT_CPU_SIMD_SCALAR_IMPL_H
#define RXT_CPU_SIMD_SCALAR_IMPL_H

#include <math.h>

/* The tile of cpu/gemm_simd.c: rows, and vecs for a number of rows. */
#define SIMD_TILE_ROWS 1
#define SIMD_TILE_VECS(n_row) 1

/* Vecs of cpu/measure_simd.c at a time: chains enough to hide the latency, all in registers. A
 * divisor of MEASURE_FMA_CHAINS. */
#define SIMD_FMA_VECS 1

struct vec {
    float v[VEC];
};

/* A vec whose lane i is the expression. */
#define SIMD_EACH(expression)         \
    do {                              \
        struct vec out_;              \
        for (int i = 0; i < VEC; i++) \
            out_.v[i] = (expression); \
        return out_;                  \
    } while (0)

SIMD_INLINE uint32_t simd_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}
SIMD_INLINE float simd_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

SIMD_INLINE struct vec vec_set(float x)
{
    SIMD_EACH(x);
}
SIMD_INLINE struct vec vec_load(const float *p)
{
    SIMD_EACH(p[i]);
}
SIMD_INLINE struct vec vec_load_n(const float *p, int n)
{
    SIMD_EACH(i < n ? p[i] : 0.0f);
}
SIMD_INLINE void vec_store_n(float *p, struct vec a, int n)
{
    for (int i = 0; i < n; i++)
        p[i] = a.v[i];
}
SIMD_INLINE void vec_store(float *p, struct vec a)
{
    vec_store_n(p, a, VEC);
}

SIMD_INLINE struct vec vec_load_bf16(const bf16 *p)
{
    SIMD_EACH(bf16_to_f32(p[i]));
}
SIMD_INLINE struct vec vec_load_bf16_n(const bf16 *p, int n)
{
    SIMD_EACH(i < n ? bf16_to_f32(p[i]) : 0.0f);
}
SIMD_INLINE void vec_store_bf16_n(bf16 *p, struct vec a, int n)
{
    for (int i = 0; i < n; i++)
        p[i] = bf16_from_f32(a.v[i]);
}
SIMD_INLINE void vec_store_bf16(bf16 *p, struct vec a)
{
    vec_store_bf16_n(p, a, VEC);
}
/* Two vecs from 16 words: the low halves and the high halves, each a bfloat16. */
SIMD_INLINE void vec_load_pair(const uint32_t *p, struct vec *low, struct vec *high)
{
    for (int i = 0; i < VEC; i++) {
        low->v[i] = simd_float(p[i] << 16);
        high->v[i] = simd_float(p[i] & 0xFFFF0000u);
    }
}

SIMD_INLINE struct vec vec_add(struct vec a, struct vec b)
{
    SIMD_EACH(a.v[i] + b.v[i]);
}
SIMD_INLINE struct vec vec_sub(struct vec a, struct vec b)
{
    SIMD_EACH(a.v[i] - b.v[i]);
}
SIMD_INLINE struct vec vec_mul(struct vec a, struct vec b)
{
    SIMD_EACH(a.v[i] * b.v[i]);
}
SIMD_INLINE struct vec vec_div(struct vec a, struct vec b)
{
    SIMD_EACH(a.v[i] / b.v[i]);
}
SIMD_INLINE struct vec vec_fma(struct vec a, struct vec b, struct vec c)
{
    SIMD_EACH(fmaf(a.v[i], b.v[i], c.v[i]));
}
SIMD_INLINE struct vec vec_max(struct vec a, struct vec b)
{
    SIMD_EACH(a.v[i] > b.v[i] ? a.v[i] : b.v[i]);
}
SIMD_INLINE struct vec vec_min(struct vec a, struct vec b)
{
    SIMD_EACH(a.v[i] < b.v[i] ? a.v[i] : b.v[i]);
}
SIMD_INLINE struct vec vec_sqrt(struct vec a)
{
    SIMD_EACH(sqrtf(a.v[i]));
}
SIMD_INLINE struct vec vec_lt(struct vec a, struct vec b, struct vec x, struct vec y)
{
    SIMD_EACH(a.v[i] < b.v[i] ? x.v[i] : y.v[i]);
}
SIMD_INLINE struct vec vec_pick(struct vec a, int n, struct vec b)
{
    SIMD_EACH(i < n ? a.v[i] : b.v[i]);
}
SIMD_INLINE struct vec vec_abs(struct vec a)
{
    SIMD_EACH(simd_float(simd_bits(a.v[i]) & 0x7FFFFFFFu));
}
/* The size of a with the sign of s; a >= 0. */
SIMD_INLINE struct vec vec_sign(struct vec a, struct vec s)
{
    SIMD_EACH(simd_float(simd_bits(a.v[i]) | (simd_bits(s.v[i]) & 0x80000000u)));
}
/* 2^n from bias = n + 1.5 * 2^23, a whole number, -126 <= n <= 127. */
SIMD_INLINE struct vec vec_pow2(struct vec bias)
{
    SIMD_EACH(simd_float((simd_bits(bias.v[i]) + 127u) << 23));
}

SIMD_INLINE float vec_sum(struct vec a)
{
    for (int half = VEC / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            a.v[i] = a.v[i] + a.v[i + half];
    return a.v[0];
}
SIMD_INLINE float vec_top(struct vec a)
{
    for (int half = VEC / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
    return a.v[0];
}

#endif
