/* The functions that exist once per instruction set, and the table that holds a set.
 *
 * Each is a task function of the pool (cpu/pool_impl.h): items [first, last) of the job that `job`
 * points to, with the thread's own scratch. A new one is a row here and a function
 * SIMD(name) in a *_simd.c file. */
#ifndef RXT_CPU_KERNELS_IMPL_H
#define RXT_CPU_KERNELS_IMPL_H

#include <stdint.h>

/* One a line, sorted. */
#define KERNELS(X)   \
    X(attend)        \
    X(convert_rows)  \
    X(finite_rows)   \
    X(gate_blend)    \
    X(gate_memories) \
    X(gate_status)   \
    X(gemm)          \
    X(mean_rows)     \
    X(measure_fma)   \
    X(measure_read)  \
    X(moe_round)     \
    X(moe_route)     \
    X(moe_sum)       \
    X(norm_rows)     \
    X(sample_rows)   \
    X(store_keys)

struct kernels {
#define KERNELS_FIELD(name) \
    void (*name)(const void *job, int32_t first, int32_t last, void *scratch);
    KERNELS(KERNELS_FIELD)
#undef KERNELS_FIELD
};

extern const struct kernels kernels_scalar;
#if defined(__x86_64__)
extern const struct kernels kernels_avx2, kernels_avx512;
#endif

#if defined(SIMD_ISA) /* in a *_simd.c file: their prototypes */
#define KERNELS_PROTOTYPE(name) \
    void SIMD(name)(const void *job, int32_t first, int32_t last, void *scratch);
KERNELS(KERNELS_PROTOTYPE)
#undef KERNELS_PROTOTYPE
#endif

#endif
