/* The residual gate of memory attention (spec 2.7) on the device. */
#ifndef RXT_CUDA_GATE_IMPL_H
#define RXT_CUDA_GATE_IMPL_H

#include "kernels/cuda/cuda_impl.h"

struct gate {
    enum gate_kind kind;
    bool tanh, per_slot;
    int32_t n_slot, dim;
    float *g, *w, *b; /* [S] or [1]; [S,S] or [1,S]; [S] or [1] */
    float *status_w;  /* [D]; NULL: mean */
    float status_b;
};
struct cuda_gate {
    struct weight base;
    struct gate gate;
    float *vectors; /* the block all of them lie in */
};

#endif
