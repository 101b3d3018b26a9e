/* hop.cu - one hand-over between blocks: 32 writers to 80 readers and back (design-gpu A.5, B.4).
 * Shapes   forward: 6 packets a writer, every reader takes all 192; back: 22 packets a reader, a
 *          writer takes those of the 10 readers of its column (its index mod 8), 220.
 *          A packet is 16 bytes: 3 f32 and the epoch, one 128-bit access each way.
 * Launch   112 blocks of 256 threads, one an SM, cooperative: a block that is not there yet would
 *          be waited for in vain. One thread a packet.
 * Counter  the same data by plain stores, fence, counter, poll and load, for comparison.
 *
 * Mailboxes are double-buffered by epoch parity. A writer overwrites parity p at epoch e + 2 after
 * the answers to e + 1, which need every writer's e + 1, which needs every reader's answer to e. */
#include "tools/bench/cuda/bench.cuh"

constexpr int WRITERS = 32, READERS = 80, COLUMNS = 8;
constexpr int FORWARD = 6, BACK = 22; /* packets of one block */
constexpr int THREADS = 256, SHARED = 120 * 1024;
constexpr uint32_t ROUNDS = 2000, WARM_UP = 200;

struct counter {
    uint32_t n;
    uint32_t pad[31]; /* a line of its own */
};

struct mail {
    uint4 forward[2][WRITERS * FORWARD];
    uint4 back[2][READERS * BACK];
    struct counter written, answered[COLUMNS];
};

__device__ uint4 packet(uint32_t index, uint32_t epoch)
{
    const uint32_t first = (index * 3 + epoch) & 0xffff;
    return make_uint4(__float_as_uint((float)first), __float_as_uint((float)(first + 1)),
                      __float_as_uint((float)(first + 2)), epoch);
}

__device__ bool same(uint4 a, uint4 b)
{
    return a.x == b.x && a.y == b.y && a.z == b.z && a.w == b.w;
}

/* A scalar 128-bit access is one memory operation; a vector of four words need not be. */
__device__ void store_packet(uint4 *to, uint4 v)
{
    asm volatile("{\n\t.reg .b64 lo, hi;\n\t.reg .b128 q;\n\t"
                 "mov.b64 lo, {%1, %2};\n\tmov.b64 hi, {%3, %4};\n\tmov.b128 q, {lo, hi};\n\t"
                 "st.relaxed.gpu.global.b128 [%0], q;\n\t}" ::"l"(to),
                 "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
}

__device__ uint4 load_packet(const uint4 *from)
{
    uint4 v;
    asm volatile("{\n\t.reg .b64 lo, hi;\n\t.reg .b128 q;\n\t"
                 "ld.relaxed.gpu.global.b128 q, [%4];\n\t"
                 "mov.b128 {lo, hi}, q;\n\tmov.b64 {%0, %1}, lo;\n\tmov.b64 {%2, %3}, hi;\n\t}"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(from)
                 : "memory");
    return v;
}

__device__ uint4 wait_packet(const uint4 *from, uint32_t epoch, struct fault *fault)
{
    struct spin spin;
    uint4 v = load_packet(from);
    while (v.w != epoch) {
        spin.poll(fault);
        v = load_packet(from);
    }
    return v;
}

/* After the block's stores: one more block has arrived. */
__device__ void arrive(struct counter *c)
{
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(&c->n, 1);
    }
}

__device__ void wait_counter(const struct counter *c, uint32_t target, struct fault *fault)
{
    if (threadIdx.x == 0) {
        struct spin spin;
        uint32_t n;
        for (;;) {
            asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(n) : "l"(&c->n) : "memory");
            if (n >= target)
                break;
            spin.poll(fault);
        }
    }
    __syncthreads();
}

template <bool tagged>
__global__ void __launch_bounds__(THREADS, 1)
    hop(struct mail *mail, uint32_t epoch0, uint64_t *ns, struct fault *fault)
{
    const int t = threadIdx.x;
    const bool writer = blockIdx.x < WRITERS;
    const int self = writer ? blockIdx.x : blockIdx.x - WRITERS;
    const int column = self % COLUMNS;
    /* What this thread writes and what it takes, as indices of packets. */
    const bool writes = t < (writer ? FORWARD : BACK);
    const bool takes = t < (writer ? READERS / COLUMNS * BACK : WRITERS * FORWARD);
    const int out = writer ? self * FORWARD + t : self * BACK + t;
    const int in = writer ? (t / BACK * COLUMNS + column) * BACK + t % BACK : t;
    struct counter *done = writer ? &mail->written : &mail->answered[column];
    const struct counter *awaited = writer ? &mail->answered[column] : &mail->written;
    const uint32_t arrivals = writer ? READERS / COLUMNS : WRITERS;
    uint64_t start = 0;
    unsigned int wrong = 0;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        const uint32_t e = epoch0 + round;
        uint4 *to = writer ? mail->forward[e & 1] : mail->back[e & 1];
        const uint4 *from = writer ? mail->back[e & 1] : mail->forward[e & 1];
        if (round == WARM_UP)
            start = global_ns();
        for (int half = 0; half < 2; half++) {
            if ((half == 0) == writer) { /* writers speak first */
                if (tagged) {
                    if (writes)
                        store_packet(&to[out], packet(out, e));
                } else {
                    if (writes)
                        to[out] = packet(out, e);
                    arrive(done);
                }
            } else {
                if (!tagged)
                    wait_counter(awaited, e * arrivals, fault);
                if (takes) {
                    const uint4 got = tagged ? wait_packet(&from[in], e, fault) : __ldcg(&from[in]);
                    wrong += !same(got, packet(in, e));
                }
                __syncthreads();
            }
        }
    }
    if (blockIdx.x == 0 && t == 0)
        *ns = global_ns() - start;
    count_wrong(fault, wrong);
}

/* Median microseconds of one hand-over, half a round trip. */
template <bool tagged> static double hop_us()
{
    struct mail *mail = device_array<struct mail>(1);
    uint64_t *ns = device_array<uint64_t>(1);
    std::vector<double> us;
    CUDA(cudaFuncSetAttribute(hop<tagged>, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED));
    for (uint32_t i = 0; i < 21; i++) {
        uint32_t epoch0 = 1 + i * ROUNDS;
        void *args[] = {&mail, &epoch0, &ns, &fault_device};
        CUDA(cudaLaunchCooperativeKernel(hop<tagged>, WRITERS + READERS, THREADS, args, SHARED));
        finish("hop");
        us.push_back((double)download(ns, 1)[0] / 1e3 / (ROUNDS - WARM_UP) / 2);
    }
    return median(us);
}

int main()
{
    open_card();
    const double packets = hop_us<true>(), counters = hop_us<false>();
    row("hop_us", packets, "us", 0.6,
        packets <= 0.85 ? "hand over by tagged packets" : "keep the counter barrier");
    row("hop_counter_us", counters, "us", 1.18);
    return 0;
}
