/* convert.cu - copies with conversion between float32 and bf16 (nearest even).
 * Shapes   out, x [R,C], any strides.
 * Launch   grid ceil(C / 256) x R, block 256; a thread an element.
 * Roofline no flop, 6 to 8 bytes an element: memory-bound. Not timed by itself yet
 *          (docs/bench: whole steps).
 * Order    no sums. */
#include "kernels/cuda/device_impl.cuh"

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
    int32_t c = (int32_t)(blockIdx.x * blockDim.x + threadIdx.x);
    if (c >= x.cols)
        return;
    for (int32_t r = (int32_t)blockIdx.y; r < x.rows; r += (int32_t)gridDim.y) {
        float v = element(from, x.dtype, r * x.stride + c); // x[r,c]
        int64_t to = r * out.stride + c;                    // out[r,c]
        if (out.dtype == DTYPE_BF16)
            ((bf16 *)out.data)[to] = bf16_of(v);
        else
            ((float *)out.data)[to] = v;
    }
}

extern "C" enum rxt_status cuda_convert(struct lane *lane, struct tensor out, struct tensor x)
{
    struct cuda_lane *ln = cuda_lane(lane);
    TRY(cuda_ready(ln));
    const struct places at = {out.data, x.data};
    out.data = x.data = nullptr;
    LAUNCH(convert_rows, dim3((unsigned)(x.cols + 255) / 256, grid_rows(x.rows)), 256, 0, ln, out,
           x, args_copy(ln, &at, 1));
    return cuda_done(ln);
}
