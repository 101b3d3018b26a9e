/* mean.cu - out = (x[0] + ... + x[n-1]) / n.
 * Shapes   out, x[i] [R,C] of any strides.
 * Launch   a thread 8 values of a row, 16 bytes of an input at once where they lie so, 4 inputs
 *          under way together; 128 inputs a launch, as parameters. More than that go on from
 *          float32 sums in scratch.
 * Roofline n + 1 values an element: memory-bound; 21 layers of 4096 rows of 512 are 92 MB, 22 us.
 *          Not timed by itself yet (docs/bench: whole steps).
 * Order    by rising i, in float32; one division, rounded once. */
#include "kernels/cuda/device_impl.cuh"

#define INPUTS 128
#define THREADS 128
#define AHEAD 4

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
    start_and_wait();
    int32_t cols = job.out.cols, pieces = (cols + 7) / 8;
    for (int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
         at < (int64_t)job.out.rows * pieces; at += (int64_t)gridDim.x * THREADS) {
        int32_t r = (int32_t)(at / pieces), c = (int32_t)(at % pieces) * 8;
        float sum[8] = {}, *kept = job.sums + (int64_t)r * cols; // sums[r,:]
        if (job.first > 0)
            load8(sum, kept, c, cols);
        for (int32_t first = 0; first < job.n; first += AHEAD) {
            float v[AHEAD][8];
#pragma unroll
            for (int a = 0; a < AHEAD; a++) {
                int32_t i = first + a < job.n ? first + a : job.n - 1;
                load8(v[a], (const T *)job.x[i].data + r * job.x[i].stride, c, cols); // x[i][r,c]
            }
#pragma unroll
            for (int a = 0; a < AHEAD; a++)
                if (first + a < job.n)
#pragma unroll
                    for (int j = 0; j < 8; j++)
                        sum[j] = job.first + first + a > 0 ? sum[j] + v[a][j] : v[a][j];
        }
        if (job.first + job.n < job.n_all) {
            store8(kept, c, cols, sum);
            continue;
        }
#pragma unroll
        for (int j = 0; j < 8; j++)
            sum[j] = sum[j] / (float)job.n_all;
        store8((T *)job.out.data + r * job.out.stride, c, cols, sum); // out[r,c]
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
    int64_t pieces = (int64_t)out.rows * ((out.cols + 7) / 8);
    unsigned grid = grid_rows((pieces + THREADS - 1) / THREADS);
    for (; job.first < n; job.first += INPUTS) {
        job.n = n - job.first < INPUTS ? n - job.first : INPUTS;
        for (int32_t i = 0; i < job.n; i++) {
            job.x[i].data = x[job.first + i].data;
            job.x[i].stride = x[job.first + i].stride;
        }
        if (out.dtype == DTYPE_BF16)
            LAUNCH(mean_rows<bf16>, grid, THREADS, 0, ln, job);
        else
            LAUNCH(mean_rows<float>, grid, THREADS, 0, ln, job);
    }
    return cuda_done(ln);
}
