/* The CPU backend's own handles, and how an op runs on its threads.
 *
 * An op (cpu/NAME.c) cuts shared scratch from the lane with lane_cut, fills a job and calls
 * lane_run with a function of the kernel table, once or several times. */
#ifndef RXT_CPU_CPU_IMPL_H
#define RXT_CPU_CPU_IMPL_H

#include "kernels/backend_impl.h"
#include "kernels/base/arena.h"
#include "kernels/cpu/kernels_impl.h"
#include "kernels/cpu/pool_impl.h"

#define CPU_ALIGN 64 /* of allocations, arena cuts and thread scratch: a cache line, a vec */

struct cpu_backend {
    struct backend base;
    const struct kernels *k; /* of the instruction set chosen at creation */
    struct pool *pool;
};

/* Scratch that an op needs at the most in a lane of given limits: for all threads together, and
 * for each of them. Every op file that needs some has a function NAME_need, which lane_create
 * asks; see the list there. */
struct scratch_need {
    size_t shared, thread;
};

struct cpu_lane {
    struct lane base;
    struct cpu_backend *be;
    struct arena shared; /* cut by the running op, empty between ops */
    char *thread;        /* thread_bytes for each thread */
    size_t thread_bytes;
    struct pace pace;
};

static inline struct cpu_lane *cpu_lane(struct lane *ln)
{
    return (struct cpu_lane *)ln;
}

/* count items of size bytes of shared scratch, until lane_done. */
void *lane_cut(struct cpu_lane *ln, size_t count, size_t size);
/* Ends an op: its shared scratch is free again. */
void lane_done(struct cpu_lane *ln);

/* Runs fn (a row of the kernel table) over n_item items on the lane's threads and waits. The
 * items are independent of each other, in any order and grouping. work: as in struct task. */
void lane_run(struct cpu_lane *ln,
              void (*fn)(const void *job, int32_t first, int32_t last, void *scratch),
              const void *job, int32_t n_item, uint64_t work);

/* The same, with fetch_bytes that every item reads first and that other threads may have written a
 * moment ago: the workers ask for them in advance. */
void lane_run_on(struct cpu_lane *ln,
                 void (*fn)(const void *job, int32_t first, int32_t last, void *scratch),
                 const void *job, int32_t n_item, uint64_t work, const void *fetch,
                 size_t fetch_bytes);

extern const struct backend_ops cpu_ops; /* cpu/ops.c */

enum rxt_status cpu_lane_create(struct lane **out, struct backend *be, enum lane_priority priority,
                                const struct lane_limits *limits);
void cpu_lane_destroy(struct lane *ln);
size_t cpu_lane_bytes(const struct lane *ln);
enum rxt_status cpu_sync(struct lane *ln);
void cpu_step_begin(struct lane *ln);
enum rxt_status cpu_step_end(struct lane *ln);
void cpu_branch(struct lane *ln, int32_t branch, int32_t after);
void cpu_give_way(struct lane *ln, uint32_t us);
void cpu_rest(struct lane *ln);
enum rxt_status cpu_copy(struct lane *ln, void *dst, const void *src, size_t bytes);
void cpu_destroy(struct backend *be);
void *cpu_alloc(struct backend *be, size_t bytes);
void cpu_free(struct backend *be, void *p);

#endif
