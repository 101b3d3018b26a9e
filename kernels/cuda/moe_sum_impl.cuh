/* The sum of a row's experts, two columns a thread, in bf16: what route.cu and experts_few.cu
 * share.
 */
#ifndef RXT_CUDA_MOE_SUM_IMPL_CUH
#define RXT_CUDA_MOE_SUM_IMPL_CUH

#include "kernels/cuda/device_impl.cuh"
#include "kernels/cuda/moe_impl.h"

#define SUM_AHEAD 10   /* results under way together */
#define SHARED_AHEAD 2 /* and of shared experts */

struct pair {
    float v[2];
};
__device__ inline struct pair unpacked(uint32_t w)
{
    return {{low_of(w), high_of(w)}};
}
/* Past L1: a rehearsal reads it too. */
__device__ inline struct pair pair_at(const bf16 *p)
{
    return unpacked(__ldcg((const uint32_t *)p));
}

__device__ inline void add_pair(struct pair *sum, float share, const struct pair &y)
{
    struct pair part = unpacked(pair_of(share * y.v[0], share * y.v[1]));
    *sum = unpacked(pair_of(sum->v[0] + part.v[0], sum->v[1] + part.v[1]));
}
__device__ inline void add_pair_bias(struct pair *sum, float scale, const float *bias, int32_t i)
{
    struct pair part = unpacked(pair_of(sum->v[0] * scale, sum->v[1] * scale));
    *sum = unpacked(
        pair_of(part.v[0] + (bias ? bias[i] : 0.0f), part.v[1] + (bias ? bias[i + 1] : 0.0f)));
}

static inline bool moe_sum_of_pairs(const struct moe_sum *s)
{
    return s->r.dim % 2 == 0 && s->x.stride % 2 == 0 && (uintptr_t)s->x.data % 4 == 0;
}

#endif
