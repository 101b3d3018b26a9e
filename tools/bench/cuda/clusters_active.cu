/* clusters_active.cu - how many clusters of 8 are resident at once (design-gpu A.5, E.4): on the
 * whole card, and inside SM partitions (green contexts) of 112 and 100 SMs, which the driver may
 * round up. The driver's answer is checked: that many clusters are launched and wait for each
 * other. Blocks have 256 threads and 120 KB of shared memory, so one an SM.
 *
 * The driver's functions come from cudaGetDriverEntryPointByVersion: nothing links libcuda. */
#include "tools/bench/cuda/bench.cuh"

#include <cudaTypedefs.h>

constexpr unsigned int BLOCKS = 8;
constexpr int THREADS = 256, SHARED = 120 * 1024;

/* Every block waits until n have come. */
__global__ void __cluster_dims__(BLOCKS, 1, 1) __launch_bounds__(THREADS, 1)
    rendezvous(uint32_t *come, uint32_t n, uint32_t *sm, struct fault *fault)
{
    if (threadIdx.x != 0)
        return;
    sm[blockIdx.x] = sm_id();
    atomicAdd(come, 1);
    struct spin spin;
    for (;;) {
        uint32_t now;
        asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(come) : "memory");
        if (now >= n)
            return;
        spin.poll(fault);
    }
}

/* The number the driver says for a stream's SMs, once that many clusters have met there. */
static int clusters_on(cudaStream_t stream, unsigned int n_sm)
{
    cudaLaunchAttribute cluster;
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {BLOCKS, 1, 1};
    cudaLaunchConfig_t config = {};
    config.gridDim = BLOCKS;
    config.blockDim = THREADS;
    config.dynamicSmemBytes = SHARED;
    config.stream = stream;
    config.attrs = &cluster;
    config.numAttrs = 1;
    int n = 0;
    CUDA(cudaOccupancyMaxActiveClusters(&n, rendezvous, &config));
    if (n < 1)
        die("no cluster of 8 fits on %u SMs", n_sm);
    const unsigned int blocks = (unsigned int)n * BLOCKS;
    uint32_t *come = device_array<uint32_t>(1), *sm = device_array<uint32_t>(blocks);
    CUDA(cudaDeviceSynchronize());
    config.gridDim = blocks;
    CUDA(cudaLaunchKernelEx(&config, rendezvous, come, blocks, sm, fault_device));
    CUDA(cudaStreamSynchronize(stream));
    std::vector<uint32_t> where = download(sm, blocks);
    std::sort(where.begin(), where.end());
    const size_t distinct = (size_t)(std::unique(where.begin(), where.end()) - where.begin());
    if (distinct != blocks || blocks > n_sm)
        die("%u blocks met on %zu of %u SMs; one an SM was wanted", blocks, distinct, n_sm);
    return n;
}

/* A driver function by name and the CUDA version that brought this form of it. */
template <typename F> static F driver(const char *name, unsigned int version)
{
    void *f = nullptr;
    cudaDriverEntryPointQueryResult found;
    CUDA(cudaGetDriverEntryPointByVersion(name, &f, version, cudaEnableDefault, &found));
    if (found != cudaDriverEntryPointSuccess)
        die("the driver has no %s of CUDA %u", name, version);
    return reinterpret_cast<F>(f);
}

static void driver_check(CUresult r, const char *what)
{
    if (r != CUDA_SUCCESS)
        die("%s: driver error %d", what, (int)r);
}

struct partition {
    unsigned int n_sm, rest;
    int clusters;
};

static struct partition measure_partition(unsigned int n_sm)
{
    const auto resource_of =
        driver<PFN_cuDeviceGetDevResource_v12040>("cuDeviceGetDevResource", 12040);
    const auto split =
        driver<PFN_cuDevSmResourceSplitByCount_v12040>("cuDevSmResourceSplitByCount", 12040);
    const auto describe =
        driver<PFN_cuDevResourceGenerateDesc_v12040>("cuDevResourceGenerateDesc", 12040);
    const auto create = driver<PFN_cuGreenCtxCreate_v12040>("cuGreenCtxCreate", 12040);
    const auto destroy = driver<PFN_cuGreenCtxDestroy_v12040>("cuGreenCtxDestroy", 12040);
    const auto stream_of =
        driver<PFN_cuGreenCtxStreamCreate_v12050>("cuGreenCtxStreamCreate", 12050);

    CUdevResource all, part, rest;
    CUdevResourceDesc desc;
    CUgreenCtx context;
    CUstream stream;
    unsigned int groups = 1;
    driver_check(resource_of(0, &all, CU_DEV_RESOURCE_TYPE_SM), "cuDeviceGetDevResource");
    driver_check(split(&part, &groups, &all, &rest, 0, n_sm), "cuDevSmResourceSplitByCount");
    if (groups != 1 || part.sm.smCount < n_sm)
        die("the card gives no partition of %u SMs", n_sm);
    driver_check(describe(&desc, &part, 1), "cuDevResourceGenerateDesc");
    driver_check(create(&context, desc, 0, CU_GREEN_CTX_DEFAULT_STREAM), "cuGreenCtxCreate");
    driver_check(stream_of(&stream, context, CU_STREAM_NON_BLOCKING, 0), "cuGreenCtxStreamCreate");
    const struct partition p = {part.sm.smCount, rest.sm.smCount,
                                clusters_on(stream, part.sm.smCount)};
    CUDA(cudaStreamDestroy(stream));
    driver_check(destroy(context), "cuGreenCtxDestroy");
    return p;
}

int main()
{
    const cudaDeviceProp card = open_card();
    CUDA(cudaFuncSetAttribute(rendezvous, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED));
    const int whole = clusters_on(nullptr, (unsigned int)card.multiProcessorCount);
    const struct partition large = measure_partition(112), small = measure_partition(100);
    row("clusters_card", whole, "clusters of 8", 16,
        whole >= 16 ? "clusters of 8" : "fall back to clusters of 4");
    row("clusters_112", large.clusters, "clusters of 8", 14,
        large.clusters >= 14 ? "4 home and 10 routed clusters fit" : "fall back to clusters of 4");
    row("clusters_112_sms", large.n_sm, "SMs");
    row("clusters_112_rest_sms", large.rest, "SMs", 20);
    row("clusters_100", small.clusters, "clusters of 8");
    row("clusters_100_sms", small.n_sm, "SMs");
    row("clusters_100_rest_sms", small.rest, "SMs", 32);
    return 0;
}
