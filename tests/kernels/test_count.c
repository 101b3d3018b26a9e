#include "kernels/base/count.h"

#include "tests/lib/test.h"

#include <pthread.h>

static void *count_a_little(void *arg)
{
    (void)arg;
    for (int i = 0; i < 1000; i++) {
        count_op(3, 5);
        count_step(i % 4 == 0);
    }
    return NULL;
}

static void every_op_of_every_thread_is_counted(void **state)
{
    (void)state;
    enum { N = 4 };
    pthread_t thread[N];
    struct count before = count_read();
    for (int i = 0; i < N; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, count_a_little, NULL), 0);
    for (int i = 0; i < N; i++)
        assert_int_equal(pthread_join(thread[i], NULL), 0);
    struct count after = count_read();
    assert_int_equal(after.ops - before.ops, N * 1000);
    assert_int_equal(after.flops - before.flops, N * 3000);
    assert_int_equal(after.bytes - before.bytes, N * 5000);
    assert_int_equal(after.steps - before.steps, N * 1000);
    assert_int_equal(after.replayed - before.replayed, N * 250);
}

/* Each expert once, however often it was chosen; also where there are many. */
static void experts_are_counted_once(void **state)
{
    (void)state;
    const int32_t chosen[] = {3, 0, 3, 4095, 4096, -1, 9999, 3, 64};
    assert_false(count_experts_wanted());
    count_experts_want(true);
    assert_true(count_experts_wanted());
    count_experts_want(false);
    assert_false(count_experts_wanted());
    struct count before = count_read();
    count_experts(chosen, 9, 10000);
    count_experts(chosen, 3, 8);
    struct count after = count_read();
    assert_int_equal(after.experts - before.experts, 10008);
    assert_int_equal(after.experts_read - before.experts_read, 6 + 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_op_of_every_thread_is_counted),
        cmocka_unit_test(experts_are_counted_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
