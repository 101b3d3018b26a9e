/* backend_measure of the CPU: what its threads could do at most. */
#ifndef RXT_CPU_MEASURE_IMPL_H
#define RXT_CPU_MEASURE_IMPL_H

#include "kernels/cpu/cpu_impl.h"

#define MEASURE_FMA_ROUNDS 2000  /* of measure_fma, an item */
#define MEASURE_FMA_CHAINS 12    /* of 16 floats, each MEASURE_FMA_ROUNDS long */
#define MEASURE_READ_BYTES 65536 /* of measure_read, an item */

struct measure_job {
    const char *from; /* measure_read: item i reads MEASURE_READ_BYTES at i of them */
};

enum rxt_status cpu_measure(struct backend *be, int milliseconds, struct backend_ceiling *out);

#endif
