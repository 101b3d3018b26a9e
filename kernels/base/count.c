#include "kernels/base/count.h"

#include <stdatomic.h>

static atomic_uint_fast64_t n_ops, n_flops, n_bytes, n_steps, n_replayed;

void count_op(uint64_t flops, uint64_t bytes)
{
    atomic_fetch_add_explicit(&n_ops, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&n_flops, flops, memory_order_relaxed);
    atomic_fetch_add_explicit(&n_bytes, bytes, memory_order_relaxed);
}

void count_step(bool replayed)
{
    atomic_fetch_add_explicit(&n_steps, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&n_replayed, replayed, memory_order_relaxed);
}

struct count count_read(void)
{
    return (struct count){
        .ops = atomic_load_explicit(&n_ops, memory_order_relaxed),
        .flops = atomic_load_explicit(&n_flops, memory_order_relaxed),
        .bytes = atomic_load_explicit(&n_bytes, memory_order_relaxed),
        .steps = atomic_load_explicit(&n_steps, memory_order_relaxed),
        .replayed = atomic_load_explicit(&n_replayed, memory_order_relaxed),
    };
}
