/* Sixteen floats at a time, on every instruction set with the same bits.
 *
 * A file named *_simd.c is compiled once per instruction set (kernels/CMakeLists.txt) with SIMD_ISA
 * = scalar, avx2 or avx512; SIMD(name) puts that word behind a name, and cpu/kernels_impl.h gathers
 * the functions into one table a set. `struct vec` is one zmm register, two ymm registers or an
 * array; each operation below is one rounding a lane, so a kernel written over it gives the same
 * bits everywhere. What is left to the kernel: sums along a row go through one vec accumulator
 * and vec_sum (16 fixed lanes, one fixed tree), sums over k are one vec_fma chain.
 *
 * Semantics that matter:
 *   vec_fma(a, b, c)   a * b + c, rounded once
 *   vec_max(a, b)      a > b ? a : b, so a NaN in b stays and a NaN in a does not
 *   vec_min(a, b)      a < b ? a : b
 *   vec_lt(a, b, x, y) a < b ? x : y
 *   *_n(..., n)        the first n lanes, 0 <= n <= 16; a load gives 0 in the others. Floats go
 *                      without a mask where n is 16: a branch foretold is cheaper
 *   vec_pick(a, n, b)  the first n lanes of a, the others of b
 *   vec_keep(a, n)     the first n lanes of a, 0 in the others
 *   vec_sum(a)         ((lane i + lane i+8) + 4 apart) + 2 apart) + 1 apart
 *   vec_top(a)         the largest lane by the same tree of vec_max(low, high) */
#ifndef RXT_CPU_SIMD_IMPL_H
#define RXT_CPU_SIMD_IMPL_H

#include "kernels/base/bf16.h"

#include <stdint.h>
#include <string.h>

#define VEC 16 /* lanes */

#define SIMD_JOIN_(a, b) a##_##b
#define SIMD_JOIN(a, b) SIMD_JOIN_(a, b)
#define SIMD(name) SIMD_JOIN(name, SIMD_ISA)

/* Registers are only registers where everything is inlined. Arrays need it less, and with a
 * sanitizer's checks in them the compiler would take minutes. */
#if defined(__AVX2__)
#define SIMD_INLINE static inline __attribute__((always_inline, unused))
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SIMD_INLINE static __attribute__((noinline, unused))
#else
#define SIMD_INLINE static inline __attribute__((unused))
#endif

#if defined(__AVX512F__)
#include "kernels/cpu/simd_avx512_impl.h"
#elif defined(__AVX2__)
#include "kernels/cpu/simd_avx2_impl.h"
#else
#include "kernels/cpu/simd_scalar_impl.h"
#endif

SIMD_INLINE struct vec vec_zero(void)
{
    return vec_set(0.0f);
}

SIMD_INLINE struct vec vec_keep(struct vec a, int n)
{
    return vec_pick(a, n, vec_zero());
}

/* Lanes of the next vec when n elements are left: n, at most VEC. */
SIMD_INLINE int vec_left(int32_t n)
{
    return n < VEC ? (int)n : VEC;
}

/* a rounded to bfloat16 (nearest even, NaN stays NaN), kept as float32. */
SIMD_INLINE struct vec vec_round_bf16(struct vec a)
{
    bf16 h[VEC];
    vec_store_bf16(h, a);
    return vec_load_bf16(h);
}

#endif
