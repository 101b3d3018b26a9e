/* embed.cu - out[r,:] = table[id[r],:].
 * Shapes   table [V,D] and out [R,D] in the compute dtype; ids as parameters, 512 a launch.
 * Launch   a block of 128 a row.
 * Roofline one value read and written: memory-bound. Measured: not yet on a card.
 * Order    no sums. */
#include "kernels/cuda/table_impl.h"

#include "kernels/cuda/device_impl.cuh"

#define IDS 512

struct ids {
    int32_t n;
    int32_t id[IDS];
};

template <class T>
static __global__ void embed_rows(struct tensor out, const T *table,
                                  const __grid_constant__ struct ids ids)
{
    int32_t r = (int32_t)blockIdx.x;
    const T *from = table + (int64_t)ids.id[r] * out.cols; // table[id[r],:]
    T *to = (T *)out.data + r * out.stride;                // out[r,:]
    for (int32_t i = (int32_t)threadIdx.x; i < out.cols; i += (int32_t)blockDim.x)
        to[i] = from[i];
}

extern "C" enum rxt_status cuda_embed(struct lane *lane, struct tensor out,
                                      const struct weight *table, const int32_t *id)
{
    struct cuda_lane *ln = cuda_lane(lane);
    TRY(cuda_ready(ln));
    const void *data = ((const struct cuda_table *)table)->data;
    for (int32_t first = 0; first < out.rows; first += IDS) {
        struct ids ids;
        ids.n = out.rows - first < IDS ? out.rows - first : IDS;
        for (int32_t i = 0; i < IDS; i++)
            ids.id[i] = i < ids.n ? id[first + i] : 0;
        struct tensor part = tensor_rows(out, first, ids.n);
        if (out.dtype == DTYPE_BF16)
            LAUNCH(embed_rows<bf16>, (unsigned)ids.n, 128, 0, ln, part, (const bf16 *)data, ids);
        else
            LAUNCH(embed_rows<float>, (unsigned)ids.n, 128, 0, ln, part, (const float *)data, ids);
    }
    return cuda_done(ln);
}
