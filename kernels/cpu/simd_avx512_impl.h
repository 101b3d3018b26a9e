/* struct vec as one zmm register; see simd_impl.h. Needs F, BW, DQ and VL. */
#ifndef RXT_CPU_SIMD_AVX512_IMPL_H
#define RXT_CPU_SIMD_AVX512_IMPL_H

#include <immintrin.h>

/* The tile of cpu/gemm_simd.c: rows, and vecs for a number of rows. */
#define SIMD_TILE_ROWS 6
#define SIMD_TILE_VECS(n_row) 4 /* up to 24 accumulators of 32 registers */

/* Vecs of cpu/measure_simd.c at a time: chains enough to hide the latency, all in registers. A
 * divisor of MEASURE_FMA_CHAINS. */
#define SIMD_FMA_VECS 12

struct vec {
    __m512 v;
};

SIMD_INLINE __mmask16 simd_first(int n)
{
    return (__mmask16)((1u << n) - 1u);
}

SIMD_INLINE struct vec vec_set(float x)
{
    return (struct vec){_mm512_set1_ps(x)};
}
SIMD_INLINE struct vec vec_load(const float *p)
{
    return (struct vec){_mm512_loadu_ps(p)};
}
SIMD_INLINE struct vec vec_load_n(const float *p, int n)
{
    if (n == VEC)
        return vec_load(p);
    return (struct vec){_mm512_maskz_loadu_ps(simd_first(n), p)};
}
SIMD_INLINE void vec_store(float *p, struct vec a)
{
    _mm512_storeu_ps(p, a.v);
}
SIMD_INLINE void vec_store_n(float *p, struct vec a, int n)
{
    if (n == VEC) {
        vec_store(p, a);
        return;
    }
    _mm512_mask_storeu_ps(p, simd_first(n), a.v);
}

SIMD_INLINE struct vec simd_widen(__m256i h)
{
    return (struct vec){_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16))};
}
SIMD_INLINE struct vec vec_load_bf16(const bf16 *p)
{
    return simd_widen(_mm256_loadu_si256((const __m256i_u *)p));
}
SIMD_INLINE struct vec vec_load_bf16_n(const bf16 *p, int n)
{
    return simd_widen(_mm256_maskz_loadu_epi16(simd_first(n), p));
}
SIMD_INLINE __m256i simd_narrow(__m512 a)
{
    __m512i u = _mm512_castps_si512(a);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    __m512i quiet = _mm512_or_si512(u, _mm512_set1_epi32(0x00400000));
    __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_mov_epi32(up, nan, quiet), 16));
}
SIMD_INLINE void vec_store_bf16(bf16 *p, struct vec a)
{
    _mm256_storeu_si256((__m256i_u *)p, simd_narrow(a.v));
}
SIMD_INLINE void vec_store_bf16_n(bf16 *p, struct vec a, int n)
{
    _mm256_mask_storeu_epi16(p, simd_first(n), simd_narrow(a.v));
}
/* Two vecs from 16 words: the low halves and the high halves, each a bfloat16. */
SIMD_INLINE void vec_load_pair(const uint32_t *p, struct vec *low, struct vec *high)
{
    __m512i u = _mm512_loadu_si512(p);
    low->v = _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
    high->v = _mm512_castsi512_ps(_mm512_and_si512(u, _mm512_set1_epi32((int)0xFFFF0000u)));
}

SIMD_INLINE struct vec vec_add(struct vec a, struct vec b)
{
    return (struct vec){_mm512_add_ps(a.v, b.v)};
}
SIMD_INLINE struct vec vec_sub(struct vec a, struct vec b)
{
    return (struct vec){_mm512_sub_ps(a.v, b.v)};
}
SIMD_INLINE struct vec vec_mul(struct vec a, struct vec b)
{
    return (struct vec){_mm512_mul_ps(a.v, b.v)};
}
SIMD_INLINE struct vec vec_div(struct vec a, struct vec b)
{
    return (struct vec){_mm512_div_ps(a.v, b.v)};
}
SIMD_INLINE struct vec vec_fma(struct vec a, struct vec b, struct vec c)
{
    return (struct vec){_mm512_fmadd_ps(a.v, b.v, c.v)};
}
SIMD_INLINE struct vec vec_max(struct vec a, struct vec b)
{
    return (struct vec){_mm512_max_ps(a.v, b.v)};
}
SIMD_INLINE struct vec vec_min(struct vec a, struct vec b)
{
    return (struct vec){_mm512_min_ps(a.v, b.v)};
}
SIMD_INLINE struct vec vec_sqrt(struct vec a)
{
    return (struct vec){_mm512_sqrt_ps(a.v)};
}
SIMD_INLINE struct vec vec_lt(struct vec a, struct vec b, struct vec x, struct vec y)
{
    return (struct vec){_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v)};
}
SIMD_INLINE struct vec vec_pick(struct vec a, int n, struct vec b)
{
    return (struct vec){_mm512_mask_mov_ps(b.v, simd_first(n), a.v)};
}
SIMD_INLINE struct vec vec_abs(struct vec a)
{
    return (struct vec){_mm512_andnot_ps(_mm512_set1_ps(-0.0f), a.v)};
}
/* The size of a with the sign of s; a >= 0. */
SIMD_INLINE struct vec vec_sign(struct vec a, struct vec s)
{
    return (struct vec){_mm512_or_ps(a.v, _mm512_and_ps(_mm512_set1_ps(-0.0f), s.v))};
}
/* 2^n from bias = n + 1.5 * 2^23, a whole number, -126 <= n <= 127. */
SIMD_INLINE struct vec vec_pow2(struct vec bias)
{
    __m512i n = _mm512_add_epi32(_mm512_castps_si512(bias.v), _mm512_set1_epi32(127));
    return (struct vec){_mm512_castsi512_ps(_mm512_slli_epi32(n, 23))};
}

SIMD_INLINE float vec_sum(struct vec a)
{
    __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
}
SIMD_INLINE float vec_top(struct vec a)
{
    __m256 s8 = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_max_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
}

#endif
