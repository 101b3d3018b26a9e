/* exp, sigmoid, tanh, erf and the activations over struct vec: our own polynomials, so that every
 * instruction set and every libm gives the same bits. Coefficients: minimax (Remez) fits of this
 * project, rounded to float32. Largest errors against double libm (test_simd): exp 1.05 ulp,
 * sigmoid 2.05, tanh 1.55, erf 1.3, silu 2.9; gelu the same where it is not tiny. NaN in, NaN out.
 */
#ifndef RXT_CPU_MATH_IMPL_H
#define RXT_CPU_MATH_IMPL_H

#include "kernels/backend.h"
#include "kernels/cpu/simd_impl.h"

/* e^x for x <= 0: all that softmax and the functions below ask for. Below -87.3, where float32
 * leaves its normal range, 0. x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 is taken off in two parts
 * so that r keeps its low bits. */
SIMD_INLINE struct vec vec_exp(struct vec x)
{
    const struct vec magic = vec_set(0x1.8p23f); /* adding it rounds to a whole number */
    struct vec low = vec_max(vec_set(-87.5f), x);
    struct vec bias = vec_fma(low, vec_set(0x1.715476p0f), magic);
    struct vec n = vec_sub(bias, magic);
    struct vec r = vec_fma(n, vec_set(-0x1.62e4p-1f), low);
    r = vec_fma(n, vec_set(-0x1.7f7d1cp-20f), r);
    struct vec p = vec_set(0x1.6d75e6p-10f);
    p = vec_fma(p, r, vec_set(0x1.120be6p-7f));
    p = vec_fma(p, r, vec_set(0x1.5554b8p-5f));
    p = vec_fma(p, r, vec_set(0x1.5554dcp-3f));
    p = vec_fma(p, r, vec_set(0x1.0p-1f));
    p = vec_fma(vec_mul(r, r), p, r);
    p = vec_mul(vec_add(p, vec_set(1.0f)), vec_pow2(bias));
    return vec_lt(x, vec_set(-87.3f), vec_zero(), p);
}

/* 1 / (1 + e^-x), written with e^-|x| so that nothing overflows. */
SIMD_INLINE struct vec vec_sigmoid(struct vec x)
{
    struct vec one = vec_set(1.0f);
    struct vec e = vec_exp(vec_sub(vec_zero(), vec_abs(x)));
    return vec_div(vec_lt(x, vec_zero(), e, one), vec_add(one, e));
}

SIMD_INLINE struct vec vec_tanh(struct vec x)
{
    struct vec one = vec_set(1.0f), t = vec_abs(x), z = vec_mul(x, x);
    struct vec p = vec_set(-0x1.8d4b84p-8f);
    p = vec_fma(p, z, vec_set(0x1.57a79ep-6f));
    p = vec_fma(p, z, vec_set(-0x1.b91cb6p-5f));
    p = vec_fma(p, z, vec_set(0x1.110dfep-3f));
    p = vec_fma(p, z, vec_set(-0x1.555552p-2f));
    struct vec near = vec_fma(vec_mul(x, z), p, x);
    struct vec e = vec_exp(vec_mul(t, vec_set(-2.0f)));
    struct vec far = vec_sign(vec_div(vec_sub(one, e), vec_add(one, e)), x);
    return vec_lt(t, vec_set(0.625f), near, far);
}

SIMD_INLINE struct vec vec_erf(struct vec x)
{
    struct vec one = vec_set(1.0f), t = vec_abs(x), z = vec_mul(x, x);
    struct vec p = vec_set(0x1.5ebd84p-14f);
    p = vec_fma(p, z, vec_set(-0x1.aad912p-11f));
    p = vec_fma(p, z, vec_set(0x1.54da22p-8f));
    p = vec_fma(p, z, vec_set(-0x1.b8108cp-6f));
    p = vec_fma(p, z, vec_set(0x1.ce2e22p-4f));
    p = vec_fma(p, z, vec_set(-0x1.812744p-2f));
    p = vec_fma(p, z, vec_set(0x1.06eba80p-3f));
    struct vec near = vec_fma(p, x, x);
    /* log erfc on [0.92, 4]; erf(4) rounds to 1 */
    struct vec u = vec_min(vec_set(4.0f), t);
    struct vec q = vec_set(-0x1.07e132p-16f);
    q = vec_fma(q, u, vec_set(0x1.77f6f6p-12f));
    q = vec_fma(q, u, vec_set(-0x1.e840dap-9f));
    q = vec_fma(q, u, vec_set(0x1.8478fap-6f));
    q = vec_fma(q, u, vec_set(-0x1.b0eff2p-4f));
    q = vec_fma(q, u, vec_set(-0x1.45adccp-1f));
    q = vec_fma(q, u, vec_set(-0x1.20c144p0f));
    q = vec_fma(q, u, vec_set(-0x1.99ea66p-13f));
    struct vec far = vec_sign(vec_sub(one, vec_exp(q)), x);
    return vec_lt(t, vec_set(0.92f), near, far);
}

/* act(x) of spec 2.6; GELU is the erf form. */
SIMD_INLINE struct vec vec_act(enum act act, struct vec x)
{
    switch (act) {
    case ACT_RELU: /* a NaN stays */
        return vec_max(vec_zero(), x);
    case ACT_GELU:
        return vec_mul(vec_mul(x, vec_set(0.5f)),
                       vec_add(vec_erf(vec_mul(x, vec_set(0x1.6a09e6p-1f))), vec_set(1.0f)));
    case ACT_SILU:
        return vec_mul(x, vec_sigmoid(x));
    case ACT_SIGMOID:
        return vec_sigmoid(x);
    case ACT_NONE:
    case ACT_LINEAR:
        break;
    }
    return x;
}

#endif
