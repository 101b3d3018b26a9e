#include "kernels/base/mem.h"

#include "tests/lib/test.h"

#include <pthread.h>

/* Below and above the size from which blocks are mapped. */
static const size_t sizes[] = {1, 63, 64, 65, 4096, ((size_t)1 << 20) - 64, 3 << 20};
enum { N_SIZE = sizeof sizes / sizeof *sizes };

static bool all_bytes(const unsigned char *p, size_t n, unsigned char want)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != want)
            return false;
    return true;
}

static void blocks_are_aligned_and_zeroed(void **state)
{
    (void)state;
    for (int round = 0; round < 2; round++) { /* the second round meets used memory */
        for (int i = 0; i < N_SIZE; i++) {
            unsigned char *p = mem_alloc(sizes[i]);
            assert_non_null(p);
            assert_int_equal((uintptr_t)p % 64, 0);
            assert_true(all_bytes(p, sizes[i], 0));
            memset(p, 0xAB, sizes[i]);
            mem_free(p);
        }
    }
    mem_free(NULL);
}

static void impossible_sizes_give_null(void **state)
{
    (void)state;
    assert_null(mem_alloc(0));
    assert_null(mem_alloc(SIZE_MAX));
    assert_null(mem_alloc(SIZE_MAX / 2));
    assert_null(mem_alloc_n(SIZE_MAX / 2, 3));
    assert_null(mem_alloc_n(0, 8));
    void *p = mem_alloc_n(3, 7);
    assert_non_null(p);
    mem_free(p);
}

static void realloc_keeps_content_and_zeroes_the_tail(void **state)
{
    (void)state;
    unsigned char *p = mem_realloc(NULL, 100);
    assert_non_null(p);
    memset(p, 7, 100);
    p = mem_realloc(p, (size_t)2 << 20);
    assert_non_null(p);
    assert_true(all_bytes(p, 100, 7));
    assert_true(all_bytes(p + 100, ((size_t)2 << 20) - 100, 0));
    p = mem_realloc(p, 50);
    assert_non_null(p);
    assert_true(all_bytes(p, 50, 7));
    assert_null(mem_realloc(p, SIZE_MAX));
    assert_true(all_bytes(p, 50, 7)); /* unchanged and still ours */
    mem_free(p);
}

static void copies(void **state)
{
    (void)state;
    char *s = mem_strdup("memory"), *e = mem_strdup(""), *d = mem_dup("a\0b", 3);
    assert_string_equal(s, "memory");
    assert_string_equal(e, "");
    assert_memory_equal(d, "a\0b", 3);
    mem_free(s);
    mem_free(e);
    mem_free(d);
}

static void stats_count_what_the_caller_asked_for(void **state)
{
    (void)state;
    struct mem_stats before = mem_stats();
    void *small = mem_alloc(100), *large = mem_alloc(5 << 20);
    struct mem_stats during = mem_stats();
    assert_int_equal(during.count - before.count, 2);
    assert_int_equal(during.bytes - before.bytes, 100 + (5 << 20));
    assert_int_equal(during.live_bytes - before.live_bytes, 100 + (5 << 20));
    mem_free(small);
    mem_free(large);
    struct mem_stats after = mem_stats();
    assert_int_equal(after.live_bytes, before.live_bytes);
    assert_int_equal(after.count, during.count);
    assert_int_equal(after.bytes, during.bytes);
}

static void the_nth_allocation_and_all_later_ones_fail(void **state)
{
    (void)state;
    mem_fail_from(3);
    void *a = mem_alloc(8), *b = mem_alloc(8);
    assert_non_null(a);
    assert_non_null(b);
    assert_null(mem_alloc(8));
    assert_null(mem_dup("x", 1));
    assert_null(mem_realloc(a, 16));
    assert_true(mem_fail_never());
    void *c = mem_alloc(8);
    assert_non_null(c);
    mem_fail_from(1000);
    assert_false(mem_fail_never());
    assert_false(mem_fail_never());
    mem_free(a);
    mem_free(b);
    mem_free(c);
}

/* Three blocks in a chain, given back in reverse order wherever it breaks. */
static enum rxt_status three_blocks(void *arg)
{
    (void)arg;
    enum rxt_status st = RXT_ENOMEM;
    void *a = mem_alloc(1), *b = NULL, *c = NULL;
    if (!a || !(b = mem_alloc(2)) || !(c = mem_strdup("three")))
        goto fail;
    st = RXT_OK;
fail:
    mem_free(c);
    mem_free(b);
    mem_free(a);
    return st;
}

static void the_out_of_memory_loop_tries_every_allocation(void **state)
{
    (void)state;
    uint64_t before = mem_stats().count;
    assert_survives_no_memory(three_blocks, NULL);
    assert_int_equal(mem_stats().count - before, 0 + 1 + 2 + 3);
}

static void *churn(void *arg)
{
    for (size_t i = 0; i < 500; i++) {
        unsigned char *p = mem_alloc(1 + i % 300);
        if (!p)
            return NULL;
        p[0] = 1;
        mem_free(p);
    }
    return arg;
}

static void threads_share_the_counters(void **state)
{
    (void)state;
    enum { N = 4 };
    struct mem_stats before = mem_stats();
    pthread_t thread[N];
    for (int i = 0; i < N; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, churn, &before), 0);
    for (int i = 0; i < N; i++) {
        void *done = NULL;
        assert_int_equal(pthread_join(thread[i], &done), 0);
        assert_ptr_equal(done, &before);
    }
    assert_int_equal(mem_stats().count - before.count, N * 500);
    assert_int_equal(mem_stats().live_bytes, before.live_bytes);
}

static void *alloc_elsewhere(void *arg)
{
    void **out = arg;
    *out = mem_alloc(8);
    return NULL;
}

static void hot_is_a_state_of_one_thread_and_nests(void **state)
{
    (void)state;
    hot_enter();
    hot_enter();
    hot_leave();
    pthread_t thread;
    void *p = NULL;
    assert_int_equal(pthread_create(&thread, NULL, alloc_elsewhere, &p), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    hot_leave();
    assert_non_null(p);
    mem_free(p);
    p = mem_alloc(8);
    assert_non_null(p);
    mem_free(p);
}

#ifdef RXT_DEBUG
static void alloc_while_hot(void *arg)
{
    (void)arg;
    hot_enter();
    hot_enter();
    hot_leave();
    mem_free(mem_alloc(8));
}

static void leave_without_enter(void *arg)
{
    (void)arg;
    hot_leave();
}

static void a_debug_build_aborts_on_the_hot_path(void **state)
{
    (void)state;
    assert_aborts(alloc_while_hot, NULL);
    assert_aborts(leave_without_enter, NULL);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_are_aligned_and_zeroed),
        cmocka_unit_test(impossible_sizes_give_null),
        cmocka_unit_test(realloc_keeps_content_and_zeroes_the_tail),
        cmocka_unit_test(copies),
        cmocka_unit_test(stats_count_what_the_caller_asked_for),
        cmocka_unit_test(the_nth_allocation_and_all_later_ones_fail),
        cmocka_unit_test(the_out_of_memory_loop_tries_every_allocation),
        cmocka_unit_test(threads_share_the_counters),
        cmocka_unit_test(hot_is_a_state_of_one_thread_and_nests),
#ifdef RXT_DEBUG
        cmocka_unit_test(a_debug_build_aborts_on_the_hot_path),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
