#include "kernels/base/count.h"

#include <stdatomic.h>

static atomic_uint_fast64_t n_ops, n_flops, n_bytes, n_steps, n_replayed, n_experts, n_experts_read;
static atomic_bool wants_experts;

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

void count_experts_want(bool want)
{
    atomic_store_explicit(&wants_experts, want, memory_order_relaxed);
}

bool count_experts_wanted(void)
{
    return atomic_load_explicit(&wants_experts, memory_order_relaxed);
}

void count_experts(const int32_t *chosen, size_t n, int32_t n_expert)
{
    enum { WINDOW = 4096 };
    uint64_t read = 0;
    for (int32_t first = 0; first < n_expert; first += WINDOW) {
        uint64_t seen[WINDOW / 64] = {0};
        for (size_t i = 0; i < n; i++)
            if (chosen[i] >= first && chosen[i] - first < WINDOW)
                seen[(chosen[i] - first) / 64] |= UINT64_C(1) << (chosen[i] - first) % 64;
        for (size_t i = 0; i < WINDOW / 64; i++)
            read += (uint64_t)__builtin_popcountll(seen[i]);
    }
    atomic_fetch_add_explicit(&n_experts, (uint64_t)n_expert, memory_order_relaxed);
    atomic_fetch_add_explicit(&n_experts_read, read, memory_order_relaxed);
}

struct count count_read(void)
{
    return (struct count){
        .ops = atomic_load_explicit(&n_ops, memory_order_relaxed),
        .flops = atomic_load_explicit(&n_flops, memory_order_relaxed),
        .bytes = atomic_load_explicit(&n_bytes, memory_order_relaxed),
        .steps = atomic_load_explicit(&n_steps, memory_order_relaxed),
        .replayed = atomic_load_explicit(&n_replayed, memory_order_relaxed),
        .experts = atomic_load_explicit(&n_experts, memory_order_relaxed),
        .experts_read = atomic_load_explicit(&n_experts_read, memory_order_relaxed),
    };
}
