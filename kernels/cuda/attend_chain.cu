/* attend_chain.cu - full attention on the matrix units: encoder, memory attention.
 * Shapes   as attend.cu; bf16 heads of 16, 24, 32 and 64; every row sees all keys of its sequence.
 * Launch   a block of 4 warps on 4 tiles of a sequence and head, which go through its keys
 * together: a ring of 4 blocks of keys and values in shared memory, filled by cp.async. Tiles of 32
 *          rows from ATTEND_WIDE blocks on: half as many reads of shared memory.
 * Roofline one exponential and 4 hd + 32 flop a score; at hd 32 the exponentials bind (16 scores a
 *          clock and SM; 17 by mma.sync at 60 % of its peak). 4096 x 4096, 8 heads: 36 us. H200:
 *          256 blocks, two an SM, 93; 396, three an SM, 122: 7.3 scores a clock and SM.
 * Order    attend_tile_impl.cuh; one split. */
#include "kernels/cuda/attend_impl.h"

#include "kernels/cuda/attend_tile_impl.cuh"
#include "kernels/cuda/copy_impl.cuh"

#define STAGES 4 /* blocks of keys and values in shared memory */

template <int DIM> struct ring {
    static constexpr int STAGE = 2 * KV_BLOCK * DIM; /* values */
    static constexpr size_t BYTES = STAGES * STAGE * sizeof(bf16);

    static __device__ void ask(bf16 *stage, const bf16 *block)
    {
#pragma unroll
        for (int i = 0; i < STAGE / 8 / (32 * WARPS); i++) {
            int32_t at = (i * 32 * WARPS + (int32_t)threadIdx.x) * 8;
            copy16(stage + at, block + at);
        }
    }
};

/* This warp's tile of the four of a block. */
template <int TILES> __device__ inline struct place place_of_warp(const struct attend_job *job)
{
    struct place p = place_of<TILES * WARPS>(job, (int32_t)blockIdx.x, (int32_t)blockIdx.y);
    p.first += (int32_t)threadIdx.x / 32 * 16 * TILES;
    return p;
}

/* Values at .. at + 7. */
__device__ inline uint4 load_eight(const bf16 *at, bool well)
{
    if (well)
        return *(const uint4 *)at;
    uint32_t w[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        w[i] = (uint32_t)at[2 * i] | (uint32_t)at[2 * i + 1] << 16;
    return {w[0], w[1], w[2], w[3]};
}

/* v times its gates; in little code, for sequences of few keys. */
__device__ inline uint4 gated(uint4 v, uint4 gate, enum act act)
{
#pragma unroll 1
    for (int i = 0; i < 4; i++) {
        float low = low_of(v.x) * rounded<bf16>(act_of(act, low_of(gate.x)));
        float high = high_of(v.x) * rounded<bf16>(act_of(act, high_of(gate.x)));
        v = {v.y, v.z, v.w, pair_of(low, high)};
        gate = {gate.y, gate.z, gate.w, 0};
    }
    return v;
}

/* What finish_tiles does, with the same bits, through shared memory: near [16 TILES,DIM + 8], so
 * that a lane reads and writes 16 bytes of a row at a time. */
template <int DIM, int TILES>
__device__ inline void finish_near(const struct attend_job *job, const struct place *p,
                                   const struct sums<DIM, TILES> *t, bf16 *near, int32_t lane)
{
    constexpr int LINE = DIM + 8, EACH = DIM / 8; /* pieces of a row */
#pragma unroll
    for (int m = 0; m < TILES; m++)
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int d = 0; d < DIM / 8; d++)
                *(uint32_t *)(near + (16 * m + 8 * r + lane / 4) * LINE + 8 * d + lane % 4 * 2) =
                    pair_of(t->o[m][d][2 * r] / t->l[m][2 * r],
                            t->o[m][d][2 * r + 1] / t->l[m][2 * r]);
    __syncwarp();
    bool well = lies_well(&job->out), gate_well = lies_well(&job->gate);
#pragma unroll 1
    for (int32_t i = lane; i < 16 * TILES * EACH; i += 32) {
        int32_t row = 0, head = 0, d = i % EACH * 8;
        if (!row_of(p, i / EACH, &row, &head))
            continue;
        int32_t at = (p->out_head + head) * DIM + d;
        uint4 v = *(const uint4 *)(near + i / EACH * LINE + d);
        if (job->heads.gate != ACT_NONE) {
            const bf16 *gate = (const bf16 *)job->gate.data + row * job->gate.stride + at;
            v = gated(v, load_eight(gate, gate_well), job->heads.gate); // gate[row,head,d]
        }
        bf16 *to = (bf16 *)job->out.data + row * job->out.stride + at; // out[row,head,d]
        if (well) {
            *(uint4 *)to = v;
            continue;
        }
        const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int k = 0; k < 8; k++)
            to[k] = (bf16)(w[k / 2] >> k % 2 * 16);
    }
}

