/* Drawing one token a row (spec 5) on the CPU, without sorting.
 *
 * Tokens are ranked by z = logit / temperature, the lower id first among equals. Order of the sums,
 * in double: of all weights, by rising id; of top-p, by falling z in bins of its leading 11, then
 * 22, then 32 bits (rising id inside a bin), then token by token; of the draw, by rising id. A NaN
 * counts as -infinity; where the highest logit is infinite or none is a number, the draw is the
 * greedy choice. */
#ifndef RXT_CPU_SAMPLE_IMPL_H
#define RXT_CPU_SAMPLE_IMPL_H

#include "kernels/cpu/cpu_impl.h"

struct sample_job {
    int32_t *id;
    struct tensor logits;
    const struct sampling *how;
};

#define SAMPLE_BINS 2048

/* A thread's working place; behind it z [V], weight [V] and id [V]. */
struct sample_place {
    union {
        double mass[SAMPLE_BINS];
        int32_t count[SAMPLE_BINS];
    };
    float *z, *weight;
    int32_t *id;
    int32_t n; /* candidates, by rising id */
};

struct scratch_need sample_need(const struct lane_limits *l);

#endif
