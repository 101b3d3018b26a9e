#include "kernels/cpu/pool_impl.h"

#include "kernels/base/cpu.h"
#include "tests/lib/test.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

#define ITEMS 1000

/* Counts how often each item is computed. */
struct tally {
    _Atomic uint32_t times[ITEMS];
};

static void mark(const void *arg, int32_t first, int32_t last, void *scratch)
{
    const struct tally *const *t = arg;
    *(int32_t *)scratch = first; /* the thread's own: a race if two threads shared it */
    for (int32_t i = first; i < last; i++)
        atomic_fetch_add_explicit((_Atomic uint32_t *)&(*t)->times[i], 1, memory_order_relaxed);
}

static void run_and_check(struct pool *p, int32_t n_item, uint64_t work, struct pace *pace)
{
    static _Thread_local struct tally t;
    const struct tally *arg = &t;
    char *scratch = malloc(64 * (size_t)pool_threads(p));
    assert_non_null(scratch);
    memset(&t, 0, sizeof t);
    const struct task task = {
        .fn = mark,
        .arg = &arg,
        .n_item = n_item,
        .work = work,
        .scratch = scratch,
        .scratch_bytes = 64,
    };
    pool_run(p, &task, pace);
    free(scratch);
    for (int32_t i = 0; i < ITEMS; i++)
        assert_int_equal(t.times[i], i < n_item);
}

static void every_item_once(void **state)
{
    (void)state;
    static const int threads[] = {1, 2, 3, 8};
    static const uint64_t work[] = {0, 1u << 16, 1u << 24}; /* alone, one chunk each, several */
    for (size_t i = 0; i < 4; i++) {
        struct pool *p;
        struct pace pace = {0};
        assert_ok(pool_create(&p, threads[i]));
        assert_int_equal(pool_threads(p), threads[i]);
        for (int round = 0; round < 20; round++)
            for (size_t w = 0; w < 3; w++) {
                run_and_check(p, round * round, work[w], NULL);
                run_and_check(p, ITEMS, work[w], w == 1 ? &pace : NULL);
            }
        pool_destroy(&p);
        assert_null(p);
    }
}

/* Workers fall asleep between tasks and are woken. */
static void wakes_sleeping_workers(void **state)
{
    (void)state;
    struct pool *p;
    assert_ok(pool_create(&p, 2));
    for (int round = 0; round < 5; round++) {
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        run_and_check(p, 64, 1u << 24, NULL);
    }
    pool_destroy(&p);
}

struct caller {
    struct pool *pool;
    bool memory;
    int rounds;
};

static void *call_often(void *arg)
{
    const struct caller *c = arg;
    struct pace pace = {0};
    for (int i = 0; i < c->rounds; i++)
        run_and_check(c->pool, 64 + i % 7, 1u << 20, c->memory ? &pace : NULL);
    return NULL;
}

/* Two answer lanes and a memory lane at once: each gets all of its items. */
static void several_callers(void **state)
{
    (void)state;
    struct pool *p;
    assert_ok(pool_create(&p, 2));
    struct caller c[3] = {{p, false, 200}, {p, true, 20}, {p, false, 200}};
    pthread_t t[3];
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&t[i], NULL, call_often, &c[i]), 0);
    for (int i = 0; i < 3; i++)
        pthread_join(t[i], NULL);
    pool_destroy(&p);
}

/* A memory lane with more work than anyone waits for, until `stop`. */
struct endless {
    struct pool *pool;
    _Atomic bool stop;
    _Atomic uint64_t n_task;
};

static void *remember(void *arg)
{
    struct endless *e = arg;
    struct pace pace = {0};
    while (!atomic_load(&e->stop)) {
        run_and_check(e->pool, 8, 1u << 16, &pace);
        atomic_fetch_add(&e->n_task, 1);
    }
    return NULL;
}

/* While answers follow each other, memory stands back, and lane_give_way lets it run. */
static void memory_gives_way(void **state)
{
    (void)state;
    struct pool *p;
    assert_ok(pool_create(&p, cpu_count())); /* no processor to spare */
    struct endless e = {.pool = p};
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, remember, &e), 0);
    pool_give_way(p, 200); /* nobody waits: returns */
    uint64_t done = 0;
    for (int i = 0; i < 100000 && done < 3; i++) {
        run_and_check(p, 8, 0, NULL); /* another answer task: memory sees no quiet for long */
        pool_give_way(p, 200);
        done = atomic_load(&e.n_task);
    }
    assert_true(done >= 3);
    atomic_store(&e.stop, true);
    pthread_join(t, NULL);
    pool_destroy(&p);
}

