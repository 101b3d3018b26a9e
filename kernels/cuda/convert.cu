/* convert.cu - copies with conversion between float32 and bf16 (nearest even).
 * Shapes   out, x [R,C], any strides.
 * Launch   a thread 8 values of a row, 16 bytes at once where they lie so; block 256.
 * Roofline no flop, 4 to 8 bytes an element: memory-bound. Predicted: 4096 rows of 512 bf16 in 3
 * us; a thread a value took 8.9 (H200). Order    no sums. */
#include "kernels/cuda/device_impl.cuh"

#define THREADS 256

/* A memory and its spare have other places from update to update. */
struct places {
    void *out;
    const void *x;
};

static __global__ void convert_rows(struct tensor out, struct tensor x, const struct places *at)
{
    start_and_wait();
    out.data = at->out;
    const void *from = at->x;
    int32_t pieces = (x.cols + 7) / 8;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < (int64_t)x.rows * pieces;
         i += (int64_t)gridDim.x * THREADS) {
        int32_t r = (int32_t)(i / pieces), c = (int32_t)(i % pieces) * 8;
        float v[8];
        if (x.dtype == DTYPE_BF16)
            load8(v, (const bf16 *)from + r * x.stride, c, x.cols); // x[r,c]
        else
            load8(v, (const float *)from + r * x.stride, c, x.cols);
        if (out.dtype == DTYPE_BF16)
            store8((bf16 *)out.data + r * out.stride, c, x.cols, v); // out[r,c]
        else
            store8((float *)out.data + r * out.stride, c, x.cols, v);
    }
}

extern "C" enum rxt_status cuda_convert(struct lane *lane, struct tensor out, struct tensor x)
{
    struct cuda_lane *ln = cuda_lane(lane);
    TRY(cuda_ready(ln));
    const struct places at = {out.data, x.data};
    int64_t pieces = (int64_t)x.rows * ((x.cols + 7) / 8);
    out.data = x.data = nullptr;
    LAUNCH(convert_rows, grid_rows((pieces + THREADS - 1) / THREADS), THREADS, 0, ln, out, x,
           args_copy(ln, &at, 1));
    return cuda_done(ln);
}
