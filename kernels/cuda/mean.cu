/* mean.cu - out = (x[0] + ... + x[n-1]) / n.
 * Shapes   out, x[i] [R,C] of any strides.
 * Launch   grid ceil(C / 256) x R, block 256; 128 inputs a launch, as parameters. More than that
 *          go on from float32 sums in scratch.
 * Roofline n + 1 values an element: memory-bound. Measured: not yet on a card.
 * Order    by rising i, in float32; one division, rounded once. */
#include "kernels/cuda/device_impl.cuh"

#define INPUTS 128

struct mean_job {
    struct tensor out;
    float *sums; /* [R,C], scratch */
    int32_t first, n, n_all;
    struct {
        const void *data;
        int64_t stride;
    } x[INPUTS];
};

template <class T> static __global__ void mean_rows(const __grid_constant__ struct mean_job job)
{
    int32_t c = (int32_t)(blockIdx.x * blockDim.x + threadIdx.x);
    if (c >= job.out.cols)
        return;
    for (int32_t r = (int32_t)blockIdx.y; r < job.out.rows; r += (int32_t)gridDim.y) {
        int64_t at = (int64_t)r * job.out.cols + c; // sums[r,c]
        float sum = job.first > 0 ? job.sums[at] : 0.0f;
        for (int32_t i = 0; i < job.n; i++) {
            float v = widen(((const T *)job.x[i].data)[r * job.x[i].stride + c]); // x[i][r,c]
            sum = job.first + i > 0 ? sum + v : v;
        }
        if (job.first + job.n < job.n_all)
            job.sums[at] = sum;
        else
            ((T *)job.out.data)[r * job.out.stride + c] = narrow<T>(sum / (float)job.n_all);
    }
}

extern "C" enum rxt_status cuda_mean(struct lane *lane, struct tensor out, const struct tensor *x,
                                     int32_t n)
{
    struct cuda_lane *ln = cuda_lane(lane);
    TRY(cuda_ready(ln));
    struct mean_job job = {};
    job.out = out;
    job.n_all = n;
    job.sums = (float *)cuda_cut(ln, (size_t)out.rows * (size_t)out.cols, sizeof(float));
    dim3 grid((unsigned)(out.cols + 255) / 256, grid_rows(out.rows));
    for (; job.first < n; job.first += INPUTS) {
        job.n = n - job.first < INPUTS ? n - job.first : INPUTS;
        for (int32_t i = 0; i < job.n; i++) {
            job.x[i].data = x[job.first + i].data;
            job.x[i].stride = x[job.first + i].stride;
        }
        if (out.dtype == DTYPE_BF16)
            LAUNCH(mean_rows<bf16>, grid, 256, 0, ln, job);
        else
            LAUNCH(mean_rows<float>, grid, 256, 0, ln, job);
    }
    return cuda_done(ln);
}
