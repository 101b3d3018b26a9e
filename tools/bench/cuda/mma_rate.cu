/* mma_rate.cu - what an SM does a clock where memory attention is bound (design-gpu A.5, E.2):
 * score tiles q k^T of N = 128 slots and K = 32, head size 32, by mma.sync and by wgmma, and
 * exponentials ex2 in f32 and bf16x2.
 *
 * Shapes: q [64,32] and k [128,32] bf16 of small integers, so that every sum is exact and checked.
 * Launch, mma.sync: 3 blocks of 4 warps an SM; a warp takes 32 rows and 64 slots at a time, k by
 * ldmatrix. wgmma: a block of 3 warpgroups an SM, 64 rows each, q in registers. ex2: a block of
 * 1,024 threads an SM, 8 chains x <- 2^-x a thread, which end at 0.6412.
 *
 * Peak: 4,096 flop a clock and SM, dense bf16. Clocks are the SM's own (clock64), from the start of
 * its first warp to the end of its last, so the card's frequency does not matter. */
#include "tools/bench/cuda/bench.cuh"

#include <cuda_bf16.h>

#include <map>

constexpr int K = 32, N = 128, Q_ROWS = 64;
constexpr int WARP_ROWS = 32, MMA_THREADS = 128, MMA_BLOCKS = 3;
constexpr int GROUP_ROWS = 64, GROUPS = 3, WGMMA_THREADS = GROUPS * 128;
constexpr int EX2_THREADS = 1024, CHAINS = 8;
constexpr int TILES = 8192, EX2_STEPS = 8192;
constexpr double PEAK = 4096;

struct span {
    uint32_t sm;
    long long start, stop;
};

__device__ struct span *my_span(struct span *spans)
{
    return &spans[(blockIdx.x * blockDim.x + threadIdx.x) / 32];
}

__device__ void record_start(struct span *spans)
{
    if (threadIdx.x % 32 == 0)
        my_span(spans)->start = clock64();
}

__device__ void record_stop(struct span *spans)
{
    if (threadIdx.x % 32 == 0) {
        my_span(spans)->stop = clock64();
        my_span(spans)->sm = sm_id();
    }
}

/* k as the kernels of design-gpu keep it: rows of 64 bytes, 16-byte chunk c of row r at place
 * c ^ (r >> 1 & 3). ldmatrix reads it without bank conflicts, wgmma calls it the 64-byte swizzle.
 */
__device__ void load_k(__nv_bfloat16 *to, const __nv_bfloat16 *k)
{
    for (int i = threadIdx.x; i < N * K / 8; i += blockDim.x) {
        const int r = i / 4, c = i % 4;
        reinterpret_cast<uint4 *>(to)[r * 4 + (c ^ (r >> 1 & 3))] =
            reinterpret_cast<const uint4 *>(k)[i];
    }
}

/* The A fragment of m16n8k16 at rows [row, row + 16), columns [col, col + 16) of q. */
__device__ void load_q(uint32_t a[4], const __nv_bfloat16 *q, int row, int col)
{
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int i = 0; i < 4; i++)
        a[i] = *reinterpret_cast<const uint32_t *>(
            &q[(row + g + i % 2 * 8) * K + col + i / 2 * 8 + t * 2]);
}

/* Compares a C fragment, rows [row, row + 16), columns [8 n, 8 n + 8), with TILES times q k^T; if
 * other is not 0, with the sum of those columns and of the ones `other` further on. */
__device__ unsigned int compare(const float *c, const float *want, int row, int n, int other)
{
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    unsigned int wrong = 0;
    for (int i = 0; i < 4; i++) {
        const float *w = &want[(row + g + i / 2 * 8) * N + n * 8 + t * 2 + i % 2];
        wrong += c[i] != TILES * (other ? w[0] + w[other] : w[0]);
    }
    return wrong;
}

/* The B fragments of 8 slots, all of K; lane l names row l % 8 of chunk l / 8. */
__device__ void load_b(uint32_t b[4], uint32_t from)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
                 : "r"(from));
}

