/* embed.cu - out[r,:] = table[id[r],:].
 * Shapes   table [V,D] and out [R,D] in the compute dtype; id [R].
 * Launch   a block of 128 a row.
 * Roofline one value read and written: memory-bound. Not timed by itself yet
 *          (docs/bench: whole steps).
 * Order    no sums. */
#include "kernels/cuda/table_impl.h"

#include "kernels/cuda/device_impl.cuh"

template <class T>
static __global__ void embed_rows(struct tensor out, const T *table, const int32_t *id)
{
    start_and_wait();
    for (int32_t r = (int32_t)blockIdx.x; r < out.rows; r += (int32_t)gridDim.x) {
        const T *from = table + (int64_t)id[r] * out.cols; // table[id[r],:]
        T *to = (T *)out.data + r * out.stride;            // out[r,:]
        for (int32_t i = (int32_t)threadIdx.x; i < out.cols; i += (int32_t)blockDim.x)
            to[i] = from[i];
    }
}

extern "C" enum rxt_status cuda_embed(struct lane *lane, struct tensor out,
                                      const struct weight *table, const int32_t *id)
{
    struct cuda_lane *ln = cuda_lane(lane);
    TRY(cuda_ready(ln));
    const void *data = ((const struct cuda_table *)table)->data;
    const int32_t *ids = args_copy(ln, id, (size_t)out.rows);
    if (out.dtype == DTYPE_BF16)
        LAUNCH(embed_rows<bf16>, grid_rows(out.rows), 128, 0, ln, out, (const bf16 *)data, ids);
    else
        LAUNCH(embed_rows<float>, grid_rows(out.rows), 128, 0, ln, out, (const float *)data, ids);
    return cuda_done(ln);
}
