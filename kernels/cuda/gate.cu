/* gate.cu - the residual gate of memory attention, out = take new + keep old (spec 2.7).
 * Shapes   out, old, new [n*S,D]; status [n*S] f32 in scratch; g, w, b per slot or for all.
 * Launch   status: a block of 128 a row; one number for all slots: a block a memory; blend: a
 *          block a row, which for a linear gate also takes the product of S values.
 * Roofline memory-bound: old and new read twice, out written. Measured: not yet on a card.
 * Order    a thread sums elements t, t + 128, ..., then block_sum. bf16 is rounded where
 *          tests/ref/gate.c rounds: new + old, status, z, the gate, 1 - g, both products. */
#include "kernels/cuda/gate_impl.h"

#include "kernels/cuda/device_impl.cuh"

#define THREADS 128

struct gate_job {
    struct gate w;
    struct tensor out, old, new_;
    float *status; /* [n*S], of a mean over D not rounded yet */
    float *all;    /* [n]: z where one number serves all slots */
};

template <class T> static __global__ void gate_status(const __grid_constant__ struct gate_job job)
{
    __shared__ float place[THREADS];
    const struct gate &w = job.w;
    for (int32_t r = (int32_t)blockIdx.x; r < job.out.rows; r += (int32_t)gridDim.x) {
        const T *old = (const T *)job.old.data + r * job.old.stride;    // old[r,:]
        const T *new_ = (const T *)job.new_.data + r * job.new_.stride; // new[r,:]
        float sum = 0.0f;
        for (int32_t i = (int32_t)threadIdx.x; i < w.dim; i += THREADS) {
            float both = rounded<T>(widen(new_[i]) + widen(old[i]));
            sum = w.status_w ? fmaf(both, w.status_w[i], sum) : sum + both;
        }
        sum = block_sum<THREADS>(sum, place);
        if (threadIdx.x == 0)
            job.status[r] = w.status_w ? rounded<T>(sum + w.status_b) : sum / (float)w.dim;
    }
}

/* The product of a row of Wg with the status of the slots. */
template <class T>
__device__ inline float mix_slots(const struct gate &w, const float *row, const float *status,
                                  float *place)
{
    float sum = 0.0f;
    for (int32_t s = (int32_t)threadIdx.x; s < w.n_slot; s += THREADS)
        sum = fmaf(row[s], rounded<T>(status[s]), sum);
    return block_sum<THREADS>(sum, place);
}

/* Block = memory. */
template <class T> static __global__ void gate_memories(const __grid_constant__ struct gate_job job)
{
    __shared__ float place[THREADS];
    const struct gate &w = job.w;
    int32_t n_memory = job.out.rows / w.n_slot;
    for (int32_t m = (int32_t)blockIdx.x; m < n_memory; m += (int32_t)gridDim.x) {
        const float *status = job.status + (int64_t)m * w.n_slot; // status[m,:]
        float z;
        if (w.kind == GATE_LINEAR) {
            z = mix_slots<T>(w, w.w, status, place) + w.b[0];
        } else {
            float sum = 0.0f;
            for (int32_t s = (int32_t)threadIdx.x; s < w.n_slot; s += THREADS)
                sum = sum + status[s];
            z = w.g[0] * rounded<T>(block_sum<THREADS>(sum, place) / (float)w.n_slot);
        }
        if (threadIdx.x == 0)
            job.all[m] = rounded<T>(z);
    }
}

/* z of row r; all threads get it. */
template <class T>
__device__ inline float gate_input(const struct gate_job &job, int32_t r, float *place)
{
    const struct gate &w = job.w;
    int32_t slot = r % w.n_slot;
    if (w.kind == GATE_STATIC)
        return w.g[w.per_slot ? slot : 0];
    if (!w.per_slot)
        return job.all[r / w.n_slot];
    if (w.kind == GATE_ELEMENTWISE)
        return rounded<T>(w.g[slot] * rounded<T>(job.status[r]));
    const float *row = w.w + (int64_t)slot * w.n_slot; // w[slot,:]
    return rounded<T>(mix_slots<T>(w, row, job.status + (r - slot), place) + w.b[slot]);
}

template <class T> static __global__ void gate_blend(const __grid_constant__ struct gate_job job)
{
    __shared__ float place[THREADS];
    const struct gate &w = job.w;
    bool gated = w.kind != GATE_REPLACE && w.kind != GATE_ADD;
    for (int32_t r = (int32_t)blockIdx.x; r < job.out.rows; r += (int32_t)gridDim.x) {
        float take = 1.0f, keep = 1.0f; /* GATE_ADD */
        if (gated) {
            float z = gate_input<T>(job, r, place);
            float g = rounded<T>(w.tanh ? tanh_of(z) : sigmoid_of(z));
            take = w.tanh ? rounded<T>(1.0f + g) : g;
            keep = rounded<T>(1.0f - g);
        }
        const T *old = (const T *)job.old.data + r * job.old.stride;    // old[r,:]
        const T *new_ = (const T *)job.new_.data + r * job.new_.stride; // new[r,:]
        T *out = (T *)job.out.data + r * job.out.stride;                // out[r,:]
        for (int32_t i = (int32_t)threadIdx.x; i < w.dim; i += THREADS) {
            float y = widen(new_[i]);
            if (w.kind != GATE_REPLACE)
                y = rounded<T>(take * y) + rounded<T>(keep * widen(old[i]));
            out[i] = narrow<T>(y);
        }
    }
}

template <class T> static void launch(struct cuda_lane *ln, const struct gate_job &job)
{
    const struct gate &w = job.w;
    unsigned rows = grid_rows(job.out.rows);
    if (w.kind == GATE_ELEMENTWISE || w.kind == GATE_LINEAR) {
        LAUNCH(gate_status<T>, rows, THREADS, 0, ln, job);
        if (!w.per_slot)
            LAUNCH(gate_memories<T>, grid_rows(job.out.rows / w.n_slot), THREADS, 0, ln, job);
    }
    LAUNCH(gate_blend<T>, rows, THREADS, 0, ln, job);
}

extern "C" enum rxt_status cuda_gate(struct lane *lane, struct tensor out, struct tensor old,
                                     struct tensor new_, const struct weight *gate)
{
    struct cuda_lane *ln = cuda_lane(lane);
    TRY(cuda_ready(ln));
    struct gate_job job = {};
    job.w = ((const struct cuda_gate *)gate)->gate;
    job.out = out;
    job.old = old;
    job.new_ = new_;
    job.status = (float *)cuda_cut(ln, (size_t)out.rows, sizeof(float));
    job.all = (float *)cuda_cut(ln, (size_t)(out.rows / job.w.n_slot), sizeof(float));
    if (out.dtype == DTYPE_BF16)
        launch<bf16>(ln, job);
    else
        launch<float>(ln, job);
    return cuda_done(ln);
}
