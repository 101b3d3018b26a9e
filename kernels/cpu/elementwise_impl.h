/* Jobs of the ops that go through matrices element by element. Item = row. */
#ifndef RXT_CPU_ELEMENTWISE_IMPL_H
#define RXT_CPU_ELEMENTWISE_IMPL_H

#include "kernels/cpu/cpu_impl.h"

#include <stdatomic.h>

struct convert_job {
    struct tensor out, x; /* F32 or BF16 each */
};
/* Runs the job on the lane's threads. */
void convert_run(struct cpu_lane *ln, const struct convert_job *job);

struct finite_job {
    struct tensor x; /* F32 or BF16 */
    atomic_bool *bad;
};
struct mean_job {
    struct tensor out;
    const struct tensor *x;
    int32_t n;
};

#endif
