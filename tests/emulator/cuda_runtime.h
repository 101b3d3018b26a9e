/* What a .cu file uses of CUDA C++, for the host's compiler; see emulator.h. */
#ifndef RXT_EMULATOR_CUDA_RUNTIME_H
#define RXT_EMULATOR_CUDA_RUNTIME_H

#include <math.h>
#include <string.h>

#include "tests/emulator/cuda_runtime_api.h"
#include "tests/emulator/emulator.h"

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __grid_constant__
#define __launch_bounds__(...)

struct uint2 {
    uint32_t x, y;
};
struct uint4 {
    uint32_t x, y, z, w;
};
struct int4 {
    int32_t x, y, z, w;
};
struct float2 {
    float x, y;
};
struct float4 {
    float x, y, z, w;
};

#define threadIdx emulated_thread
#define blockIdx emulated_block
#define blockDim emulated_block_dim
#define gridDim emulated_grid_dim

static inline void __syncthreads()
{
    emulator_sync_block();
}
static inline void __syncwarp()
{
    emulator_sync_warp();
}
static inline uint32_t __float_as_uint(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}
static inline float __uint_as_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
static inline float __shfl_xor_sync(uint32_t, float v, int mask)
{
    unsigned lane = emulated_thread.x % 32;
    return __uint_as_float((uint32_t)emulator_exchange(__float_as_uint(v), lane ^ (unsigned)mask));
}
static inline int32_t __shfl_sync(uint32_t, int32_t v, int from)
{
    return (int32_t)emulator_exchange((uint32_t)v, (unsigned)from);
}
static inline float __shfl_sync(uint32_t, float v, int from)
{
    return __uint_as_float((uint32_t)emulator_exchange(__float_as_uint(v), (unsigned)from));
}
static inline int32_t __shfl_xor_sync(uint32_t, int32_t v, int mask)
{
    return (int32_t)emulator_exchange((uint32_t)v, emulated_thread.x % 32 ^ (unsigned)mask);
}
static inline bool __any_sync(uint32_t, bool yes)
{
    int32_t any = yes;
    for (int apart = 16; apart > 0; apart /= 2)
        any |= __shfl_xor_sync(0xFFFFFFFFu, any, apart);
    return any;
}
static inline uint32_t __ballot_sync(uint32_t, bool yes)
{
    int32_t lanes = yes ? (int32_t)(1u << emulated_thread.x % 32) : 0;
    for (int apart = 16; apart > 0; apart /= 2)
        lanes |= __shfl_xor_sync(0xFFFFFFFFu, lanes, apart);
    return (uint32_t)lanes;
}
static inline int32_t min(int32_t a, int32_t b)
{
    return a < b ? a : b;
}
static inline void __threadfence()
{
}
static inline void __trap() /* the host learns of it where it waits */
{
    emulator_fail(EMULATED_WAIT);
}
template <class T> static inline T __ldcg(const T *p)
{
    return *p;
}
static inline uint64_t __shfl_up_sync(uint32_t, uint64_t v, unsigned apart)
{
    unsigned lane = emulated_thread.x % 32;
    return emulator_exchange(v, lane < apart ? lane : lane - apart);
}
static inline unsigned long long __shfl_up_sync(uint32_t, unsigned long long v, unsigned apart)
{
    unsigned lane = emulated_thread.x % 32;
    return emulator_exchange(v, lane < apart ? lane : lane - apart);
}
static inline float __shfl_up_sync(uint32_t, float v, unsigned apart)
{
    unsigned lane = emulated_thread.x % 32;
    return __uint_as_float(
        (uint32_t)emulator_exchange(__float_as_uint(v), lane < apart ? lane : lane - apart));
}
static inline uint32_t __shfl_xor_sync(uint32_t, uint32_t v, int mask)
{
    return (uint32_t)emulator_exchange(v, emulated_thread.x % 32 ^ (unsigned)mask);
}
static inline unsigned long long __shfl_xor_sync(uint32_t, unsigned long long v, int mask)
{
    return emulator_exchange(v, emulated_thread.x % 32 ^ (unsigned)mask);
}
static inline uint32_t __reduce_max_sync(uint32_t lanes, uint32_t v)
{
    for (int apart = 16; apart > 0; apart /= 2) {
        uint32_t other = __shfl_xor_sync(lanes, v, apart);
        v = other > v ? other : v;
    }
    return v;
}
static inline int32_t __reduce_max_sync(uint32_t lanes, int32_t v)
{
    return (int32_t)(__reduce_max_sync(lanes, (uint32_t)v ^ 0x80000000u) ^ 0x80000000u);
}
template <class T> static inline T __ldcs(const T *p)
{
    return *p;
}
static inline int __popc(uint32_t v)
{
    return __builtin_popcount(v);
}
static inline uint32_t atomicOr(uint32_t *p, uint32_t v)
{
    uint32_t old = *p;
    *p |= v;
    return old;
}
static inline int32_t atomicAdd(int32_t *p, int32_t v)
{
    int32_t old = *p;
    *p += v;
    return old;
}
static inline unsigned long long atomicAdd(unsigned long long *p, unsigned long long v)
{
    unsigned long long old = *p;
    *p += v;
    return old;
}

static inline void emulate_mma_k16(float c[4], uint4 a, uint32_t b0, uint32_t b1)
{
    const uint32_t aw[4] = {a.x, a.y, a.z, a.w}, bw[2] = {b0, b1};
    emulator_mma(c, aw, bw, 16);
}
static inline void emulate_mma_k8(float c[4], uint2 a, uint32_t b)
{
    const uint32_t aw[2] = {a.x, a.y};
    emulator_mma(c, aw, &b, 8);
}

/* 0, 1, ... n - 1. */
template <size_t... i> struct numbers {
};
template <size_t n, size_t... i> struct numbers_below : numbers_below<n - 1, n - 1, i...> {
};
template <size_t... i> struct numbers_below<0, i...> {
    typedef numbers<i...> type;
};

/* Kernels with parameters P. */
template <class... P> struct emulated_caller {
    template <size_t... i> static void call(void (*kernel)(P...), void *const *param, numbers<i...>)
    {
        kernel(*(const P *)param[i]...);
    }
    static void run(const void *kernel, void *const *param)
    {
        call((void (*)(P...))kernel, param, typename numbers_below<sizeof...(P)>::type());
    }
};
template <class... P> static const void *emulated_entry(void (*kernel)(P...))
{
    static const size_t size[] = {sizeof(P)...};
    return emulator_know({(const void *)kernel, emulated_caller<P...>::run, sizeof...(P), size, 0});
}

#define KERNEL_ENTRY(kernel) (emulated_entry(kernel))
#define DYNAMIC_SHARED(type, name) type *name = (type *)emulator_shared()

#endif
