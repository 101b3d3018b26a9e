/* convert.cu - copies with conversion between float32 and bf16 (nearest even).
 * Shapes   out, x [R,C], any strides.
 * Launch   grid ceil(C / 256) x R, block 256; a thread an element.
 * Roofline no flop, 6 to 8 bytes an element: memory-bound. Measured: not yet on a card.
 * Order    no sums. */
#include "kernels/cuda/device_impl.cuh"

static __global__ void convert_rows(struct tensor out, struct tensor x)
{
    int32_t c = (int32_t)(blockIdx.x * blockDim.x + threadIdx.x);
    if (c >= x.cols)
        return;
    for (int32_t r = (int32_t)blockIdx.y; r < x.rows; r += (int32_t)gridDim.y) {
        float v = element(x.data, x.dtype, r * x.stride + c); // x[r,c]
        int64_t at = r * out.stride + c;                      // out[r,c]
        if (out.dtype == DTYPE_BF16)
            ((bf16 *)out.data)[at] = bf16_of(v);
        else
            ((float *)out.data)[at] = v;
    }
}

extern "C" enum rxt_status cuda_convert(struct lane *lane, struct tensor out, struct tensor x)
{
    struct cuda_lane *ln = cuda_lane(lane);
    TRY(cuda_ready(ln));
    LAUNCH(convert_rows, dim3((unsigned)(x.cols + 255) / 256, grid_rows(x.rows)), 256, 0, ln, out,
           x);
    return cuda_done(ln);
}
