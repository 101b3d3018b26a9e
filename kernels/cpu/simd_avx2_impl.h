/* struct vec as two ymm registers; see simd_impl.h. Needs AVX2 and FMA. */
#ifndef RXT_CPU_SIMD_AVX2_IMPL_H
#define RXT_CPU_SIMD_AVX2_IMPL_H

#include <immintrin.h>

/* The tile of cpu/gemm_simd.c: rows, and vecs for a number of rows. */
#define SIMD_TILE_ROWS 6
#define SIMD_TILE_VECS(n_row) \
    ((n_row) == 1 ? 4 : (n_row) <= 3 ? 2 : 1) /* 8 to 12 of 16 registers */

/* Vecs of cpu/measure_simd.c at a time: chains enough to hide the latency, all in registers. A
 * divisor of MEASURE_FMA_CHAINS. */
#define SIMD_FMA_VECS 6

struct vec {
    __m256 lo, hi;
};

/* Applies an intrinsic of two or one operands to both halves. */
#define SIMD_BOTH2(f, a, b) ((struct vec){f((a).lo, (b).lo), f((a).hi, (b).hi)})
#define SIMD_BOTH1(f, a) ((struct vec){f((a).lo), f((a).hi)})

SIMD_INLINE __m256i simd_first(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

SIMD_INLINE struct vec vec_set(float x)
{
    return (struct vec){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
SIMD_INLINE struct vec vec_load(const float *p)
{
    return (struct vec){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
SIMD_INLINE struct vec vec_load_n(const float *p, int n)
{
    if (n == VEC)
        return vec_load(p);
    struct vec a = {_mm256_maskload_ps(p, simd_first(n)), _mm256_setzero_ps()};
    if (n > 8)
        a.hi = _mm256_maskload_ps(p + 8, simd_first(n - 8));
    return a;
}
SIMD_INLINE void vec_store(float *p, struct vec a)
{
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}
SIMD_INLINE void vec_store_n(float *p, struct vec a, int n)
{
    if (n == VEC) {
        vec_store(p, a);
        return;
    }
    _mm256_maskstore_ps(p, simd_first(n), a.lo);
    if (n > 8)
        _mm256_maskstore_ps(p + 8, simd_first(n - 8), a.hi);
}

SIMD_INLINE __m256 simd_widen(__m128i h)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
SIMD_INLINE struct vec vec_load_bf16(const bf16 *p)
{
    return (struct vec){simd_widen(_mm_loadu_si128((const __m128i_u *)p)),
                        simd_widen(_mm_loadu_si128((const __m128i_u *)(p + 8)))};
}
SIMD_INLINE struct vec vec_load_bf16_n(const bf16 *p, int n)
{
    bf16 h[VEC] = {0};
    memcpy(h, p, (size_t)n * sizeof *p);
    return vec_load_bf16(h);
}
SIMD_INLINE __m128i simd_narrow(__m256 a)
{
    __m256i u = _mm256_castps_si256(a);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i up = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x00400000));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    __m256i w = _mm256_srli_epi32(_mm256_blendv_epi8(up, quiet, nan), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));
}
SIMD_INLINE void vec_store_bf16(bf16 *p, struct vec a)
{
    _mm_storeu_si128((__m128i_u *)p, simd_narrow(a.lo));
    _mm_storeu_si128((__m128i_u *)(p + 8), simd_narrow(a.hi));
}
SIMD_INLINE void vec_store_bf16_n(bf16 *p, struct vec a, int n)
{
    bf16 h[VEC];
    vec_store_bf16(h, a);
    memcpy(p, h, (size_t)n * sizeof *p);
}
/* Two vecs from 16 words: the low halves and the high halves, each a bfloat16. */
SIMD_INLINE void vec_load_pair(const uint32_t *p, struct vec *low, struct vec *high)
{
    __m256i a = _mm256_loadu_si256((const __m256i_u *)p);
    __m256i b = _mm256_loadu_si256((const __m256i_u *)(p + 8));
    __m256i mask = _mm256_set1_epi32((int)0xFFFF0000u);
    low->lo = _mm256_castsi256_ps(_mm256_slli_epi32(a, 16));
    low->hi = _mm256_castsi256_ps(_mm256_slli_epi32(b, 16));
    high->lo = _mm256_castsi256_ps(_mm256_and_si256(a, mask));
    high->hi = _mm256_castsi256_ps(_mm256_and_si256(b, mask));
}

SIMD_INLINE struct vec vec_add(struct vec a, struct vec b)
{
    return SIMD_BOTH2(_mm256_add_ps, a, b);
}
SIMD_INLINE struct vec vec_sub(struct vec a, struct vec b)
{
    return SIMD_BOTH2(_mm256_sub_ps, a, b);
}
SIMD_INLINE struct vec vec_mul(struct vec a, struct vec b)
{
    return SIMD_BOTH2(_mm256_mul_ps, a, b);
}
SIMD_INLINE struct vec vec_div(struct vec a, struct vec b)
{
    return SIMD_BOTH2(_mm256_div_ps, a, b);
}
SIMD_INLINE struct vec vec_fma(struct vec a, struct vec b, struct vec c)
{
    return (struct vec){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
SIMD_INLINE struct vec vec_max(struct vec a, struct vec b)
{
    return SIMD_BOTH2(_mm256_max_ps, a, b);
}
SIMD_INLINE struct vec vec_min(struct vec a, struct vec b)
{
    return SIMD_BOTH2(_mm256_min_ps, a, b);
}
SIMD_INLINE struct vec vec_sqrt(struct vec a)
{
    return SIMD_BOTH1(_mm256_sqrt_ps, a);
}
SIMD_INLINE struct vec vec_lt(struct vec a, struct vec b, struct vec x, struct vec y)
{
    return (struct vec){_mm256_blendv_ps(y.lo, x.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
                        _mm256_blendv_ps(y.hi, x.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
}
SIMD_INLINE struct vec vec_pick(struct vec a, int n, struct vec b)
{
    return (struct vec){_mm256_blendv_ps(b.lo, a.lo, _mm256_castsi256_ps(simd_first(n))),
                        _mm256_blendv_ps(b.hi, a.hi, _mm256_castsi256_ps(simd_first(n - 8)))};
}
SIMD_INLINE struct vec vec_abs(struct vec a)
{
    __m256 sign = _mm256_set1_ps(-0.0f);
    return (struct vec){_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
/* The size of a with the sign of s; a >= 0. */
SIMD_INLINE struct vec vec_sign(struct vec a, struct vec s)
{
    __m256 sign = _mm256_set1_ps(-0.0f);
    return (struct vec){_mm256_or_ps(a.lo, _mm256_and_ps(sign, s.lo)),
                        _mm256_or_ps(a.hi, _mm256_and_ps(sign, s.hi))};
}
SIMD_INLINE __m256 simd_pow2(__m256 bias)
{
    __m256i n = _mm256_add_epi32(_mm256_castps_si256(bias), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(n, 23));
}
/* 2^n from bias = n + 1.5 * 2^23, a whole number, -126 <= n <= 127. */
SIMD_INLINE struct vec vec_pow2(struct vec bias)
{
    return SIMD_BOTH1(simd_pow2, bias);
}

SIMD_INLINE float vec_sum(struct vec a)
{
    __m256 s8 = _mm256_add_ps(a.lo, a.hi);
    __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
}
SIMD_INLINE float vec_top(struct vec a)
{
    __m256 s8 = _mm256_max_ps(a.lo, a.hi);
    __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_max_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
}

#endif
