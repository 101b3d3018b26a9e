/* gate.cu - the residual gate of memory attention, out = take new + keep old (spec 2.7).
 * Shapes   out, old, new [n*S,D]; status [n*S] f32 in scratch; g, w, b per slot or for all.
 * Launch   a warp a row, 4 of them a block, 16 bytes a lane at once where a row lies so. An
 *          elementwise gate per slot is one launch; a gate that mixes slots takes the status of all
 *          first. One number for all slots: a block a memory between the two. The last gate of a
 *          layer writes the spare itself.
 * Roofline memory-bound: old and new read, out written. 4096 rows of 512: 7.1 to 12 us with rows
 *          read twice, a piece after another; gate_quick 5 alone (H200). gate_store to float32 has
 *          17 MB, where three launches of 5 us had 34.
 * Order    a lane sums elements 8 l, ..., 8 l + 7, then those 256 further, then warp_sum; over
 *          slots a thread takes t, t + 128, ..., then block_sum, or a lane l, l + 32, ..., then
 *          warp_sum. bf16 is rounded where tests/ref/gate.c rounds: new + old, status, z, the gate,
 *          1 - g, both products. */
#include "kernels/cuda/gate_impl.h"

#include "kernels/cuda/device_impl.cuh"

#define THREADS 128
#define ROWS (THREADS / 32) /* of a block */

struct gate_job {
    struct gate w;
    struct tensor out, old, new_;
    float *status; /* [n*S], of a mean over D not rounded yet */
    float *all;    /* [n]: z where one number serves all slots */
};

/* This warp's row, and the next one is so many further. */
__device__ inline int32_t first_row()
{
    return (int32_t)(blockIdx.x * ROWS + threadIdx.x / 32);
}
__device__ inline int32_t row_step()
{
    return (int32_t)gridDim.x * ROWS;
}

/* A lane's part of a status from elements i to i + 7 of a row, and the status of the row, not
 * rounded where it is a mean; all lanes get that. */
template <class T>
__device__ inline void add_status(float *sum, const struct gate &w, const float new_[8],
                                  const float old[8], int32_t i)
{
    float weight[8];
    if (i >= w.dim)
        return;
    if (w.status_w)
        load8(weight, w.status_w, i, w.dim);
#pragma unroll
    for (int j = 0; j < 8; j++) {
        float both = rounded<T>(new_[j] + old[j]);
        *sum = w.status_w ? fmaf(both, weight[j], *sum) : *sum + both;
    }
}
template <class T> __device__ inline float end_status(const struct gate &w, float sum)
{
    sum = warp_sum(sum);
    return w.status_w ? rounded<T>(sum + w.status_b) : sum / (float)w.dim;
}

/* The status of row r. */
template <class T> __device__ inline float status_of(const struct gate_job &job, int32_t r)
{
    const struct gate &w = job.w;
    const T *old = (const T *)job.old.data + r * job.old.stride;    // old[r,:]
    const T *new_ = (const T *)job.new_.data + r * job.new_.stride; // new[r,:]
    float sum = 0.0f;
#pragma unroll 2
    for (int32_t i = ROW_FIRST; i < w.dim; i += ROW_STEP) {
        float a[8], b[8];
        load8(a, new_, i, w.dim);
        load8(b, old, i, w.dim);
        add_status<T>(&sum, w, a, b, i);
    }
    return end_status<T>(w, sum);
}

template <class T> static __global__ void gate_status(const __grid_constant__ struct gate_job job)
{
    start_and_wait();
    for (int32_t r = first_row(); r < job.out.rows; r += row_step()) {
        float status = status_of<T>(job, r);
        if (threadIdx.x % 32 == 0)
            job.status[r] = status;
    }
}

/* The part of this thread of `step` in the product of a row of Wg with the status of the slots. */
template <class T>
__device__ inline float mix_slots(const struct gate &w, const float *row, const float *status,
                                  int32_t first, int32_t step)
{
    float sum = 0.0f;
    for (int32_t s = first; s < w.n_slot; s += step)
        sum = fmaf(row[s], rounded<T>(status[s]), sum);
    return sum;
}

