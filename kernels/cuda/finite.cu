/* finite.cu - whether no element of x is NaN or infinite.
 * Shapes   x [R,C] f32 or bf16, any stride; the answer: one pinned word.
 * Launch   a warp a row, 8 of them a block; a lane 8 values at once, 16 bytes where they lie so;
 *          the host writes 1 before, a thread that sees one writes 0.
 * Roofline memory-bound, one value read. Predicted: 4096 rows of 512 bf16 in 2.5 us; a block a row,
 *          value by value, took 5 (H200).
 * Order    no sums; every writer writes the same. */
#include "kernels/cuda/device_impl.cuh"

#define ROWS 8 /* of a block */

static __global__ void finite_rows(struct tensor x, const void *const *at, volatile int32_t *finite)
{
    start_next();
    const void *from = *at; /* of a spare: another from update to update */
    wait_for_previous();
    bool all = true;
    for (int32_t r = (int32_t)blockIdx.x * ROWS + (int32_t)threadIdx.x / 32; r < x.rows;
         r += (int32_t)gridDim.x * ROWS) {
#pragma unroll 2
        for (int32_t c = ROW_FIRST; c < x.cols; c += ROW_STEP) {
            float v[8]; /* zeros behind the end of a row */
            if (x.dtype == DTYPE_BF16)
                load8(v, (const bf16 *)from + r * x.stride, c, x.cols); // x[r,c]
            else
                load8(v, (const float *)from + r * x.stride, c, x.cols);
#pragma unroll
            for (int j = 0; j < 8; j++)
                all = all && fabsf(v[j]) < INFINITY;
        }
    }
    if (!all)
        *finite = 0;
}

extern "C" enum rxt_status cuda_finite(struct lane *lane, bool *finite, struct tensor x)
{
    struct cuda_lane *ln = cuda_lane(lane);
    TRY(cuda_ready(ln));
    volatile int32_t *found;
    TRY(cuda_finite_room(ln, finite, &found));
    const void *const *at = args_copy<const void *>(ln, &x.data, 1);
    x.data = nullptr;
    LAUNCH(finite_rows, grid_rows((x.rows + ROWS - 1) / ROWS), 32 * ROWS, 0, ln, x, at, found);
    return cuda_done(ln);
}
