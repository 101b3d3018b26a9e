/* What the kernels share: elements of either dtype, the activations of spec 2.6, sums of a block.
 *
 * The compiler contracts nothing (-fmad=false): a fused multiply-add is written fmaf. exp and the
 * like are the polynomials of kernels/cpu/math_impl.h, so that the f32 mode has no libm in its
 * bits. */
#ifndef RXT_CUDA_DEVICE_IMPL_CUH
#define RXT_CUDA_DEVICE_IMPL_CUH

#include "kernels/cuda/cuda_impl.h"

#include <cuda_runtime.h>
#include <math.h>
#include <string.h>

/* What the runtime calls a kernel; tests/emulator/ has its own. */
#ifndef KERNEL_ENTRY
#define KERNEL_ENTRY(kernel) ((const void *)(kernel))
#define DYNAMIC_SHARED(type, name)                                \
    extern __shared__ __align__(16) unsigned char name##_bytes[]; \
    type *name = reinterpret_cast<type *>(name##_bytes)
#endif

/* LAUNCH(kernel, grid, block, shared bytes, lane, arguments...) puts a launch on the lane's list. A
 * name with a comma goes in parentheses. */
#define LAUNCH(kernel, grid, block, shared, ln, ...) \
    launch_of((ln), KERNEL_ENTRY(kernel), (kernel), (grid), (block), (shared), __VA_ARGS__)

#ifdef __has_builtin
#define HAS_CLEAR_PADDING __has_builtin(__builtin_clear_padding)
#else
#define HAS_CLEAR_PADDING 0
#endif
#if defined(__CUDACC__) && !HAS_CLEAR_PADDING
#error "nvcc needs gcc 11 or later as its host compiler, to clear the padding of parameters"
#endif

/* A parameter as the kernel declares it; what lies between its members counts as zero. (On the
 * emulator by clang it does not: steps are replayed where padding happens to be equal.) An array of
 * structs comes last in it, and nothing with padding behind: gcc 12 clears members there. */
template <class P> static inline void launch_put(struct launch *l, int i, P value)
{
#if HAS_CLEAR_PADDING
    __builtin_clear_padding(&value);
#endif
    memcpy((char *)l + l->at[i], &value, sizeof value);
}

template <class... P, class... A>
static inline void launch_of(struct cuda_lane *ln, const void *entry, void (*)(P...), dim3 grid,
                             unsigned block, size_t shared, const A &...argument)
{
    static_assert(sizeof...(P) == sizeof...(A) && sizeof...(P) <= LAUNCH_PARAMS,
                  "as many arguments as the kernel has parameters, 15 at most");
    const size_t size[] = {sizeof(P)...};
    struct launch_shape shape = {{grid.x, grid.y, grid.z}, block, (uint32_t)shared};
    struct launch *l = launch_add(ln, entry, shape, (int)sizeof...(P), size);
    int i = 0;
    (launch_put<P>(l, i++, argument), ...);
}

/* A kernel of a list may start while the one before it runs. start_next, first thing: the next one
 * may do so. wait_for_previous, in every thread of every block: the one before it has ended, and
 * all it wrote is there. Before it a kernel may read only what no kernel of a list writes, that is
 * parameters, arguments and weights, and ask for anything (prefetch); after it, because every
 * kernel waits before it ends, all that came earlier has ended too. The emulator stops at a kernel
 * that ends without it. */
__device__ inline void start_next()
{
#ifdef __CUDACC__
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}
__device__ inline void wait_for_previous()
{
#ifdef __CUDACC__
    asm volatile("griddepcontrol.wait;" ::: "memory");
#else
    emulator_wait_for_previous();
#endif
}
/* The other way round: what starts next can also read, past L1 (__ldcg), what launches before this
 * one wrote, ahead of its own wait. */
__device__ inline void wait_and_start()
{
    wait_for_previous();
    start_next();
}
/* Both, for a kernel that has nothing to do early. */
__device__ inline void start_and_wait()
{
    start_next();
    wait_for_previous();
}

/* As it is, but the compiler does not know it: so a loop keeps one copy of its body. */
__device__ inline int32_t unknown(int32_t i)
{
#ifdef __CUDACC__
    asm volatile("" : "+r"(i));
#endif
    return i;
}

/* Arguments of an op (cuda_impl.h): n values. */
template <class V> static inline const V *args_copy(struct cuda_lane *ln, const V *from, size_t n)
{
    memcpy(args_room(ln, n * sizeof(V)), from, n * sizeof(V));
    return (const V *)args_put(ln, n * sizeof(V));
}

/* Rows of a grid whose blocks take every gridDim.y-th row. */
static inline unsigned grid_rows(int64_t n)
{
    return n < 65535 ? (unsigned)n : 65535u;
}

/* Brings what lies at p, 128 bytes, into L2. */
__device__ inline void prefetch(const void *p)
{
#ifdef __CUDACC__
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#else
    (void)p;
#endif
}

/* ---- blocks that meet ---- */

/* Counts the caller's block among the n of a launch that arrive at *count, behind all that its
 * threads wrote; true for the last, which may then read what the others wrote, past L1, and leaves
 * 0. All threads of the block call it. A rehearsal (not real) counts nothing and goes on as the
 * last. One thread's fence is enough: the barriers hand it on. */
__device__ inline bool arrives_last(int32_t *count, int32_t n, bool real)
{
    __shared__ int32_t before;
    __syncthreads();
    if (threadIdx.x == 0) {
        before = n - 1;
#ifdef __CUDACC__
        if (real)
            asm volatile("atom.add.acq_rel.gpu.global.s32 %0, [%1], 1;"
                         : "=r"(before)
                         : "l"(count)
                         : "memory");
#else
        if (real)
            before = atomicAdd(count, 1);
#endif
        if (real && before == n - 1)
            *count = 0;
    }
    __syncthreads();
    return before == n - 1;
}

/* ---- elements ---- */

template <class T> struct dtype_of;
template <> struct dtype_of<float> {
    static const enum dtype value = DTYPE_F32;
};
template <> struct dtype_of<bf16> {
    static const enum dtype value = DTYPE_BF16;
};

__device__ inline float widen(float x)
{
    return x;
}
__device__ inline float widen(bf16 h)
{
    return __uint_as_float((uint32_t)h << 16);
}

/* To nearest even; NaN stays a NaN. */
__device__ inline bf16 bf16_of(float f)
{
#ifdef __CUDA_ARCH__
    bf16 h;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return f == f ? h : (bf16)(__float_as_uint(f) >> 16 | 0x0040u); /* the card has one NaN only */
#else
    uint32_t u = __float_as_uint(f);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u)
        return (bf16)((u >> 16) | 0x0040u);
    return (bf16)((u + 0x7FFFu + ((u >> 16) & 1u)) >> 16);
#endif
}

