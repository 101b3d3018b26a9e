/* The compute threads: n-1 workers and whoever calls.
 *
 * A task is n_item independent items; each thread takes chunks of neighbouring items, first of its
 * own share, then of the others'. Which thread computes an item, and with which neighbours, is
 * chance: the result of an item must not depend on it (same bits rule of backend.h).
 *
 * Workers spin for some tens of microseconds after a task (the next op of a step follows within
 * one), then sleep. Of several lanes of a kind one has the workers, the others compute alone.
 *
 * Memory lanes stand back for answer lanes: while answers have tasks, they wait, and whoever works
 * alone has all threads. A memory lane that has had work for 10 ms without a rest is behind. Then
 * it waits no more, and answers and memories have half of the threads each, at their own pace: that
 * is less for an answer than all threads most of the time, but the quickest way for both together,
 * because nothing is handed over and fewer threads wait for the slowest of them. Where there are
 * more processors than threads nobody waits: answers keep all threads, a memory lane has its own.
 */
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
        double ns_per_work; /* of one thread, smoothed */
    } of[PACE_KERNELS];
    uint64_t last_us, since_us;        /* end of the last round; since when without a rest */
    uint64_t yielded_us;               /* when it last offered its processor to others */
    uint64_t n_answer, quiet_since_us; /* answer tasks seen, and since when there were no more */
};

/* Runs a task to its end on the calling thread and, if they are free and it is worth it, on the
 * workers of its half, or all. pace NULL: a task of an answer lane, which starts at once. Otherwise
 * it is cut into rounds of about 0.2 ms, and before each of them stands back as above. */
void pool_run(struct pool *p, const struct task *t, struct pace *pace);

/* The caller has nothing to do until its next task. pace NULL: an answer lane; one that does not
 * say so is believed to rest when it has no task for 0.5 ms, a memory lane after 5 ms. */
void pool_rest(struct pool *p, struct pace *pace);

#endif
