/* The matrix instructions of a warpgroup, 4 warps from one whose number is a multiple of 4: wgmma,
 * bf16 in, float32 out. The second operand lies in shared memory; the products are under way until
 * products_wait. Where there is no wgmma the same sums by mma.sync, at once. */
#ifndef RXT_CUDA_WGMMA_IMPL_CUH
#define RXT_CUDA_WGMMA_IMPL_CUH

#include "kernels/cuda/mma_impl.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define WGMMA 1
#else
#define WGMMA 0
#endif

/* Rows of WIDTH values in shared memory, 64 or 32, the first at a multiple of ALIGN bytes. Their
 * pieces of 8 values are exchanged so that no bank is hit twice by a piece of 8 rows: what the PTX
 * ISA calls the 128-byte, or 64-byte, swizzle. */
template <int WIDTH> struct near_rows {
    static_assert(WIDTH == 64 || WIDTH == 32, "one of two swizzles");
    static constexpr int ALIGN = 8 * WIDTH * (int)sizeof(bf16);

    /* Where rows may begin, at most ALIGN bytes on. A distance, so that the compiler sees that it
     * is shared memory. */
    __device__ static bf16 *first(bf16 *shared)
    {
        return shared + -(uintptr_t)shared % ALIGN / sizeof(bf16);
    }
    /* Where piece c of row r lies, from the first row on. */
    __device__ static int32_t piece(int32_t r, int32_t c)
    {
        return r * WIDTH + (c ^ (WIDTH == 64 ? r & 7 : r >> 1 & 3)) * 8;
    }
#if WGMMA
    /* The rows for wgmma: start, distance of groups of 8 rows, both in 16 bytes; swizzle. */
    __device__ static uint64_t operand(const bf16 *rows)
    {
        uint32_t at = (uint32_t)__cvta_generic_to_shared(rows);
        return at >> 4 | 1ull << 16 | (uint64_t)(ALIGN >> 4) << 32 |
               (WIDTH == 64 ? 1ull : 2ull) << 62;
    }
#endif
};

/* What this thread wrote, or copied and waited for, is there for matrix instructions behind the
 * next barrier. */
__device__ inline void stores_before_products()
{
#if WGMMA
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
/* Ahead of products, once registers that they read or add to have changed. */
__device__ inline void products_begin()
{
#if WGMMA
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
/* What was begun since the last time is a group. */
__device__ inline void products_commit()
{
#if WGMMA
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
/* All but the last `n` groups have ended. */
template <int n> __device__ inline void products_wait()
{
#if WGMMA
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(n) : "memory");
#endif
}
/* Sums stay on their side of this place: written ahead of it, where products that add to them come
 * next, and read behind it, after the wait. Without the first the compiler makes wgmma serial. */
template <int n> __device__ inline void settle(float (&c)[n])
{
#if WGMMA
#pragma unroll
    for (int i = 0; i < n; i++)
        asm volatile("" : "+f"(c[i])::"memory");
#else
    (void)c;
#endif
}

#if WGMMA
__device__ inline void wgmma(float (&c)[64], uint4 a, uint64_t b, int32_t add)
{
    asm volatile("{\n\t.reg .pred add;\n\tsetp.ne.s32 add, %69, 0;\n\t"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                 "{%64, %65, %66, %67}, %68, add, 1, 1, 0;\n\t}"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]),
                   "+f"(c[6]), "+f"(c[7]), "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]),
                   "+f"(c[12]), "+f"(c[13]), "+f"(c[14]), "+f"(c[15]), "+f"(c[16]), "+f"(c[17]),
                   "+f"(c[18]), "+f"(c[19]), "+f"(c[20]), "+f"(c[21]), "+f"(c[22]), "+f"(c[23]),
                   "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), "+f"(c[28]), "+f"(c[29]),
                   "+f"(c[30]), "+f"(c[31]), "+f"(c[32]), "+f"(c[33]), "+f"(c[34]), "+f"(c[35]),
                   "+f"(c[36]), "+f"(c[37]), "+f"(c[38]), "+f"(c[39]), "+f"(c[40]), "+f"(c[41]),
                   "+f"(c[42]), "+f"(c[43]), "+f"(c[44]), "+f"(c[45]), "+f"(c[46]), "+f"(c[47]),
                   "+f"(c[48]), "+f"(c[49]), "+f"(c[50]), "+f"(c[51]), "+f"(c[52]), "+f"(c[53]),
                   "+f"(c[54]), "+f"(c[55]), "+f"(c[56]), "+f"(c[57]), "+f"(c[58]), "+f"(c[59]),
                   "+f"(c[60]), "+f"(c[61]), "+f"(c[62]), "+f"(c[63])
                 : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "l"(b), "r"(add)
                 : "memory");
}

__device__ inline void wgmma(float (&c)[16], uint4 a, uint64_t b, int32_t add)
{
    asm volatile("{\n\t.reg .pred add;\n\tsetp.ne.s32 add, %21, 0;\n\t"
                 "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
                 "{%16, %17, %18, %19}, %20, add, 1, 1, 0;\n\t}"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]),
                   "+f"(c[6]), "+f"(c[7]), "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]),
                   "+f"(c[12]), "+f"(c[13]), "+f"(c[14]), "+f"(c[15])
                 : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "l"(b), "r"(add)
                 : "memory");
}
#endif

/* c (+)= A B of 16 values of k, `step` of the rows: A 16 rows a warp, the fragment of mma.m16n8k16;
 * B n / 4 * 8 columns, rows of near_rows<WIDTH>. c: the sums of 8 columns behind one another, each
 * as in mma.m16n8k16. */
template <int WIDTH, int n>
__device__ inline void multiply_near(float (&c)[n], uint4 a, const bf16 *rows, int32_t step,
                                     bool add)
{
#if WGMMA
    wgmma(c, a, near_rows<WIDTH>::operand(rows) + 2 * (uint64_t)step, add); /* 32 bytes a step */
#else
    int32_t r = (int32_t)threadIdx.x % 32 / 4, at = (int32_t)threadIdx.x % 4 * 2;
#pragma unroll
    for (int j = 0; j < n / 4; j++) {
        const bf16 *low = rows + near_rows<WIDTH>::piece(8 * j + r, 2 * step) + at;
        const bf16 *high = rows + near_rows<WIDTH>::piece(8 * j + r, 2 * step + 1) + at;
#pragma unroll
        for (int i = 0; i < 4 && !add; i++)
            c[4 * j + i] = 0.0f;
        mma_k16(c + 4 * j, a, *(const uint32_t *)low, *(const uint32_t *)high);
    }
#endif
}

#endif
