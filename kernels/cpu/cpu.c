#include "kernels/cpu/cpu_impl.h"

#include "kernels/base/cpu.h"
#include "kernels/base/mem.h"
#include "kernels/cpu/ff_impl.h"
#include "kernels/cpu/full_attention_impl.h"
#include "kernels/cpu/gate_impl.h"
#include "kernels/cpu/linear_impl.h"
#include "kernels/cpu/mem_kv_impl.h"
#include "kernels/cpu/moe_impl.h"
#include "kernels/cpu/norm_impl.h"
#include "kernels/cpu/sample_impl.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define MAX_THREADS 1024
#define CACHE_BYTES ((size_t)64 << 20) /* weights beyond come out of DRAM */

/* ---- backend ---- */

static const struct kernels *kernels_of(enum cpu_isa isa)
{
#if defined(__x86_64__)
    if (isa == CPU_AVX512)
        return &kernels_avx512;
    if (isa == CPU_AVX2)
        return &kernels_avx2;
#endif
    assert(isa == CPU_SCALAR);
    return &kernels_scalar;
}

enum rxt_status cpu_backend_create(struct backend **out, const struct backend_config *cfg,
                                   struct rxt_error *err)
{
    enum cpu_isa isa;
    TRY(cpu_isa_get(&isa, err));
    int n_cpu = cpu_count() < MAX_THREADS ? cpu_count() : MAX_THREADS;
    int n_thread = cfg->n_thread > 0 ? cfg->n_thread : n_cpu;
    if (cfg->n_thread < 0 || n_thread > MAX_THREADS)
        return rxt_fail(err, RXT_EINVAL, "%d CPU threads: use 1 to %d, or 0 for one a processor",
                        cfg->n_thread, MAX_THREADS);
    struct cpu_backend *be = mem_alloc(sizeof *be);
    if (!be || pool_create(&be->pool, n_thread) != RXT_OK) {
        mem_free(be);
        return rxt_fail(err, RXT_ENOMEM, "out of memory for %d CPU threads", n_thread);
    }
    be->k = kernels_of(isa);
    be->base.ops = &cpu_ops;
    be->base.name = "cpu";
    be->base.bit_class = "cpu-f32/1";
    be->base.act_dtype = DTYPE_F32;
    be->base.alone_bytes = CACHE_BYTES;
    (void)snprintf(be->base.describe, sizeof be->base.describe, "cpu, %s, %d thread%s",
                   cpu_isa_name(isa), n_thread, n_thread == 1 ? "" : "s");
    *out = &be->base;
    return RXT_OK;
}

void cpu_destroy(struct backend *b)
{
    struct cpu_backend *be = (struct cpu_backend *)b;
    pool_destroy(&be->pool);
    mem_free(be);
}

void *cpu_alloc(struct backend *be, size_t bytes)
{
    (void)be;
    return mem_alloc(bytes);
}

void cpu_free(struct backend *be, void *p)
{
    (void)be;
    mem_free(p);
}

/* ---- lanes ---- */

/* One line an op with scratch. An op that calls another asks for both in its own function. */
static struct scratch_need need_of_all(const struct lane_limits *l)
{
    const struct scratch_need need[] = {
        ff_need(l),  full_attention_need(l), gate_need(l),   linear_need(l), mem_kv_need(l),
        moe_need(l), norm_need(l),           sample_need(l),
    };
    struct scratch_need most = {0};
    for (size_t i = 0; i < sizeof need / sizeof need[0]; i++) {
        if (need[i].shared > most.shared)
            most.shared = need[i].shared;
        if (need[i].thread > most.thread)
            most.thread = need[i].thread;
    }
    return most;
}

enum rxt_status cpu_lane_create(struct lane **out, struct backend *b, enum lane_priority priority,
                                const struct lane_limits *limits)
{
    struct cpu_backend *be = (struct cpu_backend *)b;
    struct cpu_lane *ln = mem_alloc(sizeof *ln);
    if (!ln)
        return RXT_ENOMEM;
    enum rxt_status st = RXT_OK;
    ln->base = (struct lane){.be = b, .limits = *limits, .priority = priority};
    ln->be = be;
    struct scratch_need need = need_of_all(limits);
    ln->thread_bytes = (need.thread + CPU_ALIGN - 1) / CPU_ALIGN * CPU_ALIGN;
    if (need.shared > 0)
        TRY_OR(fail, arena_create(&ln->shared, need.shared));
    if (ln->thread_bytes > 0) {
        ln->thread = mem_alloc_n((size_t)pool_threads(be->pool), ln->thread_bytes);
        if (!ln->thread)
            TRY_OR(fail, RXT_ENOMEM);
    }
    *out = &ln->base;
    return RXT_OK;
fail:
    cpu_lane_destroy(&ln->base);
    return st;
}

void cpu_lane_destroy(struct lane *l)
{
    struct cpu_lane *ln = cpu_lane(l);
    arena_destroy(&ln->shared);
    mem_free(ln->thread);
    mem_free(ln);
}

size_t cpu_lane_bytes(const struct lane *l)
{
    const struct cpu_lane *ln = (const struct cpu_lane *)l;
    return sizeof *ln + ln->shared.size + (size_t)pool_threads(ln->be->pool) * ln->thread_bytes;
}

enum rxt_status cpu_sync(struct lane *ln)
{
    (void)ln; /* an op is over when its call returns */
    return RXT_OK;
}

/* Every op is over when its call returns. */
void cpu_step_begin(struct lane *ln)
{
    (void)ln;
}

enum rxt_status cpu_step_end(struct lane *ln)
{
    (void)ln;
    return RXT_OK;
}

void cpu_branch(struct lane *ln, int32_t branch, int32_t after)
{
    (void)ln;
    (void)branch;
    (void)after;
}

/* The pool knows by itself how long a memory lane has waited. */
void cpu_give_way(struct lane *ln, uint32_t us)
{
    (void)ln;
    (void)us;
}

void cpu_rest(struct lane *l)
{
    struct cpu_lane *ln = cpu_lane(l);
    pool_rest(ln->be->pool, l->priority == LANE_MEMORY ? &ln->pace : NULL);
}

enum rxt_status cpu_copy(struct lane *ln, void *dst, const void *src, size_t bytes)
{
    (void)ln;
    memcpy(dst, src, bytes);
    return RXT_OK;
}

/* ---- running ---- */

void *lane_cut(struct cpu_lane *ln, size_t count, size_t size)
{
    void *p = arena_cut(&ln->shared, count, size);
    assert(p && "the op's need function asks for less than the op cuts");
    return p;
}

void lane_done(struct cpu_lane *ln)
{
    arena_reset(&ln->shared);
}

void lane_run(struct cpu_lane *ln,
              void (*fn)(const void *job, int32_t first, int32_t last, void *scratch),
              const void *job, int32_t n_item, uint64_t work)
{
    lane_run_on(ln, fn, job, n_item, work, NULL, 0);
}

void lane_run_on(struct cpu_lane *ln,
                 void (*fn)(const void *job, int32_t first, int32_t last, void *scratch),
                 const void *job, int32_t n_item, uint64_t work, const void *fetch,
                 size_t fetch_bytes)
{
    const struct task t = {
        .fn = fn,
        .arg = job,
        .fetch = fetch,
        .fetch_bytes = fetch_bytes,
        .n_item = n_item,
        .work = work,
        .scratch = ln->thread,
        .scratch_bytes = ln->thread_bytes,
    };
    pool_run(ln->be->pool, &t, ln->base.priority == LANE_MEMORY ? &ln->pace : NULL);
}