__device__ void mma(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__global__ void __launch_bounds__(MMA_THREADS, MMA_BLOCKS)
    mma_scores(const __nv_bfloat16 *q, const __nv_bfloat16 *k, const float *want,
               struct span *spans, struct fault *fault)
{
    constexpr int half = N / 2, half_bytes = half * K * 2;
    __shared__ __align__(2 * half_bytes) __nv_bfloat16 keys[N * K];
    const int row = threadIdx.x / 32 % 2 * WARP_ROWS, lane = threadIdx.x % 32;
    uint32_t a[2][2][4];
    float c[2][half / 8][4] = {};
    load_k(keys, k);
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int s = 0; s < 2; s++)
            load_q(a[m][s], q, row + m * 16, s * 16);
    __syncthreads();
    uint32_t from = shared_address(keys) + lane % 8 * 64 + ((lane / 8 ^ (lane % 8 >> 1 & 3)) * 16);
    record_start(spans);
#pragma unroll 1
    for (int i = 0; i < 2 * TILES; i++) {
#pragma unroll
        for (int n = 0; n < half / 8; n += 2) {
            uint32_t b[2][4];
            load_b(b[0], from + n * 8 * 64);
            load_b(b[1], from + (n + 1) * 8 * 64);
#pragma unroll
            for (int s = 0; s < 2; s++)
#pragma unroll
                for (int m = 0; m < 4; m++)
                    mma(c[m % 2][n + m / 2], a[m % 2][s], b[m / 2][s * 2], b[m / 2][s * 2 + 1]);
        }
        from ^= half_bytes;
    }
    record_stop(spans);
    unsigned int wrong = 0;
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int n = 0; n < half / 8; n++)
            wrong += compare(c[m][n], want, row + m * 16, n, half);
    count_wrong(fault, wrong);
}

/* One 64 x 128 x 16 step: c += a (registers) * k (shared memory, named by its descriptor). */
__device__ void wgmma(float (&c)[64], const uint32_t a[4], uint64_t k)
{
    asm volatile("{\n\t.reg .pred add;\n\tsetp.eq.u32 add, 0, 0;\n\t"
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
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(k));
}

/* `run` tiles are issued before their results are waited for. */
template <int run>
__global__ void __launch_bounds__(WGMMA_THREADS, 1)
    wgmma_scores(const __nv_bfloat16 *q, const __nv_bfloat16 *k, const float *want,
                 struct span *spans, struct fault *fault)
{
    __shared__ __align__(1024) __nv_bfloat16 keys[N * K];
    const int row = threadIdx.x / 32 % 4 * 16; /* each warpgroup takes all 64 rows */
    uint32_t a[2][4];
    float c[64] = {};
    load_k(keys, k);
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    load_q(a[0], q, row, 0);
    load_q(a[1], q, row, 16);
    __syncthreads();
    /* Start, distance of groups of 8 rows (512 bytes), both in 16 bytes; 2 = 64-byte swizzle. */
    const uint64_t first = shared_address(keys) >> 4 | 1ull << 16 | 32ull << 32 | 2ull << 62;
    record_start(spans);
#pragma unroll 1
    for (int tile = 0; tile < TILES; tile += run) {
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int i = 0; i < run; i++) {
            wgmma(c, a[0], first);
            wgmma(c, a[1], first + 2); /* 16 columns on: 32 bytes */
        }
        asm volatile("wgmma.commit_group.sync.aligned;\n\t"
                     "wgmma.wait_group.sync.aligned 0;" ::
                         : "memory");
    }
    record_stop(spans);
    unsigned int wrong = 0;
#pragma unroll
    for (int n = 0; n < N / 8; n++)
        wrong += compare(&c[n * 4], want, row, n, 0);
    count_wrong(fault, wrong);
}

__device__ void step(float &x)
{
    asm volatile("{\n\t.reg .f32 y;\n\tneg.f32 y, %0;\n\tex2.approx.ftz.f32 %0, y;\n\t}" : "+f"(x));
}

__device__ void step(uint32_t &x) /* a pair of bf16 */
{
    asm volatile("{\n\t.reg .b32 y;\n\tneg.bf16x2 y, %0;\n\tex2.approx.ftz.bf16x2 %0, y;\n\t}"
                 : "+r"(x));
}

__device__ bool at_rest(float x)
{
    return fabsf(x - 0.641186f) < 1e-5f;
}

__device__ bool at_rest(uint32_t x) /* within one step of bf16 */
{
    return fabsf(__uint_as_float(x << 16) - 0.6412f) < 0.005f &&
           fabsf(__uint_as_float(x & 0xffff0000) - 0.6412f) < 0.005f;
}

template <typename T>
__global__ void __launch_bounds__(EX2_THREADS, 1)
    ex2(T seed, struct span *spans, struct fault *fault)
{
    T x[CHAINS];
    for (int i = 0; i < CHAINS; i++)
        x[i] = seed;
    __syncthreads();
    record_start(spans);
#pragma unroll 4
    for (int s = 0; s < EX2_STEPS; s++)
        for (int i = 0; i < CHAINS; i++)
            step(x[i]);
    record_stop(spans);
    unsigned int wrong = 0;
    for (int i = 0; i < CHAINS; i++)
        wrong += !at_rest(x[i]);
    count_wrong(fault, wrong);
}

/* Runs `launch(spans)` and divides each SM's work by its clocks: the median SM of the median run.
 */
