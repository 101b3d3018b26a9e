/* What the process has done so far, counted once per op, not per element: the numbers behind the
 * test that turn 10,000 costs what turn 10 costs, and behind GFLOP/s and GB/s in `rxt bench`.
 * Always on: a handful of relaxed adds an op. Thread-safe. */
#ifndef RXT_BASE_COUNT_H
#define RXT_BASE_COUNT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct count {
    uint64_t ops;   /* calls of rows of the op table */
    uint64_t flops; /* multiply-add = 2; norms, exp and copies are not counted */
    uint64_t bytes; /* weights, K/V and activations that an op has to read or write once */
    uint64_t steps, replayed; /* parts of steps of a device, those started as a graph made before */
    uint64_t experts, experts_read; /* routed ones of mixtures, see below: there are, were chosen */
};

void count_op(uint64_t flops, uint64_t bytes);
void count_step(bool replayed);
struct count count_read(void);

/* Experts are counted while somebody wants them: a device has to wait for every mixture then. */
void count_experts_want(bool want);
bool count_experts_wanted(void);
/* A mixture of n_expert has chosen these n, with repeats; -1 = none. */
void count_experts(const int32_t *chosen, size_t n, int32_t n_expert);

#endif
