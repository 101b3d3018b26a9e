/* What test_simd asks of every instruction set: the operations of simd_impl.h and math_impl.h over
 * arrays. simd_probe_simd.c is compiled once for each. */
#ifndef RXT_TESTS_SIMD_PROBE_H
#define RXT_TESTS_SIMD_PROBE_H

#include <stdint.h>

enum probe {
    PROBE_EXP,
    PROBE_SIGMOID,
    PROBE_TANH,
    PROBE_ERF,
    PROBE_RELU,
    PROBE_GELU,
    PROBE_SILU,
    N_PROBE
};

struct probes {
    void (*map[N_PROBE])(float *out, const float *x, int64_t n); /* n a multiple of 16 */
    /* Every operation once over vectors of 16: out[PROBE_OUT] from a, b, c [16] each. */
    void (*all)(float *out, const float *a, const float *b, const float *c);
};
#define PROBE_OUT 1088

extern const struct probes probes_scalar;
#if defined(__x86_64__)
extern const struct probes probes_avx2, probes_avx512;
#endif

#endif
