/* Blocks that pull a buffer through their shared memory with the copy engine, nothing else. Chunk i
 * goes to block i mod grid; each block keeps `stages` chunks in flight in a ring. The buffer is
 * many times L2, so a pass over it is a pass over DRAM. */
#ifndef RXT_TOOLS_BENCH_CUDA_PULL_CUH
#define RXT_TOOLS_BENCH_CUDA_PULL_CUH

#include "tools/bench/cuda/bench.cuh"

constexpr size_t PULL_BYTES = (size_t)72 * 80 * 1024 * 768; /* 4.5 GB: whole 72 KB slices for 80 */
constexpr uint32_t PULL_THREADS = 256, PULL_MAX_STAGES = 16;
constexpr uint32_t PULL_SHARED = 150 * 1024; /* more than half of an SM: one block on each */

__device__ inline uint32_t pull_word(uint32_t i)
{
    return i * 2654435761u + 12345u;
}

static __global__ void pull_fill(uint32_t *dst, uint32_t n)
{
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        dst[i] = pull_word(i);
}

/* With `verify` all threads compare every word they pulled; without, one thread only waits. */
template <bool verify>
__global__ void __launch_bounds__(PULL_THREADS, 1)
    pull(const uint32_t *src, uint32_t n_chunk, uint32_t chunk_bytes, uint32_t stages,
         struct fault *fault)
{
    extern __shared__ __align__(128) unsigned char ring[];
    __shared__ uint64_t full[PULL_MAX_STAGES];
    const uint32_t words = chunk_bytes / 4;
    const uint32_t mine = (n_chunk - blockIdx.x + gridDim.x - 1) / gridDim.x;
    const auto issue = [&](uint32_t i, uint32_t slot) {
        const size_t chunk = blockIdx.x + (size_t)i * gridDim.x;
        mbarrier_expect(&full[slot], chunk_bytes);
        bulk_copy(ring + slot * chunk_bytes, src + chunk * words, chunk_bytes, &full[slot]);
    };
    if (threadIdx.x == 0) {
        for (uint32_t i = 0; i < stages; i++)
            mbarrier_init(&full[i], 1);
        mbarrier_publish();
        for (uint32_t i = 0; i < stages && i < mine; i++)
            issue(i, i);
    }
    __syncthreads();
    if (!verify && threadIdx.x != 0)
        return;
    unsigned int wrong = 0;
    uint32_t slot = 0, parity = 0;
    for (uint32_t i = 0; i < mine; i++) {
        mbarrier_wait(&full[slot], parity, fault);
        if (verify) {
            const uint32_t *got = reinterpret_cast<uint32_t *>(ring + slot * chunk_bytes);
            const uint32_t first = (blockIdx.x + i * gridDim.x) * words;
            for (uint32_t w = threadIdx.x; w < words; w += blockDim.x)
                wrong += got[w] != pull_word(first + w);
            __syncthreads();
        }
        if (threadIdx.x == 0 && i + stages < mine)
            issue(i + stages, slot);
        if (++slot == stages) {
            slot = 0;
            parity ^= 1;
        }
    }
    count_wrong(fault, wrong);
}

/* The filled buffer; sets the shared memory of both kernels. */
static uint32_t *pull_open()
{
    uint32_t *src = device_array<uint32_t>(PULL_BYTES / 4);
    pull_fill<<<1024, 256>>>(src, (uint32_t)(PULL_BYTES / 4));
    finish("fill");
    CUDA(
        cudaFuncSetAttribute(pull<true>, cudaFuncAttributeMaxDynamicSharedMemorySize, PULL_SHARED));
    CUDA(cudaFuncSetAttribute(pull<false>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              PULL_SHARED));
    return src;
}

/* Median milliseconds of a pass over the whole buffer, after one that compares every word. */
static double pull_ms(const uint32_t *src, int blocks, uint32_t chunk_bytes, uint32_t stages)
{
    const uint32_t n_chunk = (uint32_t)(PULL_BYTES / chunk_bytes);
    if (PULL_BYTES % chunk_bytes || stages > PULL_MAX_STAGES ||
        stages * chunk_bytes > PULL_SHARED || n_chunk < (uint32_t)blocks)
        die("pull: %u stages of %u bytes do not fit", stages, chunk_bytes);
    pull<true>
        <<<blocks, PULL_THREADS, PULL_SHARED>>>(src, n_chunk, chunk_bytes, stages, fault_device);
    finish("pull");
    return median_ms(15, [&] {
        pull<false><<<blocks, PULL_THREADS, PULL_SHARED>>>(src, n_chunk, chunk_bytes, stages,
                                                           fault_device);
    });
}

#endif