/* Does one task when it is let in, then has nothing more to do. */
static void *remember_once(void *arg)
{
    struct endless *e = arg;
    struct pace pace = {0};
    run_and_check(e->pool, 8, 1u << 16, &pace);
    atomic_fetch_add(&e->n_task, 1);
    pool_rest(e->pool, false);
    return NULL;
}

/* Who gives way for an hour goes on when the memory lane has nothing more to do. */
static void memory_rests(void **state)
{
    (void)state;
    struct pool *p;
    assert_ok(pool_create(&p, cpu_count()));
    for (int i = 0; i < 100; i++) {
        struct endless e = {.pool = p};
        pthread_t t;
        run_and_check(p, 8, 0, NULL); /* not at rest */
        assert_int_equal(pthread_create(&t, NULL, remember_once, &e), 0);
        while (atomic_load(&e.n_task) == 0) {
            run_and_check(p, 8, 0, NULL);
            pool_give_way(p, 3600000000u);
        }
        pthread_join(t, NULL);
    }
    pool_destroy(&p);
}

/* Memory works while the answer lanes rest, and stands back from the next task on. */
static void answers_rest(void **state)
{
    (void)state;
    struct pool *p;
    assert_ok(pool_create(&p, cpu_count()));
    struct endless e = {.pool = p};
    pthread_t t;
    run_and_check(p, 8, 0, NULL);
    assert_int_equal(pthread_create(&t, NULL, remember, &e), 0);
    for (uint64_t i = 1; i <= 100; i++) {
        run_and_check(p, 8, 0, NULL);
        uint64_t done = atomic_load(&e.n_task);
        pool_rest(p, true);
        while (atomic_load(&e.n_task) < done + 2)
            sched_yield();
    }
    atomic_store(&e.stop, true);
    pool_rest(p, true);
    pthread_join(t, NULL);
    pool_destroy(&p);
}

/* Two kernels: the first is slow where it is told so. */
static _Atomic int n_call;
static bool is_slow;

static void slow_kernel(const void *arg, int32_t first, int32_t last, void *scratch)
{
    (void)arg;
    (void)first;
    (void)last;
    (void)scratch;
    n_call++;
    if (is_slow)
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
}

static void fast_kernel(const void *arg, int32_t first, int32_t last, void *scratch)
{
    (void)arg;
    (void)first;
    (void)last;
    (void)scratch;
    n_call++;
}

/* Whether 100 items of a kernel run in one round, soon or later. */
static bool runs_whole(struct pool *p, struct pace *pace,
                       void (*fn)(const void *arg, int32_t first, int32_t last, void *scratch))
{
    const struct task t = {.fn = fn, .n_item = 100, .work = 1000};
    for (int i = 0; i < 1000; i++) {
        n_call = 0;
        pool_run(p, &t, pace);
        if (n_call == 1)
            return true;
    }
    return false;
}

/* A kernel that was slow once, or another one that is slow, cuts no rounds short for ever. */
static void pace_recovers(void **state)
{
    (void)state;
    struct pool *p;
    struct pace pace = {0};
    const struct task t = {.fn = slow_kernel, .n_item = 3, .work = 30};
    assert_ok(pool_create(&p, 1));
    is_slow = true;
    pool_run(p, &t, &pace);
    assert_true(runs_whole(p, &pace, fast_kernel));
    is_slow = false;
    assert_true(runs_whole(p, &pace, slow_kernel));
    pool_destroy(&p);
}

static enum rxt_status create_once(void *arg)
{
    struct pool *p;
    enum rxt_status st = pool_create(&p, *(int *)arg);
    pool_destroy(&p);
    return st;
}

static void no_memory(void **state)
{
    (void)state;
    int n_thread = 3;
    assert_survives_no_memory(create_once, &n_thread);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_item_once), cmocka_unit_test(wakes_sleeping_workers),
        cmocka_unit_test(several_callers), cmocka_unit_test(memory_gives_way),
        cmocka_unit_test(memory_rests),    cmocka_unit_test(answers_rest),
        cmocka_unit_test(pace_recovers),   cmocka_unit_test(no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
