/* attend_chain.cu - full attention on the matrix units: encoder, memory attention.
 * Shapes   as attend.cu; bf16 heads of 16, 24, 32 and 64; every row sees all keys of its sequence.
 * Launch   a block of 4 warps on 4 tiles of a sequence and head, which go through its keys
 * together: a ring of 4 blocks of keys and values in shared memory, filled by cp.async. Tiles of 32
 *          rows from ATTEND_WIDE blocks on: half as many reads of shared memory.
 * Roofline one exponential and 4 hd + 32 flop a score; at hd 32 the exponentials bind (16 scores a
 *          clock and SM; 17 by mma.sync at 60 % of its peak). 4096 x 4096, 8 heads: 36 us. On a
 *          full card 79, H200, with a branch for each maximum; predicted without: 65.
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
    if (active)
        finish_tiles<DIM, TILES>(&job, &p, &t, lane);
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
