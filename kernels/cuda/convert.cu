/* convert.cu - copies with conversion between float32 and bf16 (nearest even).
 * Shapes   out, x [R,C], any strides.
 * Launch   a warp a row, 8 of them a block; a lane twice 8 values at once, 16 bytes
 *          where they lie so.
 * Roofline no flop, 4 to 8 bytes an element: memory-bound. Predicted: 4096 rows of 512 bf16 in 3
 * us; a thread a value took 8.9 (H200). Order    no sums. */
#include "kernels/cuda/device_impl.cuh"

#define ROWS 8  /* of a block */
#define AHEAD 2 /* pieces of a lane under way together */

/* A memory and its spare have other places from update to update. */
struct places {
    void *out;
    const void *x;
};

static __global__ void convert_rows(struct tensor out, struct tensor x, const struct places *at)
{
    start_next();
    out.data = at->out;
    const void *from = at->x;
    wait_for_previous();
    for (int32_t r = (int32_t)blockIdx.x * ROWS + (int32_t)threadIdx.x / 32; r < x.rows;
         r += (int32_t)gridDim.x * ROWS) {
        for (int32_t c = ROW_FIRST; c < x.cols; c += AHEAD * ROW_STEP) {
            float v[AHEAD][8];
#pragma unroll
            for (int k = 0; k < AHEAD; k++) // x[r,c]
                if (x.dtype == DTYPE_BF16)
                    load8(v[k], (const bf16 *)from + r * x.stride, c + k * ROW_STEP, x.cols);
                else
                    load8(v[k], (const float *)from + r * x.stride, c + k * ROW_STEP, x.cols);
#pragma unroll
            for (int k = 0; k < AHEAD; k++) // out[r,c]
                if (out.dtype == DTYPE_BF16)
                    store8((bf16 *)out.data + r * out.stride, c + k * ROW_STEP, x.cols, v[k]);
                else
                    store8((float *)out.data + r * out.stride, c + k * ROW_STEP, x.cols, v[k]);
        }
    }
}

extern "C" enum rxt_status cuda_convert(struct lane *lane, struct tensor out, struct tensor x)
{
    struct cuda_lane *ln = cuda_lane(lane);
    TRY(cuda_ready(ln));
    const struct places at = {out.data, x.data};
    out.data = x.data = nullptr;
    LAUNCH(convert_rows, grid_rows((x.rows + ROWS - 1) / ROWS), 32 * ROWS, 0, ln, out, x,
           args_copy(ln, &at, 1));
    return cuda_done(ln);
}
