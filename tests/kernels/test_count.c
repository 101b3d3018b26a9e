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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_op_of_every_thread_is_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