template <typename F> static double per_clock(int warps, double work_of_warp, F launch)
{
    struct span *spans = device_array<struct span>((size_t)warps);
    std::vector<double> runs;
    for (int run = 0; run < 8; run++) {
        std::map<uint32_t, struct span> sm;
        std::map<uint32_t, int> count;
        std::vector<double> rates;
        launch(spans);
        finish("rate");
        for (const struct span &s : download(spans, (size_t)warps)) {
            struct span &all = sm.emplace(s.sm, s).first->second;
            all.start = std::min(all.start, s.start);
            all.stop = std::max(all.stop, s.stop);
            count[s.sm]++;
        }
        for (const auto &s : sm)
            rates.push_back(count[s.first] * work_of_warp /
                            (double)(s.second.stop - s.second.start));
        if (run > 0) /* the first warms up */
            runs.push_back(median(rates));
    }
    return median(runs);
}

int main()
{
    const int sms = open_card().multiProcessorCount;
    std::vector<__nv_bfloat16> q(Q_ROWS * K), k(N * K);
    std::vector<float> want(Q_ROWS * N);
    uint32_t x = 1;
    const auto draw = [&x](int limit) { /* an integer in [-limit, limit] */
                                        x = x * 1664525u + 1013904223u;
                                        return (float)((int)(x >> 16) % (2 * limit + 1) - limit);
    };
    for (auto &e : q)
        e = __float2bfloat16(draw(1));
    for (auto &e : k)
        e = __float2bfloat16(draw(2));
    for (int r = 0; r < Q_ROWS; r++)
        for (int n = 0; n < N; n++)
            for (int i = 0; i < K; i++)
                want[r * N + n] += __bfloat162float(q[r * K + i]) * __bfloat162float(k[n * K + i]);
    static_assert(TILES * K * 2 * 2 < 1 << 24, "sums are exact in f32");
    auto *dq = device_array<__nv_bfloat16>(q.size()), *dk = device_array<__nv_bfloat16>(k.size());
    auto *dwant = device_array<float>(want.size());
    CUDA(cudaMemcpy(dq, q.data(), q.size() * sizeof q[0], cudaMemcpyHostToDevice));
    CUDA(cudaMemcpy(dk, k.data(), k.size() * sizeof k[0], cudaMemcpyHostToDevice));
    CUDA(cudaMemcpy(dwant, want.data(), want.size() * sizeof want[0], cudaMemcpyHostToDevice));

    const double tile = 2.0 * N * K * TILES; /* flop of one row */
    const int mma_blocks = sms * MMA_BLOCKS;
    const double by_mma =
        per_clock(mma_blocks * MMA_THREADS / 32, tile * WARP_ROWS, [&](struct span *spans) {
            mma_scores<<<mma_blocks, MMA_THREADS>>>(dq, dk, dwant, spans, fault_device);
        });
    const auto by_wgmma = [&](auto kernel) {
        return per_clock(sms * WGMMA_THREADS / 32, tile * GROUP_ROWS / 4, [&](struct span *spans) {
            kernel<<<sms, WGMMA_THREADS>>>(dq, dk, dwant, spans, fault_device);
        });
    };
    const double long_runs = by_wgmma(wgmma_scores<8>), single = by_wgmma(wgmma_scores<1>);
    const int ex2_warps = sms * EX2_THREADS / 32;
    const double steps = 32.0 * CHAINS * EX2_STEPS;
    const double f32 = per_clock(ex2_warps, steps, [&](struct span *spans) {
        ex2<float><<<sms, EX2_THREADS>>>(0.5f, spans, fault_device);
    });
    const double pairs = per_clock(ex2_warps, steps * 2, [&](struct span *spans) {
        ex2<uint32_t><<<sms, EX2_THREADS>>>(0x3f003f00u, spans, fault_device);
    });
    row("mma_sync_percent", 100 * by_mma / PEAK, "% of peak", 62,
        by_mma >= 0.62 * PEAK ? "limits of mma.sync in E.2 stand"
                              : "limits of mma.sync in E.2 fall");
    row("wgmma_percent", 100 * long_runs / PEAK, "% of peak", 90,
        long_runs >= 0.9 * PEAK ? "limits of wgmma in E.2 stand" : "limits of wgmma in E.2 fall");
    row("wgmma_waited_percent", 100 * single / PEAK, "% of peak");
    row("ex2_f32", f32, "values/clk/SM", 16,
        f32 >= 15 ? "exponentials bind S x S as in A.2" : "the floors of A.2 rise");
    row("ex2_bf16x2", pairs, "values/clk/SM", 16,
        pairs >= 24 ? "two a slot: the S x S floor halves, test P in bf16 again"
                    : "ex2 in f32 stays");
    return 0;
}
