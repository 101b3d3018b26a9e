/* The compute threads: n-1 workers and whoever calls.
 *
 * A task is n_item independent items; each thread takes chunks of neighbouring items, first of its
 * own share, then of the others'. Which thread computes an item, and with which neighbours, is
 * chance: the result of an item must not depend on it (same bits rule of backend.h).
 *
 * Workers spin for some tens of microseconds after a task (the next op of a step follows within
 * one), then sleep. Several threads may call at once: one has the workers, the others compute
 * alone. Memory lanes stand back for answer lanes: see pool_run. */
#ifndef RXT_CPU_POOL_IMPL_H
#define RXT_CPU_POOL_IMPL_H

#include "kernels/backend.h"

#define PACE_KERNELS 32 /* more than a memory update has; others share the last place */

struct pool;

/* Gives *out. ENOMEM, also when a thread cannot be started. n_thread >= 1. */
enum rxt_status pool_create(struct pool **out, int n_thread);
void pool_destroy(struct pool **p); /* NULL-safe; no task may be running */
int pool_threads(const struct pool *p);

struct task {
    /* Items [first, last); scratch is the thread's own for this task. */
    void (*fn)(const void *arg, int32_t first, int32_t last, void *scratch);
    const void *arg;
    const void *fetch; /* what every item reads first, if that is known: asked for in advance */
    size_t fetch_bytes;
    int32_t n_item;
    uint64_t work; /* of all items: float operations of a product that take as long; an estimate */
    char *scratch; /* one piece of scratch_bytes a thread, the caller's first */
    size_t scratch_bytes;
};

/* A memory lane's view of its own speed, kernel by kernel: a unit of work of one takes a hundred
 * times as long as of another. Zero it at the start. */
struct pace {
    struct {
        void (*fn)(const void *arg, int32_t first, int32_t last, void *scratch);
        double ns_per_work; /* smoothed */
    } of[PACE_KERNELS];
};

/* Runs a task to its end on the calling thread and, if they are free and it is worth it, on the
 * workers. pace NULL: a task of an answer lane, which starts at once. Otherwise the task is cut
 * into rounds of about 0.2 ms; before each one it waits until the answer lanes rest or let it in
 * or, where there are cores to spare, goes on without the workers. */
void pool_run(struct pool *p, const struct task *t, struct pace *pace);

/* Called by an answer lane between its steps: waiting memory lanes may work for so long; returns
 * when they have or have nothing more to do, at once if none is waiting. */
void pool_give_way(struct pool *p, uint32_t us);

/* The caller has nothing to do for now. An answer lane: memory lanes may work until its next task;
 * one that does not say so is believed to rest when it has no task for a while. A memory lane: who
 * waits for it in pool_give_way need not. */
void pool_rest(struct pool *p, bool answers);

#endif
