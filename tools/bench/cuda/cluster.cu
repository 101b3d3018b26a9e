/* cluster.cu - one exchange inside a cluster of 8 (design-gpu A.5, B.4): every block pushes 64 sums
 * to all 8 (st.async, bytes counted by the receiver's mbarrier), waits for the 512 and reads them.
 * Shapes   [512] f32, 2 buffers by parity. 128 threads push 16 bytes each, 256 read 2 values each.
 * Launch   1 or 14 clusters of 8 blocks of 256 threads, one block an SM.
 *
 * A push of round r + 2 cannot hit a buffer still read in round r: it follows the receiver's push
 * of r + 1, which follows the block-wide barrier after its reads of r. */
#include "tools/bench/cuda/bench.cuh"

constexpr uint32_t BLOCKS = 8, WIDTH = 512, SLICE = WIDTH / BLOCKS;
constexpr int THREADS = 256, SHARED = 120 * 1024;
constexpr uint32_t ROUNDS = 4000, WARM_UP = 400;

__device__ uint32_t cluster_rank()
{
    uint32_t r;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}

__device__ void cluster_sync()
{
    asm volatile("barrier.cluster.arrive.release.aligned;\n\t"
                 "barrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
}

/* The address of `p` in the shared memory of another block of the cluster. */
__device__ uint32_t peer_address(const void *p, uint32_t rank)
{
    uint32_t a;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
                 : "=r"(a)
                 : "r"(shared_address(p)), "r"(rank));
    return a;
}

__device__ void push(uint32_t to, float4 v, uint32_t bar)
{
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 "
                 "[%0], {%1, %2, %3, %4}, [%5];" ::"r"(to),
                 "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w), "r"(bar)
                 : "memory");
}

__device__ float value(uint32_t column, uint32_t round)
{
    return (float)(column + round);
}

__global__ void __cluster_dims__(BLOCKS, 1, 1) __launch_bounds__(THREADS, 1)
    exchange(uint64_t *ns, struct fault *fault)
{
    __shared__ __align__(16) float all[2][WIDTH];
    __shared__ uint64_t bar[2];
    const uint32_t t = threadIdx.x, rank = cluster_rank();
    const uint32_t peer = t / (SLICE / 4), mine = rank * SLICE + t % (SLICE / 4) * 4;
    if (t == 0) {
        mbarrier_init(&bar[0], 1);
        mbarrier_init(&bar[1], 1);
        mbarrier_publish();
    }
    cluster_sync();
    uint64_t start = 0;
    unsigned int wrong = 0;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        const uint32_t p = round & 1;
        if (round == WARM_UP)
            start = global_ns();
        if (t == 0)
            mbarrier_expect(&bar[p], WIDTH * sizeof(float));
        if (peer < BLOCKS)
            push(peer_address(&all[p][mine], peer),
                 make_float4(value(mine, round), value(mine + 1, round), value(mine + 2, round),
                             value(mine + 3, round)),
                 peer_address(&bar[p], peer));
        mbarrier_wait(&bar[p], round >> 1 & 1, fault);
        for (uint32_t c = t; c < WIDTH; c += THREADS)
            wrong += all[p][c] != value(c, round);
        __syncthreads();
    }
    if (t == 0)
        ns[blockIdx.x] = global_ns() - start;
    count_wrong(fault, wrong);
    cluster_sync(); /* nobody leaves while others may still push to it */
}

/* Median microseconds of one exchange; of several clusters the slowest counts. */
static double exchange_us(unsigned int clusters)
{
    const unsigned int blocks = clusters * BLOCKS;
    uint64_t *ns = device_array<uint64_t>(blocks);
    std::vector<double> us;
    for (int i = 0; i < 21; i++) {
        exchange<<<blocks, THREADS, SHARED>>>(ns, fault_device);
        finish("exchange");
        const std::vector<uint64_t> all = download(ns, blocks);
        us.push_back((double)*std::max_element(all.begin(), all.end()) / 1e3 / (ROUNDS - WARM_UP));
    }
    return median(us);
}

int main()
{
    open_card();
    CUDA(cudaFuncSetAttribute(exchange, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED));
    const double alone = exchange_us(1), many = exchange_us(14);
    row("cluster_exchange_us", many, "us", 0.30,
        many <= 0.5 ? "exchange inside clusters as in B.2"
                    : "fewer inner exchanges, the graph of cluster kernels (G1) stays");
    row("cluster_exchange_alone_us", alone, "us");
    return 0;
}