/* Block = 4 tiles of a sequence and head, one behind the other. */
template <int DIM, int TILES>
static __global__ void __launch_bounds__(32 * WARPS, DIM <= 32 ? 5 - TILES : 2)
    attend_chain(const __grid_constant__ struct attend_job job)
{
    DYNAMIC_SHARED(bf16, keys);
    start_and_wait();
    int32_t lane = (int32_t)threadIdx.x % 32;
    struct place p = place_of_warp<TILES>(&job);
    bool active = p.first < p.s->n_row * p.group;
    int32_t n_key = p.s->n_key;
    const bf16 *from = block_of<bf16>(&p.s->keys, 0, p.kv_head);
    int32_t step = (int32_t)(p.s->keys.block_step / (int64_t)sizeof(bf16));
    struct queries<DIM, TILES> q = {
    };
    struct sums<DIM, TILES> t;
    for (int32_t key = 0; key < (STAGES - 1) * KV_BLOCK; key += KV_BLOCK, from += step) {
        if (key < n_key)
            ring<DIM>::ask(keys + key / KV_BLOCK * ring<DIM>::STAGE, from);
        copies_commit();
    }
    clear(&t);
    if (active)
        load_queries<DIM, TILES>(&q, &job, &p, lane);
    int32_t key = 0;
#pragma unroll 1
    for (; key < n_key; key += KV_BLOCK, from += step) {
        int32_t next = key + (STAGES - 1) * KV_BLOCK;
        copies_wait<STAGES - 2>();
        __syncthreads();
        if (next < n_key)
            ring<DIM>::ask(keys + next / KV_BLOCK % STAGES * ring<DIM>::STAGE, from);
        copies_commit();
        if (key + KV_BLOCK > n_key)
            break;
        if (active)
            attend_block<DIM, TILES, false, true, true>(
                &t, &q, keys + key / KV_BLOCK % STAGES * ring<DIM>::STAGE, key, n_key, job.scale,
                lane);
    }
    if (active && key < n_key) /* a block that is not whole */
        attend_block<DIM, TILES, false, true>(
            &t, &q, keys + key / KV_BLOCK % STAGES * ring<DIM>::STAGE, key, n_key, job.scale, lane);
    p = place_of_warp<TILES>(&job); /* once more, instead of registers for it all along */
    __syncthreads();                /* the ring is free */
    if (active)
        finish_near<DIM, TILES>(&job, &p, &t,
                                keys + (int32_t)threadIdx.x / 32 * 16 * TILES * (DIM + 8), lane);
}

/* ---- launch ---- */

template <int DIM, int TILES>
static void launch_chain_of(struct cuda_lane *ln, struct attend_job *job)
{
    number_tiles(job, 16 * TILES * WARPS);
    job->seq = attend_put(ln, job->n_seq);
    LAUNCH((attend_chain<DIM, TILES>), dim3((unsigned)job->n_tile, (unsigned)job->heads.n_kv),
           32 * WARPS, ring<DIM>::BYTES, ln, *job);
}

template <int DIM> static void launch_chain(struct cuda_lane *ln, struct attend_job *job)
{
    number_tiles(job, 32 * WARPS);
    if (DIM <= 32 && job->n_tile * job->heads.n_kv >= ATTEND_WIDE)
        launch_chain_of<DIM, DIM <= 32 ? 2 : 1>(ln, job);
    else
        launch_chain_of<DIM, 1>(ln, job);
}

extern "C" void attend_chain_launch(struct cuda_lane *ln, struct attend_job *job)
{
    job->scale = attend_scale(job->heads.dim);
    with_head_size(job, [&](auto size) { launch_chain<decltype(size)::dim>(ln, job); });
}