/* Block = memory. */
template <class T> static __global__ void gate_memories(const __grid_constant__ struct gate_job job)
{
    __shared__ float place[THREADS];
    start_and_wait();
    const struct gate &w = job.w;
    int32_t n_memory = job.out.rows / w.n_slot;
    for (int32_t m = (int32_t)blockIdx.x; m < n_memory; m += (int32_t)gridDim.x) {
        const float *status = job.status + (int64_t)m * w.n_slot; // status[m,:]
        float z;
        if (w.kind == GATE_LINEAR) {
            float sum = mix_slots<T>(w, w.w, status, (int32_t)threadIdx.x, THREADS);
            z = block_sum<THREADS>(sum, place) + w.b[0];
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

/* z of row r; all lanes get it. */
template <class T> __device__ inline float gate_input(const struct gate_job &job, int32_t r)
{
    const struct gate &w = job.w;
    int32_t slot = r % w.n_slot;
    if (w.kind == GATE_STATIC)
        return w.g[w.per_slot ? slot : 0];
    if (!w.per_slot)
        return job.all[r / w.n_slot];
    if (w.kind == GATE_ELEMENTWISE)
        return rounded<T>(w.g[slot] * rounded<T>(status_of<T>(job, r)));
    const float *row = w.w + (int64_t)slot * w.n_slot; // w[slot,:]
    float sum = mix_slots<T>(w, row, job.status + (r - slot), (int32_t)threadIdx.x % 32, 32);
    return rounded<T>(warp_sum(sum) + w.b[slot]);
}

template <class T> static __global__ void gate_blend(const __grid_constant__ struct gate_job job)
{
    start_and_wait();
    const struct gate &w = job.w;
    bool gated = w.kind != GATE_REPLACE && w.kind != GATE_ADD;
    for (int32_t r = first_row(); r < job.out.rows; r += row_step()) {
        float take = 1.0f, keep = 1.0f; /* GATE_ADD */
        if (gated) {
            float z = gate_input<T>(job, r);
            float g = rounded<T>(w.tanh ? tanh_of(z) : sigmoid_of(z));
            take = w.tanh ? rounded<T>(1.0f + g) : g;
            keep = rounded<T>(1.0f - g);
        }
        const T *old = (const T *)job.old.data + r * job.old.stride;    // old[r,:]
        const T *new_ = (const T *)job.new_.data + r * job.new_.stride; // new[r,:]
        T *out = (T *)job.out.data + r * job.out.stride;                // out[r,:]
        for (int32_t i = ROW_FIRST; i < w.dim; i += ROW_STEP) {
            float y[8], before[8];
            load8(y, new_, i, w.dim);
            load8(before, old, i, w.dim);
#pragma unroll
            for (int j = 0; j < 8; j++)
                if (w.kind != GATE_REPLACE)
                    y[j] = rounded<T>(take * y[j]) + rounded<T>(keep * before[j]);
            store8(out, i, w.dim, y);
        }
    }
}

/* gate_blend for rows of QUICK_COLS at most, with the same bits: a row is read once, all of it
 * under way together. A warp for each. */
#define QUICK 2 /* pieces of a lane */
#define QUICK_COLS (QUICK * ROW_STEP)

/* What of its slot a row needs; it may be asked for early. */
__device__ inline float slot_gate_of(const struct gate &w, int32_t r)
{
    return w.kind == GATE_ELEMENTWISE && w.per_slot ? w.g[r % w.n_slot] : 0.0f;
}

/* y = this lane's part of row r, not rounded yet. */
__device__ inline void blend_quick(float y[QUICK][8], const struct gate_job &job, int32_t r,
                                   float slot_gate)
{
    const struct gate &w = job.w;
    const bf16 *old = (const bf16 *)job.old.data + r * job.old.stride;    // old[r,:]
    const bf16 *new_ = (const bf16 *)job.new_.data + r * job.new_.stride; // new[r,:]
    float before[QUICK][8], take = 1.0f, keep = 1.0f;                     /* GATE_ADD */
#pragma unroll
    for (int c = 0; c < QUICK; c++) {
        load8(y[c], new_, ROW_FIRST + c * ROW_STEP, w.dim);
        load8(before[c], old, ROW_FIRST + c * ROW_STEP, w.dim);
    }
    if (w.kind != GATE_REPLACE && w.kind != GATE_ADD) {
        float z, sum = 0.0f;
        if (w.kind == GATE_ELEMENTWISE && w.per_slot) {
#pragma unroll
            for (int c = 0; c < QUICK; c++)
                add_status<bf16>(&sum, w, y[c], before[c], ROW_FIRST + c * ROW_STEP);
            z = rounded<bf16>(slot_gate * rounded<bf16>(end_status<bf16>(w, sum)));
        } else {
            z = gate_input<bf16>(job, r);
        }
        float g = rounded<bf16>(w.tanh ? tanh_of(z) : sigmoid_of(z));
        take = w.tanh ? rounded<bf16>(1.0f + g) : g;
        keep = rounded<bf16>(1.0f - g);
    }
#pragma unroll
    for (int c = 0; c < QUICK; c++)
#pragma unroll
        for (int j = 0; j < 8; j++)
            if (w.kind != GATE_REPLACE)
                y[c][j] = rounded<bf16>(take * y[c][j]) + rounded<bf16>(keep * before[c][j]);
}

static __global__ void __launch_bounds__(THREADS, 6)
    gate_quick(const __grid_constant__ struct gate_job job)
{
    start_next();
    int32_t r = first_row();
    float y[QUICK][8], slot_gate = slot_gate_of(job.w, r);
    wait_for_previous();
    if (r >= job.out.rows)
        return;
    blend_quick(y, job, r, slot_gate);
#pragma unroll
    for (int c = 0; c < QUICK; c++)
        store8((bf16 *)job.out.data + r * job.out.stride, ROW_FIRST + c * ROW_STEP, job.w.dim,
               y[c]); // out[r,:]
}

/* The same into a spare, which lies elsewhere in the next step of this shape; *finite becomes 0
 * where a number is none. */
template <class V>
static __global__ void __launch_bounds__(THREADS, 6)
    gate_store(const __grid_constant__ struct gate_job job, void *const *at,
               volatile int32_t *finite)
{
    start_next();
    int32_t r = first_row();
    float y[QUICK][8], slot_gate = slot_gate_of(job.w, r);
    V *out = (V *)*at + r * job.out.stride; // out[r,:]
    bool all = true;
    wait_for_previous();
    if (r >= job.out.rows)
        return;
    blend_quick(y, job, r, slot_gate);
#pragma unroll
    for (int c = 0; c < QUICK; c++) {
#pragma unroll
        for (int j = 0; j < 8; j++) {
            y[c][j] = rounded<bf16>(y[c][j]);
            all = all && (ROW_FIRST + c * ROW_STEP + j >= job.w.dim || fabsf(y[c][j]) < INFINITY);
        }
        store8(out, ROW_FIRST + c * ROW_STEP, job.w.dim, y[c]);
    }
    if (!all)
        *finite = 0;
}

/* What a gate reads of whole memories. */
template <class T> static void launch_statuses(struct cuda_lane *ln, struct gate_job *job)
{
    const struct gate &w = job->w;
    unsigned grid = grid_rows((job->old.rows + ROWS - 1) / ROWS);
    job->status = (float *)cuda_cut(ln, (size_t)job->old.rows, sizeof(float));
    job->all = (float *)cuda_cut(ln, (size_t)(job->old.rows / w.n_slot), sizeof(float));
    if (w.kind != GATE_LINEAR && (w.kind != GATE_ELEMENTWISE || w.per_slot))
        return;
    LAUNCH(gate_status<T>, grid, THREADS, 0, ln, *job);
    if (!w.per_slot)
        LAUNCH(gate_memories<T>, grid_rows(job->old.rows / w.n_slot), THREADS, 0, ln, *job);
}

template <class T> static void launch(struct cuda_lane *ln, struct gate_job *job)
{
    unsigned blocks = (unsigned)(job->out.rows + ROWS - 1) / ROWS;
    launch_statuses<T>(ln, job);
    if (dtype_of<T>::value == DTYPE_BF16 && job->w.dim <= QUICK_COLS)
        LAUNCH(gate_quick, blocks, THREADS, 0, ln, *job);
    else
        LAUNCH(gate_blend<T>, grid_rows(blocks), THREADS, 0, ln, *job);
}

static struct gate_job job_of(struct tensor out, struct tensor old, struct tensor new_,
                              const struct weight *gate)
{
    struct gate_job job = {};
    job.w = ((const struct cuda_gate *)gate)->gate;
    job.out = out;
    job.old = old;
    job.new_ = new_;
    return job;
}

extern "C" enum rxt_status cuda_gate(struct lane *lane, struct tensor out, struct tensor old,
                                     struct tensor new_, const struct weight *gate)
{
    struct cuda_lane *ln = cuda_lane(lane);
    TRY(cuda_ready(ln));
    struct gate_job job = job_of(out, old, new_, gate);
    if (out.dtype == DTYPE_BF16)
        launch<bf16>(ln, &job);
    else
        launch<float>(ln, &job);
    return cuda_done(ln);
}

extern "C" enum rxt_status cuda_gate_store(struct lane *lane, struct tensor out, bool *finite,
                                           struct tensor via, struct tensor old, struct tensor new_,
                                           const struct weight *gate)
{
    struct cuda_lane *ln = cuda_lane(lane);
    if (old.dtype != DTYPE_BF16 || old.cols > QUICK_COLS) {
        TRY(cuda_gate(lane, via, old, new_, gate));
        TRY(cuda_convert(lane, out, via));
        return cuda_finite(lane, finite, out);
    }
    TRY(cuda_ready(ln));
    volatile int32_t *found;
    TRY(cuda_finite_room(ln, finite, &found));
    void *const *at = args_copy<void *>(ln, &out.data, 1);
    struct gate_job job = job_of(out, old, new_, gate);
    job.out.data = nullptr;
    launch_statuses<bf16>(ln, &job);
    auto kernel = out.dtype == DTYPE_BF16 ? gate_store<bf16> : gate_store<float>;
    LAUNCH(kernel, (unsigned)(out.rows + ROWS - 1) / ROWS, THREADS, 0, ln, job, at, found);
    return cuda_done(ln);
}
