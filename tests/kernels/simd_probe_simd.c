#include "kernels/cpu/simd_impl.h"

#include "kernels/cpu/math_impl.h"
#include "tests/kernels/simd_probe.h"

#define MAP(name, f)                                        \
    static void name(float *out, const float *x, int64_t n) \
    {                                                       \
        for (int64_t i = 0; i < n; i += VEC)                \
            vec_store(out + i, f(vec_load(x + i)));         \
    }

SIMD_INLINE struct vec act_relu(struct vec x)
{
    return vec_act(ACT_RELU, x);
}
SIMD_INLINE struct vec act_gelu(struct vec x)
{
    return vec_act(ACT_GELU, x);
}
SIMD_INLINE struct vec act_silu(struct vec x)
{
    return vec_act(ACT_SILU, x);
}

MAP(map_exp, vec_exp)
MAP(map_sigmoid, vec_sigmoid)
MAP(map_tanh, vec_tanh)
MAP(map_erf, vec_erf)
MAP(map_relu, act_relu)
MAP(map_gelu, act_gelu)
MAP(map_silu, act_silu)

static void all(float *out, const float *pa, const float *pb, const float *pc)
{
    struct vec a = vec_load(pa), b = vec_load(pb), c = vec_load(pc);
    const struct vec result[] = {
        vec_add(a, b),
        vec_sub(a, b),
        vec_mul(a, b),
        vec_div(a, b),
        vec_fma(a, b, c),
        vec_max(a, b),
        vec_min(a, b),
        vec_sqrt(vec_abs(a)),
        vec_abs(a),
        vec_lt(a, b, c, vec_zero()),
        vec_sign(vec_abs(a), b),
        vec_round_bf16(a),
        vec_set(pa[3]),
    };
    const int n_result = sizeof result / sizeof result[0];
    for (int i = 0; i < n_result; i++, out += VEC)
        vec_store(out, result[i]);
    *out++ = vec_sum(a);
    *out++ = vec_top(a);
    for (int n = 0; n <= VEC; n++) {
        bf16 half[VEC];
        vec_store(out, vec_load_n(pa, n));
        vec_store_n(out + VEC, b, n);
        vec_store(out + 2 * VEC, vec_pick(a, n, b));
        vec_store_bf16(half, a);
        vec_store_bf16_n(half, b, n);
        vec_store_n(out + VEC + n, vec_load_bf16_n(half, VEC - n), VEC - n);
        out += 3 * VEC;
    }
    uint32_t word[VEC];
    for (uint32_t i = 0; i < VEC; i++)
        word[i] = 0x3F803F00u + i * 0x00110007u;
    struct vec low, high;
    vec_load_pair(word, &low, &high);
    vec_store(out, low);
    vec_store(out + VEC, high);
}

const struct probes SIMD(probes) = {
    .map[PROBE_EXP] = map_exp,
    .map[PROBE_SIGMOID] = map_sigmoid,
    .map[PROBE_TANH] = map_tanh,
    .map[PROBE_ERF] = map_erf,
    .map[PROBE_RELU] = map_relu,
    .map[PROBE_GELU] = map_gelu,
    .map[PROBE_SILU] = map_silu,
    .all = all,
};
