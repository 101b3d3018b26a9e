/* What the micro-benchmarks of design-gpu A.5 share: checked calls, bounded spins, medians, rows.
 *
 * Each program measures one assumption of the plan on the card it runs on, checks the data it moved
 * or the sums it made, and prints TSV rows: metric, value, unit, assumed, ratio (value / assumed),
 * decision. A wrong datum, a CUDA fault or a spin over 2 s ends it with a message and exit code 1
 * before any row is printed. */
#ifndef RXT_TOOLS_BENCH_CUDA_BENCH_CUH
#define RXT_TOOLS_BENCH_CUDA_BENCH_CUH

#include <cuda_runtime.h>

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <vector>

/* ---- host ---------------------------------------------------------------------------------- */

[[noreturn]] __attribute__((format(printf, 1, 2))) static void die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("bench: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

/* Written by kernels; lies in host memory, so that it can be read after a trap. */
struct fault {
    unsigned int spun;  /* not 0: a loop waited longer than SPIN_LIMIT_NS */
    unsigned int wrong; /* not 0: so many values of one thread were not what was sent */
};
static struct fault *fault_host, *fault_device;

static void check(cudaError_t e, const char *call, const char *file, int line)
{
    if (e == cudaSuccess)
        return;
    if (fault_host && fault_host->spun)
        fprintf(stderr, "bench: a block waited longer than 2 s for another and gave up\n");
    die("%s: %s (%s:%d)", call, cudaGetErrorString(e), file, line);
}
#define CUDA(call) check((call), #call, __FILE__, __LINE__)

/* Waits for the device and ends the program if a kernel saw a wrong value. */
static void finish(const char *what)
{
    CUDA(cudaGetLastError());
    CUDA(cudaDeviceSynchronize());
    if (fault_host->wrong)
        die("%s: wrong data, %u values of one thread alone", what, fault_host->wrong);
}

/* The card; ends the program without one of compute capability 9.0. */
static cudaDeviceProp open_card()
{
    int n = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e != cudaSuccess || n == 0)
        die("no CUDA device: %s", e == cudaSuccess ? "none found" : cudaGetErrorString(e));
    cudaDeviceProp card;
    CUDA(cudaSetDevice(0));
    CUDA(cudaGetDeviceProperties(&card, 0));
    if (card.major != 9 || card.minor != 0)
        die("%s has compute capability %d.%d; these kernels are for 9.0", card.name, card.major,
            card.minor);
    CUDA(cudaHostAlloc(&fault_host, sizeof *fault_host, cudaHostAllocMapped));
    *fault_host = {};
    CUDA(cudaHostGetDevicePointer(&fault_device, fault_host, 0));
    return card;
}

/* Zeroed device memory, for the life of the program. */
template <typename T> static T *device_array(size_t n)
{
    T *p = nullptr;
    CUDA(cudaMalloc(&p, n * sizeof(T)));
    CUDA(cudaMemset(p, 0, n * sizeof(T)));
    return p;
}

template <typename T> static std::vector<T> download(const T *p, size_t n)
{
    std::vector<T> v(n);
    CUDA(cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost));
    return v;
}

static double median(std::vector<double> v)
{
    std::sort(v.begin(), v.end());
    return v[v.size() / 2];
}

/* Runs `launch` once to warm up, then `n` times; the median of the milliseconds by events. */
template <typename F> static double median_ms(int n, F launch)
{
    cudaEvent_t start, stop;
    CUDA(cudaEventCreate(&start));
    CUDA(cudaEventCreate(&stop));
    launch();
    finish("warm-up");
    std::vector<double> ms;
    for (int i = 0; i < n; i++) {
        float t = 0;
        CUDA(cudaEventRecord(start));
        launch();
        CUDA(cudaEventRecord(stop));
        finish("measured run");
        CUDA(cudaEventElapsedTime(&t, start, stop));
        ms.push_back(t);
    }
    CUDA(cudaEventDestroy(start));
    CUDA(cudaEventDestroy(stop));
    return median(ms);
}

/* One row; assumed NAN where the plan assumes nothing, decision NULL where the row settles none. */
static void row(const char *metric, double value, const char *unit, double assumed = NAN,
                const char *decision = nullptr)
{
    static bool started;
    if (!started)
        puts("metric\tvalue\tunit\tassumed\tratio\tdecision");
    started = true;
    if (isnan(assumed))
        printf("%s\t%.4g\t%s\t-\t-\t%s\n", metric, value, unit, decision ? decision : "-");
    else
        printf("%s\t%.4g\t%s\t%.4g\t%.3f\t%s\n", metric, value, unit, assumed, value / assumed,
               decision ? decision : "-");
}

/* ---- device -------------------------------------------------------------------------------- */

constexpr uint64_t SPIN_LIMIT_NS = 2000000000;

__device__ inline uint64_t global_ns()
{
    uint64_t t;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t)::"memory");
    return t;
}

__device__ inline uint32_t sm_id()
{
    uint32_t id;
    asm volatile("mov.u32 %0, %%smid;" : "=r"(id));
    return id;
}

/* Bounds a spin: call poll() once a round. It looks at the clock every `every` rounds. */
struct spin {
    uint32_t every = 1024, rounds = 0;
    uint64_t start = 0;

    __device__ void poll(struct fault *fault)
    {
        if (++rounds % every != 0)
            return;
        uint64_t now = global_ns();
        if (start == 0)
            start = now;
        if (now - start > SPIN_LIMIT_NS) {
            *(volatile unsigned int *)&fault->spun = 1;
            __threadfence_system();
            __trap();
        }
    }
};

__device__ inline void count_wrong(struct fault *fault, unsigned int n)
{
    if (n)
        *(volatile unsigned int *)&fault->wrong = n;
}

/* ---- mbarriers and bulk copies (addresses are those of the shared window) ------------------- */

__device__ inline uint32_t shared_address(const void *p)
{
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ inline void mbarrier_init(uint64_t *bar, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(arrivals)
                 : "memory");
}

/* After the inits, by the thread that made them: other blocks and the copy engine see them. */
__device__ inline void mbarrier_publish()
{
    asm volatile("fence.mbarrier_init.release.cluster;\n\t"
                 "fence.proxy.async.shared::cta;" ::
                     : "memory");
}

__device__ inline void mbarrier_expect(uint64_t *bar, uint32_t bytes)
{
    asm volatile(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(bar)),
        "r"(bytes)
        : "memory");
}

/* Waits until the phase of this parity is over; what other blocks of the cluster pushed is seen. */
__device__ inline void mbarrier_wait(uint64_t *bar, uint32_t parity, struct fault *fault)
{
    struct spin spin;
    spin.every = 16; /* a try may sleep for a while */
    for (;;) {
        uint32_t done;
        asm volatile("{\n\t.reg .pred p;\n\t"
                     "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n\t"
                     "selp.u32 %0, 1, 0, p;\n\t}"
                     : "=r"(done)
                     : "r"(shared_address(bar)), "r"(parity)
                     : "memory");
        if (done)
            return;
        spin.poll(fault);
    }
}

__device__ inline void bulk_copy(void *dst, const void *src, uint32_t bytes, uint64_t *bar)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];" ::"r"(shared_address(dst)),
                 "l"(__cvta_generic_to_global(src)), "r"(bytes), "r"(shared_address(bar))
                 : "memory");
}

#endif
