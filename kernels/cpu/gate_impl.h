/* Residual gate of memory attention (spec 2.7) on the CPU.
 *
 * Order of its sums: the mean over D, the product with status_w and the row of Wg times the status
 * go through 16 lanes and vec_sum; the mean over slots sums the status of the slots the same way.
 */
#ifndef RXT_CPU_GATE_IMPL_H
#define RXT_CPU_GATE_IMPL_H

#include "kernels/cpu/cpu_impl.h"

struct cpu_gate {
    struct weight base;
    enum gate_kind kind;
    bool tanh, per_slot;
    int32_t n_slot, dim;
    float *g, *w, *b; /* [S] or [1]; [S,S] or [1,S]; [S] or [1] */
    float *status_w;  /* [D]; NULL: mean */
    float status_b;
};

struct scratch_need gate_need(const struct lane_limits *l);

/* Of n memories, rows [n*S, D]. */
struct gate_job {
    const struct cpu_gate *gate;
    struct tensor out, old, new_;
    float *status; /* [n*S]; after gate_memories, if not per slot: the first of each memory is z */
};

#endif
