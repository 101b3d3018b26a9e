/* Tables in device memory: the embedding, and cos and sin of the rotary positions. */
#ifndef RXT_CUDA_TABLE_IMPL_H
#define RXT_CUDA_TABLE_IMPL_H

#include "kernels/cuda/cuda_impl.h"

struct cuda_table {
    struct weight base;
    void *data; /* [V,D], compute dtype */
};

struct cuda_rope_table {
    struct weight base;
    float *cos, *sin; /* [n_pos, hd/2], as the compute dtype stores them; one block */
};

#endif
