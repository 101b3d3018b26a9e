#include "kernels/cpu/measure_impl.h"

#include "kernels/base/clock.h"
#include "kernels/base/mem.h"

#include <string.h>

#define CACHE_BYTES ((size_t)8 << 20)
#define DRAM_BYTES ((size_t)256 << 20) /* more than most last level caches */

/* Amount of work a second in the best of all runs of the task within the budget. */
static double best_rate(struct pool *pool, const struct task *t, double amount, int milliseconds)
{
    uint64_t begin = clock_us(), end = begin + 1000 * (uint64_t)milliseconds, best = UINT64_MAX;
    for (uint64_t now = begin; now < end;) {
        uint64_t start = clock_us();
        pool_run(pool, t, NULL);
        now = clock_us();
        if (now > start && now - start < best)
            best = now - start;
    }
    return amount * 1e6 / (double)best;
}

enum rxt_status cpu_measure(struct backend *b, int milliseconds, struct backend_ceiling *out)
{
    const struct cpu_backend *be = (struct cpu_backend *)b;
    int n_thread = pool_threads(be->pool), part_ms = milliseconds / 3 + 1;
    char *memory = mem_alloc(DRAM_BYTES);
    float *sink = mem_alloc_n(CPU_ALIGN * (size_t)n_thread, 1);
    if (!memory || !sink) {
        mem_free(memory);
        mem_free(sink);
        return RXT_ENOMEM;
    }
    memset(memory, 1, DRAM_BYTES); /* pages of its own instead of the one zero page */
    const struct measure_job job = {.from = memory};
    struct task t = {
        .fn = be->k->measure_fma,
        .arg = &job,
        .n_item = 16 * n_thread,
        .scratch = (char *)sink,
        .scratch_bytes = CPU_ALIGN,
    };
    double flops = 2.0 * 16 * MEASURE_FMA_CHAINS * MEASURE_FMA_ROUNDS * t.n_item;
    t.work = (uint64_t)flops;
    out->flops = best_rate(be->pool, &t, flops, part_ms);
    t.fn = be->k->measure_read;
    t.n_item = CACHE_BYTES / MEASURE_READ_BYTES;
    t.work = CACHE_BYTES;
    out->cache_bytes_s = best_rate(be->pool, &t, CACHE_BYTES, part_ms);
    t.n_item = DRAM_BYTES / MEASURE_READ_BYTES;
    t.work = DRAM_BYTES;
    out->dram_bytes_s = best_rate(be->pool, &t, DRAM_BYTES, part_ms);
    mem_free(memory);
    mem_free(sink);
    return RXT_OK;
}
