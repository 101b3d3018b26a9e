/* finite.cu - whether no element of x is NaN or infinite.
 * Shapes   x [R,C] f32 or bf16, any stride; the answer: one pinned word.
 * Launch   a block of 256 a row; the host writes 1 before, a thread that sees one writes 0.
 * Roofline memory-bound, one value read. Not timed by itself yet (docs/bench: whole steps).
 * Order    no sums; every writer writes the same. */
#include "kernels/cuda/device_impl.cuh"

static __global__ void finite_rows(struct tensor x, const void *const *at, volatile int32_t *finite)
{
    start_and_wait();
    const void *from = *at; /* of a spare: another from update to update */
    for (int32_t r = (int32_t)blockIdx.x; r < x.rows; r += (int32_t)gridDim.x)
        for (int32_t c = (int32_t)threadIdx.x; c < x.cols; c += (int32_t)blockDim.x) {
            float v = element(from, x.dtype, r * x.stride + c); // x[r,c]
            if (!(fabsf(v) < INFINITY))
                *finite = 0;
        }
}

extern "C" enum rxt_status cuda_finite(struct lane *lane, bool *finite, struct tensor x)
{
    struct cuda_lane *ln = cuda_lane(lane);
    TRY(cuda_ready(ln));
    struct cuda_result result = {nullptr, finite, 0, 1};
    TRY(cuda_result(ln, &result));
    ln->results[result.first] = 1;
    const void *const *at = args_copy<const void *>(ln, &x.data, 1);
    x.data = nullptr;
    LAUNCH(finite_rows, grid_rows(x.rows), 256, 0, ln, x, at, ln->results + result.first);
    return cuda_done(ln);
}