/* Two numbers as bf16, the first in the low half. */
__device__ inline uint32_t pair_of(float low, float high)
{
#ifdef __CUDACC__
    uint32_t w;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(w) : "f"(high), "f"(low));
    return w;
#else
    return (uint32_t)bf16_of(low) | (uint32_t)bf16_of(high) << 16;
#endif
}

__device__ inline float low_of(uint32_t pair)
{
    return __uint_as_float(pair << 16);
}
__device__ inline float high_of(uint32_t pair)
{
    return __uint_as_float(pair & 0xFFFF0000u);
}

template <class T> __device__ inline T narrow(float f);
template <> __device__ inline float narrow<float>(float f)
{
    return f;
}
template <> __device__ inline bf16 narrow<bf16>(float f)
{
    return bf16_of(f);
}

/* f as T stores it. */
template <class T> __device__ inline float rounded(float f)
{
    return widen(narrow<T>(f));
}

/* Element i of a row of either dtype. */
__device__ inline float element(const void *row, enum dtype dtype, int64_t i)
{
    return dtype == DTYPE_BF16 ? widen(((const bf16 *)row)[i]) : ((const float *)row)[i];
}

/* 8 elements from i on, of a row of n; zeros behind its end. 16 bytes at once where they lie so. */
__device__ inline void load8(float v[8], const float *row, int32_t i, int32_t n)
{
    if (i + 8 <= n && (uintptr_t)(row + i) % 16 == 0) {
        float4 a = *(const float4 *)(row + i), b = *(const float4 *)(row + i + 4);
        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
        v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
        return;
    }
#pragma unroll
    for (int j = 0; j < 8; j++)
        v[j] = i + j < n ? row[i + j] : 0.0f;
}
__device__ inline void load8(float v[8], const bf16 *row, int32_t i, int32_t n)
{
    if (i + 8 <= n && (uintptr_t)(row + i) % 16 == 0) {
        uint4 a = *(const uint4 *)(row + i);
        const uint32_t word[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
        for (int j = 0; j < 8; j++)
            v[j] = __uint_as_float(j % 2 ? word[j / 2] & 0xFFFF0000u : word[j / 2] << 16);
        return;
    }
#pragma unroll
    for (int j = 0; j < 8; j++)
        v[j] = i + j < n ? widen(row[i + j]) : 0.0f;
}
__device__ inline void load8(float v[8], const void *row, enum dtype dtype, int32_t i, int32_t n)
{
    if (dtype == DTYPE_BF16)
        load8(v, (const bf16 *)row, i, n);
    else
        load8(v, (const float *)row, i, n);
}

/* The way back; nothing is written behind the end. */
__device__ inline void store8(float *row, int32_t i, int32_t n, const float v[8])
{
    if (i + 8 <= n && (uintptr_t)(row + i) % 16 == 0) {
        *(float4 *)(row + i) = {v[0], v[1], v[2], v[3]};
        *(float4 *)(row + i + 4) = {v[4], v[5], v[6], v[7]};
        return;
    }
#pragma unroll
    for (int j = 0; j < 8; j++)
        if (i + j < n)
            row[i + j] = v[j];
}
__device__ inline void store8(bf16 *row, int32_t i, int32_t n, const float v[8])
{
    if (i + 8 <= n && (uintptr_t)(row + i) % 16 == 0) {
        uint32_t word[4];
#pragma unroll
        for (int j = 0; j < 4; j++)
            word[j] = (uint32_t)bf16_of(v[2 * j]) | (uint32_t)bf16_of(v[2 * j + 1]) << 16;
        *(uint4 *)(row + i) = {word[0], word[1], word[2], word[3]};
        return;
    }
#pragma unroll
    for (int j = 0; j < 8; j++)
        if (i + j < n)
            row[i + j] = bf16_of(v[j]);
}

/* A row by a warp, 8 elements a lane at a time: where the lane begins, and the next ones. */
#define ROW_FIRST (8 * ((int32_t)threadIdx.x % 32))
#define ROW_STEP 256

/* ---- exp and what is made of it ---- */

/* The larger one; b if either is NaN. */
__device__ inline float max_or_b(float a, float b)
{
    return a > b ? a : b;
}

/* 2^n of a number n >= -127 that 1.5 * 2^23 was added to. */
__device__ inline float pow2_of(float biased)
{
    return __uint_as_float((__float_as_uint(biased) + 127u) << 23);
}

/* 2^x for x <= 0; 0 below -126.5. */
__device__ inline float exp2_below(float x)
{
    const float magic = 0x1.8p23f;
    x = max_or_b(-127.0f, x);
    float bias = x + magic;
    float f = x - (bias - magic);
    float p = 0x1.470b48p-13f;
    p = fmaf(p, f, 0x1.5f7276p-10f);
    p = fmaf(p, f, 0x1.3b270ep-7f);
    p = fmaf(p, f, 0x1.c6ae72p-5f);
    p = fmaf(p, f, 0x1.ebfbe2p-3f);
    p = fmaf(p, f, 0x1.62e432p-1f);
    p = fmaf(p, f, 1.0f);
    return p * pow2_of(bias);
}

/* e^x for x <= 0; 0 below -87.3. */
__device__ inline float exp_below(float x)
{
    const float magic = 0x1.8p23f;
    float low = max_or_b(-87.5f, x);
    float bias = fmaf(low, 0x1.715476p0f, magic);
    float n = bias - magic;
    float r = fmaf(n, -0x1.62e4p-1f, low);
    r = fmaf(n, -0x1.7f7d1cp-20f, r);
    float p = 0x1.6d75e6p-10f;
    p = fmaf(p, r, 0x1.120be6p-7f);
    p = fmaf(p, r, 0x1.5554b8p-5f);
    p = fmaf(p, r, 0x1.5554dcp-3f);
    p = fmaf(p, r, 0x1.0p-1f);
    p = fmaf(r * r, p, r);
    p = (p + 1.0f) * pow2_of(bias);
    return x < -87.3f ? 0.0f : p;
}

__device__ inline float sigmoid_of(float x)
{
    float e = exp_below(0.0f - fabsf(x));
    return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

__device__ inline float tanh_of(float x)
{
    float t = fabsf(x), z = x * x;
    float p = -0x1.8d4b84p-8f;
    p = fmaf(p, z, 0x1.57a79ep-6f);
    p = fmaf(p, z, -0x1.b91cb6p-5f);
    p = fmaf(p, z, 0x1.110dfep-3f);
    p = fmaf(p, z, -0x1.555552p-2f);
    float e = exp_below(t * -2.0f);
    return t < 0.625f ? fmaf(x * z, p, x) : copysignf((1.0f - e) / (1.0f + e), x);
}

__device__ inline float erf_of(float x)
{
    float t = fabsf(x), z = x * x;
    float p = 0x1.5ebd84p-14f;
    p = fmaf(p, z, -0x1.aad912p-11f);
    p = fmaf(p, z, 0x1.54da22p-8f);
    p = fmaf(p, z, -0x1.b8108cp-6f);
    p = fmaf(p, z, 0x1.ce2e22p-4f);
    p = fmaf(p, z, -0x1.812744p-2f);
    p = fmaf(p, z, 0x1.06eba80p-3f);
    float u = t < 4.0f ? t : 4.0f;
    float q = -0x1.07e132p-16f;
    q = fmaf(q, u, 0x1.77f6f6p-12f);
    q = fmaf(q, u, -0x1.e840dap-9f);
    q = fmaf(q, u, 0x1.8478fap-6f);
    q = fmaf(q, u, -0x1.b0eff2p-4f);
    q = fmaf(q, u, -0x1.45adccp-1f);
    q = fmaf(q, u, -0x1.20c144p0f);
    q = fmaf(q, u, -0x1.99ea66p-13f);
    float far = copysignf(1.0f - exp_below(q), x);
    return !(t >= 0.92f) ? fmaf(p, x, x) : far;
}

/* act(x), not rounded. */
__device__ inline float act_of(enum act act, float x)
{
    switch (act) {
    case ACT_RELU:
        return max_or_b(0.0f, x);
    case ACT_GELU:
        return x * 0.5f * (erf_of(x * 0x1.6a09e6p-1f) + 1.0f);
    case ACT_SILU:
        return x * sigmoid_of(x);
    case ACT_SIGMOID:
        return sigmoid_of(x);
    default:
        return x;
    }
}

/* ---- sums of a warp, and of a block ---- */

/* The sum of v over the lanes, in a fixed tree; all lanes get it. */
__device__ inline float warp_sum(float v)
{
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2)
        v = v + __shfl_xor_sync(0xFFFFFFFFu, v, apart);
    return v;
}

/* The sum of v over the N threads of a block, in a fixed tree; all threads get it. place: N floats
 * of shared memory, free again when all have returned. */
template <int N> __device__ inline float block_sum(float v, float *place)
{
    place[threadIdx.x] = v;
    for (int apart = N / 2; apart > 0; apart /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < apart)
            place[threadIdx.x] = place[threadIdx.x] + place[threadIdx.x + apart];
    }
    __syncthreads();
    float sum = place[0];
    __syncthreads();
    return sum;
}

#endif
