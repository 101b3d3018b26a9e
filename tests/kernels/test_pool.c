#include "kernels/cpu/pool_impl.h"

#include "kernels/base/cpu.h"
#include "tests/lib/test.h"

#include <pthread.h>
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

/* ---- answers beside memories ---- */

#define CROWD_MOST 1024

/* Who computed items of a task. Each of them waits until there are `want`, and while `hold`: a
 * thread that has come has one item, so that all that should come must do so by themselves. */
struct crowd {
    pthread_mutex_t lock;
    pthread_t thread[CROWD_MOST];
    int n, want;
    bool hold;
};

static bool is_in(const struct crowd *c, pthread_t t)
{
    for (int i = 0; i < c->n; i++)
        if (pthread_equal(c->thread[i], t))
            return true;
    return false;
}

static int crowd_size(struct crowd *c)
{
    pthread_mutex_lock(&c->lock);
    int n = c->n;
    pthread_mutex_unlock(&c->lock);
    return n;
}

static void come(const void *arg, int32_t first, int32_t last, void *scratch)
{
    (void)first;
    (void)last;
    (void)scratch;
    struct crowd *c = *(struct crowd *const *)arg;
    pthread_mutex_lock(&c->lock);
    if (!is_in(c, pthread_self()) && c->n < CROWD_MOST)
        c->thread[c->n++] = pthread_self();
    for (int ms = 0; (c->n < c->want || c->hold) && ms < 30000; ms++) {
        pthread_mutex_unlock(&c->lock);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        pthread_mutex_lock(&c->lock);
    }
    pthread_mutex_unlock(&c->lock);
}

static void run_crowd(struct pool *p, struct crowd *c, int want, bool memory)
{
    struct pace pace = {0};
    const struct task t = {
        .fn = come, .arg = &c, .n_item = 4 * pool_threads(p), .work = (uint64_t)1 << 32};
    pthread_mutex_lock(&c->lock); /* another thread may be asking for its size already */
    c->want = want;
    c->n = 0;
    pthread_mutex_unlock(&c->lock);
    pool_run(p, &t, memory ? &pace : NULL);
}

struct held {
    struct pool *pool;
    struct crowd crowd;
    int want;
};

static void *answer(void *arg)
{
    struct held *h = arg;
    run_crowd(h->pool, &h->crowd, h->want, false);
    return NULL;
}

/* While answers and memories both have work, each has half of the threads, and other ones; whoever
 * has work alone, all of them. */
static void halves(void **state)
{
    (void)state;
    static struct crowd c = {.lock = PTHREAD_MUTEX_INITIALIZER};
    static struct held h = {.crowd.lock = PTHREAD_MUTEX_INITIALIZER};
    struct pool *p;
    int all = cpu_count() > 8 ? cpu_count() : 8; /* no processor to spare */
    assert_in_range(all, 8, CROWD_MOST);
    assert_ok(pool_create(&p, all));
    run_crowd(p, &c, all, true); /* no answer yet */
    assert_int_equal(c.n, all);

    h.pool = p;
    h.want = (all + 1) / 2;
    h.crowd.hold = true;
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, answer, &h), 0);
    while (crowd_size(&h.crowd) < h.want)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    run_crowd(p, &c, all - h.want, true);
    pthread_mutex_lock(&h.crowd.lock);
    h.crowd.hold = false;
    pthread_mutex_unlock(&h.crowd.lock);
    pthread_join(t, NULL);
    assert_int_equal(h.crowd.n, h.want);
    assert_int_equal(c.n, all - h.want);
    for (int i = 0; i < c.n; i++)
        assert_false(is_in(&h.crowd, c.thread[i]));

    run_crowd(p, &c, h.want, false); /* memories had a task since the last one */
    assert_int_equal(c.n, h.want);
    run_crowd(p, &c, all, false);
    assert_int_equal(c.n, all);
    pool_rest(p, NULL);
    run_crowd(p, &c, all, true);
    assert_int_equal(c.n, all);
    pool_destroy(&p);
}

/* Answers that follow no more, without a word. */
static void quiet_answers(void **state)
{
    (void)state;
    static struct crowd c = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct pool *p;
    struct pace pace = {0};
    int all = cpu_count() > 2 ? cpu_count() : 2;
    assert_ok(pool_create(&p, all));
    run_and_check(p, 8, 0, NULL);
    for (int i = 0; i < 3; i++) { /* sees the last answer, and later that there was no other */
        run_and_check(p, 8, 0, &pace);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    run_crowd(p, &c, all, true);
    assert_int_equal(c.n, all);
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
        cmocka_unit_test(several_callers), cmocka_unit_test(halves),
        cmocka_unit_test(quiet_answers),   cmocka_unit_test(pace_recovers),
        cmocka_unit_test(no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
