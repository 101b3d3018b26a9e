/* measure.cu - what the card could do at most: multiply-adds, reads from L2, reads from DRAM.
 * Launch   8 blocks of 256 an SM; a run is timed with events, the best one counts. */
#include "kernels/cuda/device_impl.cuh"

#define CHAINS 8
#define ROUNDS 4096
#define CACHE_BYTES ((size_t)8 << 20)
#define DRAM_BYTES ((size_t)1 << 30)

static __global__ void multiply_add(float *sink)
{
    start_and_wait();
    float c[CHAINS];
    float a = 0.999f + 1e-6f * (float)threadIdx.x;
#pragma unroll
    for (int i = 0; i < CHAINS; i++)
        c[i] = (float)i;
    for (int round = 0; round < ROUNDS; round++)
#pragma unroll
        for (int i = 0; i < CHAINS; i++)
            c[i] = fmaf(c[i], a, 1.0f);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < CHAINS; i++)
        sum += c[i];
    sink[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

static __global__ void read_all(float *sink, const float4 *from, size_t n)
{
    start_and_wait();
    float sum = 0.0f;
    size_t step = (size_t)gridDim.x * blockDim.x;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        float4 v = from[i];
        sum += (v.x + v.y) + (v.z + v.w);
    }
    sink[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

struct measure {
    struct cuda_lane *ln;
    cudaEvent_t begin, end;
    unsigned blocks;
    float *sink;
    const float4 *memory;
};

/* One run; seconds in *out. bytes 0: multiply-adds. */
static cudaError_t run(const struct measure *m, size_t bytes, double *out)
{
    float ms = 0.0f;
    cudaError_t e = cudaEventRecord(m->begin, m->ln->stream);
    if (e != cudaSuccess)
        return e;
    if (bytes == 0)
        LAUNCH(multiply_add, m->blocks, 256, 0, m->ln, m->sink);
    else
        LAUNCH(read_all, m->blocks, 256, 0, m->ln, m->sink, m->memory, bytes / sizeof(float4));
    e = cuda_done(m->ln) == RXT_OK ? cudaSuccess : cudaErrorLaunchFailure;
    if (e == cudaSuccess)
        e = cudaEventRecord(m->end, m->ln->stream);
    if (e == cudaSuccess)
        e = cudaEventSynchronize(m->end);
    if (e == cudaSuccess)
        e = cudaEventElapsedTime(&ms, m->begin, m->end);
    *out = (double)ms * 1e-3;
    return e;
}

/* Amount of work a second in the best of all runs within the budget. */
static cudaError_t best_rate(const struct measure *m, size_t bytes, double amount, double budget,
                             double *out)
{
    double best = 1e30, spent = 0.0;
    while (spent < budget) {
        double seconds = 0.0;
        cudaError_t e = run(m, bytes, &seconds);
        if (e != cudaSuccess)
            return e;
        spent += seconds + 1e-6;
        if (seconds > 0.0 && seconds < best)
            best = seconds;
    }
    *out = amount / best;
    return cudaSuccess;
}

static cudaError_t measure_all(struct measure *m, int milliseconds, struct backend_ceiling *out)
{
    double part = (double)milliseconds * 1e-3 / 3;
    double flops = 2.0 * CHAINS * ROUNDS * 256 * m->blocks;
    cudaError_t e = cudaEventCreateWithFlags(&m->begin, cudaEventDefault);
    if (e == cudaSuccess)
        e = cudaEventCreateWithFlags(&m->end, cudaEventDefault);
    if (e == cudaSuccess)
        e = best_rate(m, 0, flops, part, &out->flops);
    if (e == cudaSuccess)
        e = best_rate(m, CACHE_BYTES, (double)CACHE_BYTES, part, &out->cache_bytes_s);
    if (e == cudaSuccess)
        e = best_rate(m, DRAM_BYTES, (double)DRAM_BYTES, part, &out->dram_bytes_s);
    if (m->begin)
        (void)cudaEventDestroy(m->begin);
    if (m->end)
        (void)cudaEventDestroy(m->end);
    return e;
}

extern "C" enum rxt_status cuda_measure(struct backend *b, int milliseconds,
                                        struct backend_ceiling *out)
{
    struct cuda_backend *be = cuda_backend(b);
    struct lane_limits limits = {};
    limits.max_rows = limits.max_seq = limits.max_keys = limits.max_width = 1;
    struct lane *ln = nullptr;
    int n_sm = 0;
    TRY(cuda_check(be, cudaDeviceGetAttribute(&n_sm, cudaDevAttrMultiProcessorCount, 0)));
    TRY(lane_create(&ln, b, LANE_ANSWER, &limits));
    struct measure m = {};
    m.ln = cuda_lane(ln);
    m.blocks = 8u * (unsigned)n_sm;
    m.sink = (float *)cuda_alloc(b, (size_t)m.blocks * 256 * sizeof(float));
    void *memory = cuda_alloc(b, DRAM_BYTES);
    m.memory = (const float4 *)memory;
    enum rxt_status st = RXT_ENOMEM;
    if (m.sink && memory)
        st = cuda_check(be, measure_all(&m, milliseconds, out));
    cuda_free(b, memory);
    cuda_free(b, m.sink);
    lane_destroy(&ln);
    return st;
}
